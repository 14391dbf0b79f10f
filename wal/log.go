package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"sync"
)

// Ref is the place of a frame. For a durable frame it is valid across restarts, until the frame is freed.
type Ref struct {
	File     uint64 // number of the file
	Position int64  // of the frame's header, in bytes from the start of the file
	Size     int64  // of the whole frame in the file, in bytes
}

// Log is a write-ahead log that owns one directory. All methods may be called concurrently.
//
// Two goroutines belong to it, both started by Open and joined by Close: the writer, which alone writes durable files,
// and the keeper, which removes files and prepares the next one. Spill frames are written by their appenders.
type Log struct {
	fs   FS
	opts Options
	id   [16]byte
	lock io.Closer
	cuts []Cut

	q          queue           // what the writer will write next
	active     *file           // the durable file being written, or nil; the writer's own, as are the next two
	prevNumber uint64          // of the durable file before the next one
	prevSynced int64           // its synced
	markBuf    [markBytes]byte // the writer's own
	scratch    sync.Pool       // *[]byte: frames of spill on their way to the file
	waiters    sync.Pool       // *waiter

	keeperWake chan struct{} // capacity 1
	stop       chan struct{} // closed when the writer has ended: the keeper empties its list and ends
	goroutines sync.WaitGroup
	closeOnce  sync.Once
	closeErr   error

	// mu guards what follows, and the fields of file that say so. No I/O is done under it.
	mu          sync.Mutex
	users       sync.WaitGroup // calls that use a file; none joins once closed is set
	closed      bool
	files       map[uint64]*file
	nextNumber  uint64
	lastDurable uint64        // number of the newest durable file, which is never removed
	spill       *file         // active spill file, or nil
	spillMaking chan struct{} // not nil while an appender makes the next spill file; closed after
	charged     int64         // Invariant: the sum of file.charge over files, the spare and files being made
	space       chan struct{} // closed when charged falls; nil while nobody waits
	reap        []*file       // sealed and empty, for the keeper to remove
	spare       *spareFile    // for the next durable file, or nil; charged
	spareWanted bool
	stats       Stats
}

// file is one WAL file.
type file struct {
	name      string // path
	kind      Kind
	number    uint64
	f         File
	size      int64  // bytes that frames may use
	seed      uint32 // of header CRCs
	chain     uint32 // of the first frame
	charge    int64  // bytes counted against MaxBytes
	recovered bool   // found by Open

	// Of the writer alone, for the active durable file.
	prev     uint32 // header CRC of the last frame
	synced   int64  // all below was fsynced; only rises
	promised int64  // Invariant: the last mark or frame that was written promises this; promised <= synced <= end

	// Guarded by Log.mu.
	end    int64 // where the next frame goes; only rises
	used   slots // frames that may be read and were not freed
	live   int   // Invariant: the number of positions in used
	users  int   // calls that use f now
	sealed bool  // takes no more frames; never reset
	gone   bool  // on the keeper's list
}

// ID is the identity of the log, kept in the file VOLUME. A caller that gives Refs away stores it with them, and passes
// it to the next Open as Options.ID.
func (l *Log) ID() [16]byte { return l.id }

// Append writes one frame: tag, then the payload pieces as one run of bytes. The arguments are not kept.
//
// Durable: returns when the frame is fsynced. Spill: returns when it is in the page cache. On an error the caller has
// no frame to free. Errors: ErrFull, ErrFailed (with ErrUnknown where the frame may come back at recovery), ErrTooLarge,
// ErrClosed, and the context's error, together with ErrUnknown where the frame was already queued.
func (l *Log) Append(ctx context.Context, kind Kind, tag []byte, payload ...[]byte) (Ref, error) {
	var size int64
	for _, p := range payload {
		size += int64(len(p))
	}
	if err := l.checkSize(len(tag), size); err != nil {
		return Ref{}, err
	}
	if err := ctx.Err(); err != nil {
		return Ref{}, err
	}
	h := frame{kind: kind, tagSize: uint8(len(tag)), payloadSize: uint32(size)} //nolint:gosec // checked by checkSize
	h.bodyCRC = crc32.Update(0, castagnoli, tag)
	for _, p := range payload {
		h.bodyCRC = crc32.Update(h.bodyCRC, castagnoli, p)
	}
	switch kind {
	case Spill:
		return l.appendSpill(ctx, h, tag, payload)
	case Durable:
		return l.appendDurable(ctx, h, tag, payload)
	}
	panic("wal: append of " + kind.String())
}

