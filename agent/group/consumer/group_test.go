package consumer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/record"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/state"
)

// bench is a group on a table, with what it wrote.
type bench struct {
	t      *testing.T
	cfg    Config
	topics *topicTable
	now    time.Time
	g      *Group
	store  stored
	waiter step.Waiter
}

func newBench(t *testing.T, topics map[string]int32) *bench {
	b := &bench{t: t, topics: newTopics(topics), now: time.Unix(1_700_000_000, 0)}
	if err := b.cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	b.g = New(&b.cfg, "g", 0)
	return b
}

func (b *bench) do(e step.Effects) step.Answer {
	b.t.Helper()
	b.store.apply(e.Write)
	if len(e.Answers) != 1 {
		b.t.Fatalf("%d answers", len(e.Answers))
	}
	return e.Answers[0]
}

// beat sends a heartbeat; its answer's code must be code.
func (b *bench) beat(h Heartbeat, code step.Code) HeartbeatAnswer {
	b.t.Helper()
	h.Version = 1
	if got, why := h.Check("g"); got != step.None {
		b.t.Fatalf("the heartbeat is refused by itself: %d %s", got, why)
	}
	b.waiter++
	a := b.do(b.g.Heartbeat(b.waiter, b.now, &h, b.topics))
	body := a.Body.(HeartbeatAnswer)
	if a.Code != code {
		b.t.Fatalf("code %d (%s), want %d", a.Code, body.Message, code)
	}
	return body
}

func join(id string, names ...string) Heartbeat {
	return Heartbeat{MemberID: id, RebalanceMs: 30_000, Names: names, Owned: []TopicPartitions{}, ClientID: "client", ClientHost: "/127.0.0.1"}
}

func plain(id string, epoch int32) Heartbeat {
	return Heartbeat{MemberID: id, MemberEpoch: epoch, RebalanceMs: -1}
}

func holding(id string, epoch int32, a Assignment) Heartbeat {
	h := plain(id, epoch)
	h.Owned = append([]TopicPartitions{}, a...)
	return h
}

func (b *bench) tick(d time.Duration) {
	b.now = b.now.Add(d)
	b.store.apply(b.g.Tick(b.now).Write)
}

func (b *bench) failOver(complete bool) {
	b.t.Helper()
	g, err := Load(&b.cfg, "g", b.store.generation, b.store.record, b.store.all(), complete, b.now)
	if err != nil {
		b.t.Fatal(err)
	}
	b.g = g
}

func ptr[T any](v T) *T { return &v }

func TestHeartbeatsThatAreNone(t *testing.T) {
	ok := func() Heartbeat {
		h := join("m", "a")
		h.Version = 1
		return h
	}
	for _, c := range []struct {
		name  string
		group string
		spoil func(h *Heartbeat)
		code  step.Code
	}{
		{"valid", "g", func(*Heartbeat) {}, step.None},
		{"no group", " ", func(*Heartbeat) {}, step.InvalidRequest},
		{"no member id", "g", func(h *Heartbeat) { h.MemberID = "" }, step.InvalidRequest},
		{"no member id in version 0", "g", func(h *Heartbeat) { h.MemberID, h.Version = "", 0 }, step.None},
		{"no member id in version 0 at an epoch", "g", func(h *Heartbeat) { h.MemberID, h.Version, h.MemberEpoch = "", 0, 3 }, step.InvalidRequest},
		{"empty instance", "g", func(h *Heartbeat) { h.Instance = ptr("") }, step.InvalidRequest},
		{"empty rack", "g", func(h *Heartbeat) { h.Rack = ptr(" ") }, step.InvalidRequest},
		{"joins without a rebalance timeout", "g", func(h *Heartbeat) { h.RebalanceMs = -1 }, step.InvalidRequest},
		{"joins with partitions", "g", func(h *Heartbeat) { h.Owned = []TopicPartitions{{Partitions: []int32{0}}} }, step.InvalidRequest},
		{"joins without saying what it owns", "g", func(h *Heartbeat) { h.Owned = nil }, step.InvalidRequest},
		{"joins without a subscription", "g", func(h *Heartbeat) { h.Names = nil }, step.InvalidRequest},
		{"joins with an empty subscription", "g", func(h *Heartbeat) { h.Names = []string{} }, step.None},
		{"goes away without an instance", "g", func(h *Heartbeat) { h.MemberEpoch = -2 }, step.InvalidRequest},
		{"epoch -3", "g", func(h *Heartbeat) { h.MemberEpoch = -3 }, step.InvalidRequest},
		{"unknown assignor", "g", func(h *Heartbeat) { h.Assignor = ptr("sticky") }, step.UnsupportedAssignor},
		{"bad expression", "g", func(h *Heartbeat) { h.Regex = ptr("a(") }, step.InvalidRegex},
		{"more names than a record holds", "g", func(h *Heartbeat) {
			h.Names = make([]string, 1000)
			for i := range h.Names {
				h.Names[i] = strings.Repeat("n", 240) + fmt.Sprint(i)
			}
		}, step.InvalidRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := ok()
			c.spoil(&h)
			code, why := h.Check(c.group)
			if code != c.code || (why == "") != (code == step.None) {
				t.Errorf("code %d %q, want %d", code, why, c.code)
			}
		})
	}
}

