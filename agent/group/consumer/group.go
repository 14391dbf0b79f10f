package consumer

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/agent/group/record"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
)

// ParseMigration reads a policy by the name that Apache Kafka gives it, in any case of letters.
func ParseMigration(s string) (Migration, error) {
	for m, name := range migrations {
		if strings.EqualFold(s, name) {
			return Migration(m), nil
		}
	}
	return 0, fmt.Errorf("no such migration policy %q: it is one of %s", s, strings.Join(migrations[:], ", "))
}

// Migrations are the names of all policies.
func Migrations() []string { return slices.Clone(migrations[:]) }

var migrations = [...]string{Bidirectional: "bidirectional", Upgrade: "upgrade", Downgrade: "downgrade", Disabled: "disabled"}

func (m Migration) String() string { return migrations[m] }

// Migration says which way a group may change its protocol while it has members.
type Migration uint8

const (
	Bidirectional Migration = iota
	Upgrade                 // from classic to consumer
	Downgrade               // from consumer to classic
	Disabled
)

func (m Migration) upgrades() bool   { return m == Bidirectional || m == Upgrade }
func (m Migration) downgrades() bool { return m == Bidirectional || m == Downgrade }

// Config is the settings of all groups of an agent. The zero value of each is its default, which is Apache Kafka's.
type Config struct {
	// HeartbeatInterval is what members are told. Default 5 s.
	HeartbeatInterval time.Duration
	// SessionTimeout is how long a member may be silent. Default 45 s. Classic members bring their own.
	SessionTimeout time.Duration
	// MembersMax bounds the members of a group. 0 is no bound.
	MembersMax int
	// ClassicMembersMax bounds the members of a group that is downgraded. 0 is no bound.
	ClassicMembersMax int
	// Migration between the protocols.
	Migration Migration
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	c.HeartbeatInterval = cmp.Or(c.HeartbeatInterval, 5*time.Second)
	c.SessionTimeout = cmp.Or(c.SessionTimeout, 45*time.Second)
	switch {
	case c.HeartbeatInterval < 0 || c.SessionTimeout < 0 || c.MembersMax < 0 || c.ClassicMembersMax < 0 || c.Migration > Disabled:
		return errors.New("group: a limit of consumer groups is negative, or no such migration policy")
	case c.HeartbeatInterval >= c.SessionTimeout:
		return fmt.Errorf("group: members that send a heartbeat every %s would not outlive a session timeout of %s", c.HeartbeatInterval, c.SessionTimeout)
	}
	return nil
}

// regexInterval is how often a group matches its expressions with all topics at most: each costs time for each topic.
const regexInterval = time.Second

// Topic is what a group has to know of a topic.
type Topic struct {
	ID         entry.UUID
	Name       string
	Partitions int32
}

// Topics are the topics of the cluster, as they are now. What it says may change between two calls; the version does then too.
type Topics interface {
	// Version moves when topics are made, deleted or grow. It is never 0.
	Version() uint64
	ByName(name string) (Topic, bool)
	ByID(id entry.UUID) (Topic, bool)
	// Names of all topics. They are not modified.
	Names() []string
}

// Group is one group of the consumer protocol. It is not safe for concurrent use.
type Group struct {
	id  string
	cfg *Config

	// Invariant: targetEpoch ≤ epoch. Members' targets are those of targetEpoch.
	epoch, targetEpoch int32
	written            int32  // the epoch as the last write has it
	assignor           string // of the last target
	topicsHash         uint64 // of what is subscribed to, as the last epoch saw it

	members   map[string]*member
	instances map[string]*member
	classics  int // members of the classic protocol
	sets      map[string]*topicSet

	// Invariant: a partition stands here, with the one member that has it assigned or revokes it, and with nobody else.
	owners map[entry.UUID][]*member

	topicsVersion uint64 // that sets were resolved at; 0: not yet
	expressionsAt time.Time
	subscribed    []Topic // by anybody, sorted by id
	wake          time.Time

	// What this step has changed.
	changed, bumped bool // the group's record; its epoch
	touched, gone   map[string]bool
}

// memberState is where a member stands on the way to its target.
type memberState byte

const (
	stable     memberState = iota // it has what its epoch gives it
	unrevoked                     // it is to give something up, and has not said that it did
	unreleased                    // it waits for what others have not given up yet
)

func (s memberState) String() string { return [...]string{"stable", "unrevoked", "unreleased"}[s] }

