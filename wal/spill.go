package wal

import (
	"context"
	"errors"
	"fmt"
)

// spillInline is the size up to which a spill frame is copied together and written with one call.
const spillInline = 64 << 10

// appendSpill reserves a place, then writes there: appenders write concurrently and wait for no other.
func (l *Log) appendSpill(ctx context.Context, h frame, tag []byte, payload [][]byte) (Ref, error) {
	f, position, err := l.reserveSpill(ctx, h.size())
	if err != nil {
		return Ref{}, err
	}
	defer l.release(f)
	if err := l.writeSpill(f, position, h, tag, payload); err != nil {
		l.mu.Lock()
		l.freeLocked(f, position)
		l.dropSpillLocked(f)
		l.mu.Unlock()
		return Ref{}, fmt.Errorf("%w: write spill: %w", ErrFailed, err)
	}
	return Ref{File: f.number, Position: position, Size: h.size()}, nil
}

// dropSpillLocked seals f; the next append makes a new file.
func (l *Log) dropSpillLocked(f *file) {
	if l.spill == f {
		l.spill = nil
	}
	l.sealLocked(f)
}

// reserveSpill gives size bytes of the active spill file to the caller, who must release the file.
func (l *Log) reserveSpill(ctx context.Context, size int64) (*file, int64, error) {
	l.mu.Lock()
	for {
		if l.closed {
			l.mu.Unlock()
			return nil, 0, ErrClosed
		}
		if f := l.spill; f != nil && f.hasRoom(size) {
			position := f.end
			f.end += size
			f.holdLocked(position)
			l.useLocked(f)
			l.stats.SpillAppends++
			l.stats.SpillBytes += uint64(size) //nolint:gosec // a size is not negative
			l.mu.Unlock()
			return f, position, nil
		}
		if making := l.spillMaking; making != nil {
			l.mu.Unlock()
			select {
			case <-making:
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			}
			l.mu.Lock()
			continue
		}
		if !l.chargeLocked(l.opts.FileBytes) {
			l.stats.Full++
			l.mu.Unlock()
			return nil, 0, ErrFull
		}
		if err := l.rotateSpillLocked(); err != nil {
			l.mu.Unlock()
			return nil, 0, err
		}
	}
}

// rotateSpillLocked makes a new active spill file. It lets go of mu during the I/O; spillMaking keeps others out.
// Requires: FileBytes are charged.
func (l *Log) rotateSpillLocked() error {
	making := make(chan struct{})
	l.spillMaking = making
	l.users.Add(1)
	l.mu.Unlock()
	f, err := l.createSpill()
	l.mu.Lock()
	l.users.Done()
	l.spillMaking = nil
	close(making)
	if err != nil {
		l.charged -= l.opts.FileBytes
		l.signalSpaceLocked()
		return fmt.Errorf("%w: create spill file: %w", ErrFailed, err)
	}
	if old := l.spill; old != nil {
		l.dropSpillLocked(old)
	}
	l.files[f.number] = f
	l.spill = f
	return nil
}

// createSpill syncs nothing: the file ends with the process. It is preallocated so that a full disk shows here and
// not when the kernel writes pages back, which nobody would be told.
func (l *Log) createSpill() (*file, error) {
	h, err := l.newFileHeader(Spill)
	if err != nil {
		return nil, err
	}
	name := l.path(fileName(h.number, Spill))
	osf, err := l.fs.Create(name)
	if err != nil {
		return nil, err
	}
	f, header := l.newFile(h, osf)
	err = osf.Preallocate(l.opts.FileBytes)
	if err == nil {
		_, err = osf.WriteAt(header, 0)
	}
	if err != nil {
		return nil, errors.Join(err, osf.Close(), l.fs.Remove(name))
	}
	return f, nil
}

func (l *Log) writeSpill(f *file, position int64, h frame, tag []byte, payload [][]byte) error {
	scratch, _ := l.scratch.Get().(*[]byte)
	if scratch == nil {
		scratch = new([]byte)
	}
	defer l.scratch.Put(scratch)
	if h.size() <= spillInline {
		b := appendFrame((*scratch)[:0], h, tag, payload)
		*scratch = b
		h.put(b, f.seed, position)
		_, err := f.f.WriteAt(b, position)
		return err
	}
	// The padding needs no write: the file was zeros.
	b := append((*scratch)[:0], zeros[:frameHeader]...)
	b = append(b, tag...)
	*scratch = b
	h.put(b, f.seed, position)
	if _, err := f.f.WriteAt(b, position); err != nil {
		return err
	}
	position += int64(len(b))
	for _, p := range payload {
		if _, err := f.f.WriteAt(p, position); err != nil {
			return err
		}
		position += int64(len(p))
	}
	return nil
}
