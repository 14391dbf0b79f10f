package logtest

import (
	"bytes"
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/firnlog/firn/metastore/log"
)

func identityIsMadeOnce(t *testing.T, s *store) {
	ids := make([]log.Identity, 6)
	var tasks sync.WaitGroup
	for i := range ids {
		l := s.log(t)
		tasks.Go(func() {
			var err error
			if ids[i], err = l.Identity(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	tasks.Wait()
	if ids[0].ID == [16]byte{} || ids[0].Epoch != 1 || ids[0].Base != 0 || ids[0].Cluster == "" {
		t.Errorf("a new log is %+v", ids[0])
	}
	for _, i := range ids {
		if i != ids[0] {
			t.Errorf("%+v is not %+v", i, ids[0])
		}
	}
}

func commitHasOneOutcome(t *testing.T, s *store) {
	a := s.agent(t)
	other := a.identity
	other.Epoch++
	first := a.next()
	stranger := log.Key{Incarnation: newIncarnation(), Seq: 1}
	for _, step := range []struct {
		name     string
		identity log.Identity
		key      log.Key
		want     log.Outcome
		head     uint64
	}{
		{"a new entry", a.identity, first, log.Committed, 1},
		{"the same again", a.identity, first, log.Exists, 1},
		{"another log", other, a.next(), log.WrongLog, 1},
		{"another log, an entry that is there", other, first, log.WrongLog, 1},
		{"nobody registered", a.identity, stranger, log.Fenced, 1},
		{"the next entry", a.identity, log.Key{Incarnation: a.incarnation, Seq: 2}, log.Committed, 2},
	} {
		got, err := a.Commit(t.Context(), step.identity, step.key, value(step.key, 0))
		if err != nil || got != step.want {
			t.Errorf("%s: outcome %d, %v; want %d", step.name, got, err, step.want)
		}
		if n, err := a.Head(t.Context()); err != nil || n != step.head {
			t.Errorf("%s: head %d, %v; want %d", step.name, n, err, step.head)
		}
	}
}

func largestValue(t *testing.T, s *store) {
	a := s.agent(t)
	k := a.next()
	_, err := a.Commit(t.Context(), a.identity, k, make([]byte, log.MaxValueBytes+1))
	wantErr(t, err, log.ErrTooLarge)
	big := value(k, log.MaxValueBytes-len(k.String()))
	if got, err := a.Commit(t.Context(), a.identity, k, big); err != nil || got != log.Committed {
		t.Fatalf("outcome %d, %v", got, err)
	}
	entries, _ := readAll(t, a, 0, nil, 1)
	if len(entries) != 1 || !bytes.Equal(entries[0].Value, big) {
		t.Fatalf("read %d entries", len(entries))
	}
	clear(big) // the caller's buffer is the caller's again
	again, err := watchN(t.Context(), a, log.Cursor{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	checkDense(t, again, 0)
}

func numbersAreDense(t *testing.T, s *store) {
	const committers, each = 8, 40
	agents := make([]*agent, committers)
	for i := range agents {
		agents[i] = s.agent(t)
	}
	_, start := readAll(t, agents[0], 0, nil, 1<<20)
	seen := make(chan []log.Entry, 1)
	go func() {
		entries, err := watchN(t.Context(), agents[1], start, committers*each)
		if err != nil {
			t.Error(err)
		}
		seen <- entries
	}()
	commitAll(t, agents, each)
	watched := <-seen
	if len(watched) != committers*each {
		t.Fatalf("watched %d entries of %d", len(watched), committers*each)
	}
	checkDense(t, watched, 0)
	read, _ := readAll(t, agents[2], 0, nil, 1<<20)
	equal(t, watched, read)
	if n, err := agents[3].Head(t.Context()); err != nil || n != committers*each {
		t.Errorf("head %d, %v", n, err)
	}
}

// retryAfterTrim shows the hole that the state machine closes: a trim re-arms the guard. The late duplicate is an entry like
// any other, and Read finds it although its seq was applied long ago.
func retryAfterTrim(t *testing.T, s *store) {
	a, b := s.agent(t), s.agent(t)
	a.mustCommit(t, 3)
	b.mustCommit(t, 3)
	old := log.Key{Incarnation: a.incarnation, Seq: 2}
	if err := a.Trim(t.Context(), []log.Key{{Incarnation: a.incarnation, Seq: 1}, old}, log.Cursor{Revision: math.MaxInt64}); err != nil {
		t.Fatal(err)
	}
	_, cursor, _, err := a.Read(t.Context(), 6, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Commit(t.Context(), a.identity, old, value(old, 0))
	if err != nil || got != log.Committed {
		t.Fatalf("outcome %d, %v", got, err)
	}
	b.mustCommit(t, 1)
	watched, err := watchN(t.Context(), b, cursor, 2)
	if err != nil {
		t.Fatal(err)
	}
	if watched[0].N != 7 || watched[0].Key != old || watched[1].N != 8 {
		t.Fatalf("watched%s", brief(watched))
	}
	hints := map[log.Incarnation]uint64{a.incarnation: 3, b.incarnation: 3}
	for _, maxBytes := range []int{1, 1 << 20} {
		read, _ := readAll(t, b, 6, hints, maxBytes)
		equal(t, read, watched)
	}
}

// repeatedTrim: a trim whose answer was lost is called again, after a late copy of a commit has come back under one of its
// keys. The copy is an entry with a number of its own, which nobody has archived: it stays.
func repeatedTrim(t *testing.T, s *store) {
	a, b := s.agent(t), s.agent(t)
	a.mustCommit(t, 20)
	_, cursor, _, err := a.Read(t.Context(), 20, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	var keys []log.Key
	for seq := range uint64(10) {
		keys = append(keys, log.Key{Incarnation: a.incarnation, Seq: seq + 1})
	}
	if err := a.Trim(t.Context(), keys, cursor); err != nil {
		t.Fatal(err)
	}
	late := keys[3]
	if got, err := a.Commit(t.Context(), a.identity, late, value(late, 0)); err != nil || got != log.Committed {
		t.Fatalf("outcome %d, %v", got, err)
	}
	b.mustCommit(t, 1)
	for range 2 {
		if err := b.Trim(t.Context(), keys, cursor); err != nil {
			t.Fatal(err)
		}
	}
	read, _ := readAll(t, b, 20, map[log.Incarnation]uint64{a.incarnation: 20}, 1<<20)
	if len(read) != 2 || read[0].N != 21 || read[0].Key != late || read[1].N != 22 {
		t.Fatalf("after the repeat:%s", brief(read))
	}
}

func fencedAfterClose(t *testing.T, s *store) {
	a := s.agent(t)
	a.mustCommit(t, 1)
	for range 2 {
		if err := a.reg.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "lost after close", a.reg.Lost())
	isFenced(t, a, a)
}

func fencedAfterUnregister(t *testing.T, s *store) {
	a, b := s.agent(t), s.agent(t)
	a.mustCommit(t, 1)
	for range 2 {
		if err := b.Unregister(t.Context(), a.incarnation); err != nil {
			t.Fatal(err)
		}
	}
	isFenced(t, a, a)
	b.mustCommit(t, 1)
	wait(t, "lost after being unregistered", a.reg.Lost())
	if err := a.reg.Close(t.Context()); err != nil {
		t.Errorf("close of what is gone: %v", err)
	}
}

// isFenced checks that what a committed is there, and that nothing of it can come.
func isFenced(t *testing.T, by, a *agent) {
	t.Helper()
	for seq, want := range map[uint64]log.Outcome{a.seq: log.Exists, a.seq + 1: log.Fenced} {
		k := log.Key{Incarnation: a.incarnation, Seq: seq}
		if got, err := by.Commit(t.Context(), a.identity, k, value(k, 0)); err != nil || got != want {
			t.Errorf("seq %d: outcome %d, %v; want %d", seq, got, err, want)
		}
	}
}

func fencedAfterLapse(t *testing.T, s *store) {
	a, b := s.agent(t), s.agent(t)
	short := newIncarnation()
	if _, err := a.Register(t.Context(), short, nil, ttl); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil { // as a process that ended: nobody renews
		t.Fatal(err)
	}
	zombie := &agent{Log: b, identity: b.identity, incarnation: short}
	eventually(t, "the lease lapses", func() (bool, error) {
		k := zombie.next()
		outcome, err := b.Commit(t.Context(), b.identity, k, value(k, 0))
		return outcome == log.Fenced, err
	})
	zombie.seq--
	if got, err := b.Commit(t.Context(), b.identity, zombie.next(), nil); err != nil || got != log.Fenced {
		t.Errorf("outcome %d, %v once fenced", got, err)
	}
}

func registersOnce(t *testing.T, s *store) {
	a := s.agent(t)
	again := func(what string) {
		t.Helper()
		_, err := a.Register(t.Context(), a.incarnation, nil, ttl)
		if wantErr(t, err, log.ErrConflict); t.Failed() {
			t.Log(what)
		}
	}
	again("while registered")
	_, err := s.log(t).Register(t.Context(), a.incarnation, nil, ttl)
	wantErr(t, err, log.ErrConflict)
	a.mustCommit(t, 1)
	if err := a.reg.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	again("after its end: an attempt that lands late would unfence it")
	isFenced(t, a, a)
}

func members(t *testing.T, s *store) {
	a, b := s.agent(t), s.agent(t)
	c := newIncarnation()
	regC, err := b.Register(t.Context(), c, []byte("third"), 10*ttl)
	if err != nil {
		t.Fatal(err)
	}
	check := func(want ...log.Incarnation) {
		t.Helper()
		slices.SortFunc(want, func(a, b log.Incarnation) int { return bytes.Compare(a[:], b[:]) })
		got, err := a.Members(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got, want, func(m log.Member, i log.Incarnation) bool { return m.Incarnation == i }) {
			t.Fatalf("members %v, want %v", got, want)
		}
		for _, m := range got {
			if want := map[bool]string{true: "third", false: "info"}[m.Incarnation == c]; string(m.Info) != want {
				t.Errorf("info %q, want %q", m.Info, want)
			}
		}
	}
	check(a.incarnation, b.incarnation, c)
	if err := regC.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(a.incarnation, b.incarnation)
	if err := a.Unregister(t.Context(), b.incarnation); err != nil {
		t.Fatal(err)
	}
	check(a.incarnation)
}

// headIsLinearizable: a head is no less than what was committed before the call, and no more than what was begun by its end.
func headIsLinearizable(t *testing.T, s *store) {
	const committers, each = 4, 50
	var begun, done atomic.Uint64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var committing, reading sync.WaitGroup
	for range committers {
		a := s.agent(t)
		committing.Go(func() {
			for range each {
				begun.Add(1)
				if err := a.commit(t.Context()); err != nil {
					t.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	for range 2 {
		l := s.log(t)
		reading.Go(func() {
			for last := uint64(0); ctx.Err() == nil; {
				before := done.Load()
				n, err := l.Head(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if after := begun.Load(); n < before || n > after || n < last {
					t.Errorf("head %d, after %d: %d were committed before, %d begun by its end", n, last, before, after)
					return
				}
				last = n
			}
		})
	}
	committing.Wait()
	cancel()
	reading.Wait()
}
