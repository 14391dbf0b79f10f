package inspect

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/firnlog/firn/metastore/state"
)

// SnapshotOptions say how deep to go.
type SnapshotOptions struct {
	Topic     string // print the partitions of this topic; "*" for all
	Rows      bool   // and their rows
	Producers bool   // and their producers
	Live      bool   // print the objects that rows name
	Objects   bool   // print retired objects
	Group     string // print this group, its members and offsets; "*" for all
	Slots     bool   // print who owns the slots of groups
	// SHA256 is what the pointer says of the object, hex; "" where it is not known.
	SHA256 string
}

// Snapshot is a snapshot as a whole.
type Snapshot struct {
	Type            string          `json:"type"`
	Name            string          `json:"name"`
	Size            int64           `json:"size"`
	Version         int             `json:"version"`
	SHA256          string          `json:"sha256"`
	LogID           string          `json:"log_id"`
	Epoch           uint64          `json:"log_epoch"`
	Base            uint64          `json:"base_n"`
	N               uint64          `json:"n"`
	ChainHash       string          `json:"chain_hash"`
	LogTime         int64           `json:"log_time_ms"`
	FeatureLevel    uint32          `json:"feature_level"`
	CollectionEpoch uint64          `json:"collection_epoch"`
	Agents          []SnapshotAgent `json:"agents"`
	Configs         []Setting       `json:"cluster_configs,omitempty"`
	Topics          int             `json:"topics"`
	Partitions      int             `json:"partitions"`
	Rows            int             `json:"rows"`
	Producers       int             `json:"producers"`
	Objects         int             `json:"objects"`
	PendingObjects  int             `json:"pending_objects"`
	RetiredObjects  int             `json:"retired_objects"`
	MergedObjects   int             `json:"merged_objects,omitempty"` // from version 4 on
	*SnapshotGroups                 // from version 3 on
}

// SnapshotAgent is a joined agent.
type SnapshotAgent struct {
	Name        string   `json:"name"`
	NodeID      int32    `json:"node_id"`
	Incarnation string   `json:"incarnation"`
	Listeners   []string `json:"listeners"`
	Zone        string   `json:"zone"`
	Version     string   `json:"version"`
	LastSeq     uint64   `json:"last_seq"`
	JoinedN     uint64   `json:"joined_n"`
}

// SnapshotTopic is one topic.
type SnapshotTopic struct {
	Type              string    `json:"type"`
	Topic             string    `json:"topic"`
	ID                string    `json:"topic_id"`
	CreatedN          uint64    `json:"created_n"`
	Partitions        int       `json:"partitions"`
	ReplicationFactor uint32    `json:"replication_factor"`
	Configs           []Setting `json:"configs,omitempty"`
	Rows              int       `json:"rows"`
	RawSize           int64     `json:"raw_size"`
	Offsets           int64     `json:"offsets"` // from the log starts to the next offsets
	GivenUp           int64     `json:"given_up,omitempty"`
}

// SnapshotPartition is one partition.
type SnapshotPartition struct {
	Type       string `json:"type"`
	Topic      string `json:"topic"`
	Partition  int    `json:"partition"`
	LogStart   int64  `json:"log_start_offset"`
	NextOffset int64  `json:"next_offset"`
	RawSize    int64  `json:"raw_size"`
	Rows       int    `json:"rows"`
	Producers  int    `json:"producers"`
	// LeaderEpochs says from which offset on records are of which leader epoch; none: all of epoch 0.
	LeaderEpochs []LeaderEpoch `json:"leader_epochs,omitempty"`
}

// LeaderEpoch begins at an offset.
type LeaderEpoch struct {
	Epoch int32 `json:"epoch"`
	Start int64 `json:"start_offset"`
}

// SnapshotRow says where offsets are.
type SnapshotRow struct {
	Type          string `json:"type"`
	Topic         string `json:"topic"`
	Partition     int    `json:"partition"`
	BaseOffset    int64  `json:"base_offset"`
	EndOffset     int64  `json:"end_offset"`
	Object        string `json:"object"`
	ObjectSize    int64  `json:"object_size"`
	InWALOf       string `json:"in_wal_of,omitempty"` // incarnation
	Block         uint32 `json:"block"`
	Position      int64  `json:"position"` // raw, in the block
	Size          int64  `json:"size"`     // raw
	MaxTimestamp  int64  `json:"max_timestamp_ms"`
	LogAppendTime bool   `json:"log_append_time,omitempty"`
	Cleaned       bool   `json:"cleaned,omitempty"` // key compaction has been over it
}

