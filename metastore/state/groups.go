package state

import (
	"cmp"
	"iter"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
)

// Slots is how many parts the consumer groups are split into. Each part has one owner, who coordinates its groups.
const Slots = 64

// groupsLevel is the feature level from which there are slots and groups.
const groupsLevel = 2

// Slot says who coordinates the groups of one slot.
type Slot struct {
	Owner [16]byte // incarnation that claimed it, joined or not; zero: nobody yet
	Epoch uint64   // coordinator epoch: n of the claim; 0 before the first
}

// SlotOf is the slot of a group: FNV-1a (64 bits) of its id, modulo Slots.
func SlotOf(group string) int {
	h := uint64(14695981039346656037)
	for i := range len(group) {
		h = (h ^ uint64(group[i])) * 1099511628211
	}
	return int(h % Slots)
}

// Group is one consumer group. It is valid under the owner's read lock; Record and the members' records are replaced,
// never modified, and may be kept.
type Group struct {
	ID         string
	Slot       int
	Kind       uint32 // entry.GroupSimple, GroupClassic or GroupConsumer
	Generation int32
	Record     []byte // the coordinator's
	Complete   bool   // false: an update was to go on in a later op, which has not come
	UpdatedMs  int64  // log time when it was made or last updated; of a group without members, since when it has none

	members []entry.GroupMember // sorted by id
	topics  []groupTopic        // sorted by the topic's id; none is empty
	// changedN is the entry whose results name this group; not part of the state.
	changedN uint64
}

// groupTopic holds what a group committed for one topic.
type groupTopic struct {
	topic   *Topic
	offsets []offset // sorted by partition
}

// offset is 32 bytes: most have neither metadata nor a time of their own to expire at.
type offset struct {
	offset      int64
	commitMs    int64
	partition   int32
	leaderEpoch int32
	more        *offsetMore // nil: no metadata, no expiry
}

type offsetMore struct {
	metadata string
	expireMs int64
}

// Offset is what a group committed for a partition.
type Offset struct {
	Topic       entry.UUID
	Partition   int32
	Offset      int64
	LeaderEpoch int32 // -1: none
	Metadata    string
	CommitMs    int64 // log time of the commit
	ExpireMs    int64 // as the client asked; -1: by the group's retention
}

type groups struct {
	slots   [Slots]groupSlot
	count   int
	offsets int
	more    int   // offsets that have an offsetMore
	bytes   int64 // of ids, records and metadata
}

type groupSlot struct {
	Slot
	groups []*Group // sorted by id
}

// find returns the group, or nil and where it would be among those of its slot.
func (x *groupSlot) find(id string) (*Group, int) {
	at, ok := slices.BinarySearchFunc(x.groups, id, func(g *Group, id string) int { return cmp.Compare(g.ID, id) })
	if !ok {
		return nil, at
	}
	return x.groups[at], at
}

// Slot says who owns slot i, which is 0 to Slots-1.
func (s *State) Slot(i int) Slot { return s.groups.slots[i].Slot }

// Group returns nil where there is no such group.
func (s *State) Group(id string) *Group {
	g, _ := s.groups.slots[SlotOf(id)].find(id)
	return g
}

// GroupsOf yields the groups of a slot in order of their ids.
func (s *State) GroupsOf(slot int) iter.Seq[*Group] {
	return slices.Values(s.groups.slots[slot].groups)
}

// Groups yields all groups in order of their ids. It sorts them first: where the order does not matter, use GroupsOf.
func (s *State) Groups() iter.Seq[*Group] {
	all := make([]*Group, 0, s.groups.count)
	for i := range s.groups.slots {
		all = append(all, s.groups.slots[i].groups...)
	}
	slices.SortFunc(all, compareGroups)
	return slices.Values(all)
}

func compareGroups(a, b *Group) int { return cmp.Compare(a.ID, b.ID) }

// GroupCount is the number of groups, and OffsetCount that of the offsets they committed.
func (s *State) GroupCount() int { return s.groups.count }

// OffsetCount is the number of committed offsets of all groups.
func (s *State) OffsetCount() int { return s.groups.offsets }

// Members yields ids and records in order of the ids.
func (g *Group) Members() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for i := range g.members {
			if !yield(g.members[i].ID, g.members[i].Record) {
				return
			}
		}
	}
}

// Member is a member's record.
func (g *Group) Member(id string) ([]byte, bool) {
	at, ok := findMember(g.members, id)
	if !ok {
		return nil, false
	}
	return g.members[at].Record, true
}

// MemberCount is the number of members.
func (g *Group) MemberCount() int { return len(g.members) }

// OffsetCount is the number of offsets that the group has committed.
func (g *Group) OffsetCount() int {
	n := 0
	for i := range g.topics {
		n += len(g.topics[i].offsets)
	}
	return n
}

// Offset is what the group committed for a partition.
func (g *Group) Offset(topic entry.UUID, partition int32) (Offset, bool) {
	at, ok := g.findTopic(topic)
	if !ok {
		return Offset{}, false
	}
	t := &g.topics[at]
	i, ok := t.find(partition)
	if !ok {
		return Offset{}, false
	}
	return t.offsets[i].of(topic), true
}

// Offsets yields what the group committed, in order of topic id and partition.
func (g *Group) Offsets() iter.Seq[Offset] {
	return func(yield func(Offset) bool) {
		for i := range g.topics {
			t := &g.topics[i]
			for j := range t.offsets {
				if !yield(t.offsets[j].of(t.topic.ID)) {
					return
				}
			}
		}
	}
}

func (g *Group) findTopic(topic entry.UUID) (int, bool) {
	return slices.BinarySearchFunc(g.topics, topic, func(t groupTopic, id entry.UUID) int { return slices.Compare(t.topic.ID[:], id[:]) })
}

func (t *groupTopic) find(partition int32) (int, bool) {
	return slices.BinarySearchFunc(t.offsets, partition, func(o offset, p int32) int { return cmp.Compare(o.partition, p) })
}

func (o *offset) of(topic entry.UUID) Offset {
	v := Offset{Topic: topic, Partition: o.partition, Offset: o.offset, LeaderEpoch: o.leaderEpoch, CommitMs: o.commitMs, ExpireMs: -1}
	if o.more != nil {
		v.Metadata, v.ExpireMs = o.more.metadata, o.more.expireMs
	}
	return v
}

func (o *offset) metadataBytes() int64 {
	if o.more == nil {
		return 0
	}
	return int64(len(o.more.metadata))
}

func findMember(members []entry.GroupMember, id string) (int, bool) {
	return slices.BinarySearchFunc(members, id, func(m entry.GroupMember, id string) int { return cmp.Compare(m.ID, id) })
}

func memberBytes(m *entry.GroupMember) int64 { return int64(len(m.ID) + len(m.Record)) }
