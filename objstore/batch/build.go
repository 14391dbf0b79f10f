package batch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// Producer is the idempotent identity and position of a batch.
type Producer struct {
	ID           int64
	Epoch        int16
	BaseSequence int32
}

// BuildOptions describe a batch; the zero value is a plain, uncompressed one at offset 0.
type BuildOptions struct {
	BaseOffset    int64
	Codec         Codec
	Xerial        bool      // snappy in the framing of Java clients, blocks of 32 KiB; else one raw block
	Producer      *Producer // nil: not idempotent
	Transactional bool
	LogAppendTime bool // MaxTimestamp is AppendTime and records keep their own timestamps inside
	AppendTime    int64
}

// HeaderPair is one record header to build; a nil Value is null.
type HeaderPair struct {
	Key   string
	Value []byte
}

// Builder makes batches, for tools, the simulator and tests; producers' batches are never rebuilt. It is reused after
// Build; not safe for concurrent use.
type Builder struct {
	opts          BuildOptions
	records       []byte
	body          []byte
	count         int32
	baseTimestamp int64
	maxTimestamp  int64
	encoders      encoders
}

// NewBuilder returns an empty Builder.
func NewBuilder(opts BuildOptions) *Builder {
	return &Builder{opts: opts}
}

// Reset drops what was added and takes new options.
func (b *Builder) Reset(opts BuildOptions) {
	*b = Builder{opts: opts, records: b.records[:0], body: b.body, encoders: b.encoders}
}

// Len returns the number of records added.
func (b *Builder) Len() int { return int(b.count) }

// Add appends a record. timestamp is in ms; nil key and value are null. The slices are not kept.
func (b *Builder) Add(timestamp int64, key, value []byte, headers ...HeaderPair) {
	if b.count == 0 {
		b.baseTimestamp, b.maxTimestamp = timestamp, timestamp
	}
	b.maxTimestamp = max(b.maxTimestamp, timestamp)
	body := append(b.body[:0], 0)
	body = binary.AppendVarint(body, timestamp-b.baseTimestamp)
	body = binary.AppendVarint(body, int64(b.count))
	body = appendField(body, key)
	body = appendField(body, value)
	body = binary.AppendVarint(body, int64(len(headers)))
	for _, h := range headers {
		body = binary.AppendVarint(body, int64(len(h.Key)))
		body = append(body, h.Key...)
		body = appendField(body, h.Value)
	}
	b.records = binary.AppendVarint(b.records, int64(len(body)))
	b.records = append(b.records, body...)
	b.body = body
	b.count++
}

func appendField(dst, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(v))), v...)
}

// Build appends the batch to dst and forgets the records, keeping the options.
// It fails without records, with an unknown codec, and past the 2 GiB that a batch can be.
func (b *Builder) Build(dst []byte) ([]byte, error) {
	if b.count == 0 {
		return nil, fmt.Errorf("build: no records: %w", ErrInvalidRecord)
	}
	start := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	dst, err := b.encoders.compress(dst, b.opts.Codec, b.opts.Xerial, b.records)
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	raw := dst[start:]
	if len(raw) > math.MaxInt32 {
		return nil, fmt.Errorf("build: %d bytes: %w", len(raw), ErrTooLarge)
	}
	h := Header{
		BaseOffset: b.opts.BaseOffset, Length: int32(len(raw) - lengthOverhead), LeaderEpoch: -1, Magic: magic,
		Attributes: int16(b.opts.Codec), LastOffsetDelta: b.count - 1, RecordCount: b.count,
		BaseTimestamp: b.baseTimestamp, MaxTimestamp: b.maxTimestamp,
		ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1,
	}
	if b.opts.Transactional {
		h.Attributes |= attrTransactional
	}
	if b.opts.LogAppendTime {
		h.Attributes |= attrLogAppendTime
		h.MaxTimestamp = b.opts.AppendTime
	}
	if p := b.opts.Producer; p != nil {
		h.ProducerID, h.ProducerEpoch, h.BaseSequence = p.ID, p.Epoch, p.BaseSequence
	}
	h.put(raw)
	binary.BigEndian.PutUint32(raw[posCRC:], crc32.Checksum(raw[posAttributes:], castagnoli))
	b.Reset(b.opts)
	return dst, nil
}

// AppendEmpty appends a batch that has offsets and no records, as key compaction leaves where it may not leave nothing. Of h its length,
// magic, CRC, codec and record count are filled in.
func AppendEmpty(dst []byte, h Header) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	h.Length, h.Magic, h.RecordCount = HeaderSize-lengthOverhead, magic, 0
	h.Attributes &^= attrCodec
	raw := dst[start:]
	h.put(raw)
	binary.BigEndian.PutUint32(raw[posCRC:], crc32.Checksum(raw[posAttributes:], castagnoli))
	return dst
}

// put writes all fields.
func (h Header) put(b []byte) {
	_ = b[HeaderSize-1]
	binary.BigEndian.PutUint64(b, uint64(h.BaseOffset))
	binary.BigEndian.PutUint32(b[posLength:], uint32(h.Length))
	binary.BigEndian.PutUint32(b[posLeaderEpoch:], uint32(h.LeaderEpoch))
	b[posMagic] = byte(h.Magic)
	binary.BigEndian.PutUint32(b[posCRC:], h.CRC)
	binary.BigEndian.PutUint16(b[posAttributes:], uint16(h.Attributes))
	binary.BigEndian.PutUint32(b[posLastOffsetDelta:], uint32(h.LastOffsetDelta))
	binary.BigEndian.PutUint64(b[posBaseTimestamp:], uint64(h.BaseTimestamp))
	binary.BigEndian.PutUint64(b[posMaxTimestamp:], uint64(h.MaxTimestamp))
	binary.BigEndian.PutUint64(b[posProducerID:], uint64(h.ProducerID))
	binary.BigEndian.PutUint16(b[posProducerEpoch:], uint16(h.ProducerEpoch))
	binary.BigEndian.PutUint32(b[posBaseSequence:], uint32(h.BaseSequence))
	binary.BigEndian.PutUint32(b[posRecordCount:], uint32(h.RecordCount))
}
