package consumer

import (
	"time"

	"github.com/firnlog/firn/metastore/entry"
)

// reconcile takes a member one step further towards its target, if it can go one. held is what the member says that it has, where
// told says that it said so at all.
//
// Requires: retarget has been called.
func (g *Group) reconcile(m *member, held Assignment, told bool, now time.Time) {
	epoch := m.epoch
	switch m.state {
	case stable:
		if m.epoch == g.targetEpoch {
			return
		}
	case unrevoked:
		if !told || m.revoking.meets(held) {
			return
		}
		for topic, p := range m.revoking.all { // acknowledged: somebody else may have them
			g.own(topic, p, nil)
		}
		m.revoking = nil
		epoch++ // it has done what its epoch asked of it, whatever comes next
	case unreleased:
	}

	var assigned, revoking ownedBuilder
	waits, grown := false, false
	merge(m.assigned, m.target, func(topic entry.UUID, p, since int32, has, wanted bool) {
		switch {
		case has && wanted:
			assigned.add(topic, p, since)
		case has:
			revoking.add(topic, p, since)
		case g.owner(topic, p) != nil:
			waits = true
		default:
			grown = true
		}
	})

	if len(revoking.set) > 0 && (!told || revoking.set.meets(held)) {
		// It keeps its epoch until it has given them up, and gets nothing before.
		if m.state != unrevoked || m.epoch != epoch {
			m.rebalanceAt = time.Time{}
		}
		g.advance(m, epoch, unrevoked, assigned.set, revoking.set)
		if m.classic == nil && m.rebalanceAt.IsZero() {
			g.arm(&m.rebalanceAt, now.Add(m.rebalance))
		}
		return
	}
	for topic, p := range revoking.set.all { // it has them no more, by its own word
		g.own(topic, p, nil)
	}
	if grown {
		assigned = ownedBuilder{}
		merge(m.assigned, m.target, func(topic entry.UUID, p, since int32, has, wanted bool) {
			switch {
			case has && wanted:
				assigned.add(topic, p, since)
			case wanted && g.owner(topic, p) == nil:
				assigned.add(topic, p, g.targetEpoch)
				g.own(topic, p, m)
			}
		})
	}
	state := stable
	if waits {
		state = unreleased
	}
	m.rebalanceAt = time.Time{}
	if state == m.state && m.epoch == g.targetEpoch && !grown && len(revoking.set) == 0 {
		return // it waits on
	}
	g.advance(m, g.targetEpoch, state, assigned.set, nil)
}

func (g *Group) advance(m *member, epoch int32, state memberState, assigned, revoking owned) {
	if m.epoch != epoch {
		m.previous, m.epoch = m.epoch, epoch
	}
	m.state, m.assigned, m.revoking = state, assigned, revoking
	g.touch(m)
}

// waitsForOthers says whether all that a member lacks of its target is still with others.
func (g *Group) waitsForOthers(m *member) bool {
	if m.state != unreleased {
		return false
	}
	for topic, p := range m.target.all {
		if !m.assigned.contains(topic, p) && g.owner(topic, p) != nil {
			return true
		}
	}
	return false
}

// settled says whether a member has its target of the latest epoch.
func (g *Group) settled(m *member) bool { return m.state == stable && m.epoch == g.targetEpoch }
