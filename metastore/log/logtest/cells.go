package logtest

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/firnlog/firn/metastore/log"
)

func cellsSwap(t *testing.T, s *store) {
	a, b := s.log(t), s.log(t)
	if c, err := a.Load(t.Context(), "snapshot"); err != nil || c.Version != 0 || c.Value != nil {
		t.Fatalf("an absent cell is %+v, %v", c, err)
	}
	_, err := a.Swap(t.Context(), "snapshot", 7, []byte("x"), nil)
	wantErr(t, err, log.ErrConflict)
	one, err := a.Swap(t.Context(), "snapshot", 0, []byte("one"), nil)
	if err != nil || one.Version == 0 || string(one.Value) != "one" {
		t.Fatalf("created %+v, %v", one, err)
	}
	_, err = b.Swap(t.Context(), "snapshot", 0, []byte("mine"), nil)
	wantErr(t, err, log.ErrConflict)
	two, err := b.Swap(t.Context(), "snapshot", one.Version, []byte("two"), nil)
	if err != nil || two.Version == one.Version {
		t.Fatalf("swapped %+v, %v", two, err)
	}
	_, err = a.Swap(t.Context(), "snapshot", one.Version, []byte("stale"), nil)
	wantErr(t, err, log.ErrConflict)
	got, err := a.Load(t.Context(), "snapshot")
	if err != nil || got.Version != two.Version || string(got.Value) != "two" {
		t.Fatalf("loaded %+v, %v; want %+v", got, err, two)
	}
	if c, err := a.Load(t.Context(), "snap"); err != nil || c.Version != 0 {
		t.Errorf("a cell by the prefix of another's name is %+v, %v", c, err)
	}
}

func cellsRace(t *testing.T, s *store) {
	start, err := s.log(t).Swap(t.Context(), "c", 0, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var wins atomic.Int32
	var tasks sync.WaitGroup
	for i := range 6 {
		l := s.log(t)
		tasks.Go(func() {
			switch _, err := l.Swap(t.Context(), "c", start.Version, []byte{byte(i)}, nil); {
			case err == nil:
				wins.Add(1)
			case !errors.Is(err, log.ErrConflict):
				t.Error(err)
			}
		})
	}
	tasks.Wait()
	if wins.Load() != 1 {
		t.Errorf("%d swaps of one version succeeded", wins.Load())
	}
}

func cellsOwned(t *testing.T, s *store) {
	a, b := s.agent(t), s.agent(t)
	for name, end := range map[string]func(*agent) error{
		"closed":       func(o *agent) error { return o.reg.Close(t.Context()) },
		"unregistered": func(o *agent) error { return b.Unregister(t.Context(), o.incarnation) },
	} {
		owner := s.agent(t)
		first, err := owner.Swap(t.Context(), name, 0, []byte("held"), owner.reg)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := owner.Swap(t.Context(), name+" kept", 0, []byte("held"), owner.reg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Swap(t.Context(), name+" kept", kept.Version, []byte("free"), nil); err != nil {
			t.Fatal(err)
		}
		if err := end(owner); err != nil {
			t.Fatal(err)
		}
		if c, err := b.Load(t.Context(), name); err != nil || c.Version != 0 {
			t.Errorf("%s: the cell is %+v, %v", name, c, err)
		}
		if c, err := b.Load(t.Context(), name+" kept"); err != nil || string(c.Value) != "free" {
			t.Errorf("%s: a cell that is no longer owned is %+v, %v", name, c, err)
		}
		_, err = owner.Swap(t.Context(), name, 0, []byte("zombie"), owner.reg)
		wantErr(t, err, log.ErrConflict)
		// A version never comes back: who remembers the first cell cannot take the second for it.
		second, err := b.Swap(t.Context(), name, 0, []byte("next"), b.reg)
		if err != nil || second.Version == first.Version {
			t.Errorf("%s: second %+v, %v; first %+v", name, second, err, first)
		}
	}
	if _, err := a.Swap(t.Context(), "c", 0, nil, b.reg); err == nil {
		t.Error("another log's registration was taken as owner")
	}
}

func cancelled(t *testing.T, s *store) {
	a := s.agent(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k := a.next()
	for name, call := range map[string]func() error{
		"identity":   func() error { _, err := a.Identity(ctx); return err },
		"register":   func() error { _, err := a.Register(ctx, newIncarnation(), nil, ttl); return err },
		"unregister": func() error { return a.Unregister(ctx, a.incarnation) },
		"members":    func() error { _, err := a.Members(ctx); return err },
		"commit":     func() error { _, err := a.Commit(ctx, a.identity, k, nil); return err },
		"head":       func() error { _, err := a.Head(ctx); return err },
		"read":       func() error { _, _, _, err := a.Read(ctx, 0, nil, 1); return err },
		"trim":       func() error { return a.Trim(ctx, []log.Key{k}, log.Cursor{Revision: math.MaxInt64}) },
		"load":       func() error { _, err := a.Load(ctx, "c"); return err },
		"swap":       func() error { _, err := a.Swap(ctx, "c", 0, nil, nil); return err },
	} {
		if err := call(); !errors.Is(err, log.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantErr(t, a.Watch(ctx, log.Cursor{}, func([]log.Entry) error { return nil }), context.Canceled)

	// In the middle of a watch too.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	wantErr(t, a.Watch(ctx, log.Cursor{}, func([]log.Entry) error { cancel(); return nil }), context.Canceled)
	if got, err := a.Commit(t.Context(), a.identity, k, value(k, 0)); err != nil || got != log.Committed && got != log.Exists {
		t.Errorf("afterwards: outcome %d, %v", got, err)
	}
}

func closes(t *testing.T, s *store) {
	a, b := s.agent(t), s.agent(t)
	a.mustCommit(t, 1)
	alive := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		var once sync.Once
		ended <- a.Watch(t.Context(), log.Cursor{}, func([]log.Entry) error {
			once.Do(func() { close(alive) })
			return nil
		})
	}()
	wait(t, "the watch begins", alive)
	for range 2 {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, <-ended, log.ErrClosed)
	_, err := a.Head(t.Context())
	wantErr(t, err, log.ErrClosed)
	_, err = a.Commit(t.Context(), a.identity, a.next(), nil)
	wantErr(t, err, log.ErrClosed)
	wantErr(t, a.Watch(t.Context(), log.Cursor{}, func([]log.Entry) error { return nil }), log.ErrClosed)
	if err := a.reg.Close(t.Context()); err == nil {
		t.Error("a registration closed over a closed log")
	}
	got, err := b.Members(t.Context())
	if err != nil || len(got) != 2 {
		t.Errorf("members %v, %v: a closed log leaves its registration to lapse", got, err)
	}
}

func status(t *testing.T, s *store) {
	got, err := s.log(t).Status(t.Context())
	if err != nil || len(got) == 0 {
		t.Errorf("status %v, %v", got, err)
	}
}
