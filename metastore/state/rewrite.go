package state

import (
	"math"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
)

// rewriting is one Rewrite on its way through its parts.
type rewriting struct {
	op *entry.Rewrite
	// slots are those of the op's objects, where known says so: an object that is not live becomes so with the first row that
	// names it, and one that no accepted part names never does.
	slots []uint32
	known []bool
}

// rewrite moves data of many partitions into merged objects. The op is refused as a whole for its topic and its objects, each
// part for what its guard finds; a part is checked to the end before anything is touched.
func (s *State) rewrite(op *entry.Rewrite, r *Results) (Code, []Code) {
	if s.featureLevel < rewriteLevel {
		return FeatureLevelNotReached, nil
	}
	t := s.topics.byID[op.Topic]
	if t == nil {
		return UnknownTopic, nil
	}
	w := rewriting{op: op, slots: make([]uint32, len(op.Objects)), known: make([]bool, len(op.Objects))}
	if code := s.checkRewritten(op); code != OK {
		return code, nil
	}
	// What is live stays so until the op is through: one part may take the last row of an object that the next one names.
	var held []uint32
	for i := range op.Objects {
		if slot, live := s.objects.find(&op.Objects[i].ID); live {
			w.slots[i], w.known[i] = slot, true
			s.objects.at(slot).refs++
			held = append(held, slot)
		}
	}
	first := len(r.parts)
	for i := range op.Parts {
		part := &op.Parts[i]
		code := UnknownPartition
		if uint64(part.Partition) < uint64(len(t.parts)) {
			code = s.rewritePart(&w, &t.parts[part.Partition], part, r)
		}
		r.parts = append(r.parts, code)
	}
	for _, slot := range held {
		s.release(slot)
	}
	return OK, r.parts[first:len(r.parts):len(r.parts)]
}

// checkRewritten refuses objects that are not of the op's topic, and such as may have been collected.
func (s *State) checkRewritten(op *entry.Rewrite) Code {
	seen := make(map[entry.ObjectID]struct{}, len(op.Objects))
	for i := range op.Objects {
		o := &op.Objects[i]
		if _, twice := seen[o.ID]; twice || o.ID.Topic != op.Topic {
			return InvalidObject
		}
		seen[o.ID] = struct{}{}
		if code := s.admit(o.ID, int64(o.Size)); code != OK {
			return code
		}
		if !s.fresh(o.ID) && !s.Named(o.ID) {
			return StaleCollectionEpoch
		}
	}
	return OK
}

func (s *State) rewritePart(w *rewriting, p *Partition, part *entry.RewrittenPart, r *Results) Code {
	if len(p.rows.pages) == 0 {
		return Conflict
	}
	// The guard: s.old and s.rows are what is replaced and what the pages that hold it become, the replacement still without objects.
	first, last := p.rows.pageOf(part.Start), p.rows.pageOf(part.End-1)+1
	digest := &s.digest
	digest.start()
	rows, old := s.rows[:0], s.old[:0]
	at, covered := -1, int64(0) // where the replacement goes, and the end of what it replaces
	size := uint64(p.size)
	begin := int64(0)
	for c := (cursor{pages: p.rows.pages[first:last]}); c.next(); {
		if c.row.end <= part.Start || c.row.base >= part.End {
			rows = append(rows, c.row)
			continue
		}
		if c.row.base < part.Start || c.row.end > part.End || s.objects.pending[c.row.object] != nil || len(old) == int(part.Rows) {
			s.rows, s.old = rows[:0], old[:0]
			return Conflict
		}
		if at < 0 {
			at, begin = len(rows), c.row.base
		}
		covered = c.row.end
		size -= uint64(c.row.size)
		old = append(old, c.row.object)
		o := s.objects.at(c.row.object)
		id := s.objects.id(o)
		digest.add(&id, o.size, &c.row)
	}
	s.rows, s.old = rows[:0], old[:0]
	if len(old) != int(part.Rows) || digest.sum() != part.Digest {
		return Conflict
	}
	if n := len(part.Replacement); n > 0 && (part.Replacement[0].Base < begin || part.Replacement[n-1].End > covered) {
		return Conflict
	}
	for i := range part.Replacement {
		if size += part.Replacement[i].Size; size > math.MaxInt64 {
			return LimitExceeded
		}
	}

	fresh := make([]row, 0, len(part.Replacement))
	for i := range part.Replacement {
		x := &part.Replacement[i]
		if x.End <= p.logStart { // the log start moved into the first row after the proposer looked
			size -= x.Size
			continue
		}
		fresh = append(fresh, row{
			object: s.rewritten(w, x.Object), block: x.Block, base: x.Base, end: x.End,
			maxTimestamp: x.MaxTimestamp, size: int64(x.Size), cleaned: part.Cleaned,
		})
	}
	rows = slices.Insert(rows, at, fresh...)
	p.rows.splice(first, last, rows)
	p.size = int64(size)
	s.rows = rows[:0]
	for _, slot := range old { // after the new rows took theirs: an object in both must not retire in between
		s.release(slot)
	}
	s.changed(p, r)
	return OK
}

// rewritten gives a row a reference to an object of the op.
func (s *State) rewritten(w *rewriting, index uint32) uint32 {
	if w.known[index] {
		s.objects.at(w.slots[index]).refs++
	} else {
		o := &w.op.Objects[index]
		w.slots[index], w.known[index] = s.acquire(o.ID, int64(o.Size)), true
	}
	return w.slots[index]
}
