package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

// found is a record's place and time; offset is -1 where there is none.
type found struct{ offset, timestamp int64 }

var nothing = found{-1, -1}

// errFound ends a walk over records.
var errFound = errors.New("found")

// OffsetForTimestamp returns the first offset whose record has a timestamp (ms) at or after ts, with that timestamp, as
// ListOffsets asks for it; -1 and -1 where there is none. Records below the log start offset do not count. What was
// committed before the call does.
//
// Errors: as of Read, but for ErrOffsetOutOfRange.
func (r *Reader) OffsetForTimestamp(ctx context.Context, topic entry.UUID, partition int32, ts int64) (offset, timestamp int64, err error) {
	at, err := r.settled(ctx, topic, partition, func() (found, error) {
		for from := int64(0); ; {
			row, start, ok, err := r.pick(topic, partition, func(p *state.Partition) (state.Row, bool) { return firstSince(p, from, ts) })
			if err != nil || !ok {
				return nothing, err
			}
			at, err := r.firstRecord(ctx, place{topic, partition}, &row, start, ts)
			if err != nil || at.offset >= 0 {
				return at, err
			}
			from = row.End // its late record was below the log start
		}
	})
	return at.offset, at.timestamp, err
}

// MaxTimestamp returns the first offset of those with the largest timestamp (ms) in the partition, with that timestamp;
// -1 and -1 where it holds no records. Errors: as of OffsetForTimestamp.
func (r *Reader) MaxTimestamp(ctx context.Context, topic entry.UUID, partition int32) (offset, timestamp int64, err error) {
	at, err := r.settled(ctx, topic, partition, func() (found, error) {
		best := nothing
		var tried []int64 // base offsets of rows
		for {
			row, start, ok, err := r.pick(topic, partition, func(p *state.Partition) (state.Row, bool) { return newest(p, tried) })
			if err != nil || !ok || best.offset >= 0 && row.MaxTimestamp < best.timestamp {
				return best, err
			}
			at, err := r.lastRecord(ctx, place{topic, partition}, &row, start)
			if err != nil {
				return nothing, err
			}
			if at.offset >= 0 && (at.timestamp > best.timestamp || at.timestamp == best.timestamp && at.offset < best.offset || best.offset < 0) {
				best = at
			}
			if best.timestamp == row.MaxTimestamp { // else the record was cut off, or compacted away
				return best, nil
			}
			tried = append(tried, row.Base)
		}
	})
	return at.offset, at.timestamp, err
}

// settled runs a search on a current view, and again where an object it needed had been replaced meanwhile.
func (r *Reader) settled(ctx context.Context, topic entry.UUID, partition int32, search func() (found, error)) (found, error) {
	for gone := (missing)(nil); ; {
		if err := r.barrier(ctx); err != nil {
			return nothing, err
		}
		at, err := search()
		if gone.first(err) {
			continue
		}
		if err != nil {
			r.note(topic, partition, err)
			return nothing, err
		}
		return at, nil
	}
}

// pick chooses a row under the read lock. start is the partition's log start offset.
func (r *Reader) pick(
	topic entry.UUID, partition int32, choose func(*state.Partition) (state.Row, bool),
) (row state.Row, start int64, ok bool, err error) {
	err = ErrUnknownTopic
	r.meta.View(func(st *state.State) {
		if p := partitionOf(st, topic, partition); p != nil {
			row, ok = choose(p)
			start, err = p.LogStart(), nil
		}
	})
	return row, start, ok, err
}

// newest is the first of the rows with the largest timestamp, but for those with the given base offsets.
func newest(p *state.Partition, without []int64) (best state.Row, ok bool) {
	if len(without) == 0 {
		return p.MaxTimestampRow()
	}
	scan(p, 0, func(row state.Row) bool {
		if (!ok || row.MaxTimestamp > best.MaxTimestamp) && !slices.Contains(without, row.Base) {
			best, ok = row, true
		}
		return true
	})
	return best, ok
}

// firstSince is the first row from an offset on with a timestamp at or after ts.
func firstSince(p *state.Partition, from, ts int64) (first state.Row, ok bool) {
	if first, ok = p.RowByTimestamp(ts); !ok || first.Base >= from {
		return first, ok
	}
	first, ok = state.Row{}, false
	scan(p, from, func(row state.Row) bool {
		if row.MaxTimestamp >= ts {
			first, ok = row, true
		}
		return !ok
	})
	return first, ok
}

// scan calls fn for the rows from an offset on until it returns false.
func scan(p *state.Partition, from int64, fn func(state.Row) bool) {
	for rows := p.Rows(from, scanRows, nil); len(rows) > 0; rows = p.Rows(from, scanRows, rows[:0]) {
		for i := range rows {
			if !fn(rows[i]) {
				return
			}
			from = rows[i].End
		}
	}
}

const scanRows = 64

