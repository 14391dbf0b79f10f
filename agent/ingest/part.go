package ingest

import (
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/wal"
)

// Part is one record batch on its way into one partition.
//
// Life cycle: staged (in memory or spilled) → uploading → uploaded → submitted → answered. A submitted part may be parked
// (its predecessor is missing) and submitted again, or go back to uploading (its object's collection epoch passed). The
// caller owns a Part before Stage and after done, the pipeline in between.
type Part struct {
	Topic     entry.UUID
	Partition int32
	// Records is exactly one validated batch. It must not change until Release or done, whichever comes first; the
	// pipeline forgets it when it has a copy.
	Records []byte
	Header  batch.Header
	// Lock is the lock on the object that holds the part; the zero value is none. See "Locks" in the package doc.
	Lock Lock
	// LogAppendTime asks for Timestamp in the answer: the topic's records carry the log's time.
	LogAppendTime bool
	// Release, where set, is called once when Records is no longer needed: copied into a segment, spilled, or given up.
	// It comes before done, from any goroutine, and must not block.
	Release func()

	// Outputs, valid from done on.

	// Code is OK (also for an exact duplicate, with its first offset) or why the state machine refused the batch.
	Code state.Code
	// Err is set where there is no Code: ErrClosed and what wraps it (outcome unknown), or a definite error of the bucket
	// or the metastore for this batch.
	Err            error
	BaseOffset     int64 // -1 where unknown
	Timestamp      int64 // ms; -1 unless LogAppendTime
	LogStartOffset int64

	call *call
	// seg holds the part now, at parts[slot]. Invariant: nil exactly when the part is answered or not staged.
	seg      *flight
	slot     int
	released bool    // Release was called
	ref      wal.Ref // where spilled is set
	spilled  bool
	size     int64  // of Records
	block    uint32 // in the segment's table; set when the segment is built
	position int64  // raw, in the block
	waiting  waiting
}

// Lock says how an object is protected in the bucket.
type Lock struct {
	Mode objstore.LockMode
	Days int32
}

// waiting is a parked part's share of the state in gaps.
type waiting struct {
	until time.Time // when its answer is due; zero: never parked
	on    bool      // parked now, not submitted
	final bool      // submitted for the last time: a gap is now the answer
	// tried: submitted again when the state showed seen and known (see gapKey).
	tried, known bool
	seen         int32
}

// span is how many offsets the part takes.
func (p *Part) span() int64 { return p.Header.Span() }

// call is one Stage: it is done when all its parts are.
type call struct {
	open int
	done func()
	next *call // of those to be answered together
}

var calls = sync.Pool{New: func() any { return new(call) }}

// answered chains calls that are complete, in order, to be told when no lock is held.
type answered struct{ first, last *call }

func (a *answered) add(c *call) {
	if a.last == nil {
		a.first = c
	} else {
		a.last.next = c
	}
	a.last = c
}

func (a *answered) tell() {
	for c := a.first; c != nil; {
		next, done := c.next, c.done
		*c = call{}
		calls.Put(c)
		done()
		c = next
	}
	*a = answered{}
}
