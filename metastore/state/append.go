package state

import (
	"math"

	"github.com/firnlog/firn/metastore/entry"
)

// appending is one Append on its way through its blocks.
type appending struct {
	op       *entry.Append
	proposer [16]byte
	acquired bool           // a batch was accepted, and so the object is live
	slot     uint32         // of the object then
	pending  *pendingObject // and what is known of it while it is in a WAL
}

// append gives batches their offsets. The op is refused as a whole for its object, each block for its partition and
// condition, each batch for its sequence.
func (s *State) append(e *entry.Entry, op *entry.Append, r *Results) (Code, []BatchResult) {
	first := len(r.batches)
	code := s.admit(op.Object, int64(op.ObjectSize))
	switch {
	case op.Object.Merged(): // its batches have their offsets
		code = InvalidObject
	case !s.fresh(op.Object):
		code = StaleCollectionEpoch
	}
	a := appending{op: op, proposer: e.Incarnation}
	for i := range op.Blocks {
		block := &op.Blocks[i]
		if code != OK {
			r.rejectBatches(len(block.Sizes), code, -1)
			continue
		}
		s.appendBlock(&a, block, r)
	}
	return code, r.batches[first:len(r.batches):len(r.batches)]
}

func (r *Results) rejectBatches(n int, code Code, logStart int64) {
	for range n {
		r.batches = append(r.batches, BatchResult{Code: code, BaseOffset: -1, Timestamp: -1, LogStartOffset: logStart})
	}
}

func (s *State) appendBlock(a *appending, block *entry.Block, r *Results) {
	p, code := s.partition(block.Topic, block.Partition)
	if code != OK {
		r.rejectBatches(len(block.Sizes), code, -1)
		return
	}
	if want := block.ExpectedNextOffset; want != 0 && want-1 != p.next {
		r.rejectBatches(len(block.Sizes), ConditionFailed, p.logStart)
		return
	}
	stamp := int64(-1)
	if p.topic.logAppendTime {
		stamp = s.logTime
	}

	var (
		open     row // grows while batches are accepted; size 0: none
		position = int64(block.FirstPosition)
		runs     = block.Runs
		sequence uint32
		sender   *producer // of the current run, nil while it has no state
	)
	for i := range block.Sizes {
		size, span := int64(block.Sizes[i]), block.Spans[i]
		res := BatchResult{BaseOffset: -1, Timestamp: -1, LogStartOffset: p.logStart}

		var run *entry.Run
		if len(runs) > 0 && uint32(i) >= runs[0].First {
			run = &runs[0]
			if uint32(i) == run.First {
				sequence, sender = run.BaseSequence, p.producer(run.ProducerID)
			}
			res.Code = judge(sender, run, sequence, span, &res)
		}
		switch {
		case res.Code != OK:
		case span > uint64(math.MaxInt64-p.next) || position+size > maxRowBytes, p.size+open.size > math.MaxInt64-size:
			res.Code = OffsetOverflow
		default:
			res.BaseOffset, res.Timestamp = p.next, stamp
			timestamp := block.Timestamps[i]
			if stamp >= 0 {
				timestamp = stamp
			}
			if open.size == 0 {
				open = row{
					block: block.Index, base: p.next, maxTimestamp: timestamp, position: position, logAppendTime: stamp >= 0,
				}
			}
			p.next += int64(span)
			open.end, open.size = p.next, open.size+size
			open.maxTimestamp = max(open.maxTimestamp, timestamp)
			if run != nil {
				if sender == nil {
					sender = p.addProducer(run.ProducerID)
				}
				sender.accept(run.ProducerEpoch, sequence, uint32(span), res.BaseOffset, s.logTime, stamp)
			}
		}
		if res.Code != OK && open.size > 0 { // dead bytes: what follows is another row
			s.addRow(a, p, &open, r)
			open.size = 0
		}
		position += size
		if run != nil {
			sequence = entry.NextSequence(sequence, span)
			if uint32(i)+1 == run.First+run.Count {
				runs = runs[1:]
			}
		}
		r.batches = append(r.batches, res)
	}
	if open.size > 0 {
		s.addRow(a, p, &open, r)
	}
}

// addRow ends a stretch of accepted batches.
func (s *State) addRow(a *appending, p *Partition, open *row, r *Results) {
	if a.acquired {
		s.objects.at(a.slot).refs++
	} else {
		s.acquireAppended(a, r)
	}
	if a.pending != nil {
		a.pending.parts = append(a.pending.parts, p.Ref())
	}
	open.object = a.slot
	p.rows.push(open)
	p.size += open.size
	s.changed(p, r)
}

// acquireAppended makes the object of an Append live, and pending where this op brings it in a WAL.
func (s *State) acquireAppended(a *appending, r *Results) {
	known := s.Named(a.op.Object)
	a.acquired, a.slot = true, s.acquire(a.op.Object, int64(a.op.ObjectSize))
	a.pending = s.objects.pending[a.slot]
	switch {
	case a.op.Location == entry.InWAL && !known:
		a.pending = &pendingObject{holder: a.proposer}
		s.objects.pending[a.slot] = a.pending
	case a.op.Location == entry.InBucket && a.pending != nil: // other blocks of it were appended from a WAL
		s.bind(a.slot, r)
		a.pending = nil
	}
}
