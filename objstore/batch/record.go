package batch

import (
	"encoding/binary"
	"iter"
	"math"
)

// Record is one record of a batch. Key, Value and Headers alias memory that the next record overwrites.
type Record struct {
	Attributes  int8   // unused by the format
	OffsetDelta int32  // from the batch's base offset
	Timestamp   int64  // ms; the batch's max timestamp where the batch is LogAppendTime; NoTimestamp: none
	Key         []byte // nil: null
	Value       []byte // nil: null
	Headers     Headers

	tail []byte // encoded, from the key on
}

// Headers are a record's headers, still encoded and known to be well formed.
type Headers struct {
	count int32
	raw   []byte
}

// Len returns the number of headers.
func (h Headers) Len() int { return int(h.count) }

// Raw returns the encoded headers without their count.
func (h Headers) Raw() []byte { return h.raw }

// All iterates over keys and values; a nil value is null.
func (h Headers) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		at := 0
		for range h.count {
			var key, value []byte
			key, at = field(h.raw, at)
			if at < 0 {
				return
			}
			value, at = field(h.raw, at)
			if at < 0 || !yield(key, value) {
				return
			}
		}
	}
}

// Why a record is refused; Reason of a RecordError.
const (
	whyLength    = "length runs past the batch"
	whyVarint    = "malformed varint"
	whyField     = "key or value runs past the record"
	whyHeaders   = "header count is impossible"
	whyHeader    = "malformed header"
	whyTrailing  = "bytes left over at the end of the record"
	whyTimestamp = "timestamp overflows"
)

// parse reads a record's body, everything after its length, and returns in words what is wrong with it.
func (r *Record) parse(body []byte, baseTimestamp int64) (why string) {
	if len(body) == 0 {
		return whyTrailing
	}
	r.Attributes = int8(body[0])
	delta, at := varint64(body, 1)
	if at < 0 {
		return whyVarint
	}
	if r.OffsetDelta, at = varint32(body, at); at < 0 {
		return whyVarint
	}
	if r.Timestamp = baseTimestamp + delta; (r.Timestamp > baseTimestamp) != (delta > 0) {
		return whyTimestamp
	}
	r.tail = body[at:]
	if r.Key, at = field(body, at); at < 0 {
		return whyField
	}
	if r.Value, at = field(body, at); at < 0 {
		return whyField
	}
	var count int32
	if count, at = varint32(body, at); at < 0 {
		return whyVarint
	}
	// A header is at least two bytes.
	if count < 0 || int(count) > (len(body)-at)/2 {
		return whyHeaders
	}
	start := at
	for range count {
		var key []byte
		if key, at = field(body, at); at < 0 || key == nil {
			return whyHeader
		}
		if _, at = field(body, at); at < 0 {
			return whyHeader
		}
	}
	if at != len(body) {
		return whyTrailing
	}
	r.Headers = Headers{count: count, raw: body[start:at:at]}
	return ""
}

// field reads a varint length and as many bytes at position at; nil for length -1. next < 0: malformed.
func field(b []byte, at int) (value []byte, next int) {
	n, at := varint32(b, at)
	switch {
	case at < 0 || n < -1 || int(n) > len(b)-at:
		return nil, -1
	case n == -1:
		return nil, at
	}
	end := at + int(n)
	return b[at:end:end], end
}

// varint32 reads a zigzag varint of at most 5 bytes at position at. next < 0: malformed. Encodings that are longer than
// they need to be are fine, as for Kafka; ones that overflow are not, because readers disagree on what they mean.
func varint32(b []byte, at int) (v int32, next int) {
	if uint(at) < uint(len(b)) && b[at] < 0x80 {
		u := uint32(b[at])
		return int32(u>>1) ^ -int32(u&1), at + 1
	}
	if at > len(b) {
		return 0, -1
	}
	u, n := binary.Uvarint(b[at:])
	if n <= 0 || n > binary.MaxVarintLen32 || u > math.MaxUint32 {
		return 0, -1
	}
	return int32(uint32(u)>>1) ^ -int32(u&1), at + n
}

// varint64 is varint32 for 64 bits and 10 bytes.
func varint64(b []byte, at int) (v int64, next int) {
	if at > len(b) {
		return 0, -1
	}
	v, n := binary.Varint(b[at:])
	if n <= 0 {
		return 0, -1
	}
	return v, at + n
}
