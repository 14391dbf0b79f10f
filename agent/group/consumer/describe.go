package consumer

import (
	"maps"
	"slices"

	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
)

// Description is a group as ConsumerGroupDescribe tells of it. Nobody may modify what it holds.
type Description struct {
	State              string
	Epoch, TargetEpoch int32
	Assignor           string
	Members            []MemberDescription
}

// MemberDescription is one member of it.
type MemberDescription struct {
	ID, Instance, Rack   string
	Epoch                int32
	ClientID, ClientHost string
	Names                []string
	Regex                string
	Assigned, Target     Assignment
	Classic              bool
}

// State is the group's state, as tools know it.
func (g *Group) State() string {
	switch {
	case len(g.members) == 0:
		return "Empty"
	case g.epoch > g.targetEpoch:
		return "Assigning"
	}
	for _, m := range g.members {
		if !g.settled(m) {
			return "Reconciling"
		}
	}
	return "Stable"
}

// Describe says all about the group.
func (g *Group) Describe() Description {
	d := Description{State: g.State(), Epoch: g.epoch, TargetEpoch: g.targetEpoch, Assignor: g.assignor}
	for _, id := range g.sortedIDs() {
		m := g.members[id]
		d.Members = append(d.Members, MemberDescription{
			ID: m.id, Instance: m.instance, Rack: m.rack, Epoch: m.epoch, ClientID: m.clientID, ClientHost: m.clientHost,
			Names: m.names, Regex: m.regex, Assigned: m.assigned.assignment(), Target: m.target, Classic: m.classic != nil,
		})
	}
	return d
}

// Subscriptions are the names of topics that members subscribe to, whose offsets are not to be deleted. It does not rest on what the
// last heartbeat saw: after a fail-over there was none.
func (g *Group) Subscriptions(topics Topics) map[string]bool {
	names := make(map[string]bool)
	for _, set := range g.sets {
		for _, name := range set.names {
			names[name] = true
		}
		if set.regex == "" {
			continue
		}
		if re, err := compile(set.regex); err == nil { // it was compiled before it came in
			for _, name := range matches(re, topics.Names()) {
				names[name] = true
			}
		}
	}
	return names
}

func (g *Group) sortedIDs() []string { return slices.Sorted(maps.Keys(g.members)) }

// commitVersion is the first version of OffsetCommit and OffsetFetch that members of the consumer protocol may use: it can say
// that their epoch is stale.
const commitVersion = 9

// CheckCommit says whether a member may commit offsets; with None, the function says it of each partition. A member that has moved
// on to a new epoch may still commit under the old one what it already had then: answers cross. version is OffsetCommit's, 0
// for commits that come in a transaction. Without members, a commit of a negative epoch is anybody's.
func (g *Group) CheckCommit(memberID string, epoch int32, version int16) (step.Code, func(topic entry.UUID, partition int32) step.Code) {
	all := func(entry.UUID, int32) step.Code { return step.None }
	if epoch < 0 && len(g.members) == 0 {
		return step.None, all
	}
	m := g.members[memberID]
	if m == nil {
		return step.UnknownMemberID, nil
	}
	stale := step.StaleMemberEpoch
	if m.classic != nil {
		stale = step.IllegalGeneration
	}
	switch {
	case m.classic == nil && version > 0 && version < commitVersion:
		return step.UnsupportedVersion, nil
	case epoch > m.epoch:
		return stale, nil
	case epoch == m.epoch:
		return step.None, all
	case epoch < 0:
		return stale, nil
	}
	return step.None, func(topic entry.UUID, partition int32) step.Code {
		for _, set := range [...]owned{m.assigned, m.revoking} {
			if since, ok := set.since(topic, partition); ok && since <= epoch {
				return step.None
			}
		}
		return stale
	}
}

// CheckFetch says whether offsets may be told to whoever says that it is this member, at this epoch; none and a negative one: to
// anybody.
func (g *Group) CheckFetch(memberID string, epoch int32) step.Code {
	if memberID == "" && epoch < 0 {
		return step.None
	}
	m := g.members[memberID]
	switch {
	case m == nil:
		return step.UnknownMemberID
	case epoch == m.epoch:
		return step.None
	case m.classic != nil:
		return step.IllegalGeneration
	}
	return step.StaleMemberEpoch
}
