package state

import (
	"fmt"
	"math"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
)

// groups writes the slots, each with its groups. Topics are named by their number in the snapshot.
func (w *writer) groups(s *State) {
	numbers := make(map[*Topic]int, len(s.topics.sorted))
	for i, t := range s.topics.sorted {
		numbers[t] = i
	}
	for i := range s.groups.slots {
		x := &s.groups.slots[i]
		w.uint(x.Epoch)
		if x.Epoch > 0 {
			w.b = append(w.b, x.Owner[:]...)
		}
		w.uint(uint64(len(x.groups)))
		for _, g := range x.groups {
			w.group(s, g, numbers)
		}
	}
}

func (w *writer) group(s *State, g *Group, numbers map[*Topic]int) {
	w.string(g.ID)
	w.uint(uint64(g.Kind))
	w.uint(uint64(g.Generation))
	if g.Complete {
		w.uint(1)
	} else {
		w.uint(0)
	}
	w.uint(uint64(s.logTime - g.UpdatedMs))
	w.bytes(g.Record)
	w.uint(uint64(len(g.members)))
	for i := range g.members {
		w.string(g.members[i].ID)
		w.bytes(g.members[i].Record)
	}
	w.uint(uint64(len(g.topics)))
	for i := range g.topics {
		t := &g.topics[i]
		w.uint(uint64(numbers[t.topic]))
		w.uint(uint64(len(t.offsets)))
		for j := range t.offsets {
			o := &t.offsets[j]
			v := o.of(t.topic.ID)
			w.uint(uint64(o.partition))
			w.uint(uint64(o.offset))
			w.uint(uint64(int64(o.leaderEpoch) + 1))
			w.uint(uint64(s.logTime - o.commitMs))
			w.uint(uint64(v.ExpireMs) + 1)
			w.string(v.Metadata)
		}
	}
}

func (w *writer) bytes(v []byte) {
	w.uint(uint64(len(v)))
	w.b = append(w.b, v...)
}

func (l *loader) groups() {
	for i := range l.s.groups.slots {
		l.part = fmt.Sprintf("slot %d", i)
		x := &l.s.groups.slots[i]
		if x.Epoch = l.uint(l.s.n); x.Epoch > 0 {
			x.Owner = l.id()
			l.require(x.Owner != [16]byte{})
		}
		n := l.count(MaxGroups-l.s.groups.count, groupBytesLeast)
		x.groups = slices.Grow(x.groups, n)
		for range n {
			if l.bad {
				return
			}
			l.group(x, i)
		}
	}
}

// groupBytesLeast is the smallest group in a snapshot.
const groupBytesLeast = 9

func (l *loader) group(x *groupSlot, slot int) {
	sums := &l.s.groups
	g := &Group{ID: l.string(), Slot: slot, Kind: uint32(l.uint(entry.GroupConsumer))}
	last := len(x.groups) - 1
	l.require(g.ID != "" && len(g.ID) <= MaxGroupID && SlotOf(g.ID) == slot && (last < 0 || x.groups[last].ID < g.ID))
	g.Generation, g.Complete = int32(l.uint(math.MaxInt32)), l.uint(1) == 1
	g.UpdatedMs = l.s.logTime - int64(l.uint(uint64(l.s.logTime)))
	g.Record = l.record()
	sums.bytes += int64(len(g.ID) + len(g.Record))
	members := l.count(MaxGroupMembers, 3)
	g.members = slices.Grow(g.members, members)
	for i := range members {
		m := entry.GroupMember{ID: l.string(), Record: l.record()}
		l.require(m.ID != "" && len(m.ID) <= MaxMemberID && (i == 0 || g.members[i-1].ID < m.ID))
		sums.bytes += memberBytes(&m)
		g.members = append(g.members, m)
		if l.bad {
			return
		}
	}
	topics, offsets := l.count(MaxOffsetsPerGroup, 8), sums.offsets
	g.topics = slices.Grow(g.topics, topics)
	for range topics {
		l.groupTopic(g)
		if l.bad {
			return
		}
	}
	l.require(sums.offsets-offsets <= MaxOffsetsPerGroup && sums.offsets <= MaxGroupOffsets && sums.bytes <= MaxGroupBytes)
	x.groups = append(x.groups, g)
	sums.count++
}

// record reads bytes that the state keeps.
func (l *loader) record() []byte {
	b := l.bytes(l.count(MaxGroupRecord, 1))
	if len(b) == 0 {
		return nil
	}
	return slices.Clone(b)
}

func (l *loader) groupTopic(g *Group) {
	s := l.s
	number := l.uint(math.MaxInt32)
	if l.bad || number >= uint64(len(s.topics.sorted)) {
		l.bad = true
		return
	}
	t := groupTopic{topic: s.topics.sorted[number]}
	if last := len(g.topics) - 1; last >= 0 {
		l.require(slices.Compare(g.topics[last].topic.ID[:], t.topic.ID[:]) < 0)
	}
	n := l.count(len(t.topic.parts), 6)
	l.require(n > 0)
	t.offsets = make([]offset, n)
	for i := range t.offsets {
		o := &t.offsets[i]
		o.partition = int32(l.uint(uint64(len(t.topic.parts) - 1)))
		l.require(i == 0 || t.offsets[i-1].partition < o.partition)
		o.offset = int64(l.uint(math.MaxInt64))
		o.leaderEpoch = int32(int64(l.uint(math.MaxInt32+1)) - 1)
		o.commitMs = s.logTime - int64(l.uint(uint64(s.logTime)))
		expireMs := int64(l.uint(math.MaxInt64+1) - 1)
		metadata := l.string()
		l.require(len(metadata) <= MaxOffsetMetadata)
		if metadata != "" || expireMs >= 0 {
			o.more = &offsetMore{metadata: metadata, expireMs: expireMs}
			s.groups.more++
			s.groups.bytes += int64(len(metadata))
		}
		if l.bad {
			return
		}
	}
	s.groups.offsets += n
	g.topics = append(g.topics, t)
	// Groups come by slot here, and a topic's readers by id: they are put in order when all are known.
	t.topic.readers = append(t.topic.readers, g)
}

// sortReaders orders what groupTopic appended.
func (x *topics) sortReaders() {
	for _, t := range x.sorted {
		slices.SortFunc(t.readers, compareGroups)
	}
}
