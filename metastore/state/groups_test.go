package state_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// grouping is joined at the level of groups, with agent 2 ("b") joined as well and agent 1 owning every slot.
func grouping(t testing.TB) *machine {
	m := newMachine(t)
	m.accept(1, newer("a"), &entry.SetFeatureLevel{Level: 2})
	m.accept(2, newer("b"))
	m.accept(1, &entry.CreateTopic{Name: "plain", ID: topicID(1), Partitions: 3}, &entry.CreateTopic{Name: "other", ID: topicID(2), Partitions: 40})
	for i := range uint32(state.Slots) {
		m.accept(1, &entry.ClaimSlot{Slot: i, Owner: id(1)})
	}
	return m
}

func newest(name string) *entry.Join { return &entry.Join{Name: name, MaxFeatureLevel: 3} }

func newer(name string) *entry.Join { return &entry.Join{Name: name, MaxFeatureLevel: 2} }

func (m *machine) epoch(group string) (slot uint32, epoch uint64) {
	i := state.SlotOf(group)
	return uint32(i), m.s.Slot(i).Epoch
}

func (m *machine) update(group string, generation int32, puts ...string) *entry.UpdateGroup {
	op := &entry.UpdateGroup{Group: group, Generation: generation, Kind: entry.GroupClassic, Record: []byte(fmt.Sprint("record ", generation)), Complete: true}
	op.Slot, op.Epoch = m.epoch(group)
	for _, member := range puts {
		op.Puts = append(op.Puts, entry.GroupMember{ID: member, Record: []byte("of " + member)})
	}
	return op
}

func (m *machine) commitOf(group string, generation int32, offsets ...entry.GroupOffset) *entry.CommitOffsets {
	op := &entry.CommitOffsets{Group: group, Generation: generation, Offsets: offsets}
	op.Slot, op.Epoch = m.epoch(group)
	return op
}

func (m *machine) deletion(group string, notAfterMs int64, offsets ...entry.GroupPartition) *entry.DeleteOffsets {
	op := &entry.DeleteOffsets{Group: group, NotAfterMs: notAfterMs, Offsets: offsets}
	op.Slot, op.Epoch = m.epoch(group)
	return op
}

func (m *machine) end(group string) *entry.DeleteGroup {
	op := &entry.DeleteGroup{Group: group}
	op.Slot, op.Epoch = m.epoch(group)
	return op
}

// at is an offset without anything that is optional.
func at(topic byte, partition uint32, offset int64) entry.GroupOffset {
	return entry.GroupOffset{Topic: topicID(topic), Partition: partition, Offset: offset, ExpireMs: -1}
}

// committed lists a group's offsets as topic/partition=offset.
func (m *machine) committed(group string) string {
	var list []string
	if g := m.s.Group(group); g != nil {
		for o := range g.Offsets() {
			list = append(list, fmt.Sprintf("%d/%d=%d", o.Topic[0], o.Partition, o.Offset))
		}
	}
	return strings.Join(list, " ")
}

// TestSlotOf holds the hash: agents of all versions have to agree on it.
func TestSlotOf(t *testing.T) {
	for group, want := range map[string]int{"": 37, "a": 12, "billing": 28, "foobar": 40} {
		if got := state.SlotOf(group); got != want {
			t.Errorf("%q is in slot %d, want %d", group, got, want)
		}
	}
	var used [state.Slots]int
	for i := range 64 * 100 {
		used[state.SlotOf(fmt.Sprint("group-", i))]++
	}
	if least, most := slices.Min(used[:]), slices.Max(used[:]); least < 50 || most > 200 {
		t.Errorf("slots hold %d to %d of 100 groups each", least, most)
	}
}

