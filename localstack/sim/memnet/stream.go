package memnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// stream is one direction of a connection.
type stream struct {
	mu      sync.Mutex // guards the rest; never held over a wait
	chunks  []chunk    // under way, in order. Invariant: times of arrival do not fall
	size    int        // bytes of chunks
	ended   bool       // no more will be written
	broken  error      // reads and writes fail
	refused error      // the writer's end was closed
	readBy  time.Time
	writeBy time.Time
	change  chan struct{} // closed and replaced whenever a waiter may have something to do
}

type chunk struct {
	at    time.Time // of arrival
	bytes []byte
}

func (s *stream) init() { s.change = make(chan struct{}) }

func (s *stream) wakeLocked() {
	close(s.change)
	s.change = make(chan struct{})
}

// fail breaks the stream; the first reason counts. What is under way is gone.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken, s.chunks, s.size = err, nil, 0
		s.wakeLocked()
	}
}

// end lets the reader read what is under way, and then io.EOF.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		s.wakeLocked()
	}
}

// refuse makes writes fail.
func (s *stream) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused == nil {
		s.refused = err
		s.wakeLocked()
	}
}

func (s *stream) setDeadline(t time.Time, which *time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	*which = t
	s.wakeLocked()
	return nil
}

// read takes what has arrived. held returns a channel while nothing may arrive.
func (s *stream) read(b []byte, held func() <-chan struct{}) (int, error) {
	for {
		stall := held()
		s.mu.Lock()
		now := time.Now()
		until := s.readBy
		switch {
		case s.broken != nil:
			err := s.broken
			s.mu.Unlock()
			return 0, err
		case !until.IsZero() && !now.Before(until):
			s.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case stall != nil:
		case len(s.chunks) > 0 && !s.chunks[0].at.After(now):
			n := s.takeLocked(b)
			s.mu.Unlock()
			return n, nil
		case len(s.chunks) > 0:
			if until.IsZero() || s.chunks[0].at.Before(until) {
				until = s.chunks[0].at
			}
		case s.ended:
			s.mu.Unlock()
			return 0, io.EOF
		}
		change := s.change
		s.mu.Unlock()
		wait(change, stall, until)
	}
}

func (s *stream) takeLocked(b []byte) int {
	c := &s.chunks[0]
	n := copy(b, c.bytes)
	c.bytes = c.bytes[n:]
	if len(c.bytes) == 0 {
		s.chunks = s.chunks[1:]
	}
	full := s.size >= bufferBytes
	s.size -= n
	if full {
		s.wakeLocked()
	}
	return n
}

// write puts b under way. It waits while the buffer is full.
func (s *stream) write(b []byte, at time.Time) (written int, err error) {
	for {
		s.mu.Lock()
		now := time.Now()
		until := s.writeBy
		switch {
		case s.refused != nil:
			err = s.refused
		case errors.Is(s.broken, net.ErrClosed): // by the reader
			err = syscall.EPIPE
		case s.broken != nil:
			err = s.broken
		case s.ended:
			err = errReset
		case !until.IsZero() && !now.Before(until):
			err = os.ErrDeadlineExceeded
		}
		room := bufferBytes - s.size
		if err == nil && room > 0 && len(b) > 0 {
			n := min(room, len(b))
			if k := len(s.chunks); k > 0 && at.Before(s.chunks[k-1].at) {
				at = s.chunks[k-1].at
			}
			s.chunks = append(s.chunks, chunk{at: at, bytes: append([]byte(nil), b[:n]...)})
			s.size += n
			b, written = b[n:], written+n
			s.wakeLocked()
		}
		change := s.change
		s.mu.Unlock()
		if err != nil || len(b) == 0 {
			return written, err
		}
		wait(change, nil, until)
	}
}

// wait returns at a change, at the end of a stall, or at a time, unless that is zero.
func wait(change, stall <-chan struct{}, until time.Time) {
	var due <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		due = t.C
	}
	select {
	case <-change:
	case <-stall:
	case <-due:
	}
}
