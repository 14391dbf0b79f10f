package batch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// HeaderSize is the size of a batch's header in bytes, and so of the smallest batch.
const HeaderSize = 61

const (
	lengthOverhead = 12 // what the batch length does not count: base offset and itself
	magic          = 2

	posLength          = 8
	posLeaderEpoch     = 12
	posMagic           = 16
	posCRC             = 17
	posAttributes      = 21 // where the CRC starts
	posLastOffsetDelta = 23
	posBaseTimestamp   = 27
	posMaxTimestamp    = 35
	posProducerID      = 43
	posProducerEpoch   = 51
	posBaseSequence    = 53
	posRecordCount     = 57

	attrCodec         = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
	attrDeleteHorizon = 0x40
)

// NoTimestamp is the timestamp of a record that has none.
const NoTimestamp = -1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is the fixed part of a batch; the package documentation gives the fields' meaning.
type Header struct {
	BaseOffset      int64
	Length          int32 // the batch length field: the batch's size less 12
	LeaderEpoch     int32
	Magic           int8
	CRC             uint32
	Attributes      int16
	LastOffsetDelta int32
	BaseTimestamp   int64 // ms
	MaxTimestamp    int64 // ms
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
	RecordCount     int32
}

// ParseHeader reads the header at the start of b, which may go on past the batch. It checks the magic and that the
// length is at least a header's, not the CRC. Errors: ErrTruncated, ErrUnsupportedMagic, ErrCorrupt.
func ParseHeader(b []byte) (Header, error) {
	// Older formats are told apart first: their messages can be shorter than our header.
	if len(b) > posMagic && b[posMagic] != magic {
		return Header{}, fmt.Errorf("magic %d: %w", int8(b[posMagic]), ErrUnsupportedMagic)
	}
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("%d bytes where a header needs %d: %w", len(b), HeaderSize, ErrTruncated)
	}
	h := Header{
		BaseOffset:      int64(binary.BigEndian.Uint64(b)),
		Length:          int32(binary.BigEndian.Uint32(b[posLength:])),
		LeaderEpoch:     int32(binary.BigEndian.Uint32(b[posLeaderEpoch:])),
		Magic:           int8(b[posMagic]),
		CRC:             binary.BigEndian.Uint32(b[posCRC:]),
		Attributes:      int16(binary.BigEndian.Uint16(b[posAttributes:])),
		LastOffsetDelta: int32(binary.BigEndian.Uint32(b[posLastOffsetDelta:])),
		BaseTimestamp:   int64(binary.BigEndian.Uint64(b[posBaseTimestamp:])),
		MaxTimestamp:    int64(binary.BigEndian.Uint64(b[posMaxTimestamp:])),
		ProducerID:      int64(binary.BigEndian.Uint64(b[posProducerID:])),
		ProducerEpoch:   int16(binary.BigEndian.Uint16(b[posProducerEpoch:])),
		BaseSequence:    int32(binary.BigEndian.Uint32(b[posBaseSequence:])),
		RecordCount:     int32(binary.BigEndian.Uint32(b[posRecordCount:])),
	}
	if h.Length < HeaderSize-lengthOverhead || h.Length > math.MaxInt32-lengthOverhead {
		return Header{}, fmt.Errorf("batch length %d: %w", h.Length, ErrCorrupt)
	}
	return h, nil
}

// Size returns the size of the whole batch in bytes.
func (h Header) Size() int { return lengthOverhead + int(h.Length) }

// Codec returns the compression of the records, which may be one that Valid refuses.
func (h Header) Codec() Codec { return Codec(h.Attributes & attrCodec) }

// Transactional reports whether the batch belongs to a transaction.
func (h Header) Transactional() bool { return h.Attributes&attrTransactional != 0 }

// Control reports whether the batch holds transaction markers rather than records of clients.
func (h Header) Control() bool { return h.Attributes&attrControl != 0 }

// LogAppendTime reports whether MaxTimestamp is the append time and stands for the timestamp of every record.
func (h Header) LogAppendTime() bool { return h.Attributes&attrLogAppendTime != 0 }

// DeleteHorizon returns the log time (ms) from which on the batch's tombstones may go, false where no cleaner has set it. It
// stands in the base timestamp's place, and the records' deltas count from it.
func (h Header) DeleteHorizon() (int64, bool) {
	return h.BaseTimestamp, h.Attributes&attrDeleteHorizon != 0
}

// Idempotent reports whether the batch names a producer id.
func (h Header) Idempotent() bool { return h.ProducerID >= 0 }

// Span returns how many offsets the batch takes, which key compaction makes more than its records.
func (h Header) Span() int64 { return int64(h.LastOffsetDelta) + 1 }

// LastSequence returns the sequence of the batch's last offset, -1 where it has none. Sequences wrap to 0 after 2^31-1.
func (h Header) LastSequence() int32 {
	if h.BaseSequence < 0 {
		return -1
	}
	return int32((int64(h.BaseSequence) + int64(h.LastOffsetDelta)) & math.MaxInt32)
}

// VerifyCRC checks the CRC of b, which must be exactly one batch of at least a header. Errors: ErrTruncated, ErrCorrupt.
func VerifyCRC(b []byte) error {
	if len(b) < HeaderSize {
		return fmt.Errorf("%d bytes where a header needs %d: %w", len(b), HeaderSize, ErrTruncated)
	}
	want := binary.BigEndian.Uint32(b[posCRC:])
	if got := crc32.Checksum(b[posAttributes:], castagnoli); got != want {
		return fmt.Errorf("CRC32C %08x, stored %08x: %w", got, want, ErrCorrupt)
	}
	return nil
}
