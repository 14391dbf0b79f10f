package group

import (
	"time"

	"github.com/firnlog/firn/agent/group/step"
)

// An agent that alone is cut off from the log still believes to own its slots when others have removed it and claimed them. What it
// proposes then is refused by its epoch; but what it says without a proposal, that a member is well, would keep that member with it
// while its successor hears nothing of it and removes it. So it answers members only while Meta is sure of what it has applied. It is
// asked at every request: a process that was stopped notices before it says anything.
//
// Nor does it name itself to who looks for a coordinator (OwnerOf): others may know another. What it has applied about other agents' slots it
// goes on telling, since these judge for themselves.
//
// In an outage that all share nobody is sure and nobody removes anybody. Members are told to look for the coordinator, find
// none, and ask again; no session runs out meanwhile. Nobody can tell the two apart who hears nothing.
//
// Groups go out of memory with that, as they do when a slot is lost, and come back from the state with their sessions begun anew. Who
// waited for other members is told to look for the coordinator, too.

// surePoll is how often it is looked whether the agent is sure, at least, and unsurePoll whether it is so again. A machine that was
// suspended wakes with timers that know nothing of it.
const (
	surePoll   = time.Second
	unsurePoll = 100 * time.Millisecond
)

// unheard says whether this agent must not answer for what it believes to coordinate.
func (c *Coordinator) unheard() bool { return c.unsure.Load() || c.meta.Sure() <= 0 }

// watchSure stops coordinating where this agent is not sure any more what it owns, and goes on where it is again.
func (c *Coordinator) watchSure() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			return
		}
		left := c.meta.Sure()
		switch was := c.unsure.Load(); {
		case left <= 0 && !was:
			c.unsure.Store(true)
			c.cfg.Logger.Warn("nothing was heard from the metastore for so long that other agents may have taken over: members of consumer groups are told to look for their coordinator until it answers")
			c.discardAll(step.NotAvailable)
		case left > 0 && was:
			c.discardAll(step.NotAvailable) // who was let in while it was noticed
			c.regained.Add(1)
			c.unsure.Store(false)
			c.cfg.Logger.Info("the metastore answers again: what consumer groups this agent still owns it coordinates")
			c.wakeManage()
		}
		if left = min(left, surePoll); left <= 0 {
			left = unsurePoll
		}
		timer.Reset(left)
	}
}

// discardAll takes all groups out of memory and answers whoever waits.
func (c *Coordinator) discardAll(code Code) {
	var all []*Group
	c.mu.Lock()
	for i := range c.slots {
		for _, g := range c.slots[i].groups {
			all = append(all, g)
		}
	}
	c.mu.Unlock()
	for _, g := range all {
		g.mu.Lock()
		if g.calls > 0 && !g.gone {
			g.fail(code)
		} else {
			g.discard(code)
		}
		g.mu.Unlock()
	}
}
