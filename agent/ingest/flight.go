package ingest

import (
	"cmp"
	"slices"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore/segment"
)

// flight is a segment from its first part to the answer of its last.
//
// Guarded by Pipeline.mu, but for the fields of the worker: those belong to the worker from the loop's send until it
// reports back, and do not change afterwards.
type flight struct {
	prev, next *flight // in the ring of live flights
	// parts are in order of staging; nil where a part was answered or moved. Invariant: open counts the others.
	parts    []*Part
	open     int
	lock     Lock      // of all its parts
	raw      int64     // bytes of all parts ever added
	resident int64     // bytes counted in Pipeline.resident for it
	readBack int64     // bytes of it that were spilled and are in memory again, counted in Pipeline.readBack
	since    time.Time // when the first part was staged
	reason   flushReason
	ended    bool // the worker is through: submit it, or forget it where subs is empty
	inLine   bool // in Pipeline.line or with the worker; not to be recycled

	// Of the worker. id is set by the loop before.
	id     entry.ObjectID
	order  []*Part // sorted by topic id and partition, then by order of staging: the order of the bytes
	body   []byte
	footer *segment.Footer
	subs   []*submission
	// source is where restaged parts find their bytes: the object that was refused.
	source []byte
}

// add appends a part; the caller accounts for memory.
func (f *flight) add(part *Part) {
	part.seg, part.slot = f, len(f.parts)
	f.parts = append(f.parts, part)
	f.open++
	f.raw += part.size
}

// freeFlights bounds how many idle flights are kept for their slices.
const freeFlights = 8

func (p *Pipeline) newFlightLocked() *flight {
	var f *flight
	if n := len(p.free); n > 0 {
		f, p.free = p.free[n-1], p.free[:n-1]
	} else {
		f = new(flight)
	}
	f.prev, f.next = p.live.prev, &p.live
	f.prev.next, f.next.prev = f, f
	return f
}

// recycleLocked forgets a flight without open parts, unless it is still in line: then the loop does when it leaves.
func (p *Pipeline) recycleLocked(f *flight) {
	if f.inLine {
		return
	}
	f.prev.next, f.next.prev = f.next, f.prev
	if len(p.free) == freeFlights {
		return
	}
	clear(f.parts)
	clear(f.order)
	*f = flight{parts: f.parts[:0], order: f.order[:0], subs: f.subs[:0]}
	p.free = append(p.free, f)
}

// sortOrder puts order, which is in order of staging, into the order of a segment's blocks and gives each part its place.
func (f *flight) sortOrder() {
	slices.SortStableFunc(f.order, func(a, b *Part) int {
		return cmp.Or(compareUUID(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	var block uint32
	var position int64
	for i, part := range f.order {
		if i > 0 && (part.Topic != f.order[i-1].Topic || part.Partition != f.order[i-1].Partition) {
			block, position = block+1, 0
		}
		part.block, part.position = block, position
		position += part.size
	}
}
