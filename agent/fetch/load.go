package fetch

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/segment"
)

// object is a segment object as a row names it.
type object struct {
	id   entry.ObjectID
	size int64 // bytes
	// cold: a replay asks for it. What it costs may wait behind everything else.
	cold bool
	// now: nobody waits for it; what is not in memory is errLater, and read ahead.
	now bool
}

// errLater: a replay is to come again.
var errLater = errors.New("not in memory yet")

func (c *Cache) whole(o object) bool { return o.size <= c.cfg.WholeBytes }

// table returns the object's footer. The item holds the whole object where that is small and not a peer's.
func (c *Cache) table(ctx context.Context, o object) (*item, error) {
	return c.find(ctx, o, tableKeys(o), func() (itemKey, reading) { return c.tableRead(o) })
}

// find returns the first of the items that is kept, or what read makes of the bucket or a peer.
func (c *Cache) find(ctx context.Context, o object, keys [2]itemKey, from func() (itemKey, reading)) (*item, error) {
	if it := c.look(keys[0], keys[1]); it != nil {
		return it, nil
	}
	c.cfg.Metrics.misses.Inc()
	if o.now {
		c.readAhead(keys, false, from)
		return nil, errLater
	}
	key, read := from()
	return c.await(ctx, key, o.cold, read)
}

// tableKeys are under which a table may be kept.
func tableKeys(o object) [2]itemKey {
	return [2]itemKey{{id: o.id, kind: kindObject}, {id: o.id, kind: kindFooter}}
}

// tableRead returns how a table is read that is not kept, and under which key.
func (c *Cache) tableRead(o object) (itemKey, reading) {
	keys := tableKeys(o)
	if !c.whole(o) {
		return keys[1], func(ctx context.Context, l *load) (*item, error) { return c.readFooter(ctx, l, o, getOwn) }
	}
	if c.share == nil {
		return keys[0], c.wholeRead(o, getOwn)
	}
	steps, own := c.share.route(o, 0)
	if len(steps) == 0 {
		return keys[0], c.wholeRead(o, getOwn)
	}
	return keys[1], func(ctx context.Context, _ *load) (*item, error) {
		return c.borrow(ctx, o, steps, func(ctx context.Context, s step) (*item, error) { return c.borrowTable(ctx, o, s) },
			func(ctx context.Context, why reason) (*item, error) {
				return c.await(ctx, keys[0], o.cold, c.wholeRead(o, why))
			}, own)
	}
}

// wholeRead reads a small object from the bucket.
func (c *Cache) wholeRead(o object, why reason) reading {
	return func(ctx context.Context, l *load) (*item, error) { return c.readWhole(ctx, l, o, why) }
}

// chunk returns the raw bytes of a chunk of the object whose table is given. They are shared: do not change them.
// Errors: ErrCorrupt; else as of table.
func (c *Cache) chunk(ctx context.Context, o object, table *item, chunk segment.Chunk) ([]byte, error) {
	it, from, to, err := c.chunkIn(ctx, o, table, chunk)
	if err != nil {
		return nil, err
	}
	return it.bytes[from:to:to], nil
}

// chunkIn returns an item with the raw bytes of a chunk, and where in it they are.
func (c *Cache) chunkIn(ctx context.Context, o object, table *item, chunk segment.Chunk) (it *item, from, to int, err error) {
	holder := table
	if !table.holds(chunk) {
		if holder, err = c.holder(ctx, o, table.footer, chunk.Position); err != nil {
			return nil, 0, 0, err
		}
		if !holder.holds(chunk) {
			return nil, 0, 0, fmt.Errorf("%w: no chunk at position %d of %s", ErrCorrupt, chunk.Position, o.id.Key())
		}
	}
	for _, position := range holder.damaged {
		if position == chunk.Position {
			return nil, 0, 0, fmt.Errorf("%w: chunk at position %d of %s", ErrCorrupt, position, o.id.Key())
		}
	}
	if chunk.Codec == segment.CodecNone {
		from = int(chunk.Position - holder.start)
		return holder, from, from + int(chunk.StoredSize), nil
	}
	it, err = c.get(ctx, itemKey{id: o.id, kind: kindChunk, position: chunk.Position}, o.cold, func(context.Context, *load) (*item, error) {
		raw, err := segment.ReadChunk(holder.stored(chunk), chunk, nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, o.id.Key(), err)
		}
		return &item{bytes: raw, size: int64(len(raw)), share: holder.share}, nil
	})
	if err != nil {
		return nil, 0, 0, err
	}
	return it, 0, len(it.bytes), nil
}

// holder returns an item with the bytes of the chunk at a position: the object where it is small, else a run. Runs are cut by
// position, so all readers of an object, of whatever partition, share them. From a peer only a slice of either is got.
func (c *Cache) holder(ctx context.Context, o object, f *segment.Footer, position int64) (*item, error) {
	return c.find(ctx, o, c.holderKeys(o, position), func() (itemKey, reading) { return c.holderRead(o, f, position) })
}

