package ingest

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// producerKey is one producer's line of sequences in one partition.
type producerKey struct {
	topic     entry.UUID
	partition int32
	id        int64
	epoch     int16
}

func keyOf(part *Part) producerKey {
	return producerKey{part.Topic, part.Partition, part.Header.ProducerID, part.Header.ProducerEpoch}
}

// before reports whether sequence a comes before b, on the circle of 2^31 sequences.
func before(a, b int32) bool { return a != b && (b-a)&math.MaxInt32 < 1<<30 }

// gaps holds parked parts: in the bucket, refused by Apply because the sequence before theirs is missing. Guarded by
// Pipeline.mu.
type gaps struct {
	parked map[producerKey][]*Part // each in order of sequence, none empty
	moved  bool                    // something may have filled a gap since the loop last looked
	remade bool                    // the set of keys changed since the loop last subscribed
}

func (g *gaps) init() { g.parked = make(map[producerKey][]*Part) }

// judgedLocked takes the result of one batch.
func (p *Pipeline) judgedLocked(part *Part, r *state.BatchResult, now time.Time, tell *answered) {
	switch r.Code {
	case state.OutOfOrderSequence:
		part.LogStartOffset = r.LogStartOffset
		p.parkLocked(part, now, tell)
		return
	case state.OK:
		p.filledLocked(part)
	case state.Duplicate:
		p.cfg.Metrics.duplicates.Inc()
		p.filledLocked(part)
	default:
		p.cfg.Metrics.rejectedParts.Inc()
	}
	part.Code, part.BaseOffset, part.LogStartOffset = r.Code, r.BaseOffset, r.LogStartOffset
	if part.Code == state.Duplicate {
		part.Code = state.OK
	}
	if part.LogAppendTime {
		part.Timestamp = r.Timestamp
	}
	p.answerLocked(part, tell)
}

// parkLocked keeps a part whose predecessor is missing, or answers it where its time has passed.
func (p *Pipeline) parkLocked(part *Part, now time.Time, tell *answered) {
	w := &part.waiting
	if w.final {
		p.cfg.Metrics.gapsAnswered.Inc()
		part.Code = state.OutOfOrderSequence
		p.answerLocked(part, tell)
		return
	}
	if w.until.IsZero() {
		w.until = now.Add(p.cfg.GapWait)
		p.cfg.Metrics.parkedTotal.Inc()
	}
	w.on = true
	key := keyOf(part)
	list := p.gaps.parked[key]
	p.gaps.remade = p.gaps.remade || len(list) == 0
	i, _ := slices.BinarySearchFunc(list, part, func(a, b *Part) int {
		if a.Header.BaseSequence == b.Header.BaseSequence {
			return 0
		}
		if before(a.Header.BaseSequence, b.Header.BaseSequence) {
			return -1
		}
		return 1
	})
	p.gaps.parked[key] = slices.Insert(list, i, part)
	p.gaps.moved = true // it may have been filled between Apply and now
	p.cfg.Metrics.parked.Inc()
}

// filledLocked notes that a part was accepted, which may be what others wait for.
func (p *Pipeline) filledLocked(part *Part) {
	if len(p.gaps.parked) > 0 && part.Header.Idempotent() && len(p.gaps.parked[keyOf(part)]) > 0 {
		p.gaps.moved = true
	}
}

func (p *Pipeline) gapsMoved() {
	p.mu.Lock()
	p.gaps.moved = len(p.gaps.parked) > 0
	p.mu.Unlock()
}

// gapKeys are the producers whose state the loop looks up, with what it found.
type gapKeys []gapKey

type gapKey struct {
	producerKey
	next  int32 // the sequence that Apply accepts next
	known bool  // false: Apply accepts any, or refuses for another reason
}

// lookUp finds out what Apply would accept of each producer.
func (keys gapKeys) lookUp(st *state.State) {
	var producers []state.ProducerInfo
	for i := range keys {
		key := &keys[i]
		t := st.TopicByID(key.topic)
		if t == nil || t.Partition(int(key.partition)) == nil {
			continue
		}
		if i == 0 || key.topic != keys[i-1].topic || key.partition != keys[i-1].partition {
			producers = t.Partition(int(key.partition)).Producers(producers[:0])
		}
		at, ok := slices.BinarySearchFunc(producers, key.id, func(x state.ProducerInfo, id int64) int { return cmp.Compare(x.ID, id) })
		switch {
		case !ok || producers[at].Epoch > key.epoch:
		case producers[at].Epoch < key.epoch:
			key.next, key.known = 0, true
		default:
			key.next, key.known = (producers[at].LastSequence+1)&math.MaxInt32, true
		}
	}
}

