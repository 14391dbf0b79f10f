package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// worker is one upload slot: it builds a segment's body and puts it into the bucket, whatever that takes.
type worker struct {
	p       *Pipeline
	builder *segment.Builder
	id, ops []byte // scratch: encodings for the footer
}

func (p *Pipeline) uploadLoop() {
	w := &worker{p: p, builder: segment.NewBuilder(segment.Options{Compress: p.cfg.Compress})}
	for {
		select {
		case f := <-p.work:
			if !w.carry(f) {
				return
			}
		case <-p.ctx.Done():
			return
		}
	}
}

// carry takes f to the bucket and reports back to the loop; false where the pipeline ends before.
func (w *worker) carry(f *flight) bool {
	p := w.p
	start := time.Now()
	w.gather(f)
	err := w.build(f)
	if err == nil && len(f.order) > 0 {
		w.letGo(f)
		if err = w.put(f); err == nil {
			p.cfg.Metrics.uploadSeconds.Observe(time.Since(start).Seconds())
			p.cfg.Metrics.segmentBytes.Observe(float64(len(f.body)))
			p.sink.Put(f.id, f.body, f.footer)
		}
	}
	if p.ctx.Err() != nil {
		return false
	}
	if err != nil { // definite: nothing of f is in the log
		p.cfg.Logger.Error("segment given up", "segment", f.id, "batches", len(f.order), "error", err)
		w.refuse(f, f.order, err)
		f.subs = f.subs[:0]
	}
	p.mu.Lock()
	f.ended = true
	p.uploading--
	p.uploaded = true
	p.mu.Unlock()
	p.poke()
	return true
}

// gather fills f.order with parts whose bytes are in memory. A part whose bytes the disk has lost is refused: it is in no
// object and in no op.
func (w *worker) gather(f *flight) {
	f.order = append(f.order[:0], f.parts...)
	var size int64
	for _, part := range f.order {
		if part.spilled {
			size += part.ref.Size
		}
	}
	var arena []byte
	if size > 0 {
		arena = make([]byte, 0, size)
	}
	lost := 0
	for i := 0; i < len(f.order); i++ {
		part := f.order[i]
		var err error
		switch {
		case part.spilled:
			n := len(arena)
			arena = arena[:n+int(part.ref.Size)]
			part.Records, err = w.p.spill.Read(part.ref, arena[n:n:len(arena)])
			w.p.spill.Free(part.ref)
			w.p.cfg.Metrics.spillBytes.Sub(float64(part.size))
			part.spilled = false
			if err != nil {
				err = fmt.Errorf("%w: %w", ErrSpillLost, err)
			}
		case f.source != nil:
			part.Records, err = w.recover(f, part)
		}
		if err != nil {
			if lost++; lost == 1 { // a disk that fails loses many: the first is named
				w.p.cfg.Logger.Error("staged batches lost", "segment", f.id, "topic", part.Topic, "partition", part.Partition, "error", err)
			}
			w.refuse(f, f.order[i:i+1], err)
			f.order = slices.Delete(f.order, i, i+1)
			i--
		}
	}
	if size > 0 { // the spill has room again
		w.p.mu.Lock()
		w.p.changedLocked()
		w.p.mu.Unlock()
	}
}

// recover finds a restaged part's bytes in the body of the object that was refused.
func (w *worker) recover(f *flight, part *Part) ([]byte, error) {
	footer, err := segment.Open(f.source)
	if err != nil {
		return nil, err
	}
	block, ok := footer.Find(part.Topic, part.Partition)
	if !ok {
		return nil, fmt.Errorf("no block of the partition: %w", segment.ErrCorrupt)
	}
	chunks := block.ChunksIn(part.position, part.size)
	if len(chunks) != 1 {
		return nil, fmt.Errorf("batch in %d chunks: %w", len(chunks), segment.ErrCorrupt)
	}
	c := chunks[0]
	raw, err := segment.ReadChunk(f.source[c.Position:c.Position+c.StoredSize], c, nil)
	if err != nil {
		return nil, err
	}
	return raw[part.position-c.RawPosition:][:part.size], nil
}

