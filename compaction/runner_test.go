package compaction_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// meta is a cluster of one agent at a feature level.
type meta struct {
	mu sync.RWMutex // guards what st holds
	st *state.State
}

func newMeta(t *testing.T, level uint32) *meta {
	t.Helper()
	m := &meta{st: state.New(state.Identity{ID: [16]byte{1}})}
	m.apply(t, &entry.Join{Name: "a", MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: "h", Port: 1}}})
	m.raise(t, level)
	return m
}

func (m *meta) raise(t *testing.T, level uint32) {
	t.Helper()
	if level > m.st.FeatureLevel() {
		m.apply(t, &entry.SetFeatureLevel{Level: level})
	}
}

func (m *meta) apply(t *testing.T, op entry.Op) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := &entry.Entry{Incarnation: [16]byte{1}, Seq: m.st.N() + 1, ClockMs: 1, Ops: []entry.Op{op}}
	var r state.Results
	if err := m.st.Apply(m.st.N()+1, e.AppendTo(nil), e, &r); err != nil || r.EntryCode != state.OK || r.Ops[0].Code != state.OK {
		t.Fatal(err, r.EntryCode, r.Ops)
	}
}

func (m *meta) View(fn func(*state.State)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	fn(m.st)
}

func run(t *testing.T, m *meta, duties ...compaction.Duty) *compaction.Runner {
	t.Helper()
	r, err := compaction.NewRunner(compaction.Config{}, m, duties)
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Close)
	return r
}

func TestWorkIsFollowedByWorkAndIdlenessByTheInterval(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		var steps atomic.Int64
		run(t, newMeta(t, compaction.FeatureLevel), compaction.Duty{Name: "d", Interval: time.Minute, Step: func(context.Context) (bool, error) {
			return steps.Add(1)%10 != 0, nil
		}})
		time.Sleep(50 * time.Second) // the first comes after about half an interval
		if got := steps.Load(); got != 10 {
			t.Errorf("%d steps, not the ten up to the one without work", got)
		}
		time.Sleep(10 * time.Minute)
		if got := steps.Load(); got < 80 || got > 150 {
			t.Errorf("%d steps in ten minutes", got)
		}
	})
}

func TestNothingHappensBelowTheFeatureLevel(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		m := newMeta(t, compaction.FeatureLevel-1)
		var steps atomic.Int64
		run(t, m, compaction.Duty{Name: "d", Interval: time.Second, Step: func(context.Context) (bool, error) { steps.Add(1); return false, nil }})
		time.Sleep(time.Minute)
		if steps.Load() != 0 {
			t.Fatal("it worked")
		}
		faketime.Wait()
		m.raise(t, compaction.FeatureLevel)
		time.Sleep(time.Minute)
		if steps.Load() == 0 {
			t.Error("it did not begin")
		}
	})
}

func TestADutyThatFailsIsTriedLaterAndTold(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		var steps atomic.Int64
		var broken atomic.Bool
		broken.Store(true)
		r := run(t, newMeta(t, compaction.FeatureLevel), compaction.Duty{Name: "d", Interval: time.Second, Step: func(context.Context) (bool, error) {
			steps.Add(1)
			if broken.Load() {
				return false, errors.New("the bucket is closed on Sundays")
			}
			return false, nil
		}})
		time.Sleep(30 * time.Second)
		if why := r.Faults(); why != "" {
			t.Errorf("a hiccup is told: %s", why)
		}
		time.Sleep(30 * time.Minute)
		if got := steps.Load(); got < 25 || got > 60 {
			t.Errorf("%d tries in half an hour", got)
		}
		if why := r.Faults(); !strings.Contains(why, "d fails for") || !strings.Contains(why, "Sundays") {
			t.Errorf("told: %q", why)
		}
		broken.Store(false)
		time.Sleep(2 * time.Minute)
		if why := r.Faults(); why != "" {
			t.Errorf("still told: %s", why)
		}
	})
}

func TestCloseEndsAStep(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		r := run(t, newMeta(t, compaction.FeatureLevel), compaction.Duty{Name: "d", Interval: time.Second, Step: func(ctx context.Context) (bool, error) {
			<-ctx.Done()
			return false, ctx.Err()
		}})
		time.Sleep(time.Minute)
		r.Close()
		if why := r.Faults(); why != "" {
			t.Errorf("its end is a fault: %s", why)
		}
	})
}

func TestADutyThatDoesNotHeedIsLeftBehind(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		step := func(context.Context) (bool, error) { <-release; return false, nil }
		r := run(t, newMeta(t, compaction.FeatureLevel),
			compaction.Duty{Name: "deaf", Interval: time.Second, Step: step},
			compaction.Duty{Name: "fine", Interval: time.Second, Step: func(ctx context.Context) (bool, error) { <-ctx.Done(); return false, nil }},
			compaction.Duty{Name: "stubborn", Interval: time.Second, Step: step})
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := r.End(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "deaf, stubborn") || strings.Contains(err.Error(), "fine") {
			t.Errorf("ended with %v", err)
		}
		close(release)
		if err := r.End(t.Context()); err != nil {
			t.Errorf("once they have ended: %v", err)
		}
	})
}

func TestWhatADutyLacksIsSaid(t *testing.T) {
	_, err := compaction.NewRunner(compaction.Config{}, newMeta(t, 1), []compaction.Duty{{Name: "a"}, {}})
	if err == nil || strings.Count(err.Error(), "lacks") != 2 {
		t.Error(err)
	}
}
