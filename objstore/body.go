package objstore

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Body is what a PutFrom sends: exactly size bytes of a ReaderAt, which a driver can read again from the start. It belongs to
// one call; Release ends the loan, because an HTTP transport may go on reading after it has returned.
type Body struct {
	size int64

	mu       sync.Mutex // guards the rest, over a read of r
	r        io.ReaderAt
	position int64
	err      error // first of r
	released bool
}

// NewBody lends size bytes of r.
func NewBody(r io.ReaderAt, size int64) *Body { return &Body{size: size, r: r} }

// Read implements io.Reader. A ReaderAt that ends early is an error, never a shorter body.
func (b *Body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch left := b.size - b.position; {
	case b.released:
		return 0, io.ErrClosedPipe
	case left <= 0:
		return 0, io.EOF
	case int64(len(p)) > left:
		p = p[:left]
	}
	n, err := b.r.ReadAt(p, b.position)
	b.position += int64(n)
	switch {
	case n == len(p):
		return n, nil
	case err == nil, err == io.EOF: //nolint:errorlint // a ReaderAt returns it bare
		err = fmt.Errorf("it ends before its %d bytes: %w", b.size, io.ErrUnexpectedEOF)
	}
	if b.err == nil {
		b.err = fmt.Errorf("read the body at position %d: %w: %w", b.position, ErrInvalid, err)
	}
	return n, b.err
}

// Seek implements io.Seeker.
func (b *Body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += b.position
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start of the body")
	}
	b.position = offset
	return offset, nil
}

// Err is what reading r failed with, an ErrInvalid, or nil: whatever a transport made of it, the caller is to be told this.
func (b *Body) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Release ends the loan: no later Read touches r.
func (b *Body) Release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released, b.r = true, nil
}