type member struct {
	id                              string
	instance, rack, regex, assignor string
	clientID, clientHost            string
	names                           []string // sorted
	rebalance                       time.Duration
	classic                         *classicMember // nil: of the consumer protocol

	state memberState
	// epoch is the one that the member has been told last; previous is the one before, which it may come with where the answer
	// was lost. epochLeaveStatic: a static member that is away.
	epoch, previous    int32
	assigned, revoking owned
	target             Assignment

	set *topicSet

	// Zero: not running. Kept in memory alone.
	sessionAt, rebalanceAt, joinAt, syncAt time.Time
}

// topicsMax bounds the topics that a member subscribes to: its record names each of those that it has.
const topicsMax = 6000

// topicSet is a subscription, shared by all members that have the same.
type topicSet struct {
	key     string
	names   []string
	regex   string
	members int
	matched []string // by regex
	at      uint64   // version of the topics that matched is of
	topics  []Topic  // those of both that exist, sorted by id, and no more than topicsMax
	beyond  int      // that exist beyond that
}

// New makes a group without members. Its epochs go on from generation.
func New(cfg *Config, id string, generation int32) *Group {
	return &Group{
		id: id, cfg: cfg, epoch: generation, targetEpoch: generation, written: generation, assignor: Uniform,
		members: make(map[string]*member), instances: make(map[string]*member), sets: make(map[string]*topicSet),
		owners: make(map[entry.UUID][]*member), touched: make(map[string]bool), gone: make(map[string]bool),
	}
}

// Load makes a group from what the state has. Sessions start anew. A change of which only a part was written (not complete) makes
// it compute its target anew; where that was a change of protocol, members whose part is missing are of the other one yet, and
// have to join again.
func Load(
	cfg *Config, id string, generation int32, stored []byte, members iter.Seq2[string, []byte], complete bool, now time.Time,
) (*Group, error) {
	h, err := parseHeader(stored)
	if err != nil {
		return nil, fmt.Errorf("group %q: %w", id, err)
	}
	g := New(cfg, id, generation)
	g.targetEpoch, g.assignor, g.topicsHash = min(h.targetEpoch, generation), h.assignor, h.topicsHash
	for memberID, b := range members {
		switch err := g.loadMember(memberID, b); {
		case err == nil:
		case !complete && errors.Is(err, record.ErrCorrupt):
			g.gone[memberID] = true
		default:
			return nil, fmt.Errorf("group %q, member %q: %w", id, memberID, err)
		}
	}
	if !complete {
		g.bump()
	}
	g.Renew(now)
	return g, nil
}

// loadMember takes in a member as the state has it.
func (g *Group) loadMember(id string, b []byte) error {
	m, err := parseMember(id, b)
	if err != nil {
		return err
	}
	if _, err := compile(m.regex); err != nil {
		return fmt.Errorf("%w: regular expression: %w", record.ErrCorrupt, err)
	}
	for _, set := range [...]owned{m.assigned, m.revoking} {
		for topic, p := range set.all {
			if other := g.owner(topic, p); other != nil {
				return fmt.Errorf("%w: %x-%d is owned by member %q too", record.ErrCorrupt, topic, p, other.id)
			}
		}
	}
	for _, set := range [...]owned{m.assigned, m.revoking} {
		for topic, p := range set.all {
			g.own(topic, p, m)
		}
	}
	g.add(m)
	return nil
}

// Kind is that of consumer groups.
func (g *Group) Kind() uint32 { return step.KindConsumer }

// Generation is the group's epoch, as the state has it once all that was written is applied.
func (g *Group) Generation() int32 { return g.written }

// Members counts members, static ones that are away among them.
func (g *Group) Members() int { return len(g.members) }

// Abandon has nothing to forget: every event is answered in its own step.
func (g *Group) Abandon(step.Waiter, time.Time) step.Effects { return step.Effects{} }

// Idle reports that there are no members: timers are all that the state does not hold.
func (g *Group) Idle() bool { return len(g.members) == 0 && !g.changed }

// Deadline is when Tick has something to do, or earlier.
func (g *Group) Deadline() time.Time { return g.wake }

// Renew starts all timers anew.
func (g *Group) Renew(now time.Time) {
	g.wake = time.Time{}
	for _, m := range g.members {
		m.joinAt, m.syncAt, m.rebalanceAt = time.Time{}, time.Time{}, time.Time{}
		g.alive(m, now)
		if m.classic == nil && m.state == unrevoked {
			g.arm(&m.rebalanceAt, now.Add(m.rebalance))
		}
	}
	if len(g.gone) > 0 { // Load's; there may be nobody left whose heartbeat writes that they are
		g.wakeBy(now)
	}
}

