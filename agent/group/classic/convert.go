package classic

import (
	"slices"
	"time"

	"github.com/firnlog/firn/agent/group/step"
)

// Handover describes the group for a machine of another protocol that is to go on with it: without members that do not know yet that
// they are some. gone are ids that the state has and the group has no more. The group is left as it is.
func (g *Group) Handover() (d Description, gone []string) {
	d = g.Describe()
	d.Members = slices.DeleteFunc(d.Members, func(m MemberDescription) bool { return g.byID[m.ID].fresh && g.byID[m.ID].anonymous })
	return d, slices.Clone(g.removed)
}

// Dismiss answers everybody who waits: with another machine they start again.
func (g *Group) Dismiss(eff *step.Effects) {
	for _, m := range g.members {
		if m.join != 0 {
			eff.Answer(m.join, step.RebalanceInProgress, &Joined{Generation: -1, MemberID: m.id})
		}
		if m.sync != 0 {
			eff.Answer(m.sync, step.RebalanceInProgress, nil)
		}
		m.join, m.sync = 0, 0
	}
}

// From makes a group of what a machine of another protocol describes, and has its members rebalance. The effects write it whole.
func From(id string, cfg *Config, d Description, now time.Time) (g *Group, eff step.Effects) {
	g = New(id, cfg)
	g.state, g.generation, g.exists, g.changed = d.State, d.Generation, true, true
	g.protocolType, g.protocol, g.leader = d.ProtocolType, d.Protocol, d.Leader
	for i := range d.Members {
		of := &d.Members[i]
		m := &member{
			id: of.ID, instance: of.InstanceID, clientID: of.ClientID, host: of.Host, session: of.SessionTimeout,
			rebalance: of.RebalanceTimeout, protocols: of.Protocols, assignment: of.Assignment,
		}
		g.members = append(g.members, m)
		g.byID[m.id] = m
		if m.instance != "" {
			g.static[m.instance] = m
		}
		g.alive(m, now)
	}
	if len(g.members) > 0 {
		g.prepare("its members of the consumer protocol have gone", now, &eff)
	}
	g.write(&eff)
	return g, eff
}
