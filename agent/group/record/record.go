// Package record is how the records of groups are written and taken apart, whatever kind of group they are of: texts and blobs behind
// their length, numbers as varints, one byte of version in front. What stands in a record is said by the kinds of group
// (agent/group/classic, agent/group/consumer) and in docs/formats.md.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

var (
	// ErrCorrupt: the bytes are no record.
	ErrCorrupt = errors.New("corrupt group record")
	// ErrVersion: a newer firn has written the record.
	ErrVersion = errors.New("group record of a newer version")
)

// Version is the first byte of every record.
const Version = 1

// AppendText appends a text or blob behind its length.
func AppendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Reader takes a record apart; after the first error it returns zeros.
type Reader struct {
	b   []byte
	err error
}

// NewReader begins behind the version of record b, which nobody modifies: what is read may alias it.
func NewReader(b []byte) Reader {
	r := Reader{b: b}
	if v := r.Byte(); r.err == nil && v != Version {
		r.Fail()
		if v > Version {
			r.err = fmt.Errorf("%w: %d, this build reads %d", ErrVersion, v, Version)
		}
	}
	return r
}

// OK tells that nothing was wrong so far.
func (r *Reader) OK() bool { return r.err == nil }

// Fail says that the record is corrupt.
func (r *Reader) Fail() {
	if r.err == nil {
		r.err = ErrCorrupt
	}
	r.b = nil
}

// Bytes reads n bytes; nil where there are fewer.
func (r *Reader) Bytes(n int) []byte {
	if n > len(r.b) {
		r.Fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// Byte reads one byte.
func (r *Reader) Byte() byte {
	if b := r.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// Uvarint reads a number of at most limit.
func (r *Reader) Uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.Fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Int32 reads a number that is not negative.
func (r *Reader) Int32() int32 { return int32(r.Uvarint(math.MaxInt32)) }

// Varint reads a number of at least limit.
func (r *Reader) Varint(limit int32) int32 {
	v, n := binary.Varint(r.b)
	if n <= 0 || v < int64(limit) || v > math.MaxInt32 {
		r.Fail()
		return 0
	}
	r.b = r.b[n:]
	return int32(v)
}

// Millis reads a time in milliseconds.
func (r *Reader) Millis() time.Duration { return time.Duration(r.Int32()) * time.Millisecond }

// Count reads a number of things that take at least size bytes each.
func (r *Reader) Count(size int) int { return int(r.Uvarint(uint64(len(r.b) / size))) }

// Blob reads bytes behind their length.
func (r *Reader) Blob() []byte { return r.Bytes(r.Count(1)) }

// Text is Blob's, as a string.
func (r *Reader) Text() string { return string(r.Blob()) }

// End is nil where the record was read whole, without an error. what is named in the error.
func (r *Reader) End(what string) error {
	if r.err == nil && len(r.b) > 0 {
		r.Fail()
	}
	if r.err != nil {
		return fmt.Errorf("record of a %s: %w", what, r.err)
	}
	return nil
}
