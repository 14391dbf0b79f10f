package segment

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"slices"
)

type partition struct {
	topic     [16]byte
	partition int32
}

func (p partition) compare(q partition) int {
	if c := bytes.Compare(p.topic[:], q.topic[:]); c != 0 {
		return c
	}
	return cmp.Compare(p.partition, q.partition)
}

// queue is one partition's batches: a list through Builder.batches.
type queue struct {
	partition
	head, tail int32
	rawSize    int64
}

type pendingBatch struct {
	raw          []byte
	span         int64
	maxTimestamp int64
	next         int32 // -1: last of its partition
}

// Builder collects batches and lays them out as a segment. Add, then Finish, then Reset and again; a Builder that is
// reused allocates nothing per batch. Not safe for concurrent use.
type Builder struct {
	opts    Options
	index   map[partition]int32 // into queues
	queues  []queue             // in order of arrival
	batches []pendingBatch
	rawSize int
	span    int64 // of all batches. Invariant: <= maxTotal unless err is set
	err     error // first Add that cannot be written

	compressor
}

// NewBuilder returns an empty Builder.
func NewBuilder(opts Options) *Builder {
	opts = opts.withDefaults()
	return &Builder{opts: opts, index: make(map[partition]int32), compressor: compressor{enabled: opts.Compress}}
}

// Add appends one batch to the block of (topic, part): raw bytes, how many offsets it takes, and its max timestamp in
// ms. raw is kept, not copied, and must not change until Finish or Reset. What cannot be written (an empty or
// over-large batch, a negative partition, no span) makes Finish fail.
func (b *Builder) Add(topic [16]byte, part int32, raw []byte, span int64, maxTimestamp int64) {
	if b.err == nil && (len(raw) == 0 || len(raw) > MaxBatchSize || part < 0 || span < 1 || span > maxTotal-b.span) {
		b.err = fmt.Errorf("batch of %d bytes and %d offsets for partition %d: %w", len(raw), span, part, ErrInvalid)
	}
	key := partition{topic, part}
	i := int32(len(b.batches))
	b.batches = append(b.batches, pendingBatch{raw: raw, span: span, maxTimestamp: maxTimestamp, next: -1})
	b.rawSize += len(raw)
	if b.err == nil {
		b.span += span
	}
	q, ok := b.index[key]
	if !ok {
		q = int32(len(b.queues))
		b.index[key] = q
		b.queues = append(b.queues, queue{partition: key, head: i, tail: i})
	} else {
		b.batches[b.queues[q].tail].next = i
		b.queues[q].tail = i
	}
	b.queues[q].rawSize += int64(len(raw))
}

// Size returns the raw bytes added so far.
func (b *Builder) Size() int { return b.rawSize }

// Batches returns how many batches were added so far.
func (b *Builder) Batches() int { return len(b.batches) }

// Reset forgets the batches and keeps the memory.
func (b *Builder) Reset() {
	clear(b.index)
	clear(b.batches) // let go of the raw bytes
	b.queues, b.batches = b.queues[:0], b.batches[:0]
	b.rawSize, b.span, b.err = 0, 0, nil
}

// Finish appends the segment to dst and returns it with its blocks, sorted by topic id and partition. The same calls
// give the same bytes, with the same version of the compressor. objectID (at most MaxObjectIDSize bytes) and
// intendedOps go into the footer as they are. The Builder keeps its batches until Reset, so Finish may be called again,
// with another id. Error: ErrInvalid.
func (b *Builder) Finish(dst []byte, objectID, intendedOps []byte) (body []byte, blocks []Block, err error) {
	if b.err != nil {
		return nil, nil, fmt.Errorf("build segment: %w", b.err)
	}
	if err := checkObjectID(objectID); err != nil {
		return nil, nil, fmt.Errorf("build segment: %w", err)
	}
	slices.SortFunc(b.queues, func(p, q queue) int { return p.compare(q.partition) })
	chunkCount := 0
	for i := range b.queues {
		q := &b.queues[i]
		b.index[q.partition] = int32(i) // Add may go on after Finish
		chunkCount += int(q.rawSize/int64(b.opts.ChunkBytes)) + 1
	}
	footerSize := footerBytes(len(objectID)+len(intendedOps), len(b.queues), chunkCount, minorMixed)
	if footerSize > MaxFooterSize {
		return nil, nil, fmt.Errorf("build segment: footer of %d bytes: %w", footerSize, ErrInvalid)
	}
	start := len(dst)
	body = slices.Grow(dst, HeaderSize+b.rawSize+footerSize+TrailerSize)
	body = appendHeader(body, minorMixed)
	blocks = make([]Block, len(b.queues))
	chunks := make([]Chunk, 0, chunkCount) // never grows, so that the blocks' slices of it stay whole
	for i := range b.queues {
		q := &b.queues[i]
		first := len(chunks)
		body, chunks = b.appendBlock(body, start, q, chunks)
		block := Block{Topic: q.topic, Partition: q.partition.partition, Index: i, BaseOffset: NoOffset, Chunks: chunks[first:len(chunks):len(chunks)]}
		block.sum()
		blocks[i] = block
	}
	footer := len(body)
	body = appendFooter(body, objectID, intendedOps, blocks, minorMixed)
	return appendTrailer(body, int64(footer-start), body[footer:], minorMixed), blocks, nil
}

// appendBlock appends the partition's batches as chunks to body, whose object starts at start.
func (b *Builder) appendBlock(body []byte, start int, q *queue, chunks []Chunk) ([]byte, []Chunk) {
	var rawPosition, delta int64
	for i := q.head; i >= 0; {
		at := len(body)
		c := Chunk{Position: int64(at - start), RawPosition: rawPosition, BaseDelta: delta, MaxTimestamp: b.batches[i].maxTimestamp}
		for i >= 0 && len(body)-at < b.opts.ChunkBytes {
			e := &b.batches[i]
			body = append(body, e.raw...)
			c.Span += e.span
			c.Batches++
			c.MaxTimestamp = max(c.MaxTimestamp, e.maxTimestamp)
			i = e.next
		}
		c.RawSize = int64(len(body) - at)
		rawPosition += c.RawSize
		delta += c.Span
		if small, ok := b.compress(body[at:]); ok {
			body = append(body[:at], small...)
			c.Codec = CodecZstd
		}
		c.StoredSize = int64(len(body) - at)
		c.CRC = crc32.Checksum(body[at:], castagnoli)
		chunks = append(chunks, c)
	}
	return body, chunks
}
