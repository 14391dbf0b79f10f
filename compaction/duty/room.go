package duty

import (
	"math"
	"time"
)

// Room is what a duty has learned of how many bytes a piece of its work may have in scratch space: a disk may be smaller than its bound,
// or full of other things. Nothing is known at first. What was refused is halved, and that is remembered, so that the next piece does not
// begin with as much again; after a while, and later and later, twice as much is tried, for the disk may have room by then. It has no clock,
// and is used by one goroutine.
type Room struct {
	// Least and Most bound after what time twice as much is tried again.
	Least, Most time.Duration

	bound int64 // 0: any
	// asked is the most that was refused since there was a bound.
	asked int64
	// next is when twice the bound is tried; delay after what time.
	next  time.Time
	delay time.Duration
	// probing: the bound was raised, and has not been refused since.
	probing bool
	// ended is when there was last no bound any more.
	ended time.Time
}

// RoomMend is what an operator can do where there is too little room.
const RoomMend = "free space on the disk of --data-dir, or lower --merge-window-max-bytes and --merge-object-bytes"

// Look says how many bytes a piece of work may have now, and whether it is over that there is a bound: then any number.
func (r *Room) Look(now time.Time) (bound int64, over bool) {
	if r.bound > 0 && !now.Before(r.next) {
		over = r.raise(now)
	}
	if r.bound == 0 {
		return math.MaxInt64, over
	}
	return r.bound, over
}

// Bound is the one in force, 0: none. For metrics.
func (r *Room) Bound() int64 { return r.bound }

// Full notes that a piece of work of so many bytes found too little room, and reports whether that is news.
func (r *Room) Full(bytes int64, now time.Time) (began bool) {
	began = r.bound == 0
	if began && now.Sub(r.ended) > r.Most {
		r.delay = 0
	}
	if began || r.probing {
		r.delay = min(max(2*r.delay, r.Least), r.Most)
	}
	r.asked = max(r.asked, bytes)
	if !began {
		bytes = min(bytes, r.bound)
	}
	r.bound, r.probing, r.next = max(bytes/2, 1), false, now.Add(r.delay)
	return began
}

// Held notes that a piece of work of so many bytes had room, and reports whether it is over that there is a bound. More is tried only
// after work that uses the bound, and only while more is tried already.
func (r *Room) Held(bytes int64, now time.Time) (over bool) {
	if r.bound > 0 { // work that cannot be made smaller may be far beyond the bound: a disk that was full for hours leaves one of a byte
		r.bound = max(r.bound, bytes/2)
	}
	return r.bound > 0 && r.probing && bytes > r.bound/2 && r.raise(now)
}

// raise doubles the bound, and drops it where far more may be done than was ever refused.
func (r *Room) raise(now time.Time) (over bool) {
	if r.bound/2 >= r.asked {
		*r = Room{Least: r.Least, Most: r.Most, delay: r.delay, ended: now}
		return true
	}
	r.bound, r.probing, r.next = 2*r.bound, true, now.Add(r.delay)
	return false
}
