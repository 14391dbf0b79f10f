package batch

import "fmt"

// Splitter iterates over consecutive batches in a buffer, such as a Fetch response or a chunk of a segment:
//
//	for s := batch.Split(b); s.Next(); {
//		use(s.Header(), s.Raw())
//	}
//
// Not safe for concurrent use. Raw slices alias the buffer.
type Splitter struct {
	rest     []byte
	raw      []byte
	header   Header
	position int // of rest in the buffer
	err      error
}

// Split returns an iterator over the batches in b. It looks at headers only: CRCs and records are not checked.
func Split(b []byte) Splitter { return Splitter{rest: b} }

// Next moves to the next batch. It returns false at the end of the buffer and on the first error.
func (s *Splitter) Next() bool {
	s.raw = nil
	if s.err != nil || len(s.rest) == 0 {
		return false
	}
	h, err := ParseHeader(s.rest)
	if err == nil && h.Size() > len(s.rest) {
		err = fmt.Errorf("batch of %d bytes in %d: %w", h.Size(), len(s.rest), ErrTruncated)
	}
	if err != nil {
		s.err = fmt.Errorf("position %d: %w", s.position, err)
		return false
	}
	s.header, s.raw = h, s.rest[:h.Size():h.Size()]
	s.rest = s.rest[h.Size():]
	s.position += h.Size()
	return true
}

// Raw returns the current batch.
func (s *Splitter) Raw() []byte { return s.raw }

// Header returns the current batch's header.
func (s *Splitter) Header() Header { return s.header }

// Position returns how many bytes of the buffer were taken so far: where the current batch ends.
func (s *Splitter) Position() int { return s.position }

// Err returns what stopped the iteration, nil at a clean end. ErrTruncated means that the buffer ends inside a batch,
// which is normal in Fetch responses of other brokers.
func (s *Splitter) Err() error { return s.err }
