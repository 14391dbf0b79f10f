package metastore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// archiverCell is held by the one agent that archives; it vanishes with its registration. It only saves work: two
// archivers are kept apart by the compare-and-swap of the archive and snapshot cells.
const archiverCell = "duty/archive"

// trimChunk is how many entries one trim deletes; a larger delete would hold up every commit.
const trimChunk = 1000

// idleBatch is how many entries without news for readers (ticks) may wait before they are archived all the same.
const idleBatch = 1000

// archiveRunMax bounds one run of the archiver, taking the duty up included.
const archiveRunMax = 10 * time.Minute

// A snapshot is made, and the log trimmed to the marginRanges newest, also where that many ranges were written since: a quiet
// cluster archives few entries an object, and whoever takes up the duty, or starts, reads them one by one.
const (
	snapshotRanges = 256
	marginRanges   = 64
)

// archiveLoop archives where the duty is ours. It is on its own: taking the duty up reads much.
func (c *Client) archiveLoop() {
	var a *archivist
	for c.pause(c.cfg.ArchiveInterval) {
		if s := c.session.Load(); s != nil && s.joined.Load() && c.archiveFault.Load() == nil {
			a = c.archiveOnce(s, a)
		}
	}
}

// archiveOnce makes sure that somebody archives and, where it is us, archives what is new. It returns the archivist to go
// on with, nil where the duty is another's or something went wrong (the next call starts from the bucket again).
func (c *Client) archiveOnce(s *session, a *archivist) *archivist {
	ctx, cancel := context.WithTimeout(c.ctx, archiveRunMax)
	defer cancel()
	holder, err := c.log.Load(ctx, archiverCell)
	if err == nil && holder.Version == 0 {
		holder, err = c.log.Swap(ctx, archiverCell, 0, s.incarnation[:], s.registration)
	}
	if err != nil {
		return nil // the duty may still be ours: what was known of it stands
	}
	if !bytes.Equal(holder.Value, s.incarnation[:]) {
		c.duty.ours.Store(false)
		c.duty.trouble.Store(nil)
		return nil
	}
	if !c.duty.ours.Load() {
		c.duty.caughtUp.Store(c.clockNow().UnixNano()) // lag counts from here
		c.duty.ours.Store(true)
	}
	if a == nil || a.writer != s.incarnation {
		if a, err = c.newArchivist(ctx, s.incarnation); err != nil {
			c.archiveFailed("cannot take up archiving", err)
			return nil
		}
	}
	err = a.run(ctx)
	a.note()
	if err == nil {
		c.duty.caughtUp.Store(c.clockNow().UnixNano())
		c.duty.trouble.Store(nil)
		return a
	}
	if c.ctx.Err() == nil && !errors.Is(err, log.ErrConflict) {
		c.archiveFailed("archiving interrupted", err)
	}
	if errors.Is(err, errGivenUp) {
		c.fail(err)
	}
	if errors.Is(err, ErrDiverged) {
		// Who is wrong, the live state or what the bucket gives, peers tell (see peers). If it is the bucket, ending
		// this agent would only hand the same to the next one: stop archiving, keep the log whole, and say so.
		why := err.Error()
		c.archiveFault.Store(&why)
		c.cfg.Metrics.hashMismatches.Inc()
		c.cfg.Logger.Error("archiving stopped: the log is no longer trimmed", "error", err)
	}
	return nil
}

// archiveFailed records a run in vain. It is tried again every few seconds, and told of by ArchiveFault.
func (c *Client) archiveFailed(what string, err error) {
	c.cfg.Metrics.archiveErrors.Inc()
	c.cfg.Logger.Debug(what, "error", err)
	now := &stuck{what: what, since: c.clockNow(), err: err}
	if before := c.duty.trouble.Load(); before != nil {
		now.since = before.since
	}
	c.duty.trouble.Store(now)
}

// archiveRunsMissed is how many runs in vain are no more than a hiccup.
const archiveRunsMissed = 10

