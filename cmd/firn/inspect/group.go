package inspect

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/firnlog/firn/metastore/entry"
)

// GroupOp is what the ops of consumer groups have beside a name. Records are those of the coordinator (base64 in JSON).
type GroupOp struct {
	Slot       uint32          `json:"slot"`
	Epoch      uint64          `json:"coordinator_epoch"`
	Owner      string          `json:"owner,omitempty"` // claim_slot: incarnation
	Group      string          `json:"group,omitempty"`
	Generation *int32          `json:"generation,omitempty"` // update_group, commit_offsets; -1: only while the group has no members
	Kind       string          `json:"kind,omitempty"`       // update_group: simple, classic, consumer
	Record     []byte          `json:"record,omitempty"`
	Puts       []GroupMember   `json:"puts,omitempty"`
	Removes    []string        `json:"removes,omitempty"`
	Complete   *bool           `json:"complete,omitempty"`
	Offsets    []GroupOffsetOp `json:"offsets,omitempty"`      // commit_offsets, delete_offsets
	NotAfterMs *int64          `json:"not_after_ms,omitempty"` // delete_offsets; 0: whenever they were committed
}

// GroupMember is a member and its record.
type GroupMember struct {
	ID     string `json:"id"`
	Record []byte `json:"record,omitempty"`
}

// GroupOffsetOp is an offset that is committed, or the partition of one that is deleted.
type GroupOffsetOp struct {
	Topic       string `json:"topic,omitempty"`
	TopicID     string `json:"topic_id"`
	Partition   uint32 `json:"partition"`
	Offset      *int64 `json:"offset,omitempty"`
	LeaderEpoch *int32 `json:"leader_epoch,omitempty"` // -1: none
	Metadata    string `json:"metadata,omitempty"`
	ExpireMs    *int64 `json:"expire_ms,omitempty"` // -1: by the group's retention
}

var groupKinds = map[uint32]string{entry.GroupSimple: "simple", entry.GroupClassic: "classic", entry.GroupConsumer: "consumer"}

// groupOp is nil where the op is not one of groups.
func groupOp(op entry.Op, names Names) *Op {
	switch op := op.(type) {
	case *entry.ClaimSlot:
		return &Op{Op: "claim_slot", GroupOp: &GroupOp{Slot: op.Slot, Epoch: op.Epoch, Owner: hex.EncodeToString(op.Owner[:])}}
	case *entry.UpdateGroup:
		v := &GroupOp{Slot: op.Slot, Epoch: op.Epoch, Group: op.Group, Generation: &op.Generation, Kind: groupKinds[op.Kind], Record: op.Record,
			Removes: op.Removes, Complete: &op.Complete}
		for _, m := range op.Puts {
			v.Puts = append(v.Puts, GroupMember(m))
		}
		return &Op{Op: "update_group", GroupOp: v}
	case *entry.CommitOffsets:
		v := &GroupOp{Slot: op.Slot, Epoch: op.Epoch, Group: op.Group, Generation: &op.Generation}
		for i := range op.Offsets {
			o := &op.Offsets[i]
			v.Offsets = append(v.Offsets, GroupOffsetOp{Topic: names(o.Topic), TopicID: o.Topic.String(), Partition: o.Partition, Offset: &o.Offset,
				LeaderEpoch: &o.LeaderEpoch, Metadata: o.Metadata, ExpireMs: &o.ExpireMs})
		}
		return &Op{Op: "commit_offsets", GroupOp: v}
	case *entry.DeleteOffsets:
		v := &GroupOp{Slot: op.Slot, Epoch: op.Epoch, Group: op.Group, NotAfterMs: &op.NotAfterMs}
		for _, o := range op.Offsets {
			v.Offsets = append(v.Offsets, GroupOffsetOp{Topic: names(o.Topic), TopicID: o.Topic.String(), Partition: o.Partition})
		}
		return &Op{Op: "delete_offsets", GroupOp: v}
	case *entry.DeleteGroup:
		return &Op{Op: "delete_group", GroupOp: &GroupOp{Slot: op.Slot, Epoch: op.Epoch, Group: op.Group}}
	}
	return nil
}

// lines is a group's op for people, behind its name.
func (v *GroupOp) lines(b *strings.Builder) {
	if v.Group != "" {
		fmt.Fprintf(b, " group %q,", v.Group)
	}
	fmt.Fprintf(b, " slot %d, coordinator epoch %d", v.Slot, v.Epoch)
	if v.Owner != "" {
		fmt.Fprintf(b, ", for incarnation %s", v.Owner)
	}
	if v.Kind != "" {
		fmt.Fprintf(b, ", %s", v.Kind)
	}
	if v.Generation != nil {
		fmt.Fprintf(b, ", generation %d", *v.Generation)
	}
	if v.Complete != nil {
		fmt.Fprintf(b, ", record of %d bytes", len(v.Record))
		if !*v.Complete {
			b.WriteString(", to be continued")
		}
	}
	if v.NotAfterMs != nil && *v.NotAfterMs > 0 {
		fmt.Fprintf(b, ", only what was committed up to %s", moment(*v.NotAfterMs))
	}
	for _, id := range v.Removes {
		fmt.Fprintf(b, "\n    without  member %q", id)
	}
	for _, m := range v.Puts {
		fmt.Fprintf(b, "\n    with     member %q, record of %d bytes", m.ID, len(m.Record))
	}
	for _, o := range v.Offsets {
		fmt.Fprintf(b, "\n    topic %s, partition %d", topicText(o.Topic, o.TopicID), o.Partition)
		if o.Offset == nil {
			continue
		}
		fmt.Fprintf(b, ": offset %d, leader epoch %d", *o.Offset, *o.LeaderEpoch)
		if o.Metadata != "" {
			fmt.Fprintf(b, ", metadata %q", o.Metadata)
		}
		if *o.ExpireMs >= 0 {
			fmt.Fprintf(b, ", expires %s", moment(*o.ExpireMs))
		}
	}
}
