package segment

import (
	"fmt"
	"hash/crc32"
	"io"
)

// Writer writes a merged object as a stream: batches come in the order of the table, with their offsets, and leave chunk by
// chunk. It holds one chunk, that chunk compressed, and the table. Add, then Finish, once. Not safe for concurrent use.
type Writer struct {
	w    io.Writer
	opts Options
	compressor

	raw     []byte // of the open chunk; empty between chunks
	open    Chunk  // what is known of it
	base    int64  // first offset of the open chunk
	end     int64  // where the last batch of the block ends; the next one starts here or later
	blocks  []Block
	chunks  int   // of all blocks
	written int64 // bytes given to w
	spans   int64 // offsets of all closed chunks. Invariant: <= maxTotal
	err     error // the first; nothing is written after it
}

// NewWriter returns a Writer of one object to w. w gets whole chunks, so it needs no buffer.
func NewWriter(w io.Writer, opts Options) *Writer {
	opts = opts.withDefaults()
	return &Writer{w: w, opts: opts, compressor: compressor{enabled: opts.Compress}}
}

// Add writes one batch of (topic, part): its raw bytes, which are copied and which carry base as their base offset; the
// offsets [base, end) that it covers; and its max timestamp in ms. Blocks come in the order of topic id and partition, the
// batches of one in the order of their offsets; offsets may be missing between them. An error is final: ErrInvalid, or what
// w returned.
func (w *Writer) Add(topic [16]byte, part int32, raw []byte, base, end, maxTimestamp int64) error {
	if w.err == nil {
		w.fail(w.add(partition{topic, part}, raw, base, end, maxTimestamp))
	}
	return w.err
}

func (w *Writer) fail(err error) {
	if err != nil {
		w.err = fmt.Errorf("write segment: %w", err)
	}
}

func (w *Writer) add(key partition, raw []byte, base, end, maxTimestamp int64) error {
	if len(raw) == 0 || len(raw) > MaxBatchSize || key.partition < 0 || base < 0 || end <= base || end == maxOffset {
		return fmt.Errorf("batch of %d bytes for partition %d, offsets %d to %d: %w", len(raw), key.partition, base, end, ErrInvalid)
	}
	if w.written == 0 {
		if err := w.write(appendHeader(nil, minorMerged)); err != nil {
			return err
		}
	}
	order := -1 // of the block before to this one
	if n := len(w.blocks); n > 0 {
		order = w.blocks[n-1].key().compare(key)
	}
	switch {
	case order > 0:
		return fmt.Errorf("partition %d of topic %x after partition %d of topic %x: %w",
			key.partition, key.topic, w.blocks[len(w.blocks)-1].Partition, w.blocks[len(w.blocks)-1].Topic, ErrInvalid)
	case order < 0:
		if err := w.closeBlock(); err != nil {
			return err
		}
		w.blocks = append(w.blocks, Block{Topic: key.topic, Partition: key.partition, Index: len(w.blocks), BaseOffset: base})
	case base < w.end:
		return fmt.Errorf("batch at offset %d of partition %d, which reaches to %d: %w", base, key.partition, w.end, ErrInvalid)
	case len(w.raw) >= w.opts.ChunkBytes:
		// The gap before this batch belongs to the chunk before it, so that every offset of the block has one chunk.
		if err := w.closeChunk(base); err != nil {
			return err
		}
	}
	if len(w.raw) == 0 {
		w.open, w.base = Chunk{MaxTimestamp: maxTimestamp}, base
	}
	w.raw = append(w.raw, raw...)
	w.open.Batches++
	w.open.MaxTimestamp = max(w.open.MaxTimestamp, maxTimestamp)
	w.end = end
	return nil
}

// closeBlock ends the block under way, if there is one.
func (w *Writer) closeBlock() error {
	if len(w.blocks) == 0 {
		return nil
	}
	if err := w.closeChunk(w.end); err != nil {
		return err
	}
	w.blocks[len(w.blocks)-1].sum()
	return nil
}

// closeChunk writes the open chunk, whose offsets reach to end.
func (w *Writer) closeChunk(end int64) error {
	block := &w.blocks[len(w.blocks)-1]
	c := w.open
	c.Position, c.RawSize, c.Span = w.written, int64(len(w.raw)), end-w.base
	if n := len(block.Chunks); n > 0 {
		before := &block.Chunks[n-1]
		c.RawPosition, c.BaseDelta = before.RawPosition+before.RawSize, before.BaseDelta+before.Span
	}
	if c.Span > maxTotal-w.spans {
		return fmt.Errorf("more than %d offsets: %w", int64(maxTotal), ErrInvalid)
	}
	w.spans += c.Span
	w.chunks++
	if size := footerBytes(0, len(w.blocks), w.chunks, minorMerged); size > MaxFooterSize {
		return fmt.Errorf("footer of %d bytes: %w", size, ErrInvalid)
	}
	stored := w.raw
	if small, ok := w.compress(w.raw); ok {
		stored, c.Codec = small, CodecZstd
	}
	c.StoredSize, c.CRC = int64(len(stored)), crc32.Checksum(stored, castagnoli)
	block.Chunks = append(block.Chunks, c)
	w.raw = w.raw[:0]
	return w.write(stored)
}

func (w *Writer) write(b []byte) error {
	n, err := w.w.Write(b)
	w.written += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// Size returns how large the object is by now, but for the footer and for what the open chunk will shrink by.
func (w *Writer) Size() int64 { return w.written + int64(len(w.raw)) }

// Finish writes what is left and returns the blocks and the size of the object. objectID and intendedOps are as for a
// Builder. The Writer is spent then. Errors are as Add's.
func (w *Writer) Finish(objectID, intendedOps []byte) (blocks []Block, size int64, err error) {
	if w.err == nil {
		w.fail(w.finish(objectID, intendedOps))
	}
	if w.err != nil {
		return nil, 0, w.err
	}
	w.err = fmt.Errorf("write segment: it is finished: %w", ErrInvalid)
	return w.blocks, w.written, nil
}

func (w *Writer) finish(objectID, intendedOps []byte) error {
	if err := checkObjectID(objectID); err != nil {
		return err
	}
	if w.written == 0 {
		if err := w.write(appendHeader(nil, minorMerged)); err != nil {
			return err
		}
	}
	if err := w.closeBlock(); err != nil {
		return err
	}
	size := footerBytes(len(objectID)+len(intendedOps), len(w.blocks), w.chunks, minorMerged)
	if size > MaxFooterSize {
		return fmt.Errorf("footer of %d bytes: %w", size, ErrInvalid)
	}
	position := w.written
	footer := appendFooter(make([]byte, 0, size+TrailerSize), objectID, intendedOps, w.blocks, minorMerged)
	return w.write(appendTrailer(footer, position, footer, minorMerged))
}
