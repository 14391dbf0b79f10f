package lifecycle

import (
	"cmp"
	"container/heap"
	"encoding/hex"
	"iter"
	"slices"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// round is a run over the merged objects that the ledger wants looked at, oldest first, over many Steps. One look at the table of objects
// takes down the oldest that come after those of the look before, so many that the next is some Steps away. It is this agent's memory
// alone: what has to outlast it is in the ledger, and a round is good only as long as the ledger is what the round left there.
//
// What is named after a look is born after everything that the look saw, so no object gets in behind a round's back.
type round struct {
	ledger []byte // encoded, as the last Step left it

	// As of the last look.
	n       uint64
	logTime int64
	limits  map[entry.UUID]uint64 // up to which birth of each topic
	todo    []object              // in order of birth
	more    bool                  // there are objects behind todo

	seen object // the last that was looked at
	some bool   // seen is meant
}

// object is a merged object.
type object struct {
	born uint64
	id   entry.ObjectID
}

func (o object) compare(p object) int { return cmp.Or(cmp.Compare(o.born, p.born), o.id.Compare(p.id)) }

// look takes down up to most objects.
func (r *round) look(meta Meta, v *view, ledger *Ledger, most int) {
	r.n, r.logTime, r.more = v.n, v.logTime, false
	r.limits = make(map[entry.UUID]uint64, len(ledger.Topics))
	from := make(map[entry.UUID]uint64, len(ledger.Topics))
	for name, t := range ledger.Topics {
		var topic entry.UUID
		_, _ = hex.Decode(topic[:], []byte(name)) // ParseLedger has checked it
		// Objects named after the last run are left for the next where nothing hangs on them: most are merged away until then.
		r.limits[topic] = ledger.RunN
		if ledger.RunN == 0 || len(t.Bears) > 1 {
			r.limits[topic] = v.n
		}
		from[topic] = t.Verified
	}
	oldest := newest(r.todo[:0])
	for o := range objects(meta) {
		limit, known := r.limits[o.ID.Topic]
		x := object{o.Born, o.ID}
		if !o.ID.Merged() || !known || o.Born <= from[o.ID.Topic] || o.Born > limit || r.some && x.compare(r.seen) <= 0 {
			continue
		}
		switch {
		case len(oldest) < most:
			heap.Push(&oldest, x)
		case x.compare(oldest[0]) < 0:
			oldest[0] = x
			heap.Fix(&oldest, 0)
			r.more = true
		default:
			r.more = true
		}
	}
	r.todo = oldest
	slices.SortFunc(r.todo, object.compare)
}

// done strikes the first object off.
func (r *round) done() {
	r.seen, r.some = r.todo[0], true
	r.todo = r.todo[1:]
}

// note writes down how far each topic's objects were looked at, and reports whether some are left.
func (r *round) note(ledger *Ledger) (more bool) {
	left := make(map[entry.UUID]uint64) // the oldest birth that is left
	for _, o := range slices.Backward(r.todo) {
		left[o.id.Topic] = o.born
	}
	for topic, limit := range r.limits {
		t := ledger.Topics[hex.EncodeToString(topic[:])]
		born, some := left[topic]
		switch {
		case some:
			limit = born - 1
		case r.more && len(r.todo) > 0: // what is behind is no older than the last
			limit = min(limit, r.todo[len(r.todo)-1].born-1)
		case r.more:
			limit = min(limit, r.seen.born-1)
		}
		t.Verified = max(t.Verified, limit)
	}
	return len(r.todo) > 0 || r.more
}

// newest is a heap with the newest object first.
type newest []object

func (h newest) Len() int           { return len(h) }
func (h newest) Less(a, b int) bool { return h[a].compare(h[b]) > 0 }
func (h newest) Swap(a, b int)      { h[a], h[b] = h[b], h[a] }

// Push implements heap.Interface.
func (h *newest) Push(x any) { *h = append(*h, x.(object)) }

// Pop implements heap.Interface.
func (h *newest) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// viewObjects is how many places of the table of objects one look at the state takes: it must be short.
const viewObjects = 8192

// objects are those of the state, read in pages: one that is named or forgotten meanwhile may be among them or not.
func objects(meta Meta) iter.Seq[state.Object] {
	return func(yield func(state.Object) bool) {
		var page []state.Object
		for place, more := 0, true; more; {
			meta.View(func(st *state.State) { page, place, more = st.ObjectsFrom(place, viewObjects, page[:0]) })
			for _, o := range page {
				if !yield(o) {
					return
				}
			}
		}
	}
}
