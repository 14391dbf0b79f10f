package metastore_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
)

const sureTTL = 9 * time.Second // of which two thirds are 6 s

func sureConfig(cfg *metastore.Config) { cfg.RegistrationTTL = sureTTL }

// sureUntil waits until the client is sure, or not, and returns how long that took.
func sureUntil(t *testing.T, c *metastore.Client, sure bool) time.Duration {
	t.Helper()
	began := time.Now()
	for (c.Sure() > 0) != sure {
		if time.Since(began) > time.Minute {
			t.Fatalf("sure for another %v", c.Sure())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

// Who is cut off is unsure of what it has applied before anybody can have removed it, and sure again once it hears.
func TestWhoHearsNothingIsUnsureBeforeItIsRemoved(t *testing.T) {
	for _, refuses := range []bool{true, false} {
		bubble(t, 71, func(t *testing.T, c *cluster) {
			a, b := c.open("a", sureConfig), c.open("b", sureConfig)
			defer c.close(a, b)
			for range 1000 {
				time.Sleep(100 * time.Millisecond)
				if left := a.Sure(); left <= sureTTL*2/3-1500*time.Millisecond {
					t.Fatalf("sure for another %v while all is well", left)
				}
			}
			c.logs[b].SetFaults(memlog.Faults{Partitioned: true, PartitionRefuses: refuses})
			if took := sureUntil(t, b, false); took > sureTTL*2/3 || took < sureTTL*2/3-1100*time.Millisecond {
				t.Errorf("unsure after %v", took)
			}
			was := b.Incarnation()
			joined := func(by *metastore.Client) (ok bool) {
				by.View(func(st *state.State) { _, ok = st.AgentByIncarnation(was) })
				return ok
			}
			if !joined(a) {
				t.Error("it was removed while it was sure")
			}
			for began := time.Now(); joined(a); time.Sleep(10 * time.Millisecond) {
				if time.Since(began) > time.Minute {
					t.Fatal("it is not removed")
				}
			}
			if b.Sure() > 0 {
				t.Error("it is sure")
			}
			c.logs[b].SetFaults(memlog.Faults{})
			if took := sureUntil(t, b, true); took > 3*time.Second {
				t.Errorf("sure again after %v", took)
			}
			if joined(b) {
				t.Error("it is sure and does not know that it was removed")
			}
		})
	}
}

// lagging is a log whose heads are known and whose entries do not come, or whose answers take their time.
type lagging struct {
	log.Log
	deaf atomic.Bool
	slow atomic.Int64 // how long the answer to Head is on its way
}

func (l *lagging) Head(ctx context.Context) (uint64, error) {
	n, err := l.Log.Head(ctx)
	time.Sleep(time.Duration(l.slow.Load()))
	return n, err
}

func (l *lagging) Read(ctx context.Context, after uint64, last map[log.Incarnation]uint64, maxBytes int) ([]log.Entry, log.Cursor, bool, error) {
	if l.deaf.Load() {
		return nil, log.Cursor{}, false, log.ErrUnavailable
	}
	return l.Log.Read(ctx, after, last, maxBytes)
}

func (l *lagging) Watch(ctx context.Context, from log.Cursor, fn func([]log.Entry) error) error {
	return l.Log.Watch(ctx, from, func(entries []log.Entry) error {
		if l.deaf.Load() {
			return log.ErrWatchLost
		}
		return fn(entries)
	})
}

// A head that was heard of counts once it is applied, and as of when it was asked for: what was read since may say otherwise.
func TestWhatCountsIsWhatIsAppliedAndWhenItWasAskedFor(t *testing.T) {
	bubble(t, 72, func(t *testing.T, c *cluster) {
		a := c.open("a", sureConfig)
		way := c.store.Open("b")
		l := &lagging{Log: way}
		cfg := c.config("b")
		sureConfig(&cfg)
		b, err := metastore.Open(t.Context(), cfg, l, c.bucket)
		if err != nil {
			t.Fatal(err)
		}
		c.logs[b] = way
		defer c.close(a, b)
		time.Sleep(10 * time.Second)

		l.deaf.Store(true)
		for range 3 {
			c.propose(a, &entry.Tick{})
		}
		sureUntil(t, b, false)
		time.Sleep(10 * time.Second)
		if b.Head() < a.Applied() || b.Applied() >= a.Applied() {
			t.Fatalf("head %d, applied %d of %d", b.Head(), b.Applied(), a.Applied())
		}
		if b.Sure() > 0 {
			t.Error("sure of what it has not applied")
		}
		l.deaf.Store(false)
		if took := sureUntil(t, b, true); took > 3*time.Second {
			t.Errorf("sure again after %v", took)
		}

		const slow = 1900 * time.Millisecond
		l.slow.Store(int64(slow))
		time.Sleep(20 * time.Second)
		for range 100 {
			time.Sleep(50 * time.Millisecond)
			faketime.Wait()
			if left := b.Sure(); left <= 0 || left > sureTTL*2/3-slow {
				t.Errorf("sure for another %v", left)
			}
		}
	})
}
