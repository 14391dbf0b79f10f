package sparse

import (
	"sync"
	"time"
)

// Interval is the least time between two lines of a kind.
const Interval = time.Minute

// kindsMax bounds the kinds that are told apart; those beyond it share one.
const kindsMax = 256

// Lines decides which lines are written. The zero value is ready. Safe for concurrent use.
type Lines struct {
	mu    sync.Mutex // guards kinds
	kinds map[string]*kind
}

type kind struct {
	last    time.Time // of the line that was written
	leftOut int       // since then
}

// Take reports whether a line of this kind is to be written now, and how many were left out since the one before it.
func (l *Lines) Take(name string) (leftOut int, write bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[name]
	if k == nil {
		if len(l.kinds) >= kindsMax {
			l.makeRoomLocked(now)
		}
		if len(l.kinds) >= kindsMax {
			name = ""
		}
		if k = l.kinds[name]; k == nil {
			if l.kinds == nil {
				l.kinds = make(map[string]*kind)
			}
			k = &kind{}
			l.kinds[name] = k
		}
	}
	if !k.last.IsZero() && now.Sub(k.last) < Interval {
		k.leftOut++
		return 0, false
	}
	leftOut, k.leftOut, k.last = k.leftOut, 0, now
	return leftOut, true
}

// makeRoomLocked forgets kinds that were quiet for an interval.
func (l *Lines) makeRoomLocked(now time.Time) {
	for name, k := range l.kinds {
		if now.Sub(k.last) >= Interval {
			delete(l.kinds, name)
		}
	}
}
