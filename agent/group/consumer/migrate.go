package consumer

import (
	"cmp"
	"fmt"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
)

// Upgrades says whether a classic group with members can become one of the consumer protocol; else why not, for the client.
func Upgrades(cfg *Config, d classic.Description) (step.Code, string) {
	switch {
	case !cfg.Migration.upgrades():
		return step.GroupIDNotFound, "Cannot upgrade the classic group to a consumer group because online upgrade is disabled."
	case d.ProtocolType != ConsumerProtocol:
		return step.GroupIDNotFound, "Cannot upgrade the classic group to a consumer group because the group does not use the consumer embedded protocol."
	case cfg.MembersMax > 0 && len(d.Members) > cfg.MembersMax:
		return step.GroupIDNotFound, "Cannot upgrade the classic group to a consumer group because the group size exceeds the consumer group maximum size."
	}
	for _, m := range d.Members {
		if protocolBytes(m.Protocols) > classicBytesMax {
			return step.GroupIDNotFound, fmt.Sprintf("Cannot upgrade the classic group to a consumer group because a member has more than %d bytes of metadata.", classicBytesMax)
		}
		if len(m.Protocols) == 0 {
			return step.GroupIDNotFound, "Cannot upgrade the classic group to a consumer group because the embedded consumer protocol is malformed."
		}
		_, errSubscription := parseSubscription(m.Protocols[0].Metadata)
		_, errAssignment := parseAssignment(m.Assignment)
		if cmp.Or(errSubscription, errAssignment) != nil {
			return step.GroupIDNotFound, "Cannot upgrade the classic group to a consumer group because the embedded consumer protocol is malformed."
		}
	}
	return step.None, ""
}

// FromClassic makes a group of a classic one, whose members have what their leader gave them. The effect of the next event writes it
// whole, and removes members that the state has and the group has no more, which gone lists. Requires: Upgrades has nothing
// against it.
func FromClassic(cfg *Config, id string, d classic.Description, gone []string, topics Topics, now time.Time) *Group {
	g := New(cfg, id, d.Generation)
	for _, id := range gone {
		g.gone[id] = true
	}
	for _, cm := range d.Members {
		m := &member{
			id: cm.ID, instance: cm.InstanceID, clientID: cm.ClientID, clientHost: cm.Host, rebalance: cm.RebalanceTimeout,
			classic: &classicMember{session: cm.SessionTimeout, protocols: cm.Protocols},
			epoch:   d.Generation, previous: d.Generation,
		}
		_ = m.classic.parse() // Upgrades did
		m.rack, m.names = m.classic.sub.rack, sortedNames(m.classic.sub.topics)
		given, _ := parseAssignment(cm.Assignment)
		if len(given) == 0 { // its leader has not assigned yet: it has what it said when it joined
			given = m.classic.sub.owned
		}
		var has ownedBuilder
		for topic, p := range toAssignment(given, topics).all {
			// What a faulty assignor of a client gave to two members stays with one.
			if g.owner(topic, p) == nil {
				has.add(topic, p, d.Generation)
				g.own(topic, p, m)
			}
		}
		m.assigned, m.target = has.set, has.set.assignment()
		g.add(m)
		g.touch(m)
	}
	g.bump()
	g.Renew(now)
	return g
}

// Downgrades says whether the group has only members of the classic protocol left, and may become a classic one.
func (g *Group) Downgrades() bool {
	return len(g.members) > 0 && g.classics == len(g.members) && g.cfg.Migration.downgrades() &&
		(g.cfg.ClassicMembersMax == 0 || len(g.members) <= g.cfg.ClassicMembersMax)
}

// Classic describes the group as a classic one, for classic.Group to go on with: its members have what they have, and are to
// rebalance. Requires: Downgrades.
func (g *Group) Classic(topics Topics) classic.Description {
	d := classic.Description{
		State: classic.Stable, Generation: g.epoch, ProtocolType: ConsumerProtocol, Protocol: g.commonProtocol(),
	}
	for _, id := range g.sortedIDs() {
		m := g.members[id]
		d.Members = append(d.Members, classic.MemberDescription{
			ID: m.id, InstanceID: m.instance, ClientID: m.clientID, Host: m.clientHost,
			SessionTimeout: m.classic.session, RebalanceTimeout: m.rebalance, Protocols: m.classic.protocols,
			Assignment: appendAssignment(nil, m.classic.sub.version, toNames(m.assigned.assignment(), topics)),
		})
	}
	if len(d.Members) > 0 {
		d.Leader = d.Members[0].ID
	}
	return d
}

// commonProtocol is the first one of the first member that all classic members have.
func (g *Group) commonProtocol() string {
	for _, id := range g.sortedIDs() {
		if m := g.members[id]; m.classic != nil {
			for _, p := range m.classic.protocols {
				if g.supportsAny([]classic.Protocol{p}) {
					return p.Name
				}
			}
			return m.classic.protocols[0].Name
		}
	}
	return ""
}
