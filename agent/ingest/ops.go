package ingest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// submission is one append op and the parts whose offsets it asks for, in the op's order of batches.
type submission struct {
	p     *Pipeline
	op    entry.Append
	parts []*Part
	at    time.Time // when it was submitted
	done  func(state.OpResult, error)
	size  int // about what op encodes to, bytes
	// inOrder: counted in Pipeline.submitted until applied. Not so a parked part's: its place is its sequence's.
	inOrder bool
}

func (p *Pipeline) newSubmission() *submission {
	s := &submission{p: p}
	s.done = s.applied
	return s
}

// forget drops everything but the memory of the columns.
func (s *submission) forget() {
	s.parts, s.size, s.inOrder = nil, 0, false
	s.op = entry.Append{Blocks: s.op.Blocks[:0]}
}

// block appends an empty block to the op, in memory that an earlier one used.
func (s *submission) block() *entry.Block {
	n := len(s.op.Blocks)
	if n < cap(s.op.Blocks) {
		s.op.Blocks = s.op.Blocks[:n+1]
		b := &s.op.Blocks[n]
		*b = entry.Block{Sizes: b.Sizes[:0], Spans: b.Spans[:0], Timestamps: b.Timestamps[:0], Runs: b.Runs[:0]}
		return b
	}
	s.op.Blocks = append(s.op.Blocks, entry.Block{})
	return &s.op.Blocks[n]
}

// unknownSize stands for the object's size in ops that are written before the object is complete.
const unknownSize = 1

// About what the parts of an op encode to, bytes, from above for all but extreme values.
const (
	opSize    = 64
	blockSize = 48
	runSize   = 32
	batchSize = 12
)

// plan makes the ops that ask for the offsets of order, which is sorted as sortOrder does and lies in object id. Each op
// is about limit bytes at most; a block is split where it must be, and goes on at its position. subs' memory is reused.
func (p *Pipeline) plan(subs []*submission, id entry.ObjectID, order []*Part, limit int) []*submission {
	subs = subs[:0]
	var s *submission
	var b *entry.Block
	var end int64 // raw position after the last part in b
	first := 0
	for i, part := range order {
		runs := 0
		if b != nil {
			runs = len(b.Runs)
		}
		same := i > 0 && part.block == order[i-1].block
		if s == nil || s.size+batchSize+runSize+blockSize > limit {
			if n := len(subs); n < cap(subs) && subs[:n+1][n] != nil {
				subs = subs[:n+1]
				s = subs[n]
				s.forget()
			} else {
				s = p.newSubmission()
				subs = append(subs, s)
			}
			s.op.Object, s.op.ObjectSize, s.op.Location, s.size = id, unknownSize, entry.InBucket, opSize
			first, same = i, false
		}
		if !same || part.position != end {
			b = s.block()
			b.Topic, b.Partition, b.Index = part.Topic, uint32(part.Partition), part.block
			b.FirstPosition = uint64(part.position)
			s.size += blockSize
			runs = 0
		}
		end = part.position + part.size
		h := &part.Header
		b.AddBatch(uint64(part.size), uint64(part.span()), h.MaxTimestamp, entry.Producer{
			ID: h.ProducerID, Epoch: h.ProducerEpoch, BaseSequence: h.BaseSequence, Transactional: h.Transactional(),
		})
		s.size += batchSize + (len(b.Runs)-runs)*runSize
		s.parts = order[first : i+1]
	}
	return subs
}

// appendIntended appends the ops as a segment's footer carries them: for each, the size of an entry (4 bytes, big endian)
// and the entry, whose incarnation and seq are those of the object. The object's size is not known yet: unknownSize.
func appendIntended(b []byte, id entry.ObjectID, subs []*submission) []byte {
	for _, s := range subs {
		e := entry.Entry{Format: entry.Format, Incarnation: id.Incarnation, Seq: id.Seq, Ops: []entry.Op{&s.op}}
		at := len(b)
		b = e.AppendTo(append(b, 0, 0, 0, 0))
		binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	}
	return b
}

// ParseIntended reads the intended ops of a segment's footer, in order. size is the object's, which the ops in it lack.
func ParseIntended(b []byte, size uint64) ([]*entry.Append, error) {
	return entry.ParseIntended(b, size)
}

// applied takes the result of the op, on the applier's goroutine.
func (s *submission) applied(r state.OpResult, err error) {
	p := s.p
	now := time.Now()
	p.cfg.Metrics.commitSeconds.Observe(now.Sub(s.at).Seconds())
	var tell answered
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	if s.inOrder {
		s.inOrder = false
		p.submitted--
	}
	if err == nil && r.Code == state.OK && len(r.Batches) != len(s.parts) {
		err = errors.New("results do not match the op")
	}
	for i, part := range s.parts {
		switch {
		case err != nil:
			part.Err = fmt.Errorf("commit: %w", err)
			p.answerLocked(part, &tell)
		case r.Code == state.StaleCollectionEpoch:
			p.restageLocked(part)
		case r.Code != state.OK:
			p.cfg.Metrics.rejectedParts.Inc()
			part.Code = r.Code
			p.answerLocked(part, &tell)
		default:
			p.judgedLocked(part, &r.Batches[i], now, &tell)
		}
	}
	wake := len(p.urgent) > 0 || p.gaps.moved || p.held && p.submitted == 0 || p.crowded
	p.mu.Unlock()
	tell.tell()
	if wake {
		p.poke()
	}
}
