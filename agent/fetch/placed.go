package fetch

import (
	"fmt"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

// place is a partition whose rows are read.
type place struct {
	topic     entry.UUID
	partition int32
}

// placed goes through batches of a row, one after the other in its bytes, and tells the offsets of each.
//
// What a flush wrote has no offsets in it: the first batch has the row's first, and each starts where the one before ends. A batch of a
// merged object has its own in its header, and offsets may be missing before it. Those are believed as far as they ascend within the row;
// the first of a chunk has the offset that the object's table gives it.
type placed struct {
	place
	row    *state.Row
	split  batch.Splitter
	header batch.Header
	base   int64 // of the batch that Next came to
	end    int64 // one past its last offset; before the first Next where the first batch starts
	inside bool  // it was not the first
	item   *item // that holds the bytes; nil where they are in no cache
	to     int   // where the batch ends in item.bytes; before the first Next where the first one starts
	err    error
}

// place begins with the batches in raw, the first of which has offset base.
func (c *place) in(row *state.Row, raw []byte, base int64) placed {
	return placed{place: *c, row: row, split: batch.Split(raw), end: base}
}

// Next goes to the next batch. False: there is none, or Err says why not.
func (p *placed) Next() bool {
	if p.err != nil || !p.split.Next() {
		return false
	}
	p.header = p.split.Header()
	p.to += len(p.split.Raw())
	first := p.end
	if p.base = first; p.row.Object.Merged() {
		p.base = p.header.BaseOffset
	}
	switch p.end = p.base + p.header.Span(); {
	case p.base < first, p.base > first && !p.inside:
		p.err = p.corrupt("a batch at offset %d where %d comes next", p.base, first)
	case p.header.LastOffsetDelta < 0, p.end > p.row.End, p.end < p.base:
		p.err = p.corrupt("batch [%d, %d) in a row up to %d", p.base, p.end, p.row.End)
	}
	p.inside = true
	return p.err == nil
}

// Raw is the batch that Next came to, as it is stored.
func (p *placed) Raw() []byte { return p.split.Raw() }

// Err says why Next ended before the end of the bytes: ErrCorrupt.
func (p *placed) Err() error {
	if p.err == nil && p.split.Err() != nil {
		p.err = fmt.Errorf("%w: partition %d of %s: %w", ErrCorrupt, p.partition, p.row.Object, p.split.Err())
	}
	return p.err
}

// corrupt names the object and the partition whose bytes are not what was written.
func (p *placed) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: partition %d of %s: %s", ErrCorrupt, p.partition, p.row.Object, fmt.Sprintf(format, args...))
}