func (p *Pipeline) gapKeys() gapKeys {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gaps.moved {
		return nil
	}
	p.gaps.moved = false
	keys := make(gapKeys, 0, len(p.gaps.parked))
	for key := range p.gaps.parked {
		keys = append(keys, gapKey{producerKey: key})
	}
	// The order of submission is the same in every run.
	slices.SortFunc(keys, func(a, b gapKey) int { return a.compare(b.producerKey) })
	return keys
}

// unparkLocked submits again what can be accepted now, and what has waited long enough: the answer to that is final.
//
// Why the answer is then true: the op that is submitted here commits after everything that was committed before the request
// arrived, so Apply judged the gap at a later place in the log than any head of that time.
func (p *Pipeline) unparkLocked(t *turn, keys gapKeys, now time.Time) {
	for _, key := range keys {
		next, known := key.next, key.known
		for list := p.gaps.parked[key.producerKey]; len(list) > 0; list = p.gaps.parked[key.producerKey] {
			part := list[0]
			if known && before(next, part.Header.BaseSequence) {
				break
			}
			if w := &part.waiting; w.tried && w.seen == key.next && w.known == key.known {
				break // Apply said no, and nothing has changed since
			}
			part.waiting.tried, part.waiting.seen, part.waiting.known = true, key.next, key.known
			next, known = (part.Header.LastSequence()+1)&math.MaxInt32, true
			p.resubmitLocked(t, key.producerKey, part)
		}
	}
	var due []producerKey
	for key, list := range p.gaps.parked {
		for _, part := range list {
			if part.waiting.until.After(now) {
				t.wakeAt(part.waiting.until)
			} else if len(due) == 0 || due[len(due)-1] != key {
				due = append(due, key)
			}
		}
	}
	if len(due) == 0 {
		return
	}
	slices.SortFunc(due, producerKey.compare)
	first := p.firstSequencesLocked(due)
	for _, key := range due {
		for _, part := range slices.Clone(p.gaps.parked[key]) {
			switch {
			case part.waiting.until.After(now):
			case before(first[key], part.Header.BaseSequence):
				// One that comes before is on its way, in this very pipeline.
				part.waiting.until = now.Add(p.cfg.GapWait / 20)
				t.wakeAt(part.waiting.until)
			default:
				part.waiting.final = true
				p.resubmitLocked(t, key, part)
			}
		}
	}
}

func (k producerKey) compare(o producerKey) int {
	return cmp.Or(compareUUID(k.topic, o.topic), cmp.Compare(k.partition, o.partition), cmp.Compare(k.id, o.id),
		cmp.Compare(k.epoch, o.epoch))
}

// resubmitLocked takes a part out of parking and asks for its offset once more, where it lies.
func (p *Pipeline) resubmitLocked(t *turn, key producerKey, part *Part) {
	list := p.gaps.parked[key]
	list = slices.Delete(list, slices.Index(list, part), slices.Index(list, part)+1)
	if len(list) == 0 {
		delete(p.gaps.parked, key)
		p.gaps.remade = true
	} else {
		p.gaps.parked[key] = list
	}
	part.waiting.on = false
	p.cfg.Metrics.parked.Dec()
	f := part.seg
	for _, s := range p.plan(nil, f.id, []*Part{part}, p.cfg.OpBytes) {
		s.op.ObjectSize = uint64(len(f.body))
		t.submit = append(t.submit, s)
	}
}

// firstSequencesLocked returns, for each key that has unanswered parts, the sequence that comes first of all of them.
func (p *Pipeline) firstSequencesLocked(keys []producerKey) map[producerKey]int32 {
	first := make(map[producerKey]int32, len(keys))
	for _, key := range keys {
		first[key] = p.gaps.parked[key][0].Header.BaseSequence
	}
	for f := p.live.next; f != &p.live; f = f.next {
		for _, part := range f.parts {
			if part == nil || !part.Header.Idempotent() {
				continue
			}
			key := keyOf(part)
			if seq, ok := first[key]; ok && before(part.Header.BaseSequence, seq) {
				first[key] = part.Header.BaseSequence
			}
		}
	}
	return first
}

// refsLocked returns the partitions of parked parts, and whether they changed since the last call.
func (g *gaps) refsLocked() (refs []state.PartitionRef, changed bool) {
	if !g.remade {
		return nil, false
	}
	g.remade = false
	for key := range g.parked {
		refs = append(refs, state.PartitionRef{Topic: key.topic, Partition: key.partition})
	}
	return refs, true
}

// gapWatch is the loop's subscription to the partitions of parked parts. Of the loop.
type gapWatch struct {
	changed chan struct{}
	cancel  func()
}

func (w *gapWatch) init() { w.changed = make(chan struct{}, 1) }

func (w *gapWatch) stop() {
	if w.cancel != nil {
		w.cancel()
		w.cancel = nil
	}
}

// follow replaces the subscription.
func (w *gapWatch) follow(meta Metastore, refs []state.PartitionRef) {
	w.stop()
	if len(refs) > 0 {
		w.cancel = meta.Subscribe(refs, w.changed)
	}
}
