package classic

import (
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/firnlog/firn/agent/group/step"
)

// JoinRequest is a JoinGroup.
type JoinRequest struct {
	MemberID, InstanceID, ClientID, Host string
	// NewID is the id that the member gets if it needs one: nobody else's, ever.
	NewID                            string
	SessionTimeout, RebalanceTimeout time.Duration
	ProtocolType                     string
	Protocols                        []Protocol // the group keeps them
	Reason                           string
	// KnownIDs: the client can be told to come back with the id it is given (JoinGroup from version 4 on). To clients that
	// cannot, the code for it is an error without an end.
	KnownIDs bool
	// SkipsAssignment: the client can be told that it leads but must leave the assignment as it is (from version 9 on).
	SkipsAssignment bool
}

// Joined is the body of an answer to a JoinGroup; of a refused one at most MemberID is set.
type Joined struct {
	Generation             int32
	ProtocolType, Protocol string
	Leader, MemberID       string
	SkipAssignment         bool
	// Members are, for the leader, all of them.
	Members []JoinedMember
}

// JoinedMember is a member as the leader sees it.
type JoinedMember struct {
	ID, InstanceID string
	Metadata       []byte
}

// Join takes a JoinGroup. w is answered now or when the rebalance is over.
func (g *Group) Join(req *JoinRequest, w step.Waiter, now time.Time) (eff step.Effects) {
	refuse := func(code step.Code) step.Effects {
		eff.Answer(w, code, &Joined{Generation: -1, MemberID: req.MemberID})
		return eff
	}
	if code := g.cfg.CheckJoin(req); code != step.None {
		return refuse(code)
	}
	if !g.hasRoom(req) {
		delete(g.pending, req.MemberID)
		req.MemberID = ""
		return refuse(step.GroupMaxSizeReached)
	}
	if !g.supports(req.ProtocolType, req.Protocols) {
		return refuse(step.InconsistentProtocol)
	}
	_, pending := g.pending[req.MemberID]
	switch {
	case req.MemberID == "" && req.InstanceID != "" && g.static[req.InstanceID] != nil:
		g.replace(g.static[req.InstanceID], req, w, now, &eff)
	case req.MemberID == "" && req.InstanceID == "" && req.KnownIDs:
		until := now.Add(req.SessionTimeout)
		g.pending[req.NewID] = until
		g.arm(until)
		eff.Answer(w, step.MemberIDRequired, &Joined{Generation: -1, MemberID: req.NewID})
		return eff
	case req.MemberID == "":
		g.enter(req.NewID, req, w, now, &eff)
	case pending && req.InstanceID == "":
		delete(g.pending, req.MemberID)
		g.enter(req.MemberID, req, w, now, &eff)
	default:
		m, code := g.known(req.MemberID, req.InstanceID)
		if code != step.None {
			return refuse(code)
		}
		g.rejoin(m, req, w, now, &eff)
	}
	g.completeJoin(now, &eff)
	return eff
}

// CheckJoin judges a request by itself, whatever the group: what it lets through fits the records of all protocols.
func (c *Config) CheckJoin(req *JoinRequest) step.Code {
	switch {
	case len(req.MemberID) > memberIDBytesMax || !utf8.ValidString(req.MemberID):
		return step.UnknownMemberID
	case req.SessionTimeout < c.SessionMin || req.SessionTimeout > c.SessionMax:
		return step.InvalidSessionTimeout
	case req.RebalanceTimeout < 0 || req.RebalanceTimeout > timeoutMax:
		req.RebalanceTimeout = min(max(req.RebalanceTimeout, 0), timeoutMax)
	}
	bytes := 0
	for i := range req.Protocols {
		p := &req.Protocols[i]
		if bytes += len(p.Name) + len(p.Metadata); p.Name == "" || len(p.Name) > nameBytesMax {
			return step.InvalidRequest
		}
	}
	if len(req.Protocols) > protocolsMax || bytes > c.MetadataBytes || len(req.ProtocolType) > nameBytesMax ||
		len(req.InstanceID) > nameBytesMax {
		return step.InvalidRequest
	}
	return step.None
}