// SnapshotProducer is what is known of a producer in a partition.
type SnapshotProducer struct {
	Type         string `json:"type"`
	Topic        string `json:"topic"`
	Partition    int    `json:"partition"`
	ProducerID   int64  `json:"producer_id"`
	Epoch        int16  `json:"producer_epoch"`
	LastSequence int32  `json:"last_sequence"`
	LastOffset   int64  `json:"last_offset"`
	LastSeen     int64  `json:"last_seen_ms"`
}

// LiveObject is an object that rows name.
type LiveObject struct {
	Type            string `json:"type"`
	Object          string `json:"object"`
	Size            int64  `json:"size"`
	BornN           uint64 `json:"born_n,omitempty"` // the entry that first named it; 0 where that was below feature level 3
	Pending         bool   `json:"pending,omitempty"`
	CollectionEpoch uint64 `json:"collection_epoch"`
}

// RetiredObject is an object that no row names any more.
type RetiredObject struct {
	Type            string `json:"type"`
	Object          string `json:"object"`
	Size            int64  `json:"size"`
	N               uint64 `json:"n"`
	CollectionEpoch uint64 `json:"collection_epoch"`
}

// snapshotBytesMax keeps a wrong file from taking the machine's memory; a snapshot of a million partitions is far smaller.
const snapshotBytesMax = 8 << 30

// ReadSnapshot prints a snapshot. It needs memory in proportion to the snapshot: what an agent needs.
func ReadSnapshot(in *Input, opts SnapshotOptions, out *Out) error {
	head := make([]byte, min(9, in.Size))
	if err := in.fill(head, 0); err != nil {
		return err
	}
	if sniff(head) != "snapshot" {
		return in.wrong("snapshot")
	}
	b, err := in.whole(snapshotBytesMax)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	digest := hex.EncodeToString(sum[:])
	if opts.SHA256 != "" && !strings.EqualFold(opts.SHA256, digest) {
		d := &Damage{Type: "damage", Name: in.Name, Part: "snapshot", Size: in.Size, Problem: "SHA-256 differs", Want: opts.SHA256, Got: digest}
		if err := out.put(d); err != nil {
			return err
		}
	}
	st, err := state.Load(b)
	var at *state.DamageError
	switch {
	case errors.As(err, &at):
		if err := damagedSnapshot(in, b, at, out); err != nil {
			return err
		}
		return out.end("snapshot", in.Name)
	case err != nil:
		return fmt.Errorf("%w %s: %w; run a newer firn", ErrUnreadable, in.Name, err)
	}
	if err := out.put(snapshotView(in, head, digest, st)); err != nil {
		return err
	}
	if err := putTopics(st, opts, out); err != nil {
		return err
	}
	if err := putGroups(st, opts, out); err != nil {
		return err
	}
	return out.end("snapshot", in.Name)
}

// damagedSnapshot says where the damage is. Where the checksum differs, the snapshot is read once more as if it did not: the
// first part that no writer writes is close behind the damage.
func damagedSnapshot(in *Input, b []byte, at *state.DamageError, out *Out) error {
	d := &Damage{Type: "damage", Name: in.Name, Part: at.Part, Position: int64(at.Position), Problem: at.Reason}
	if at.Part != "checksum" {
		return out.put(d)
	}
	d.Size = 4
	body, stored := b[:len(b)-4], b[len(b)-4:]
	got := crc32.Checksum(body, castagnoli)
	d.Problem, d.Want, d.Got = "CRC32C of all before differs", crcText(binary.LittleEndian.Uint32(stored)), crcText(got)
	if err := out.put(d); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(stored, got)
	_, err := state.Load(b)
	if errors.As(err, &at) {
		return out.put(&Damage{Type: "damage", Name: in.Name, Part: at.Part, Position: int64(at.Position), Problem: at.Reason + "; what is damaged lies here or before"})
	}
	if err != nil {
		return out.note("it does not say where: read as if it held, the snapshot gives: %v", err)
	}
	return out.note("every part can be read, so the damage lies inside a value, or in the checksum itself")
}

