package state

import (
	"cmp"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
)

// claimSlot gives a slot another owner. Who may try is for leases to say; what makes it safe is that only one claim names the
// current epoch and wins, and that nothing of the old epoch is taken from then on.
func (s *State) claimSlot(op *entry.ClaimSlot, r *Results) Code {
	switch {
	case s.featureLevel < groupsLevel:
		return FeatureLevelNotReached
	case op.Slot >= Slots:
		return InvalidRequest
	}
	slot := &s.groups.slots[op.Slot]
	switch {
	case s.agents.joined[op.Owner] == nil:
		return NotJoined
	case op.Epoch != slot.Epoch || slot.Epoch == s.n: // the latter: two claims of one entry would have the same epoch
		return Conflict
	}
	slot.Slot = Slot{Owner: op.Owner, Epoch: s.n}
	r.SlotsChanged = true
	return OK
}

// coordinated checks that the proposer may change the group: it owns the group's slot, under the epoch that it names.
func (s *State) coordinated(e *entry.Entry, slot uint32, epoch uint64, group string) (*groupSlot, Code) {
	switch {
	case s.featureLevel < groupsLevel:
		return nil, FeatureLevelNotReached
	case slot >= Slots || SlotOf(group) != int(slot) || len(group) > MaxGroupID:
		return nil, InvalidRequest
	}
	x := &s.groups.slots[slot]
	if x.Epoch != epoch || x.Owner != e.Incarnation {
		return nil, StaleCoordinator
	}
	return x, OK
}

// addGroup makes a group that find did not. Requires: there is room.
func (s *State) addGroup(x *groupSlot, id string) *Group {
	g := &Group{ID: id, Slot: SlotOf(id), Complete: true, UpdatedMs: s.logTime}
	_, at := x.find(id)
	x.groups = slices.Insert(x.groups, at, g)
	s.groups.count++
	s.groups.bytes += int64(len(id))
	return g
}

// roomForGroup says whether one more group fits.
func (s *State) roomForGroup(id string) bool {
	return s.groups.count < MaxGroups && s.groups.bytes+int64(len(id)) <= MaxGroupBytes
}

func (s *State) updateGroup(e *entry.Entry, op *entry.UpdateGroup, r *Results) Code {
	x, code := s.coordinated(e, op.Slot, op.Epoch, op.Group)
	if code != OK {
		return code
	}
	if len(op.Record) > MaxGroupRecord {
		return LimitExceeded
	}
	for i := range op.Puts {
		if len(op.Puts[i].ID) > MaxMemberID || len(op.Puts[i].Record) > MaxGroupRecord {
			return LimitExceeded
		}
	}
	g, _ := x.find(op.Group)
	var had Group
	grown := int64(len(op.Record))
	if g != nil {
		had = *g
		grown -= int64(len(g.Record))
	} else if !s.roomForGroup(op.Group) {
		return LimitExceeded
	}
	members, more := changeMembers(append(s.members[:0], had.members...), op)
	s.members = members[:0]
	defer clear(members) // what it names is not to be kept alive by it
	if grown += more; len(members) > MaxGroupMembers || s.groups.bytes+grown > MaxGroupBytes && grown > 0 {
		return LimitExceeded
	}
	if g == nil {
		g = s.addGroup(x, op.Group)
	}
	g.Generation, g.Kind, g.Complete, g.UpdatedMs = op.Generation, op.Kind, op.Complete, s.logTime
	if !slices.Equal(g.Record, op.Record) {
		g.Record = slices.Clone(op.Record)
	}
	if len(g.Record) == 0 {
		g.Record = nil
	}
	clear(g.members[min(len(members), len(g.members)):])
	g.members = append(g.members[:0], members...)
	s.groups.bytes += grown
	s.changedGroup(g, r)
	return OK
}

