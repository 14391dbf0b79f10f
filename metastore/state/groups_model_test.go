package state_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// groupModel is slots and groups written as plainly as possible. What it needs of agents and topics it takes from the results
// of their ops: model holds those.
type groupModel struct {
	level  uint32
	joined map[[16]byte]string
	topics map[entry.UUID]int // partitions
	slots  [state.Slots]state.Slot
	groups map[string]*modelGroup
}

type modelGroup struct {
	kind       uint32
	generation int32
	record     string
	complete   bool
	updated    int64
	members    map[string]string
	offsets    map[state.PartitionRef]state.Offset
}

func newGroupModel() *groupModel {
	return &groupModel{level: 1, joined: make(map[[16]byte]string), topics: make(map[entry.UUID]int), groups: make(map[string]*modelGroup)}
}

func newModelGroup(now int64) *modelGroup {
	return &modelGroup{complete: true, updated: now, members: make(map[string]string), offsets: make(map[state.PartitionRef]state.Offset)}
}

func (g *modelGroup) clone() *modelGroup {
	c := *g
	c.members, c.offsets = maps.Clone(g.members), maps.Clone(g.offsets)
	return &c
}

// take follows an op that is not of groups, by its result.
func (m *groupModel) take(e *entry.Entry, op entry.Op, code state.Code) {
	if code != state.OK {
		return
	}
	switch op := op.(type) {
	case *entry.Join:
		maps.DeleteFunc(m.joined, func(_ [16]byte, name string) bool { return name == op.Name })
		m.joined[e.Incarnation] = op.Name
	case *entry.Leave:
		delete(m.joined, op.Incarnation)
	case *entry.NewLogEpoch:
		maps.DeleteFunc(m.joined, func(inc [16]byte, _ string) bool { return inc != e.Incarnation })
	case *entry.SetFeatureLevel:
		m.level = op.Level
	case *entry.CreateTopic:
		m.topics[op.ID] = int(op.Partitions)
	case *entry.CreatePartitions:
		m.topics[op.ID] = int(op.Total)
	case *entry.DeleteTopic:
		delete(m.topics, op.ID)
		for _, g := range m.groups {
			maps.DeleteFunc(g.offsets, func(ref state.PartitionRef, _ state.Offset) bool { return ref.Topic == op.ID })
		}
	}
}

// groupOp applies an op of groups in entry n. ok is false where it is none.
func (m *groupModel) groupOp(e *entry.Entry, op entry.Op, n uint64, now int64) (code state.Code, offsets []state.Code, ok bool) {
	fence := func(slot uint32, epoch uint64, group string) state.Code {
		switch {
		case m.level < 2:
			return state.FeatureLevelNotReached
		case int(slot) != state.SlotOf(group):
			return state.InvalidRequest
		case m.slots[slot] != state.Slot{Owner: e.Incarnation, Epoch: epoch}:
			return state.StaleCoordinator
		}
		return state.OK
	}
	switch op := op.(type) {
	case *entry.ClaimSlot:
		switch {
		case m.level < 2:
			return state.FeatureLevelNotReached, nil, true
		case op.Slot >= state.Slots:
			return state.InvalidRequest, nil, true
		case m.joined[op.Owner] == "":
			return state.NotJoined, nil, true
		case m.slots[op.Slot].Epoch != op.Epoch || op.Epoch == n:
			return state.Conflict, nil, true
		}
		m.slots[op.Slot] = state.Slot{Owner: op.Owner, Epoch: n}
		return state.OK, nil, true
	case *entry.UpdateGroup:
		if code := fence(op.Slot, op.Epoch, op.Group); code != state.OK {
			return code, nil, true
		}
		g := m.groups[op.Group]
		if g == nil {
			g = newModelGroup(now)
			m.groups[op.Group] = g
		}
		g.kind, g.generation, g.record, g.complete, g.updated = op.Kind, op.Generation, string(op.Record), op.Complete, now
		for _, id := range op.Removes {
			delete(g.members, id)
		}
		for _, put := range op.Puts {
			g.members[put.ID] = string(put.Record)
		}
		return state.OK, nil, true
	case *entry.CommitOffsets:
		if code := fence(op.Slot, op.Epoch, op.Group); code != state.OK {
			return code, nil, true
		}
		g := m.groups[op.Group]
		switch {
		case op.Generation == -1 && g != nil && len(g.members) > 0:
			return state.GroupNotEmpty, nil, true
		case op.Generation >= 0 && g == nil:
			return state.UnknownGroup, nil, true
		case op.Generation >= 0 && g.generation != op.Generation:
			return state.StaleGeneration, nil, true
		}
		for _, o := range op.Offsets {
			code := m.known(o.Topic, o.Partition)
			if code == state.OK {
				if g == nil {
					g = newModelGroup(now)
					m.groups[op.Group] = g
				}
				v := state.Offset{Topic: o.Topic, Partition: int32(o.Partition), Offset: o.Offset, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata, CommitMs: now, ExpireMs: o.ExpireMs}
				g.offsets[state.PartitionRef{Topic: o.Topic, Partition: int32(o.Partition)}] = v
			}
			offsets = append(offsets, code)
		}
		return state.OK, offsets, true
	case *entry.DeleteOffsets:
		if code := fence(op.Slot, op.Epoch, op.Group); code != state.OK {
			return code, nil, true
		}
		g := m.groups[op.Group]
		if g == nil {
			return state.UnknownGroup, nil, true
		}
		for _, o := range op.Offsets {
			ref := state.PartitionRef{Topic: o.Topic, Partition: int32(o.Partition)}
			code := m.known(o.Topic, o.Partition)
			if v, there := g.offsets[ref]; there && op.NotAfterMs > 0 && v.CommitMs > op.NotAfterMs {
				code = state.ConditionFailed
			} else if code == state.OK {
				delete(g.offsets, ref)
			}
			offsets = append(offsets, code)
		}
		return state.OK, offsets, true
	case *entry.DeleteGroup:
		if code := fence(op.Slot, op.Epoch, op.Group); code != state.OK {
			return code, nil, true
		}
		switch g := m.groups[op.Group]; {
		case g == nil:
			return state.UnknownGroup, nil, true
		case len(g.members) > 0:
			return state.GroupNotEmpty, nil, true
		}
		delete(m.groups, op.Group)
		return state.OK, nil, true
	}
	return 0, nil, false
}