func TestClaimSlot(t *testing.T) {
	m := newMachine(t)
	m.accept(1, newer("a"), &entry.SetFeatureLevel{Level: 2})
	m.accept(2, newer("b"))
	if got := m.s.Slot(5); got != (state.Slot{}) {
		t.Errorf("never claimed: %+v", got)
	}
	m.refuse(1, &entry.ClaimSlot{Slot: 64, Owner: id(1)}, state.InvalidRequest)
	m.refuse(1, &entry.ClaimSlot{Slot: 5, Owner: id(9)}, state.NotJoined)
	m.refuse(1, &entry.ClaimSlot{Slot: 5, Epoch: 1, Owner: id(1)}, state.Conflict)

	claim := func(agent byte, epoch uint64, owner byte) {
		t.Helper()
		r := m.accept(agent, &entry.ClaimSlot{Slot: 5, Epoch: epoch, Owner: id(owner)})
		if !r.SlotsChanged {
			t.Error("nobody is told")
		}
		if got := m.s.Slot(5); got != (state.Slot{Owner: id(owner), Epoch: m.s.N()}) {
			t.Errorf("at n=%d: %+v", m.s.N(), got)
		}
	}
	claim(1, 0, 1)
	first := m.s.N()
	m.refuse(2, &entry.ClaimSlot{Slot: 5, Owner: id(2)}, state.Conflict)
	claim(1, first, 2) // handed over by its owner
	m.refuse(1, &entry.ClaimSlot{Slot: 5, Epoch: first, Owner: id(1)}, state.Conflict)
	claim(1, m.s.Slot(5).Epoch, 1) // taken: the epoch decides
	m.accept(2, &entry.Leave{Incarnation: id(1)})
	if got := m.s.Slot(5); got.Owner != id(1) {
		t.Errorf("a slot outlives its owner: %+v", got)
	}
	claim(2, m.s.Slot(5).Epoch, 2)

	// One entry cannot claim twice: the epochs would be the same.
	r := m.apply(2, &entry.ClaimSlot{Slot: 6, Owner: id(2)}, &entry.ClaimSlot{Slot: 6, Epoch: m.s.N() + 1, Owner: id(2)})
	if r.Ops[0].Code != state.OK || r.Ops[1].Code != state.Conflict {
		t.Errorf("%+v", r.Ops)
	}
}

// TestGroupsNeedTheirLevel: below it nothing of groups is taken, and a snapshot is one that agents of that level read.
func TestGroupsNeedTheirLevel(t *testing.T) {
	m := newMachine(t)
	m.accept(1, newer("a"))
	slot := uint32(state.SlotOf("g"))
	for _, op := range []entry.Op{
		&entry.ClaimSlot{Slot: slot, Owner: id(1)}, &entry.UpdateGroup{Slot: slot, Group: "g"}, &entry.CommitOffsets{Slot: slot, Group: "g", Generation: -1},
		&entry.DeleteOffsets{Slot: slot, Group: "g"}, &entry.DeleteGroup{Slot: slot, Group: "g"},
	} {
		m.refuse(1, op, state.FeatureLevelNotReached)
	}
	const version = len("FIRNSNAP")
	if b := m.s.AppendSnapshot(nil); b[version] != 2 {
		t.Errorf("snapshot version %d below level 2", b[version])
	}
	m.accept(1, &entry.SetFeatureLevel{Level: 2})
	m.accept(1, &entry.ClaimSlot{Slot: slot, Owner: id(1)})
	b := m.s.AppendSnapshot(nil)
	if b[version] != 3 {
		t.Errorf("snapshot version %d at level 2", b[version])
	}
	if s, err := state.Load(b); err != nil || s.Slot(int(slot)) != m.s.Slot(int(slot)) {
		t.Error(err)
	}
	// A version that does not go with the level was written by nobody.
	for _, v := range []byte{1, 2} {
		body := slices.Clone(b[:len(b)-4])
		body[version] = v
		if _, err := state.Load(sealed(body)); !errors.Is(err, state.ErrCorrupt) {
			t.Errorf("level 2 in version %d: %v", v, err)
		}
	}
}

// TestCoordinatorFences: of a slot's ops only its owner's are taken, and only under the epoch of its claim.
func TestCoordinatorFences(t *testing.T) {
	m := grouping(t)
	m.accept(1, m.update("g", 1, "m"), m.commitOf("g", 1, at(1, 0, 10)))
	ops := func() []entry.Op {
		return []entry.Op{
			m.update("g", 2, "n"), m.commitOf("g", 1, at(1, 0, 20)), m.commitOf("new", -1, at(1, 0, 1)),
			m.deletion("g", 0, entry.GroupPartition{Topic: topicID(1)}), m.end("g"),
		}
	}
	for _, op := range ops() {
		m.refuse(2, op, state.StaleCoordinator) // not its owner
	}
	zombies := ops()
	slot, epoch := m.epoch("g")
	other, otherEpoch := m.epoch("new")
	m.accept(1, &entry.ClaimSlot{Slot: slot, Epoch: epoch, Owner: id(2)}, &entry.ClaimSlot{Slot: other, Epoch: otherEpoch, Owner: id(2)})
	for _, op := range zombies {
		m.refuse(1, op, state.StaleCoordinator) // it was
	}
	for _, op := range zombies {
		m.refuse(2, op, state.StaleCoordinator) // the epoch of the one before
	}
	_, epoch = m.epoch("g")
	m.accept(1, &entry.ClaimSlot{Slot: slot, Epoch: epoch, Owner: id(1)})
	m.refuse(1, zombies[1], state.StaleCoordinator) // owner again, by another claim
	m.accept(1, m.commitOf("g", 1, at(1, 0, 30)))
	if got := m.committed("g"); got != "1/0=30" {
		t.Error(got)
	}

	wrong := m.update("g", 3)
	wrong.Slot = (slot + 1) % state.Slots
	wrong.Epoch = m.s.Slot(int(wrong.Slot)).Epoch
	m.refuse(1, wrong, state.InvalidRequest)
	wrong.Slot = state.Slots
	m.refuse(1, wrong, state.InvalidRequest)
}