// hasRoom says whether the member fits in. While a rebalance is being prepared the first to ask again are those who stay.
func (g *Group) hasRoom(req *JoinRequest) bool {
	m := g.byID[req.MemberID]
	if req.MemberID == "" && req.InstanceID != "" {
		m = g.static[req.InstanceID]
	}
	bytes := 0
	for _, o := range g.members {
		if o != m {
			bytes += o.bytes()
		}
	}
	for i := range req.Protocols {
		bytes += len(req.Protocols[i].Name) + len(req.Protocols[i].Metadata)
	}
	if bytes > g.cfg.GroupBytes {
		return false
	}
	switch {
	case req.MemberID == "" && len(g.pending) >= g.cfg.SizeMax:
		return false
	case g.state == PreparingRebalance:
		joined := 0
		for _, o := range g.members {
			if o.join != 0 {
				joined++
			}
		}
		return m != nil && m.join != 0 || joined < g.cfg.SizeMax
	case m != nil:
		return true
	default:
		return len(g.members) < g.cfg.SizeMax
	}
}

func (g *Group) isPending(id string) bool {
	_, ok := g.pending[id]
	return ok
}

// enter takes a new member in, and starts a rebalance.
func (g *Group) enter(id string, req *JoinRequest, w step.Waiter, now time.Time, eff *step.Effects) {
	if len(g.members) == 0 && g.protocolType != req.ProtocolType {
		g.protocolType, g.changed = req.ProtocolType, true
	}
	m := &member{id: id, instance: req.InstanceID, fresh: true, anonymous: req.MemberID == ""}
	m.update(req)
	m.join = w
	g.add(m)
	m.expires = now.Add(g.cfg.NewMemberTimeout)
	g.arm(m.expires)
	if g.state == PreparingRebalance && g.initial {
		g.grown = true
	}
	g.prepare(fmt.Sprintf("member %s joins%s", id, because(req.Reason)), now, eff)
}

// update takes over what the request says.
func (m *member) update(req *JoinRequest) {
	m.clientID, m.host = clip(req.ClientID), clip(req.Host)
	m.session, m.rebalance = req.SessionTimeout, req.RebalanceTimeout
	m.protocols, m.changed = req.Protocols, true
}

// rejoin takes a member that is known.
func (g *Group) rejoin(m *member, req *JoinRequest, w step.Waiter, now time.Time, eff *step.Effects) {
	same := sameProtocols(m.protocols, req.Protocols)
	switch {
	case g.state == CompletingRebalance && same, // its answer may have been lost
		g.state == Stable && same && g.leader != m.id:
		g.alive(m, now)
		eff.Answer(w, step.None, g.joined(m))
		return
	}
	if !same || m.session != req.SessionTimeout || m.rebalance != req.RebalanceTimeout ||
		m.clientID != clip(req.ClientID) || m.host != clip(req.Host) {
		m.update(req)
	}
	why := "leader joins again"
	if !same {
		why = "metadata changed"
	}
	// One waits in vain: the client has given up on it, or there are two of it.
	eff.Answer(m.join, step.RebalanceInProgress, &Joined{Generation: -1, MemberID: m.id})
	m.join = 0
	g.prepare(fmt.Sprintf("member %s: %s%s", m.id, why, because(req.Reason)), now, eff)
	m.join = w
}

