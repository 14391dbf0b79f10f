package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
)

// ValueBytesMin is the size in bytes of a value without filler.
const ValueBytesMin = 32

const valueMagic = "fvr1"

// ErrValue is wrapped by every error of ParseValue: the bytes are not a value that AppendValue makes.
var ErrValue = errors.New("not a record of this tool")

// Value is what a record of a run says about itself.
type Value struct {
	Run      uint64
	Number   uint32
	Producer uint32
	Key      uint32
	Counter  uint32
}

// AppendValue appends the encoding of v, size bytes long, to dst. Sizes below ValueBytesMin are raised to it.
func AppendValue(dst []byte, v Value, size int) []byte {
	start := len(dst)
	dst = append(dst, valueMagic...)
	dst = binary.BigEndian.AppendUint64(dst, v.Run)
	dst = binary.BigEndian.AppendUint32(dst, v.Number)
	dst = binary.BigEndian.AppendUint32(dst, v.Producer)
	dst = binary.BigEndian.AppendUint32(dst, v.Key)
	dst = binary.BigEndian.AppendUint32(dst, v.Counter)
	state := v.Run ^ uint64(v.Number)<<32
	for left := size - ValueBytesMin; left > 0; left -= 8 {
		var word [8]byte
		state, word = filler(state)
		dst = append(dst, word[:min(left, 8)]...)
	}
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], crc32.MakeTable(crc32.Castagnoli)))
}

// filler is one step of SplitMix64 (Steele, Lea, Flood 2014): incompressible, and derivable from the number alone.
func filler(state uint64) (next uint64, word [8]byte) {
	state += 0x9e3779b97f4a7c15
	z := state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	binary.LittleEndian.PutUint64(word[:], z^z>>31)
	return state, word
}

// ParseValue reads an encoding made by AppendValue, checksum included. Errors wrap ErrValue.
func ParseValue(b []byte) (Value, error) {
	if len(b) < ValueBytesMin {
		return Value{}, fmt.Errorf("%w: %d bytes, want at least %d", ErrValue, len(b), ValueBytesMin)
	}
	if string(b[:4]) != valueMagic {
		return Value{}, fmt.Errorf("%w: magic %q, want %q", ErrValue, b[:4], valueMagic)
	}
	body := b[:len(b)-4]
	want := binary.BigEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)); got != want {
		return Value{}, fmt.Errorf("%w: checksum %08x, want %08x", ErrValue, got, want)
	}
	return Value{
		Run:      binary.BigEndian.Uint64(b[4:]),
		Number:   binary.BigEndian.Uint32(b[12:]),
		Producer: binary.BigEndian.Uint32(b[16:]),
		Key:      binary.BigEndian.Uint32(b[20:]),
		Counter:  binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// Header is one record header.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record as a reader was shown it. Timestamp is in milliseconds since 1970.
type Record struct {
	Offset    int64
	Timestamp int64
	Key       []byte
	Value     []byte
	Headers   []Header
}

// BodyDigest identifies the key and value of a record, as sent and as read.
func BodyDigest(key, value []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	writeSized(&d, key)
	writeSized(&d, value)
	return d.Sum64()
}

// fullDigest identifies everything a reader sees of a record, which must never change once it has an offset.
func fullDigest(r Record) uint64 {
	var d xxhash.Digest
	d.Reset()
	writeSized(&d, r.Key)
	writeSized(&d, r.Value)
	writeWord(&d, uint64(r.Timestamp))
	for _, h := range r.Headers {
		writeSized(&d, []byte(h.Key))
		writeSized(&d, h.Value)
	}
	return d.Sum64()
}

// writeSized hashes a length before the bytes, so that moving a byte from key to value changes the digest.
func writeSized(d *xxhash.Digest, b []byte) {
	size := uint64(len(b))
	if b == nil {
		size = ^uint64(0)
	}
	writeWord(d, size)
	_, _ = d.Write(b) // a hash never fails
}

func writeWord(d *xxhash.Digest, v uint64) {
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], v)
	_, _ = d.Write(word[:])
}
