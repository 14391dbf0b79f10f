package merge

import (
	"math"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/rendezvous"
)

// Flushed is an object of level 0 that is in the bucket.
type Flushed struct {
	ID   entry.ObjectID
	Size int64  // bytes
	Born uint64 // n of the entry that first named it
}

// Window is a run of neighbouring objects of level 0, which are merged together.
type Window struct {
	Objects []Flushed // never empty, in order of Born
	Bytes   int64     // of all
	// Closed: the run has its end, wherever the log goes on. Only the last window is not.
	Closed bool
}

// Key says whose the window is: see duty.Mine. It stays while the window grows.
func (w *Window) Key() uint64 { return duty.Object(w.Objects[0].ID) }

// Bounds say where windows end.
type Bounds struct {
	Bytes   int64 // a window has no more than one object above this
	Objects int   // a window has no more
}

// BoundsFor are the bounds for a cluster of so many topics: a window makes an object for each, and those should not be smaller than
// what agents flush, or merging would cost more requests than producing. It moves by powers of two, so that agents whose replicas
// differ by a topic agree.
func BoundsFor(topics int, least, most int64) Bounds {
	const perTopic = 8 << 20
	bytes := least
	for bytes < most && bytes/perTopic < int64(topics) {
		bytes *= 2
	}
	return Bounds{Bytes: min(bytes, most), Objects: windowObjectsMax}
}

const windowObjectsMax = 2048

// Windows cuts objects, sorted by Born, into windows. Every agent finds the same: where a window ends depends on the objects in it
// and on where the one before it ended. Ends fall by chance, seeded by the objects' ids, once a window is half full: so two agents
// that do not agree about old objects, of which one has merged some, agree again a few windows later. A window never has to wait
// for those before it: when these are merged and gone, the cut is where it was.
func Windows(objects []Flushed, b Bounds) []Window {
	var out []Window
	var w Window
	first := 0
	for i, o := range objects {
		w.Bytes += o.Size
		w.Objects = objects[first : i+1 : i+1]
		half := max(b.Bytes/2, 1)
		full := w.Bytes >= b.Bytes || len(w.Objects) >= b.Objects
		if full || w.Bytes >= half && chance(o.ID) < float64(o.Size)/float64(half) {
			w.Closed = true
			out = append(out, w)
			w, first = Window{}, i+1
		}
	}
	if len(w.Objects) > 0 {
		out = append(out, w)
	}
	return out
}

// chance is a number in [0, 1) that belongs to the object and to nothing else.
func chance(id entry.ObjectID) float64 {
	const salt = 0x66_69_72_6e // who owns the object is decided by the same id
	return float64(rendezvous.Mix(duty.Object(id)^salt)) / math.MaxUint64
}

// Patience says when a window that is not closed is merged all the same.
type Patience struct {
	After  time.Duration // where it has twice as many objects as would come out
	Longer time.Duration // where it has as many
	Most   time.Duration // in any case: what came this late costs little, however many objects it makes
}

// Contents are what of a window's topics decides when it is due.
type Contents struct {
	Topics int // as many objects would come out
	// Lag is the shortest max.compaction.lag.ms of those that are compacted and have one; 0: none has.
	Lag time.Duration
}

// Due says whether a window is to be merged now, given how long ago its oldest object was first seen. It asks for contents only where
// these matter.
//
// This is what keeps merging cheaper than producing: a PUT of a merge takes the place of two or more of producers, or of a window's
// worth of bytes, or happens once in Most for a topic. Where a topic promises that superseded records are gone after a time, it happens
// once in half of that, for key compaction leaves alone what is not merged; the other half is key compaction's. But not before After.
func (p Patience) Due(w *Window, age time.Duration, contents func() Contents) bool {
	switch {
	case w.Closed, age >= p.Most:
		return true
	case age < p.After:
		return false
	}
	c := contents()
	if c.Lag > 0 && age >= c.Lag/2 {
		return true
	}
	enough := 2 * c.Topics
	if age >= p.Longer {
		enough /= 2
	}
	return len(w.Objects) >= enough
}

// sightings remember when entries were first seen to be applied, so that the age of what was born at n is known without remembering
// every object. Ages are this agent's own: after a start everything is new.
type sightings struct {
	seen []sighting // ascending in both
}

type sighting struct {
	n  uint64
	at time.Time
}

const sightingsMax = 1024

// look notes that n is applied.
func (s *sightings) look(n uint64, now time.Time, span time.Duration) {
	if last := len(s.seen) - 1; last >= 0 && (s.seen[last].n >= n || now.Sub(s.seen[last].at) < span/(sightingsMax/2)) {
		return
	}
	if len(s.seen) == sightingsMax {
		s.seen = append(s.seen[:1], s.seen[sightingsMax/2:]...) // the first stands for all that is older
	}
	s.seen = append(s.seen, sighting{n, now})
}

// age is how long ago what was born at n was seen first; 0 where it was not.
func (s *sightings) age(born uint64, now time.Time) time.Duration {
	for _, x := range s.seen {
		if x.n >= born {
			return now.Sub(x.at)
		}
	}
	return 0
}