func TestAMemberIsToldItsAssignmentOnceAndThenNothingIsWritten(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	a := b.beat(join("m1", "a"), step.None)
	if a.MemberEpoch != 1 || !a.Assigned || a.Assignment.Len() != 4 || a.MemberID != "m1" || a.Interval != 5*time.Second {
		t.Fatalf("joined: %+v", a)
	}
	b.beat(holding("m1", 1, a.Assignment), step.None)
	writes := b.store.writes
	for range 3 {
		if a := b.beat(plain("m1", 1), step.None); a.Assigned || a.MemberEpoch != 1 {
			t.Errorf("told again: %+v", a)
		}
	}
	elsewhere := plain("m1", 1)
	elsewhere.ClientHost = "/127.0.0.2" // another connection
	b.beat(elsewhere, step.None)
	if b.store.writes != writes {
		t.Error("heartbeats that change nothing wrote")
	}
	full := join("m1", "a")
	full.MemberEpoch, full.Owned = 1, a.Assignment
	if a := b.beat(full, step.None); !a.Assigned {
		t.Error("a full heartbeat is told the assignment")
	}
	if s := b.g.State(); s != "Stable" {
		t.Errorf("the group is %s", s)
	}
}

func TestAPartitionIsHandedOverWhenItsOwnerSaysSo(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	first := b.beat(join("m1", "a"), step.None)
	second := b.beat(join("m2", "a"), step.None)
	if second.MemberEpoch != 2 || !second.Assigned || second.Assignment.Len() != 0 {
		t.Fatalf("the second gets what the first has: %+v", second)
	}
	told := b.beat(plain("m1", 1), step.None)
	if told.MemberEpoch != 1 || !told.Assigned || told.Assignment.Len() != 2 {
		t.Fatalf("the first is to give up two and keeps its epoch: %+v", told)
	}
	b.failOver(true) // in the middle: nothing is handed out that was not given up
	if a := b.beat(plain("m2", 2), step.None); a.Assigned {
		t.Fatalf("the second was given %v before the first gave it up", a.Assignment)
	}
	if a := b.beat(holding("m1", 1, first.Assignment), step.None); a.MemberEpoch != 1 || a.Assigned {
		t.Fatalf("still holding: %+v", a)
	}
	if a := b.beat(holding("m1", 1, told.Assignment), step.None); a.MemberEpoch != 2 {
		t.Fatalf("has given up: %+v", a)
	}
	a := b.beat(plain("m2", 2), step.None)
	if !a.Assigned || a.Assignment.Len() != 2 {
		t.Fatalf("the second gets its half: %+v", a)
	}
	for topic, p := range a.Assignment.all {
		if told.Assignment.Contains(topic, p) {
			t.Errorf("%x-%d is owned by both", topic, p)
		}
	}
}

func TestEpochsOfMembers(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	first := b.beat(join("m1", "a"), step.None)
	b.beat(join("m2", "a"), step.None)
	b.beat(plain("m9", 1), step.UnknownMemberID)
	b.beat(plain("m1", 7), step.FencedMemberEpoch)
	told := b.beat(plain("m1", 1), step.None)
	b.beat(holding("m1", 1, told.Assignment), step.None) // epoch 2, but the answer is lost
	b.beat(plain("m1", 1), step.FencedMemberEpoch)
	b.beat(holding("m1", 1, first.Assignment), step.FencedMemberEpoch) // it does not own all that any more
	if a := b.beat(holding("m1", 1, told.Assignment), step.None); a.MemberEpoch != 2 {
		t.Errorf("the lost answer comes again: %+v", a)
	}
	b.beat(plain("m1", 2), step.None)
	if a := b.beat(join("m1", "a"), step.None); a.MemberEpoch != 2 || !a.Assigned || a.Assignment.Len() != 2 {
		t.Errorf("a known member that joins has what it has: %+v", a)
	}
}

