package metastore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
)

// A snapshot taken from outside holds everything up to the head, agents go on archiving and trimming behind it, and the
// whole history still verifies.
func TestTakeSnapshotBesideAgents(t *testing.T) {
	bubble(t, 60, func(t *testing.T, c *cluster) {
		tune := func(cfg *metastore.Config) {
			cfg.SnapshotEntries, cfg.TrimMargin, cfg.ArchiveInterval = 200, 20, time.Second
		}
		a, b := c.open("a", tune), c.open("b", tune)
		defer c.close(a, b)
		l := c.store.Open("tool")
		defer func() { _ = l.Close() }()
		var last uint64
		for round := range 6 {
			for i := range 90 {
				c.propose(a, topic(fmt.Sprintf("t-%d-%d", round, i)))
			}
			if round%2 == 1 { // in every second round agents archive meanwhile
				time.Sleep(time.Second + time.Duration(round)*137*time.Millisecond)
			}
			head := a.Head()
			r, err := metastore.TakeSnapshot(t.Context(), l, c.bucket)
			if err != nil {
				t.Fatal(err)
			}
			if r.N < head || r.N < last || r.Bytes == 0 || r.ChainHash == "" {
				t.Fatalf("round %d: %+v, the head was %d", round, r, head)
			}
			last = r.N
			var hash [32]byte
			var known bool
			b.View(func(st *state.State) { hash, known = st.HashAt(r.N) })
			if known && fmt.Sprintf("%x", hash) != r.ChainHash {
				t.Fatalf("round %d: chain hash %s, an agent has %x", round, r.ChainHash, hash)
			}
		}
		again, err := metastore.TakeSnapshot(t.Context(), l, c.bucket)
		if err != nil || again.Made && again.N == last {
			t.Fatalf("twice at the same n: %+v, %v", again, err)
		}
		time.Sleep(10 * time.Second)
		if why := a.Degraded() + b.Degraded(); why != "" {
			t.Fatal(why)
		}
		report, err := metastore.Verify(t.Context(), l, c.bucket)
		if err != nil || len(report.Problems) > 0 {
			t.Fatalf("%v, %v", err, report)
		}
		if report.TrimmedTo == 0 || report.ArchivedTo < last {
			t.Fatalf("agents stopped archiving or trimming: %+v", report)
		}
	})
}

// Two at once, and a log whose answers get lost: each call ends in a snapshot that holds.
func TestTakeSnapshotUnderFaults(t *testing.T) {
	bubble(t, 61, func(t *testing.T, c *cluster) {
		a := c.open("a")
		defer c.close(a)
		type result struct {
			r   *metastore.SnapshotReport
			err error
		}
		for round := range 10 {
			for i := range 10 {
				c.propose(a, topic(fmt.Sprintf("t-%d-%d", round, i)))
			}
			results := make(chan result, 2)
			for i := range 2 {
				l := c.store.Open(fmt.Sprint("tool", i))
				l.SetFaults(memlog.Faults{LatencyMax: 5 * time.Millisecond})
				go func() {
					defer func() { _ = l.Close() }()
					r, err := metastore.TakeSnapshot(t.Context(), l, c.bucket)
					results <- result{r, err}
				}()
			}
			for range 2 {
				if got := <-results; got.err != nil || got.r.N == 0 {
					t.Fatalf("round %d: %+v, %v", round, got.r, got.err)
				}
			}
		}
		l := c.store.Open("look")
		defer func() { _ = l.Close() }()
		report, err := metastore.Verify(t.Context(), l, c.bucket)
		if err != nil || len(report.Problems) > 0 {
			t.Fatalf("%v, %v", err, report)
		}
	})
}
