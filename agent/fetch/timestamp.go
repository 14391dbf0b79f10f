package fetch

import (
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
			at, err := r.firstRecord(ctx, topic, partition, &row, start, ts)
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
			at, err := r.lastRecord(ctx, topic, partition, &row, start)
			if err != nil {
				return nothing, err
			}
			if at.offset >= 0 && (at.timestamp > best.timestamp || at.timestamp == best.timestamp && at.offset < best.offset || best.offset < 0) {
				best = at
			}
			if start <= row.Base { // nothing of it was cut off, so its timestamp was exact
				return best, nil
			}
			tried = append(tried, row.Base)
		}
	})
	return at.offset, at.timestamp, err
}

// settled runs a search on a current view, and once more where an object it needed had been replaced meanwhile.
func (r *Reader) settled(ctx context.Context, topic entry.UUID, partition int32, search func() (found, error)) (found, error) {
	for retried := false; ; retried = true {
		if err := r.barrier(ctx); err != nil {
			return nothing, err
		}
		at, err := search()
		if errors.Is(err, errMissing) && !retried {
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
func (r *Reader) firstRecord(ctx context.Context, topic entry.UUID, partition int32, row *state.Row, start, ts int64) (found, error) {
	at := nothing
	err := r.batches(ctx, topic, partition, row, start, ts, func(raw []byte, h batch.Header, base int64) error {
		err := r.records(ctx, raw, base, start, row, func(f found) error {
			if f.timestamp < ts {
				return nil
			}
			at = f
			return errFound
		})
		return err
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return at, err
}

// lastRecord finds the first of the records of row at or behind start that have the largest timestamp.
func (r *Reader) lastRecord(ctx context.Context, topic entry.UUID, partition int32, row *state.Row, start int64) (found, error) {
	best := nothing
	err := r.batches(ctx, topic, partition, row, start, noTimestamp, func(raw []byte, h batch.Header, base int64) error {
		if best.offset >= 0 && h.MaxTimestamp <= best.timestamp && !row.LogAppendTime {
			return nil
		}
		return r.records(ctx, raw, base, start, row, func(f found) error {
			if best.offset < 0 || f.timestamp > best.timestamp {
				best = f
			}
			if row.LogAppendTime {
				return errFound
			}
			return nil
		})
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return best, err
}

const noTimestamp = batch.NoTimestamp

// batches calls fn for each batch of row that ends behind start and may hold a record at or after ts, until fn returns an
// error. Chunks that are too old are not read.
func (r *Reader) batches(
	ctx context.Context, topic entry.UUID, partition int32, row *state.Row, start, ts int64,
	fn func(raw []byte, h batch.Header, base int64) error,
) error {
	each := func(raw []byte, base int64) error {
		s := batch.Split(raw)
		for s.Next() {
			h := s.Header()
			if base+h.Span() > start && (h.MaxTimestamp >= ts || row.LogAppendTime) {
				if err := fn(s.Raw(), h, base); err != nil {
					return err
				}
			}
			base += h.Span()
		}
		if err := s.Err(); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrCorrupt, row.Object, err)
		}
		return nil
	}
	if row.InWAL {
		raw, err := r.pending(ctx, topic, partition, row)
		if err != nil {
			return err
		}
		return each(raw, row.Base)
	}
	c, err := r.open(ctx, topic, partition, row, objectOf(row))
	if err != nil {
		return err
	}
	for len(c.chunks) > 0 {
		if c.chunks[0].MaxTimestamp < ts && !row.LogAppendTime {
			c.chunks, c.first = c.chunks[1:], false
			continue
		}
		raw, _, err := c.next(ctx, start)
		if err != nil {
			return err
		}
		if err := each(raw, c.base); err != nil {
			return err
		}
	}
	return nil
}

// records calls fn for each record of a batch at or behind start, until fn returns an error. Decompression is bounded by
// batch.Limits' defaults and done in a window, a few batches at a time.
func (r *Reader) records(ctx context.Context, raw []byte, base, start int64, row *state.Row, fn func(found) error) error {
	select {
	case r.walks <- struct{}{}:
		defer func() { <-r.walks }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	v := r.validators.Get().(*batch.Validator)
	defer r.validators.Put(v)
	err := v.Walk(raw, batch.Limits{}, func(record batch.Record) error {
		f := found{base + int64(record.OffsetDelta), record.Timestamp}
		if row.LogAppendTime {
			f.timestamp = row.MaxTimestamp
		}
		if f.offset < start {
			return nil
		}
		return fn(f)
	})
	if err != nil && !errors.Is(err, errFound) {
		return fmt.Errorf("%w: records at offset %d of %s: %w", ErrCorrupt, base, row.Object, err)
	}
	return err
}