// holderKeys are under which the bytes at a position may be kept: from the bucket, and from a peer.
func (c *Cache) holderKeys(o object, position int64) [2]itemKey {
	if c.whole(o) {
		return [2]itemKey{{id: o.id, kind: kindObject}, {id: o.id, kind: kindSlice, position: position / c.cfg.SliceBytes}}
	}
	// A slice lies in one run, so that the owner of the run has all of it.
	run, in := position/c.cfg.RunBytes, position%c.cfg.RunBytes/c.cfg.SliceBytes
	slices := (c.cfg.RunBytes + c.cfg.SliceBytes - 1) / c.cfg.SliceBytes
	return [2]itemKey{{id: o.id, kind: kindRun, position: run}, {id: o.id, kind: kindSlice, position: run*slices + in}}
}

// slice returns between which positions the chunks start that are got from a peer together with the one at a position.
func (c *Cache) slice(o object, position int64) (start, end int64) {
	if c.whole(o) {
		start = position - position%c.cfg.SliceBytes
		return start, start + c.cfg.SliceBytes
	}
	start = position - position%c.cfg.RunBytes%c.cfg.SliceBytes
	return start, min(start+c.cfg.SliceBytes, (position/c.cfg.RunBytes+1)*c.cfg.RunBytes)
}

// holderRead returns how they are read where they are not kept, and under which key.
func (c *Cache) holderRead(o object, f *segment.Footer, position int64) (itemKey, reading) {
	keys := c.holderKeys(o, position)
	fromBucket := func(why reason) reading {
		if c.whole(o) {
			return c.wholeRead(o, why)
		}
		return c.runRead(o, f, keys[0].position, why)
	}
	if c.share == nil {
		return keys[0], fromBucket(getOwn)
	}
	steps, own := c.share.route(o, keys[0].position)
	if len(steps) == 0 {
		return keys[0], fromBucket(getOwn)
	}
	start, end := c.slice(o, position)
	chunks := chunksFrom(f, start, end)
	return keys[1], func(ctx context.Context, _ *load) (*item, error) {
		return c.borrow(ctx, o, steps, func(ctx context.Context, s step) (*item, error) { return c.borrowSlice(ctx, o, chunks, s) },
			func(ctx context.Context, why reason) (*item, error) {
				return c.await(ctx, keys[0], o.cold, fromBucket(why))
			}, own)
	}
}

// runRead reads a run from the bucket.
func (c *Cache) runRead(o object, f *segment.Footer, run int64, why reason) reading {
	return func(ctx context.Context, l *load) (*item, error) {
		return c.readRun(ctx, l, o, chunksFrom(f, run*c.cfg.RunBytes, (run+1)*c.cfg.RunBytes), why)
	}
}

// chunksFrom returns the chunks, of all blocks, that start in [start, end) of the object.
func chunksFrom(f *segment.Footer, start, end int64) []segment.Chunk {
	var out []segment.Chunk
	i := sort.Search(len(f.Blocks), func(i int) bool {
		chunks := f.Blocks[i].Chunks
		return chunks[len(chunks)-1].Position >= start
	})
	for ; i < len(f.Blocks); i++ {
		for _, c := range f.Blocks[i].Chunks {
			if c.Position >= end {
				return out
			}
			if c.Position >= start {
				out = append(out, c)
			}
		}
	}
	return out
}

// readWhole gets an object and checks all of it. What is damaged is read once more, past every cache.
func (c *Cache) readWhole(ctx context.Context, l *load, o object, why reason) (*item, error) {
	return c.twice(ctx, l, o, o.size, func() (*item, error) {
		body, err := c.fetch(ctx, o, 0, o.size, why)
		if err != nil {
			return nil, err
		}
		footer, err := c.open(o, body)
		if err != nil {
			return nil, corrupt(o, err)
		}
		it := &item{key: itemKey{id: o.id, kind: kindObject}, bytes: body, footer: footer, size: int64(len(body)) + footerBytes(footer), share: cold}
		for i := range footer.Blocks {
			it.check(footer.Blocks[i].Chunks)
		}
		return it, nil
	})
}

// open parses the footer of a whole object. A damaged header is said and no more: nothing is found by it, and what the other
// checksums cover can be served.
func (c *Cache) open(o object, body []byte) (*segment.Footer, error) {
	t, err := segment.ParseTrailer(body, int64(len(body)))
	if err != nil {
		return nil, err
	}
	if err := segment.ParseHeader(body); err != nil {
		if leftOut, write := c.lines.Take(o.id.Key()); write {
			c.cfg.Logger.Warn("the header of a segment is damaged, what is in it is not", "segment", o.id.Key(), "error", err, "left_out", leftOut)
		}
	}
	return segment.ParseFooter(t, body[t.FooterPosition:t.FooterPosition+t.FooterSize])
}

func (c *Cache) readFooter(ctx context.Context, l *load, o object, why reason) (*item, error) {
	return c.twice(ctx, l, o, 0, func() (*item, error) {
		footer, err := segment.ReadFooter(readerAt(func(position, size int64) ([]byte, error) { return c.fetch(ctx, o, position, size, why) }), o.size)
		if err != nil {
			return nil, corrupt(o, err)
		}
		footer.ObjectID, footer.IntendedOps = nil, nil // would keep the bytes that were read
		return &item{key: itemKey{id: o.id, kind: kindFooter}, footer: footer, size: footerBytes(footer), share: cold}, nil
	})
}