func (m *groupModel) known(topic entry.UUID, partition uint32) state.Code {
	switch partitions, ok := m.topics[topic]; {
	case !ok:
		return state.UnknownTopic
	case int(partition) >= partitions:
		return state.UnknownPartition
	}
	return state.OK
}

// check compares everything that readers can see.
func (m *groupModel) check(s *state.State, fail func(string, ...any)) {
	for i := range state.Slots {
		if s.Slot(i) != m.slots[i] {
			fail("slot %d is %+v, want %+v", i, s.Slot(i), m.slots[i])
		}
		for g := range s.GroupsOf(i) {
			if m.groups[g.ID] == nil || g != s.Group(g.ID) || g.Slot != i {
				fail("slot %d has group %q", i, g.ID)
			}
		}
	}
	offsets, size := 0, 0
	var ids []string
	for g := range s.Groups() {
		ids = append(ids, g.ID)
	}
	if want := slices.Sorted(maps.Keys(m.groups)); !slices.Equal(ids, want) || s.GroupCount() != len(want) {
		fail("groups %v, %d in all; want %v", ids, s.GroupCount(), want)
	}
	for id, want := range m.groups {
		g := s.Group(id)
		if g.Kind != want.kind || g.Generation != want.generation || string(g.Record) != want.record || g.Complete != want.complete || g.UpdatedMs != want.updated || g.MemberCount() != len(want.members) {
			fail("group %q: %+v, want %+v", id, g, want)
		}
		var members []string
		for member, record := range g.Members() {
			members = append(members, member)
			if one, ok := g.Member(member); !ok || string(record) != want.members[member] || string(one) != string(record) {
				fail("group %q: member %q has %q, want %q", id, member, record, want.members[member])
			}
		}
		if !slices.IsSorted(members) || len(members) != len(want.members) {
			fail("group %q: members %q", id, members)
		}
		got := slices.Collect(g.Offsets())
		sorted := slices.SortedFunc(maps.Values(want.offsets), func(a, b state.Offset) int {
			return cmp.Or(slices.Compare(a.Topic[:], b.Topic[:]), cmp.Compare(a.Partition, b.Partition))
		})
		if !slices.Equal(got, sorted) || g.OffsetCount() != len(sorted) {
			fail("group %q: offsets %+v, want %+v", id, got, sorted)
		}
		for ref, o := range want.offsets {
			if one, ok := g.Offset(ref.Topic, ref.Partition); !ok || one != o {
				fail("group %q: offset of %+v is %+v, want %+v", id, ref, one, o)
			}
		}
		offsets += len(sorted)
		size += len(id) + len(want.record)
		for member, record := range want.members {
			size += len(member) + len(record)
		}
		for _, o := range sorted {
			size += len(o.Metadata)
		}
	}
	if s.GroupBytes() != int64(size) {
		fail("%d bytes of groups, want %d", s.GroupBytes(), size)
	}
	if s.OffsetCount() != offsets {
		fail("%d offsets in all, want %d", s.OffsetCount(), offsets)
	}
}

