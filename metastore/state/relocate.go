package state

import (
	"math"

	"github.com/firnlog/firn/metastore/entry"
)

// relocate moves data under one guard: what the proposer saw is still there. It checks everything before it touches
// anything.
func (s *State) relocate(op *entry.Relocate, r *Results) Code {
	if op.IsBind() {
		return s.relocateBind(op, r)
	}
	if s.featureLevel < rewriteLevel && entry.Level(op) >= rewriteLevel {
		return FeatureLevelNotReached
	}
	p, code := s.partition(op.Topic, op.Partition)
	if code != OK {
		return code
	}
	if !s.holds(p, op) {
		return Conflict
	}
	if code := s.checkReplacement(p, op); code != OK {
		return code
	}

	first, last := p.rows.pageOf(op.StartOffset), p.rows.pageOf(op.EndOffset-1)+1
	rows := s.rows[:0]
	var old []uint32
	replaced := false
	for c := (cursor{pages: p.rows.pages[first:last]}); c.next(); {
		if c.row.end <= op.StartOffset || c.row.base >= op.EndOffset {
			rows = append(rows, c.row)
			continue
		}
		if !replaced {
			rows = s.appendReplacement(rows, p, op)
			replaced = true
		}
		p.size -= c.row.size
		old = append(old, c.row.object)
	}
	p.rows.splice(first, last, rows)
	s.rows = rows[:0]
	for _, slot := range old { // after the new rows took theirs: an object in both must not retire in between
		s.release(slot)
	}
	if len(op.Rows) == 0 {
		for i := range op.Expected {
			lost := op.Expected[i].EndOffset - max(op.Expected[i].BaseOffset, p.logStart)
			p.topic.givenUp += min(lost, math.MaxInt64-p.topic.givenUp)
		}
	}
	s.changed(p, r)
	return OK
}

// holds reports whether the rows that reach into the range are exactly those expected. These lie within the range, as
// decoding holds, so no row crosses its ends.
func (s *State) holds(p *Partition, op *entry.Relocate) bool {
	if len(p.rows.pages) == 0 || len(op.Expected) == 0 {
		return false
	}
	expected := op.Expected
	for c := p.rows.from(op.StartOffset); c.next(); {
		if c.row.end <= op.StartOffset {
			continue
		}
		if c.row.base >= op.EndOffset {
			break
		}
		if len(expected) == 0 || !s.same(&c.row, &expected[0]) {
			return false
		}
		expected = expected[1:]
	}
	return len(expected) == 0
}

func (s *State) same(r *row, e *entry.Row) bool {
	o := s.objects.at(r.object)
	return s.objects.id(o) == e.Object && o.size == int64(e.ObjectSize) && r.block == e.Block && r.base == e.BaseOffset &&
		r.end == e.EndOffset && r.maxTimestamp == e.MaxTimestamp && r.logAppendTime == e.LogAppendTime &&
		r.position == int64(e.Position) && r.size == int64(e.Size) && r.cleaned == e.Cleaned
}

// checkReplacement refuses rows outside what they replace, and objects that may have been collected.
func (s *State) checkReplacement(p *Partition, op *entry.Relocate) Code {
	if len(op.Rows) == 0 {
		return OK
	}
	first, last := op.Expected[0].BaseOffset, op.Expected[len(op.Expected)-1].EndOffset
	if op.Rows[0].BaseOffset < first || op.Rows[len(op.Rows)-1].EndOffset > last {
		return Conflict
	}
	bytes := uint64(p.size)
	sizes := make(map[entry.ObjectID]uint64, 1)
	for i := range op.Rows {
		e := &op.Rows[i]
		if bytes += e.Size; bytes > math.MaxInt64 {
			return LimitExceeded
		}
		if e.Object.Merged() && (e.Object.Topic != op.Topic || e.Position != 0 || e.LogAppendTime) {
			return InvalidObject // of another topic, or not a whole block of batches that know their time
		}
		if size, seen := sizes[e.Object]; seen {
			if size != e.ObjectSize {
				return InvalidObject
			}
			continue
		}
		sizes[e.Object] = e.ObjectSize
		if code := s.admit(e.Object, int64(e.ObjectSize)); code != OK {
			return code
		}
		if !s.fresh(e.Object) && !s.Named(e.Object) {
			return StaleCollectionEpoch
		}
	}
	return OK
}

func (s *State) appendReplacement(rows []row, p *Partition, op *entry.Relocate) []row {
	for i := range op.Rows {
		e := &op.Rows[i]
		if e.EndOffset <= p.logStart { // the log start moved into the first row after the proposer looked
			continue
		}
		slot := s.acquire(e.Object, int64(e.ObjectSize))
		if pending := s.objects.pending[slot]; pending != nil {
			pending.parts = append(pending.parts, p.Ref())
		}
		rows = append(rows, row{
			object: slot, block: e.Block, base: e.BaseOffset, end: e.EndOffset,
			maxTimestamp: e.MaxTimestamp, position: int64(e.Position), size: int64(e.Size), logAppendTime: e.LogAppendTime,
			cleaned: e.Cleaned,
		})
		p.size += int64(e.Size)
	}
	return rows
}

func (s *State) relocateBind(op *entry.Relocate, r *Results) Code {
	slot, live := s.objects.find(&op.Bind)
	if !live {
		return UnknownObject
	}
	if s.objects.pending[slot] == nil {
		return Duplicate // another holder was first, with the same bytes under the same key
	}
	s.objects.at(slot).size = int64(op.ObjectSize)
	s.bind(slot, r)
	return OK
}