// Tick removes members whose time is over.
func (g *Group) Tick(now time.Time) (e step.Effects) {
	if g.wake.IsZero() || now.Before(g.wake) {
		return e
	}
	g.wake = time.Time{}
	removed := false
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		m := g.members[id]
		why := ""
		for _, timer := range [...]struct {
			at  time.Time
			why string
		}{
			{m.sessionAt, "it was silent for the whole of its session timeout"},
			{m.rebalanceAt, "it did not give up partitions within its rebalance timeout"},
			{m.joinAt, "it did not join again within its rebalance timeout"},
			{m.syncAt, "it did not sync within its rebalance timeout"},
		} {
			switch {
			case timer.at.IsZero():
			case timer.at.After(now):
				g.wakeBy(timer.at)
			case why == "":
				why = timer.why
			}
		}
		if why != "" {
			g.remove(m)
			removed = true
			e.Note(fmt.Sprintf("member %s removed: %s", m.id, why))
		}
	}
	if removed {
		g.left()
	}
	g.flush(&e)
	return e
}

func (g *Group) arm(timer *time.Time, at time.Time) {
	*timer = at
	g.wakeBy(at)
}

func (g *Group) wakeBy(at time.Time) {
	if g.wake.IsZero() || at.Before(g.wake) {
		g.wake = at
	}
}

// alive starts a member's session anew.
func (g *Group) alive(m *member, now time.Time) {
	timeout := g.cfg.SessionTimeout
	if m.classic != nil {
		timeout = m.classic.session
	}
	g.arm(&m.sessionAt, now.Add(timeout))
}

// bump moves the group's epoch, once a step. Targets follow with the next event of a member.
func (g *Group) bump() {
	if !g.bumped {
		g.epoch++
		g.changed, g.bumped = true, true
	}
}

// left moves the epoch after members went. Where a classic group is to go on with those who are left it stays what they know: they
// commit what they have done and join again, instead of hearing that they have lost all they had.
func (g *Group) left() {
	if !g.Downgrades() {
		g.bump()
	}
}

func (g *Group) touch(m *member) {
	g.touched[m.id] = true
	delete(g.gone, m.id)
}

func (g *Group) add(m *member) {
	g.members[m.id] = m
	if m.instance != "" {
		g.instances[m.instance] = m
	}
	if m.classic != nil {
		g.classics++
	}
	g.subscribe(m)
}

// remove takes a member out; what it had is free.
func (g *Group) remove(m *member) {
	for _, set := range [...]owned{m.assigned, m.revoking} {
		for topic, p := range set.all {
			g.own(topic, p, nil)
		}
	}
	delete(g.members, m.id)
	if g.instances[m.instance] == m {
		delete(g.instances, m.instance)
	}
	if m.classic != nil {
		g.classics--
	}
	g.unsubscribe(m)
	delete(g.touched, m.id)
	g.gone[m.id] = true
}

func (g *Group) owner(topic entry.UUID, p int32) *member {
	if list := g.owners[topic]; int(p) < len(list) {
		return list[p]
	}
	return nil
}

// own says who has a partition; nil: nobody.
func (g *Group) own(topic entry.UUID, p int32, m *member) {
	list := g.owners[topic]
	if int(p) >= len(list) {
		list = append(list, make([]*member, int(p)+1-len(list))...)
		g.owners[topic] = list
	}
	list[p] = m
}

// flush puts what has changed into an effect.
func (g *Group) flush(e *step.Effects) {
	if !g.changed && len(g.touched) == 0 && len(g.gone) == 0 {
		return
	}
	w := &step.Write{Kind: step.KindConsumer, Generation: g.epoch, Removes: slices.Sorted(maps.Keys(g.gone))}
	w.Record = header{targetEpoch: g.targetEpoch, assignor: g.assignor, topicsHash: g.topicsHash}.appendTo(nil)
	for _, id := range slices.Sorted(maps.Keys(g.touched)) {
		w.Puts = append(w.Puts, step.Member{ID: id, Record: g.members[id].appendTo(nil)})
	}
	g.changed, g.bumped, g.written = false, false, g.epoch
	clear(g.touched)
	clear(g.gone)
	e.Write = w
}

// subscribe has a member share the set of its subscription.
func (g *Group) subscribe(m *member) {
	key := m.subscriptionKey()
	if m.set != nil && m.set.key == key {
		return
	}
	g.unsubscribe(m)
	set := g.sets[key]
	if set == nil {
		set = &topicSet{key: key, names: m.names, regex: m.regex}
		g.sets[key] = set
		g.topicsVersion = 0
	}
	set.members++
	m.set = set
}

func (g *Group) unsubscribe(m *member) {
	if m.set == nil {
		return
	}
	if m.set.members--; m.set.members == 0 {
		delete(g.sets, m.set.key)
		g.topicsVersion = 0
	}
	m.set = nil
}

