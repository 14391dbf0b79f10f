package gc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

const (
	// reapMost is how many objects one Step deletes: a request of the store's.
	reapMost = 1000
	// retainedInterval is when an object that a lock keeps is tried again.
	retainedInterval = 6 * time.Hour
)

// doomed is an object that may go.
type doomed struct {
	id   entry.ObjectID
	size int64 // 0: not known
	why  fate
}

// reap deletes some of what may go.
func (t *T) reap(ctx context.Context) (bool, error) {
	if t.tripped != "" || t.resting(doingDelete) || t.resting(doingArchive) {
		return false, nil
	}
	now := t.now()
	most := min(reapMost, int(t.limiter.TokensAt(now)))
	steady := t.deps.Steady()
	if most <= 0 || steady < t.reapAt && (most < reapMost || !t.full) { // a few at a time would be as many requests, and nothing else would be done
		return false, nil
	}
	t.reapAt, t.full = steady+Interval, false
	list, unarchived := t.doomed(most)
	if len(list) == 0 && unarchived {
		before := t.archived
		var err error
		if t.archived, err = t.deps.Meta.ArchivedThrough(ctx); err != nil {
			t.failed(doingArchive, fmt.Errorf("read how far the log is archived: %w", err))
			return false, nil
		}
		t.fine(doingArchive)
		if t.archived > before {
			list, _ = t.doomed(most)
		}
		if len(list) == 0 && t.seen.seenN > t.archived {
			return t.nudge(ctx)
		}
	}
	if len(list) == 0 {
		return false, nil
	}
	t.limiter.AllowN(now, len(list))
	t.full = len(list) == reapMost
	return t.delete(ctx, list)
}

// nudgeAfter is how long what may go waits for the archive to go on by itself.
const nudgeAfter = time.Minute

// nudge writes an entry that changes nothing, once in a collection epoch: of a cluster in which nothing happens, ticks aside, nothing
// is archived, and so the archive would not come as far as the epoch.
func (t *T) nudge(ctx context.Context) (bool, error) {
	if t.nudged == t.seen.epoch || t.deps.Steady()-t.epochAt < nudgeAfter {
		return false, nil
	}
	if _, err := t.deps.Meta.Propose(ctx, &entry.BumpCollectionEpoch{From: 0}); err != nil { // there is no epoch 0: it is refused
		return false, fmt.Errorf("make the archive go on: %w", err)
	}
	t.nudged = t.seen.epoch
	return true, nil
}

// now is the steady clock as the limiter takes it.
func (t *T) now() time.Time { return time.Unix(0, 0).Add(t.deps.Steady()) }

// doomed picks up to most objects that may go, and says whether others wait for the archive. Of the orphans that a sweep found, those that
// may not go are dropped: they were named all the same, or the log knows of them by now.
func (t *T) doomed(most int) (list []doomed, unarchived bool) {
	t.deps.Meta.View(func(st *state.State) {
		list, unarchived = t.doomedRetired(st, most)
		list, unarchived = t.doomedOrphans(st, most, list, unarchived)
	})
	return list, unarchived
}

// doomedRetired looks at what retired, unless it has and nothing has changed.
func (t *T) doomedRetired(st *state.State, most int) (list []doomed, unarchived bool) {
	steady := t.deps.Steady()
	now := quiet{is: true, count: st.RetiredCount(), epoch: st.CollectionEpoch(), archived: t.archived}
	if q := t.quiet; q.is && q.count == now.count && q.epoch == now.epoch && q.archived == now.archived && (q.until == 0 || steady < q.until) {
		return nil, false
	}
	t.quiet = quiet{}
	left := 0
	for r := range st.RetiredTable() {
		if len(list) == most {
			return list, unarchived
		}
		fp := fingerprint(r.Object)
		if has(t.done, fp) {
			continue
		}
		left++
		if until := t.retained[fp]; until > steady {
			if now.until == 0 || until < now.until {
				now.until = until
			}
			continue
		}
		switch judge(st, r.Object, t.seen, t.archived) {
		case retired:
			list = append(list, doomed{r.Object, r.Size, retired})
		case waiting:
			unarchived = true
		case young:
			now.young++
		}
	}
	t.deps.Metrics.waiting.Set(float64(left))
	if len(list) == 0 && !unarchived {
		t.quiet = now
	}
	return list, unarchived
}

