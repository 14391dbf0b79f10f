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
	place
	r      *Reader
	object object
	table  *item
	row    *state.Row
	chunks []segment.Chunk // that the row touches; the first holds its first byte
	at     int             // the next one
	delta  int64           // of the row's first batch, from the block's first offset
	ahead  int             // how many of the next runs of a large object are read, too: some where the reader is sequential
}

// open finds the row's part of its block in the row's object.
func (r *Reader) open(ctx context.Context, in place, row *state.Row, o object) (cursor, error) {
	c := cursor{place: in, r: r, object: o, row: row}
	var err error
	if c.table, err = r.cache.table(ctx, c.object); err != nil {
		return c, unavailable(err)
	}
	block, ok := c.table.footer.Block(int(row.Block))
	if !ok || block.Topic != in.topic || block.Partition != in.partition {
		return c, fmt.Errorf("%w: %s has no block %d of topic %s partition %d", ErrCorrupt, row.Object, row.Block, in.topic, in.partition)
	}
	position, size := row.Position, row.Size
	if position+size > block.RawSize || size <= 0 {
		return c, fmt.Errorf("%w: row [%d, %d) in a block of %d bytes of %s", ErrCorrupt, position, position+size, block.RawSize, row.Object)
	}
	if row.Object.Merged() && (position != 0 || size != block.RawSize || block.BaseOffset != row.Base || block.Span != row.End-row.Base) {
		return c, fmt.Errorf("%w: partition %d of %s: a row of %d bytes for [%d, %d), its block has %d for [%d, %d)", ErrCorrupt, in.partition, row.Object,
			size, row.Base, row.End, block.RawSize, block.BaseOffset, block.BaseOffset+block.Span)
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

// base is the offset of the first batch of the row in its i-th chunk. A chunk spans the offsets that are missing behind it, too.
func (c *cursor) base(i int) int64 {
	if i == 0 {
		return c.row.Base
	}
	return c.row.Base + c.chunks[i].BaseDelta - c.delta
}

// seek makes the chunk the next one that holds offset, or what follows it.
func (c *cursor) seek(offset int64) {
	behind := sort.Search(len(c.chunks), func(i int) bool { return c.base(i) > offset })
	c.at = max(c.at, behind-1)
}

// next returns the row's batches in the next chunk, and whether they are the row's last.
func (c *cursor) next(ctx context.Context) (in placed, last bool, err error) {
	in, err = c.read(ctx, c.at)
	if err != nil {
		return in, false, err
	}
	c.at++
	if c.ahead > 0 && !c.r.cache.whole(c.object) {
		c.readAhead(c.chunks[c.at-1].Position)
	}
	return in, c.at == len(c.chunks), nil
}

// passed tells the cache that the reader is through with what next returned last, where that was the row's last chunk in a run.
func (c *cursor) passed() {
	size := c.r.cache.cfg.RunBytes
	run := c.chunks[c.at-1].Position / size
	if c.at < len(c.chunks) && c.chunks[c.at].Position/size == run {
		return
	}
	bytes := int64(0)
	for i := c.at - 1; i >= 0 && c.chunks[i].Position/size == run; i-- {
		bytes += c.chunks[i].StoredSize
	}
	c.r.cache.passed(itemKey{id: c.object.id, kind: kindRun, position: run}, bytes)
}

// read returns the row's batches in its i-th chunk.
func (c *cursor) read(ctx context.Context, i int) (placed, error) {
	chunk := c.chunks[i]
	it, from, to, err := c.r.cache.chunkIn(ctx, c.object, c.table, chunk)
	if err != nil {
		return placed{}, unavailable(err)
	}
	to = min(to, from+int(c.row.Position+c.row.Size-chunk.RawPosition))
	if i == 0 {
		from += int(c.row.Position - chunk.RawPosition)
	}
	in := c.in(c.row, it.bytes[from:to:to], c.base(i))
	in.item, in.to = it, from
	return in, nil
}

// readAhead reads the row's next runs behind the one of position. A chunk may be larger than a run, and no chunk starts in
// the runs that it covers: the next run is the next chunk's.
func (c *cursor) readAhead(position int64) {
	run := c.r.cache.cfg.RunBytes
	for n := range c.ahead {
		end := (position/run + 1) * run
		i := sort.Search(len(c.chunks), func(i int) bool { return c.chunks[i].Position >= end })
		if i == len(c.chunks) {
			return
		}
		position = c.chunks[i].Position
		c.r.cache.aheadOf(c.object, c.table.footer, position, n > 0)
	}
}

// unavailable makes an error of the caller's context one to retry.
func unavailable(err error) error {
	if isSorted(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// trails remembers where reads ended, so that one that starts there is known to be sequential, and how many in a row had ended and started
// there, up to stepsMost. It is small and forgets by collision; a wrong answer costs one GET or the lack of one.
type trails struct {
	seed  maphash.Seed
	marks [4096]atomic.Uint64
}

type trail struct {
	topic     entry.UUID
	partition int32
	offset    int64
}

// stepsMost is what the low bits of a mark hold, which are not of the hash.
const stepsMost = 15

// leave notes that a read ended at next, the steps-th in a row.
func (t *trails) leave(topic entry.UUID, partition int32, next int64, steps int) {
	h := maphash.Comparable(t.seed, trail{topic, partition, next})
	t.marks[h>>4%uint64(len(t.marks))].Store(h&^stepsMost | uint64(min(max(steps, 1), stepsMost)))
}

// follows returns how many reads in a row ended at offset, 0 where none did.
func (t *trails) follows(topic entry.UUID, partition int32, offset int64) int {
	h := maphash.Comparable(t.seed, trail{topic, partition, offset})
	if mark := t.marks[h>>4%uint64(len(t.marks))].Load(); mark&^stepsMost == h&^stepsMost {
		return int(mark & stepsMost)
	}
	return 0
}
