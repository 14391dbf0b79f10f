package kafka

import (
	"sync/atomic"
	"time"
)

// A process that stood still for seconds (a machine that was suspended, a host out of memory, SIGSTOP) goes on with requests whose
// clients have long given up and sent the next ones through another agent. Most do no harm so late: the log refuses what is stale.
// A commit of offsets of a member that is still one cannot be told from a new one, and would take the group back. So after a
// stall commits are refused until what lay in the buffers is through: clients that are still there send theirs again.

const (
	stallTick = 500 * time.Millisecond
	// stallMin is what counts as one: less than any client waits before it goes elsewhere.
	stallMin = 2 * time.Second
	// stallWake is how long after one commits are refused. What came before it is read within moments.
	stallWake = time.Second
)

// stall notices that the process stood still, once it has begun.
type stall struct {
	base  time.Time
	began atomic.Bool
	tick  atomic.Int64 // when it was last known to run, in nanoseconds after base
	until atomic.Int64 // end of the time after a stall, likewise
}

func newStall(now time.Time) *stall { return &stall{base: now} }

// begin is the first tick.
func (w *stall) begin(now time.Time) {
	w.tick.Store(int64(now.Sub(w.base)))
	w.began.Store(true)
}

// run notes that the process runs, every stallTick.
func (w *stall) run(now time.Time) {
	at := int64(now.Sub(w.base))
	if at-w.tick.Load() > int64(stallMin) {
		w.until.Store(at + int64(stallWake))
	}
	w.tick.Store(at) // behind until: who sees it sees that too
}

// lately says whether the process stood still until a moment ago.
func (w *stall) lately(now time.Time) bool {
	at := int64(now.Sub(w.base))
	return w.began.Load() && (at-w.tick.Load() > int64(stallMin) || at < w.until.Load())
}

// watchStalls runs until the server closes.
func (s *Server) watchStalls() {
	ticker := time.NewTicker(stallTick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.stall.run(time.Now())
		case <-s.closed:
			return
		}
	}
}