// replace puts a static member that came back without its id in the place of its former self, which is fenced.
func (g *Group) replace(m *member, req *JoinRequest, w step.Waiter, now time.Time, eff *step.Effects) {
	eff.Answer(m.join, step.FencedInstanceID, &Joined{Generation: -1, MemberID: m.id})
	eff.Answer(m.sync, step.FencedInstanceID, nil)
	m.join, m.sync = 0, 0
	old, leader := m.id, g.leader
	if m.stored {
		g.removed = append(g.removed, old)
	}
	delete(g.byID, old)
	m.id, m.stored = req.NewID, false
	g.byID[m.id] = m
	if g.leader == old {
		g.leader = m.id
	}
	m.update(req)
	m.fresh = false
	g.alive(m, now)
	switch {
	case g.state == Stable && g.elect() == g.protocol:
		g.write(eff)
		eff.Note(fmt.Sprintf("static member %s takes the place of %s", m.id, old))
		body := g.joined(m)
		if !req.SkipsAssignment {
			// A leader would assign, and nobody would take it: the group is stable. So it is not told that it leads.
			body.Leader, body.Members = leader, nil
		} else {
			body.SkipAssignment = g.leader == m.id
		}
		eff.Answer(w, step.None, body)
	default:
		// The leader may be assigning to the former self at this moment; or the protocol changes.
		if g.state != PreparingRebalance {
			g.prepare(fmt.Sprintf("static member %s takes the place of %s%s", m.id, old, because(req.Reason)), now, eff)
		}
		m.join = w
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return fmt.Sprintf(" (%q)", clip(reason))
}

// clip bounds what clients say about themselves.
func clip(s string) string { return s[:min(len(s), nameBytesMax)] }

// joined is what a member is told of this generation.
func (g *Group) joined(m *member) *Joined {
	j := &Joined{
		Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol, Leader: g.leader, MemberID: m.id,
	}
	if g.leader == m.id {
		j.Members = make([]JoinedMember, 0, len(g.members))
		for _, o := range g.members {
			j.Members = append(j.Members, JoinedMember{ID: o.id, InstanceID: o.instance, Metadata: o.metadata(g.protocol)})
		}
	}
	return j
}

// prepare starts a rebalance, unless one is being prepared.
func (g *Group) prepare(why string, now time.Time, eff *step.Effects) {
	if g.state == PreparingRebalance {
		return
	}
	for _, m := range g.members { // whoever waits for an assignment has to join again
		if m.sync != 0 {
			eff.Answer(m.sync, step.RebalanceInProgress, nil)
			m.sync = 0
			g.alive(m, now)
		}
		m.unsynced = false
	}
	g.syncBy = time.Time{}
	g.initial = g.state == Empty && g.cfg.InitialDelay > 0
	timeout := g.rebalanceTimeout()
	g.joinBy = now.Add(timeout)
	if g.initial {
		g.companyBy, g.grown = g.joinBy, false
		g.joinBy = now.Add(g.cfg.InitialDelay)
	}
	g.arm(g.joinBy)
	g.state = PreparingRebalance
	eff.Note(fmt.Sprintf("rebalance after generation %d: %s", g.generation, why))
}

// completeJoin ends the rebalance's first half if everybody has joined. A group that was empty waits its time.
func (g *Group) completeJoin(now time.Time, eff *step.Effects) {
	if g.state != PreparingRebalance || g.initial || len(g.pending) > 0 {
		return
	}
	if slices.ContainsFunc(g.members, func(m *member) bool { return m.join == 0 }) {
		return
	}
	g.nextGeneration(now, eff)
}

// nextGeneration ends the rebalance's first half with those who have joined.
func (g *Group) nextGeneration(now time.Time, eff *step.Effects) {
	for _, m := range slices.Clone(g.members) {
		if m.join == 0 && m.instance == "" {
			eff.Note(fmt.Sprintf("member %s did not join in time and is removed", m.id))
			g.remove(m, step.UnknownMemberID, eff)
		}
	}
	if i := slices.IndexFunc(g.members, func(m *member) bool { return m.join != 0 }); i < 0 && len(g.members) > 0 {
		// Only static members are left, and none has come yet: they have their sessions.
		g.joinBy = now.Add(max(g.rebalanceTimeout(), time.Second))
		g.arm(g.joinBy)
		if len(g.removed) > 0 {
			g.write(eff)
		}
		return
	} else if len(g.members) > 0 && g.byID[g.leader].join == 0 {
		g.leader = g.members[i].id
	}
	g.initial, g.joinBy = false, time.Time{}
	if len(g.members) == 0 && !g.exists { // it came to nothing
		g.state, g.protocolType, g.changed = Empty, "", false
		return
	}
	g.generation++
	if len(g.members) == 0 {
		g.state, g.protocol, g.leader = Empty, "", ""
		g.write(eff)
		eff.Note(fmt.Sprintf("generation %d is empty", g.generation))
		return
	}
	g.state, g.protocol = CompletingRebalance, g.elect()
	g.syncBy = now.Add(g.rebalanceTimeout())
	g.arm(g.syncBy)
	g.write(eff)
	for _, m := range g.members {
		m.unsynced = true
		g.alive(m, now)
		eff.Answer(m.join, step.None, g.joined(m))
		m.join, m.fresh = 0, false
	}
	eff.Note(fmt.Sprintf("generation %d has %d members, led by %s, by protocol %q", g.generation, len(g.members), g.leader, g.protocol))
}
