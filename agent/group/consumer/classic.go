package consumer

import (
	"fmt"
	"slices"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
)

// classicMember is what a member of the classic protocol has beside the others.
type classicMember struct {
	session   time.Duration
	protocols []classic.Protocol // at least one; the first one's subscription counts
	sub       subscription       // parsed from it
}

func (c *classicMember) parse() (err error) {
	if len(c.protocols) == 0 {
		return errEmbedded
	}
	c.sub, err = parseSubscription(c.protocols[0].Metadata)
	return err
}

// classicBytesMax bounds what a member brings along in all its protocols. Its record holds that, the names in it, and what it has.
const classicBytesMax = 64 << 10

func protocolBytes(protocols []classic.Protocol) (n int) {
	for i := range protocols {
		n += len(protocols[i].Name) + len(protocols[i].Metadata)
	}
	return n
}

func (c *classicMember) supports(name string) bool {
	return slices.ContainsFunc(c.protocols, func(p classic.Protocol) bool { return p.Name == name })
}

// Join serves a member of the classic protocol. It leads nobody, whoever it is, and is answered at once: its SyncGroup brings what
// it has, and its heartbeats tell it to join again where there is more, or less, for it.
//
// Requires: classic.Config.CheckJoin has nothing to say.
func (g *Group) Join(req *classic.JoinRequest, w step.Waiter, now time.Time, topics Topics) (e step.Effects) {
	refused := func(code step.Code) step.Effects {
		e.Answer(w, code, &classic.Joined{Generation: -1, MemberID: req.MemberID})
		return e
	}
	c := &classicMember{session: req.SessionTimeout, protocols: req.Protocols}
	switch {
	case g.cfg.Migration == Disabled:
		return refused(step.InconsistentProtocol)
	case req.ProtocolType != ConsumerProtocol || !g.supportsAny(req.Protocols) || c.parse() != nil:
		return refused(step.InconsistentProtocol)
	case protocolBytes(req.Protocols) > classicBytesMax:
		return refused(step.InvalidRequest)
	case g.cfg.MembersMax > 0 && len(g.members) >= g.cfg.MembersMax && g.members[req.MemberID] == nil && g.instances[req.InstanceID] == nil:
		return refused(step.GroupMaxSizeReached)
	case req.MemberID == "" && req.InstanceID == "" && req.KnownIDs:
		req.MemberID = req.NewID
		return refused(step.MemberIDRequired)
	}
	id := req.MemberID
	if id == "" {
		id = req.NewID
	}
	m := g.members[id]
	if req.InstanceID != "" && req.MemberID != "" {
		switch m = g.instances[req.InstanceID]; {
		case m == nil:
			return refused(step.UnknownMemberID)
		case m.id != req.MemberID:
			return refused(step.FencedInstanceID)
		}
	}
	if m == nil {
		var r *refusal
		if m, r = g.enter(id, req.InstanceID, &e); r != nil {
			return refused(r.code)
		}
	}
	g.updateClassic(m, req, c)
	m.joinAt = time.Time{}
	g.alive(m, now)
	g.refresh(topics, now, &e)
	g.retarget()
	g.reconcile(m, toAssignment(c.sub.owned, topics), true, now)
	g.arm(&m.syncAt, now.Add(m.rebalance))
	g.flush(&e)
	e.Answer(w, step.None, &classic.Joined{
		Generation: m.epoch, ProtocolType: ConsumerProtocol, Protocol: c.protocols[0].Name, MemberID: m.id,
	})
	return e
}

// supportsAny says whether one of these protocols is one that all classic members have.
func (g *Group) supportsAny(protocols []classic.Protocol) bool {
	return slices.ContainsFunc(protocols, func(p classic.Protocol) bool {
		for _, m := range g.members {
			if m.classic != nil && !m.classic.supports(p.Name) {
				return false
			}
		}
		return true
	})
}

func (g *Group) updateClassic(m *member, req *classic.JoinRequest, c *classicMember) {
	former := m.classic
	if former == nil {
		g.classics++
		m.rebalanceAt = time.Time{}
		if m.assignor != "" {
			m.assignor = ""
		}
	}
	m.classic = c
	if former == nil || former.session != c.session || m.rebalance != req.RebalanceTimeout || m.rack != c.sub.rack ||
		!slices.EqualFunc(former.protocols, c.protocols, sameProtocol) {
		g.touch(m)
	}
	m.rebalance, m.rack = req.RebalanceTimeout, c.sub.rack
	if names := sortedNames(c.sub.topics); !slices.Equal(names, m.names) || m.regex != "" {
		m.names, m.regex = names, ""
		g.touch(m)
		g.bump()
	}
	if g.touched[m.id] {
		m.clientID, m.clientHost = clip(req.ClientID), clip(req.Host)
		g.subscribe(m)
	}
}