func (c *Cache) readRun(ctx context.Context, l *load, o object, chunks []segment.Chunk, why reason) (*item, error) {
	if len(chunks) == 0 {
		return nil, fmt.Errorf("%w: a run without chunks in %s", ErrCorrupt, o.id.Key())
	}
	return c.twice(ctx, l, o, c.cfg.RunBytes, func() (*item, error) {
		start, last := chunks[0].Position, chunks[len(chunks)-1]
		bytes, err := c.fetch(ctx, o, start, last.Position+last.StoredSize-start, why)
		if err != nil {
			return nil, err
		}
		it := &item{start: start, bytes: bytes, size: int64(len(bytes)), share: cold}
		it.check(chunks)
		return it, nil
	})
}

// check notes which chunks are damaged.
func (it *item) check(chunks []segment.Chunk) {
	for _, c := range chunks {
		if c.CRC != crc(it.stored(c)) {
			it.damaged = append(it.damaged, c.Position)
		}
	}
}

// twice reads from the bucket, a replay when it is its turn, and again where the first read was damaged: on the way, most likely.
// The second answer stands.
func (c *Cache) twice(ctx context.Context, l *load, o object, bytes int64, read func() (*item, error)) (*item, error) {
	done, err := c.turn(ctx, l, o, bytes)
	if err != nil {
		return nil, err
	}
	defer done()
	it, err := read()
	if errors.Is(err, ErrCorrupt) || err == nil && len(it.damaged) > 0 {
		c.cfg.Metrics.getRetries.Inc()
		return read()
	}
	return it, err
}

// corrupt sorts an error of a footer: damage of the bytes, or the reader's own.
func corrupt(o object, err error) error {
	switch {
	case errors.Is(err, segment.ErrCorrupt):
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, o.id.Key(), err)
	case errors.Is(err, segment.ErrVersion): // a newer firn's object: an agent that is up to date can serve it
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, o.id.Key(), err)
	}
	return err
}

// readerAt reads an object for segment.ReadFooter.
type readerAt func(position, size int64) ([]byte, error)

func (r readerAt) ReadAt(b []byte, position int64) (int, error) {
	got, err := r(position, int64(len(b)))
	return copy(b, got), err
}

// turn waits until the GET of a replay may start; the others start at once, also where a replay had asked first.
func (c *Cache) turn(ctx context.Context, l *load, o object, bytes int64) (done func(), err error) {
	if !o.cold {
		return func() {}, nil
	}
	m := c.cfg.Metrics
	start := time.Now()
	m.coldWaiting.Inc()
	defer func() {
		m.coldWaiting.Dec()
		m.coldSeconds.Add(time.Since(start).Seconds())
	}()
	c.probe()
	var spare chan struct{}
	if c.pace.alone(start) {
		spare = c.spare
	}
	var held chan struct{}
	select {
	case c.turns <- struct{}{}:
		held = c.turns
	case spare <- struct{}{}:
		held = spare
	case <-l.hurry:
	case <-ctx.Done():
	}
	if held != nil {
		if c.pace.wait(ctx, getting, l.hurry) {
			c.pace.charge(getting, bytes)
			m.coldReads.Inc()
			return func() { m.coldReads.Dec(); <-held }, nil
		}
		<-held
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	return func() {}, nil
}

// fetch gets size bytes of an object, trying again while the store is unavailable and ctx lives.
// Errors: ErrStorage (no such object, or refused), ErrCorrupt (of another size), ErrUnavailable, ctx's.
func (c *Cache) fetch(ctx context.Context, o object, position, size int64, why reason) ([]byte, error) {
	for delay := c.cfg.RetryMin; ; delay = min(2*delay, c.cfg.RetryMax) {
		start := time.Now()
		var body []byte
		var err error
		if position == 0 && size == o.size {
			body, err = c.bucket.Get(ctx, o.id.Key())
		} else {
			body, err = c.bucket.GetRange(ctx, o.id.Key(), position, size)
		}
		switch {
		case err == nil && int64(len(body)) != size:
			return nil, fmt.Errorf("%w: %s: %d bytes at %d where %d belong", ErrCorrupt, o.id.Key(), len(body), position, size)
		case err == nil:
			c.cfg.Metrics.gets[why].Inc()
			c.cfg.Metrics.getBytes.Add(float64(size))
			c.cfg.Metrics.getSeconds.Observe(time.Since(start).Seconds())
			return body, nil
		case errors.Is(err, objstore.ErrNotFound):
			return nil, &missingError{o.id, err}
		case errors.Is(err, objstore.ErrRange):
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		case errors.Is(err, objstore.ErrInvalid):
			return nil, fmt.Errorf("%w: %w", ErrStorage, err)
		}
		c.cfg.Metrics.getRetries.Inc()
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
}