func TestStaticMembers(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	static := func(id string, epoch int32, instance string) Heartbeat {
		h := plain(id, epoch)
		if epoch == 0 {
			h = join(id, "a")
		}
		h.Instance = &instance
		return h
	}
	b.beat(static("s1", 0, "i1"), step.None)
	b.beat(join("m2", "a"), step.None)
	was := b.beat(static("s1", 1, "i1"), step.None)
	ack := static("s1", 1, "i1")
	ack.Owned = was.Assignment
	b.beat(ack, step.None)
	b.beat(plain("m2", 2), step.None)

	b.beat(static("s9", 0, "i1"), step.UnreleasedInstanceID)
	b.beat(static("s9", 2, "i1"), step.FencedInstanceID)
	b.beat(static("s9", -1, "i1"), step.FencedInstanceID)
	b.beat(static("s1", 2, "i9"), step.UnknownMemberID)
	b.beat(static("s1", -1, "i9"), step.UnknownMemberID)

	if a := b.beat(static("s1", -2, "i1"), step.None); a.MemberEpoch != -2 {
		t.Fatalf("away: %+v", a)
	}
	epoch := b.g.Generation()
	b.failOver(true)
	if a := b.beat(plain("m2", 2), step.None); a.Assigned {
		t.Errorf("what a static member that is away has goes to another: %+v", a)
	}
	back := b.beat(static("s2", 0, "i1"), step.None)
	if !back.Assignment.equal(was.Assignment) || b.g.Generation() != epoch || back.MemberEpoch != epoch {
		t.Errorf("back: %+v, had %v; the group's epoch went from %d to %d", back, was.Assignment, epoch, b.g.Generation())
	}
	b.beat(static("s1", 2, "i1"), step.FencedInstanceID)

	b.beat(static("s2", -2, "i1"), step.None)
	if a := b.beat(static("s2", 0, "i1"), step.None); a.MemberEpoch != epoch || !a.Assignment.equal(was.Assignment) {
		t.Errorf("back under the same id: %+v", a)
	}
	b.beat(static("s2", -2, "i1"), step.None)
	for range 10 {
		b.tick(5 * time.Second)
		b.beat(plain("m2", b.g.members["m2"].epoch), step.None)
	}
	if b.g.Members() != 1 || b.g.members["m2"].assigned.assignment().Len() != 4 {
		t.Errorf("after its session the static member still has something: %v", b.g.Describe())
	}
}

func TestMembersThatAreSilentOrKeepWhatTheyShouldNot(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 2})
	first := b.beat(join("m1", "a"), step.None)
	b.beat(join("m2", "a"), step.None)
	b.beat(plain("m1", 1), step.None) // is told to give one up
	for range 5 {
		b.tick(5 * time.Second)
		b.beat(holding("m1", 1, first.Assignment), step.None)
		b.beat(plain("m2", 2), step.None)
	}
	b.tick(5 * time.Second) // 30 s: its rebalance timeout
	b.beat(plain("m1", 1), step.UnknownMemberID)
	if a := b.beat(plain("m2", 2), step.None); a.Assignment.Len() != 2 {
		t.Fatalf("the other has all: %+v", a)
	}
	b.tick(44 * time.Second)
	if b.g.Members() != 1 {
		t.Fatal("removed before its session is over")
	}
	if d := b.g.Deadline(); d.After(b.now.Add(time.Second)) {
		t.Fatalf("the deadline is %s away", d.Sub(b.now))
	}
	b.tick(time.Second)
	if b.g.Members() != 0 || len(b.store.members) != 0 || b.g.State() != "Empty" || !b.g.Idle() {
		t.Fatalf("a silent member stays: %v", b.g.Describe())
	}
	if !b.g.Deadline().IsZero() {
		t.Error("a group without members has a deadline")
	}
}

func TestSessionsStartAnewWithACoordinator(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 2})
	b.beat(join("m1", "a"), step.None)
	b.now = b.now.Add(time.Hour)
	b.failOver(true)
	b.tick(44 * time.Second)
	b.beat(plain("m1", 1), step.None)
}

func TestAGroupIsFull(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 2})
	b.cfg.MembersMax = 1
	h := join("m1", "a")
	h.Instance = ptr("i1")
	b.beat(h, step.None)
	b.beat(join("m2", "a"), step.GroupMaxSizeReached)
	b.beat(plain("m1", 1), step.None)
	b.beat(Heartbeat{MemberID: "m1", MemberEpoch: -2, Instance: ptr("i1")}, step.None)
	h.MemberID = "m3"
	b.beat(h, step.None) // it takes a place that is taken already
	if b.g.Members() != 1 {
		t.Errorf("%d members", b.g.Members())
	}
}