// changeMembers applies the op to a copy of a group's members and returns by how many bytes they grew. The op's records are
// copied: its decoder reuses them.
func changeMembers(members []entry.GroupMember, op *entry.UpdateGroup) ([]entry.GroupMember, int64) {
	grown := int64(0)
	for _, id := range op.Removes {
		if at, ok := findMember(members, id); ok {
			grown -= memberBytes(&members[at])
			members = slices.Delete(members, at, at+1)
		}
	}
	for i := range op.Puts {
		put := &op.Puts[i]
		at, ok := findMember(members, put.ID)
		if !ok {
			members = slices.Insert(members, at, entry.GroupMember{ID: put.ID})
			grown += int64(len(put.ID))
		}
		grown += int64(len(put.Record) - len(members[at].Record))
		members[at].Record = nil
		if len(put.Record) > 0 {
			members[at].Record = slices.Clone(put.Record)
		}
	}
	return members, grown
}

func (s *State) commitOffsets(e *entry.Entry, op *entry.CommitOffsets, r *Results) (Code, []Code) {
	x, code := s.coordinated(e, op.Slot, op.Epoch, op.Group)
	if code != OK {
		return code, nil
	}
	g, _ := x.find(op.Group)
	switch {
	case op.Generation < 0 && g != nil && len(g.members) > 0:
		return GroupNotEmpty, nil
	case op.Generation >= 0 && g == nil:
		return UnknownGroup, nil
	case op.Generation >= 0 && g.Generation != op.Generation:
		return StaleGeneration, nil
	case g == nil && !s.roomForGroup(op.Group):
		return LimitExceeded, nil
	}
	room := MaxOffsetsPerGroup
	if g != nil {
		room -= g.OffsetCount()
	}
	first := len(r.offsets)
	for i := range op.Offsets {
		code := s.commitOffset(x, &g, op, i, &room)
		r.offsets = append(r.offsets, code)
		if code == OK {
			s.changedGroup(g, r)
		}
	}
	return OK, r.offsets[first:len(r.offsets):len(r.offsets)]
}

// commitOffset takes one offset of an op. The group is made by the first one that is taken.
func (s *State) commitOffset(x *groupSlot, g **Group, op *entry.CommitOffsets, i int, room *int) Code {
	o := &op.Offsets[i]
	p, code := s.partition(o.Topic, o.Partition)
	switch {
	case code != OK:
		return code
	case len(o.Metadata) > MaxOffsetMetadata:
		return LimitExceeded
	}
	// What there is of it, before anything is changed.
	var known *offset
	if *g != nil {
		if at, ok := (*g).findTopic(o.Topic); ok {
			t := &(*g).topics[at]
			if j, ok := t.find(p.index); ok {
				known = &t.offsets[j]
			}
		}
	}
	grown := int64(len(o.Metadata))
	if known != nil {
		grown -= known.metadataBytes()
	} else if *room == 0 || s.groups.offsets == MaxGroupOffsets {
		return LimitExceeded
	}
	if s.groups.bytes+grown > MaxGroupBytes && grown > 0 {
		return LimitExceeded
	}
	if *g == nil {
		*g = s.addGroup(x, op.Group)
	}
	if known == nil {
		known = s.addOffset(*g, p, sameTopic(op.Offsets[i:]))
		*room--
	}
	s.groups.bytes += grown
	known.offset, known.leaderEpoch, known.commitMs = o.Offset, o.LeaderEpoch, s.logTime
	switch plain := o.Metadata == "" && o.ExpireMs < 0; {
	case plain && known.more != nil:
		known.more = nil
		s.groups.more--
	case plain:
	case known.more == nil:
		s.groups.more++
		known.more = &offsetMore{metadata: o.Metadata, expireMs: o.ExpireMs}
	default:
		*known.more = offsetMore{metadata: o.Metadata, expireMs: o.ExpireMs}
	}
	return OK
}

// sameTopic is how many offsets of one topic the list begins with.
func sameTopic(list []entry.GroupOffset) int {
	n := 1
	for n < len(list) && list[n].Topic == list[0].Topic {
		n++
	}
	return n
}

// addOffset makes an offset of a partition that has none in the group; more of the topic are likely to follow.
func (s *State) addOffset(g *Group, p *Partition, more int) *offset {
	at, ok := g.findTopic(p.topic.ID)
	if !ok {
		g.topics = slices.Insert(slices.Clip(g.topics), at, groupTopic{topic: p.topic}) // most groups read few topics
		p.topic.addReader(g)
	}
	t := &g.topics[at]
	if n := len(t.offsets); n == cap(t.offsets) {
		grown := make([]offset, n, n+max(more, n/8))
		copy(grown, t.offsets)
		t.offsets = grown
	}
	i, _ := t.find(p.index)
	t.offsets = slices.Insert(t.offsets, i, offset{partition: p.index})
	s.groups.offsets++
	return &t.offsets[i]
}