// changed are the groups that differ between two of the model's moments.
func changed(before, after map[string]*modelGroup) []string {
	var ids []string
	for id, g := range after {
		was := before[id]
		if was == nil || was.kind != g.kind || was.generation != g.generation || was.record != g.record || was.complete != g.complete ||
			!maps.Equal(was.members, g.members) || !maps.Equal(was.offsets, g.offsets) {
			ids = append(ids, id)
		}
	}
	for id := range before {
		if after[id] == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestGroupsAgree applies random entries of groups, hand-overs and zombies among them, to a state, to a replica that restarts
// from a snapshot every now and then, and to the model.
func TestGroupsAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		one, restarting := state.New(identity), state.New(identity)
		m := newGroupModel()
		g := &groupGenerator{T: rt, m: m, epochs: make(map[uint32][]uint64), seqs: make(map[[16]byte]uint64), s: one}
		var d entry.Decoder
		var r state.Results
		for range rapid.IntRange(1, 80).Draw(rt, "entries") {
			e := g.entry()
			value := e.AppendTo(nil)
			decoded, err := d.Decode(value)
			if err != nil {
				rt.Fatalf("generated entry does not decode: %v", err)
			}
			n := one.N() + 1
			before := make(map[string]*modelGroup, len(m.groups))
			for id, group := range m.groups {
				before[id] = group.clone()
			}
			slots := m.slots
			if err := one.Apply(n, value, decoded, &r); err != nil {
				rt.Fatal(err)
			}
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				if restarting, err = state.Load(restarting.AppendSnapshot(nil)); err != nil {
					rt.Fatal(err)
				}
			}
			if err := restarting.Apply(n, value, e, nil); err != nil {
				rt.Fatal(err)
			}
			if one.ChainHash() != restarting.ChainHash() {
				rt.Fatalf("hashes differ after %+v", e)
			}
			if r.EntryCode != state.OK {
				rt.Fatalf("entry %+v: %v", e, r.EntryCode)
			}
			g.seqs[e.Incarnation]++
			for i, op := range e.Ops {
				code, offsets, ok := state.NotJoined, []state.Code(nil), true
				if _, isJoin := op.(*entry.Join); isJoin || m.joined[e.Incarnation] != "" {
					code, offsets, ok = m.groupOp(e, op, n, one.LogTime())
				}
				if !ok {
					m.take(e, op, r.Ops[i].Code)
					continue
				}
				if r.Ops[i].Code != code || !slices.Equal(r.Ops[i].Offsets, offsets) {
					rt.Fatalf("op %d, %T %+v: %v %v, want %v %v", i, op, op, r.Ops[i].Code, r.Ops[i].Offsets, code, offsets)
				}
			}
			m.check(one, rt.Fatalf)
			for _, id := range changed(before, m.groups) {
				if !slices.Contains(r.Groups, id) {
					rt.Fatalf("group %q changed, and is not among %v", id, r.Groups)
				}
			}
			if r.SlotsChanged != (slots != m.slots) {
				rt.Fatalf("slots changed: %v", r.SlotsChanged)
			}
		}
		want := one.AppendSnapshot(nil)
		if !bytes.Equal(want, restarting.AppendSnapshot(nil)) {
			rt.Fatal("equal hashes, different snapshots")
		}
		loaded, err := state.Load(want)
		if err != nil {
			rt.Fatal(err)
		}
		m.check(loaded, rt.Fatalf)
		if !bytes.Equal(want, loaded.AppendSnapshot(nil)) {
			rt.Fatal("a snapshot loads to another state")
		}
	})
}

type groupGenerator struct {
	*rapid.T
	m      *groupModel
	s      *state.State
	epochs map[uint32][]uint64 // that slots had
	seqs   map[[16]byte]uint64
	made   byte // incarnations
}

func (g *groupGenerator) int(least, most int) int { return rapid.IntRange(least, most).Draw(g.T, "") }

