package fetch

import (
	"context"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"sort"
	"sync/atomic"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crc(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func objectOf(row *state.Row) object { return object{id: row.Object, size: row.ObjectSize} }

// cursor moves through the chunks of one row.
type cursor struct {
	r      *Reader
	object object
	table  *item
	row    *state.Row
	chunks []segment.Chunk // that the row touches; chunks[0] is the next
	first  bool            // chunks[0] holds the row's first byte
	delta  int64           // of the row's first batch, from the block's first offset
	base   int64           // offset of the first batch that next returned
	ahead  bool            // the reader is sequential: read the next run of a large object, too
}

// open finds the row's part of its block in the row's object.
func (r *Reader) open(ctx context.Context, topic entry.UUID, partition int32, row *state.Row, o object) (cursor, error) {
	c := cursor{r: r, object: o, row: row, first: true}
	var err error
	if c.table, err = r.cache.table(ctx, c.object); err != nil {
		return c, unavailable(err)
	}
	block, ok := c.table.footer.Block(int(row.Block))
	if !ok || block.Topic != topic || block.Partition != partition {
		return c, fmt.Errorf("%w: %s has no block %d of topic %s partition %d", ErrCorrupt, row.Object, row.Block, topic, partition)
	}
	position, size := row.Position, row.Size
	if position+size > block.RawSize || size <= 0 {
		return c, fmt.Errorf("%w: row [%d, %d) in a block of %d bytes of %s", ErrCorrupt, position, position+size, block.RawSize, row.Object)
	}
	c.chunks = block.ChunksIn(position, size)
	c.delta = c.chunks[0].BaseDelta
	if before := position - c.chunks[0].RawPosition; before > 0 { // the row starts inside a chunk: count what it skips
		raw, err := r.cache.chunk(ctx, c.object, c.table, c.chunks[0])
		if err != nil {
			return c, unavailable(err)
		}
		s := batch.Split(raw[:before])
		for s.Next() {
			h := s.Header()
			c.delta += h.Span()
		}
		if err := s.Err(); err != nil {
			return c, fmt.Errorf("%w: row starts inside a batch: %s: %w", ErrCorrupt, row.Object, err)
		}
	}
	return c, nil
}

// next returns the row's bytes in the next chunk that holds offset or what follows it, and whether they are the row's last.
// base is then the offset of their first batch.
func (c *cursor) next(ctx context.Context, offset int64) (raw []byte, last bool, err error) {
	for len(c.chunks) > 1 && c.row.Base+c.chunks[1].BaseDelta-c.delta <= offset {
		c.chunks, c.first = c.chunks[1:], false
	}
	chunk := c.chunks[0]
	if raw, err = c.r.cache.chunk(ctx, c.object, c.table, chunk); err != nil {
		return nil, false, unavailable(err)
	}
	c.base = c.row.Base + chunk.BaseDelta - c.delta
	raw = raw[:min(chunk.RawSize, c.row.Position+c.row.Size-chunk.RawPosition)]
	if c.first {
		raw, c.base = raw[c.row.Position-chunk.RawPosition:], c.row.Base
	}
	c.chunks, c.first = c.chunks[1:], false
	if c.ahead && !c.r.cache.whole(c.object) {
		c.readAhead(chunk.Position)
	}
	return raw, len(c.chunks) == 0, nil
}

// readAhead reads the row's next run behind the one of position. A chunk may be larger than a run, and no chunk starts in
// the runs that it covers: the next run is the next chunk's.
func (c *cursor) readAhead(position int64) {
	cache := c.r.cache
	end := (position/cache.cfg.RunBytes + 1) * cache.cfg.RunBytes
	i := sort.Search(len(c.chunks), func(i int) bool { return c.chunks[i].Position >= end })
	if i < len(c.chunks) {
		o, footer, position := c.object, c.table.footer, c.chunks[i].Position
		cache.readAhead(cache.holderKeys(o, position), func() (itemKey, reading) { return cache.holderRead(o, footer, position) })
	}
}

// unavailable makes an error of the caller's context one to retry.
func unavailable(err error) error {
	if isSorted(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// trails remembers where reads ended, so that one that starts there is known to be sequential. It is small and forgets by
// collision; a wrong answer costs one GET or the lack of one.
type trails struct {
	seed  maphash.Seed
	marks [4096]atomic.Uint64
}

type trail struct {
	topic     entry.UUID
	partition int32
	offset    int64
}

func (t *trails) leave(topic entry.UUID, partition int32, next int64) {
	h := maphash.Comparable(t.seed, trail{topic, partition, next})
	t.marks[h%uint64(len(t.marks))].Store(h)
}

func (t *trails) follows(topic entry.UUID, partition int32, offset int64) bool {
	h := maphash.Comparable(t.seed, trail{topic, partition, offset})
	return t.marks[h%uint64(len(t.marks))].Load() == h
}
