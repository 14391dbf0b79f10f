package classic

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/firnlog/firn/agent/group/record"
	"github.com/firnlog/firn/agent/group/step"
)

// State of a group.
type State uint8

// The states; their numbers are in records.
const (
	Empty State = iota
	PreparingRebalance
	CompletingRebalance
	Stable
)

var stateNames = [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable"}

// String is the state's name as tools know it.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Config are the limits of all groups; the zero value of each is its default, but for InitialDelay, where zero is none.
type Config struct {
	// SizeMax bounds the members of a group. Default 1000.
	SizeMax int
	// SessionMin and SessionMax bound session timeouts. Defaults 6 s and 30 min.
	SessionMin, SessionMax time.Duration
	// InitialDelay is how long a group that was empty waits for more members.
	InitialDelay time.Duration
	// NewMemberTimeout bounds how long a member that was never answered may wait. Default 5 min.
	NewMemberTimeout time.Duration
	// MetadataBytes bounds a member's metadata in all its protocols, AssignmentBytes its assignment: both go into one record
	// of the state. Defaults 128 KiB and 112 KiB.
	MetadataBytes, AssignmentBytes int
	// GroupBytes bounds the metadata of all members, which the leader is sent. Default 8 MiB.
	GroupBytes int
}

// Bounds that no client comes near to.
const (
	protocolsMax = 64
	nameBytesMax = 255
	// memberIDBytesMax is what the state takes. Nobody was ever given a longer one.
	memberIDBytesMax = 1024
	timeoutMax       = 24 * time.Hour
)

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	c.SizeMax = cmp.Or(c.SizeMax, 1000)
	c.SessionMin, c.SessionMax = cmp.Or(c.SessionMin, 6*time.Second), cmp.Or(c.SessionMax, 30*time.Minute)
	c.NewMemberTimeout = cmp.Or(c.NewMemberTimeout, 5*time.Minute)
	c.MetadataBytes, c.AssignmentBytes = cmp.Or(c.MetadataBytes, 128<<10), cmp.Or(c.AssignmentBytes, 112<<10)
	c.GroupBytes = cmp.Or(c.GroupBytes, 8<<20)
	if c.SizeMax < 1 || c.SessionMin < 0 || c.SessionMax < c.SessionMin || c.InitialDelay < 0 || c.NewMemberTimeout < 0 ||
		c.MetadataBytes < 0 || c.AssignmentBytes < 0 || c.GroupBytes < c.MetadataBytes {
		return errors.New("group: a limit of classic groups is negative, or one that must not be below another is")
	}
	return nil
}

// Protocol is a way to assign partitions that a member supports, with what it tells the leader.
type Protocol struct {
	Name     string
	Metadata []byte
}

// Group is one group in its coordinator's memory. It is not safe for concurrent use.
type Group struct {
	id  string
	cfg *Config

	state      State
	generation int32 // only rises
	// protocolType is what the members are ("consumer", "connect"); it stays when they go. protocol is the one in force.
	protocolType, protocol string
	leader                 string // Invariant: a member, where there are any

	// members in the order they came.
	members []*member
	byID    map[string]*member
	static  map[string]*member // by instance id
	// pending are ids that were given to clients who have not come back with them, until when they may.
	pending map[string]time.Time

	// While PreparingRebalance: joinBy is when it ends at the latest. initial: it waits for company, at the longest until
	// companyBy, and has had some since it last began to wait where grown is set.
	joinBy    time.Time
	initial   bool
	grown     bool
	companyBy time.Time
	// syncBy is when those who have not synced are removed; zero: all have.
	syncBy time.Time
	// wake is when Tick may have something to do. Invariant: not later than the earliest deadline of all.
	wake time.Time

	// removed are ids that the state still has. changed: the group's record differs from it.
	removed []string
	changed bool
	exists  bool // the state has the group
}

// member is one member.
type member struct {
	id, instance, clientID, host string
	session, rebalance           time.Duration
	protocols                    []Protocol
	assignment                   []byte

	// join and sync are who waits for an answer.
	join, sync step.Waiter
	// fresh: it was never told its id, unless it brought it. anonymous: it did not bring it.
	fresh, anonymous bool
	unsynced         bool // has not asked for this generation's assignment
	expires          time.Time
	stored, changed  bool // the state has it; and has it otherwise
}

// waits reports that the coordinator owes it an answer: silence is expected then.
func (m *member) waits() bool { return m.join != 0 || m.sync != 0 }

func (m *member) metadata(protocol string) []byte {
	for i := range m.protocols {
		if m.protocols[i].Name == protocol {
			return m.protocols[i].Metadata
		}
	}
	return nil
}

func (m *member) bytes() (n int) {
	for i := range m.protocols {
		n += len(m.protocols[i].Name) + len(m.protocols[i].Metadata)
	}
	return n
}

