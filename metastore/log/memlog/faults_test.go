package memlog_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
)

// world is a store in a bubble with one registered agent, and another without faults to see what is true.
type world struct {
	*testing.T
	store    *memlog.Store
	log      *memlog.Log
	witness  *memlog.Log
	identity log.Identity
	reg      log.Registration
	key      log.Key // of the last commit
}

const ttl = 9 * time.Second

// bubble runs test on a fresh world under fake time, and checks at its end that nothing is left running.
func bubble(t *testing.T, test func(w *world)) {
	t.Helper()
	faketime.Test(t, func(t *testing.T) {
		s := memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(3, 7))})
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		w := &world{T: t, store: s, log: s.Open("a"), witness: s.Open("witness"), key: log.Key{Incarnation: log.Incarnation{1}}}
		var err error
		if w.identity, err = w.log.Identity(t.Context()); err != nil {
			t.Fatal(err)
		}
		if w.reg, err = w.log.Register(t.Context(), w.key.Incarnation, []byte("a"), ttl); err != nil {
			t.Fatal(err)
		}
		test(w)
	})
}

func (w *world) commit() (log.Outcome, error) {
	w.key.Seq++
	return w.retry()
}

func (w *world) retry() (log.Outcome, error) {
	return w.log.Commit(w.Context(), w.identity, w.key, []byte("v"))
}

func (w *world) mustCommit(n int) {
	w.Helper()
	for range n {
		if got, err := w.commit(); err != nil || got != log.Committed {
			w.Fatalf("outcome %d, %v", got, err)
		}
	}
}

