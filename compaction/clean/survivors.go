package clean

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/firnlog/firn/compaction/duty"
)

// survivors is a set of records by their index in reading order: a bitmap where they are not too many, else a bitmap of a window of them at
// a time, and the indexes of each window in a scratch file. It is filled in any order and then asked in
// about ascending order: going back to another window costs reading it anew.
type survivors struct {
	window  []uint64 // bits of [first, first+size)
	first   uint64
	size    uint64 // of a window
	count   uint64 // of all indexes
	loaded  bool   // window is what it should be for first
	scratch duty.Scratch
	file    duty.File // nil where one window holds all
	windows []windowIndexes
}

// windowIndexes are the members of a window, from its start, 4 bytes each.
type windowIndexes struct {
	buf  []byte
	runs []run
}

const windowBufBytes = 16 << 10

// newSurvivors makes an empty set of indexes below count, with at most so many bytes of bitmap in memory.
func newSurvivors(count uint64, most int64, scratch duty.Scratch) (*survivors, error) {
	s := &survivors{count: count, scratch: scratch}
	s.size = min(uint64(max(most, 8))&^7*8, 1<<32)
	if count <= s.size {
		s.size = (count + 63) &^ 63
		s.window, s.loaded = make([]uint64, s.size/64), true
		return s, nil
	}
	f, err := scratch.Create()
	if err != nil {
		return nil, fmt.Errorf("key compaction: %w", err)
	}
	s.file = f
	s.windows = make([]windowIndexes, (count+s.size-1)/s.size)
	return s, nil
}

// set adds an index. Requires: nothing was asked yet, and i is below count.
func (s *survivors) set(i uint64) error {
	if s.file == nil {
		s.window[i/64] |= 1 << (i % 64)
		return nil
	}
	w := &s.windows[i/s.size]
	if w.buf == nil {
		w.buf = make([]byte, 0, windowBufBytes)
	}
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(i%s.size))
	if len(w.buf) < cap(w.buf) {
		return nil
	}
	return s.write(w)
}

func (s *survivors) write(w *windowIndexes) error {
	position := s.file.Size()
	if _, err := s.file.Write(w.buf); err != nil {
		return fmt.Errorf("key compaction: %w", err)
	}
	w.runs = append(w.runs, run{position, int64(len(w.buf))})
	w.buf = w.buf[:0]
	return nil
}

// load makes window that of index i.
func (s *survivors) load(i uint64) error {
	if s.loaded && i-s.first < s.size {
		return nil
	}
	if s.window == nil {
		s.window = make([]uint64, s.size/64)
	}
	clear(s.window)
	s.first, s.loaded = i/s.size*s.size, true
	w := &s.windows[i/s.size]
	set := func(b []byte) {
		for ; len(b) > 0; b = b[4:] {
			at := binary.BigEndian.Uint32(b)
			s.window[at/64] |= 1 << (at % 64)
		}
	}
	buf := make([]byte, windowBufBytes)
	for _, r := range w.runs {
		b := buf[:r.size]
		if err := readScratch(s.file, b, r.position); err != nil {
			return err
		}
		set(b)
	}
	set(w.buf)
	return nil
}

// among returns how many of the n indexes from i on are in the set.
func (s *survivors) among(i uint64, n int) (have int, err error) {
	for end := i + uint64(n); i < end; {
		if err := s.load(i); err != nil {
			return 0, err
		}
		// Word by word, within the window.
		at := i - s.first
		take := min(64-at%64, end-i)
		word := s.window[at/64] >> (at % 64)
		if take < 64 {
			word &= 1<<take - 1
		}
		have += bits.OnesCount64(word)
		i += take
	}
	return have, nil
}

// has reports whether i is in the set.
func (s *survivors) has(i uint64) (bool, error) {
	if err := s.load(i); err != nil {
		return false, err
	}
	at := i - s.first
	return s.window[at/64]>>(at%64)&1 != 0, nil
}

func (s *survivors) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}