func TestUpdateGroup(t *testing.T) {
	m := grouping(t)
	op := m.update("g", 1, "b", "a", "c")
	op.Complete = false
	if r := m.accept(1, op); !slices.Equal(r.Groups, []string{"g"}) {
		t.Errorf("changed: %v", r.Groups)
	}
	g := m.s.Group("g")
	if g.ID != "g" || g.Slot != state.SlotOf("g") || g.Generation != 1 || g.Kind != entry.GroupClassic || string(g.Record) != "record 1" || g.Complete || g.MemberCount() != 3 {
		t.Errorf("%+v", g)
	}
	kept := g.Record
	m.accept(1, &entry.UpdateGroup{
		Slot: op.Slot, Epoch: op.Epoch, Group: "g", Generation: 7, Kind: entry.GroupConsumer, Complete: true,
		Removes: []string{"a", "nobody", "b"}, Puts: []entry.GroupMember{{ID: "b", Record: []byte("back")}, {ID: "d"}, {ID: "b", Record: []byte("last")}},
	})
	g = m.s.Group("g")
	if g.Generation != 7 || g.Kind != entry.GroupConsumer || len(g.Record) != 0 || !g.Complete {
		t.Errorf("%+v", g)
	}
	var members []string
	for id, record := range g.Members() {
		members = append(members, id+":"+string(record))
	}
	if want := []string{"b:last", "c:of c", "d:"}; !slices.Equal(members, want) {
		t.Errorf("members %v, want %v", members, want)
	}
	if record, ok := g.Member("c"); !ok || string(record) != "of c" {
		t.Errorf("member c: %q, %v", record, ok)
	}
	if _, ok := g.Member("a"); ok {
		t.Error("a was removed")
	}
	if string(kept) != "record 1" {
		t.Errorf("a record that was handed out is now %q", kept)
	}
	m.refuse(1, m.end("g"), state.GroupNotEmpty)
	m.refuse(1, m.end("absent"), state.UnknownGroup)
	m.accept(1, &entry.UpdateGroup{Slot: op.Slot, Epoch: op.Epoch, Group: "g", Removes: []string{"b", "c", "d"}, Complete: true})
	if r := m.accept(1, m.end("g")); !slices.Equal(r.Groups, []string{"g"}) {
		t.Errorf("changed: %v", r.Groups)
	}
	if m.s.Group("g") != nil || m.s.GroupCount() != 0 {
		t.Error("it is still there")
	}
}

func TestGroupLimits(t *testing.T) {
	m := grouping(t)
	long := m.update(strings.Repeat("g", state.MaxGroupID+1), 1)
	m.refuse(1, long, state.InvalidRequest)
	m.refuse(1, m.commitOf(long.Group, -1, at(1, 0, 1)), state.InvalidRequest)
	m.accept(1, m.update(strings.Repeat("g", state.MaxGroupID), 1))
	m.refuse(1, m.update("h", 1, strings.Repeat("m", state.MaxMemberID+1)), state.LimitExceeded)
	big := m.update("h", 1)
	big.Record = make([]byte, state.MaxGroupRecord+1)
	m.refuse(1, big, state.LimitExceeded)
	big.Record = big.Record[1:]
	m.accept(1, big)
	put := m.update("h", 1)
	put.Puts = []entry.GroupMember{{ID: "m", Record: make([]byte, state.MaxGroupRecord+1)}}
	m.refuse(1, put, state.LimitExceeded)

	for first := 0; first < state.MaxGroupMembers; first += 1000 {
		var ids []string
		for i := range 1000 {
			ids = append(ids, fmt.Sprint("member-", first+i))
		}
		m.accept(1, m.update("full", 1, ids...))
	}
	m.refuse(1, m.update("full", 2, "one-more"), state.LimitExceeded)
	m.accept(1, m.update("full", 2, "member-17")) // in the place of itself
	swap := m.update("full", 3, "one-more")
	swap.Removes = []string{"member-17"}
	m.accept(1, swap)
}