func (w *world) head() uint64 {
	w.Helper()
	n, err := w.witness.Head(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return n
}

func (w *world) unknown(err error) {
	w.Helper()
	if !errors.Is(err, log.ErrUnavailable) {
		w.Fatalf("got %v", err)
	}
}

// struck checks a counter.
func (w *world) struck(what string, count int) {
	w.Helper()
	if count == 0 {
		w.Errorf("%s never struck", what)
	}
}

// watch collects what a watch from the beginning brings for a while, and why it ended.
func (w *world) watch(d time.Duration) (numbers []uint64, signs int, err error) {
	ctx, cancel := context.WithTimeout(w.Context(), d)
	defer cancel()
	err = w.log.Watch(ctx, log.Cursor{}, func(entries []log.Entry) error {
		for _, e := range entries {
			numbers = append(numbers, e.N)
		}
		if entries == nil {
			signs++
		}
		return nil
	})
	return numbers, signs, err
}

func TestAmbiguousCommitIsThere(t *testing.T) {
	bubble(t, func(w *world) {
		w.log.SetFaults(memlog.Faults{Ambiguous: 1})
		_, err := w.commit()
		w.unknown(err)
		if n := w.head(); n != 1 {
			w.Errorf("head %d", n)
		}
		w.log.SetFaults(memlog.Faults{})
		if got, err := w.retry(); err != nil || got != log.Exists {
			w.Errorf("retry: outcome %d, %v", got, err)
		}
		w.struck("ambiguous", w.store.Counts().Ambiguous)
	})
}

func TestDroppedCommitIsNotThere(t *testing.T) {
	bubble(t, func(w *world) {
		w.log.SetFaults(memlog.Faults{Dropped: 1})
		_, err := w.commit()
		w.unknown(err)
		w.log.SetFaults(memlog.Faults{})
		if n := w.head(); n != 0 {
			w.Errorf("head %d", n)
		}
		if got, err := w.retry(); err != nil || got != log.Committed {
			w.Errorf("retry: outcome %d, %v", got, err)
		}
		w.struck("dropped", w.store.Counts().Dropped)
	})
}

func TestLateCommitLandsAfterItsError(t *testing.T) {
	bubble(t, func(w *world) {
		w.log.SetFaults(memlog.Faults{Late: 1})
		start := time.Now()
		_, err := w.commit()
		w.unknown(err)
		if n := w.head(); n != 0 || time.Since(start) != 0 {
			w.Errorf("head %d at once, after %v", n, time.Since(start))
		}
		time.Sleep(10 * time.Second)
		faketime.Wait()
		if n := w.head(); n != 1 {
			w.Errorf("head %d in the end", n)
		}
		c := w.store.Counts()
		w.struck("late", c.Late)
		w.struck("late applied", c.LateApplied)
	})
}

func TestLateCommitIsJudgedWhenItLands(t *testing.T) {
	bubble(t, func(w *world) {
		w.log.SetFaults(memlog.Faults{Late: 1})
		_, err := w.commit()
		w.unknown(err)
		if err := w.witness.Unregister(w.Context(), w.key.Incarnation); err != nil {
			w.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		faketime.Wait()
		if n := w.head(); n != 0 {
			w.Errorf("a fenced proposal landed: head %d", n)
		}
		if c := w.store.Counts(); c.Late != 1 || c.LateApplied != 0 {
			w.Errorf("counts %+v", c)
		}
	})
}

// The hole that the state machine closes: retried, applied, trimmed, and then the first attempt lands.
func TestLateCommitLandsAgainAfterATrim(t *testing.T) {
	bubble(t, func(w *world) {
		w.log.SetFaults(memlog.Faults{Late: 1})
		_, err := w.commit()
		w.unknown(err)
		w.log.SetFaults(memlog.Faults{})
		if got, err := w.retry(); err != nil || got != log.Committed {
			w.Fatalf("outcome %d, %v", got, err)
		}
		if err := w.log.Trim(w.Context(), []log.Key{w.key}, log.Cursor{Revision: math.MaxInt64}); err != nil {
			w.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		faketime.Wait()
		entries, _, _, err := w.log.Read(w.Context(), 1, nil, 1)
		if err != nil || len(entries) != 1 || entries[0].Key != w.key || entries[0].N != 2 {
			w.Errorf("read %+v, %v", entries, err)
		}
	})
}

func TestClosedStoreForgetsLateCommits(t *testing.T) {
	bubble(t, func(w *world) { // and the bubble ends
		w.log.SetFaults(memlog.Faults{Late: 1, LateMax: time.Hour})
		_, err := w.commit()
		w.unknown(err)
	})
}

func TestNoSpaceMayHaveBeenApplied(t *testing.T) {
	bubble(t, func(w *world) {
		w.log.SetFaults(memlog.Faults{NoSpace: 1})
		for range 40 {
			_, err := w.commit()
			w.unknown(err)
		}
		c := w.store.Counts()
		w.struck("no space", c.NoSpace)
		if n := w.head(); int(n) != c.NoSpaceApplied || n == 0 || n == 40 {
			w.Errorf("head %d, counts %+v", n, c)
		}
	})
}

func TestLatencyCanHideWhatHappened(t *testing.T) {
	bubble(t, func(w *world) {
		w.log.SetFaults(memlog.Faults{LatencyMax: time.Second})
		start := time.Now()
		w.mustCommit(5)
		if took := time.Since(start); took == 0 || took > 10*time.Second {
			w.Errorf("five commits took %v", took)
		}
		hidden := false
		for range 50 { // some of these end on their way back
			ctx, cancel := context.WithTimeout(w.Context(), 600*time.Millisecond)
			w.key.Seq++
			before := w.head()
			_, err := w.log.Commit(ctx, w.identity, w.key, nil)
			cancel()
			if err != nil {
				w.unknown(err)
				hidden = hidden || w.head() > before
			}
		}
		if !hidden {
			w.Error("no commit took effect behind its error")
		}
		w.struck("delayed", w.store.Counts().Delayed)
	})
}

func TestPartitionHangsRefusesAndSilences(t *testing.T) {
	bubble(t, func(w *world) {
		w.mustCommit(1)
		w.log.SetFaults(memlog.Faults{Partitioned: true})
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := w.log.Head(ctx)
		if w.unknown(err); time.Since(start) != time.Minute {
			w.Errorf("a call hung for %v", time.Since(start))
		}
		if numbers, signs, err := w.watch(time.Minute); len(numbers)+signs != 0 || !errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("a watch brought %d entries, %d signs, %v", len(numbers), signs, err)
		}
		// Two minutes without renewal: the lease is gone, and its owner cannot know.
		if m, err := w.witness.Members(w.Context()); err != nil || len(m) != 0 {
			w.Errorf("members %v, %v", m, err)
		}
		select {
		case <-w.reg.Lost():
			w.Error("a partitioned agent knows that its registration is gone")
		default:
		}
		w.log.SetFaults(memlog.Faults{Partitioned: true, PartitionRefuses: true})
		start = time.Now()
		_, err = w.log.Head(w.Context())
		if w.unknown(err); time.Since(start) != 0 {
			w.Errorf("a refused call took %v", time.Since(start))
		}
		w.log.SetFaults(memlog.Faults{})
		<-w.reg.Lost()
		if got, err := w.commit(); err != nil || got != log.Fenced {
			w.Errorf("outcome %d, %v", got, err)
		}
		w.struck("partition", w.store.Counts().Partitioned)
	})
}

func TestPartitionOnTheWayBackHidesACommit(t *testing.T) {
	bubble(t, func(w *world) {
		w.log.SetFaults(memlog.Faults{LatencyMax: time.Second})
		done := make(chan error)
		go func() {
			_, err := w.commit()
			done <- err
		}()
		for w.head() == 0 {
			time.Sleep(time.Millisecond)
		}
		w.log.SetFaults(memlog.Faults{Partitioned: true, PartitionRefuses: true})
		w.unknown(<-done)
	})
}

func TestHealedPartitionEndsHangingCalls(t *testing.T) {
	bubble(t, func(w *world) {
		w.log.SetFaults(memlog.Faults{Partitioned: true})
		done := make(chan error)
		go func() {
			_, err := w.log.Head(w.Context())
			done <- err
		}()
		faketime.Wait()
		w.log.SetFaults(memlog.Faults{})
		w.unknown(<-done)
	})
}

func TestWatchFaults(t *testing.T) {
	const total = 300
	dense := func(numbers []uint64) bool {
		for i, n := range numbers {
			if n != uint64(i)+1 {
				return false
			}
		}
		return len(numbers) == total
	}
	for name, tc := range map[string]struct {
		faults memlog.Faults
		count  func(memlog.Counts) int
		check  func(numbers []uint64, signs int, err error) bool
	}{
		"none": {memlog.Faults{}, func(memlog.Counts) int { return 1 }, func(n []uint64, signs int, _ error) bool {
			return dense(n) && signs >= 59
		}},
		"lose": {memlog.Faults{WatchLose: .1}, func(c memlog.Counts) int { return c.WatchLost }, func(n []uint64, _ int, _ error) bool {
			return len(n) < total
		}},
		"lose all": {memlog.Faults{WatchLose: 1}, func(c memlog.Counts) int { return c.WatchLost }, func(n []uint64, signs int, _ error) bool {
			return len(n) == 0 && signs > 0
		}},
		"repeat": {memlog.Faults{WatchRepeat: .1}, func(c memlog.Counts) int { return c.WatchRepeated }, func(n []uint64, _ int, _ error) bool {
			return len(n) > total
		}},
		"late": {memlog.Faults{WatchLate: 1}, func(c memlog.Counts) int { return c.WatchLate }, func(n []uint64, _ int, _ error) bool {
			return dense(n)
		}},
		"stall": {memlog.Faults{WatchStall: 1}, func(c memlog.Counts) int { return c.WatchStalled }, func(n []uint64, signs int, err error) bool {
			return len(n)+signs == 0 && errors.Is(err, context.DeadlineExceeded)
		}},
		"end": {memlog.Faults{WatchEnd: 1}, func(c memlog.Counts) int { return c.WatchEnded }, func(_ []uint64, _ int, err error) bool {
			return errors.Is(err, log.ErrWatchLost)
		}},
		"compact": {memlog.Faults{WatchCompact: 1}, func(c memlog.Counts) int { return c.WatchCompacted }, func(_ []uint64, _ int, err error) bool {
			return errors.Is(err, log.ErrWatchLost)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.mustCommit(total)
				w.log.SetFaults(tc.faults)
				numbers, signs, err := w.watch(30 * time.Second)
				if !tc.check(numbers, signs, err) {
					w.Errorf("%d entries, %d signs of life, %v", len(numbers), signs, err)
				}
				w.struck(name, tc.count(w.store.Counts()))
			})
		})
	}
}