// firstRecord finds the first record of row at or behind start with a timestamp at or after ts.
func (r *Reader) firstRecord(ctx context.Context, in place, row *state.Row, start, ts int64) (found, error) {
	at := nothing
	err := r.parts(ctx, in, row, func(part *rowPart) error {
		if part.maxTimestamp < ts {
			return nil
		}
		return r.eachRecord(ctx, part, start, func(h batch.Header) bool { return h.MaxTimestamp >= ts }, func(f found) error {
			if f.timestamp < ts {
				return nil
			}
			at = f
			return errFound
		})
	})
	return at, notFound(err)
}

// lastRecord finds the first of the records of row at or behind start that have the largest timestamp. A row's part with the largest is
// read, and others only where that has lost its record meanwhile: to key compaction, or to a log start that rose.
func (r *Reader) lastRecord(ctx context.Context, in place, row *state.Row, start int64) (found, error) {
	var parts []rowPart
	if err := r.parts(ctx, in, row, func(part *rowPart) error { parts = append(parts, *part); return nil }); err != nil {
		return nothing, err
	}
	slices.SortStableFunc(parts, func(a, b rowPart) int { return cmp.Compare(b.maxTimestamp, a.maxTimestamp) })
	best := nothing
	for i := range parts {
		part := &parts[i]
		if best.offset >= 0 && (part.maxTimestamp < best.timestamp || part.maxTimestamp == best.timestamp && part.base > best.offset) {
			break
		}
		err := r.eachRecord(ctx, part, start, func(h batch.Header) bool { return best.offset < 0 || h.MaxTimestamp >= best.timestamp }, func(f found) error {
			if best.offset < 0 || f.timestamp > best.timestamp || f.timestamp == best.timestamp && f.offset < best.offset {
				best = f
			}
			if f.timestamp == part.maxTimestamp { // there is none above it in this part
				return errFound
			}
			return nil
		})
		if err := notFound(err); err != nil {
			return nothing, err
		}
	}
	return best, nil
}

// notFound makes the end of a walk no error.
func notFound(err error) error {
	if errors.Is(err, errFound) {
		return nil
	}
	return err
}

// rowPart is some of a row's batches that are read together: a chunk's, or all of a row in a WAL.
type rowPart struct {
	row          *state.Row
	base, end    int64 // offsets; some may be missing
	maxTimestamp int64 // no record of it has a later one
	read         func(context.Context) (placed, error)
}

// parts calls fn for the parts of row, in order, until it returns an error. Nothing is read for it but where a row's chunks are.
func (r *Reader) parts(ctx context.Context, in place, row *state.Row, fn func(*rowPart) error) error {
	if row.InWAL {
		return fn(&rowPart{row: row, base: row.Base, end: row.End, maxTimestamp: row.MaxTimestamp, read: func(ctx context.Context) (placed, error) {
			raw, err := r.pending(ctx, in, row)
			return in.in(row, raw, row.Base), err
		}})
	}
	c, err := r.open(ctx, in, row, objectOf(row))
	if err != nil {
		return err
	}
	for i := range c.chunks {
		part := rowPart{row: row, base: c.base(i), end: row.End, maxTimestamp: c.chunks[i].MaxTimestamp, read: func(ctx context.Context) (placed, error) { return c.read(ctx, i) }}
		if row.LogAppendTime {
			part.maxTimestamp = row.MaxTimestamp
		}
		if i+1 < len(c.chunks) {
			part.end = c.base(i + 1)
		}
		if err := fn(&part); err != nil {
			return err
		}
	}
	return nil
}

// eachRecord calls fn for the records at or behind start of those batches that some chooses, in order, until it returns an error.
func (r *Reader) eachRecord(ctx context.Context, part *rowPart, start int64, some func(batch.Header) bool, fn func(found) error) error {
	if part.end <= start {
		return nil
	}
	batches, err := part.read(ctx)
	if err != nil {
		return err
	}
	for batches.Next() {
		if batches.end > start && (part.row.LogAppendTime || some(batches.header)) {
			if err := r.records(ctx, &batches, start, fn); err != nil {
				return err
			}
		}
	}
	return batches.Err()
}

// records calls fn for each record of a batch at or behind start, until fn returns an error. Decompression is bounded by
// batch.Limits' defaults and done in a window, a few batches at a time.
func (r *Reader) records(ctx context.Context, in *placed, start int64, fn func(found) error) error {
	select {
	case r.walks <- struct{}{}:
		defer func() { <-r.walks }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	v := r.validators.Get().(*batch.Validator)
	defer r.validators.Put(v)
	err := v.Walk(in.Raw(), batch.Limits{}, func(record batch.Record) error {
		f := found{in.base + int64(record.OffsetDelta), record.Timestamp}
		if in.row.LogAppendTime {
			f.timestamp = in.row.MaxTimestamp
		}
		if f.offset < start {
			return nil
		}
		return fn(f)
	})
	if err != nil && !errors.Is(err, errFound) {
		return fmt.Errorf("%w: records at offset %d of partition %d of %s: %w", ErrCorrupt, in.base, in.partition, in.row.Object, err)
	}
	return err
}