func sameProtocol(a, b classic.Protocol) bool {
	return a.Name == b.Name && string(a.Metadata) == string(b.Metadata)
}

// Sync gives a member of the classic protocol what it has.
func (g *Group) Sync(req *classic.SyncRequest, w step.Waiter, now time.Time, topics Topics) (e step.Effects) {
	m, code := g.knownClassic(req.MemberID, req.InstanceID)
	switch {
	case code != step.None:
	case req.Generation != m.epoch:
		code = step.IllegalGeneration
	case req.ProtocolType != "" && req.ProtocolType != ConsumerProtocol, req.Protocol != "" && req.Protocol != m.classic.protocols[0].Name:
		code = step.InconsistentProtocol
	case g.epoch > m.epoch && m.state != unrevoked: // it would be told less than there is by now
		code = step.RebalanceInProgress
		g.askToJoin(m, now)
	}
	if code != step.None {
		e.Answer(w, code, nil)
		return e
	}
	m.syncAt = time.Time{}
	g.alive(m, now)
	e.Answer(w, step.None, &classic.Synced{
		ProtocolType: ConsumerProtocol, Protocol: m.classic.protocols[0].Name,
		Assignment: appendAssignment(nil, m.classic.sub.version, toNames(m.assigned.assignment(), topics)),
	})
	return e
}

// ClassicHeartbeat tells a member of the classic protocol to join again where it has something to give up, or to get.
func (g *Group) ClassicHeartbeat(id, instance string, generation int32, now time.Time) step.Code {
	m, code := g.knownClassic(id, instance)
	switch {
	case code != step.None:
		return code
	case generation != m.epoch:
		return step.IllegalGeneration
	}
	g.alive(m, now)
	if m.epoch < g.epoch || m.state == unrevoked || m.state == unreleased && !g.waitsForOthers(m) {
		g.askToJoin(m, now)
		return step.RebalanceInProgress
	}
	return step.None
}

// askToJoin gives a member that is about to be told to join again its time for that.
func (g *Group) askToJoin(m *member, now time.Time) {
	if m.joinAt.IsZero() {
		g.arm(&m.joinAt, now.Add(m.rebalance))
	}
}

// Leave takes members of the classic protocol out: w is answered with a []step.Code, one for each.
func (g *Group) Leave(reqs []classic.LeaveRequest, w step.Waiter, now time.Time) (e step.Effects) {
	codes := make([]step.Code, len(reqs))
	for i := range reqs {
		req := &reqs[i]
		var m *member
		if req.MemberID == "" && req.InstanceID != "" {
			if m = g.instances[req.InstanceID]; m == nil || m.classic == nil {
				m, codes[i] = nil, step.UnknownMemberID
			}
		} else {
			m, codes[i] = g.knownClassic(req.MemberID, req.InstanceID)
		}
		if m != nil {
			g.remove(m)
			g.bump()
			e.Note(fmt.Sprintf("member %s left", m.id))
		}
	}
	g.flush(&e)
	e.Answer(w, step.None, codes)
	return e
}

// knownClassic is the member of the classic protocol that a request of a known id comes from.
func (g *Group) knownClassic(id, instance string) (*member, step.Code) {
	m := g.members[id]
	if instance != "" {
		if m = g.instances[instance]; m != nil && m.id != id {
			return nil, step.FencedInstanceID
		}
	}
	if m == nil || m.classic == nil {
		return nil, step.UnknownMemberID
	}
	return m, step.None
}

// toAssignment turns names into ids; topics and partitions that are not there are left out: they are what clients say.
func toAssignment(list []namedPartitions, topics Topics) Assignment {
	ids := make([]TopicPartitions, 0, len(list))
	for _, np := range list {
		if t, ok := topics.ByName(np.topic); ok {
			there := slices.DeleteFunc(slices.Clone(np.partitions), func(p int32) bool { return p < 0 || p >= t.Partitions })
			ids = append(ids, TopicPartitions{Topic: t.ID, Partitions: there})
		}
	}
	return NewAssignment(ids)
}

// toNames turns ids into names; topics that are not there are left out.
func toNames(a Assignment, topics Topics) []namedPartitions {
	list := make([]namedPartitions, 0, len(a))
	for _, tp := range a {
		if t, ok := topics.ByID(tp.Topic); ok {
			list = append(list, namedPartitions{topic: t.Name, partitions: tp.Partitions})
		}
	}
	return list
}
