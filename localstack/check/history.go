package check

import (
	"fmt"
	"math"
	"sync"
)

// Config sizes a history.
type Config struct {
	Run        uint64 // identifies the run in every value
	Partitions int    // number of partitions over all topics; partitions are named 0..Partitions-1
	RecordsMax int    // most records that may be sent; bounds memory
	Policy     Policy // what may go; the zero value: nothing
}

// Validate reports the first setting out of range.
func (c Config) Validate() error {
	switch {
	case c.Partitions < 1 || c.Partitions > 1<<20:
		return fmt.Errorf("partitions %d: want 1 to %d", c.Partitions, 1<<20)
	case c.RecordsMax < 1 || c.RecordsMax > math.MaxUint32-1:
		return fmt.Errorf("records max %d: want 1 to %d", c.RecordsMax, math.MaxUint32-1)
	case c.Policy.RetentionMS < 0 || c.Policy.DeleteRetentionMS < 0 || c.Policy.SlackMS < 0:
		return fmt.Errorf("policy %+v: no time may be negative", c.Policy)
	}
	return nil
}

type outcome uint8

const (
	unsent  outcome = iota // assigned at most
	pending                // sent; at Finish this counts as unknown
	acked
	failed
	unknown
)

// sentRecord is what is kept of a record sent.
type sentRecord struct {
	body      uint64 // BodyDigest of what was sent
	ackOffset int64
	partition uint32
	producer  uint32
	outcome   outcome
	attempts  uint8 // saturates
	copies    uint8 // distinct offsets it was read at; saturates
	ordered   bool  // Finish has judged its order
}

// slot is what is kept of an offset read.
type slot struct {
	full   uint64 // fullDigest of the first showing
	number uint32 // number of the record it holds, or noNumber
	broker int16  // who showed it first, cut to 16 bits: only compared for "another one"
	known  bool
}

const noNumber = math.MaxUint32

const chunkLen = 4096

// partitionLog is what is known of one partition.
type partitionLog struct {
	chunks []*[chunkLen]slot // by offset / chunkLen; nil where nothing was read
	end    int64             // one past the highest offset read
	// floor is the least a listing of the end asked from now on may answer. Invariant: only rises.
	floor int64
	// fetched holds, by broker, the highest high watermark of a finished fetch. Invariant: each only rises.
	fetched map[int32]int64
	// start is the highest log start that a reader went on from. skipped holds, by offset, when a reader was first shown what
	// lies behind an offset instead of it. Both stay empty where no policy lets anything go.
	start   int64
	starts  []startTold
	skipped map[int64]int64
}

// History collects a run. All methods may be called concurrently; Finish is called last, and once.
type History struct {
	cfg Config

	mu         sync.Mutex // guards everything below; held for arithmetic only
	assigned   uint32
	sent       []*[chunkLen]sentRecord
	kept       []*[chunkLen]keptRecord // beside sent, where there is a policy
	parts      []partitionLog
	chunksLeft int // slot chunks that may still be allocated
	ops        Ops
	read       int
	offsets    int
	reread     int
	counts     [kinds]int
	findings   [kinds][]Finding
}

// New returns an empty history. The error is Config.Validate's.
func New(cfg Config) (*History, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &History{
		cfg:   cfg,
		parts: make([]partitionLog, cfg.Partitions),
		// Twice what dense logs need, so that a retried send fits; a broker that makes up offsets runs out.
		chunksLeft: 2*(cfg.RecordsMax/chunkLen) + 2*cfg.Partitions,
	}, nil
}

// Run identifies the run in every value.
func (h *History) Run() uint64 { return h.cfg.Run }

// Assign gives out the next record number; ok is false once RecordsMax numbers are out.
func (h *History) Assign() (number uint32, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if int(h.assigned) >= h.cfg.RecordsMax {
		return 0, false
	}
	number = h.assigned
	h.assigned++
	if int(number/chunkLen) == len(h.sent) {
		h.sent = append(h.sent, new([chunkLen]sentRecord))
		if h.cfg.Policy.any() {
			h.kept = append(h.kept, new([chunkLen]keptRecord))
		}
	}
	return number, true
}