// TestGroupSumsAreBounded: all groups together are, and what takes nothing more is still accepted at the bound.
func TestGroupSumsAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		groups, offsets int
		bytes           int64
		fits            bool // a group more
	}{
		"groups":  {groups: state.MaxGroups - 1},
		"offsets": {offsets: state.MaxGroupOffsets - 1, fits: true},
		"bytes":   {bytes: state.MaxGroupBytes - int64(len("g"+"record 1"+"m"+"of m"))},
	} {
		m := grouping(t)
		m.accept(1, m.update("g", 1, "m"), m.commitOf("g", 1, at(1, 0, 1)))
		m.s.FillGroups(c.groups, c.offsets, c.bytes)
		var ops []entry.Op
		for _, op := range []entry.Op{m.update("h", 1), m.commitOf("h", -1, at(1, 0, 1)), m.update("g", 1, "another"), m.commitOf("g", 1, entry.GroupOffset{Topic: topicID(1), Metadata: "more"})} {
			if name == "bytes" || name == "groups" && len(ops) < 2 {
				if code := m.tried(op); code != state.LimitExceeded {
					t.Errorf("%s: %T: %v", name, op, code)
				}
			}
			ops = append(ops, op)
		}
		m.accept(1, m.update("g", 2, "m"), m.commitOf("g", 2, at(1, 0, 2))) // in the place of what was there
		r := m.accept(1, m.commitOf("g", 2, at(1, 1, 2)))
		if code := r.Ops[0].Offsets[0]; name == "offsets" != (code == state.LimitExceeded) {
			t.Errorf("%s: an offset more: %v", name, code)
		}
		if code := m.tried(m.update("h", 1)); c.fits != (code == state.OK) {
			t.Errorf("%s: a group more: %v", name, code)
		}
	}
}

// tried is what became of an op of agent 1, or of its only offset.
func (m *machine) tried(op entry.Op) state.Code {
	r := m.apply(1, op)
	if offsets := r.Ops[0].Offsets; len(offsets) == 1 {
		return offsets[0]
	}
	return r.Ops[0].Code
}

func TestCommitOffsets(t *testing.T) {
	m := grouping(t)
	m.clock += 1000
	r := m.accept(1, m.commitOf(
		"g", -1, entry.GroupOffset{Topic: topicID(1), Partition: 2, Offset: 7, LeaderEpoch: 3, Metadata: "here", ExpireMs: start + 5},
		at(1, 3, 1), at(9, 0, 1), at(2, 1, 5), at(1, 0, 0), at(1, 0, 4),
	))
	if want := []state.Code{state.OK, state.UnknownPartition, state.UnknownTopic, state.OK, state.OK, state.OK}; !slices.Equal(r.Ops[0].Offsets, want) {
		t.Errorf("%v, want %v", r.Ops[0].Offsets, want)
	}
	if !slices.Equal(r.Groups, []string{"g"}) {
		t.Errorf("changed: %v", r.Groups)
	}
	if got, want := m.committed("g"), "1/0=4 1/2=7 2/1=5"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	g := m.s.Group("g")
	got, ok := g.Offset(topicID(1), 2)
	want := state.Offset{Topic: topicID(1), Partition: 2, Offset: 7, LeaderEpoch: 3, Metadata: "here", CommitMs: start + 1000, ExpireMs: start + 5}
	if !ok || got != want {
		t.Errorf("%+v, %v; want %+v", got, ok, want)
	}
	for _, ref := range []state.PartitionRef{{Topic: topicID(1), Partition: 1}, {Topic: topicID(9)}, {Topic: topicID(2), Partition: -1}} {
		if o, ok := g.Offset(ref.Topic, ref.Partition); ok {
			t.Errorf("%+v: %+v", ref, o)
		}
	}
	if g.Kind != entry.GroupSimple || g.Generation != 0 || !g.Complete || g.MemberCount() != 0 || g.OffsetCount() != 3 || m.s.OffsetCount() != 3 {
		t.Errorf("%+v", g)
	}
	// Without metadata again: nothing is left of it.
	m.accept(1, m.commitOf("g", -1, at(1, 2, 6)))
	if got, _ := g.Offset(topicID(1), 2); got.Metadata != "" || got.ExpireMs != -1 || got.Offset != 6 || got.LeaderEpoch != 0 {
		t.Errorf("%+v", got)
	}

	// Generations.
	m.accept(1, m.update("g", 4, "m"))
	m.refuse(1, m.commitOf("g", -1, at(1, 0, 9)), state.GroupNotEmpty)
	m.refuse(1, m.commitOf("g", 3, at(1, 0, 9)), state.StaleGeneration)
	m.refuse(1, m.commitOf("absent", 0, at(1, 0, 9)), state.UnknownGroup)
	m.accept(1, m.commitOf("g", 4, at(1, 0, 9)))
	leave := m.update("g", 5)
	leave.Removes = []string{"m"}
	m.accept(1, leave)
	m.accept(1, m.commitOf("g", -1, at(1, 0, 10)))
	if got := m.committed("g"); got != "1/0=10 1/2=6 2/1=5" {
		t.Error(got)
	}

	// Nothing was taken: no group.
	r = m.apply(1, m.commitOf("none", -1, at(9, 0, 1), entry.GroupOffset{Topic: topicID(1), Metadata: strings.Repeat("x", state.MaxOffsetMetadata+1)}))
	if want := []state.Code{state.UnknownTopic, state.LimitExceeded}; !slices.Equal(r.Ops[0].Offsets, want) || m.s.Group("none") != nil || len(r.Groups) > 0 {
		t.Errorf("%v, changed %v", r.Ops[0].Offsets, r.Groups)
	}
}

