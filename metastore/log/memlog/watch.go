package memlog

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/firnlog/firn/metastore/log"
)

const (
	progressInterval = 500 * time.Millisecond
	batchMax         = 256 // entries delivered at once
)

// Watch implements log.Log.
func (l *Log) Watch(ctx context.Context, from log.Cursor, fn func([]log.Entry) error) error {
	if l.ctx.Err() != nil {
		return log.ErrClosed
	}
	w := &watch{l: l, seen: from.Revision}
	for {
		step := w.next()
		if step.pause > 0 && step.err == nil {
			if err := l.sleep(ctx, step.pause); err != nil {
				return err
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case l.ctx.Err() != nil:
			return log.ErrClosed
		case step.err != nil:
			return step.err
		case step.entries != nil:
			if err := fn(step.entries); err != nil {
				return err
			}
			continue
		}
		alive, err := l.await(ctx, step)
		if err != nil {
			return err
		}
		if alive {
			if err := fn(nil); err != nil {
				return err
			}
		}
	}
}

// await waits for a change, or for the time to show a sign of life: then it is true.
func (l *Log) await(ctx context.Context, s step) (bool, error) {
	var tick <-chan time.Time
	if !s.silent {
		t := time.NewTimer(progressInterval)
		defer t.Stop()
		tick = t.C
	}
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-l.ctx.Done():
		return false, log.ErrClosed
	case <-s.changed: // nil for ever once stalled
		return false, nil
	case <-tick:
		return true, nil
	}
}

type watch struct {
	l       *Log
	seen    int64 // revision up to which all has been delivered, or lost on purpose
	stalled bool
}

// step is what a watch does next.
type step struct {
	pause   time.Duration // first
	entries []log.Entry
	err     error
	changed <-chan struct{} // if there is nothing to deliver
	silent  bool            // and no progress either
}

func (w *watch) next() step {
	s := w.l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	f := w.l.faults
	if w.stalled {
		return step{silent: true}
	}
	if f.Partitioned {
		return step{silent: true, changed: s.changed}
	}
	if w.seen+1 < s.compacted {
		return step{err: fmt.Errorf("%w: memlog: revision %d is compacted", log.ErrWatchLost, w.seen+1)}
	}
	first := sort.Search(len(s.entries), func(i int) bool { return s.entries[i].revision > w.seen })
	if first == len(s.entries) {
		w.seen = s.revision
		return step{changed: s.changed}
	}
	switch {
	case s.drawLocked(f.WatchEnd):
		s.counts.WatchEnded++
		return step{err: fmt.Errorf("%w: memlog: no leader", log.ErrWatchLost)}
	case s.drawLocked(f.WatchCompact):
		s.counts.WatchCompacted++
		return step{err: fmt.Errorf("%w: memlog: revision %d is compacted", log.ErrWatchLost, w.seen+1)}
	case s.drawLocked(f.WatchStall):
		s.counts.WatchStalled++
		w.stalled = true
		return step{silent: true}
	}
	var out step
	if s.drawLocked(f.WatchLate) {
		s.counts.WatchLate++
		out.pause = s.upToLocked(f.WatchLateMax)
	}
	out.entries = []log.Entry{}
	for i := first; i < min(len(s.entries), first+batchMax); i++ {
		w.seen = s.entries[i].revision
		if s.drawLocked(f.WatchLose) {
			s.counts.WatchLost++
			continue
		}
		out.entries = append(out.entries, s.entries[i].Entry)
		if s.drawLocked(f.WatchRepeat) {
			back := max(0, i-s.rand.IntN(repeatMax))
			for back < i && s.entries[back].revision < s.compacted {
				back++ // its value may be gone
			}
			for _, e := range s.entries[back : i+1] {
				out.entries = append(out.entries, e.Entry)
				s.counts.WatchRepeated++
			}
		}
	}
	if len(out.entries) == 0 {
		out.entries = nil // all lost: as if nothing had happened
		out.changed = s.changed
	}
	return out
}
