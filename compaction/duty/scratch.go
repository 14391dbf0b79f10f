package duty

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// ErrScratchFull: the files together may not become larger, or their disk has no room. The work that asked is too large, or runs beside too much other.
var ErrScratchFull = errors.New("scratch space is full")

// Scratch makes files that nobody else sees and that are gone when they are closed. Safe for concurrent use.
type Scratch interface {
	Create() (File, error)
}

// File is a scratch file. Write appends; ReadAt reads what was written and may run beside other reads.
type File interface {
	io.Writer
	io.ReaderAt
	// Size is how many bytes were written.
	Size() int64
	// Close frees the space. Safe twice.
	Close() error
}

// room is a bound on bytes.
type room struct {
	most int64
	used atomic.Int64
}

// take takes n bytes of what is free.
func (r *room) take(n int) error {
	if used := r.used.Add(int64(n)); used > r.most {
		r.used.Add(-int64(n))
		return fmt.Errorf("%w: %d bytes more on top of %d, %d allowed", ErrScratchFull, n, used-int64(n), r.most)
	}
	return nil
}

// dirScratch keeps files in a directory.
type dirScratch struct {
	dir  string
	room room
}

// InDir makes files in dir, which exists, of at most so many bytes together. They have no name there, so that a crash leaves nothing.
func InDir(dir string, most int64) Scratch { return &dirScratch{dir: dir, room: room{most: most}} }

func (s *dirScratch) Create() (File, error) {
	f, err := os.CreateTemp(s.dir, "scratch-*")
	if err != nil {
		return nil, s.failed(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, s.failed(err)
	}
	return &dirFile{f: f, of: s}, nil
}

// failed is an error of the disk. One that has no room left is full scratch space, whatever the bound says: less work may fit.
func (s *dirScratch) failed(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: the disk of %s has no room: %w", ErrScratchFull, s.dir, err)
	}
	return fmt.Errorf("scratch file: %w", err)
}

type dirFile struct {
	f    *os.File
	of   *dirScratch
	size int64
	once sync.Once
	err  error // of Close
}

func (f *dirFile) Write(b []byte) (int, error) {
	if err := f.of.room.take(len(b)); err != nil {
		return 0, err
	}
	n, err := f.f.WriteAt(b, f.size)
	f.size += int64(n)
	f.of.room.used.Add(int64(n - len(b)))
	if err != nil {
		return n, f.of.failed(err)
	}
	return n, nil
}

func (f *dirFile) ReadAt(b []byte, position int64) (int, error) { return f.f.ReadAt(b, position) }
func (f *dirFile) Size() int64                                  { return f.size }

func (f *dirFile) Close() error {
	f.once.Do(func() {
		f.err = f.f.Close()
		f.of.room.used.Add(-f.size)
	})
	return f.err
}

// memScratch keeps files in memory.
type memScratch struct{ room room }

// InMemory makes files in memory, of at most so many bytes together: for tests and simulations.
func InMemory(most int64) Scratch { return &memScratch{room{most: most}} }

func (s *memScratch) Create() (File, error) { return &memFile{room: &s.room}, nil }

type memFile struct {
	room *room
	mu   sync.RWMutex // guards b
	b    []byte
	size int64
}

func (f *memFile) Write(b []byte) (int, error) {
	if err := f.room.take(len(b)); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.b = append(f.b, b...)
	f.size = int64(len(f.b))
	return len(b), nil
}

func (f *memFile) ReadAt(b []byte, position int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if position < 0 || position > int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(b, f.b[position:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Size() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.size
}

func (f *memFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room.used.Add(-int64(len(f.b)))
	f.b = nil
	return nil
}
