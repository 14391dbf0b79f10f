package kafka

import (
	"errors"
	"sync/atomic"
	"time"
)

// A process may be stopped for a while: a machine that pages, a virtual machine that is moved, SIGSTOP. When it goes on it finds
// requests in its sockets whose clients, or the load balancer for them, have given it up, and have since sent them to another
// agent, and others behind them. Nothing tells such a request from one that is waited for: the connection's end lies behind it
// and looks like that of who sends no more (see gone.go). Most may be done late. A commit of offsets may not: passed on to the agent
// that coordinates the group by now, or held up here until this agent does so again, it would take the group back behind what
// it has committed since. So what connections from before a sleep ask about groups is not looked at any more, and they are closed;
// who is still there connects again. Connections that are accepted in the moment after may have waited for it all the while, and count as from
// before. Other agents' connections stay, and what they pass on is refused for that moment: what lay in the sockets is read at once.
//
// A sleep is a time in which a timer did not get its turn. Whoever looks first notices it, the timer itself or a connection's
// executor, which may have been woken before.

const (
	// asleepMin is what counts as a sleep: less than a load balancer takes to give an agent up, more than a busy machine costs.
	asleepMin = 2 * time.Second
	beatEvery = asleepMin / 4
	// lateAfter is how long a commit of offsets may stand in line behind a request that was passed on: less than clients wait.
	lateAfter = 2 * time.Second
	// asleepAfter is for how long after a sleep new connections count as old, and nothing is taken from other agents.
	asleepAfter = time.Second
)

// errAsleep: the connection is from before the process was asleep.
var errAsleep = errors.New("this process was asleep")

// beat notices sleeps, from the first time that it is kept.
type beat struct {
	last   atomic.Int64  // Unix ns of the last beat; 0: it is not kept
	sleeps atomic.Uint64 // so far
	awoke  atomic.Int64  // Unix ns of the end of the last one
}

// keep looks for sleeps until done is closed. Any number may do so at once; where one ends, and others are late to go on, a sleep may
// be missed, and none is made up.
func (b *beat) keep(done <-chan struct{}, noticed func(time.Duration)) {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	defer b.last.Store(0)
	for {
		b.look(noticed)
		b.last.Store(time.Now().UnixNano())
		select {
		case <-t.C:
		case <-done:
			return
		}
	}
}

// look notices a sleep that has just ended, and returns how many there have been.
func (b *beat) look(noticed func(time.Duration)) uint64 {
	last, now := b.last.Load(), time.Now().UnixNano()
	if d := time.Duration(now - last); last != 0 && d >= asleepMin && b.last.CompareAndSwap(last, now) {
		b.awoke.Store(now)
		b.sleeps.Add(1)
		noticed(d)
	}
	return b.sleeps.Load()
}

// slept says whether the process has been asleep since c was accepted.
func (c *conn) slept() bool { return c.s.beat.look(c.s.wokenUp) != c.sleeps }

// awake is slept as an error: a request that was being passed on when the process fell asleep is not sent afterwards.
func (c *conn) awake() error {
	if c.slept() {
		return errAsleep
	}
	return nil
}

// drowsy says whether the process was asleep a moment ago.
func (s *Server) drowsy() bool {
	return s.beat.look(s.wokenUp) > 0 && time.Since(time.Unix(0, s.beat.awoke.Load())) < asleepAfter
}

// wokenUp tells of a sleep.
func (s *Server) wokenUp(d time.Duration) {
	s.cfg.Logger.Warn("this process was asleep; connections from before are closed as they ask about groups", "for", d.Round(time.Millisecond))
}