func (l *Log) checkSize(tag int, payload int64) error {
	if tag > TagBytesMax {
		return fmt.Errorf("%w: tag of %d bytes, at most %d", ErrTooLarge, tag, TagBytesMax)
	}
	if size := int64(tag) + payload; size > l.opts.FrameBytesMax {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, l.opts.FrameBytesMax)
	}
	return nil
}

// appendFrame appends the frame to b, its header as far as it does not depend on its place. See frame.put.
func appendFrame(b []byte, h frame, tag []byte, payload [][]byte) []byte {
	start := len(b)
	b = append(b, zeros[:frameHeader]...)
	h.put(b[start:], 0, 0)
	b = append(b, tag...)
	for _, p := range payload {
		b = append(b, p...)
	}
	return append(b, zeros[:int(h.size())-(len(b)-start)]...)
}

// zeros is padding.
var zeros [frameHeader]byte

// Read returns the payload of the frame at ref, in dst[:0] if that has room for the whole frame (ref.Size). Header and
// CRC are checked. Errors: ErrNotFound, ErrCorrupt as a *CorruptError, ErrClosed, or the disk's.
func (l *Log) Read(ref Ref, dst []byte) ([]byte, error) {
	f, err := l.acquire(ref)
	if err != nil {
		return nil, err
	}
	defer l.release(f)
	dst = slices.Grow(dst[:0], int(ref.Size))[:ref.Size]
	n, err := f.f.ReadAt(dst, ref.Position)
	if n < len(dst) {
		if errors.Is(err, io.EOF) {
			return nil, &CorruptError{File: f.name, Position: ref.Position, Reason: "file ends within a frame"}
		}
		return nil, fmt.Errorf("read wal frame: %w", err)
	}
	h := decodeFrame(dst)
	switch {
	case !h.plausible(dst, ref.Position) || headerCRC(dst, f.seed, ref.Position) != h.crc || h.size() != ref.Size:
		return nil, &CorruptError{File: f.name, Position: ref.Position, Reason: "frame header checksum differs"}
	case crcOf(dst[frameHeader:][:int(h.tagSize)+int(h.payloadSize)]) != h.bodyCRC:
		return nil, &CorruptError{File: f.name, Position: ref.Position, Reason: "frame body checksum differs"}
	}
	return append(dst[:0], dst[frameHeader+int(h.tagSize):][:h.payloadSize]...), nil
}

// acquire returns the file of ref, which stays open until release. Refs come from outside: nothing in one is believed.
func (l *Log) acquire(ref Ref) (*file, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	f := l.files[ref.File]
	if f == nil || !f.holds(ref) {
		return nil, fmt.Errorf("%w: file %x position %d", ErrNotFound, ref.File, ref.Position)
	}
	l.useLocked(f)
	return f, nil
}

func (f *file) holds(ref Ref) bool {
	return ref.Position%frameAlign == 0 && ref.Size >= frameHeader && ref.Size <= f.end-ref.Position &&
		f.used.has(ref.Position)
}

// useLocked keeps f open until release. Requires: !l.closed.
func (l *Log) useLocked(f *file) {
	f.users++
	l.users.Add(1)
}

func (l *Log) release(f *file) {
	l.mu.Lock()
	f.users--
	l.reapLocked(f)
	l.mu.Unlock()
	l.users.Done()
}

// Free gives up the frame at ref: it can no longer be read, and its file is removed once no other frame in it is in
// use. A second Free of one ref does nothing. It does no I/O.
func (l *Log) Free(ref Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.files[ref.File]; f != nil && f.holds(ref) {
		l.freeLocked(f, ref.Position)
	}
}

