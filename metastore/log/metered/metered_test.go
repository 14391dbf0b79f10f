package metered_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/logtest"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/log/metered"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counts is an Observer.
type counts struct {
	mu  sync.Mutex
	got map[string]int
}

func (c *counts) Observe(op metered.Op, outcome metered.Outcome, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.got == nil {
		c.got = make(map[string]int)
	}
	if took < 0 {
		outcome = "negative"
	}
	c.got[string(op)+" "+string(outcome)]++
}

func TestLog(t *testing.T) {
	logtest.Run(t, func(t *testing.T) logtest.Opener {
		s := memlog.NewStore(memlog.Config{})
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return func(agent string) (log.Log, error) { return metered.New(s.Open(agent), &counts{}), nil }
	})
}

func TestEveryCallIsCountedOnce(t *testing.T) {
	s := memlog.NewStore(memlog.Config{})
	defer func() { _ = s.Close() }()
	var seen counts
	l := metered.New(s.Open("a"), &seen)
	ctx := t.Context()
	identity, _ := l.Identity(ctx)
	inc := log.Incarnation{1}
	reg, err := l.Register(ctx, inc, nil, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = l.Members(ctx)
	_, _ = l.Commit(ctx, identity, log.Key{Incarnation: inc, Seq: 1}, []byte("v"))
	_, _ = l.Head(ctx)
	_, _, _, _ = l.Read(ctx, 0, nil, 1)
	_, _, _, _ = l.Read(ctx, 5, nil, 1)
	enough := errors.New("enough")
	_ = l.Watch(ctx, log.Cursor{}, func([]log.Entry) error { return enough })
	_ = l.Trim(ctx, nil, log.Cursor{})
	_, _ = l.Load(ctx, "c")
	_, _ = l.Swap(ctx, "c", 0, nil, reg)
	_, _ = l.Swap(ctx, "c", 99, nil, nil)
	_, _ = l.Status(ctx)
	_ = l.Unregister(ctx, inc)
	want := map[string]int{
		"identity ok": 1, "register ok": 1, "members ok": 1, "commit ok": 1, "head ok": 1, "read ok": 1, "read refused": 1,
		"watch other": 1, "trim ok": 1, "load ok": 1, "swap ok": 1, "swap conflict": 1, "status ok": 1, "unregister ok": 1,
	}
	for what, n := range want {
		if seen.got[what] != n {
			t.Errorf("%s: counted %d times, want %d", what, seen.got[what], n)
		}
	}
	if len(seen.got) != len(want) {
		t.Errorf("counted %v", seen.got)
	}
	for _, op := range metered.Ops() {
		if !slices.ContainsFunc([]string{"ok", "other"}, func(o string) bool { return seen.got[string(op)+" "+o] > 0 }) {
			t.Errorf("%s was never counted", op)
		}
	}
}

func TestOutcomes(t *testing.T) {
	for err, want := range map[error]metered.Outcome{
		nil: metered.OutcomeOK,
		fmt.Errorf("%w: %w", log.ErrUnavailable, log.ErrFull): metered.OutcomeFull,
		fmt.Errorf("x: %w", log.ErrUnavailable):               metered.OutcomeUnavailable,
		log.ErrTooLarge:                                       metered.OutcomeTooLarge,
		log.ErrClosed:                                         metered.OutcomeClosed,
		context.Canceled:                                      metered.OutcomeCancelled,
		errors.New("x"):                                       metered.OutcomeOther,
	} {
		if got := metered.OutcomeOf(err); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
}