func (s *State) deleteOffsets(e *entry.Entry, op *entry.DeleteOffsets, r *Results) (Code, []Code) {
	x, code := s.coordinated(e, op.Slot, op.Epoch, op.Group)
	if code != OK {
		return code, nil
	}
	g, _ := x.find(op.Group)
	if g == nil {
		return UnknownGroup, nil
	}
	first := len(r.offsets)
	for i := range op.Offsets {
		r.offsets = append(r.offsets, s.deleteOffset(g, op, i, r))
	}
	return OK, r.offsets[first:len(r.offsets):len(r.offsets)]
}

func (s *State) deleteOffset(g *Group, op *entry.DeleteOffsets, i int, r *Results) Code {
	p, code := s.partition(op.Offsets[i].Topic, op.Offsets[i].Partition)
	if code != OK {
		return code
	}
	at, ok := g.findTopic(p.topic.ID)
	if !ok {
		return OK // there is none, as asked for
	}
	t := &g.topics[at]
	j, ok := t.find(p.index)
	switch {
	case !ok:
		return OK
	case op.NotAfterMs > 0 && t.offsets[j].commitMs > op.NotAfterMs:
		return ConditionFailed
	}
	s.forgetOffset(&t.offsets[j])
	t.offsets = slices.Delete(t.offsets, j, j+1)
	if len(t.offsets) == 0 {
		t.topic.removeReader(g)
		g.topics = slices.Delete(g.topics, at, at+1)
	}
	s.changedGroup(g, r)
	return OK
}

// forgetOffset takes an offset that goes out of the sums.
func (s *State) forgetOffset(o *offset) {
	s.groups.offsets--
	s.groups.bytes -= o.metadataBytes()
	if o.more != nil {
		s.groups.more--
	}
}

func (s *State) deleteGroup(e *entry.Entry, op *entry.DeleteGroup, r *Results) Code {
	x, code := s.coordinated(e, op.Slot, op.Epoch, op.Group)
	if code != OK {
		return code
	}
	g, at := x.find(op.Group)
	switch {
	case g == nil:
		return UnknownGroup
	case len(g.members) > 0:
		return GroupNotEmpty
	}
	for i := range g.topics {
		t := &g.topics[i]
		for j := range t.offsets {
			s.forgetOffset(&t.offsets[j])
		}
		t.topic.removeReader(g)
	}
	x.groups = slices.Delete(x.groups, at, at+1)
	s.groups.count--
	s.groups.bytes -= int64(len(g.ID) + len(g.Record))
	s.changedGroup(g, r)
	return OK
}

// forgetTopic drops what groups committed for a topic that goes.
func (s *State) forgetTopic(topic *Topic, r *Results) {
	for _, g := range topic.readers {
		at, _ := g.findTopic(topic.ID)
		offsets := g.topics[at].offsets
		for j := range offsets {
			s.forgetOffset(&offsets[j])
		}
		g.topics = slices.Delete(g.topics, at, at+1)
		s.changedGroup(g, r)
	}
	topic.readers = nil
}

func (t *Topic) addReader(g *Group) {
	at, _ := t.findReader(g)
	t.readers = slices.Insert(t.readers, at, g)
}

func (t *Topic) removeReader(g *Group) {
	if at, ok := t.findReader(g); ok {
		t.readers = slices.Delete(t.readers, at, at+1)
	}
}

func (t *Topic) findReader(g *Group) (int, bool) {
	return slices.BinarySearchFunc(t.readers, g.ID, func(g *Group, id string) int { return cmp.Compare(g.ID, id) })
}

// changedGroup lists g in the results of the entry that is being applied.
func (s *State) changedGroup(g *Group, r *Results) {
	if g.changedN != s.n {
		g.changedN = s.n
		r.Groups = append(r.Groups, g.ID)
	}
}
