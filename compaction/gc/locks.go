package gc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
)

// locks tells which objects an object lock keeps.
type locks struct {
	config objstore.LockConfig
	now    time.Time     // the store's clock
	steady time.Duration // and ours at that moment
}

// openLocks returns nil where the bucket locks nothing, or does not say.
func openLocks(ctx context.Context, bucket objstore.Bucket, steady time.Duration) (*locks, error) {
	config, able := objstore.As[objstore.LockConfig](bucket)
	clock, timed := objstore.As[objstore.Clock](bucket)
	if !able || !timed {
		return nil, nil
	}
	settings, err := config.LockSettings(ctx)
	var now time.Time
	if err == nil && settings.Enabled {
		now, err = clock.Now(ctx)
	}
	switch {
	case untold(err), err == nil && !settings.Enabled:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look whether the bucket locks objects: %w", err)
	}
	return &locks{config, now, steady}, nil
}

// untold reports whether asking again would be no use.
func untold(err error) bool {
	return errors.Is(err, objstore.ErrInvalid) || errors.Is(err, objstore.ErrDenied)
}

// until is when, on the steady clock, the object's lock ends; kept is false where none keeps it now.
func (l *locks) until(ctx context.Context, id entry.ObjectID) (at time.Duration, kept bool, err error) {
	lock, err := l.config.ObjectLock(ctx, id.Key())
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	left := lock.Until.Sub(l.now)
	return l.steady + left, lock.Mode != objstore.LockNone && left > 0, nil
}

const (
	// lookMost is how many locks one Step asks for.
	lookMost = 50
	// askTries is how often one object is asked for, RetryInterval apart, until nothing is known of it in this sweep.
	askTries = 3
	// silentMost is of how many objects nothing may be known until the bucket counts as one that does not say: its lock settings, too,
	// are asked for as often as that takes.
	silentMost = 10
)

// toExplain reports whether the orphans of a sweep are suspiciously many, and locks may explain that.
func (t *T) toExplain(s *sweep) bool {
	return !s.accept && !t.broken && !s.untold && s.looked < len(s.orphans) &&
		t.cfg.suspicious(s.Orphans, s.Listed) && !t.cfg.suspicious(s.plain, s.Listed)
}

// explain asks for the locks of some orphans. What a lock keeps is no orphan to be deleted, and does not count as one, until it ends:
// a collector that takes over does not know what was refused to those before it, and may not try while orphans are suspiciously many.
func (t *T) explain(ctx context.Context, s *sweep) (bool, error) {
	if s.locks == nil {
		asking, cancel := context.WithTimeout(ctx, t.cfg.AskTimeout)
		var err error
		s.locks, err = openLocks(asking, t.deps.Bucket, t.deps.Steady())
		cancel()
		if err != nil {
			if !t.unanswered(ctx, s, err, askTries*silentMost) {
				return false, context.Cause(ctx)
			}
			t.silent(s, "whether it locks objects", err)
		}
		s.untold = s.locks == nil
	}
	for n := 0; n < lookMost && t.toExplain(s); n++ {
		id := s.orphans[s.looked]
		fp := fingerprint(id)
		if !has(t.retained, fp) { // such are not counted
			asking, cancel := context.WithTimeout(ctx, t.cfg.AskTimeout)
			at, kept, err := s.locks.until(asking, id)
			cancel()
			if untold(err) {
				s.untold = true
				break
			}
			if err != nil {
				if !t.unanswered(ctx, s, err, askTries) {
					return false, context.Cause(ctx)
				}
				s.plain++  // nothing explains it
				s.looked++ // and it stays, since a lock may keep it
				s.Unknown++
				s.untold = s.Unknown >= silentMost
				t.silent(s, "whether a lock keeps "+id.Key(), err)
				continue
			}
			s.tries = 0
			if kept {
				if len(t.locked) < t.cfg.LocksKept { // else the next sweep asks again
					t.locked[fp] = at
				}
				s.Orphans, s.Retained = s.Orphans-1, s.Retained+1
				s.looked++
				continue
			}
			s.plain++
		}
		s.orphans[s.left] = id
		s.left, s.looked = s.left+1, s.looked+1
	}
	t.fine(doingRead)
	return true, nil
}

// unanswered notes that the bucket did not answer a question of the sweep's, and reports whether that is final. Else it is asked again
// after a while, or ctx is over.
func (t *T) unanswered(ctx context.Context, s *sweep, err error, tries int) (final bool) {
	if ctx.Err() != nil {
		return false
	}
	if s.tries++; s.tries < tries {
		t.failed(doingRead, err)
		return false
	}
	s.tries = 0
	return true
}

// silent tells once in a sweep that the bucket does not answer.
func (t *T) silent(s *sweep, what string, err error) {
	t.deps.Metrics.errors.WithLabelValues(doingRead).Inc()
	if s.hushed {
		return
	}
	s.hushed = true
	t.deps.Logger.Warn("the bucket does not say what a sweep asks; such objects are kept, and the sweep goes on", "question", what, "error", err)
}

// forgetEnded forgets locks that have ended: what they kept counts again.
func (t *T) forgetEnded() {
	now := t.deps.Steady()
	for fp, at := range t.locked {
		if at <= now {
			delete(t.locked, fp)
		}
	}
}
