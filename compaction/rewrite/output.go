package rewrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// Object is a merged object that is in the bucket.
type Object struct {
	ID   entry.ObjectID
	Size int64 // bytes
}

// Row is the whole of a block of a merged object, as the index shall name it.
type Row struct {
	Object       int // index among the objects of a Commit
	Block        uint32
	Base, End    int64 // offsets
	MaxTimestamp int64
	Size         int64 // raw bytes
}

// Output is one merged object on its way: Begin a block, Add its batches, End it; then Upload. Close it in any case. It is used by
// one goroutine.
type Output struct {
	env   *Env
	topic entry.UUID
	file  duty.File
	w     *segment.Writer

	open      bool  // a block was begun
	partition int32 // of the block
	filled    bool  // the block has batches
	row       Row   // of the block
	blocks    int   // that have batches
	raw       int64 // bytes of all batches
	unpaid    int   // bytes that the budget has not heard of
}

// NewOutput starts an object of the topic.
func (e *Env) NewOutput(topic entry.UUID) (*Output, error) {
	file, err := e.deps.Scratch.Create()
	if err != nil {
		return nil, err
	}
	w := segment.NewWriter(file, segment.Options{Compress: e.cfg.Compress, ChunkBytes: e.cfg.ChunkBytes})
	return &Output{env: e, topic: topic, file: file, w: w}, nil
}

// Close frees the scratch space. Safe twice.
func (o *Output) Close() { _ = o.file.Close() } // what matters was uploaded

// RawSize is the raw bytes of the batches so far: what the object will have about, where nothing is compressed.
func (o *Output) RawSize() int64 { return o.raw }

// Begin starts the block of a partition. Requires: partitions ascend, and the block before was ended.
func (o *Output) Begin(partition int32) error {
	if o.open {
		return errors.New("compaction/rewrite: a block was not ended")
	}
	o.open, o.partition, o.filled, o.row = true, partition, false, Row{Block: uint32(o.blocks)}
	return nil
}

// Add copies a batch into the block. h is its header, with the absolute base offset; batches ascend.
// Errors: duty.ErrScratchFull, ctx's, of the scratch space, or segment.ErrInvalid.
func (o *Output) Add(ctx context.Context, raw []byte, h *batch.Header) error {
	end := h.BaseOffset + h.Span()
	if err := o.w.Add(o.topic, o.partition, raw, h.BaseOffset, end, h.MaxTimestamp); err != nil {
		return err
	}
	if !o.filled {
		o.filled, o.row.Base, o.row.MaxTimestamp = true, h.BaseOffset, h.MaxTimestamp
		o.blocks++
	}
	o.row.End = end
	o.row.MaxTimestamp = max(o.row.MaxTimestamp, h.MaxTimestamp)
	o.row.Size += int64(len(raw))
	o.raw += int64(len(raw))
	if o.unpaid += len(raw); o.unpaid < payBytes {
		return nil
	}
	n := o.unpaid
	o.unpaid = 0
	return o.env.deps.Budget.Take(ctx, n)
}

// payBytes is how many bytes are written for one question to the budget.
const payBytes = 1 << 20

// End ends the block and returns its row, whose Object is for the caller to set; false where nothing was added: there is then no block.
// A row that is not committed leaves its block's bytes in the object for nobody, which is how a block is given up.
func (o *Output) End() (Row, bool) {
	o.open = false
	return o.row, o.filled
}

// Upload finishes the object, checks it as it lies in scratch space and puts it into the bucket. The collection epoch is that of its
// start. Errors: ErrUnavailable, ctx's, of scratch space; objstore.ErrInvalid and ErrDenied as the bucket gave them.
func (o *Output) Upload(ctx context.Context) (Object, error) {
	id := entry.ObjectID{Incarnation: o.env.deps.Meta.Incarnation(), Seq: o.env.deps.Sequence.next(), Topic: o.topic}
	o.env.deps.Meta.View(func(st *state.State) { id.CollectionEpoch = st.CollectionEpoch() })
	blocks, size, err := o.w.Finish(entry.AppendObjectID(nil, id), nil)
	if err == nil && (len(blocks) != o.blocks || size != o.file.Size()) {
		err = fmt.Errorf("%d blocks of %d, %d bytes of %d: %w", len(blocks), o.blocks, o.file.Size(), size, segment.ErrCorrupt)
	}
	if err != nil {
		return Object{}, fmt.Errorf("finish %s: %w", id.Key(), err)
	}
	if err := o.check(ctx); err != nil {
		return Object{}, fmt.Errorf("check %s in scratch space: %w", id.Key(), err)
	}
	opts := o.env.deps.PutOptions(o.topic)
	opts.IfAbsent = true
	asks := len(opts.Tags) > 0 || opts.StorageClass != "" || opts.Lock != (objstore.Lock{})
	err = o.env.attempts(ctx, "put", id, func() error {
		err := o.env.deps.Bucket.PutFrom(ctx, id.Key(), o.file, size, opts)
		if asks && errors.Is(err, objstore.ErrDenied) {
			return final{err}
		}
		return err
	})
	if err != nil && opts.StorageClass != "" && errors.Is(err, objstore.ErrStorageClass) {
		return Object{}, fmt.Errorf("storage class %s of topic %s: %w; set firn.storage.class to one that the store has, firn bucket check says for which topics",
			opts.StorageClass, o.name(), err)
	}
	if asks && errors.Is(err, objstore.ErrDenied) {
		return Object{}, o.denied(ctx, &opts, err)
	}
	if errors.Is(err, objstore.ErrExists) { // by an attempt of ours whose answer was lost: keys are unique
		err = o.same(ctx, id, size)
	}
	if err != nil {
		return Object{}, err
	}
	o.env.deps.Metrics.puts.Inc()
	o.env.deps.Metrics.putBytes.Add(float64(size))
	return Object{ID: id, Size: size}, nil
}