// New makes a group that has never had members. cfg has been validated and is shared by all groups.
func New(id string, cfg *Config) *Group {
	return &Group{
		id: id, cfg: cfg, byID: make(map[string]*member), static: make(map[string]*member), pending: make(map[string]time.Time),
	}
}

// Load makes a group of what the state has. Sessions start at now. complete is false where a change is missing a part: the
// group then rebalances, and where that was a change of protocol, members whose part is missing are of the other one yet, and
// have to join again. Errors wrap record.ErrCorrupt or record.ErrVersion.
func Load(id string, cfg *Config, generation int32, stored []byte, complete bool, members iter.Seq2[string, []byte], now time.Time) (*Group, error) {
	g := New(id, cfg)
	g.generation, g.exists = generation, true
	var h header
	if len(stored) > 0 {
		var err error
		if h, err = parseHeader(stored); err != nil {
			return nil, fmt.Errorf("group %q: %w", id, err)
		}
	}
	g.protocolType, g.protocol, g.leader = h.protocolType, h.protocol, h.leader
	for mid, b := range members {
		m, err := parseMember(mid, b)
		if !complete && errors.Is(err, record.ErrCorrupt) {
			g.removed = append(g.removed, mid)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("group %q, member %q: %w", id, mid, err)
		}
		m.stored = true
		g.members = append(g.members, m)
		g.byID[mid] = m
		if m.instance != "" {
			g.static[m.instance] = m
		}
		g.alive(m, now)
	}
	g.state = h.state
	switch led := g.byID[g.leader] != nil; {
	case len(g.members) == 0 && len(g.removed) == 0:
		g.state, g.leader, g.protocol = Empty, "", ""
	case !complete || !led || h.state == Empty || h.state == PreparingRebalance:
		switch {
		case led:
		case len(g.members) == 0: // the next generation, at once, is empty
			g.leader = ""
		default:
			g.leader = g.members[0].id
		}
		g.state, g.changed = PreparingRebalance, true
		g.joinBy = now.Add(g.rebalanceTimeout())
		g.arm(g.joinBy)
	case h.state == CompletingRebalance:
		for _, m := range g.members {
			m.unsynced = true
		}
		g.syncBy = now.Add(g.rebalanceTimeout())
		g.arm(g.syncBy)
	}
	return g, nil
}

// Kind implements step.Machine.
func (g *Group) Kind() uint32 { return step.KindClassic }

// State and Generation say where the group is.
func (g *Group) State() State      { return g.state }
func (g *Group) Generation() int32 { return g.generation }

// Idle implements step.Machine: a group without members is all in the state.
func (g *Group) Idle() bool {
	return g.state == Empty && len(g.pending) == 0 && !g.changed && len(g.removed) == 0
}

// Description is a group as tools are shown it.
type Description struct {
	State                  State
	Generation             int32
	ProtocolType, Protocol string
	Leader                 string
	Members                []MemberDescription
}

// MemberDescription is a member of it. Metadata and Assignment are those in force; nobody may modify them.
type MemberDescription struct {
	ID, InstanceID, ClientID, Host   string
	SessionTimeout, RebalanceTimeout time.Duration
	Protocols                        []Protocol
	Metadata, Assignment             []byte
}

// Describe says all about the group.
func (g *Group) Describe() Description {
	d := Description{State: g.state, Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol, Leader: g.leader}
	for _, m := range g.members {
		d.Members = append(d.Members, MemberDescription{
			ID: m.id, InstanceID: m.instance, ClientID: m.clientID, Host: m.host, SessionTimeout: m.session,
			RebalanceTimeout: m.rebalance, Protocols: m.protocols, Metadata: m.metadata(g.protocol), Assignment: m.assignment,
		})
	}
	return d
}

// known is the member that a request of a known id comes from.
func (g *Group) known(id, instance string) (*member, step.Code) {
	if instance != "" {
		switch m := g.static[instance]; {
		case m == nil:
			return nil, step.UnknownMemberID
		case m.id != id:
			return nil, step.FencedInstanceID
		default:
			return m, step.None
		}
	}
	if m := g.byID[id]; m != nil {
		return m, step.None
	}
	return nil, step.UnknownMemberID
}

// Heartbeat says whether the member is still one of this generation's, and keeps it alive.
func (g *Group) Heartbeat(id, instance string, generation int32, now time.Time) step.Code {
	m, code := g.known(id, instance)
	switch {
	case code != step.None:
		return code
	case generation != g.generation:
		return step.IllegalGeneration
	}
	g.alive(m, now)
	if g.state == PreparingRebalance {
		return step.RebalanceInProgress
	}
	return step.None
}

