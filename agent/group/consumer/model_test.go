package consumer

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
)

// topicTable is the topics of a cluster.
type topicTable struct {
	version uint64
	made    int
	byName  map[string]Topic
}

func newTopics(topics map[string]int32) *topicTable {
	t := &topicTable{version: 1, byName: make(map[string]Topic)}
	for _, name := range slices.Sorted(maps.Keys(topics)) {
		t.make(name, topics[name])
	}
	return t
}

func (t *topicTable) make(name string, partitions int32) {
	t.version++
	t.made++
	t.byName[name] = Topic{ID: topicID(t.made), Name: name, Partitions: partitions}
}

func (t *topicTable) grow(name string, by int32) {
	topic := t.byName[name]
	topic.Partitions += by
	t.byName[name] = topic
	t.version++
}

func (t *topicTable) delete(name string) {
	delete(t.byName, name)
	t.version++
}

func (t *topicTable) Version() uint64 { return t.version }

func (t *topicTable) ByName(name string) (Topic, bool) {
	topic, ok := t.byName[name]
	return topic, ok
}

func (t *topicTable) ByID(id entry.UUID) (Topic, bool) {
	for _, topic := range t.byName {
		if topic.ID == id {
			return topic, true
		}
	}
	return Topic{}, false
}

func (t *topicTable) Names() []string { return slices.Sorted(maps.Keys(t.byName)) }

// stored is what the state keeps of a group.
type stored struct {
	generation int32
	record     []byte
	members    map[string][]byte
	writes     int
}

func (s *stored) apply(w *step.Write) {
	if w == nil {
		return
	}
	s.writes++
	s.generation, s.record = w.Generation, w.Record
	if s.members == nil {
		s.members = make(map[string][]byte)
	}
	for _, id := range w.Removes {
		delete(s.members, id)
	}
	for _, put := range w.Puts {
		s.members[put.ID] = put.Record
	}
}

func (s *stored) all() iter.Seq2[string, []byte] { return maps.All(s.members) }

// world is a group with its clients.
type world struct {
	t       *rapid.T
	cfg     *Config
	topics  *topicTable
	now     time.Time
	group   *Group
	store   stored
	clients []*client
	waiter  step.Waiter
	made    int
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, cfg: &Config{}, now: time.Unix(1_700_000_000, 0), topics: newTopics(map[string]int32{"a": 3, "b": 5, "c.x": 1})}
	if err := w.cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	w.group = New(w.cfg, "g", 0)
	return w
}

// step does what an event's effects say and returns the answer.
func (w *world) step(e step.Effects) step.Answer {
	w.store.apply(e.Write)
	w.check()
	if len(e.Answers) != 1 {
		w.t.Fatalf("%d answers", len(e.Answers))
	}
	return e.Answers[0]
}

func (w *world) tick() {
	e := w.group.Tick(w.now)
	w.store.apply(e.Write)
	if len(e.Answers) > 0 {
		w.t.Fatal("a tick answered somebody")
	}
	for _, c := range w.clients {
		if w.group.members[c.id] == nil { // it took too long to give something up, which it knows by its own clock
			c.holds = nil
		}
	}
	w.check()
}

// check holds what holds at every instant: no two clients believe that they own one partition, and the group agrees with its owners.
func (w *world) check() {
	holder := make(map[string]string)
	for _, c := range w.clients {
		for topic, p := range c.holds.all {
			if _, ok := w.topics.ByID(topic); !ok {
				continue // was deleted: there is nothing to own
			}
			key := fmt.Sprintf("%x-%d", topic, p)
			if other, ok := holder[key]; ok {
				w.t.Fatalf("%s is owned by %s and by %s", key, other, c.id)
			}
			holder[key] = c.id
			if m := w.group.members[c.id]; m != nil && w.group.owner(topic, p) != m {
				w.t.Fatalf("%s is owned by %s, and the group believes by %v", key, c.id, w.group.owner(topic, p))
			}
		}
	}
	count := 0
	for _, m := range w.group.members {
		for _, set := range [...]owned{m.assigned, m.revoking} {
			for topic, p := range set.all {
				count++
				if w.group.owner(topic, p) != m {
					w.t.Fatalf("member %s has %x-%d, and its owner is %v", m.id, topic, p, w.group.owner(topic, p))
				}
			}
		}
	}
	for _, list := range w.group.owners {
		for _, m := range list {
			if m != nil {
				count--
			}
		}
	}
	if count != 0 {
		w.t.Fatalf("%d partitions are owned by nobody's record", -count)
	}
}

// client is a consumer: of KIP-848, or a classic one with the cooperative or the eager protocol.
type client struct {
	w        *world
	id       string
	instance string
	names    []string
	regex    string
	classic  bool
	eager    bool

	epoch   int32
	holds   Assignment // what it works on
	wanted  Assignment // what it was told last
	say     bool       // its next heartbeat says what it holds
	whole   bool       // its next heartbeat is a full one
	joined  bool
	rejoins bool // classic: it was told to join again
}