func TestDeleteOffsets(t *testing.T) {
	m := grouping(t)
	m.accept(1, m.commitOf("g", -1, at(1, 0, 1), at(1, 1, 1), at(2, 0, 1)))
	m.clock += 100
	m.accept(1, m.commitOf("g", -1, at(1, 1, 2)))
	m.refuse(1, m.deletion("absent", 0), state.UnknownGroup)
	r := m.accept(1, m.deletion("g", start, entry.GroupPartition{Topic: topicID(1)}, entry.GroupPartition{Topic: topicID(1), Partition: 1},
		entry.GroupPartition{Topic: topicID(1), Partition: 2}, entry.GroupPartition{Topic: topicID(1), Partition: 3}, entry.GroupPartition{Topic: topicID(7)}))
	want := []state.Code{state.OK, state.ConditionFailed, state.OK, state.UnknownPartition, state.UnknownTopic}
	if !slices.Equal(r.Ops[0].Offsets, want) {
		t.Errorf("%v, want %v", r.Ops[0].Offsets, want)
	}
	if got := m.committed("g"); got != "1/1=2 2/0=1" {
		t.Error(got)
	}
	m.accept(1, m.deletion("g", 0, entry.GroupPartition{Topic: topicID(1), Partition: 1}, entry.GroupPartition{Topic: topicID(2)}))
	if got := m.committed("g"); got != "" || m.s.OffsetCount() != 0 {
		t.Error(got)
	}
	if m.s.Group("g") == nil {
		t.Error("the group went with its last offset")
	}
}

// TestDeleteTopicDropsOffsets: in every group; a topic of the same name has another id, and none.
func TestDeleteTopicDropsOffsets(t *testing.T) {
	m := grouping(t)
	for i := range 10 {
		m.accept(1, m.commitOf(fmt.Sprint("g", i), -1, at(1, 0, int64(i)), at(2, 5, 1)))
	}
	m.accept(1, m.commitOf("elsewhere", -1, at(2, 1, 1)))
	r := m.accept(1, &entry.DeleteTopic{ID: topicID(1)})
	if len(r.Groups) != 10 || !slices.IsSorted(r.Groups) {
		t.Errorf("changed: %v", r.Groups)
	}
	if got := m.committed("g3"); got != "2/5=1" || m.s.OffsetCount() != 11 {
		t.Errorf("%s; %d offsets", got, m.s.OffsetCount())
	}
	m.accept(1, m.end("g4"))
	if r = m.accept(1, &entry.DeleteTopic{ID: topicID(2)}); len(r.Groups) != 10 {
		t.Errorf("changed: %v", r.Groups)
	}
	if m.s.OffsetCount() != 0 || m.s.GroupCount() != 10 {
		t.Errorf("%d offsets in %d groups", m.s.OffsetCount(), m.s.GroupCount())
	}
}

func TestGroupsAreListed(t *testing.T) {
	m := grouping(t)
	var want []string
	for i := range 200 {
		want = append(want, fmt.Sprint("group-", i*7919%200))
		m.accept(1, m.update(want[i], 1))
	}
	slices.Sort(want)
	var got []string
	for g := range m.s.Groups() {
		got = append(got, g.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	n := 0
	for i := range state.Slots {
		last := ""
		for g := range m.s.GroupsOf(i) {
			if g.Slot != i || g.ID <= last {
				t.Errorf("slot %d has %q after %q", i, g.ID, last)
			}
			last = g.ID
			n++
		}
	}
	if n != 200 || m.s.GroupCount() != 200 {
		t.Errorf("%d groups in slots, %d in all", n, m.s.GroupCount())
	}
	for range m.s.Groups() {
		break
	}
}