func TestCompactionUnderAWatch(t *testing.T) {
	bubble(t, func(w *world) {
		w.mustCommit(3)
		ended := make(chan error)
		go func() {
			_, _, err := w.watch(time.Hour)
			ended <- err
		}()
		faketime.Wait() // it has seen everything
		w.store.Compact()
		faketime.Wait() // and has nothing to lose
		w.log.SetFaults(memlog.Faults{Partitioned: true})
		for i := range byte(2) { // behind its back
			if _, err := w.witness.Register(w.Context(), log.Incarnation{2 + i}, nil, ttl); err != nil {
				w.Fatal(err)
			}
		}
		w.store.Compact()
		w.log.SetFaults(memlog.Faults{})
		if _, _, err := w.watch(time.Second); !errors.Is(err, log.ErrWatchLost) {
			w.Errorf("a watch of compacted history: %v", err)
		}
		if err := <-ended; !errors.Is(err, log.ErrWatchLost) {
			w.Errorf("a watch that was cut off: %v", err)
		}
		if entries, _, _, err := w.log.Read(w.Context(), 0, nil, 1<<10); err != nil || len(entries) != 3 {
			w.Errorf("compaction took entries: %d, %v", len(entries), err)
		}
	})
}

func TestLeaseExpiresUnderItsKeepalive(t *testing.T) {
	bubble(t, func(w *world) {
		w.mustCommit(1)
		w.log.SetFaults(memlog.Faults{LeaseExpire: 1, LostHidden: true})
		time.Sleep(ttl)
		if got, err := w.commit(); err != nil || got != log.Fenced {
			w.Fatalf("outcome %d, %v", got, err)
		}
		time.Sleep(10 * ttl)
		select {
		case <-w.reg.Lost():
			w.Error("told, though that is hidden")
		default:
		}
		c := w.store.Counts()
		w.struck("lease expired", c.LeaseExpired)
		w.struck("lost hidden", c.LostHidden)
		w.log.SetFaults(memlog.Faults{})
		<-w.reg.Lost() // late
	})
}

