package wal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// queue is where durable appenders and the writer meet. It holds two batches: appenders fill one while the writer
// has the other, and change places when the writer comes back.
type queue struct {
	wake chan struct{} // capacity 1: something was queued, or the queue was closed

	mu      sync.Mutex // guards what follows; a leaf: no other lock is taken under it
	filling *batch
	idle    *batch        // nil while the writer has it
	room    chan struct{} // closed when filling was taken; nil while nobody waits
	closed  bool
	failed  error // set: durable appends end with it
}

type batch struct {
	buf    []byte // frames, headers not final
	frames []queued
}

type queued struct {
	w    *waiter
	size int64
}

// waiter is one durable appender. Either the writer claims it and answers once, or the appender claims it because its
// context ended, and the writer frees the frame that nobody waits for.
type waiter struct {
	answer  chan answer // capacity 1
	claimed atomic.Bool
}

func (w *waiter) claim() bool { return w.claimed.CompareAndSwap(false, true) }

type answer struct {
	ref Ref
	err error
}

func (l *Log) appendDurable(ctx context.Context, h frame, tag []byte, payload [][]byte) (Ref, error) {
	w, _ := l.waiters.Get().(*waiter)
	if w == nil {
		w = &waiter{answer: make(chan answer, 1)}
	}
	for {
		room, err := l.q.add(w, h, tag, payload, l.opts.BatchBytes)
		if err != nil {
			l.waiters.Put(w)
			return Ref{}, err
		}
		if room == nil {
			break
		}
		select {
		case <-room:
		case <-ctx.Done():
			l.waiters.Put(w)
			return Ref{}, ctx.Err()
		}
	}
	var a answer
	select {
	case a = <-w.answer:
	case <-ctx.Done():
		if w.claim() {
			return Ref{}, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
		}
		a = <-w.answer
	}
	w.claimed.Store(false)
	l.waiters.Put(w)
	return a.ref, a.err
}

// add queues a frame, or returns a channel that is closed when it is worth trying again.
func (q *queue) add(w *waiter, h frame, tag []byte, payload [][]byte, batchBytes int64) (<-chan struct{}, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch b := q.filling; {
	case q.closed:
		return nil, ErrClosed
	case q.failed != nil:
		return nil, q.failed
	case len(b.buf) > 0 && int64(len(b.buf))+h.size() > batchBytes:
		if q.room == nil {
			q.room = make(chan struct{})
		}
		return q.room, nil
	default:
		b.buf = appendFrame(b.buf, h, tag, payload)
		b.frames = append(b.frames, queued{w: w, size: h.size()})
		wake(q.wake)
		return nil, nil
	}
}

// take returns what is queued, or nil and whether the queue is closed for good.
func (q *queue) take() (b *batch, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.filling.frames) == 0 {
		return nil, q.closed
	}
	b = q.filling
	q.filling, q.idle = q.idle, nil
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
	return b, q.closed
}

// giveBack returns a batch from take. A buffer that a large frame blew up is not kept.
func (q *queue) giveBack(b *batch, batchBytes int64) {
	clear(b.frames)
	b.frames, b.buf = b.frames[:0], b.buf[:0]
	if int64(cap(b.buf)) > 2*batchBytes {
		b.buf = nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.idle = b
}

func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failed = err
}

func (q *queue) failure() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failed
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	wake(q.wake)
}

// write is the writer goroutine. A batch is whatever was queued while the previous one was written and synced.
func (l *Log) write() {
	defer close(l.stop)
	for {
		b, closed := l.q.take()
		switch {
		case b != nil:
			l.writeBatch(b)
			l.q.giveBack(b, l.opts.BatchBytes)
		case closed:
			if l.active != nil {
				l.sealActive() //nolint:errcheck // nothing unacknowledged is lost; Stats.Failed has it
			}
			return
		default:
			l.markIdle()
			<-l.q.wake
		}
	}
}