func TestTopicsMoveTheEpoch(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 2, "b1": 1})
	h := join("m1", "a", "later")
	h.Regex = ptr("b.")
	if a := b.beat(h, step.None); a.Assignment.Len() != 3 {
		t.Fatalf("joined: %+v", a)
	}
	epoch := b.g.Generation()
	expect := func(what string, partitions int) {
		t.Helper()
		b.now = b.now.Add(regexInterval)
		m := b.g.members["m1"]
		a := b.beat(holding("m1", m.epoch, m.assigned.assignment()), step.None)
		for range 3 { // what it is to give up is given up
			m = b.g.members["m1"]
			a = b.beat(holding("m1", m.epoch, m.assigned.assignment()), step.None)
		}
		if epoch++; b.g.Generation() != epoch || a.MemberEpoch != epoch || b.g.members["m1"].assigned.assignment().Len() != partitions {
			t.Errorf("%s: group at %d, member at %d, want %d; %v", what, b.g.Generation(), a.MemberEpoch, epoch, b.g.Describe())
		}
	}
	b.topics.grow("a", 2)
	expect("a topic grew", 5)
	b.topics.make("later", 1)
	expect("a topic that was waited for was made", 6)
	b.topics.make("b2", 3)
	expect("a topic that the expression matches was made", 9)
	b.topics.delete("a")
	expect("a topic was deleted", 5)
	b.topics.make("a", 1)
	expect("a topic was made again", 6)
	b.topics.make("c", 1)
	b.topics.make("xb1", 1)
	b.topics.make("b11", 1)
	b.now = b.now.Add(regexInterval)
	if b.beat(plain("m1", epoch), step.None); b.g.Generation() != epoch {
		t.Error("a topic that nobody subscribes to moved the epoch")
	}
	writes := b.store.writes
	b.failOver(true)
	if b.beat(plain("m1", epoch), step.None); b.g.Generation() != epoch || b.store.writes != writes {
		t.Error("a new coordinator moved the epoch though no topic had changed")
	}
	b.topics.grow("a", 1)
	b.failOver(true)
	expect("a topic grew while the group had no coordinator", 7)
}

func TestExpressionsAreMatchedAtMostOnceASecond(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 1})
	h := join("m1")
	h.Names, h.Regex = nil, ptr(".*")
	b.beat(h, step.None)
	b.topics.make("b", 1)
	if b.beat(plain("m1", 1), step.None); b.g.Generation() != 1 {
		t.Error("matched again at once")
	}
	other := join("m2")
	other.Names, other.Regex = nil, ptr("b")
	if a := b.beat(other, step.None); a.Assignment.Len() != 1 {
		t.Errorf("a new expression waits: %+v", a)
	}
	b.now = b.now.Add(regexInterval)
	if b.beat(plain("m1", 1), step.None); b.g.Generation() != 2 {
		t.Errorf("the group is at epoch %d, 2 expected: nothing that anybody subscribes to has changed since", b.g.Generation())
	}
	b.topics.make("c", 1)
	b.now = b.now.Add(regexInterval)
	if b.beat(plain("m2", 2), step.None); b.g.Generation() != 3 {
		t.Errorf("the group is at epoch %d after a new topic, want 3", b.g.Generation())
	}
}

func TestTopicsThatAreGoneLeaveNothing(t *testing.T) {
	b := newBench(t, nil)
	h := join("m1")
	h.Names, h.Regex = nil, ptr(".*")
	b.beat(h, step.None)
	for i := range 20 {
		b.topics.make(fmt.Sprint("t", i), 3)
		for range 3 {
			b.now = b.now.Add(regexInterval)
			m := b.g.members["m1"]
			b.beat(holding("m1", m.epoch, m.assigned.assignment()), step.None)
		}
		b.topics.delete(fmt.Sprint("t", i))
	}
	if n := len(b.g.owners); n > 2 {
		t.Errorf("the group remembers the owners of %d topics, and one was there at a time", n)
	}
}

// A member with as many topics as it may have fits the record that the state keeps of it.
func TestASubscriptionToVeryManyTopics(t *testing.T) {
	b := newBench(t, nil)
	for i := range topicsMax + 10 {
		b.topics.make(fmt.Sprintf("topic-%05d", i), 3)
	}
	h := join("m1")
	h.Names, h.Regex = nil, ptr("topic-.*")
	if a := b.beat(h, step.None); len(a.Assignment) != topicsMax {
		t.Fatalf("a member has %d topics, want %d", len(a.Assignment), topicsMax)
	}
	if n := len(b.store.members["m1"]); n > state.MaxGroupRecord {
		t.Errorf("its record has %d bytes, and the state takes %d", n, state.MaxGroupRecord)
	}
	h.MemberID = "m2"
	b.beat(h, step.None)
	b.beat(plain("m1", 1), step.None) // gives up a half of each: the most that a record says
	if n := len(b.store.members["m1"]); n > state.MaxGroupRecord {
		t.Errorf("its record has %d bytes while it gives up half, and the state takes %d", n, state.MaxGroupRecord)
	}
}

