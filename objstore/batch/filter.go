package batch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// Filter rewrites stored batches with fewer records, for key compaction. It keeps its coders and buffers between batches; not
// safe for concurrent use. Beside what a Validator holds it holds a batch's records once decompressed, so at most
// Limits.MaxDecompressedBytes, twice, and the result; buffers beyond 4 MiB are dropped with the batch that needed them.
//
// What becomes of a batch is what Kafka's cleaner makes of it:
//
//   - Base offset, last offset delta, leader epoch, producer id and epoch, base sequence, codec and the other attributes stay.
//     So the offsets and sequences that the batch stands for are the same as before, and readers go on behind it as before.
//   - Records keep offset, timestamp, key, value and headers.
//   - Record count, length and CRC are new. The max timestamp is that of the records that are left, or the append time still
//     where the batch has one. The base timestamp is the first record's that is left.
//   - Where a tombstone is left and the batch has no delete horizon it gets one (KIP-534): attribute bit 6 is set and the base
//     timestamp is the horizon, from which the records' timestamps then count. A horizon that is there stays as it is.
//   - A batch of which every record is left, and that gets no horizon, is not touched. One without records is gone.
//
// One thing is not as in Kafka: a batch that another base timestamp would make longer than Limits.MaxDecompressedBytes once decompressed
// keeps its own, and gets no horizon. Its tombstones stay until they are superseded.
type Filter struct {
	v        *Validator
	encoders encoders
	kept     []keptRecord
	tails    []byte // of the records kept, from the key on
	records  []byte // encoded
	out      []byte
}

type keptRecord struct {
	timestamp  int64
	delta      int32 // of the offset
	end        int   // in tails
	attributes int8
}

// Filtered is what became of a batch.
type Filtered struct {
	// Raw is the batch to store: the one that went in where Untouched, nil where Records is 0, and else valid until the next Rewrite.
	Raw       []byte
	Header    Header // of Raw; the zero Header where Records is 0
	Records   int32  // that are left
	Untouched bool
}

// NewFilter returns a Filter.
func NewFilter() *Filter { return &Filter{v: NewValidator()} }

// Rewrite makes a batch of those records for which keep is true, in the order of the batch. horizon (ms) is the delete horizon for
// a batch that has none and is left with a tombstone. raw must be exactly one batch, neither transactional nor control, and its CRC
// is the caller's to check; it is not changed. Of lim only MaxDecompressedBytes counts. The Record's slices are valid until keep returns.
// Errors: those of Validator.Walk; ErrInvalidRecord for a transactional or control batch.
func (f *Filter) Rewrite(raw []byte, lim Limits, horizon int64, keep func(Record) bool) (Filtered, error) {
	h, err := ParseHeader(raw)
	if err != nil {
		return Filtered{}, err
	}
	if h.Transactional() || h.Control() {
		return Filtered{}, fmt.Errorf("attributes %#x of a transaction: %w", uint16(h.Attributes), ErrInvalidRecord)
	}
	defer f.release()
	tombstone := false
	lowest, highest := int64(math.MaxInt64), int64(math.MinInt64)
	if err := f.v.Walk(raw, lim, func(r Record) error {
		if !keep(r) {
			return nil
		}
		tombstone = tombstone || r.Value == nil
		lowest, highest = min(lowest, r.Timestamp), max(highest, r.Timestamp)
		f.tails = append(f.tails, r.tail...)
		f.kept = append(f.kept, keptRecord{timestamp: r.Timestamp, delta: r.OffsetDelta, end: len(f.tails), attributes: r.Attributes})
		return nil
	}); err != nil {
		return Filtered{}, err
	}
	_, has := h.DeleteHorizon()
	sets := tombstone && !has
	switch {
	case len(f.kept) == 0:
		return Filtered{}, nil
	case len(f.kept) == int(h.RecordCount) && !sets:
		return Filtered{Raw: raw, Header: h, Records: h.RecordCount, Untouched: true}, nil
	}

	was := h
	if sets {
		h.Attributes |= attrDeleteHorizon
		h.BaseTimestamp = horizon
	} else if !has {
		h.BaseTimestamp = f.kept[0].timestamp
	}
	// Differences of timestamps fit 64 bits but for ones of hundreds of millions of years. Then the base gives way.
	if lowest < 0 {
		h.BaseTimestamp = min(h.BaseTimestamp, lowest-math.MinInt64)
	}
	if highest > 0 {
		h.BaseTimestamp = max(h.BaseTimestamp, highest-math.MaxInt64)
	}
	if !h.LogAppendTime() {
		h.MaxTimestamp = highest
	}
	h.RecordCount = int32(len(f.kept))

	f.encode(h.BaseTimestamp)
	if int64(len(f.records)) > lim.withDefaults().MaxDecompressedBytes {
		// Longer timestamps would make a batch that nobody can read again out of one that was just small enough. With its own base it
		// cannot grow.
		if len(f.kept) == int(was.RecordCount) {
			return Filtered{Raw: raw, Header: was, Records: was.RecordCount, Untouched: true}, nil
		}
		h.Attributes, h.BaseTimestamp = was.Attributes, was.BaseTimestamp
		f.encode(h.BaseTimestamp)
	}
	f.out = append(f.out[:0], make([]byte, HeaderSize)...)
	xerial := h.Codec() == CodecSnappy && isXerial(raw[HeaderSize:])
	if f.out, err = f.encoders.compress(f.out, h.Codec(), xerial, f.records); err != nil {
		return Filtered{}, fmt.Errorf("rewrite: %w", err)
	}
	if len(f.out) > math.MaxInt32 {
		return Filtered{}, fmt.Errorf("rewrite: %d bytes: %w", len(f.out), ErrTooLarge)
	}
	h.Length = int32(len(f.out) - lengthOverhead)
	h.put(f.out)
	h.CRC = crc32.Checksum(f.out[posAttributes:], castagnoli)
	binary.BigEndian.PutUint32(f.out[posCRC:], h.CRC)
	return Filtered{Raw: f.out, Header: h, Records: h.RecordCount}, nil
}

// encode writes the records kept, with timestamps from base.
func (f *Filter) encode(base int64) {
	f.records = f.records[:0]
	start := 0
	for i := range f.kept {
		k := &f.kept[i]
		tail := f.tails[start:k.end]
		start = k.end
		var head [1 + maxVarint64 + maxVarint32]byte
		head[0] = byte(k.attributes)
		n := 1 + binary.PutVarint(head[1:], k.timestamp-base)
		n += binary.PutVarint(head[n:], int64(k.delta))
		f.records = binary.AppendVarint(f.records, int64(n+len(tail)))
		f.records = append(f.records, head[:n]...)
		f.records = append(f.records, tail...)
	}
}

// release lets go of the batch and of buffers that only a rare batch needs. The result's stays: it is the caller's until the next.
func (f *Filter) release() {
	f.kept, f.tails = f.kept[:0], f.tails[:0]
	if cap(f.tails) > retainMax {
		f.tails = nil
	}
	if cap(f.records) > retainMax {
		f.records = nil
	}
	if cap(f.kept) > retainMax/32 {
		f.kept = nil
	}
	if cap(f.out) > retainMax {
		f.out = nil // the caller has it
	}
}
