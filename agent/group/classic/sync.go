package classic

import (
	"fmt"
	"slices"
	"time"

	"github.com/firnlog/firn/agent/group/step"
)

// SyncRequest is a SyncGroup.
type SyncRequest struct {
	MemberID, InstanceID string
	Generation           int32
	// ProtocolType and Protocol are what the member believes to be in force; empty where it does not say.
	ProtocolType, Protocol string
	// Assignments are the leader's, by member id. The group keeps them.
	Assignments map[string][]byte
}

// Synced is the body of an answer to a SyncGroup that was not refused.
type Synced struct {
	ProtocolType, Protocol string
	Assignment             []byte
}

// Sync takes a SyncGroup. w is answered now or when the leader has synced.
func (g *Group) Sync(req *SyncRequest, w step.Waiter, now time.Time) (eff step.Effects) {
	m, code := g.known(req.MemberID, req.InstanceID)
	switch {
	case code != step.None:
	case req.Generation != g.generation:
		code = step.IllegalGeneration
	case req.ProtocolType != "" && req.ProtocolType != g.protocolType, req.Protocol != "" && req.Protocol != g.protocol:
		code = step.InconsistentProtocol
	case g.state == PreparingRebalance:
		g.alive(m, now)
		code = step.RebalanceInProgress
	case g.state == CompletingRebalance && g.leader == m.id && !g.fits(req.Assignments):
		code = step.InvalidRequest
	}
	if code != step.None {
		eff.Answer(w, code, nil)
		return eff
	}
	m.unsynced = false
	if g.state == CompletingRebalance {
		eff.Answer(m.sync, step.RebalanceInProgress, nil) // one waits in vain: there is another of it
		m.sync = w
		if g.leader == m.id {
			g.assign(req.Assignments, now, &eff)
		}
	} else {
		g.alive(m, now)
		eff.Answer(w, step.None, g.synced(m))
	}
	if !slices.ContainsFunc(g.members, func(m *member) bool { return m.unsynced }) {
		g.syncBy = time.Time{}
	}
	return eff
}

// fits says whether the assignments are within bounds.
func (g *Group) fits(assignments map[string][]byte) bool {
	for id, a := range assignments {
		if len(a) > g.cfg.AssignmentBytes && g.byID[id] != nil {
			return false
		}
	}
	return true
}

// assign takes the leader's assignments: the group is stable. Members that it left out have none.
func (g *Group) assign(assignments map[string][]byte, now time.Time, eff *step.Effects) {
	g.state = Stable
	for _, m := range g.members {
		m.assignment, m.changed = assignments[m.id], true
	}
	g.write(eff)
	for _, m := range g.members {
		if m.sync != 0 {
			eff.Answer(m.sync, step.None, g.synced(m))
			m.sync = 0
			g.alive(m, now)
		}
	}
	eff.Note(fmt.Sprintf("generation %d is stable", g.generation))
}

func (g *Group) synced(m *member) *Synced {
	return &Synced{ProtocolType: g.protocolType, Protocol: g.protocol, Assignment: m.assignment}
}
