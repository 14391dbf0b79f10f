package gc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// checkRun is how much of an object is read at a time.
const checkRun = 8 << 20

// check reads one object from its footer to its last chunk, and holds it against its checksums. Whether rows lie within it is for a rowWalk.
type check struct {
	bucket objstore.Bucket
	object state.Object
	body   []byte // all of it, where it is small
	footer *segment.Footer
	block  int // of the footer, the one to go on with,
	chunk  int // and its chunk
	read   int64
}

// get reads a range of the object.
func (c *check) get(ctx context.Context, position, size int64) ([]byte, error) {
	if c.body != nil && position >= 0 && position+size <= int64(len(c.body)) {
		return c.body[position : position+size], nil
	}
	b, err := c.bucket.GetRange(ctx, c.object.ID.Key(), position, size)
	c.read += int64(len(b))
	return b, err
}

// rangeReader reads the object.
type rangeReader struct {
	ctx context.Context // io.ReaderAt takes none; it lives for one call
	c   *check
}

func (r rangeReader) ReadAt(b []byte, position int64) (int, error) {
	got, err := r.c.get(r.ctx, position, int64(len(b)))
	n := copy(b, got)
	if err == nil && n < len(b) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// step reads the next run. It returns what is wrong, done where nothing is left to read, and an error where the bucket did not answer.
func (c *check) step(ctx context.Context) (d *Damage, done bool, err error) {
	if c.footer == nil {
		if d, err := c.open(ctx); d != nil || err != nil {
			return d, d != nil, err
		}
		return nil, len(c.footer.Blocks) == 0, nil
	}
	first := &c.footer.Blocks[c.block].Chunks[c.chunk]
	from, size := first.Position, int64(0)
	var run []segment.Chunk
	for c.block < len(c.footer.Blocks) {
		next := c.footer.Blocks[c.block].Chunks[c.chunk]
		if len(run) > 0 && size+next.StoredSize > checkRun {
			break
		}
		run = append(run, next)
		size += next.StoredSize
		if c.chunk++; c.chunk == len(c.footer.Blocks[c.block].Chunks) {
			c.block, c.chunk = c.block+1, 0
		}
	}
	body, err := c.get(ctx, from, size)
	if err != nil {
		d, err := c.unread(err)
		return d, d != nil, err
	}
	for i := range run {
		stored := body[run[i].Position-from:][:run[i].StoredSize]
		if _, why := c.checkChunk(stored, &run[i]); why == nil {
			continue
		}
		// Once more: bytes may also break on the way.
		if stored, err = c.bucket.GetRange(ctx, c.object.ID.Key(), run[i].Position, run[i].StoredSize); err != nil {
			d, err := c.unread(err)
			return d, d != nil, err
		}
		if kind, why := c.checkChunk(stored, &run[i]); why != nil {
			return c.damage(kind, why.Error()), true, nil
		}
	}
	return nil, c.block == len(c.footer.Blocks), nil
}

func (c *check) damage(kind, detail string) *Damage {
	return &Damage{Object: c.object.ID, Kind: kind, Detail: detail}
}

// unread sorts the error of a read: the object is not there, is shorter than the log says, or the bucket has not answered.
func (c *check) unread(err error) (*Damage, error) {
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return c.damage(KindMissing, "the bucket does not have it"), nil
	case errors.Is(err, objstore.ErrRange):
		return c.damage(KindSize, fmt.Sprintf("shorter than the %d bytes that the log says", c.object.Size)), nil
	}
	return nil, naming(fmt.Errorf("read object %s: %w", c.object.ID.Key(), err), "s3:GetObject")
}

// open reads header and footer.
func (c *check) open(ctx context.Context) (*Damage, error) {
	for attempt := 0; ; attempt++ {
		if c.body = nil; c.object.Size > 0 && c.object.Size <= checkRun {
			body, err := c.get(ctx, 0, c.object.Size)
			if err != nil {
				return c.unread(err)
			}
			c.body = body
		}
		footer, err := segment.ReadFooter(rangeReader{ctx, c}, c.object.Size)
		if err == nil {
			var head []byte
			if head, err = c.get(ctx, 0, segment.HeaderSize); err == nil {
				err = segment.ParseHeader(head)
			}
		}
		switch {
		case err == nil:
			if !bytes.Equal(footer.ObjectID, entry.AppendObjectID(nil, c.object.ID)) {
				return c.damage(KindFooter, fmt.Sprintf("its footer is of another object, id %x", footer.ObjectID)), nil
			}
			c.footer = footer
			return nil, nil
		case errors.Is(err, segment.ErrCorrupt) && attempt == 0:
		case errors.Is(err, segment.ErrCorrupt):
			return c.damage(KindFooter, err.Error()), nil
		case errors.Is(err, segment.ErrVersion): // a newer firn's: nothing can be said of it
			c.footer = &segment.Footer{}
			return nil, nil
		default:
			return c.unread(err)
		}
	}
}

// checkChunk checks a chunk and the batches in it.
func (c *check) checkChunk(stored []byte, chunk *segment.Chunk) (kind string, why error) {
	raw, err := segment.ReadChunk(stored, *chunk, nil)
	if err != nil {
		return KindChunk, err
	}
	batches, next := 0, int64(0)
	s := batch.Split(raw)
	for s.Next() {
		batches++
		h := s.Header()
		if err := batch.VerifyCRC(s.Raw()); err != nil {
			return KindBatch, fmt.Errorf("chunk at %d, batch %d: %w", chunk.Position, batches, err)
		}
		if !c.object.ID.Merged() { // offsets are the log's to give
			continue
		}
		if h.BaseOffset < next {
			return KindBatch, fmt.Errorf("chunk at %d, batch %d: base offset %d after %d", chunk.Position, batches, h.BaseOffset, next)
		}
		next = h.BaseOffset + h.Span()
	}
	if err := s.Err(); err != nil {
		return KindBatch, fmt.Errorf("chunk at %d: %w", chunk.Position, err)
	}
	if batches != chunk.Batches {
		return KindBatch, fmt.Errorf("chunk at %d: %d batches, its table says %d", chunk.Position, batches, chunk.Batches)
	}
	return "", nil
}
