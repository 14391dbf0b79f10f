package metastore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/firnlog/firn/objstore"
)

// The bucket keeps the log's history for Config.HistoryKeep of log time, so that its objects do not add up for ever: what is older
// is stood in for by a snapshot, the oldest that is kept, and whoever walks the chain of archive ranges back ends there. A state
// is restored from the newest snapshot and what was archived since; the rest is for those who want to know what happened.
const (
	// snapshotsKept is how many of the newest snapshots stay whatever their age: as many as a restore tries.
	snapshotsKept = snapshotsTried
	// snapshotsSpread is about how many of the older ones stay, so many entries apart that they are spread over what is kept.
	snapshotsSpread = 16
	// pruneSteps bounds how many snapshots are looked into at once, and prunePages how many pages of names.
	pruneSteps = 64
	prunePages = 64
	// pruneEvery is the time between two prunings, of log time, unless what is kept is shorter.
	pruneEvery = time.Hour
)

// prune lets history go that is older than what is kept. What fails is tried again an hour later: it costs space, nothing else.
func (a *archivist) prune(ctx context.Context) {
	keep := a.c.cfg.HistoryKeep
	now := a.shadow.LogTime()
	if a.prunedMs == 0 { // not at once: agents come and go
		a.prunedMs = now
	}
	if a.alone || keep < 0 || now-a.prunedMs < min(pruneEvery, keep/8).Milliseconds() {
		return
	}
	a.prunedMs = now
	snapshots, ranges, err := a.forget(ctx, now-keep.Milliseconds())
	if err != nil && ctx.Err() == nil {
		a.c.cfg.Logger.Warn("old history of the metastore's log cannot be deleted; it is tried again in an hour", "error", err)
	}
	if snapshots+ranges > 0 {
		a.c.cfg.Metrics.prunedObjects.Add(float64(snapshots + ranges))
		a.c.cfg.Logger.Debug("old history deleted", "snapshots", snapshots, "archive_ranges", ranges)
	}
}

// forget deletes snapshots and ranges that nobody needs who wants the history since a log time.
func (a *archivist) forget(ctx context.Context, sinceMs int64) (snapshots, ranges int, err error) {
	m, err := readMarker(ctx, a.c.bucket)
	if err != nil {
		return 0, 0, err
	}
	h := history{bucket: a.c.bucket, marker: m, identity: a.c.identity}
	list, err := h.list(ctx, snapshotPrefix, "")
	if err != nil {
		return 0, 0, err
	}
	slices.SortFunc(list, func(x, y named) int {
		return cmp.Or(cmp.Compare(x.last, y.last), cmp.Compare(x.epoch, y.epoch), cmp.Compare(x.key, y.key))
	})
	// The base moves on while the snapshot after it is old enough, too, and no agent and no trimmer needs what lies before.
	base := 0
	for range pruneSteps {
		next := base + 1
		if next > len(list)-snapshotsKept || list[next].last > min(a.trimBase, a.pointer.N) {
			break
		}
		st, err := h.begin(ctx, list[next])
		if unusable(err) {
			list = slices.Delete(list, next, next+1) // it cannot stand in for anything; it is for an operator to look at
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		if st.LogTime() >= sinceMs {
			break
		}
		base = next
	}
	var gone []string
	if len(list) > snapshotsKept {
		older := list[:len(list)-snapshotsKept]
		before, apart := list[base].last, (list[len(list)-1].last-list[base].last)/snapshotsSpread
		for i, o := range older {
			switch {
			case i < base, i > base && o.last-before < apart:
				gone = append(gone, o.key)
			case i > base:
				before = o.last
			}
		}
	}
	if base > 0 { // first: a snapshot goes when the ranges that continue it are gone
		if ranges, err = a.forgetRanges(ctx, list[base]); err != nil {
			return 0, ranges, err
		}
	}
	return len(gone), ranges, deleteAll(ctx, a.c.bucket, gone)
}

// forgetRanges deletes the ranges that end where a snapshot is, or before. The last ones go first: then the chain of those that are
// left ends at the snapshot, wherever this stops.
func (a *archivist) forgetRanges(ctx context.Context, base named) (deleted int, err error) {
	var last, earlier []string
	after, beyond := "", false
	for pages := 0; !beyond && pages < prunePages; pages++ {
		infos, err := a.c.bucket.List(ctx, archivePrefix, after, 1000)
		if err != nil {
			return 0, fmt.Errorf("list %s: %w", archivePrefix, err)
		}
		beyond = len(infos) == 0
		for i := range infos {
			after = infos[i].Key
			o, ok := parseHistoryKey(after)
			if beyond = ok && (o.epoch > base.epoch || o.epoch == base.epoch && o.first > base.last); beyond {
				break
			}
			switch {
			case ok && o.last == base.last:
				last = append(last, o.key)
			case ok && o.last < base.last:
				earlier = append(earlier, o.key)
			}
		}
	}
	if !beyond && len(last) == 0 { // more than can be listed at once: the earliest of them, which lead nowhere yet
		return len(earlier), deleteAll(ctx, a.c.bucket, earlier)
	}
	if err := deleteAll(ctx, a.c.bucket, last); err != nil {
		return 0, err
	}
	slices.Reverse(earlier)
	return len(last) + len(earlier), deleteAll(ctx, a.c.bucket, earlier)
}

func deleteAll(ctx context.Context, bucket objstore.Bucket, keys []string) error {
	for chunk := range slices.Chunk(keys, 1000) {
		if err := bucket.Delete(ctx, chunk...); err != nil {
			return fmt.Errorf("delete old history: %w", err)
		}
	}
	return nil
}