func snapshotView(in *Input, head []byte, digest string, st *state.State) *Snapshot {
	id, hash := st.Identity(), st.ChainHash()
	v := &Snapshot{
		Type: "snapshot", Name: in.Name, Size: in.Size, Version: int(head[8]), SHA256: digest, LogID: hex.EncodeToString(id.ID[:]), Epoch: id.Epoch, Base: id.Base,
		N: st.N(), ChainHash: hex.EncodeToString(hash[:]), LogTime: st.LogTime(), FeatureLevel: st.FeatureLevel(), CollectionEpoch: st.CollectionEpoch(),
		Topics: st.TopicCount(), Partitions: st.PartitionCount(), RetiredObjects: len(st.Retired()), Agents: []SnapshotAgent{},
	}
	v.Objects, v.PendingObjects = st.ObjectCount()
	for o := range st.ObjectTable() {
		if o.ID.Merged() {
			v.MergedObjects++
		}
	}
	for _, a := range st.Agents() {
		agent := SnapshotAgent{Name: a.Name, NodeID: a.NodeID, Incarnation: hex.EncodeToString(a.Incarnation[:]), Zone: a.Zone, Version: a.Version,
			LastSeq: a.LastSeq, JoinedN: a.JoinedN, Listeners: []string{}}
		for _, l := range a.Listeners {
			agent.Listeners = append(agent.Listeners, fmt.Sprintf("%s=%s:%d", l.Name, l.Host, l.Port))
		}
		v.Agents = append(v.Agents, agent)
	}
	for _, c := range st.BrokerConfigs() {
		v.Configs = append(v.Configs, Setting{Name: c.Name, Value: c.Value})
	}
	var producers []state.ProducerInfo
	for t := range st.Topics() {
		for i := range t.Partitions() {
			producers = t.Partition(i).Producers(producers[:0])
			v.Rows += t.Partition(i).RowCount()
			v.Producers += len(producers)
		}
	}
	if st.FeatureLevel() >= groupsLevel {
		v.SnapshotGroups = groupsView(st)
	}
	return v
}

func putTopics(st *state.State, opts SnapshotOptions, out *Out) error {
	found := false
	for t := range st.Topics() {
		v := &SnapshotTopic{Type: "topic", Topic: t.Name, ID: t.ID.String(), CreatedN: t.CreatedN, Partitions: t.Partitions(),
			ReplicationFactor: t.ReplicationFactor, GivenUp: t.GivenUp()}
		for _, c := range t.Configs {
			v.Configs = append(v.Configs, Setting{Name: c.Name, Value: c.Value})
		}
		for i := range t.Partitions() {
			p := t.Partition(i)
			v.Rows += p.RowCount()
			v.RawSize += p.Size()
			v.Offsets += p.Next() - p.LogStart()
		}
		if err := out.put(v); err != nil {
			return err
		}
		if opts.Topic != t.Name && opts.Topic != "*" {
			continue
		}
		found = true
		for i := range t.Partitions() {
			if err := putPartition(t, i, opts, out); err != nil {
				return err
			}
		}
	}
	if opts.Topic != "" && opts.Topic != "*" && !found {
		return fmt.Errorf("%w: the snapshot has no topic %q", ErrUnreadable, opts.Topic)
	}
	if opts.Live {
		if err := putObjects(st, out); err != nil {
			return err
		}
	}
	if !opts.Objects {
		return nil
	}
	for _, o := range st.Retired() {
		if err := out.put(&RetiredObject{Type: "retired_object", Object: o.Object.Key(), Size: o.Size, N: o.N, CollectionEpoch: o.Object.CollectionEpoch}); err != nil {
			return err
		}
	}
	return nil
}

// putObjects prints the objects that rows name, the oldest first.
func putObjects(st *state.State, out *Out) error {
	objects := slices.SortedFunc(st.ObjectTable(), func(a, b state.Object) int {
		return cmp.Or(cmp.Compare(a.Born, b.Born), a.ID.Compare(b.ID))
	})
	for _, o := range objects {
		v := &LiveObject{Type: "object", Object: o.ID.Key(), Size: o.Size, BornN: o.Born, Pending: o.Pending, CollectionEpoch: o.ID.CollectionEpoch}
		if err := out.put(v); err != nil {
			return err
		}
	}
	return nil
}

