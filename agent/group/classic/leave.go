package classic

import (
	"fmt"
	"time"

	"github.com/firnlog/firn/agent/group/step"
)

// LeaveRequest is one member of a LeaveGroup. With an instance id alone, whoever has it is removed, by an operator's word.
type LeaveRequest struct {
	MemberID, InstanceID string
	Reason               string
}

// Leave takes a LeaveGroup: w is answered with a []step.Code, one for each member.
func (g *Group) Leave(reqs []LeaveRequest, w step.Waiter, now time.Time) (eff step.Effects) {
	codes := make([]step.Code, len(reqs))
	why := ""
	for i := range reqs {
		req := &reqs[i]
		var m *member
		switch {
		case req.MemberID == "":
			if m = g.static[req.InstanceID]; m == nil {
				codes[i] = step.UnknownMemberID
			}
		case g.isPending(req.MemberID):
			delete(g.pending, req.MemberID)
		default:
			m, codes[i] = g.known(req.MemberID, req.InstanceID)
		}
		if m != nil {
			why = fmt.Sprintf("member %s leaves%s", m.id, because(req.Reason))
			g.remove(m, step.UnknownMemberID, &eff)
		}
	}
	g.removedSome(why, now, &eff)
	eff.Answer(w, step.None, codes)
	return eff
}

// removedSome goes on after members went, or pending ones: why is empty where no members did.
func (g *Group) removedSome(why string, now time.Time, eff *step.Effects) {
	if why != "" {
		g.prepare(why, now, eff)
	}
	g.completeJoin(now, eff)
	if len(g.removed) > 0 { // unless a new generation has told it
		g.write(eff)
	}
}

// Abandon implements step.Machine: the client's connection is gone. Whoever brought its id may come back with it, and has
// its session for that; nobody else knows the id.
func (g *Group) Abandon(w step.Waiter, now time.Time) (eff step.Effects) {
	for _, m := range g.members {
		switch w {
		case m.join:
			m.join = 0
			if m.fresh && m.anonymous && m.instance == "" {
				g.remove(m, step.UnknownMemberID, &eff)
				g.removedSome(fmt.Sprintf("member %s went before it was answered", m.id), now, &eff)
			} else {
				g.alive(m, now)
			}
			return eff
		case m.sync:
			m.sync = 0
			g.alive(m, now)
			return eff
		}
	}
	return eff
}

// Deadline implements step.Machine.
func (g *Group) Deadline() time.Time { return g.wake }

// Tick implements step.Machine.
func (g *Group) Tick(now time.Time) (eff step.Effects) {
	if g.wake.IsZero() || now.Before(g.wake) {
		return eff
	}
	for id, until := range g.pending {
		if !now.Before(until) {
			delete(g.pending, id)
		}
	}
	why := ""
	for i := 0; i < len(g.members); {
		m := g.members[i]
		if now.Before(m.expires) || m.waits() && !m.fresh {
			i++
			continue
		}
		why = fmt.Sprintf("member %s was not heard of for %v", m.id, m.session)
		if m.fresh && m.join != 0 {
			why = fmt.Sprintf("member %s waited to join for %v", m.id, g.cfg.NewMemberTimeout)
		}
		g.remove(m, step.UnknownMemberID, &eff)
	}
	if !g.syncBy.IsZero() && !now.Before(g.syncBy) {
		for i := 0; i < len(g.members); {
			m := g.members[i]
			if !m.unsynced {
				i++
				continue
			}
			why = fmt.Sprintf("member %s did not sync in time", m.id)
			g.remove(m, step.UnknownMemberID, &eff)
		}
		g.syncBy = time.Time{}
	}
	g.removedSome(why, now, &eff)
	if g.state == PreparingRebalance && !now.Before(g.joinBy) {
		if g.initial && g.grown && g.joinBy.Before(g.companyBy) {
			g.grown = false
			if g.joinBy = g.joinBy.Add(g.cfg.InitialDelay); g.joinBy.After(g.companyBy) {
				g.joinBy = g.companyBy
			}
		} else {
			g.nextGeneration(now, &eff)
		}
	}
	g.rearm()
	return eff
}

// rearm finds the earliest deadline.
func (g *Group) rearm() {
	g.wake = time.Time{}
	for _, until := range g.pending {
		g.arm(until)
	}
	for _, m := range g.members {
		if !m.waits() || m.fresh {
			g.arm(m.expires)
		}
	}
	if !g.syncBy.IsZero() {
		g.arm(g.syncBy)
	}
	if g.state == PreparingRebalance {
		g.arm(g.joinBy)
	}
}

// Renew implements step.Machine.
func (g *Group) Renew(now time.Time) {
	for _, m := range g.members {
		if until := now.Add(m.session); until.After(m.expires) {
			m.expires = until
		}
	}
	if !g.syncBy.IsZero() {
		g.syncBy = now.Add(g.rebalanceTimeout())
	}
	if g.state == PreparingRebalance && !g.initial { // in which case those who are there have joined
		g.joinBy = now.Add(g.rebalanceTimeout())
	}
	g.rearm()
}