// Send notes that a producer is about to send record number to partition. body is BodyDigest of its key and value.
//
// Requires: number came from Assign and is sent once; a producer sends its numbers in rising order.
func (h *History) Send(number, producer uint32, partition int, body uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.recordLocked(number)
	if r == nil || r.outcome != unsent {
		panic(fmt.Sprintf("check: Send(%d): not assigned, or sent before", number))
	}
	*r = sentRecord{body: body, partition: uint32(partition), producer: producer, outcome: pending, attempts: 1}
	h.ops.Sent++
}

// Retry notes that a record whose outcome is unknown is about to be sent once more.
func (h *History) Retry(number uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.recordLocked(number)
	if r.attempts == 1 {
		h.ops.Retried++
	}
	if r.attempts < math.MaxUint8 {
		r.attempts++
	}
}

// Ack notes that the broker acknowledged a record at offset.
func (h *History) Ack(number uint32, offset int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.recordLocked(number)
	r.outcome, r.ackOffset = acked, offset
	p := &h.parts[r.partition]
	p.floor = max(p.floor, offset+1)
}

// Fail notes that the broker refused a record in a way that says it was not stored.
// For a record that was retried this settles nothing, since an earlier attempt may have been stored.
func (h *History) Fail(number uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.recordLocked(number)
	r.outcome = failed
	if r.attempts > 1 {
		r.outcome = unknown
	}
}

// Unknown notes that the outcome of a record will not be learnt.
func (h *History) Unknown(number uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recordLocked(number).outcome = unknown
}

// recordLocked returns the state of a number, or nil where it was never assigned.
func (h *History) recordLocked(number uint32) *sentRecord {
	if number >= h.assigned {
		return nil
	}
	return &h.sent[number/chunkLen][number%chunkLen]
}

// FetchFloor returns the least high watermark that a fetch from broker may show if it is asked from now on.
// Brokers may trail one another, so each is held to its own past only.
func (h *History) FetchFloor(broker int32, partition int) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.parts[partition].fetched[broker]
}

// FetchWatermark notes the high watermark of a fetch from broker that was asked when FetchFloor was floor.
func (h *History) FetchWatermark(broker int32, partition int, floor, watermark int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &h.parts[partition]
	if watermark < floor {
		h.findLocked(WatermarkRegression, partition, watermark,
			"broker %d fetched high watermark %d after it had shown %d", broker, watermark, floor)
	}
	if p.fetched == nil {
		p.fetched = map[int32]int64{}
	}
	const brokersMax = 4096
	if _, ok := p.fetched[broker]; ok || len(p.fetched) < brokersMax {
		p.fetched[broker] = max(p.fetched[broker], watermark)
	}
}

// ListFloor returns the least end that a listing may show if it is asked from now on, of whichever broker: one past
// every offset acknowledged or read, and no less than any earlier listing.
func (h *History) ListFloor(partition int) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.parts[partition].floor
}

// Listed notes the end of a partition as listed by broker when ListFloor was floor.
func (h *History) Listed(broker int32, partition int, floor, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if end < floor {
		h.findLocked(WatermarkRegression, partition, end,
			"broker %d listed end %d, but %d was acknowledged, read or listed before", broker, end, floor)
	}
	h.parts[partition].floor = max(h.parts[partition].floor, end)
}

// Refused notes a fetch inside the known range that was answered with an error that no retry mends.
func (h *History) Refused(broker int32, partition int, offset int64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.findLocked(Refused, partition, offset, "broker %d: %v", broker, err)
}

// Damaged notes bytes from a fetch that do not parse as record batches with a good checksum.
func (h *History) Damaged(broker int32, partition int, offset int64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.findLocked(Invented, partition, offset, "broker %d: damaged batch: %v", broker, err)
}

func (h *History) findLocked(k Kind, partition int, offset int64, format string, args ...any) {
	h.counts[k]++
	if len(h.findings[k]) < findingsPerKind {
		h.findings[k] = append(h.findings[k],
			Finding{Kind: k, Partition: partition, Offset: offset, Detail: fmt.Sprintf(format, args...)})
	}
}

