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
}

// table returns the object's footer. The item holds the whole object where that is small.
func (c *Cache) table(ctx context.Context, o object) (*item, error) {
	key, read := c.tableRead(o)
	return c.get(ctx, key, read)
}

func (c *Cache) tableRead(o object) (itemKey, func(context.Context) (*item, error)) {
	if o.size <= c.cfg.WholeBytes {
		return itemKey{id: o.id, kind: kindObject}, func(ctx context.Context) (*item, error) { return c.readWhole(ctx, o) }
	}
	return itemKey{id: o.id, kind: kindFooter}, func(ctx context.Context) (*item, error) { return c.readFooter(ctx, o) }
}

// chunk returns the raw bytes of a chunk of the object whose table is given. They are shared: do not change them.
// Errors: ErrCorrupt; else as of table.
func (c *Cache) chunk(ctx context.Context, o object, table *item, chunk segment.Chunk) ([]byte, error) {
	holder := table
	if table.key.kind == kindFooter {
		var err error
		if holder, err = c.run(ctx, o, table.footer, chunk.Position); err != nil {
			return nil, err
		}
	}
	for _, position := range holder.damaged {
		if position == chunk.Position {
			return nil, fmt.Errorf("%w: chunk at position %d of %s", ErrCorrupt, position, o.id.Key())
		}
	}
	if chunk.Codec == segment.CodecNone {
		return holder.stored(chunk), nil
	}
	it, err := c.get(ctx, itemKey{id: o.id, kind: kindChunk, position: chunk.Position}, func(context.Context) (*item, error) {
		raw, err := segment.ReadChunk(holder.stored(chunk), chunk, nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, o.id.Key(), err)
		}
		return &item{bytes: raw, size: int64(len(raw)), hot: holder.hot}, nil
	})
	if err != nil {
		return nil, err
	}
	return it.bytes, nil
}

// run returns the chunks around a position of a large object. Runs are cut by position, so all readers of an object, of
// whatever partition, share them.
func (c *Cache) run(ctx context.Context, o object, f *segment.Footer, position int64) (*item, error) {
	key, read := c.runRead(o, f, position)
	return c.get(ctx, key, read)
}

func (c *Cache) runRead(o object, f *segment.Footer, position int64) (itemKey, func(context.Context) (*item, error)) {
	n := position / c.cfg.RunBytes
	return itemKey{id: o.id, kind: kindRun, position: n}, func(ctx context.Context) (*item, error) {
		chunks := chunksFrom(f, n*c.cfg.RunBytes, (n+1)*c.cfg.RunBytes)
		return c.readRun(ctx, o, chunks)
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
func (c *Cache) readWhole(ctx context.Context, o object) (*item, error) {
	return c.twice(func() (*item, error) {
		body, err := c.fetch(ctx, o, 0, o.size)
		if err != nil {
			return nil, err
		}
		footer, err := c.open(o, body)
		if err != nil {
			return nil, corrupt(o, err)
		}
		it := &item{key: itemKey{id: o.id, kind: kindObject}, bytes: body, footer: footer, size: int64(len(body)) + footerBytes(footer)}
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

func (c *Cache) readFooter(ctx context.Context, o object) (*item, error) {
	return c.twice(func() (*item, error) {
		footer, err := segment.ReadFooter(readerAt{ctx, c, o}, o.size)
		if err != nil {
			return nil, corrupt(o, err)
		}
		footer.ObjectID, footer.IntendedOps = nil, nil // would keep the bytes that were read
		return &item{key: itemKey{id: o.id, kind: kindFooter}, footer: footer, size: footerBytes(footer)}, nil
	})
}

func (c *Cache) readRun(ctx context.Context, o object, chunks []segment.Chunk) (*item, error) {
	if len(chunks) == 0 {
		return nil, fmt.Errorf("%w: a run without chunks in %s", ErrCorrupt, o.id.Key())
	}
	return c.twice(func() (*item, error) {
		start, last := chunks[0].Position, chunks[len(chunks)-1]
		bytes, err := c.fetch(ctx, o, start, last.Position+last.StoredSize-start)
		if err != nil {
			return nil, err
		}
		it := &item{start: start, bytes: bytes, size: int64(len(bytes))}
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

// twice reads again where the first read was damaged: on the way, most likely. The second answer stands.
func (c *Cache) twice(read func() (*item, error)) (*item, error) {
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
type readerAt struct {
	ctx context.Context //nolint:containedctx // lives for one ReadFooter
	c   *Cache
	o   object
}

func (r readerAt) ReadAt(b []byte, position int64) (int, error) {
	got, err := r.c.fetch(r.ctx, r.o, position, int64(len(b)))
	return copy(b, got), err
}

// fetch gets size bytes of an object, trying again while the store is unavailable and ctx lives.
// Errors: ErrStorage (no such object, or refused), ErrCorrupt (of another size), ErrUnavailable, ctx's.
func (c *Cache) fetch(ctx context.Context, o object, position, size int64) ([]byte, error) {
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
			c.cfg.Metrics.gets.Inc()
			c.cfg.Metrics.getBytes.Add(float64(size))
			c.cfg.Metrics.getSeconds.Observe(time.Since(start).Seconds())
			return body, nil
		case errors.Is(err, objstore.ErrNotFound):
			return nil, fmt.Errorf("%w: %w", errMissing, err)
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