func TestExpireEndsARegistrationAndItsCells(t *testing.T) {
	bubble(t, func(w *world) {
		if _, err := w.log.Swap(w.Context(), "held", 0, nil, w.reg); err != nil {
			w.Fatal(err)
		}
		w.store.Expire(w.key.Incarnation)
		if got, err := w.commit(); err != nil || got != log.Fenced {
			w.Errorf("outcome %d, %v", got, err)
		}
		if c, err := w.log.Load(w.Context(), "held"); err != nil || c.Version != 0 {
			w.Errorf("cell %+v, %v", c, err)
		}
		<-w.reg.Lost()
	})
}

func TestStaleMembers(t *testing.T) {
	bubble(t, func(w *world) {
		if _, err := w.log.Register(w.Context(), log.Incarnation{2}, nil, ttl); err != nil {
			w.Fatal(err)
		}
		w.log.SetFaults(memlog.Faults{MembersStale: 1})
		if m, err := w.log.Members(w.Context()); err != nil || len(m) != 1 {
			w.Errorf("members %v, %v", m, err)
		}
		if m, err := w.witness.Members(w.Context()); err != nil || len(m) != 2 {
			w.Errorf("the truth is %v, %v", m, err)
		}
		w.struck("stale members", w.store.Counts().MembersStale)
	})
}

func TestAnotherIdentityIsAnotherLog(t *testing.T) {
	bubble(t, func(w *world) {
		next := w.identity
		next.Epoch++
		w.store.SetIdentity(next)
		if got, err := w.commit(); err != nil || got != log.WrongLog {
			w.Errorf("outcome %d, %v", got, err)
		}
	})
}

func TestOneSeedOneRun(t *testing.T) {
	run := func() (counts memlog.Counts, numbers []uint64) {
		bubble(t, func(w *world) {
			f := memlog.Faults{Ambiguous: .2, Dropped: .2, Late: .2, NoSpace: .1, LatencyMax: 100 * time.Millisecond, WatchLose: .1, WatchRepeat: .1}
			w.log.SetFaults(f)
			for range 200 {
				_, _ = w.commit()
			}
			time.Sleep(20 * time.Second)
			faketime.Wait()
			numbers, _, _ = w.watch(time.Minute)
			counts = w.store.Counts()
		})
		return counts, numbers
	}
	counts, numbers := run()
	again, numbersAgain := run()
	if counts != again || len(numbers) != len(numbersAgain) {
		t.Errorf("%+v with %d entries, then %+v with %d", counts, len(numbers), again, len(numbersAgain))
	}
	if counts.Ambiguous == 0 || counts.Dropped == 0 || counts.LateApplied == 0 || counts.NoSpaceApplied == 0 {
		t.Errorf("counts %+v", counts)
	}
}