// archivist archives the log, replays it from the bucket alone into a shadow state, and makes snapshots of the shadow. So
// what a restore would do is done all day, by code that never looks at a live state but to compare with it.
type archivist struct {
	c      *Client
	writer log.Incarnation
	shadow *state.State
	apply  applier
	// alone: there is no live state here to compare with (TakeSnapshot).
	alone bool

	head    log.Cell // of the archive chain
	pointer pointer
	cell    log.Cell // of the pointer

	// Since the last snapshot.
	entries, bytes int
	// ranges holds the n of the last entry of each archive range after trimBase.
	ranges []uint64
	// cursor of the last Read: every archived entry lies at or before it.
	cursor log.Cursor
	// keys of archived entries that are not known to be deleted, in order of n; keys[0] belongs to trimBase+1.
	keys     []log.Key
	trimBase uint64
	// prunedMs is the log time of the last look at what is older than what is kept.
	prunedMs int64
}

// newArchivist builds the shadow from the newest snapshot and the archive.
func (c *Client) newArchivist(ctx context.Context, writer log.Incarnation) (*archivist, error) {
	a := &archivist{c: c, writer: writer}
	var err error
	if a.pointer, a.cell, err = loadPointer(ctx, c.log); err != nil {
		return nil, err
	}
	if a.shadow, err = loadNewest(ctx, c.log, c.bucket, c.identity); err != nil {
		return nil, err
	}
	c.duty.snapshotMs.Store(a.shadow.LogTime())
	if a.head, err = c.log.Load(ctx, archiveCell); err != nil {
		return nil, err
	}
	a.trimBase = max(a.pointer.Deleted, c.identity.Base)
	keys, err := archiveKeys(ctx, c.log, c.bucket, c.identity, a.trimBase)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		r, err := readRange(ctx, c.bucket, c.identity, key)
		if err != nil {
			return nil, err
		}
		for _, e := range r.above(a.trimBase) {
			a.keys = append(a.keys, e.Key)
		}
		for _, e := range r.above(a.shadow.N()) {
			if err := a.replay(e); err != nil {
				return nil, err
			}
		}
		a.ranges = append(a.ranges, r.last())
	}
	return a, nil
}