func (m *member) subscriptionKey() string {
	var b strings.Builder
	b.WriteString(m.regex)
	for _, name := range m.names {
		b.WriteByte(0)
		b.WriteString(name)
	}
	return b.String()
}

// refresh looks at what the topics are that members subscribe to, and moves the epoch where they have changed.
func (g *Group) refresh(topics Topics, now time.Time, e *step.Effects) {
	version := topics.Version()
	if version == g.topicsVersion {
		return
	}
	due := g.expressionsAt.IsZero() || now.Sub(g.expressionsAt) >= regexInterval
	current := true
	var names []string
	for _, key := range slices.Sorted(maps.Keys(g.sets)) {
		set := g.sets[key]
		if set.regex == "" || set.at == version {
			continue
		}
		if !due && set.at != 0 {
			current = false
			continue
		}
		if names == nil {
			names = topics.Names()
			g.expressionsAt = now
		}
		if re, err := compile(set.regex); err == nil { // it was compiled before it came in
			set.matched, set.at = matches(re, names), version
		}
	}
	all := make(map[entry.UUID]Topic)
	for _, set := range g.sets {
		set.topics = nil
		for _, list := range [...][]string{set.names, set.matched} {
			for _, name := range list {
				if t, ok := topics.ByName(name); ok {
					set.topics = append(set.topics, t)
				}
			}
		}
		slices.SortFunc(set.topics, compareByID)
		set.topics = slices.CompactFunc(set.topics, func(a, b Topic) bool { return a.ID == b.ID })
		if beyond := max(len(set.topics)-topicsMax, 0); beyond != set.beyond {
			if set.beyond = beyond; beyond > 0 {
				e.Note(fmt.Sprintf("a subscription covers %d topics, %d more than a member may have: nobody gets those", len(set.topics), beyond))
			}
		}
		set.topics = set.topics[:min(len(set.topics), topicsMax)]
		for _, t := range set.topics {
			all[t.ID] = t
		}
	}
	g.subscribed = slices.SortedFunc(maps.Values(all), compareByID)
	if current {
		g.topicsVersion = version
	}
	if hash := hashOf(g.subscribed); hash != g.topicsHash {
		g.topicsHash = hash
		g.bump()
	}
}

func compareByID(a, b Topic) int { return compareTopics(a.ID, b.ID) }

// hashOf tells sets of topics and their sizes apart, on every agent alike.
func hashOf(topics []Topic) uint64 {
	if len(topics) == 0 {
		return 0
	}
	h := fnv.New64a()
	var b [20]byte
	for _, t := range topics {
		copy(b[:], t.ID[:])
		binary.LittleEndian.PutUint32(b[16:], uint32(t.Partitions))
		_, _ = h.Write(b[:])
	}
	return h.Sum64()
}

// retarget computes the target assignment where the group's epoch has moved since the last one.
//
// Requires: refresh has been called.
func (g *Group) retarget() {
	if g.targetEpoch == g.epoch {
		return
	}
	index := make(map[entry.UUID]int, len(g.subscribed))
	for i, t := range g.subscribed {
		index[t.ID] = i
	}
	for topic, list := range g.owners { // of topics that nobody subscribes to any more
		if _, ok := index[topic]; !ok && !slices.ContainsFunc(list, func(m *member) bool { return m != nil }) {
			delete(g.owners, topic)
		}
	}
	places := make(map[*topicSet][]int, len(g.sets))
	for _, set := range g.sets {
		list := make([]int, len(set.topics))
		for i, t := range set.topics {
			list[i] = index[t.ID]
		}
		places[set] = list
	}
	s := Spec{Topics: g.subscribed, Members: make([]Subscriber, 0, len(g.members))}
	list := make([]*member, 0, len(g.members))
	for _, m := range g.members {
		list = append(list, m)
		s.Members = append(s.Members, Subscriber{ID: m.id, Instance: m.instance, Topics: places[m.set], Previous: m.target})
	}
	g.assignor = g.preferred()
	for i, target := range assign(g.assignor, s) {
		if m := list[i]; !m.target.equal(target) {
			m.target = target
			g.touch(m)
		}
	}
	g.targetEpoch = g.epoch
	g.changed = true
}

// preferred is the assignor that most members ask for.
func (g *Group) preferred() string {
	votes := make(map[string]int)
	for _, m := range g.members {
		votes[m.assignor]++
	}
	best, most := assignorNames[0], 0
	for _, name := range assignorNames {
		if votes[name] > most {
			best, most = name, votes[name]
		}
	}
	return best
}