// putProbe is put where a put was denied, and deleted again.
const putProbe = "probe/compaction-put"

// denied sorts a put that was denied for a topic that asks for something beside its object. That takes permissions of its own, and other
// topics may do without; but credentials that have expired, or may put nothing at all, would fail each topic in turn. So a tiny object
// is put that asks for nothing.
func (o *Output) denied(ctx context.Context, opts *objstore.PutOptions, denial error) error {
	err := o.env.deps.Bucket.Put(ctx, putProbe, []byte("firn asks whether it may put anything\n"), objstore.PutOptions{})
	switch {
	case err == nil:
		_ = o.env.deps.Bucket.Delete(ctx, putProbe) // what a lock or a missing permission keeps is a few bytes
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, objstore.ErrDenied):
		return fmt.Errorf("%w: the agents' credentials may put nothing, so that every topic waits: they have expired, or need the action s3:PutObject: %w",
			ErrUnavailable, err)
	default:
		return fmt.Errorf("%w: put %s: %w", ErrUnavailable, putProbe, err)
	}
	var actions []string
	if len(opts.Tags) > 0 {
		actions = append(actions, "s3:PutObjectTagging for its tags")
	}
	if opts.Lock != (objstore.Lock{}) {
		actions = append(actions, "s3:PutObjectRetention for its lock")
	}
	if opts.StorageClass != "" {
		actions = append(actions, "storage class "+opts.StorageClass)
	}
	return fmt.Errorf("an object of topic %s is denied, though others are not; it takes %s: %w", o.name(), strings.Join(actions, ", "), denial)
}

// name is the topic's, for messages.
func (o *Output) name() (name string) {
	o.env.deps.Meta.View(func(st *state.State) {
		if t := st.TopicByID(o.topic); t != nil {
			name = t.Name
		}
	})
	return name
}

// same makes sure that what has our key is what we meant to put there: rows will name it. The end of an object holds the checksums of
// all the rest.
func (o *Output) same(ctx context.Context, id entry.ObjectID, size int64) error {
	tail := make([]byte, min(size, 64<<10))
	if n, err := o.file.ReadAt(tail, size-int64(len(tail))); n < len(tail) {
		return fmt.Errorf("end of %s in scratch space: %w", id.Key(), err)
	}
	there, err := o.env.get(ctx, id, size, size-int64(len(tail)), int64(len(tail)))
	if err != nil {
		return err
	}
	if !bytes.Equal(there, tail) {
		return fmt.Errorf("%s: another object has this key", id.Key())
	}
	return nil
}

// check reads the object back before it may take the place of others: a disk that lies is found out here, not when its inputs are gone.
func (o *Output) check(ctx context.Context) error {
	footer, err := segment.ReadFooter(o.file, o.file.Size())
	if err != nil {
		return err
	}
	if len(footer.Blocks) != o.blocks {
		return fmt.Errorf("%d blocks of %d: %w", len(footer.Blocks), o.blocks, segment.ErrCorrupt)
	}
	var buf []byte
	for i := range footer.Blocks {
		for _, c := range footer.Blocks[i].Chunks {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if int64(cap(buf)) < c.StoredSize {
				buf = make([]byte, c.StoredSize)
			}
			stored := buf[:c.StoredSize]
			if n, err := o.file.ReadAt(stored, c.Position); n < len(stored) {
				return fmt.Errorf("chunk at %d: %d of %d bytes: %w", c.Position, n, len(stored), errors.Join(err, segment.ErrCorrupt))
			}
			if got := crc32.Checksum(stored, castagnoli); got != c.CRC {
				return fmt.Errorf("chunk at %d: CRC32C %08x, written %08x: %w", c.Position, got, c.CRC, segment.ErrCorrupt)
			}
		}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