func (l *Log) freeLocked(f *file, position int64) {
	f.used.remove(position)
	f.live--
	l.reapLocked(f)
}

// holdLocked counts a new frame at position.
func (f *file) holdLocked(position int64) {
	f.used.add(position)
	f.live++
}

// sealLocked ends the appends to f.
func (l *Log) sealLocked(f *file) {
	f.sealed = true
	l.reapLocked(f)
}

// reapLocked hands f to the keeper if nothing needs it any more.
func (l *Log) reapLocked(f *file) {
	if !f.sealed || f.live > 0 || f.users > 0 || f.gone || f.kind == Durable && f.number == l.lastDurable {
		return
	}
	f.gone = true
	delete(l.files, f.number)
	l.reap = append(l.reap, f)
	wake(l.keeperWake)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// chargeLocked takes n bytes of MaxBytes, if they are there.
func (l *Log) chargeLocked(n int64) bool {
	if l.charged+n > l.opts.MaxBytes {
		return false
	}
	l.charged += n
	return true
}

func (l *Log) uncharge(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.charged -= n
	l.signalSpaceLocked()
}

func (l *Log) signalSpaceLocked() {
	if l.space != nil {
		close(l.space)
		l.space = nil
	}
}

// WaitSpace returns when a frame of the given kind with n bytes of tag and payload together would not be refused with
// ErrFull. It reserves nothing: another appender may be first. Errors: ErrTooLarge, ErrClosed, the context's.
func (l *Log) WaitSpace(ctx context.Context, kind Kind, n int64) error {
	if err := l.checkSize(0, n); err != nil {
		return err
	}
	size := frameSize(0, n)
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return ErrClosed
		}
		if l.hasRoomLocked(kind, size) {
			l.mu.Unlock()
			return nil
		}
		if l.space == nil {
			l.space = make(chan struct{})
		}
		space := l.space
		l.mu.Unlock()
		select {
		case <-space:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *Log) hasRoomLocked(kind Kind, size int64) bool {
	if l.charged+l.opts.FileBytes <= l.opts.MaxBytes {
		return true
	}
	if l.charged > l.opts.MaxBytes {
		return false
	}
	f := l.spill
	if kind == Durable {
		if l.spare != nil {
			return true
		}
		f = l.files[l.lastDurable]
	}
	return f != nil && !f.sealed && f.hasRoom(size)
}

// hasRoom reports whether a frame of size bytes fits, leaving room for the marks of a durable file.
func (f *file) hasRoom(size int64) bool {
	if f.kind == Durable {
		size += 2 * markBytes
	}
	return f.end+size <= f.size
}

// Close flushes and acknowledges what is queued, deletes the spill files, joins the goroutines and unlocks the
// directory. Calls that are under way end first; later ones get ErrClosed. It is safe to call twice and returns the
// same error. An error takes nothing back that was acknowledged.
func (l *Log) Close() error {
	l.closeOnce.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

// newFileHeader draws a number and a salt. The number is used up even if the file is never made.
func (l *Log) newFileHeader(kind Kind) (fileHeader, error) {
	var salt [8]byte
	if _, err := io.ReadFull(l.opts.Rand, salt[:]); err != nil {
		return fileHeader{}, fmt.Errorf("draw salt: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nextNumber++
	return fileHeader{kind: kind, id: l.id, number: l.nextNumber - 1, salt: binary.BigEndian.Uint64(salt[:])}, nil
}

// newFile is the file that h describes, open as f.
func (l *Log) newFile(h fileHeader, f File) (*file, []byte) {
	header := h.appendTo(make([]byte, 0, headerBytes))
	seed, chain := keys(header)
	return &file{
		name: l.path(fileName(h.number, h.kind)), kind: h.kind, number: h.number, f: f,
		size: l.opts.FileBytes, charge: l.opts.FileBytes, seed: seed, chain: chain,
		prev: chain, synced: headerBytes, promised: headerBytes, end: headerBytes, used: newSlots(l.opts.FileBytes),
	}, header
}

func (l *Log) path(name string) string { return filepath.Join(l.opts.Dir, name) }