// run archives what is new, and snapshots and trims where it is time.
func (a *archivist) run(ctx context.Context) error {
	for {
		entries, cursor, more, err := a.c.log.Read(ctx, a.shadow.N(), sequences(a.shadow), readBytes)
		if err != nil {
			return err
		}
		a.cursor = cursor
		if len(entries) == 0 || !more && len(entries) < idleBatch && !a.newsworthy(entries) {
			break
		}
		if err := a.archive(ctx, entries); err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if a.entries >= a.c.cfg.SnapshotEntries || a.bytes >= a.c.cfg.SnapshotBytes || a.rangesAfter(a.pointer.N) >= snapshotRanges {
		if err := a.snapshot(ctx); err != nil {
			return err
		}
	}
	if err := a.trim(ctx); err != nil {
		return err
	}
	a.prune(ctx)
	return nil
}

// note records how far the duty has come.
func (a *archivist) note() {
	d := &a.c.duty
	d.archived.Store(a.shadow.N())
	d.snapshot.Store(a.pointer.N)
	d.trimmed.Store(a.trimBase)
}

// dutyProgress is what the archiving agent tells of its duty.
type dutyProgress struct {
	ours                        atomic.Bool
	archived, snapshot, trimmed atomic.Uint64         // n
	snapshotMs                  atomic.Int64          // log time of the snapshot, 0 where there is none
	trouble                     atomic.Pointer[stuck] // since when archiving fails; nil where it does not
	caughtUp                    atomic.Int64          // Unix nanoseconds of when nothing was left to archive
}

// gauge sets what changes with time alone.
func (c *Client) gauge() {
	m, d := c.cfg.Metrics, &c.duty
	m.lagEntries.Set(float64(c.lag()))
	m.queuedOps.Set(float64(c.queue.size()))
	if !d.ours.Load() {
		for _, g := range []prometheus.Gauge{m.archiver, m.archiveLag, m.archiveSeconds, m.snapshotAge, m.trimLag} {
			g.Set(0)
		}
		return
	}
	m.archiver.Set(1)
	m.archiveLag.Set(float64(c.Head() - min(c.Head(), d.archived.Load())))
	m.archiveSeconds.Set(c.clockNow().Sub(time.Unix(0, d.caughtUp.Load())).Seconds())
	m.trimLag.Set(float64(d.snapshot.Load() - min(d.snapshot.Load(), d.trimmed.Load())))
	age := 0.0
	if at := d.snapshotMs.Load(); at > 0 {
		var now int64
		c.View(func(st *state.State) { now = st.LogTime() })
		age = float64(max(now-at, 0)) / 1000
	}
	m.snapshotAge.Set(age)
}

// newsworthy says whether entries hold anything but ticks: an idle cluster writes nothing to its bucket.
func (a *archivist) newsworthy(entries []log.Entry) bool {
	for _, e := range entries {
		decoded, err := a.apply.decoder.Decode(e.Value)
		if err != nil {
			return true
		}
		for _, op := range decoded.Ops {
			if _, ok := op.(*entry.Tick); !ok {
				return true
			}
		}
	}
	return false
}

// rangesAfter counts the ranges that end above n.
func (a *archivist) rangesAfter(n uint64) int {
	i, found := slices.BinarySearch(a.ranges, n)
	if found {
		i++
	}
	return len(a.ranges) - i
}

// archive replays entries, seals them in the bucket, and reads them back: what came back is to the byte what was replayed, so
// the shadow is what the bucket alone gives. On any error the archivist is given up, and with it a shadow that is ahead.
func (a *archivist) archive(ctx context.Context, entries []log.Entry) error {
	sealed := &archiveRange{identity: a.c.identity, previous: string(a.head.Value), before: a.shadow.ChainHash(), entries: entries}
	for _, e := range entries {
		if err := a.replay(e); err != nil {
			return err
		}
		a.keys = append(a.keys, e.Key)
	}
	sealed.after = a.shadow.ChainHash()
	if err := a.compareLive(ctx, sealed.last(), sealed.after); err != nil {
		return err
	}
	if err := checkSuperseded(ctx, a.c.bucket, a.c.identity); err != nil {
		return err
	}
	key := archiveKey(a.c.identity.Epoch, sealed.first(), sealed.last(), a.writer)
	body := sealed.encode()
	if err := a.c.bucket.Put(ctx, key, body, objstore.PutOptions{}); err != nil {
		return fmt.Errorf("write archive %s: %w", key, err)
	}
	back, err := readRange(ctx, a.c.bucket, a.c.identity, key)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !back.same(sealed) {
		return fmt.Errorf("%w: archive object %s is not what was written", ErrCorrupt, key)
	}
	if a.head, err = a.swap(ctx, archiveCell, a.head, []byte(key)); err != nil {
		return fmt.Errorf("move the archive's head: %w", err)
	}
	a.ranges = append(a.ranges, sealed.last())
	a.c.cfg.Metrics.archivedBytes.Add(float64(len(body)))
	return nil
}

// compareLive holds the shadow against the live state, where that still remembers its chain hash at n.
func (a *archivist) compareLive(ctx context.Context, n uint64, shadow [32]byte) error {
	if a.alone {
		return nil
	}
	if err := a.c.awaitApplied(ctx, n); err != nil {
		return err
	}
	var live [32]byte
	var known bool
	a.c.View(func(st *state.State) { live, known = st.HashAt(n) })
	if known && live != shadow {
		return fmt.Errorf("%w: at n=%d a replay gives chain hash %x, this agent has %x", ErrDiverged, n, shadow[:8], live[:8])
	}
	return nil
}

func (a *archivist) replay(e log.Entry) error {
	decoded, err := a.apply.decoder.Decode(e.Value)
	if err != nil {
		return fmt.Errorf("replay n=%d: %w", e.N, err)
	}
	if err := a.shadow.Apply(e.N, e.Value, decoded, &a.apply.results); err != nil {
		return fmt.Errorf("replay n=%d: %w", e.N, err)
	}
	a.entries++
	a.bytes += len(e.Value)
	if a.alone {
		return a.compareSeen(decoded)
	}
	return nil
}

// swap replaces a cell; where the answer was lost it looks whether the value is there.
func (a *archivist) swap(ctx context.Context, name string, old log.Cell, value []byte) (log.Cell, error) {
	cell, err := a.c.log.Swap(ctx, name, old.Version, value, nil)
	if err == nil {
		return cell, nil
	}
	if now, loadErr := a.c.log.Load(ctx, name); loadErr == nil && bytes.Equal(now.Value, value) {
		return now, nil
	}
	return old, err
}

// snapshot writes the shadow, reads it back, checks that it loads to the same bytes, and moves the pointer.
func (a *archivist) snapshot(ctx context.Context) error {
	body := a.shadow.AppendSnapshot(nil)
	sum := sha256.Sum256(body)
	p := pointer{
		Format: pointerFormat, N: a.shadow.N(), Object: snapshotKey(a.c.identity.Epoch, a.shadow.N(), a.writer),
		SHA256: hex.EncodeToString(sum[:]), Trimmed: a.pointer.Trimmed, Deleted: a.trimBase,
		TrimRevision: a.pointer.TrimRevision, Archive: string(a.head.Value),
	}
	if err := a.c.bucket.Put(ctx, p.Object, body, objstore.PutOptions{}); err != nil {
		return fmt.Errorf("write snapshot %s: %w", p.Object, err)
	}
	back, err := readSnapshot(ctx, a.c.bucket, a.c.identity, p)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(back.AppendSnapshot(nil), body) {
		return fmt.Errorf("%w: snapshot %s does not load to the state it was made of", ErrDiverged, p.Object)
	}
	if err := a.movePointer(ctx, p); err != nil {
		return err
	}
	a.entries, a.bytes = 0, 0
	a.c.duty.snapshotMs.Store(a.shadow.LogTime())
	a.c.cfg.Metrics.snapshotBytes.Set(float64(len(body)))
	a.c.cfg.Logger.Info("snapshot", "n", p.N, "object", p.Object, "bytes", len(body))
	return nil
}

func (a *archivist) movePointer(ctx context.Context, p pointer) error {
	value, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if a.cell, err = a.swap(ctx, snapshotCell, a.cell, value); err != nil {
		return fmt.Errorf("move the snapshot pointer: %w", err)
	}
	a.pointer = p
	return nil
}

// trim deletes entries that a snapshot covers, but for a margin. The pointer says so first: whoever reads it knows that
// entries up to Trimmed may be gone and takes them from the archive, and whoever takes up the duty goes on deleting what it
// says, with its cursor.
//
// Why the cursor: a deleted key can be taken again by a late copy of its commit, which is another entry, not archived yet.
// The cursor is older than every deletion of the range, and so than every such copy.
func (a *archivist) trim(ctx context.Context) error {
	if err := a.deleteUpTo(ctx, a.pointer.Trimmed, a.pointer.TrimRevision); err != nil {
		return err
	}
	upTo := a.pointer.N - min(a.pointer.N, uint64(a.c.cfg.TrimMargin))
	if covered := len(a.ranges) - a.rangesAfter(a.pointer.N); covered > marginRanges {
		upTo = max(upTo, a.ranges[covered-marginRanges-1])
	}
	if upTo <= a.trimBase {
		return nil
	}
	p := a.pointer
	p.Trimmed, p.Deleted, p.TrimRevision = upTo, a.trimBase, a.cursor.Revision
	if err := a.movePointer(ctx, p); err != nil {
		return err
	}
	return a.deleteUpTo(ctx, p.Trimmed, p.TrimRevision)
}

func (a *archivist) deleteUpTo(ctx context.Context, n uint64, revision int64) error {
	for a.trimBase < n {
		count := int(min(uint64(len(a.keys)), n-a.trimBase, trimChunk))
		if count == 0 {
			return nil
		}
		if err := a.c.log.Trim(ctx, a.keys[:count], log.Cursor{Revision: revision}); err != nil {
			return fmt.Errorf("trim: %w", err)
		}
		a.keys = slices.Clone(a.keys[count:]) // let go of what was trimmed
		a.trimBase += uint64(count)
		a.ranges = slices.Clone(a.ranges[len(a.ranges)-a.rangesAfter(a.trimBase):])
		a.c.cfg.Metrics.trimmed.Add(float64(count))
	}
	return nil
}