// entry draws one that is taken, by an agent that is joined or joins.
func (g *groupGenerator) entry() *entry.Entry {
	joined := slices.SortedFunc(maps.Keys(g.m.joined), func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
	e := &entry.Entry{Format: 1, ClockMs: start + int64(g.int(0, 30_000))}
	if len(joined) == 0 || g.int(0, 14) == 0 {
		g.made++
		e.Incarnation = id(g.made)
		e.Ops = append(e.Ops, &entry.Join{Name: string(rune('a' + g.int(0, 2))), MaxFeatureLevel: 2})
	} else {
		e.Incarnation = joined[g.int(0, len(joined)-1)]
	}
	e.Seq = g.seqs[e.Incarnation] + 1
	if g.m.level == 1 && g.int(0, 2) > 0 {
		e.Ops = append(e.Ops, &entry.SetFeatureLevel{Level: 2})
	}
	for range g.int(0, 5) {
		e.Ops = append(e.Ops, g.op(e))
	}
	return e
}

var modelGroups = []string{"g0", "g1", "g2", "a-group", strings.Repeat("long", 50)}

func (g *groupGenerator) op(e *entry.Entry) entry.Op {
	group := modelGroups[g.int(0, len(modelGroups)-1)]
	slot := uint32(state.SlotOf(group))
	if g.int(0, 99) == 0 {
		slot++
	}
	epoch := g.epoch(slot)
	switch k := g.int(0, 29); {
	case k < 6:
		op := &entry.ClaimSlot{Slot: slot, Epoch: epoch, Owner: e.Incarnation}
		if g.int(0, 3) == 0 {
			op.Owner = id(byte(g.int(1, int(g.made))))
		}
		return op
	case k < 12:
		op := &entry.UpdateGroup{
			Slot: slot, Epoch: epoch, Group: group, Generation: int32(g.int(0, 3)), Kind: uint32(g.int(0, 2)), Record: make([]byte, g.int(0, 3)), Complete: g.int(0, 3) > 0,
		}
		for range g.int(0, 2) {
			op.Puts = append(op.Puts, entry.GroupMember{ID: g.member(), Record: make([]byte, g.int(0, 3))})
		}
		for range g.int(0, 3) {
			op.Removes = append(op.Removes, g.member())
		}
		return op
	case k < 20:
		op := &entry.CommitOffsets{Slot: slot, Epoch: epoch, Group: group, Generation: int32(g.int(-1, 3))}
		if known := g.m.groups[group]; known != nil && g.int(0, 3) > 0 {
			op.Generation = known.generation
			if len(known.members) == 0 && g.int(0, 1) == 0 {
				op.Generation = -1
			}
		}
		for range g.int(0, 4) {
			ref := g.partition()
			o := entry.GroupOffset{Topic: ref.Topic, Partition: uint32(ref.Partition), Offset: int64(g.int(0, 100)), LeaderEpoch: int32(g.int(-1, 2)), ExpireMs: -1}
			switch g.int(0, 5) {
			case 0:
				o.Metadata = "m"
			case 1:
				o.ExpireMs = start
			case 2:
				o.Offset, o.ExpireMs = math.MaxInt64, math.MaxInt64
			}
			op.Offsets = append(op.Offsets, o)
		}
		return op
	case k < 23:
		op := &entry.DeleteOffsets{Slot: slot, Epoch: epoch, Group: group}
		if g.int(0, 1) == 0 {
			op.NotAfterMs = g.s.LogTime() + int64(g.int(-5000, 5000))
		}
		op.NotAfterMs = max(0, op.NotAfterMs)
		for range g.int(0, 4) {
			ref := g.partition()
			op.Offsets = append(op.Offsets, entry.GroupPartition{Topic: ref.Topic, Partition: uint32(ref.Partition)})
		}
		return op
	case k == 23:
		return &entry.DeleteGroup{Slot: slot, Epoch: epoch, Group: group}
	case k < 27:
		topic := g.int(1, 3)
		return &entry.CreateTopic{Name: fmt.Sprint("t", topic), ID: topicID(byte(topic)), Partitions: uint32(g.int(1, 3))}
	case k == 27:
		return &entry.DeleteTopic{ID: topicID(byte(g.int(1, 3)))}
	case k == 28:
		if g.int(0, 5) == 0 {
			return &entry.NewLogEpoch{Epoch: g.s.Identity().Epoch + 1}
		}
		return &entry.CreatePartitions{ID: topicID(byte(g.int(1, 3))), Total: uint32(g.int(2, 4))}
	default:
		return &entry.Leave{Incarnation: id(byte(g.int(1, max(1, int(g.made)))))}
	}
}

// epoch draws the slot's coordinator epoch, mostly; else one that it had, or a wrong one.
func (g *groupGenerator) epoch(slot uint32) uint64 {
	if slot >= state.Slots {
		return 0
	}
	now := g.m.slots[slot].Epoch
	if had := g.epochs[slot]; len(had) == 0 || had[len(had)-1] != now {
		g.epochs[slot] = append(had, now)
	}
	switch g.int(0, 9) {
	case 0:
		had := g.epochs[slot]
		return had[g.int(0, len(had)-1)]
	case 1:
		return g.s.N() + 1 // that of a claim in this entry
	}
	return now
}

func (g *groupGenerator) member() string { return string(rune('m' + g.int(0, 3))) }

func (g *groupGenerator) partition() state.PartitionRef {
	return state.PartitionRef{Topic: topicID(byte(g.int(1, 3) + g.int(0, 20)/20*5)), Partition: int32(g.int(0, 3))}
}