// CheckCommit says whether a commit of offsets is the group's own: by a member of this generation, or, with a generation
// below zero and no member, by somebody while there are no members. It keeps the member alive. What it takes the state may
// still refuse.
func (g *Group) CheckCommit(id, instance string, generation int32, now time.Time) step.Code {
	if generation < 0 && id == "" && instance == "" {
		if g.state != Empty {
			return step.UnknownMemberID
		}
		return step.None
	}
	if generation < 0 && g.state == Empty {
		return step.None
	}
	m, code := g.known(id, instance)
	switch {
	case code != step.None:
		return code
	case generation != g.generation:
		return step.IllegalGeneration
	}
	g.alive(m, now)
	if g.state == CompletingRebalance {
		return step.RebalanceInProgress
	}
	return step.None
}

// alive starts the member's session anew.
func (g *Group) alive(m *member, now time.Time) {
	m.expires = now.Add(m.session)
	g.arm(m.expires)
}

// arm makes sure that Tick is called at t.
func (g *Group) arm(t time.Time) {
	if g.wake.IsZero() || t.Before(g.wake) {
		g.wake = t
	}
}

// rebalanceTimeout is the largest of the members'.
func (g *Group) rebalanceTimeout() (d time.Duration) {
	for _, m := range g.members {
		d = max(d, m.rebalance)
	}
	return d
}

// add takes a member in. The first leads.
func (g *Group) add(m *member) {
	if g.leader == "" {
		g.leader = m.id
	}
	g.members = append(g.members, m)
	g.byID[m.id] = m
	if m.instance != "" {
		g.static[m.instance] = m
	}
}

// remove takes a member out; whoever waits for it is told code. Where it led, the first one left does.
func (g *Group) remove(m *member, code step.Code, eff *step.Effects) {
	eff.Answer(m.join, code, nil)
	eff.Answer(m.sync, code, nil)
	m.join, m.sync = 0, 0
	g.members = slices.DeleteFunc(g.members, func(o *member) bool { return o == m })
	delete(g.byID, m.id)
	if m.instance != "" && g.static[m.instance] == m {
		delete(g.static, m.instance)
	}
	if m.stored {
		g.removed = append(g.removed, m.id)
	}
	if g.leader == m.id {
		g.leader = ""
		if len(g.members) > 0 {
			g.leader = g.members[0].id
		}
	}
}

// write puts what changed since the last write into eff.
func (g *Group) write(eff *step.Effects) {
	w := eff.Write
	if w == nil {
		w = &step.Write{Kind: step.KindClassic}
		eff.Write = w
	}
	w.Generation = g.generation
	w.Record = header{state: g.state, protocolType: g.protocolType, protocol: g.protocol, leader: g.leader}.appendTo(nil)
	for _, id := range g.removed {
		w.Puts = slices.DeleteFunc(w.Puts, func(p step.Member) bool { return p.ID == id })
	}
	w.Removes = append(w.Removes, g.removed...)
	for _, m := range g.members {
		if m.changed || !m.stored {
			w.Puts = slices.DeleteFunc(w.Puts, func(p step.Member) bool { return p.ID == m.id })
			w.Puts = append(w.Puts, step.Member{ID: m.id, Record: m.appendTo(nil)})
			m.changed, m.stored = false, true
		}
	}
	g.removed, g.changed, g.exists = nil, false, true
}

// sameProtocols reports that a member brings what it brought before.
func sameProtocols(a, b []Protocol) bool {
	return slices.EqualFunc(a, b, func(x, y Protocol) bool { return x.Name == y.Name && bytes.Equal(x.Metadata, y.Metadata) })
}

// supports reports whether a member that brings these can be one of the group.
func (g *Group) supports(protocolType string, protocols []Protocol) bool {
	if len(g.members) == 0 {
		return protocolType != "" && len(protocols) > 0
	}
	return protocolType == g.protocolType && slices.ContainsFunc(protocols, func(p Protocol) bool { return g.common(p.Name) })
}

// common reports that every member supports the protocol.
func (g *Group) common(name string) bool {
	for _, m := range g.members {
		if !slices.ContainsFunc(m.protocols, func(p Protocol) bool { return p.Name == name }) {
			return false
		}
	}
	return true
}

// elect is the protocol that most members like best among those that all support; of two that as many do, the one that the
// leader names first. Empty where there is none.
func (g *Group) elect() (best string) {
	support := make(map[string]int)
	for _, m := range g.members {
		for i, p := range m.protocols {
			if !slices.ContainsFunc(m.protocols[:i], func(q Protocol) bool { return q.Name == p.Name }) {
				support[p.Name]++
			}
		}
	}
	votes := make(map[string]int)
	for _, m := range g.members {
		if i := slices.IndexFunc(m.protocols, func(p Protocol) bool { return support[p.Name] == len(g.members) }); i >= 0 {
			votes[m.protocols[i].Name]++
		}
	}
	if leader := g.byID[g.leader]; leader != nil {
		for _, p := range leader.protocols {
			if votes[p.Name] > votes[best] {
				best = p.Name
			}
		}
	}
	return best
}