func (w *world) client(classic bool) *client {
	w.made++
	c := &client{w: w, id: fmt.Sprintf("m%03d", w.made), names: []string{"a", "b"}, classic: classic}
	w.clients = append(w.clients, c)
	return c
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (c *client) heartbeat(lost bool) step.Code {
	h := &Heartbeat{Version: 1, MemberID: c.id, MemberEpoch: c.epoch, RebalanceMs: -1, Instance: text(c.instance)}
	full := c.epoch == 0 || c.whole
	if full {
		h.RebalanceMs, h.Names, h.Regex = 30_000, c.names, text(c.regex)
		if h.Names == nil {
			h.Names = []string{}
		}
	}
	if full || c.say {
		h.Owned = append([]TopicPartitions{}, c.holds...)
	}
	if code, why := h.Check("g"); code != step.None {
		c.w.t.Fatalf("heartbeat %+v: %d %s", h, code, why)
	}
	c.w.waiter++
	a := c.w.step(c.w.group.Heartbeat(c.w.waiter, c.w.now, h, c.w.topics))
	body := a.Body.(HeartbeatAnswer)
	if lost {
		c.whole = true
		return step.None
	}
	switch a.Code {
	case step.None:
		c.whole, c.say, c.joined = false, false, true
		c.epoch = body.MemberEpoch
		if body.Assigned {
			// What it was given it has from here on; what it is to give up takes it a while.
			c.wanted, c.say = body.Assignment, true
			c.holds = NewAssignment(append(slices.Clone(c.holds), c.wanted...))
		}
	case step.UnknownMemberID, step.FencedMemberEpoch:
		c.holds, c.wanted, c.epoch, c.say = nil, nil, 0, false
	default:
		c.w.t.Fatalf("heartbeat of %s: code %d %s", c.id, a.Code, body.Message)
	}
	return a.Code
}

// reconcile lets the client give up what it is to give up, and take what it was given.
func (c *client) reconcile() {
	if !c.holds.equal(c.wanted) {
		c.holds, c.say = c.wanted, true
	}
}

// classicRound is a classic client's heartbeat, with joining and syncing where it is told to.
func (c *client) classicRound() {
	w := c.w
	if c.joined && !c.rejoins {
		switch code := w.group.ClassicHeartbeat(c.id, c.instance, c.epoch, w.now); code {
		case step.None:
		case step.RebalanceInProgress:
			c.rejoins = true
		default:
			c.joined, c.holds = false, nil
		}
		return
	}
	if c.eager || !c.joined {
		c.holds = nil
	}
	w.waiter++
	id := ""
	if c.joined {
		id = c.id
	} else if w.group.members[c.id] == nil { // else it joins once more under its id, a static one in its own place
		w.made++
		c.id = fmt.Sprintf("m%03d", w.made)
	}
	a := w.step(w.group.Join(&classic.JoinRequest{
		MemberID: id, NewID: c.id, InstanceID: c.instance, SessionTimeout: 10 * time.Second, RebalanceTimeout: 20 * time.Second,
		ProtocolType: ConsumerProtocol, Protocols: []classic.Protocol{{Name: "p", Metadata: appendSubscription(c.names, toNames(c.holds, w.topics))}},
	}, w.waiter, w.now, w.topics))
	if a.Code != step.None {
		w.t.Fatalf("join of %s: code %d", c.id, a.Code)
	}
	c.epoch, c.joined, c.rejoins = a.Body.(*classic.Joined).Generation, true, false
	w.waiter++
	a = w.step(w.group.Sync(&classic.SyncRequest{MemberID: c.id, InstanceID: c.instance, Generation: c.epoch}, w.waiter, w.now, w.topics))
	if a.Code == step.RebalanceInProgress {
		c.rejoins = true
		return
	}
	if a.Code != step.None {
		w.t.Fatalf("sync of %s: code %d", c.id, a.Code)
	}
	list, err := parseAssignment(a.Body.(*classic.Synced).Assignment)
	if err != nil {
		w.t.Fatal(err)
	}
	given := toAssignment(list, w.topics)
	for topic, p := range c.holds.all {
		if !given.Contains(topic, p) {
			c.rejoins = true // cooperative: having given something up it joins again
		}
	}
	c.holds = given
}

func appendSubscription(topics []string, owned []namedPartitions) []byte {
	b := []byte{0, 1}
	b = appendInt32(b, int32(len(topics)))
	for _, name := range topics {
		b = append(b, byte(len(name)>>8), byte(len(name)))
		b = append(b, name...)
	}
	b = appendInt32(b, -1)
	return append(b, appendAssignment(nil, 0, owned)[2:len(appendAssignment(nil, 0, owned))-4]...)
}

func appendInt32(b []byte, v int32) []byte {
	return append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// failOver has another coordinator take the group up from what was written.
func (w *world) failOver() {
	before := w.group.Describe()
	g, err := Load(w.cfg, "g", w.store.generation, w.store.record, w.store.all(), true, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	after := g.Describe()
	if fmt.Sprint(before) != fmt.Sprint(after) {
		w.t.Fatalf("a new coordinator has\n%v\nand the old one had\n%v", after, before)
	}
	w.group = g
	w.check()
}

func TestNoPartitionIsOwnedTwiceAndAllConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		pick := func() *client {
			if len(w.clients) == 0 {
				return w.client(false)
			}
			return rapid.SampledFrom(w.clients).Draw(t, "client")
		}
		drop := func(c *client) {
			w.clients = slices.DeleteFunc(w.clients, func(x *client) bool { return x == c })
		}
		modern := func(fn func(c *client)) func(*rapid.T) {
			return func(*rapid.T) {
				if c := pick(); !c.classic {
					fn(c)
				}
			}
		}
		beat := func(c *client) {
			if c.classic {
				c.classicRound()
			} else {
				c.heartbeat(false)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				if len(w.clients) < 6 {
					c := w.client(len(w.clients) > 0 && rapid.IntRange(0, 3).Draw(t, "classic") == 0)
					c.eager = rapid.Bool().Draw(t, "eager")
					if rapid.Bool().Draw(t, "static") {
						c.instance = "i" + c.id
					}
				}
			},
			"heartbeat": func(*rapid.T) { beat(pick()) },
			"lost":      modern(func(c *client) { c.heartbeat(true) }),
			"reconcile": modern(func(c *client) { c.reconcile() }),
			"leave": modern(func(c *client) {
				c.holds = nil // consumers stop before they say so
				if c.joined {
					w.waiter++
					w.step(w.group.Heartbeat(w.waiter, w.now, &Heartbeat{Version: 1, MemberID: c.id, MemberEpoch: -1, Instance: text(c.instance)}, w.topics))
				}
				drop(c)
			}),
			"away": modern(func(c *client) {
				if c.instance == "" || c.epoch == 0 {
					return
				}
				c.holds = nil
				w.waiter++
				a := w.step(w.group.Heartbeat(w.waiter, w.now, &Heartbeat{Version: 1, MemberID: c.id, MemberEpoch: -2, Instance: &c.instance}, w.topics))
				drop(c)
				if a.Code == step.None {
					next := w.client(false)
					next.instance, next.names, next.regex = c.instance, c.names, c.regex
				}
			}),
			"crash": func(*rapid.T) { // and everybody else goes on until it is found out
				dead := pick()
				drop(dead)
				for range 12 {
					w.now = w.now.Add(5 * time.Second)
					for _, c := range w.clients {
						beat(c)
					}
					w.tick()
				}
			},
			"subscribe": modern(func(c *client) {
				c.names = rapid.SampledFrom([][]string{{"a"}, {"a", "b"}, {"c.x", "gone"}, nil}).Draw(t, "names")
				c.regex = rapid.SampledFrom([]string{"", "c.*", ".*"}).Draw(t, "regex")
				c.whole = true
			}),
			"topics": func(t *rapid.T) {
				switch rapid.IntRange(0, 3).Draw(t, "change") {
				case 0:
					w.topics.make("c."+fmt.Sprint(w.topics.made%3), 2)
				case 1:
					w.topics.grow("b", 1)
				case 2:
					w.topics.delete("a")
				case 3:
					w.topics.make("a", 4)
				}
			},
			"time": func(*rapid.T) {
				w.now = w.now.Add(3 * time.Second)
				for _, c := range w.clients {
					beat(c)
				}
				w.tick()
			},
			"failover": func(*rapid.T) {
				if w.store.writes > 0 {
					w.failOver()
				}
			},
		})

		// Left alone, everybody has its share.
		for range 40 {
			for _, c := range w.clients {
				beat(c)
				if !c.classic {
					c.reconcile()
				}
			}
			w.now = w.now.Add(1500 * time.Millisecond)
			w.tick()
		}
		if len(w.clients) == 0 {
			return
		}
		if state := w.group.State(); state != "Stable" && w.group.Members() == len(w.clients) {
			t.Fatalf("the group is %s after a minute of heartbeats: %v", state, w.group.Describe())
		}
		writes := w.store.writes
		for _, c := range w.clients {
			c.whole = false
			beat(c)
		}
		if w.group.Members() == len(w.clients) && w.store.writes != writes {
			t.Fatal("heartbeats of a stable group wrote something")
		}
		counts := make(map[int]int)
		for _, c := range w.clients {
			m := w.group.members[c.id]
			if m == nil || !c.holds.equal(m.target) {
				t.Fatalf("client %s holds %v, its target is %v", c.id, c.holds, m)
			}
			counts[c.holds.Len()]++
		}
	})
}
