package clean

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

// errTransaction: there are no transactions in firn yet. Whoever stored this knew more; their rules (markers, aborted records) are
// not guessed at.
var errTransaction = fmt.Errorf("%w: a batch of a transaction, which this firn knows nothing of", rewrite.ErrCorrupt)

// found is what the first pass over a partition found out, for the second to copy by.
type found struct {
	key hashKey
	// newest knows the dirty keys, where they fit in memory. The clean section has then not been read: of it goes what has a newer
	// record there. nil: survivors covers the clean section too.
	newest *newest
	// survivors are the records that are the last of their key, by index in reading order from the first row that was read on.
	survivors *survivors
	// tombstones are the batches that hold some, likewise.
	tombstones marks
}

// dirtyRank is the rank of the first dirty record. Those of the clean section are below.
const dirtyRank = 1 << 48

// find is the first pass: it reads the dirty rows, and the clean section only where not all dirty keys fit in memory. Errors: those of
// rewrite.Reader, and duty.ErrScratchFull.
func (c *Cleaner) find(ctx context.Context, source *rewrite.Source, j *job) (*found, error) {
	f := &found{key: secret(), newest: c.newest}
	clean, dirty := j.plan.rows[:j.plan.clean], j.plan.rows[j.plan.clean:]
	f.tombstones.most = int(c.cfg.MemoryBytes / 16)
	dirtyRecords, err := c.hash(ctx, source, j, dirty, f, dirtyRank)
	if err != nil {
		return nil, err
	}
	cleanRecords := uint64(0)
	if !f.newest.fits() {
		c.deps.Metrics.spilled.Inc()
		dirtyTombstones := f.tombstones
		f.tombstones = marks{most: dirtyTombstones.most}
		if cleanRecords, err = c.hash(ctx, source, j, clean, f, 0); err != nil {
			return nil, err
		}
		f.tombstones.join(&dirtyTombstones)
	}
	spilled := !f.newest.fits()
	if f.survivors, err = newSurvivors(cleanRecords+dirtyRecords, c.cfg.MemoryBytes/8, c.deps.Scratch); err != nil {
		return nil, err
	}
	said := 0
	err = f.newest.each(func(rank uint64) error {
		if said++; said%1024 == 0 { // keys that did not fit in memory take their time
			if err := context.Cause(ctx); err != nil {
				return err
			}
		}
		if rank >= dirtyRank {
			rank = rank - dirtyRank + cleanRecords
		}
		return f.survivors.set(rank)
	})
	if err != nil {
		f.survivors.close()
		return nil, err
	}
	if spilled {
		f.newest = nil
	}
	return f, nil
}

// hash reads rows and tells newest of every record with a key that is at or above the log start.
func (c *Cleaner) hash(ctx context.Context, source *rewrite.Source, j *job, rows []state.Row, f *found, rank uint64) (records uint64, err error) {
	var base int64
	tombstone := false
	start, key, newest := j.input.LogStart, f.key, f.newest
	next := rank
	note := func(r batch.Record) error {
		at := next
		next++
		if r.Value == nil {
			tombstone = true
		}
		if r.Key == nil || base+int64(r.OffsetDelta) < start {
			return nil
		}
		return newest.add(key.sum(r.Key), at)
	}
	r := source.Read(j.input, rows)
	row := 0
	for r.Next(ctx) {
		b := r.Batch()
		forget(source, rows, &row, b.Row)
		if b.Header.Transactional() || b.Header.Control() {
			return 0, inputError(j, rows, b, errTransaction)
		}
		base, tombstone = b.Header.BaseOffset, false
		before := next
		if err := c.walker.Walk(b.Raw, c.limits, note); err != nil {
			return 0, inputError(j, rows, b, err)
		}
		if int64(next-before) != int64(b.Header.RecordCount) {
			return 0, inputError(j, rows, b, fmt.Errorf("%w: %d records of %d", rewrite.ErrCorrupt, next-before, b.Header.RecordCount))
		}
		f.tombstones.add(tombstone)
	}
	c.deps.Metrics.read.Add(float64(next - rank))
	if err := r.Err(); err != nil {
		return 0, err
	}
	return next - rank, newest.drain()
}

// forget frees what the source keeps of the objects of rows that were read: of small ones all.
func forget(source *rewrite.Source, rows []state.Row, row *int, now int) {
	for ; *row < now; *row++ {
		if rows[*row].Object != rows[now].Object {
			source.Forget(rows[*row].Object)
		}
	}
}

// inputError says that a batch cannot be read, unless it is scratch space that failed.
func inputError(j *job, rows []state.Row, b *rewrite.Batch, err error) error {
	if errors.Is(err, duty.ErrScratchFull) || !isBatchError(err) {
		return err
	}
	if !errors.Is(err, rewrite.ErrCorrupt) {
		err = fmt.Errorf("%w: %w", rewrite.ErrCorrupt, err)
	}
	return &rewrite.InputError{
		Object: rows[b.Row].Object, Topic: j.ref.Topic, Partition: j.ref.Partition, Start: b.Header.BaseOffset, End: b.End(), Err: err,
	}
}

// isBatchError tells errors of the batch from those of what was done with it.
func isBatchError(err error) bool {
	for _, class := range [...]error{
		rewrite.ErrCorrupt, batch.ErrCorrupt, batch.ErrInvalidRecord, batch.ErrTooLarge, batch.ErrUnsupportedCodec, batch.ErrUnsupportedMagic,
	} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// marks is a list of flags, bounded: what does not fit counts as set.
type marks struct {
	bits  []uint64
	count int
	most  int // bytes
}

func (m *marks) add(set bool) {
	i := m.count
	m.count++
	if i/64 >= len(m.bits) {
		if len(m.bits)*8 >= m.most {
			return
		}
		m.bits = append(m.bits, 0)
	}
	if set {
		m.bits[i/64] |= 1 << (i % 64)
	}
}

func (m *marks) has(i int) bool { return i/64 >= len(m.bits) || m.bits[i/64]>>(i%64)&1 != 0 }

// join appends the flags of another list.
func (m *marks) join(more *marks) {
	for i := range more.count {
		m.add(more.has(i))
	}
}

// horizon is log time plus delete.retention.ms, which may be the largest number there is.
func horizon(logTime, retention int64) int64 {
	if logTime > math.MaxInt64-retention {
		return math.MaxInt64
	}
	return logTime + retention
}