// build lays out the body and plans the ops. Batches are checked where they now lie: a buffer that its owner changed under
// way must not become a record.
func (w *worker) build(f *flight) error {
	for len(f.order) > 0 {
		f.sortOrder()
		w.builder.Reset()
		for _, part := range f.order {
			w.builder.Add(part.Topic, part.Partition, part.Records, part.span(), part.Header.MaxTimestamp)
		}
		f.subs = w.p.plan(f.subs, f.id, f.order, w.p.cfg.OpBytes)
		w.id = entry.AppendObjectID(w.id[:0], f.id)
		w.ops = appendIntended(w.ops[:0], f.id, f.subs)
		var err error
		if f.body, _, err = w.builder.Finish(nil, w.id, w.ops); err != nil {
			return err
		}
		if f.footer, err = segment.Open(f.body); err != nil {
			return err
		}
		for _, s := range f.subs {
			s.op.ObjectSize = uint64(len(f.body))
		}
		if damaged := w.damaged(f); len(damaged) > 0 {
			w.p.cfg.Logger.Error("batches changed while staged", "batches", len(damaged))
			w.refuse(f, damaged, batch.ErrCorrupt)
			f.order = slices.DeleteFunc(f.order, func(part *Part) bool { return slices.Contains(damaged, part) })
			continue
		}
		w.builder.Reset()
		return nil
	}
	f.subs = f.subs[:0]
	return nil
}

// damaged returns the parts whose bytes in the body do not match their own CRC. Compressed chunks are not looked at: their
// bytes were read once, after the sample.
func (w *worker) damaged(f *flight) (bad []*Part) {
	for _, part := range f.order {
		c := f.footer.Blocks[part.block].ChunksIn(part.position, part.size)[0]
		raw := part.Records
		if c.Codec == segment.CodecNone {
			raw = f.body[c.Position+part.position-c.RawPosition:][:part.size]
		}
		if batch.VerifyCRC(raw) != nil {
			bad = append(bad, part)
		}
	}
	return bad
}

// letGo gives the callers' buffers back: the body holds a copy of all.
func (w *worker) letGo(f *flight) {
	for _, part := range f.order {
		w.p.releaseRecords(part)
	}
	f.source = nil
}

// put uploads the body under one key until the bucket has it. The error is definite or the pipeline's end.
//
// Every attempt has the same key and the same bytes, so one that took effect without an answer does no harm, and meeting
// an object under the key means that it is ours.
func (w *worker) put(f *flight) error {
	p := w.p
	key := f.id.Key()
	opts := objstore.PutOptions{IfAbsent: true}
	for delay := p.cfg.RetryMin; ; delay = min(2*delay, p.cfg.RetryMax) {
		if f.lock != (Lock{}) { // its days count from the upload, however long that took to go through
			opts.Lock = objstore.Lock{Mode: f.lock.Mode, Until: time.Now().AddDate(0, 0, int(f.lock.Days))}
		}
		ctx, cancel := context.WithTimeout(p.ctx, p.cfg.UploadTimeout)
		err := p.bucket.Put(ctx, key, f.body, opts)
		cancel()
		switch {
		case err == nil, errors.Is(err, objstore.ErrExists):
			return nil
		case p.ctx.Err() != nil:
			return err
		case f.lock != (Lock{}) && (errors.Is(err, objstore.ErrInvalid) || errors.Is(err, objstore.ErrDenied)):
			return fmt.Errorf("%w (%s, %d days): %w", ErrLock, f.lock.Mode, f.lock.Days, err)
		case errors.Is(err, objstore.ErrInvalid):
			return err
		}
		p.cfg.Metrics.uploadRetries.Inc()
		p.cfg.Logger.Debug("segment not uploaded, trying again", "segment", key, "error", err, "retry_in", delay)
		if !p.pause(p.jitter(delay)) {
			return context.Cause(p.ctx)
		}
	}
}

// refuse answers parts of f that never reached the log.
func (w *worker) refuse(f *flight, parts []*Part, err error) {
	for _, part := range parts {
		w.p.releaseRecords(part)
	}
	var tell answered
	w.p.mu.Lock()
	for _, part := range parts {
		part.Err = err
		w.p.answerLocked(part, &tell)
	}
	w.p.mu.Unlock()
	tell.tell()
}

// jitter spreads d over [d/2, d].
func (p *Pipeline) jitter(d time.Duration) time.Duration {
	p.randMu.Lock()
	defer p.randMu.Unlock()
	return d/2 + time.Duration(p.cfg.Rand.Int64N(int64(d/2)+1))
}

// pause waits d; false where the pipeline ends before.
func (p *Pipeline) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

func compareUUID(a, b entry.UUID) int { return bytes.Compare(a[:], b[:]) }
