package batch

import (
	"fmt"
	"io"
)

const (
	windowSize = 64 << 10 // buffered of a decompressed stream; records larger than this are skipped through it
	retainMax  = 4 << 20  // larger buffers are dropped after the batch that needed them
)

// stream is the records section of a batch, decompressed: either all in memory (r is nil) or seen through a window.
// Errors are of the codec or of a bound; a short answer without an error is the end of the records.
type stream struct {
	buf   []byte // b[pos:end] is buffered
	pos   int
	end   int
	r     io.Reader // nil: buf holds everything
	codec Codec
	total int64 // bytes read from r. Invariant: total <= limit
	limit int64
	eof   bool
}

func (s *stream) buffered() []byte { return s.buf[s.pos:s.end] }

// peek buffers at least n bytes where the records still have as many, and returns what is buffered. The window grows
// past its usual size for a larger n, by doubling and only as fast as bytes arrive: n is a claim.
func (s *stream) peek(n int) ([]byte, error) {
	for s.end-s.pos < n && s.r != nil && !s.eof {
		if err := s.fill(n); err != nil {
			return nil, err
		}
	}
	return s.buffered(), nil
}

// fill makes room in the window and reads once into it.
func (s *stream) fill(n int) error {
	if s.pos > 0 {
		copy(s.buf, s.buffered())
		s.end -= s.pos
		s.pos = 0
	}
	if s.end == len(s.buf) {
		grown := make([]byte, min(max(n, windowSize), 2*len(s.buf)))
		copy(grown, s.buf)
		s.buf = grown
	}
	m, err := s.r.Read(s.buf[s.end:])
	s.end += m
	s.total += int64(m)
	switch {
	case s.total > s.limit:
		return fmt.Errorf("%s records exceed %d bytes once decompressed: %w", s.codec, s.limit, ErrTooLarge)
	case err == io.EOF:
		s.eof = true
	case err != nil:
		return s.codec.invalid(err)
	}
	return nil
}

// skip drops n bytes through the window. It reports whether there were as many.
func (s *stream) skip(n int) (bool, error) {
	for {
		if have := s.end - s.pos; have >= n {
			s.pos += n
			return true, nil
		} else {
			n -= have
		}
		s.pos, s.end = 0, 0
		if s.r == nil || s.eof {
			return false, nil
		}
		if err := s.fill(0); err != nil {
			return false, err
		}
	}
}

// length reads the length of the next record. ok is false where it is malformed or missing.
func (s *stream) length() (n int, ok bool, err error) {
	b, err := s.peek(maxVarint32)
	if err != nil {
		return 0, false, err
	}
	v, at := varint32(b, 0)
	if at < 0 || v < 0 {
		return 0, false, nil
	}
	s.pos += at
	return int(v), true, nil
}

// skipRecord reads the body of a record that does not fit the window, n bytes, without keeping it. Of key and value it
// records only whether they are null; headers are checked and dropped.
func (s *stream) skipRecord(r *Record, baseTimestamp int64, n int) (why string, err error) {
	left := n
	take := func() (int32, bool) { // a varint
		b, e := s.peek(maxVarint32)
		v, at := varint32(b, 0)
		if err = e; err != nil || at < 0 || at > left {
			return 0, false
		}
		s.pos += at
		left -= at
		return v, true
	}
	drop := func() (isNull, ok bool) { // a length and its bytes
		size, ok := take()
		if !ok || size < -1 || int(size) > left {
			return false, false
		}
		if size == -1 {
			return true, true
		}
		left -= int(size)
		all, e := s.skip(int(size))
		err = e
		return false, all && err == nil
	}
	const prologue = 1 + maxVarint64 + maxVarint32
	b, err := s.peek(prologue)
	if err != nil {
		return "", err
	}
	if len(b) < prologue {
		return whyLength, nil
	}
	delta, at := varint64(b, 1)
	if at < 0 {
		return whyVarint, nil
	}
	*r = Record{Attributes: int8(b[0])}
	if r.OffsetDelta, at = varint32(b, at); at < 0 {
		return whyVarint, nil
	}
	if r.Timestamp = baseTimestamp + delta; (r.Timestamp > baseTimestamp) != (delta > 0) {
		return whyTimestamp, nil
	}
	s.pos += at
	left -= at
	keyIsNull, ok := drop()
	if !ok {
		return whyField, err
	}
	if !keyIsNull {
		r.Key = s.buf[:0]
	}
	if _, ok = drop(); !ok {
		return whyField, err
	}
	count, ok := take()
	if !ok {
		return whyVarint, err
	}
	if count < 0 || int(count) > left/2 {
		return whyHeaders, nil
	}
	for range count {
		if isNull, ok := drop(); !ok || isNull {
			return whyHeader, err
		}
		if _, ok := drop(); !ok {
			return whyHeader, err
		}
	}
	if left != 0 {
		return whyTrailing, nil
	}
	return "", nil
}