// writeBatch writes the frames of b in order, in as many files as it takes, and answers each.
func (l *Log) writeBatch(b *batch) {
	frames, buf := b.frames, b.buf
	for len(frames) > 0 {
		err := l.q.failure()
		if err == nil && l.overfull() {
			err = ErrFull
		}
		if err == nil && (l.active == nil || !l.active.hasRoom(frames[0].size)) {
			err = l.rotate()
		}
		if err != nil {
			l.refuse(frames, err)
			return
		}
		n, size := 0, int64(0)
		for n < len(frames) && l.active.hasRoom(size+frames[n].size) {
			size += frames[n].size
			n++
		}
		l.writeRun(frames[:n], buf[:size])
		frames, buf = frames[n:], buf[size:]
	}
}

// overfull reports whether the files that Open found and the one that it made exceed MaxBytes. Then that one takes
// nothing, or each of many crashes would add a file.
func (l *Log) overfull() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.charged > l.opts.MaxBytes
}

// refuse answers frames that were not acknowledged.
func (l *Log) refuse(frames []queued, err error) {
	if errors.Is(err, ErrFull) {
		l.mu.Lock()
		l.stats.Full += uint64(len(frames))
		l.mu.Unlock()
	}
	for _, q := range frames {
		if q.w.claim() {
			q.w.answer <- answer{err: err}
		}
	}
}

// writeRun writes and syncs frames, which buf holds, at the end of the active file, and answers them.
// Requires: they fit.
func (l *Log) writeRun(frames []queued, buf []byte) {
	f := l.active
	start, end, prev, rest := f.end, f.end, f.prev, buf
	for _, q := range frames {
		h := decodeFrame(rest)
		h.chain, h.promise = prev, f.synced
		prev = h.put(rest, f.seed, end)
		end += q.size
		rest = rest[q.size:]
	}
	_, err := f.f.WriteAt(buf, start)
	if err == nil {
		err = l.sync(f)
	}
	if err != nil {
		l.refuse(frames, fmt.Errorf("%w: %w", l.failActive(err), ErrUnknown))
		return
	}
	f.prev, f.promised, f.synced = prev, f.synced, end
	l.mu.Lock()
	position := start
	for _, q := range frames {
		f.holdLocked(position)
		position += q.size
	}
	f.end = end
	l.stats.DurableAppends += uint64(len(frames))
	l.stats.DurableBytes += uint64(len(buf))
	if l.spare == nil && !l.spareWanted {
		l.spareWanted = true
		wake(l.keeperWake)
	}
	l.mu.Unlock()
	position = start
	for _, q := range frames {
		ref := Ref{File: f.number, Position: position, Size: q.size}
		if q.w.claim() {
			q.w.answer <- answer{ref: ref}
		} else {
			l.Free(ref)
		}
		position += q.size
	}
}

// sync syncs f and keeps the times.
func (l *Log) sync(f *file) error {
	began := l.opts.Now()
	l.mu.Lock()
	l.stats.SyncingSince = began
	l.mu.Unlock()
	err := f.f.Sync()
	took := l.opts.Now().Sub(began)
	l.mu.Lock()
	l.stats.countSync(took)
	l.mu.Unlock()
	return err
}

// failActive seals the active file after err: it is not written or synced again. It returns the error for appenders.
func (l *Log) failActive(err error) error {
	f := l.active
	err = fmt.Errorf("%w: %s: %w", ErrFailed, f.name, err)
	if l.opts.AfterFailure == StopDurable {
		l.q.fail(err)
	}
	l.leaveActive()
	l.mu.Lock()
	l.stats.Failed = err
	l.mu.Unlock()
	return err
}

// leaveActive seals the active file and keeps what the next file's header says of it.
func (l *Log) leaveActive() {
	f := l.active
	l.active, l.prevNumber, l.prevSynced = nil, f.number, f.synced
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sealLocked(f)
}