// Finish judges the whole history. ends holds, by partition, the high watermark listed after the last
// acknowledgement; readers have been given the chance to reach it.
func (h *History) Finish(ends []int64) Summary {
	h.mu.Lock()
	defer h.mu.Unlock()
	gone := h.gonesLocked()
	for i := range h.parts {
		h.judgeOrderLocked(i)
		h.judgeSkippedLocked(i, &gone[i])
		h.judgeStartsLocked(i)
		h.judgeUnseenLocked(i, ends[i], &gone[i])
	}
	for n := range h.assigned {
		h.judgeRecordLocked(n, ends, gone)
	}
	s := Summary{Ops: h.ops, Read: h.read, Offsets: h.offsets, Reread: h.reread, Counts: countsOf(&h.counts)}
	for _, f := range h.findings {
		s.Findings = append(s.Findings, f...)
	}
	return s
}

// judgeOrderLocked walks a partition by offset and holds each producer to its send order, which is that of the
// numbers. Only the first copy of a record counts: a second one is a duplicate, not a reordering. A retried record
// may come after its successors.
func (h *History) judgeOrderLocked(partition int) {
	last := map[uint32]int64{} // by producer, the highest number met
	for c, chunk := range h.parts[partition].chunks {
		if chunk == nil {
			continue
		}
		for i := range chunk {
			s := &chunk[i]
			r := h.recordLocked(s.number)
			if !s.known || r == nil || r.ordered || r.attempts > 1 {
				continue
			}
			r.ordered = true
			before, met := last[r.producer]
			if met && int64(s.number) < before {
				h.findLocked(Reordered, partition, int64(c)*chunkLen+int64(i),
					"record %d of producer %d comes after its record %d", s.number, r.producer, before)
				continue
			}
			last[r.producer] = int64(s.number)
		}
	}
}

func (h *History) judgeUnseenLocked(partition int, end int64, gone *gone) {
	p := &h.parts[partition]
	// Beyond what was read the answer is known without walking: a made-up end must not cost time.
	for offset := range min(end, p.end) {
		if s := p.slot(offset); (s == nil || !s.known) && !gone.allows(p, offset) {
			h.findLocked(Unseen, partition, offset, "never read, below high watermark %d", end)
		}
	}
	if missing := end - max(p.end, p.start); missing > 0 && !gone.allowsTail(p, end) {
		h.findLocked(Unseen, partition, p.end, "the last %d offsets below high watermark %d were never read", missing, end)
		h.counts[Unseen] += int(min(missing, math.MaxInt32)) - 1
	}
}

func (h *History) judgeRecordLocked(number uint32, ends []int64, gone []gone) {
	r := h.recordLocked(number)
	partition := int(r.partition)
	if extra := int(r.copies) - int(r.attempts); r.outcome != unsent && extra > 0 {
		h.findLocked(Duplicate, partition, r.ackOffset, "record %d sent %d times, read at %d offsets", number, r.attempts, r.copies)
		h.counts[Duplicate] += extra - 1
	}
	switch r.outcome {
	case unsent:
	case acked:
		h.ops.Acked++
		s := h.parts[partition].slot(r.ackOffset)
		read := s != nil && s.known
		held := read && s.number == number
		switch {
		case !read && len(gone) > 0 && gone[partition].allows(&h.parts[partition], r.ackOffset):
		case r.copies == 0:
			h.findLocked(Lost, partition, r.ackOffset, "record %d of producer %d acknowledged, never read", number, r.producer)
		case !read && r.attempts > 1 && r.ackOffset >= ends[partition]:
			// Another copy was read; whether this one is where it was said to be nobody was asked to find out.
		case !held:
			h.findLocked(WrongAck, partition, r.ackOffset, "record %d acknowledged here, read elsewhere", number)
		}
	case failed:
		h.ops.Failed++
		if r.copies > 0 {
			h.findLocked(FailedRead, partition, r.ackOffset, "record %d was refused for good, yet read", number)
		}
	case pending, unknown:
		h.ops.Unknown++
	}
}

// slot returns the slot of an offset, or nil where nothing near it was read.
func (p *partitionLog) slot(offset int64) *slot {
	if offset < 0 || offset/chunkLen >= int64(len(p.chunks)) || p.chunks[offset/chunkLen] == nil {
		return nil
	}
	return &p.chunks[offset/chunkLen][offset%chunkLen]
}