func TestAPartOfAChangeIsMadeGood(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	b.beat(join("m1", "a"), step.None)
	b.beat(join("m2", "a"), step.None)
	epoch := b.g.Generation()
	b.failOver(false)
	b.beat(plain("m1", 1), step.None)
	if b.g.Generation() != epoch+1 || b.g.targetEpoch != epoch+1 {
		t.Errorf("the group is at epoch %d with a target of %d, want %d", b.g.Generation(), b.g.targetEpoch, epoch+1)
	}
}

// A group whose upgrade came only in part has members that are still written as those of a classic group, or as what they were
// before partitions changed hands. They have to join again, and nobody's record keeps the group from being loaded.
func TestAPartOfAChangeOfProtocolIsMadeGood(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	b.beat(join("m1", "a"), step.None)
	_, eff := classic.From("g", &classic.Config{}, classicGroup(b.topics), b.now)
	for _, m := range eff.Write.Puts {
		b.store.members[m.ID] = m.Record
	}
	b.store.members["m2"] = b.store.members["m1"]
	if _, err := Load(&b.cfg, "g", b.store.generation, b.store.record, b.store.all(), true, b.now); !errors.Is(err, record.ErrCorrupt) {
		t.Errorf("as a whole: %v", err)
	}
	b.failOver(false)
	b.tick(0)
	if len(b.store.members) != 1 || b.g.Members() != 1 {
		t.Errorf("%d members in the state, %d in memory, want the one that was written", len(b.store.members), b.g.Members())
	}
	for id := range b.store.members {
		b.beat(plain(id, 1), step.None)
	}

	clear(b.store.members) // nobody is left who would send a heartbeat
	b.store.members["c1"] = eff.Write.Puts[0].Record
	b.failOver(false)
	b.tick(0)
	if len(b.store.members) != 0 || !b.g.Idle() {
		t.Errorf("%d members are left in the state; idle: %v", len(b.store.members), b.g.Idle())
	}
}

func TestMostMembersChooseTheAssignor(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 3, "b": 3})
	with := func(id, assignor string) Heartbeat {
		h := join(id, "a", "b")
		h.Assignor = &assignor
		return h
	}
	b.beat(with("m1", Range), step.None)
	if a := b.g.Describe().Assignor; a != Range {
		t.Errorf("assignor %s", a)
	}
	b.beat(with("m2", Uniform), step.None)
	if a := b.g.Describe().Assignor; a != Uniform {
		t.Errorf("assignor %s", a)
	}
	epoch := b.g.Generation()
	b.beat(with("m2", Range), step.None)
	if a := b.g.Describe(); a.Assignor != Range || b.g.Generation() != epoch+1 || a.TargetEpoch != epoch+1 {
		t.Errorf("after a change of mind: %+v", a)
	}
}

func TestCommitsOfMembers(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	if code, each := b.g.CheckCommit("", -1, 9); code != step.None || each(topicID(0), 0) != step.None {
		t.Error("a group without members takes anybody's commits")
	}
	first := b.beat(join("m1", "a"), step.None)
	b.beat(join("m2", "a"), step.None)
	told := b.beat(plain("m1", 1), step.None)
	check := func(what, id string, epoch int32, version int16, want step.Code) {
		t.Helper()
		if code, _ := b.g.CheckCommit(id, epoch, version); code != want {
			t.Errorf("%s: code %d, want %d", what, code, want)
		}
	}
	check("nobody", "", -1, 9, step.UnknownMemberID)
	check("a stranger", "m9", 1, 9, step.UnknownMemberID)
	check("too old a version", "m1", 1, 8, step.UnsupportedVersion)
	check("in a transaction", "m1", 1, 0, step.None)
	check("a member", "m1", 1, 9, step.None)
	check("a later epoch", "m1", 2, 9, step.StaleMemberEpoch)
	check("a negative epoch", "m1", -1, 9, step.StaleMemberEpoch)

	b.beat(holding("m1", 1, told.Assignment), step.None) // now at epoch 2
	code, each := b.g.CheckCommit("m1", 1, 10)
	if code != step.None {
		t.Fatalf("under its epoch before: code %d", code)
	}
	for topic, p := range first.Assignment.all {
		want := step.StaleMemberEpoch
		if told.Assignment.Contains(topic, p) {
			want = step.None
		}
		if got := each(topic, p); got != want {
			t.Errorf("partition %d under the epoch before: code %d, want %d", p, got, want)
		}
	}
	for _, c := range []struct {
		id    string
		epoch int32
		want  step.Code
	}{
		{"", -1, step.None}, {"m1", 2, step.None}, {"m1", 1, step.StaleMemberEpoch}, {"m9", 1, step.UnknownMemberID},
	} {
		if got := b.g.CheckFetch(c.id, c.epoch); got != c.want {
			t.Errorf("fetching offsets as %q at %d: code %d, want %d", c.id, c.epoch, got, c.want)
		}
	}
}

