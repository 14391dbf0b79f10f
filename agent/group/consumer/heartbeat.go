package consumer

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/firnlog/firn/agent/group/step"
)

// Member epochs with a meaning of their own.
const (
	epochJoin        = 0
	epochLeave       = -1
	epochLeaveStatic = -2 // a static member that will be back
)

// Heartbeat is a ConsumerGroupHeartbeat. Nil is what the request does not say.
type Heartbeat struct {
	Version     int16
	MemberID    string
	NewMemberID string // for a member of version 0 that joins without one
	MemberEpoch int32
	ClientID    string
	ClientHost  string
	Instance    *string
	Rack        *string
	RebalanceMs int32 // -1: not said
	Names       []string
	Regex       *string
	Assignor    *string
	Owned       []TopicPartitions
}

// HeartbeatAnswer is the body of its answer. Of a refusal there is the message alone.
type HeartbeatAnswer struct {
	Message     string
	MemberID    string
	MemberEpoch int32
	Interval    time.Duration
	// Assigned says that Assignment is to be told: what the member has from now on.
	Assigned   bool
	Assignment Assignment
}

// refusal is an answer with a code.
type refusal struct {
	code step.Code
	why  string
}

func refuse(code step.Code, format string, args ...any) *refusal {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// Bounds of what a member may say: its record holds all of it.
const (
	subscriptionBytesMax = 96 << 10 // names and expression
	idBytesMax           = 1024     // also of what the state takes for a member's id
	clientBytesMax       = 255      // of where it is; the rest is cut off
)

// Check says what is wrong with a heartbeat by itself, whatever the group; None where nothing is.
func (h *Heartbeat) Check(groupID string) (step.Code, string) {
	if r := h.check(groupID); r != nil {
		return r.code, r.why
	}
	return step.None, ""
}

func (h *Heartbeat) check(groupID string) *refusal {
	blank := func(s *string) bool { return s != nil && strings.TrimSpace(*s) == "" }
	switch {
	case (h.Version >= 1 || h.MemberEpoch > 0 || h.MemberEpoch == epochLeave) && blank(&h.MemberID):
		return refuse(step.InvalidRequest, "MemberId can't be empty.")
	case blank(&groupID):
		return refuse(step.InvalidRequest, "GroupId can't be empty.")
	case len(h.MemberID) > idBytesMax || !utf8.ValidString(h.MemberID):
		return refuse(step.InvalidRequest, "MemberId is no text of at most %d bytes.", idBytesMax)
	case h.Instance != nil && len(*h.Instance) > idBytesMax || h.Rack != nil && len(*h.Rack) > idBytesMax:
		return refuse(step.InvalidRequest, "InstanceId or RackId has more than %d bytes.", idBytesMax)
	case blank(h.Instance):
		return refuse(step.InvalidRequest, "InstanceId can't be empty.")
	case blank(h.Rack):
		return refuse(step.InvalidRequest, "RackId can't be empty.")
	case h.MemberEpoch == epochJoin && h.RebalanceMs < 0:
		return refuse(step.InvalidRequest, "RebalanceTimeoutMs must be provided in first request.")
	case h.MemberEpoch == epochJoin && (h.Owned == nil || len(h.Owned) > 0):
		return refuse(step.InvalidRequest, "TopicPartitions must be empty when (re-)joining.")
	case h.MemberEpoch == epochJoin && h.Names == nil && h.Regex == nil:
		return refuse(step.InvalidRequest, "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")
	case h.MemberEpoch == epochLeaveStatic && h.Instance == nil:
		return refuse(step.InvalidRequest, "InstanceId can't be null.")
	case h.MemberEpoch < epochLeaveStatic:
		return refuse(step.InvalidRequest, "MemberEpoch is invalid.")
	case h.Assignor != nil && !slices.Contains(assignorNames[:], *h.Assignor):
		return refuse(step.UnsupportedAssignor, "ServerAssignor %s is not supported. Supported assignors: %s.", *h.Assignor, strings.Join(assignorNames[:], ", "))
	}
	size := 0
	for _, name := range h.Names {
		size += len(name)
	}
	if h.Regex != nil {
		size += len(*h.Regex)
	}
	if size > subscriptionBytesMax {
		return refuse(step.InvalidRequest, "What is subscribed to has %d bytes, and %d at most are taken. Subscribe by a short regular expression.", size, subscriptionBytesMax)
	}
	if h.Regex != nil && *h.Regex != "" {
		if _, err := compile(*h.Regex); err != nil {
			return refuse(step.InvalidRegex, "SubscribedTopicRegex `%s` is not a valid regular expression: %s.", *h.Regex, err)
		}
	}
	return nil
}

// Heartbeat serves a member of the consumer protocol: it joins, leaves, or is told what it has.
//
// Requires: Check has nothing to say.
func (g *Group) Heartbeat(w step.Waiter, now time.Time, h *Heartbeat, topics Topics) (e step.Effects) {
	answer, r := g.heartbeat(now, h, topics, &e)
	if r != nil {
		e.Answer(w, r.code, HeartbeatAnswer{Message: r.why})
		return e
	}
	g.flush(&e)
	e.Answer(w, step.None, answer)
	return e
}

func (g *Group) heartbeat(now time.Time, h *Heartbeat, topics Topics, e *step.Effects) (HeartbeatAnswer, *refusal) {
	if h.MemberEpoch < epochJoin {
		return g.leave(h, e)
	}
	m, r := g.find(h)
	if r != nil {
		return HeartbeatAnswer{}, r
	}
	switch {
	case m == nil:
		if m, r = g.admit(h, e); r != nil {
			return HeartbeatAnswer{}, r
		}
	case m.epoch == epochLeaveStatic: // it is back, under the id that it had
		m.epoch, m.previous = epochJoin, epochJoin
	}
	g.update(m, h)
	g.alive(m, now)
	g.refresh(topics, now, e)
	g.retarget()
	had, epochHad := m.assigned, m.epoch
	g.reconcile(m, NewAssignment(h.Owned), h.Owned != nil, now)

	a := HeartbeatAnswer{MemberID: m.id, MemberEpoch: m.epoch, Interval: g.cfg.HeartbeatInterval}
	full := h.MemberEpoch == epochJoin || h.Owned != nil && (h.Names != nil || h.Regex != nil)
	if full || !had.same(m.assigned) {
		a.Assigned, a.Assignment = true, m.assigned.assignment()
	}
	if epochHad != m.epoch && g.settled(m) {
		e.Note(fmt.Sprintf("member %s has its assignment of epoch %d: %d partitions", m.id, m.epoch, m.target.Len()))
	}
	return a, nil
}

// find returns the member that sends a heartbeat, nil where it is one to be admitted.
func (g *Group) find(h *Heartbeat) (*member, *refusal) {
	m := g.members[h.MemberID]
	if h.Instance != nil {
		static := g.instances[*h.Instance]
		switch {
		case h.MemberEpoch == epochJoin && (static == nil || static.id != h.MemberID):
			if static != nil && static.epoch != epochLeaveStatic && static.classic == nil {
				return nil, refuse(step.UnreleasedInstanceID, "Static member %s with instance id %s cannot join the group because the instance id is owned by member %s.", h.MemberID, *h.Instance, static.id)
			}
			return nil, nil
		case static == nil:
			return nil, refuse(step.UnknownMemberID, "Instance id %s is unknown.", *h.Instance)
		case static.id != h.MemberID:
			return nil, refuse(step.FencedInstanceID, "Static member %s with instance id %s was fenced by member %s.", h.MemberID, *h.Instance, static.id)
		}
		m = static
	}
	switch {
	case h.MemberEpoch == epochJoin:
		return m, nil // new, or it joins once more
	case m == nil:
		return nil, refuse(step.UnknownMemberID, "Member %s is not a member of group %s.", h.MemberID, g.id)
	case h.MemberEpoch == m.epoch:
		return m, nil
	case h.MemberEpoch > m.epoch:
		return nil, refuse(step.FencedMemberEpoch, "The consumer group member has a greater member epoch (%d) than the one known by the group coordinator (%d). The member must abandon all its partitions and rejoin.", h.MemberEpoch, m.epoch)
	case h.MemberEpoch == m.previous && h.Owned != nil && m.assigned.covers(NewAssignment(h.Owned)):
		return m, nil // the answer with its new epoch was lost
	}
	return nil, refuse(step.FencedMemberEpoch, "The consumer group member has a smaller member epoch (%d) than the one known by the group coordinator (%d). The member must abandon all its partitions and rejoin.", h.MemberEpoch, m.epoch)
}

// admit takes in a member that joins: a new one, or in place of the static one whose instance it has.
func (g *Group) admit(h *Heartbeat, e *step.Effects) (*member, *refusal) {
	id := h.MemberID
	if id == "" {
		id = h.NewMemberID
	}
	instance := ""
	if h.Instance != nil {
		instance = *h.Instance
	}
	return g.enter(id, instance, e)
}

// enter makes a member under an id that is not in the group yet.
func (g *Group) enter(id, instance string, e *step.Effects) (*member, *refusal) {
	former := g.instances[instance]
	if former == nil && g.cfg.MembersMax > 0 && len(g.members) >= g.cfg.MembersMax {
		return nil, refuse(step.GroupMaxSizeReached, "The consumer group has reached its maximum capacity of %d members.", g.cfg.MembersMax)
	}
	m := &member{id: id, instance: instance}
	if former == nil {
		g.add(m)
		g.bump()
	} else {
		g.replace(former, m)
		e.Note(fmt.Sprintf("member %s takes the place of static member %s, instance %s", m.id, former.id, instance))
	}
	g.touch(m)
	return m, nil
}

// replace has m take over all that the former holder of its instance id was and had.
func (g *Group) replace(former, m *member) {
	id := m.id
	*m = *former
	m.id, m.set = id, nil
	m.epoch, m.previous = epochJoin, epochJoin
	m.joinAt, m.syncAt, m.rebalanceAt = time.Time{}, time.Time{}, time.Time{}
	g.remove(former)
	g.add(m)
	for _, set := range [...]owned{m.assigned, m.revoking} {
		for topic, p := range set.all {
			g.own(topic, p, m)
		}
	}
}

// update takes over what a heartbeat says of its member. Where the client is (its address may change with each connection) is
// written down with other things only, or every heartbeat through a load balancer would write.
func (g *Group) update(m *member, h *Heartbeat) {
	if m.classic != nil {
		m.classic = nil
		g.classics--
		m.joinAt, m.syncAt = time.Time{}, time.Time{}
		g.touch(m)
	}
	set := func(field *string, to *string) {
		if to != nil && *field != *to {
			*field = strings.Clone(*to)
			g.touch(m)
		}
	}
	set(&m.rack, h.Rack)
	if h.Assignor != nil && *h.Assignor != m.assignor {
		before := g.preferred()
		if set(&m.assignor, h.Assignor); g.preferred() != before {
			g.bump()
		}
	}
	if timeout := time.Duration(h.RebalanceMs) * time.Millisecond; timeout >= 0 && timeout != m.rebalance {
		m.rebalance = timeout
		g.touch(m)
	}
	if h.Names != nil {
		if names := sortedNames(h.Names); !slices.Equal(names, m.names) {
			m.names = names
			g.touch(m)
			g.bump()
		}
	}
	if h.Regex != nil && *h.Regex != m.regex {
		set(&m.regex, h.Regex)
		g.bump()
	}
	if g.touched[m.id] {
		m.clientID, m.clientHost = clip(h.ClientID), clip(h.ClientHost)
		g.subscribe(m)
	}
}

func clip(s string) string { return s[:min(len(s), clientBytesMax)] }

func sortedNames(list []string) []string {
	names := make([]string, len(list))
	for i, name := range list {
		names[i] = strings.Clone(name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// leave serves a member that goes, for good or, a static one, for a while.
func (g *Group) leave(h *Heartbeat, e *step.Effects) (HeartbeatAnswer, *refusal) {
	m := g.members[h.MemberID]
	switch {
	case h.Instance != nil && g.instances[*h.Instance] == nil:
		return HeartbeatAnswer{}, refuse(step.UnknownMemberID, "Instance id %s is unknown.", *h.Instance)
	case h.Instance != nil && g.instances[*h.Instance] != m:
		return HeartbeatAnswer{}, refuse(step.FencedInstanceID, "Static member %s with instance id %s was fenced by member %s.", h.MemberID, *h.Instance, g.instances[*h.Instance].id)
	case m == nil:
		return HeartbeatAnswer{}, refuse(step.UnknownMemberID, "Member %s is not a member of group %s.", h.MemberID, g.id)
	}
	if h.MemberEpoch == epochLeaveStatic {
		// What it has stays with it until it is back or its session is over; what it was about to give up is free.
		for topic, p := range m.revoking.all {
			g.own(topic, p, nil)
		}
		m.rebalanceAt = time.Time{}
		g.advance(m, epochLeaveStatic, stable, m.assigned, nil)
		e.Note(fmt.Sprintf("static member %s, instance %s, is away", m.id, m.instance))
	} else {
		g.remove(m)
		g.left()
		e.Note(fmt.Sprintf("member %s left", m.id))
	}
	return HeartbeatAnswer{MemberID: m.id, MemberEpoch: h.MemberEpoch}, nil
}
