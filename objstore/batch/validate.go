package batch

import (
	"encoding/binary"
	"fmt"
	"math"
)

const (
	maxVarint32 = binary.MaxVarintLen32
	maxVarint64 = binary.MaxVarintLen64
)

// Bounds that stand where Limits give none.
const (
	DefaultMaxBatchBytes        = 1<<20 + lengthOverhead // Kafka's default for max.message.bytes
	DefaultMaxDecompressedBytes = 64 << 20
	DefaultMaxRecords           = 1 << 20
)

// TimestampType is a topic's message.timestamp.type.
type TimestampType int8

// The timestamp types.
const (
	CreateTime TimestampType = iota
	LogAppendTime
)

// Limits are what a topic allows in a batch. Zero bounds stand for the defaults; the zero value is a topic of default
// settings without bounds on timestamps.
type Limits struct {
	MaxBatchBytes        int32 // size of the whole batch; max.message.bytes
	MaxDecompressedBytes int64 // size of the records once decompressed
	MaxRecords           int32
	// MaxRecordBytes bounds each record of a compressed batch, once decompressed; max.decompressed.message.bytes. 0: no bound.
	MaxRecordBytes int32

	TimestampType TimestampType
	// Now is the caller's clock in ms. 0: timestamps are not bounded. Otherwise, and where TimestampType is CreateTime,
	// a record's timestamp must lie within [Now-TimestampBeforeMax, Now+TimestampAfterMax] or be NoTimestamp.
	Now                int64
	TimestampBeforeMax int64 // ms; message.timestamp.before.max.ms
	TimestampAfterMax  int64 // ms; message.timestamp.after.max.ms

	RequireKeys bool // cleanup.policy holds compact
}

func (l Limits) withDefaults() Limits {
	if l.MaxBatchBytes <= 0 {
		l.MaxBatchBytes = DefaultMaxBatchBytes
	}
	if l.MaxDecompressedBytes <= 0 {
		l.MaxDecompressedBytes = DefaultMaxDecompressedBytes
	}
	if l.MaxRecords <= 0 {
		l.MaxRecords = DefaultMaxRecords
	}
	return l
}

// timestampBounds returns the inclusive range of timestamps, saturating where it would overflow.
func (l Limits) timestampBounds() (lo, hi int64) {
	lo, hi = math.MinInt64, math.MaxInt64
	if l.Now == 0 || l.TimestampType != CreateTime {
		return lo, hi
	}
	if v := l.Now - l.TimestampBeforeMax; v <= l.Now {
		lo = v
	}
	if v := l.Now + l.TimestampAfterMax; v >= l.Now {
		hi = v
	}
	return lo, hi
}

// Validator checks and walks batches. It keeps its decoders and buffers between batches, so pool it; not safe for
// concurrent use. The package documentation says what it holds at most.
type Validator struct {
	codecs       codecs
	decompressed int64 // of the last batch validated
	stream       stream
	record       Record
	// maxRecord bounds the next record; 0: not.
	maxRecord int
}

// NewValidator returns a Validator. Decoders are made when a batch first needs them.
func NewValidator() *Validator { return &Validator{} }

// Validate checks that raw is exactly one batch that a client may append under lim: see the package documentation for
// the rules. The header it returns is the one in raw except for MaxTimestamp, which is the true one of the records
// (NoTimestamp where none has one). raw is neither changed nor kept.
// Errors: ErrCorrupt, ErrTruncated, ErrTooLarge, ErrInvalidRecord, ErrTimestamp, ErrUnsupportedCodec,
// ErrUnsupportedMagic; a *RecordError where a record is malformed, RecordErrors where well-formed ones break a rule.
func (v *Validator) Validate(raw []byte, lim Limits) (Header, error) {
	lim = lim.withDefaults()
	v.decompressed = 0
	h, err := ParseHeader(raw)
	if err != nil {
		return Header{}, err
	}
	if err := checkHeader(h, raw, lim); err != nil {
		return Header{}, err
	}
	defer v.release()
	if err := v.codecs.open(&v.stream, h.Codec(), raw[HeaderSize:], decompressedMax(len(raw)-HeaderSize, lim.MaxDecompressedBytes)); err != nil {
		return Header{}, err
	}
	maxTimestamp := int64(NoTimestamp)
	lo, hi := lim.timestampBounds()
	v.maxRecord = 0
	if h.Codec() != CodecNone {
		v.maxRecord = int(lim.MaxRecordBytes)
	}
	var broken RecordErrors
	for i := range h.RecordCount {
		why, err := v.next(h.BaseTimestamp, false)
		if err != nil {
			return Header{}, err
		}
		r := &v.record
		if why == "" && r.OffsetDelta != i {
			why = "offset delta is not its position"
		}
		if why != "" {
			return Header{}, &RecordError{Index: int(i), Reason: why, Err: ErrInvalidRecord}
		}
		switch {
		case len(broken) == MaxRecordErrors:
		case lim.RequireKeys && r.Key == nil:
			broken = append(broken, &RecordError{Index: int(i), Reason: "compacted topics need keys", Err: ErrInvalidRecord})
		case (r.Timestamp < lo || r.Timestamp > hi) && r.Timestamp != NoTimestamp:
			broken = append(broken, &RecordError{Index: int(i), Err: ErrTimestamp,
				Reason: fmt.Sprintf("timestamp %d outside [%d, %d]", r.Timestamp, lo, hi)})
		}
		maxTimestamp = max(maxTimestamp, r.Timestamp)
	}
	if err := v.finish(); err != nil {
		return Header{}, err
	}
	if len(broken) > 0 {
		return Header{}, broken
	}
	h.MaxTimestamp = maxTimestamp
	return h, nil
}

