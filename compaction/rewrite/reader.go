package rewrite

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// Batch is a record batch as it shall lie in a merged object.
type Batch struct {
	// Raw is the batch. It may be changed until the next call of Next, and is not valid after.
	Raw []byte
	// Header is Raw's, with the absolute base offset, the leader epoch and the true max timestamp.
	Header batch.Header
	// Row is the index, among those given, of the row that it lies in.
	Row int
}

// End is the offset after the batch's last one.
func (b *Batch) End() int64 { return b.Header.BaseOffset + b.Header.Span() }

// Reader yields the batches of a partition's rows. It uses its Source's memory: one Reader of a Source is read at a time.
type Reader struct {
	s    *Source
	in   Input
	rows []state.Row

	row    int // rows[row] is being read; -1 before the first
	object *input
	chunks []segment.Chunk // of the row, that are not read yet
	run    []byte          // bytes of the object from runAt on, which hold whole chunks
	runAt  int64
	raw    []byte // rest of the chunk, within the row
	next   int64  // offset at or above which the next batch starts: at, where the object is of level 0
	left   int64  // raw bytes of the row that no chunk was read for
	walker *batch.Validator
	batch  Batch
	err    error
}

// Read returns a Reader of rows, which ascend and are in the bucket.
func (s *Source) Read(in Input, rows []state.Row) *Reader {
	return &Reader{s: s, in: in, rows: rows, row: -1}
}

// Batch is the one that Next moved to.
func (r *Reader) Batch() *Batch { return &r.batch }

// Err is what ended the reading: nil at the end of the rows. Errors: *InputError, ErrChanged, ErrUnavailable, ctx's.
func (r *Reader) Err() error { return r.err }

// Next moves to the next batch; false at the end and where there is an error.
func (r *Reader) Next(ctx context.Context) bool {
	for r.err == nil {
		if len(r.raw) > 0 {
			r.err = r.take()
			if r.err != nil {
				break
			}
			if r.batch.End() <= r.in.LogStart {
				continue
			}
			return true
		}
		if len(r.chunks) > 0 {
			r.err = r.load(ctx)
			continue
		}
		if r.row >= 0 && (r.next != r.rows[r.row].End || r.left != 0) {
			r.err = r.corrupt(fmt.Errorf("batches end at offset %d, %d bytes early", r.next, r.left))
			break
		}
		if r.row++; r.row == len(r.rows) {
			return false
		}
		r.err = r.open(ctx)
	}
	return false
}

// corrupt is an error of the row that is read.
func (r *Reader) corrupt(why error) error {
	row := &r.rows[r.row]
	return &InputError{
		Object: row.Object, Topic: r.in.Topic, Partition: r.in.Partition, Start: row.Base, End: row.End,
		Err: fmt.Errorf("%w: %w", ErrCorrupt, why),
	}
}

// place completes an error that does not know yet which offsets it is about.
func (r *Reader) place(err error) error {
	var input *InputError
	if errors.As(err, &input) {
		row := &r.rows[r.row]
		return &InputError{Object: row.Object, Topic: r.in.Topic, Partition: r.in.Partition, Start: row.Base, End: row.End, Err: input.Err}
	}
	return err
}

// open finds the row's part of its block.
func (r *Reader) open(ctx context.Context) error {
	row := &r.rows[r.row]
	object, err := r.s.open(ctx, row.Object, row.ObjectSize)
	if err != nil {
		return r.place(err)
	}
	block, ok := object.footer.Block(int(row.Block))
	if !ok || block.Topic != r.in.Topic || block.Partition != r.in.Partition {
		return r.corrupt(fmt.Errorf("block %d is not the partition's", row.Block))
	}
	if row.Size <= 0 || row.Position < 0 || row.Position+row.Size > block.RawSize {
		return r.corrupt(fmt.Errorf("bytes [%d, %d) of a block of %d", row.Position, row.Position+row.Size, block.RawSize))
	}
	// Rows of one block may share a chunk, and what was taken from it was stamped in place: it is read again.
	r.object, r.chunks, r.raw, r.run = object, block.ChunksIn(row.Position, row.Size), nil, nil
	r.next, r.left = row.Base, row.Size
	return nil
}

// load makes the row's bytes in the next chunk the ones to take batches from.
func (r *Reader) load(ctx context.Context) error {
	c := r.chunks[0]
	row := &r.rows[r.row]
	var raw []byte
	for again := false; ; again = true { // what is damaged is read once more, from the bucket
		if err := r.fill(ctx, c, again); err != nil {
			return r.place(err)
		}
		stored := r.run[c.Position-r.runAt:][:c.StoredSize]
		var err error
		if raw, err = segment.ReadChunk(stored, c, r.s.raw); err == nil {
			break
		}
		r.run = nil
		if again {
			return r.corrupt(err)
		}
	}
	if c.Codec != segment.CodecNone {
		r.s.raw = raw
	}
	r.chunks = r.chunks[1:]
	whole := raw
	raw = raw[:min(c.RawSize, row.Position+row.Size-c.RawPosition)]
	if before := row.Position - c.RawPosition; before > 0 {
		raw = raw[before:]
	}
	r.raw = raw
	r.left -= int64(len(raw))
	return r.correct(c, len(raw) == len(whole))
}

