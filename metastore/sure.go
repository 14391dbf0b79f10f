package metastore

import (
	"sync"
	"sync/atomic"
	"time"
)

// An agent that is cut off from the log cannot see that others have removed it, and who does its work in its place. What it
// can see is for how long it has not heard: the log's head is read every second, and once everything up to it is applied
// the state is as new as the moment before that read was sent. When the answer came says nothing: a process that was stopped finds
// in its sockets what was answered long before.
//
// Others remove an agent once its lease has lapsed, which is renewed three times in its time, and once they have missed it twice, a
// tenth of it apart. So where an agent is cut off, two thirds of the lease later nobody can have taken its place yet. Where its registration
// was ended from outside somebody can, and that long at most after it the agent counts itself as unsure.

// sureness is since when this agent is known to have had everything.
type sureness struct {
	awaited atomic.Uint64 // the n of a head that was read and is not applied yet; 0: there is none

	mu    sync.Mutex // guards the rest
	asked time.Time  // when that head was asked for
	at    time.Time  // everything that was committed before is applied
}

// has notes that everything committed before at is applied.
func (s *sureness) has(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(s.at) {
		s.at = at
	}
}

// await notes a head that is not applied yet. One at a time is waited for: newer ones, again and again, might never be reached.
func (s *sureness) await(n uint64, asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.awaited.Load() == 0 {
		s.asked = asked
		s.awaited.Store(n)
	}
}

// reached notes that n is applied.
func (s *sureness) reached(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if awaited := s.awaited.Load(); awaited == 0 || n < awaited {
		return
	}
	s.awaited.Store(0)
	if s.asked.After(s.at) {
		s.at = s.asked
	}
}

// age is how old the state may be. Of the two clocks the one counts that has gone further: the monotonic one stands still while a
// machine is suspended, and the other may be set back.
func (s *sureness) age(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(now.Sub(s.at), now.Round(0).Sub(s.at.Round(0)))
}

// sureFor is how long an agent that hears nothing counts on what it has applied.
func (c *Client) sureFor() time.Duration { return c.cfg.RegistrationTTL / 3 * 2 }

// Sure is for how long from now this agent may count on what it has applied to say who has joined and who owns a slot, without another
// word from the log. 0 or less: it has heard nothing for so long that others may have removed it. It comes right by itself.
func (c *Client) Sure() time.Duration { return c.sureFor() - c.sure.age(c.clockNow()) }

// heardHead notes that the head was n at some moment since asked.
func (c *Client) heardHead(n uint64, asked time.Time) {
	if c.applied.Load() >= n {
		c.sure.has(asked)
		return
	}
	c.sure.await(n, asked)
	c.sure.reached(c.applied.Load()) // while it was noted
}