// doomedOrphans goes on with what a sweep found.
func (t *T) doomedOrphans(st *state.State, most int, list []doomed, unarchived bool) ([]doomed, bool) {
	steady := t.deps.Steady()
	kept := t.orphans[:0]
	for i, id := range t.orphans {
		if len(list) == most {
			kept = append(kept, t.orphans[i:]...)
			break
		}
		if t.retained[fingerprint(id)] > steady {
			continue
		}
		switch judge(st, id, t.seen, t.archived) {
		case orphan:
			list = append(list, doomed{id, 0, orphan})
			kept = append(kept, id) // until it is deleted
		case waiting:
			unarchived = true
			kept = append(kept, id)
		}
	}
	t.orphans = kept
	return list, unarchived
}

// delete deletes objects, after a last look whether this is right.
func (t *T) delete(ctx context.Context, list []doomed) (bool, error) {
	if err := t.deps.Meta.OwnsBucket(ctx); err != nil {
		t.failed(doingDelete, fmt.Errorf("nothing is deleted: %w", err))
		return false, nil
	}
	alive := ""
	t.deps.Meta.View(func(st *state.State) {
		for i := range list {
			if st.Named(list[i].id) || !ripe(list[i].id, st.CollectionEpoch()) {
				alive = list[i].id.Key()
				return
			}
		}
	})
	if alive != "" { // by the rules this cannot be: something is wrong with them, or with this agent
		t.broken = true
		t.trip(fmt.Sprintf("object %s was about to be deleted and rows name it: nothing is deleted until firn gc run --accept; tell the developers", alive))
		return false, nil
	}
	gone, kept, err := t.remove(ctx, list)
	steady := t.deps.Steady()
	for _, d := range gone {
		fp := fingerprint(d.id)
		delete(t.retained, fp)
		if d.why == retired {
			t.done[fp] = struct{}{}
			t.deps.Metrics.freed.Add(float64(d.size))
		}
		t.deps.Metrics.deleted.WithLabelValues(d.why.String()).Inc()
	}
	for _, d := range kept {
		// What retired is bounded by the state, and would be tried over and over; an orphan is not tried before the next sweep.
		if d.why == retired || len(t.retained) < t.cfg.LocksKept {
			t.retained[fingerprint(d.id)] = steady + retainedInterval
		}
	}
	t.dropOrphans(gone, kept)
	if err != nil {
		t.failed(doingDelete, err)
		return false, nil
	}
	t.fine(doingDelete)
	return true, nil
}

// dropOrphans takes out of the list what was deleted or is kept by a lock.
func (t *T) dropOrphans(lists ...[]doomed) {
	out := make(map[entry.ObjectID]struct{})
	for _, list := range lists {
		for _, d := range list {
			if d.why == orphan {
				out[d.id] = struct{}{}
			}
		}
	}
	if len(out) == 0 {
		return
	}
	left := t.orphans[:0]
	for _, id := range t.orphans {
		if _, is := out[id]; !is {
			left = append(left, id)
		}
	}
	t.orphans = left
}

// remove asks the bucket to delete, and finds out by halving which objects a lock keeps.
func (t *T) remove(ctx context.Context, list []doomed) (gone, kept []doomed, err error) {
	keys := make([]string, len(list))
	for i := range list {
		keys[i] = list[i].id.Key()
	}
	err = t.deps.Bucket.Delete(ctx, keys...)
	switch {
	case err == nil:
		return list, nil, nil
	case errors.Is(err, objstore.ErrDenied):
		return nil, nil, fmt.Errorf("delete objects: %w; the agents' credentials need the action s3:DeleteObject on the bucket", err)
	case !errors.Is(err, objstore.ErrRetained):
		return nil, nil, fmt.Errorf("delete objects: %w", err)
	case len(list) == 1:
		return nil, list, nil
	}
	half := len(list) / 2
	for _, part := range [][]doomed{list[:half], list[half:]} {
		g, k, err := t.remove(ctx, part)
		gone, kept = append(gone, g...), append(kept, k...)
		if err != nil {
			return gone, kept, err
		}
	}
	return gone, kept, nil
}
