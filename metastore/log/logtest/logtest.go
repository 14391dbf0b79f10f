package logtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore/log"
)

// Opener opens one more agent's log on the store under test. The suite closes it.
type Opener func(agent string) (log.Log, error)

// Run runs the suite; newStore makes an empty store for each test.
func Run(t *testing.T, newStore func(t *testing.T) Opener) {
	for _, tc := range []struct {
		name string
		test func(t *testing.T, s *store)
	}{
		{"identity is made once", identityIsMadeOnce},
		{"a commit has one definite outcome", commitHasOneOutcome},
		{"largest value", largestValue},
		{"numbers are dense under many committers", numbersAreDense},
		{"a retry after a trim commits again", retryAfterTrim},
		{"a repeated trim spares a late copy", repeatedTrim},
		{"fenced after close", fencedAfterClose},
		{"fenced after unregister", fencedAfterUnregister},
		{"fenced after the lease lapsed", fencedAfterLapse},
		{"an incarnation registers once", registersOnce},
		{"members", members},
		{"head is linearizable", headIsLinearizable},
		{"watch sees all after its cursor", watchFromCursor},
		{"watch shows signs of life and returns what fn returns", watchProgress},
		{"read and watch join without a seam", readThenWatch},
		{"read pages", readPages},
		{"read with missing and wrong hints", readHints},
		{"read of what is trimmed", readTrimmed},
		{"read ahead of the log", readAhead},
		{"trim bounds", trimBounds},
		{"cells compare and swap", cellsSwap},
		{"one of many swaps wins", cellsRace},
		{"cells go with their owner", cellsOwned},
		{"cancelled calls return", cancelled},
		{"close ends watches and leaves registrations", closes},
		{"status", status},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.test(t, &store{open: newStore(t)})
		})
	}
}

// patience bounds every wait: reaching it is a failure, not a measurement.
const patience = 30 * time.Second

// ttl is the shortest lease that etcd gives.
const ttl = time.Second

type store struct {
	open Opener
	mu   sync.Mutex // guards n
	n    int
}

func (s *store) log(t *testing.T) log.Log {
	t.Helper()
	s.mu.Lock()
	s.n++
	name := fmt.Sprintf("agent-%d", s.n)
	s.mu.Unlock()
	l, err := s.open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close %s: %v", name, err)
		}
	})
	return l
}

// agent commits as package log requires: one incarnation, contiguous seqs, one at a time.
type agent struct {
	log.Log
	identity    log.Identity
	incarnation log.Incarnation
	reg         log.Registration
	seq         uint64
}

func (s *store) agent(t *testing.T) *agent {
	t.Helper()
	a := &agent{Log: s.log(t), incarnation: newIncarnation()}
	var err error
	if a.identity, err = a.Identity(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.reg, err = a.Register(t.Context(), a.incarnation, []byte("info"), 10*ttl); err != nil {
		t.Fatal(err)
	}
	return a
}

func newIncarnation() (i log.Incarnation) {
	for b := range i {
		i[b] = byte(rand.Uint32())
	}
	return i
}

// value is what every entry of these tests holds: its key, so that a mix-up shows, and padding.
func value(k log.Key, padding int) []byte {
	return append([]byte(k.String()), make([]byte, padding)...)
}

func (a *agent) next() log.Key {
	a.seq++
	return log.Key{Incarnation: a.incarnation, Seq: a.seq}
}

// commit puts the next entry, and is safe off the test's goroutine.
func (a *agent) commit(ctx context.Context) error {
	k := a.next()
	outcome, err := a.Commit(ctx, a.identity, k, value(k, 0))
	if err == nil && outcome != log.Committed {
		err = fmt.Errorf("commit %s: outcome %d", k, outcome)
	}
	return err
}

func (a *agent) mustCommit(t *testing.T, n int) {
	t.Helper()
	for range n {
		if err := a.commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// commitAll has every agent commit n entries at once.
func commitAll(t *testing.T, agents []*agent, n int) {
	t.Helper()
	var tasks sync.WaitGroup
	for _, a := range agents {
		tasks.Go(func() {
			for range n {
				if err := a.commit(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	tasks.Wait()
}

// readAll reads in pages until the head.
func readAll(t *testing.T, l log.Log, after uint64, lastSeq map[log.Incarnation]uint64, maxBytes int) ([]log.Entry, log.Cursor) {
	t.Helper()
	var all []log.Entry
	hints := map[log.Incarnation]uint64{}
	for i, s := range lastSeq {
		hints[i] = s
	}
	for {
		entries, cursor, more, err := l.Read(t.Context(), after, hints, maxBytes)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			after = e.N
			hints[e.Key.Incarnation] = max(hints[e.Key.Incarnation], e.Key.Seq)
		}
		if all = append(all, entries...); !more {
			return all, cursor
		}
		if len(entries) == 0 {
			t.Fatal("more, but nothing")
		}
	}
}

// checkDense checks numbers after `after`, that values are those of their keys, and that each incarnation's seqs go up by
// one from where they start.
func checkDense(t *testing.T, entries []log.Entry, after uint64) {
	t.Helper()
	seqs := map[log.Incarnation]uint64{}
	for i, e := range entries {
		if e.N != after+1+uint64(i) {
			t.Fatalf("entry %d after %d is n=%d", i, after, e.N)
		}
		if want := e.Key.String(); len(e.Value) < len(want) || string(e.Value[:len(want)]) != want {
			t.Fatalf("n=%d has key %s and value %.60q", e.N, e.Key, e.Value)
		}
		if last, ok := seqs[e.Key.Incarnation]; ok && e.Key.Seq != last+1 {
			t.Fatalf("n=%d: %s came after seq %d", e.N, e.Key, last)
		}
		seqs[e.Key.Incarnation] = e.Key.Seq
	}
}

func equal(t *testing.T, got, want []log.Entry) {
	t.Helper()
	same := func(a, b log.Entry) bool { return a.N == b.N && a.Key == b.Key && string(a.Value) == string(b.Value) }
	if !slices.EqualFunc(got, want, same) {
		t.Fatalf("%d entries differ from %d wanted: %s, %s", len(got), len(want), brief(got), brief(want))
	}
}

func brief(entries []log.Entry) string {
	out := ""
	for _, e := range entries[:min(len(entries), 12)] {
		out += fmt.Sprintf(" %d:%.4s/%d", e.N, e.Key, e.Key.Seq)
	}
	return out
}

var errEnough = errors.New("enough")

// watchN watches until n entries have come.
func watchN(ctx context.Context, l log.Log, from log.Cursor, n int) ([]log.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var all []log.Entry
	if n == 0 {
		return nil, nil
	}
	err := l.Watch(ctx, from, func(entries []log.Entry) error {
		if all = append(all, entries...); len(all) >= n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		return all, fmt.Errorf("watch after %d of %d entries: %w", len(all), n, err)
	}
	return all, nil
}

func wait(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s: nothing in %v", what, patience)
	}
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, ask func() (bool, error)) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for {
		ok, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: not in %v", what, patience)
		}
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}