func putPartition(t *state.Topic, i int, opts SnapshotOptions, out *Out) error {
	p := t.Partition(i)
	producers := p.Producers(nil)
	v := &SnapshotPartition{Type: "partition", Topic: t.Name, Partition: i, LogStart: p.LogStart(), NextOffset: p.Next(), RawSize: p.Size(),
		Rows: p.RowCount(), Producers: len(producers)}
	for _, x := range p.Epochs(nil) {
		v.LeaderEpochs = append(v.LeaderEpochs, LeaderEpoch{Epoch: x.Epoch, Start: x.Start})
	}
	if err := out.put(v); err != nil {
		return err
	}
	if opts.Rows {
		var rows []state.Row
		for from := p.LogStart(); ; from = rows[len(rows)-1].End {
			if rows = p.Rows(from, 1000, rows[:0]); len(rows) == 0 {
				break
			}
			for _, r := range rows {
				v := &SnapshotRow{Type: "row", Topic: t.Name, Partition: i, BaseOffset: r.Base, EndOffset: r.End, Object: r.Object.Key(), ObjectSize: r.ObjectSize,
					Block: r.Block, Position: r.Position, Size: r.Size, MaxTimestamp: r.MaxTimestamp, LogAppendTime: r.LogAppendTime, Cleaned: r.Cleaned}
				if r.InWAL {
					v.InWALOf = hex.EncodeToString(r.Holder[:])
				}
				if err := out.put(v); err != nil {
					return err
				}
			}
		}
	}
	if !opts.Producers {
		return nil
	}
	for _, x := range producers {
		err := out.put(&SnapshotProducer{Type: "producer", Topic: t.Name, Partition: i, ProducerID: x.ID, Epoch: x.Epoch, LastSequence: x.LastSequence,
			LastOffset: x.LastOffset, LastSeen: x.LastSeenMs})
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *Snapshot) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "snapshot %s: %d bytes, version %d, SHA-256 %s", v.Name, v.Size, v.Version, v.SHA256)
	fmt.Fprintf(&b, "\nlog      %s, epoch %d from n=%d, at n=%d, chain hash %s", v.LogID, v.Epoch, v.Base, v.N, v.ChainHash)
	fmt.Fprintf(&b, "\nstate    log time %s, feature level %d, collection epoch %d", moment(v.LogTime), v.FeatureLevel, v.CollectionEpoch)
	fmt.Fprintf(&b, "\n         %d topics, %d partitions, %d rows, %d producers, %d objects (%d of them in WALs), %d retired", v.Topics, v.Partitions, v.Rows, v.Producers,
		v.Objects, v.PendingObjects, v.RetiredObjects)
	if v.MergedObjects > 0 {
		fmt.Fprintf(&b, "; %d of the objects merged", v.MergedObjects)
	}
	if g := v.SnapshotGroups; g != nil {
		fmt.Fprintf(&b, "\n         %d groups, %d members, %d committed offsets, %d of %d slots claimed", g.Groups, g.Members, g.CommittedOffsets, g.SlotsClaimed, state.Slots)
	}
	for _, c := range v.Configs {
		fmt.Fprintf(&b, "\nconfig   %s=%q", c.Name, c.Value)
	}
	for _, a := range v.Agents {
		fmt.Fprintf(&b, "\nagent    %q, node id %d, incarnation %s, %s, zone %q, version %q, last seq %d, joined at n=%d", a.Name, a.NodeID, a.Incarnation,
			strings.Join(a.Listeners, " "), a.Zone, a.Version, a.LastSeq, a.JoinedN)
	}
	return b.String()
}

func (v *SnapshotTopic) text() string {
	s := fmt.Sprintf("topic    %q (%s): %d partitions, %d rows, %d offsets, %d raw bytes, made at n=%d, replication factor %d", v.Topic, v.ID, v.Partitions, v.Rows,
		v.Offsets, v.RawSize, v.CreatedN, v.ReplicationFactor)
	if v.GivenUp > 0 {
		s += fmt.Sprintf(", %d offsets given up", v.GivenUp)
	}
	for _, c := range v.Configs {
		s += fmt.Sprintf(", %s=%q", c.Name, c.Value)
	}
	return s
}

func (v *SnapshotPartition) text() string {
	s := fmt.Sprintf("  partition %d: offsets %d to %d (exclusive), %d raw bytes, %d rows, %d producers", v.Partition, v.LogStart, v.NextOffset, v.RawSize, v.Rows, v.Producers)
	for _, x := range v.LeaderEpochs {
		s += fmt.Sprintf(", leader epoch %d from offset %d", x.Epoch, x.Start)
	}
	return s
}

func (v *SnapshotRow) text() string {
	s := fmt.Sprintf("    offsets %d to %d: object %s (%d bytes), block %d, %d raw bytes from position %d, max timestamp %s", v.BaseOffset, v.EndOffset, v.Object,
		v.ObjectSize, v.Block, v.Size, v.Position, moment(v.MaxTimestamp))
	if v.LogAppendTime {
		s += " (log append time)"
	}
	if v.Cleaned {
		s += ", key compacted"
	}
	if v.InWALOf != "" {
		s += ", in the WAL of " + v.InWALOf
	}
	return s
}

func (v *SnapshotProducer) text() string {
	return fmt.Sprintf("    producer %d, epoch %d: last sequence %d at offset %d, seen %s", v.ProducerID, v.Epoch, v.LastSequence, v.LastOffset, moment(v.LastSeen))
}

func (v *LiveObject) text() string {
	s := fmt.Sprintf("object   %s (%d bytes)", v.Object, v.Size)
	if v.BornN > 0 {
		s += fmt.Sprintf(", first named at n=%d", v.BornN)
	}
	if v.Pending {
		s += ", in a WAL"
	}
	return s
}

func (v *RetiredObject) text() string {
	return fmt.Sprintf("retired  %s (%d bytes) at n=%d, collection epoch %d", v.Object, v.Size, v.N, v.CollectionEpoch)
}
