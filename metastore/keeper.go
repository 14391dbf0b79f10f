package metastore

import (
	"context"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// keep runs this agent's periodic duties.
func (c *Client) keep() {
	next := map[string]time.Time{}
	due := func(what string, every time.Duration) bool {
		now := time.Now()
		if t, ok := next[what]; ok && now.Before(t) {
			return false
		}
		next[what] = now.Add(every)
		return true
	}
	absent := make(map[log.Incarnation]int)
	var reported uint64
	var level levelWatch
	for c.pause(min(c.cfg.TickInterval, c.cfg.RegistrationTTL/3) / 3) {
		s := c.session.Load()
		if s == nil || !s.joined.Load() {
			continue
		}
		if due("tick", c.cfg.TickInterval) {
			if applied := s.appliedSeq(); applied == reported { // nothing of ours carried a clock since
				c.Submit(&entry.Tick{}, func(state.OpResult, error) {})
				reported++ // the tick itself
			} else {
				reported = applied
			}
		}
		if due("members", c.cfg.RegistrationTTL/10) { // a registration that is gone has lasted long enough already
			c.removeDead(absent)
		}
		c.raiseLevel(&level)
	}
}

// removeDead proposes the departure of agents whose registration is gone. Twice absent, because a session that is being
// replaced has a moment without one. Any agent may do it; Leave of one who left changes nothing.
func (c *Client) removeDead(absent map[log.Incarnation]int) {
	ctx, cancel := context.WithTimeout(c.ctx, commitAttempt)
	defer cancel()
	var joined []state.Agent
	c.View(func(st *state.State) { joined = st.Agents() })
	members, err := c.log.Members(ctx)
	if err != nil {
		return
	}
	live := make(map[log.Incarnation]bool, len(members))
	for _, m := range members {
		live[m.Incarnation] = true
	}
	for _, a := range joined {
		inc := log.Incarnation(a.Incarnation)
		if live[inc] || inc == c.Incarnation() {
			delete(absent, inc)
			continue
		}
		if absent[inc]++; absent[inc] >= 2 {
			delete(absent, inc)
			c.cfg.Logger.Info("removing an agent whose registration is gone", "agent", a.Name, "node_id", a.NodeID, "incarnation", inc)
			c.Submit(&entry.Leave{Incarnation: inc}, func(state.OpResult, error) {})
		}
	}
}
