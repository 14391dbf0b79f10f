package memlog

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/log"
)

// Log is one agent's way to a Store.
type Log struct {
	store  *Store
	name   string
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup // keepalives
	faults Faults         // guarded by store.mu
}

var _ log.Log = (*Log)(nil)

func newLog(s *Store, name string, f Faults) *Log {
	l := &Log{store: s, name: name, faults: f}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// SetFaults changes the faults of this agent alone.
func (l *Log) SetFaults(f Faults) {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.faults = f.withDefaults()
	l.store.wakeLocked()
}

// Close implements log.Log.
func (l *Log) Close() error {
	l.cancel()
	l.tasks.Wait()
	return nil
}

func (l *Log) unavailable(what string, err error) error {
	return fmt.Errorf("%w: memlog %s: %s: %w", log.ErrUnavailable, l.name, what, err)
}

// travel takes a call one way: through latency, against a partition.
func (l *Log) travel(ctx context.Context, what string) error {
	s := l.store
	s.mu.Lock()
	var pause time.Duration
	if l.faults.LatencyMax > 0 {
		pause = s.upToLocked(l.faults.LatencyMax)
		s.counts.Delayed++
	}
	s.mu.Unlock()
	if pause > 0 {
		if err := l.sleep(ctx, pause); err != nil {
			return l.unavailable(what, err)
		}
	}
	counted := false
	for {
		if err := ctx.Err(); err != nil {
			return l.unavailable(what, err)
		}
		s.mu.Lock()
		cut, refuses, changed := l.faults.Partitioned, l.faults.PartitionRefuses, s.changed
		if cut && !counted {
			s.counts.Partitioned++
		}
		s.mu.Unlock()
		switch {
		case !cut && !counted:
			return nil
		case !cut || refuses:
			return l.unavailable(what, errPartitioned)
		}
		counted = true
		select {
		case <-ctx.Done():
		case <-l.ctx.Done():
			return l.unavailable(what, log.ErrClosed)
		case <-changed:
		}
	}
}

func (l *Log) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ctx.Done():
		return log.ErrClosed
	}
}

// call runs one step of the store for an agent. Whatever keeps the answer from coming back leaves the step done.
func (l *Log) call(ctx context.Context, what string, step func(s *Store) error) error {
	if l.ctx.Err() != nil {
		return log.ErrClosed
	}
	if err := l.travel(ctx, what); err != nil {
		return err
	}
	l.store.mu.Lock()
	err := step(l.store)
	l.store.mu.Unlock()
	if lost := l.travel(ctx, what); lost != nil {
		return lost
	}
	return err
}

// Identity implements log.Log.
func (l *Log) Identity(ctx context.Context) (i log.Identity, err error) {
	err = l.call(ctx, "identity", func(s *Store) error {
		if s.identity.Epoch == 0 {
			s.createLocked()
		}
		i = s.identity
		return nil
	})
	return i, err
}

// Head implements log.Log.
func (l *Log) Head(ctx context.Context) (n uint64, err error) {
	err = l.call(ctx, "head", func(s *Store) error { n = s.headLocked(); return nil })
	return n, err
}

