package clean

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/objstore/batch"
)

// partition cleans one partition into p. The last part may wait in p for those of other partitions.
func (c *Cleaner) partition(ctx context.Context, p *piece, j *job) error {
	source := c.deps.Env.NewSource()
	defer source.Close()
	defer c.newest.reset()
	j.plan.cut(c.room(&c.keys, 0))
	f, err := c.find(ctx, source, j)
	for errors.Is(err, duty.ErrScratchFull) {
		// Fewer dirty rows have fewer keys; the rest comes the next time, as in Kafka where they are too many for its map.
		c.newest.reset()
		had := len(j.plan.rows)
		c.full(&c.keys, j.plan.dirtyBytes, err)
		if j.plan.cut(c.keys.Bound()); len(j.plan.rows) == had {
			break // it is one row
		}
		f, err = c.find(ctx, source, j)
	}
	if err != nil {
		return err
	}
	c.room(&c.keys, j.plan.dirtyBytes)
	defer f.survivors.close()
	p.objectBytes, p.largest = min(c.cfg.ObjectBytes, c.room(&c.objects, 0)), max(p.largest, j.plan.largest())
	return c.written(p, j.plan.cleanBytes+j.plan.dirtyBytes, c.copy(ctx, source, p, j, f))
}

// written takes note of whether there was room for outputs, which are to be made of so many bytes.
func (c *Cleaner) written(p *piece, bytes int64, err error) error {
	bytes = min(bytes, p.objectBytes)
	switch {
	case err == nil:
		c.room(&c.objects, bytes)
	case errors.Is(err, duty.ErrScratchFull):
		c.full(&c.objects, bytes, err)
		if p.objectBytes > p.largest { // an output had several rows, or partitions
			return fmt.Errorf("%w: %w", errSmaller, err)
		}
	}
	return err
}

// copying is the second pass over a partition.
type copying struct {
	f       *found
	j       *job
	horizon int64

	index uint64 // in survivors, of the batch's first record; where it covers the rows read
	batch int    // in tombstones, likewise

	// Of the batch that is read.
	header  batch.Header
	at      uint64 // of the next record in survivors
	covered bool   // survivors says which records are left; else newest says which go
	expired bool   // the tombstones' time is over
	removed [removals]int
	err     error
}

// keep decides about a record as Kafka's Cleaner.shouldRetainRecord does.
func (x *copying) keep(r batch.Record) bool {
	i := x.at
	x.at++
	switch {
	case x.header.BaseOffset+int64(r.OffsetDelta) < x.j.input.LogStart:
		x.removed[deleted]++
		return false
	case r.Key == nil: // from before the topic was compacted
		x.removed[withoutKey]++
		return false
	}
	var last bool
	if x.covered {
		var err error
		if last, err = x.f.survivors.has(i); err != nil {
			x.err = err
		}
	} else {
		last = !x.f.newest.has(x.f.key.sum(r.Key))
	}
	switch {
	case !last:
		x.removed[superseded]++
		return false
	case r.Value == nil && x.expired:
		x.removed[tombstones]++
		return false
	}
	return true
}

// copy is the second pass: it writes what is left of the rows, in their order.
func (c *Cleaner) copy(ctx context.Context, source *rewrite.Source, p *piece, j *job, f *found) error {
	x := &copying{f: f, j: j, horizon: horizon(j.logTime, j.settings.DeleteRetentionMS)}
	keep := x.keep
	if err := p.begin(j); err != nil {
		return err
	}
	r := source.Read(j.input, j.plan.rows)
	row := 0
	for r.Next(ctx) {
		b := r.Batch()
		forget(source, j.plan.rows, &row, b.Row)
		if err := p.reach(b.Row); err != nil {
			return err
		}
		x.header = b.Header
		if b.Header.Transactional() || b.Header.Control() {
			return inputError(j, j.plan.rows, b, errTransaction)
		}
		until, has := b.Header.DeleteHorizon()
		x.expired = has && j.judged >= until
		x.covered = f.newest == nil || b.Row >= j.plan.clean
		p.read(b)
		if x.covered {
			records := int(b.Header.RecordCount)
			x.at = x.index
			x.index += uint64(records)
			marked := f.tombstones.has(x.batch)
			x.batch++
			left, err := f.survivors.among(x.at, records)
			if err != nil {
				return err
			}
			switch {
			case left == 0 && b.Header.BaseOffset >= j.input.LogStart:
				// Those without a key count as superseded here: it is not worth decompressing the batch to tell.
				c.deps.Metrics.removed(superseded, records)
				p.changed = true
				continue
			case left == records && !marked && records > 0:
				if err := p.add(b.Raw, &b.Header); err != nil {
					return err
				}
				continue
			}
		}
		x.removed = [removals]int{}
		res, err := c.filter.Rewrite(b.Raw, c.limits, x.horizon, keep)
		if err == nil {
			err = x.err
		}
		if err != nil {
			return inputError(j, j.plan.rows, b, err)
		}
		for why, n := range x.removed {
			c.deps.Metrics.removed(removal(why), n)
		}
		p.changed = p.changed || !res.Untouched
		if res.Records == 0 {
			continue
		}
		if err := p.add(res.Raw, &res.Header); err != nil {
			return err
		}
	}
	if err := r.Err(); err != nil {
		return err
	}
	c.deps.Metrics.partitions.Inc()
	return p.end()
}