// classicGroup describes two members of a classic group that share a topic of four partitions.
func classicGroup(topics *topicTable) classic.Description {
	d := classic.Description{State: classic.Stable, Generation: 7, ProtocolType: ConsumerProtocol, Protocol: "cooperative-sticky", Leader: "c1"}
	for i, id := range []string{"c1", "c2"} {
		d.Members = append(d.Members, classic.MemberDescription{
			ID: id, ClientID: "old", Host: "/127.0.0.1", SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute,
			Protocols:  []classic.Protocol{{Name: "cooperative-sticky", Metadata: appendSubscription([]string{"a"}, nil)}},
			Assignment: appendAssignment(nil, 1, []namedPartitions{{topic: "a", partitions: []int32{int32(2 * i), int32(2*i + 1)}}}),
		})
	}
	return d
}

func (b *bench) rejoin(id string, held []int32) *classic.Joined {
	b.t.Helper()
	var owned []namedPartitions
	if held != nil {
		owned = []namedPartitions{{topic: "a", partitions: held}}
	}
	b.waiter++
	a := b.do(b.g.Join(&classic.JoinRequest{
		MemberID: id, ProtocolType: ConsumerProtocol, SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute,
		Protocols: []classic.Protocol{{Name: "cooperative-sticky", Metadata: appendSubscription([]string{"a"}, owned)}},
	}, b.waiter, b.now, b.topics))
	if a.Code != step.None {
		b.t.Fatalf("join of %s: code %d", id, a.Code)
	}
	return a.Body.(*classic.Joined)
}

func (b *bench) sync(id string, generation int32) []int32 {
	b.t.Helper()
	b.waiter++
	a := b.do(b.g.Sync(&classic.SyncRequest{MemberID: id, Generation: generation, ProtocolType: ConsumerProtocol, Protocol: "cooperative-sticky"}, b.waiter, b.now, b.topics))
	if a.Code != step.None {
		b.t.Fatalf("sync of %s: code %d", id, a.Code)
	}
	list, err := parseAssignment(a.Body.(*classic.Synced).Assignment)
	if err != nil || len(list) > 1 {
		b.t.Fatalf("assignment %v, %v", list, err)
	}
	if len(list) == 0 {
		return nil
	}
	return list[0].partitions
}

func TestAClassicGroupIsUpgradedAndComesBack(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	d := classicGroup(b.topics)
	if code, why := Upgrades(&b.cfg, d); code != step.None {
		t.Fatalf("%d %s", code, why)
	}
	b.g = FromClassic(&b.cfg, "g", d, nil, b.topics, b.now)
	if code := b.g.ClassicHeartbeat("c1", "", 7, b.now); code != step.RebalanceInProgress {
		t.Fatalf("a classic member of an upgraded group hears %d", code)
	}
	joined := b.beat(join("m1", "a"), step.None)
	if joined.MemberEpoch != 8 || joined.Assignment.Len() != 0 {
		t.Fatalf("the new member: %+v", joined)
	}
	if len(b.store.members) != 3 || b.store.generation != 8 {
		t.Fatalf("written: generation %d, %d members", b.store.generation, len(b.store.members))
	}
	b.failOver(true)
	kept := map[string][]int32{}
	for i, id := range []string{"c1", "c2"} {
		had := []int32{int32(2 * i), int32(2*i + 1)}
		j := b.rejoin(id, had)
		if j.Leader != "" || j.Protocol != "cooperative-sticky" || j.MemberID != id {
			t.Fatalf("joined: %+v", j)
		}
		got := b.sync(id, j.Generation)
		if len(got) == 1 { // told to give one up: joins again without it
			if code := b.g.ClassicHeartbeat(id, "", j.Generation, b.now); code != step.RebalanceInProgress {
				t.Errorf("a member that is to give something up hears %d", code)
			}
			j = b.rejoin(id, got)
			got = b.sync(id, j.Generation)
		}
		kept[id] = got
		if code := b.g.ClassicHeartbeat(id, "", j.Generation, b.now); code != step.None {
			t.Errorf("settled, and hears %d", code)
		}
		if code := b.g.ClassicHeartbeat(id, "", j.Generation-1, b.now); code != step.IllegalGeneration {
			t.Errorf("an old generation hears %d", code)
		}
		if code, _ := b.g.CheckCommit(id, j.Generation, 5); code != step.None {
			t.Errorf("its commit: code %d", code)
		}
		if code, _ := b.g.CheckCommit(id, 99, 5); code != step.IllegalGeneration {
			t.Errorf("its commit of a later generation: code %d", code)
		}
	}
	a := b.beat(plain("m1", 8), step.None)
	if a.Assignment.Len()+len(kept["c1"])+len(kept["c2"]) != 4 || a.Assignment.Len() == 0 {
		t.Fatalf("the new member has %v, the others %v", a.Assignment, kept)
	}
	if b.g.Downgrades() {
		t.Fatal("a group with a member of the consumer protocol is to be downgraded")
	}
	b.beat(Heartbeat{MemberID: "m1", MemberEpoch: -1}, step.None)
	if !b.g.Downgrades() {
		t.Fatal("only classic members are left")
	}
	back := b.g.Classic(b.topics)
	if back.Generation != 8 || back.Protocol != "cooperative-sticky" || len(back.Members) != 2 || back.ProtocolType != ConsumerProtocol {
		t.Fatalf("classic again: %+v", back)
	}
	for _, m := range back.Members {
		list, err := parseAssignment(m.Assignment)
		if err != nil || len(list) != 1 || !slices.Equal(list[0].partitions, kept[m.ID]) || m.SessionTimeout != 10*time.Second {
			t.Errorf("member %s goes back with %v %v, had %v", m.ID, list, err, kept[m.ID])
		}
	}
}