// Commit implements log.Log.
func (l *Log) Commit(ctx context.Context, identity log.Identity, key log.Key, value []byte) (outcome log.Outcome, err error) {
	if l.ctx.Err() != nil {
		return 0, log.ErrClosed
	}
	if len(value) > log.MaxValueBytes {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", log.ErrTooLarge, len(value), log.MaxValueBytes)
	}
	value = slices.Clone(value) // what is stored never changes
	err = l.call(ctx, "commit", func(s *Store) error {
		f := l.faults
		unknown := func(count *int, why error) error {
			*count++
			return l.unavailable("commit "+key.String(), why)
		}
		switch {
		case s.drawLocked(f.Dropped):
			return unknown(&s.counts.Dropped, errRefused)
		case s.drawLocked(f.Late):
			s.laterLocked(s.upToLocked(f.LateMax), identity, key, value)
			return unknown(&s.counts.Late, errTimedOut)
		case s.drawLocked(f.NoSpace):
			if s.drawLocked(0.5) && s.commitLocked(identity, key, value) == log.Committed {
				s.counts.NoSpaceApplied++
			}
			return unknown(&s.counts.NoSpace, errNoSpace)
		case s.drawLocked(f.Ambiguous):
			s.commitLocked(identity, key, value)
			return unknown(&s.counts.Ambiguous, errReset)
		}
		outcome = s.commitLocked(identity, key, value)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return outcome, nil
}

// Read implements log.Log; it needs no hint of where to start.
func (l *Log) Read(ctx context.Context, after uint64, _ map[log.Incarnation]uint64, maxBytes int) (out []log.Entry, cursor log.Cursor, more bool, err error) {
	err = l.call(ctx, "read", func(s *Store) error {
		switch {
		case after > s.headLocked():
			return fmt.Errorf("%w: %w: the log went back: its head is %d, applied is %d", log.ErrRefused, log.ErrReplaced, s.headLocked(), after)
		case after < s.identity.Base:
			return fmt.Errorf("%w: %d is of an earlier epoch", log.ErrTrimmed, after+1)
		}
		rest := s.entries[after-s.identity.Base:]
		for _, e := range rest {
			if e.trimmed {
				return fmt.Errorf("%w: %d", log.ErrTrimmed, e.N)
			}
		}
		cursor.Revision = s.revision
		size := 0
		for i, e := range rest {
			out, size = append(out, e.Entry), size+len(e.Value)
			if more = i+1 < len(rest); more && size >= maxBytes {
				cursor.Revision = e.revision
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, log.Cursor{}, false, err
	}
	return out, cursor, more, nil
}

// Trim implements log.Log.
func (l *Log) Trim(ctx context.Context, keys []log.Key, upTo log.Cursor) error {
	const keysMax = 1000
	if len(keys) > keysMax {
		return fmt.Errorf("trim of %d keys, at most %d", len(keys), keysMax)
	}
	return l.call(ctx, "trim", func(s *Store) error { s.trimLocked(keys, upTo.Revision); return nil })
}

// Load implements log.Log.
func (l *Log) Load(ctx context.Context, name string) (out log.Cell, err error) {
	err = l.call(ctx, "load", func(s *Store) error { out = s.cellLocked(name); return nil })
	return out, err
}

// cellLocked is the zero Cell where there is none.
func (s *Store) cellLocked(name string) log.Cell {
	c, ok := s.cells[name]
	if !ok || c.owned && !s.liveLocked(c.owner) {
		return log.Cell{}
	}
	return c.Cell
}

// Swap implements log.Log.
func (l *Log) Swap(ctx context.Context, name string, version uint64, value []byte, owner log.Registration) (out log.Cell, err error) {
	c := &cell{}
	if owner != nil {
		r, ok := owner.(*registration)
		if !ok || r.l != l {
			return out, fmt.Errorf("swap %s: the owner is not a registration of this log", name)
		}
		c.owned, c.owner = true, r.incarnation
	}
	err = l.call(ctx, "swap", func(s *Store) error {
		if s.cellLocked(name).Version != version || c.owned && !s.liveLocked(c.owner) {
			return fmt.Errorf("%w: %s is not at version %d, or its owner is gone", log.ErrConflict, name, version)
		}
		s.revision++
		c.Cell = log.Cell{Value: slices.Clone(value), Version: uint64(s.revision)}
		s.cells[name] = c
		out = c.Cell
		return nil
	})
	if err != nil {
		return log.Cell{}, err
	}
	return out, nil
}

// Status implements log.Log.
func (l *Log) Status(ctx context.Context) (out map[string]string, err error) {
	err = l.call(ctx, "status", func(s *Store) error {
		out = map[string]string{
			"store": "memory", "agent": l.name, "head": strconv.FormatUint(s.headLocked(), 10),
			"entries": strconv.Itoa(len(s.keys)), "revision": strconv.FormatInt(s.revision, 10),
		}
		return nil
	})
	return out, err
}