// mark writes a promise of all that is synced. Requires: room for it.
func (l *Log) mark() error {
	f := l.active
	h := frame{kind: kindMark, chain: f.prev, promise: f.synced, bodyCRC: crcOf(nil)}
	b := l.markBuf[:]
	crc := h.put(b, f.seed, f.end)
	if _, err := f.f.WriteAt(b, f.end); err != nil {
		return l.failActive(err)
	}
	f.prev, f.promised = crc, f.synced
	l.mu.Lock()
	defer l.mu.Unlock()
	f.end += markBytes
	return nil
}

// markIdle promises the last batch, which no later frame has done yet: without it, damage to that batch would pass for
// a torn tail. It is not synced; the next sync or the kernel takes it along. It leaves room for the mark of sealActive.
func (l *Log) markIdle() {
	if f := l.active; f != nil && f.promised < f.synced && f.hasRoom(0) {
		l.mark() //nolint:errcheck // nobody waits for it; Stats.Failed has it
	}
}

// sealActive promises everything in the active file, syncs, and seals it.
func (l *Log) sealActive() error {
	if err := l.mark(); err != nil {
		return err
	}
	f := l.active
	if err := l.sync(f); err != nil {
		return l.failActive(err)
	}
	f.synced = f.end
	l.leaveActive()
	return nil
}

// rotate makes the next durable file active. Without room for one the old one stays.
func (l *Log) rotate() error {
	l.mu.Lock()
	spare := l.spare
	if spare == nil && !l.chargeLocked(l.opts.FileBytes) {
		l.mu.Unlock()
		return ErrFull
	}
	l.spare = nil
	l.mu.Unlock()
	if l.active != nil {
		if err := l.sealActive(); err != nil {
			l.dropSpare(spare)
			return err
		}
	}
	if err := l.createDurable(spare); err != nil {
		return fmt.Errorf("%w: create wal file: %w", ErrFailed, err)
	}
	return nil
}

// dropSpare gives back the space of a spare, or what was charged in place of one. An error leaves a temporary file that
// the next Open deletes.
func (l *Log) dropSpare(spare *spareFile) {
	if spare != nil {
		spare.f.Close()                // nothing of use is in it
		l.fs.Remove(l.path(spareName)) //nolint:errcheck,gosec // see above
	}
	l.uncharge(l.opts.FileBytes)
}

// createDurable makes a durable file from spare, or an empty one if that is nil, and makes it active. The file gets its
// name only when its header is synced, and frames only when the name is: a file with a bad header is damage, not a
// crash. Requires: FileBytes are charged; on an error they are given back.
func (l *Log) createDurable(spare *spareFile) (err error) {
	h, err := l.newFileHeader(Durable)
	if err != nil {
		l.dropSpare(spare)
		return err
	}
	h.prevNumber, h.prevSynced = l.prevNumber, l.prevSynced
	name := l.path(fileName(h.number, Durable))
	tmp := name + tmpSuffix
	var osf File
	if spare != nil {
		tmp, osf = l.path(spareName), spare.f
	} else {
		if osf, err = l.fs.Create(tmp); err != nil {
			l.uncharge(l.opts.FileBytes)
			return err
		}
		err = osf.Preallocate(l.opts.FileBytes)
	}
	f, header := l.newFile(h, osf)
	if err == nil {
		_, err = osf.WriteAt(header, 0)
	}
	if err == nil {
		err = l.sync(f)
	}
	if err == nil {
		err = l.fs.Rename(tmp, name)
	}
	if err == nil {
		tmp = name
		err = l.fs.SyncDir(l.opts.Dir)
	}
	if err != nil {
		err = errors.Join(err, osf.Close(), l.fs.Remove(tmp))
		l.uncharge(l.opts.FileBytes)
		return err
	}
	l.active = f
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.files[l.lastDurable]
	l.files[f.number], l.lastDurable = f, f.number
	if old != nil {
		l.reapLocked(old)
	}
	return nil
}
