package inspect

import (
	"encoding/hex"
	"fmt"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// groupsLevel is the feature level from which a snapshot has groups.
var groupsLevel = entry.Level(&entry.ClaimSlot{})

// SnapshotGroups counts what a snapshot has of consumer groups.
type SnapshotGroups struct {
	Groups           int `json:"groups"`
	Members          int `json:"group_members"`
	CommittedOffsets int `json:"committed_offsets"`
	SlotsClaimed     int `json:"slots_claimed"`
}

// SnapshotSlot says who coordinates the groups of a slot. A slot that was never claimed is not printed.
type SnapshotSlot struct {
	Type   string `json:"type"`
	Slot   int    `json:"slot"`
	Owner  string `json:"owner"` // incarnation
	Agent  string `json:"agent"` // its name; "" where it is not joined any more
	Epoch  uint64 `json:"coordinator_epoch"`
	Groups int    `json:"groups"`
}

// SnapshotGroup is one consumer group. Records are those of the coordinator (base64 in JSON).
type SnapshotGroup struct {
	Type       string `json:"type"`
	Group      string `json:"group"`
	Slot       int    `json:"slot"`
	Kind       string `json:"kind"` // simple, classic, consumer
	Generation int32  `json:"generation"`
	Complete   bool   `json:"complete"`
	UpdatedMs  int64  `json:"updated_ms"` // made, or last updated
	Members    int    `json:"members"`
	Offsets    int    `json:"offsets"`
	Record     []byte `json:"record,omitempty"`
}

// SnapshotMember is a member of a group.
type SnapshotMember struct {
	Type   string `json:"type"`
	Group  string `json:"group"`
	Member string `json:"member"`
	Record []byte `json:"record,omitempty"`
}

// SnapshotOffset is an offset that a group committed.
type SnapshotOffset struct {
	Type        string `json:"type"`
	Group       string `json:"group"`
	Topic       string `json:"topic"`
	TopicID     string `json:"topic_id"`
	Partition   int32  `json:"partition"`
	Offset      int64  `json:"offset"`
	LeaderEpoch int32  `json:"leader_epoch"` // -1: none
	Metadata    string `json:"metadata,omitempty"`
	CommitMs    int64  `json:"commit_ms"`
	ExpireMs    int64  `json:"expire_ms"` // -1: by the group's retention
}

func groupsView(st *state.State) *SnapshotGroups {
	v := &SnapshotGroups{Groups: st.GroupCount(), CommittedOffsets: st.OffsetCount()}
	for i := range state.Slots {
		if st.Slot(i).Epoch > 0 {
			v.SlotsClaimed++
		}
		for g := range st.GroupsOf(i) {
			v.Members += g.MemberCount()
		}
	}
	return v
}

func putGroups(st *state.State, opts SnapshotOptions, out *Out) error {
	if opts.Slots {
		for i := range state.Slots {
			slot := st.Slot(i)
			if slot.Epoch == 0 {
				continue
			}
			owner, _ := st.AgentByIncarnation(slot.Owner)
			v := &SnapshotSlot{Type: "slot", Slot: i, Owner: hex.EncodeToString(slot.Owner[:]), Agent: owner.Name, Epoch: slot.Epoch}
			for range st.GroupsOf(i) {
				v.Groups++
			}
			if err := out.put(v); err != nil {
				return err
			}
		}
	}
	switch opts.Group {
	case "":
		return nil
	case "*":
		for g := range st.Groups() {
			if err := putGroup(st, g, out); err != nil {
				return err
			}
		}
		return nil
	}
	g := st.Group(opts.Group)
	if g == nil {
		return fmt.Errorf("%w: the snapshot has no group %q", ErrUnreadable, opts.Group)
	}
	return putGroup(st, g, out)
}

func putGroup(st *state.State, g *state.Group, out *Out) error {
	v := &SnapshotGroup{Type: "group", Group: g.ID, Slot: g.Slot, Kind: groupKinds[g.Kind], Generation: g.Generation, Complete: g.Complete, UpdatedMs: g.UpdatedMs,
		Members: g.MemberCount(), Offsets: g.OffsetCount(), Record: g.Record}
	if err := out.put(v); err != nil {
		return err
	}
	for id, record := range g.Members() {
		if err := out.put(&SnapshotMember{Type: "member", Group: g.ID, Member: id, Record: record}); err != nil {
			return err
		}
	}
	for o := range g.Offsets() {
		v := &SnapshotOffset{Type: "committed_offset", Group: g.ID, Topic: st.TopicByID(o.Topic).Name, TopicID: o.Topic.String(), Partition: o.Partition,
			Offset: o.Offset, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata, CommitMs: o.CommitMs, ExpireMs: o.ExpireMs}
		if err := out.put(v); err != nil {
			return err
		}
	}
	return nil
}

func (v *SnapshotSlot) text() string {
	owner := fmt.Sprintf("%q", v.Agent)
	if v.Agent == "" {
		owner = "an agent that left"
	}
	return fmt.Sprintf("slot     %d: %s, incarnation %s, coordinator epoch %d, %d %s", v.Slot, owner, v.Owner, v.Epoch, v.Groups, plural(v.Groups, "group"))
}

func (v *SnapshotGroup) text() string {
	s := fmt.Sprintf("group    %q: %s, slot %d, generation %d, %d %s, %d %s, record of %d bytes, updated %s", v.Group, v.Kind, v.Slot, v.Generation, v.Members,
		plural(v.Members, "member"), v.Offsets, plural(v.Offsets, "offset"), len(v.Record), moment(v.UpdatedMs))
	if !v.Complete {
		s += ", its last change was not completed"
	}
	return s
}

func (v *SnapshotMember) text() string {
	return fmt.Sprintf("  member %q, record of %d bytes", v.Member, len(v.Record))
}

func (v *SnapshotOffset) text() string {
	s := fmt.Sprintf("  topic %s, partition %d: offset %d, leader epoch %d, committed %s", topicText(v.Topic, v.TopicID), v.Partition, v.Offset, v.LeaderEpoch, moment(v.CommitMs))
	if v.Metadata != "" {
		s += fmt.Sprintf(", metadata %q", v.Metadata)
	}
	if v.ExpireMs >= 0 {
		s += ", expires " + moment(v.ExpireMs)
	}
	return s
}
