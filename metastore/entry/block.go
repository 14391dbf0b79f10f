package entry

// Block is the part of a segment that belongs to one partition. The columns have one value a batch.
//
// Invariant: len(Sizes) == len(Spans) == len(Timestamps) > 0, and Runs are ascending, disjoint and within the columns.
// AddBatch keeps it and decoding checks it.
type Block struct {
	Topic      UUID
	Partition  uint32
	Index      uint32   // of the block in the segment's table
	Sizes      []uint64 // raw bytes of the batch
	Spans      []uint64 // offsets it takes: last offset delta + 1
	Timestamps []int64  // max timestamp, absolute here (deltas on the wire)
	Runs       []Run    // of idempotent batches; a batch in no run has no producer

	// ExpectedNextOffset is a condition plus one: 0 is none, else the block applies only if the partition's next offset
	// is this minus 1.
	ExpectedNextOffset int64
	// FirstPosition is the raw byte position in the block of the first batch named here. It is 0 unless batches of a
	// block are proposed a second time.
	FirstPosition uint64

	tail uint64 // the sequence that would extend the last run, plus one; 0: not computed yet
}

// Run says which batches of a block one producer sent with contiguous sequences.
type Run struct {
	First         uint32 // index of its first batch in the columns
	Count         uint32
	ProducerID    int64
	ProducerEpoch uint32
	BaseSequence  uint32 // of its first batch; the others follow, wrapping from MaxSequence to 0
	Flags         uint32 // Transactional or 0
}

// Transactional is the one flag of a Run.
const Transactional = 1

// Producer is what a batch says about who sent it.
type Producer struct {
	ID            int64 // below 0: not idempotent, and the other fields mean nothing
	Epoch         int16
	BaseSequence  int32
	Transactional bool
}

// NoProducer is the Producer of a batch that is not idempotent.
func NoProducer() Producer { return Producer{ID: -1, Epoch: -1, BaseSequence: -1} }

// AddBatch appends a batch of size raw bytes that takes span offsets to the columns, extending the last run where the
// batch continues it. Requires: size and span within 1 to MaxBatchBytes and MaxSpan.
func (b *Block) AddBatch(size, span uint64, maxTimestamp int64, p Producer) {
	index := uint32(len(b.Sizes))
	b.Sizes = append(b.Sizes, size)
	b.Spans = append(b.Spans, span)
	b.Timestamps = append(b.Timestamps, maxTimestamp)
	if p.ID < 0 {
		return
	}
	flags := uint32(0)
	if p.Transactional {
		flags = Transactional
	}
	if len(b.Runs) > 0 {
		r := &b.Runs[len(b.Runs)-1]
		if b.tail == 0 {
			b.tail = b.endSequence(r) + 1
		}
		if r.First+r.Count == index && r.ProducerID == p.ID && r.ProducerEpoch == uint32(p.Epoch) && r.Flags == flags &&
			b.tail-1 == uint64(p.BaseSequence) {
			r.Count++
			b.tail = uint64(NextSequence(uint32(p.BaseSequence), span)) + 1
			return
		}
	}
	b.Runs = append(b.Runs, Run{
		First: index, Count: 1, ProducerID: p.ID, ProducerEpoch: uint32(p.Epoch), BaseSequence: uint32(p.BaseSequence), Flags: flags,
	})
	b.tail = uint64(NextSequence(uint32(p.BaseSequence), span)) + 1
}

// endSequence is the sequence after the last batch of r.
func (b *Block) endSequence(r *Run) uint64 {
	seq := r.BaseSequence
	for _, span := range b.Spans[r.First : r.First+r.Count] {
		seq = NextSequence(seq, span)
	}
	return uint64(seq)
}

// NextSequence is the sequence after a batch of span records that starts at base: Kafka's sequences are 31 bits wide and
// wrap to 0.
func NextSequence(base uint32, span uint64) uint32 {
	return uint32((uint64(base) + span) & MaxSequence)
}
