package sim_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
)

// observer sees the log without any fault, from the first entry on, and keeps all of it: what every replica is held to.
type observer struct {
	log    *memlog.Log
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex // guards the rest
	entries []log.Entry
	seen    []time.Time // when each was
	err     error
}

func observe(s *memlog.Store) *observer {
	o := &observer{log: s.Open("observer"), done: make(chan struct{})}
	var ctx context.Context
	ctx, o.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(o.done)
		o.follow(ctx)
	}()
	return o
}

func (o *observer) stop() {
	o.cancel()
	<-o.done
}

func (o *observer) follow(ctx context.Context) {
	var cursor log.Cursor
	for ctx.Err() == nil {
		err := o.log.Watch(ctx, cursor, func(entries []log.Entry) error { o.take(entries); return nil })
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, log.ErrWatchLost) { // history was compacted before this goroutine ran
			o.fail(err)
			return
		}
		var entries []log.Entry
		entries, cursor, _, err = o.log.Read(ctx, o.head(), nil, 1<<30)
		if err != nil {
			o.fail(err)
			return
		}
		o.take(entries)
	}
}

func (o *observer) take(entries []log.Entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range entries {
		if e.N == uint64(len(o.entries))+1 {
			o.entries = append(o.entries, e)
			o.seen = append(o.seen, time.Now())
		}
	}
}

func (o *observer) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

// seenAt is when entry n, which it has, was seen: when it was committed, in a life without real time.
func (o *observer) seenAt(n uint64) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen[n-1]
}

func (o *observer) head() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return uint64(len(o.entries))
}

// until waits, for a second at most, until entry n was seen and returns everything so far.
func (o *observer) until(n uint64) ([]log.Entry, error) {
	for range 100 {
		o.mu.Lock()
		entries, err := slices.Clone(o.entries), o.err
		o.mu.Unlock()
		if err != nil || uint64(len(entries)) >= n {
			return entries, err
		}
		time.Sleep(10 * time.Millisecond) // of the bubble's time
	}
	return nil, errors.New("the log's watch without faults has stopped")
}

// patientTrim holds trims back until the observer has seen what they delete: all of it can happen in one instant.
type patientTrim struct {
	log.Log
	observer *observer
}

func (l patientTrim) Trim(ctx context.Context, keys []log.Key, upTo log.Cursor) error {
	head, err := l.observer.log.Head(ctx)
	if err != nil {
		return err
	}
	if _, err := l.observer.until(head); err != nil {
		return err
	}
	return l.Log.Trim(ctx, keys, upTo)
}