// checkHeader holds the batch as a whole to the rules, cheap ones first.
func checkHeader(h Header, raw []byte, lim Limits) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, ErrInvalidRecord)...)
	}
	switch {
	case h.Size() > len(raw):
		return fmt.Errorf("batch of %d bytes in %d: %w", h.Size(), len(raw), ErrTruncated)
	case h.Size() < len(raw):
		return refuse("%d bytes after the only batch", len(raw)-h.Size())
	case h.BaseOffset != 0:
		return refuse("base offset %d", h.BaseOffset)
	case h.Size() > int(lim.MaxBatchBytes):
		return fmt.Errorf("batch of %d bytes, %d allowed: %w", h.Size(), lim.MaxBatchBytes, ErrTooLarge)
	}
	if err := VerifyCRC(raw); err != nil {
		return err
	}
	switch {
	case !h.Codec().Valid():
		return fmt.Errorf("%s: %w", h.Codec(), ErrUnsupportedCodec)
	case h.Control():
		return refuse("control batch from a client")
	case h.Attributes&attrDeleteHorizon != 0:
		return refuse("delete horizon from a client")
	case h.LogAppendTime():
		return fmt.Errorf("batch marked LogAppendTime by a client: %w", ErrTimestamp)
	case h.RecordCount <= 0:
		return refuse("record count %d", h.RecordCount)
	case int64(h.RecordCount) != h.Span():
		return refuse("record count %d, last offset delta %d", h.RecordCount, h.LastOffsetDelta)
	case h.RecordCount > lim.MaxRecords:
		return fmt.Errorf("%d records, %d allowed: %w", h.RecordCount, lim.MaxRecords, ErrTooLarge)
	case h.Idempotent() && h.BaseSequence < 0:
		return refuse("producer id %d with base sequence %d", h.ProducerID, h.BaseSequence)
	case h.Idempotent() && h.ProducerEpoch < 0:
		return refuse("producer id %d with producer epoch %d", h.ProducerID, h.ProducerEpoch)
	case h.Transactional() && !h.Idempotent():
		return refuse("transactional batch without a producer id")
	}
	return nil
}

// next reads a record into v.record and returns in words what is wrong with it. Records beyond the window are skipped
// through it unless whole is set. err is of the codec or of a bound.
func (v *Validator) next(baseTimestamp int64, whole bool) (why string, err error) {
	s := &v.stream
	n, ok, err := s.length()
	if err != nil {
		return "", err
	}
	if !ok {
		return whyLength, nil
	}
	if v.maxRecord > 0 && n > v.maxRecord {
		return fmt.Sprintf("%d bytes once decompressed, %d allowed", n, v.maxRecord), nil
	}
	if n > windowSize && !whole && n > s.end-s.pos {
		return s.skipRecord(&v.record, baseTimestamp, n)
	}
	b, err := s.peek(n)
	if err != nil {
		return "", err
	}
	if len(b) < n {
		return whyLength, nil
	}
	why = v.record.parse(b[:n:n], baseTimestamp)
	s.pos += n
	return why, nil
}

// finish checks that nothing follows the last record. Reading to the end also has the codec check its own trailer.
func (v *Validator) finish() error {
	b, err := v.stream.peek(1)
	if err != nil {
		return err
	}
	if len(b) > 0 {
		return fmt.Errorf("bytes left over after the last record: %w", ErrInvalidRecord)
	}
	return nil
}

// Decompressed is how many bytes came out of the last batch that was validated; 0 where it was not compressed.
func (v *Validator) Decompressed() int64 { return v.decompressed }

func (v *Validator) release() {
	switch s := &v.stream; {
	case s.codec == CodecNone:
	case s.r != nil:
		v.decompressed = s.total
	default:
		v.decompressed = int64(len(s.buf))
	}
	v.record, v.maxRecord = Record{}, 0
	v.codecs.close(&v.stream)
}
