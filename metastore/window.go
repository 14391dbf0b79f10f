package metastore

import (
	"slices"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// window is what a replay saw of who committed what, so that a restore can tell a segment whose ops were lost from one that
// nobody was ever going to commit. An agent names its objects 1, 2, 3 … and submits their ops in that order, so below the
// highest object that an incarnation has committed nothing is missing.
type window struct {
	names map[[16]byte]string // of joined incarnations
	// over are incarnations whose uncommitted objects were settled or abandoned.
	over map[[16]byte]bool
	// departed are incarnations that left, by log time. For a while that does not make them over: an agent that lost its
	// registration joins again and goes on to commit what it had uploaded, as long as it keeps producers waiting for it.
	departed map[[16]byte]int64
	last     map[[16]byte]lastObject
	deleted  map[entry.UUID]bool // topics
	// parked are batches that were refused for a sequence before theirs that was missing. Agents propose them again when it
	// has come, which may have happened in what was lost; Apply refuses them where it has not.
	parked map[entry.ObjectID]map[place]bool
}

// place is where a batch begins in its object.
type place struct {
	block    uint32
	position uint64
}

// lastObject is the highest object of level 0 of an incarnation that an op named, and which parts of it ops asked offsets for. Merged
// objects do not count: their numbers are compaction's own, and no Append names them.
type lastObject struct {
	seq   uint64
	epoch uint64 // its collection epoch
	parts []span // none: the ops that named it are not in what was read
}

// span is a stretch of raw bytes of a block.
type span struct {
	block    uint32
	from, to uint64
}

func newWindow(st *state.State) *window {
	w := &window{
		names: make(map[[16]byte]string), over: make(map[[16]byte]bool), departed: make(map[[16]byte]int64),
		last: make(map[[16]byte]lastObject), deleted: make(map[entry.UUID]bool), parked: make(map[entry.ObjectID]map[place]bool),
	}
	for _, a := range st.Agents() {
		w.names[a.Incarnation] = a.Name
	}
	for id := range st.Objects() {
		w.raise(id)
	}
	for _, gone := range st.Retired() { // within a minute, most of what agents uploaded was rewritten
		w.raise(gone.Object)
	}
	return w
}

func (w *window) raise(id entry.ObjectID) {
	if !id.Merged() && id.Seq > w.last[id.Incarnation].seq {
		w.last[id.Incarnation] = lastObject{seq: id.Seq, epoch: id.CollectionEpoch}
	}
}

// recall notes what an op from before the window named. The state does not say: rows that named an incarnation's last object may have
// been rewritten since, some of them or all.
func (w *window) recall(op *entry.Append) {
	w.raise(op.Object)
	w.note(op)
}

// forgotten reports whether an op may still be missing of the last object of an agent that is joined, or has just left: the object is
// of this collection epoch or later, and no op of it was read.
func (w *window) forgotten(epoch uint64, left [][16]byte) bool {
	missing := func(inc [16]byte) bool {
		o, known := w.last[inc]
		return known && len(o.parts) == 0 && o.epoch >= epoch
	}
	for inc := range w.names {
		if missing(inc) {
			return true
		}
	}
	return slices.ContainsFunc(left, missing)
}

// see takes an entry that was applied.
func (w *window) see(e *entry.Entry, r *state.Results) {
	if r.EntryCode != state.OK {
		return
	}
	for i, op := range e.Ops {
		switch op := op.(type) {
		case *entry.Join:
			if r.Ops[i].Code == state.OK {
				for inc, other := range w.names {
					if other == op.Name {
						w.departed[inc] = e.ClockMs
					}
				}
				w.names[e.Incarnation] = op.Name
			}
		case *entry.Leave:
			w.departed[op.Incarnation] = e.ClockMs
		case *entry.DeleteTopic:
			w.deleted[op.ID] = true
		case *entry.NewLogEpoch:
			for inc := range w.names {
				if inc != e.Incarnation {
					w.over[inc] = true
				}
			}
		case *entry.Append:
			w.append(e.Incarnation, op)
			w.park(op, r.Ops[i].Batches)
		}
	}
}

// end closes the window at a log time.
func (w *window) end(now int64) {
	for inc, at := range w.departed {
		if at < now-waitMax.Milliseconds() {
			w.over[inc] = true
		}
	}
}

// append notes what an op named. An agent that joined anew first commits what its earlier incarnation had uploaded; once it
// commits an object of its own, nothing is left of the earlier one. That one ended otherwise if its process did.
func (w *window) append(proposer [16]byte, op *entry.Append) {
	w.raise(op.Object)
	w.note(op)
	if op.Object.Incarnation != proposer {
		return
	}
	name := w.names[proposer]
	for inc, other := range w.names {
		if other == name && inc != proposer {
			w.over[inc] = true
			delete(w.names, inc)
		}
	}
}

// note remembers which parts of an incarnation's last object an op named.
func (w *window) note(op *entry.Append) {
	o := w.last[op.Object.Incarnation]
	if o.seq != op.Object.Seq {
		return
	}
	for i := range op.Blocks {
		b := &op.Blocks[i]
		s := span{block: b.Index, from: b.FirstPosition, to: b.FirstPosition}
		for _, size := range b.Sizes {
			s.to += size
		}
		o.parts = append(o.parts, s)
	}
	w.last[op.Object.Incarnation] = o
}

// proposed reports whether an op asked for the offset of a batch of the incarnation's last object.
func (o lastObject) proposed(block uint32, position uint64) bool {
	for _, s := range o.parts {
		if s.block == block && s.from <= position && position < s.to {
			return true
		}
	}
	return false
}

// waited notes batches of an op from before the window that may have been waiting for their predecessor when it began.
func (w *window) waited(st *state.State, op *entry.Append) {
	for _, x := range batchesOf(op) {
		t := st.TopicByID(x.topic)
		if x.producer.ID < 0 || t == nil || t.Partition(int(x.partition)) == nil || !t.Partition(int(x.partition)).Awaits(x.producer) {
			continue
		}
		w.wait(op.Object, x.place)
	}
}

func (w *window) wait(id entry.ObjectID, at place) {
	if w.parked[id] == nil {
		w.parked[id] = make(map[place]bool)
	}
	w.parked[id][at] = true
}

// park notes which batches wait for their predecessor.
func (w *window) park(op *entry.Append, results []state.BatchResult) {
	for i := range op.Blocks {
		b := &op.Blocks[i]
		at := place{block: b.Index, position: b.FirstPosition}
		for _, size := range b.Sizes {
			switch code := results[0].Code; {
			case code == state.OutOfOrderSequence:
				w.wait(op.Object, at)
			case len(w.parked) > 0:
				if delete(w.parked[op.Object], at); len(w.parked[op.Object]) == 0 {
					delete(w.parked, op.Object)
				}
			}
			results = results[1:]
			at.position += size
		}
	}
}
