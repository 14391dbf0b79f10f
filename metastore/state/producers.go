package state

import (
	"cmp"
	"math"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
)

// producer is what a partition remembers of one idempotent producer: enough to answer a repeated batch with its original
// offset. 112 bytes without pointers.
type producer struct {
	id       int64
	lastSeen int64                 // log time of the last batch accepted
	offsets  [WindowBatches]int64  // base offsets of the last batches, oldest first
	spans    [WindowBatches]uint32 // their lengths; their sequences follow from last
	ages     [WindowBatches]uint32 // log append time: milliseconds before lastSeen; noAge: none was given, or long ago
	last     uint32                // last sequence accepted
	// accepted is how many sequences up to last are certainly in the log, at most acceptedKnown. It tells an old batch
	// (answer: duplicate) from one that was overtaken before its producer was known here (answer: out of order; calling it
	// a duplicate would lose it).
	accepted uint32
	epoch    int16
	count    uint8 // of batches known. Invariant: 1 to WindowBatches.
}

const noAge = math.MaxUint32

// ProducerInfo is a producer's state in a partition, for DescribeProducers.
type ProducerInfo struct {
	ID           int64
	Epoch        int16
	LastSequence int32
	LastOffset   int64 // of its last record
	LastSeenMs   int64 // log time
}

// Producers appends the partition's producers to dst in order of id.
func (p *Partition) Producers(dst []ProducerInfo) []ProducerInfo {
	for i := range p.producers {
		x := &p.producers[i]
		newest := x.count - 1
		dst = append(dst, ProducerInfo{
			ID: x.id, Epoch: x.epoch, LastSequence: int32(x.last),
			LastOffset: x.offsets[newest] + int64(x.spans[newest]) - 1, LastSeenMs: x.lastSeen,
		})
	}
	return dst
}

// Awaits reports whether a batch that was not accepted may yet be: it is what its producer, as far as the partition knows it, sends next
// or later.
func (p *Partition) Awaits(x entry.Producer) bool {
	known := p.producer(x.ID)
	if known == nil || x.Epoch != known.epoch {
		return known != nil && x.Epoch > known.epoch
	}
	ahead := (uint32(x.BaseSequence) - entry.NextSequence(known.last, 1)) & entry.MaxSequence
	return ahead <= entry.MaxSequence/2
}

// judge decides about a batch that starts at sequence. It fills the original's place in the log for a Duplicate. The
// order of the questions is Kafka's.
func judge(x *producer, run *entry.Run, sequence uint32, span uint64, res *BatchResult) Code {
	if run.Flags&entry.Transactional != 0 {
		return TransactionState
	}
	if x == nil {
		return OK // also in the middle of its life: its state may have expired
	}
	switch epoch := int16(run.ProducerEpoch); {
	case epoch < x.epoch:
		return ProducerFenced
	case epoch > x.epoch:
		if sequence != 0 {
			return OutOfOrderSequence
		}
		return OK
	}
	if sequence == entry.NextSequence(x.last, 1) {
		return OK
	}
	end := entry.NextSequence(x.last, 1) // of the window's batch, exclusive
	for i := int(x.count) - 1; i >= 0; i-- {
		start := (end - x.spans[i]) & entry.MaxSequence
		if start == sequence && uint64(x.spans[i]) == span {
			res.BaseOffset = x.offsets[i]
			if age := x.ages[i]; age != noAge {
				res.Timestamp = x.lastSeen - int64(age)
			}
			return Duplicate
		}
		end = start
	}
	// Wholly within what is in the log, counted back from the last sequence?
	lastOfBatch := entry.NextSequence(sequence, span-1)
	if back := (x.last - lastOfBatch) & entry.MaxSequence; uint64(back)+span <= uint64(x.accepted) {
		return DuplicateSequence
	}
	return OutOfOrderSequence
}

// accept records a batch. stamp is its log append time, or -1.
func (x *producer) accept(epoch, sequence, span uint32, base, logTime, stamp int64) {
	if int16(epoch) != x.epoch { // higher, or the first batch
		x.epoch, x.count, x.accepted = int16(epoch), 0, 0
	}
	if x.count == WindowBatches {
		copy(x.offsets[:], x.offsets[1:])
		copy(x.spans[:], x.spans[1:])
		copy(x.ages[:], x.ages[1:])
		x.count--
	}
	older := uint64(logTime - x.lastSeen)
	for i := range x.ages[:x.count] {
		x.ages[i] = uint32(min(uint64(x.ages[i])+older, noAge)) // noAge stays noAge
	}
	x.offsets[x.count], x.spans[x.count], x.ages[x.count] = base, span, noAge
	if stamp >= 0 {
		x.ages[x.count] = 0 // stamp is logTime
	}
	x.count++
	x.lastSeen = logTime
	x.last = entry.NextSequence(sequence, uint64(span)-1)
	x.accepted = uint32(min(uint64(x.accepted)+uint64(span), acceptedKnown))
}

// producer finds the state of a producer, or nil. The pointer is good until the next addProducer.
func (p *Partition) producer(id int64) *producer {
	if at, ok := p.findProducer(id); ok {
		return &p.producers[at]
	}
	return nil
}

func (p *Partition) findProducer(id int64) (int, bool) {
	lo, hi := 0, len(p.producers)
	for lo < hi {
		if mid := (lo + hi) / 2; p.producers[mid].id < id {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(p.producers) && p.producers[lo].id == id
}

// addProducer makes a state for a producer that has none. Ids are handed out in ascending order, so most come last.
func (p *Partition) addProducer(id int64) *producer {
	if len(p.producers) >= MaxProducersPerPartition {
		p.evictProducers()
	}
	at, _ := p.findProducer(id)
	if have := len(p.producers); have == cap(p.producers) { // grow by an eighth: append would double
		p.producers = append(make([]producer, 0, have+have/8+1), p.producers...)
	}
	p.producers = slices.Insert(p.producers, at, producer{id: id, epoch: -1})
	return &p.producers[at]
}

// evictProducers keeps the keptProducers that wrote last; of those that wrote at the same log time, the higher ids.
func (p *Partition) evictProducers() {
	order := func(a, b *producer) int {
		return cmp.Or(cmp.Compare(a.lastSeen, b.lastSeen), cmp.Compare(a.id, b.id))
	}
	byAge := make([]*producer, len(p.producers))
	for i := range p.producers {
		byAge[i] = &p.producers[i]
	}
	slices.SortFunc(byAge, order)
	oldest := *byAge[len(byAge)-keptProducers] // of those kept
	p.producers = slices.DeleteFunc(p.producers, func(x producer) bool { return order(&x, &oldest) < 0 })
}

func (s *State) expireProducers(op *entry.ExpireProducers) Code {
	if op.BeforeMs > s.logTime {
		return InvalidRequest
	}
	for _, t := range s.topics.sorted {
		for i := range t.parts {
			t.parts[i].expire(op.BeforeMs)
		}
	}
	return OK
}

func (p *Partition) expire(before int64) {
	had := len(p.producers)
	p.producers = slices.DeleteFunc(p.producers, func(x producer) bool { return x.lastSeen < before })
	if len(p.producers) == had {
		return
	}
	if len(p.producers) == 0 {
		p.producers = nil
	} else if cap(p.producers) > 2*len(p.producers) {
		p.producers = slices.Clone(p.producers)
	}
}
