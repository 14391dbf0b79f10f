package memlog

import (
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/metastore/log"
)

// Faults are what can go wrong between one agent and the store. Numbers are chances from 0 to 1, drawn anew each time; the zero
// value is a perfect etcd. They can change at any time.
type Faults struct {
	// Ambiguous: a commit takes effect, or is judged, and ErrUnavailable is all that comes back.
	Ambiguous float64
	// Dropped: a commit never reaches the store; ErrUnavailable.
	Dropped float64
	// Late: ErrUnavailable now, and the commit is judged and applied up to LateMax (default 10 s) later, whatever happened in
	// between: a proposal outlives its call.
	Late    float64
	LateMax time.Duration
	// NoSpace: ErrUnavailable over a full store; half of these commits take effect all the same.
	NoSpace float64

	// LatencyMax: every call takes up to this long on its way there, and again on its way back.
	LatencyMax time.Duration
	// Partitioned: nothing gets through. Calls hang until they end, or fail at once with PartitionRefuses; calls under way
	// lose their answer; watches fall silent and go on afterwards; leases are not renewed.
	Partitioned, PartitionRefuses bool

	// WatchLose: an entry is never delivered.
	WatchLose float64
	// WatchRepeat: up to eight entries that were delivered before come once more.
	WatchRepeat float64
	// WatchLate: delivery pauses for up to WatchLateMax (default 2 s), progress included.
	WatchLate    float64
	WatchLateMax time.Duration
	// WatchStall: the watch is silent from here on, without an end.
	WatchStall float64
	// WatchEnd and WatchCompact: ErrWatchLost, because there is no leader, or history is gone.
	WatchEnd, WatchCompact float64

	// LeaseExpire: at a renewal that succeeds, the registration is gone all the same.
	LeaseExpire float64
	// LostHidden: Lost is not closed while this is set, whatever became of the registration.
	LostHidden bool
	// MembersStale: Members answers as of earlier.
	MembersStale float64
}

const (
	lateMaxDefault      = 10 * time.Second
	watchLateMaxDefault = 2 * time.Second
	repeatMax           = 8
	formerMembersMax    = 8
)

func (f Faults) withDefaults() Faults {
	if f.LateMax == 0 {
		f.LateMax = lateMaxDefault
	}
	if f.WatchLateMax == 0 {
		f.WatchLateMax = watchLateMaxDefault
	}
	return f
}

// Counts says how often each fault struck, over all agents of a store. A fault strikes where it changes what an agent sees or
// what happens, not where it was drawn in vain.
type Counts struct {
	Ambiguous, Dropped, Late, NoSpace int
	LateApplied                       int // of Late, those whose guards let them in
	NoSpaceApplied                    int
	Delayed, Partitioned              int // calls
	WatchLost, WatchRepeated          int // entries
	WatchLate, WatchStalled           int
	WatchEnded, WatchCompacted        int
	LeaseExpired, LostHidden          int
	MembersStale                      int
}

// Why a call is unavailable: the words of etcd and of its connections.
var (
	errRefused     = errors.New("connection refused")
	errTimedOut    = errors.New("request timed out")
	errReset       = errors.New("connection reset")
	errNoSpace     = fmt.Errorf("%w: database space exceeded", log.ErrFull)
	errPartitioned = errors.New("partitioned")
)

// drawLocked is true with the given chance.
func (s *Store) drawLocked(chance float64) bool { return chance > 0 && s.rand.Float64() < chance }

// upToLocked is a duration in (0, limit].
func (s *Store) upToLocked(limit time.Duration) time.Duration {
	return time.Duration(s.rand.Int64N(int64(limit))) + 1
}