// fill makes r.run hold the chunk: with those that follow it, as far as they lie behind it, up to a run's length.
func (r *Reader) fill(ctx context.Context, c segment.Chunk, fresh bool) error {
	end := c.Position + c.StoredSize
	if r.run != nil && !fresh && c.Position >= r.runAt && end <= r.runAt+int64(len(r.run)) {
		return nil
	}
	// Staged bytes cost nothing to read, so they are read a chunk at a time and stay in the processor's caches.
	if staged := r.object.file != nil && !fresh; !staged {
		for _, next := range r.chunks[1:] {
			if next.Position != end || next.Position+next.StoredSize-c.Position > r.s.env.cfg.RunBytes {
				break
			}
			end += next.StoredSize
		}
	}
	run, err := r.s.read(ctx, r.object, c.Position, end-c.Position, fresh)
	if err != nil {
		r.run = nil
		return err
	}
	r.run, r.runAt = run, c.Position
	return nil
}

// correct gives batches their true max timestamp where a producer's header lied about it. Agents do so before they store a batch; once
// they did not, and what is from then is still there. The chunk's is true: it is the largest that was found in the records. Only where the
// headers contradict it are records looked at; a header that claims too little beside another that holds the chunk's largest goes unnoticed.
func (r *Reader) correct(c segment.Chunk, whole bool) error {
	if r.rows[r.row].LogAppendTime {
		return nil
	}
	largest, first := int64(0), true
	for s := batch.Split(r.raw); s.Next(); {
		h := s.Header()
		if first || h.MaxTimestamp > largest {
			largest, first = h.MaxTimestamp, false
		}
	}
	if first || largest == c.MaxTimestamp || largest < c.MaxTimestamp && !whole {
		return nil // what is damaged is found when it is taken
	}
	if r.walker == nil {
		r.walker = batch.NewValidator()
	}
	for s := batch.Split(r.raw); s.Next(); {
		if batch.VerifyCRC(s.Raw()) != nil || s.Header().RecordCount == 0 {
			continue
		}
		truth, first := int64(0), true
		if err := r.walker.Walk(s.Raw(), batch.Limits{MaxDecompressedBytes: 1 << 30}, func(rec batch.Record) error {
			if first || rec.Timestamp > truth {
				truth, first = rec.Timestamp, false
			}
			return nil
		}); err != nil {
			return r.corrupt(err)
		}
		if !first {
			batch.StampMaxTimestamp(s.Raw(), truth)
		}
	}
	return nil
}

// take makes the first batch of r.raw the current one.
func (r *Reader) take() error {
	row := &r.rows[r.row]
	h, err := batch.ParseHeader(r.raw)
	switch {
	case err != nil:
		return r.corrupt(fmt.Errorf("after offset %d: %w", r.next, err))
	case h.Size() > len(r.raw):
		return r.corrupt(fmt.Errorf("after offset %d: %w: batch of %d bytes in %d", r.next, batch.ErrTruncated, h.Size(), len(r.raw)))
	case h.LastOffsetDelta < 0:
		return r.corrupt(fmt.Errorf("after offset %d: last offset delta %d", r.next, h.LastOffsetDelta))
	}
	raw := r.raw[:h.Size():h.Size()]
	r.raw = r.raw[h.Size():]
	if err := batch.VerifyCRC(raw); err != nil {
		return r.corrupt(fmt.Errorf("after offset %d: %w", r.next, err))
	}
	if row.Object.Merged() {
		if h.BaseOffset < r.next || h.BaseOffset > row.End {
			return r.corrupt(fmt.Errorf("batch at offset %d after %d", h.BaseOffset, r.next))
		}
	} else {
		h.BaseOffset, h.LeaderEpoch = r.next, state.EpochAt(r.in.Epochs, r.next)
		batch.StampBase(raw, h.BaseOffset, h.LeaderEpoch)
		if row.LogAppendTime {
			batch.StampLogAppendTime(raw, row.MaxTimestamp)
			h, _ = batch.ParseHeader(raw) // it was parsed before; attributes, timestamp and CRC are new
		}
	}
	if end := h.BaseOffset + h.Span(); end > row.End {
		return r.corrupt(fmt.Errorf("batch of offsets [%d, %d)", h.BaseOffset, end))
	}
	r.next = h.BaseOffset + h.Span()
	r.batch = Batch{Raw: raw, Header: h, Row: r.row}
	return nil
}
