package wal

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
)

// window is how much of a file the scanner holds: its bound on memory, whatever the file claims.
const window = 256 << 10

// scanner walks the frames of a file from the first. It believes nothing that it reads.
type scanner struct {
	f    io.ReaderAt
	name string
	size int64 // of the file
	seed uint32
	// spill: of a spill file, whose frames have no chain. Recovery never reads one; Inspect does.
	spill bool

	position int64  // of the next frame
	chain    uint32 // what its chain field must be
	promised int64  // highest promise of the frames so far

	buf     []byte // bytes of the file from bufAt
	bufAt   int64
	payload []byte // tag and payload of the last frame, where wanted
}

// view returns n bytes at position, until the next call. Requires: n <= window, and within the file.
func (s *scanner) view(position, n int64) ([]byte, error) {
	if position < s.bufAt || position+n > s.bufAt+int64(len(s.buf)) {
		if s.buf == nil {
			s.buf = make([]byte, 0, min(window, s.size))
		}
		s.buf = s.buf[:min(int64(cap(s.buf)), s.size-position)]
		got, err := s.f.ReadAt(s.buf, position)
		if got < len(s.buf) {
			s.buf = s.buf[:0]
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read %s at position %d: %w", s.name, position, err)
		}
		s.bufAt = position
	}
	return s.buf[position-s.bufAt:][:n], nil
}

// next returns the frame at s.position and moves behind it. ok is false where no valid frame is. With keepPayload,
// tag and payload are left in s.payload until the next call.
func (s *scanner) next(keepPayload bool) (h frame, ok bool, err error) {
	if s.size-s.position < frameHeader {
		return h, false, nil
	}
	b, err := s.view(s.position, frameHeader)
	if err != nil {
		return h, false, err
	}
	h = decodeFrame(b)
	if headerCRC(b, s.seed, s.position) != h.crc || h.chain != s.chain {
		return h, false, nil
	}
	if !h.plausible(b, s.position) || (h.kind == Spill) != s.spill {
		return h, false, &CorruptError{File: s.name, Position: s.position, Reason: "frame of " + h.kind.String() +
			" with fields that no version 1 writes"}
	}
	if h.size() > s.size-s.position {
		return h, false, nil
	}
	crc, left := uint32(0), int64(h.tagSize)+int64(h.payloadSize)
	s.payload = s.payload[:0]
	for at := s.position + frameHeader; left > 0; {
		n := min(left, window)
		if b, err = s.view(at, n); err != nil {
			return h, false, err
		}
		crc = crc32.Update(crc, castagnoli, b)
		if keepPayload {
			s.payload = append(s.payload, b...)
		}
		at, left = at+n, left-n
	}
	if crc != h.bodyCRC {
		return h, false, nil
	}
	s.position += h.size()
	if !s.spill {
		s.chain = h.crc
	}
	s.promised = max(s.promised, h.promise)
	return h, true, nil
}

// tail judges what lies at and behind s.position, where no valid frame is. It returns the end of the last byte that is
// not zero, and a *CorruptError if a later header promises that this place was synced. It reads each byte once.
func (s *scanner) tail(ctx context.Context) (end int64, err error) {
	end = s.position
	for at := s.position; at < s.size; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n := min(s.size-at, window)
		b, err := s.view(at, n)
		if err != nil {
			return 0, err
		}
		if !allZero(b) {
			for i := n; i > 0; i-- {
				if b[i-1] != 0 {
					end = at + i
					break
				}
			}
			if err := s.findPromise(b, at); err != nil {
				return 0, err
			}
		}
		if at+n == s.size {
			break
		}
		at += n - frameHeader // headers across the edge are seen whole in the next view
	}
	return end, nil
}

// findPromise looks for a frame header in b, at position at, that promises more than s.position.
func (s *scanner) findPromise(b []byte, at int64) error {
	for i := int64(0); i+frameHeader <= int64(len(b)); i += frameAlign {
		h := decodeFrame(b[i:])
		if h.promise > s.position && h.plausible(b[i:], at+i) && headerCRC(b[i:], s.seed, at+i) == h.crc {
			return &CorruptError{File: s.name, Position: s.position, Reason: fmt.Sprintf(
				"damaged frame, though the frame at position %d says that all below %d was synced", at+i, h.promise)}
		}
	}
	return nil
}
