package check_test

import (
	"testing"

	"github.com/firnlog/firn/localstack/check"
)

// groupRun is a group of two members over one partition of ten records: a reads five and commits them, loses the partition after
// seven, and b reads on from what is committed.
func groupRun(t *testing.T, h *check.History, change func(*check.Group)) check.GroupSummary {
	t.Helper()
	g := check.NewGroup(1)
	g.Assigned("a", 0)
	for n := range 7 {
		g.Read("a", 0, int64(n), uint32(n))
	}
	g.Committed(0, 5)
	g.FoundCommitted(0, g.CommitFloor(0), 5)
	g.Revoked("a", 0)
	g.Assigned("b", 0)
	for n := 5; n < 10; n++ {
		g.Read("b", 0, int64(n), uint32(n))
	}
	if change != nil {
		change(g)
	}
	return g.Finish(h, []int64{10}, []int64{10})
}

func logOfTen(t *testing.T) *check.History {
	t.Helper()
	h, err := check.New(check.Config{Run: 1, Partitions: 1, RecordsMax: 100})
	if err != nil {
		t.Fatal(err)
	}
	reader := h.Reader()
	for range 10 {
		n, _ := h.Assign()
		value := check.AppendValue(nil, check.Value{Run: 1, Number: n}, 0)
		h.Send(n, 0, 0, check.BodyDigest(nil, value))
		h.Ack(n, int64(n))
		reader.Read(0, 0, []check.Record{{Offset: int64(n), Value: value}})
	}
	return h
}

func TestAGroupInOrderIsRight(t *testing.T) {
	s := groupRun(t, logOfTen(t), nil)
	if s.Verdict() != "" || s.Shown != 12 || s.Repeated != 2 {
		t.Fatalf("%q, shown %d, repeated %d: %v", s.Verdict(), s.Shown, s.Repeated, s.Findings)
	}
}

// A judge that cannot fail proves nothing.
func TestWhatIsWrongWithAGroupIsFound(t *testing.T) {
	for _, c := range []struct {
		want   check.GroupKind
		change func(*check.Group)
	}{
		{check.GroupGap, func(g *check.Group) { g.Read("b", 0, 12, 12) }},
		{check.GroupBack, func(g *check.Group) { g.Read("b", 0, 8, 8) }},
		{check.GroupStray, func(g *check.Group) { g.Read("a", 0, 7, 7) }},
		{check.GroupStray, func(g *check.Group) { g.Gone("b"); g.Read("b", 0, 10, 10) }},
		{check.GroupOtherThing, func(g *check.Group) { g.Assigned("b", 0); g.Read("b", 0, 5, 6) }},
		{check.CommitBack, func(g *check.Group) { g.FoundCommitted(0, g.CommitFloor(0), 4) }},
		{check.CommitBack, func(g *check.Group) { g.Committed(0, 8); g.FoundCommitted(0, g.CommitFloor(0), 7) }},
		{check.CommitBack, func(g *check.Group) {
			g.FoundCommitted(0, g.CommitFloor(0), 9)
			g.FoundCommitted(0, g.CommitFloor(0), 8)
		}},
	} {
		s := groupRun(t, logOfTen(t), c.change)
		if s.Of(c.want) != 1 || s.Only(check.CommitBack) != (c.want == check.CommitBack) {
			t.Errorf("%v is not found: %q %v", c.want, s.Verdict(), s.Findings)
		}
	}
	for _, c := range []struct {
		want            check.GroupKind
		ends, committed int64
	}{{check.GroupUnseen, 11, 11}, {check.CommitBeyond, 10, 9}} {
		g := check.NewGroup(1)
		g.Assigned("a", 0)
		for n := range 10 {
			g.Read("a", 0, int64(n), uint32(n))
		}
		if g.SeenUpTo([]int64{c.ends}) != (c.want != check.GroupUnseen) {
			t.Errorf("seen up to %d is wrong", c.ends)
		}
		if s := g.Finish(logOfTen(t), []int64{c.ends}, []int64{c.committed}); s.Of(c.want) != 1 {
			t.Errorf("%v is not found: %q %v", c.want, s.Verdict(), s.Findings)
		}
	}
	g := check.NewGroup(1)
	g.Assigned("a", 0)
	for n := range 10 {
		g.Read("a", 0, int64(n), uint32(9-n))
	}
	if s := g.Finish(logOfTen(t), []int64{10}, []int64{10}); s.Of(check.GroupOtherThing) != 10 {
		t.Errorf("records of other offsets are not found: %q", s.Verdict())
	}
	if s := check.NewGroup(1).Finish(logOfTen(t), []int64{0}, []int64{0}); s.Verdict() == "" {
		t.Error("a group that saw nothing passes")
	}
}

func TestALateAnswerIsNoStepBack(t *testing.T) {
	s := groupRun(t, logOfTen(t), func(g *check.Group) {
		floor := g.CommitFloor(0) // asked
		g.Committed(0, 8)         // acknowledged meanwhile
		g.FoundCommitted(0, floor, 5)
	})
	if s.Verdict() != "" {
		t.Fatalf("%q: %v", s.Verdict(), s.Findings)
	}
}