// What a client names that no topic has is nothing that anybody has, however high its number.
func TestPartitionsThatAreNotThereAreNotUpgraded(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	d := classicGroup(b.topics)
	d.Members[0].Assignment = appendAssignment(nil, 1, []namedPartitions{{topic: "a", partitions: []int32{-1, 0, 1, 4, 1000}}})
	b.g = FromClassic(&b.cfg, "g", d, nil, b.topics, b.now)
	a := b.beat(join("m1", "a"), step.None)
	for _, m := range b.g.Describe().Members {
		if n := m.Assigned.Len(); m.ID != a.MemberID && n != 2 {
			t.Errorf("%s has %d partitions: %v", m.ID, n, m.Assigned)
		}
	}
	for _, list := range b.g.owners {
		if len(list) > 4 {
			t.Errorf("%d places for the owners of 4 partitions", len(list))
		}
	}
}

func TestMigrationPolicy(t *testing.T) {
	for _, c := range []struct {
		policy   Migration
		up, down bool
	}{{Bidirectional, true, true}, {Upgrade, true, false}, {Downgrade, false, true}, {Disabled, false, false}} {
		b := newBench(t, map[string]int32{"a": 4})
		d := classicGroup(b.topics)
		g := FromClassic(&b.cfg, "g", d, nil, b.topics, b.now)
		b.cfg.Migration = c.policy
		if code, _ := Upgrades(&b.cfg, d); (code == step.None) != c.up {
			t.Errorf("policy %d: upgrade gets code %d", c.policy, code)
		}
		if g.Downgrades() != c.down {
			t.Errorf("policy %d: downgrade %v", c.policy, g.Downgrades())
		}
	}
	b := newBench(t, map[string]int32{"a": 4})
	d := classicGroup(b.topics)
	d.ProtocolType = "connect"
	if code, _ := Upgrades(&b.cfg, d); code != step.GroupIDNotFound {
		t.Errorf("workers of Connect are upgraded: %d", code)
	}
	d = classicGroup(b.topics)
	d.Members[1].Protocols[0].Metadata = []byte{0, 1, 0}
	if code, _ := Upgrades(&b.cfg, d); code != step.GroupIDNotFound {
		t.Errorf("a member whose metadata is malformed is upgraded: %d", code)
	}
	d = classicGroup(b.topics)
	b.cfg.MembersMax = 1
	if code, _ := Upgrades(&b.cfg, d); code != step.GroupIDNotFound {
		t.Errorf("a group that is too large is upgraded: %d", code)
	}
}

func TestClassicMembersThatDoNotComeBack(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	b.g = FromClassic(&b.cfg, "g", classicGroup(b.topics), nil, b.topics, b.now)
	b.beat(join("m1", "a"), step.None)
	for i := range 12 { // c1 is told to join and only sends heartbeats; c2 joins and never syncs
		b.g.ClassicHeartbeat("c1", "", 7, b.now)
		if i == 0 {
			b.rejoin("c2", nil)
		}
		b.g.alive(b.g.members["c2"], b.now)
		b.beat(plain("m1", b.g.members["m1"].epoch), step.None)
		if b.g.Members() != 3 {
			t.Fatalf("%d members after %d s", b.g.Members(), 5*i)
		}
		b.tick(5 * time.Second)
	}
	if b.g.Members() != 1 {
		t.Fatalf("%d members after a minute, want the one that does as it is told", b.g.Members())
	}
}

func TestJoinsOfTheClassicProtocolThatAreRefused(t *testing.T) {
	b := newBench(t, map[string]int32{"a": 4})
	b.g = FromClassic(&b.cfg, "g", classicGroup(b.topics), nil, b.topics, b.now)
	b.beat(join("m1", "a"), step.None)
	ask := func(change func(r *classic.JoinRequest)) step.Answer {
		r := &classic.JoinRequest{
			NewID: "new", ProtocolType: ConsumerProtocol, SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute,
			Protocols: []classic.Protocol{{Name: "cooperative-sticky", Metadata: appendSubscription([]string{"a"}, nil)}},
		}
		change(r)
		b.waiter++
		return b.do(b.g.Join(r, b.waiter, b.now, b.topics))
	}
	writes := b.store.writes
	for _, c := range []struct {
		name   string
		change func(r *classic.JoinRequest)
		code   step.Code
	}{
		{"another type", func(r *classic.JoinRequest) { r.ProtocolType = "connect" }, step.InconsistentProtocol},
		{"no common protocol", func(r *classic.JoinRequest) { r.Protocols[0].Name = "range" }, step.InconsistentProtocol},
		{"no protocol", func(r *classic.JoinRequest) { r.Protocols = nil }, step.InconsistentProtocol},
		{"malformed", func(r *classic.JoinRequest) { r.Protocols[0].Metadata = []byte{0} }, step.InconsistentProtocol},
		{"without an id", func(r *classic.JoinRequest) { r.KnownIDs = true }, step.MemberIDRequired},
		{"an instance that nobody has", func(r *classic.JoinRequest) { r.MemberID, r.InstanceID = "x", "y" }, step.UnknownMemberID},
	} {
		if a := ask(c.change); a.Code != c.code {
			t.Errorf("%s: code %d, want %d", c.name, a.Code, c.code)
		} else if id := a.Body.(*classic.Joined).MemberID; c.code == step.MemberIDRequired && id != "new" {
			t.Errorf("%s: told the id %q", c.name, id)
		}
	}
	if b.store.writes != writes {
		t.Error("a refused join wrote")
	}
	if a := ask(func(*classic.JoinRequest) {}); a.Code != step.None || b.g.Members() != 4 {
		t.Errorf("a client that cannot be told its id first: code %d, %d members", a.Code, b.g.Members())
	}
	b.waiter++
	a := b.do(b.g.Leave([]classic.LeaveRequest{{MemberID: "new"}, {MemberID: "nobody"}, {MemberID: "m1"}}, b.waiter, b.now))
	if codes := a.Body.([]step.Code); !slices.Equal(codes, []step.Code{step.None, step.UnknownMemberID, step.UnknownMemberID}) {
		t.Errorf("leaving: %v", codes)
	}
}

// BenchmarkHeartbeat is a heartbeat that changes nothing, in a group of 1 000 members.
func BenchmarkHeartbeat(b *testing.B) {
	topics := newTopics(map[string]int32{"a": 1000})
	cfg := Config{HeartbeatInterval: 5 * time.Second, SessionTimeout: 45 * time.Second}
	now := time.Unix(1_700_000_000, 0)
	g := New(&cfg, "g", 0)
	for i := range 1000 {
		h := join(fmt.Sprintf("m%04d", i), "a")
		g.Heartbeat(0, now, &h, topics)
	}
	for range 4 {
		for _, id := range g.sortedIDs() {
			m := g.members[id]
			h := holding(id, m.epoch, m.assigned.assignment())
			g.Heartbeat(0, now, &h, topics)
		}
	}
	if s := g.State(); s != "Stable" {
		b.Fatalf("the group is %s", s)
	}
	h := plain("m0500", g.members["m0500"].epoch)
	for b.Loop() {
		if e := g.Heartbeat(0, now, &h, topics); e.Write != nil {
			b.Fatal("it wrote")
		}
	}
}

// BenchmarkJoin is a member that joins a group of 1 000 and leaves it again: two epochs, a target, and what is written of it.
func BenchmarkJoin(b *testing.B) {
	topics := newTopics(map[string]int32{"a": 1000})
	cfg := Config{HeartbeatInterval: 5 * time.Second, SessionTimeout: 45 * time.Second}
	now := time.Unix(1_700_000_000, 0)
	g := New(&cfg, "g", 0)
	for i := range 999 {
		h := join(fmt.Sprintf("m%04d", i), "a")
		g.Heartbeat(0, now, &h, topics)
	}
	in, out := join("new", "a"), Heartbeat{MemberID: "new", MemberEpoch: -1}
	for b.Loop() {
		g.Heartbeat(0, now, &in, topics)
		g.Heartbeat(0, now, &out, topics)
	}
}
