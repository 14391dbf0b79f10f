package group_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// team are coordinators of some agents, each with a metastore client of its own, over one log, under fake time.
type team struct {
	t       *testing.T
	store   *memlog.Store
	bucket  *mem.Bucket
	members []*mate
	seed    uint64
}

// mate is one agent.
type mate struct {
	*group.Coordinator
	name string
	log  *memlog.Log
	meta *metastore.Client
	gone bool
}

func withTeam(t *testing.T, fn func(t *testing.T, w *team)) {
	t.Helper()
	faketime.Test(t, func(t *testing.T) {
		w := &team{t: t, bucket: mem.New(), store: memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(1, 2))})}
		defer func() {
			for _, m := range w.members {
				w.kill(m)
			}
			_ = w.store.Close()
		}()
		fn(t, w)
	})
}

// join starts an agent.
func (w *team) join(name string) *mate {
	w.t.Helper()
	w.seed++
	var key [32]byte
	copy(key[:], fmt.Sprint(name, w.seed))
	m := &mate{name: name, log: w.store.Open(name)}
	var err error
	m.meta, err = metastore.Open(w.t.Context(), metastore.Config{
		Name: name, Listeners: []entry.Listener{{Name: "kafka", Host: name, Port: 9092}}, Rand: rand.NewChaCha8(key),
	}, m.log, w.bucket)
	if err != nil {
		w.t.Fatal(err)
	}
	if m.Coordinator, err = group.New(group.Config{Classic: classic.Config{InitialDelay: 100 * time.Millisecond}}, m.meta); err != nil {
		w.t.Fatal(err)
	}
	m.Start()
	w.members = append(w.members, m)
	return m
}

// kill ends an agent without a word to anybody: its registration lapses.
func (w *team) kill(m *mate) {
	if m.gone {
		return
	}
	m.gone = true
	m.log.SetFaults(memlog.Faults{Partitioned: true, PartitionRefuses: true})
	m.Coordinator.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = m.meta.Close(ctx)
	_ = m.log.Close()
}

// drain hands over, and leaves.
func (w *team) drain(m *mate) {
	w.t.Helper()
	if err := m.HandOver(w.t.Context()); err != nil {
		w.t.Errorf("hand over: %v", err)
	}
	m.Coordinator.Close()
	if err := m.meta.Close(w.t.Context()); err != nil {
		w.t.Error(err)
	}
	_ = m.log.Close()
	m.gone = true
}

// slots is how many slots each live agent owns, by the view of one.
func (w *team) slots() (owned map[*mate]int, nobody int) {
	owned = make(map[*mate]int)
	for _, m := range w.members {
		if m.gone {
			continue
		}
		m.meta.View(func(st *state.State) {
			for i := range state.Slots {
				for _, o := range w.members {
					if !o.gone && st.Slot(i).Owner == [16]byte(o.meta.Incarnation()) {
						owned[o]++
						nobody--
					}
				}
				nobody++
			}
		})
		break
	}
	return owned, nobody
}

// until waits, in fake time, until ok says so, and returns how long that took.
func (w *team) until(what string, ok func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > 2*time.Minute {
			owned, nobody := w.slots()
			w.t.Fatalf("timed out: %s; %v, %d by nobody", what, owned, nobody)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

// settled waits until these agents own all slots, each some.
func (w *team) settled(agents ...*mate) {
	w.t.Helper()
	w.until("slots of all agents", func() bool {
		owned, nobody := w.slots()
		for _, m := range agents {
			if owned[m] < state.Slots/len(agents)/3 {
				return false
			}
		}
		return nobody == 0 && len(owned) == len(agents)
	})
}

// owner is the agent that coordinates a group, nil while nobody does.
func (w *team) owner(id string) *mate {
	for _, m := range w.members {
		if !m.gone {
			if _, mine := m.OwnerOf(id); mine {
				return m
			}
		}
	}
	return nil
}

// ownedBy is a group's id that this agent coordinates, and knows that it does.
func (w *team) ownedBy(m *mate) (id string) {
	w.t.Helper()
	w.until(m.name+" coordinates something", func() bool {
		for i := range 1000 {
			if id = fmt.Sprint("group-", i); w.owner(id) == m {
				return true
			}
		}
		return false
	})
	return id
}

// person is a member as a client library would be one: it looks for the coordinator until it finds it.
type person struct {
	w          *team
	group      string
	id         string
	instance   string
	generation int32
	assignment string
}

func (p *person) request() classic.JoinRequest {
	return classic.JoinRequest{
		MemberID: p.id, InstanceID: p.instance, ClientID: "c", Host: "/127.0.0.1", SessionTimeout: 20 * time.Second, RebalanceTimeout: 30 * time.Second,
		ProtocolType: "consumer", Protocols: []classic.Protocol{{Name: "range", Metadata: reads("t")}}, KnownIDs: true, SkipsAssignment: true,
	}
}

// elsewhere reports codes by which a client looks for the coordinator anew.
func elsewhere(code step.Code) bool {
	return code == step.NotCoordinator || code == step.NotAvailable || code == step.LoadInProgress
}

// ask calls fn with the coordinator until it is one.
func (p *person) ask(fn func(m *mate) (step.Code, error)) step.Code {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if m := p.w.owner(p.group); m != nil {
			if code, err := fn(m); err == nil && !elsewhere(code) {
				return code
			}
		}
		if time.Since(began) > 2*time.Minute {
			p.w.t.Errorf("nobody coordinates %s", p.group)
			return step.NotAvailable
		}
	}
}

// become joins and syncs until it is a member of a stable generation.
func (p *person) become() {
	for {
		leader := false
		var all []classic.JoinedMember
		code := p.ask(func(m *mate) (step.Code, error) {
			j, code, err := m.Join(p.w.t.Context(), p.group, p.request())
			if err == nil && (code == step.None || code == step.MemberIDRequired) {
				p.id, p.generation, leader, all = j.MemberID, j.Generation, j.Leader == j.MemberID, j.Members
			}
			return code, err
		})
		if code == step.UnknownMemberID {
			p.id = ""
		}
		if code != step.None {
			continue
		}
		req := classic.SyncRequest{MemberID: p.id, InstanceID: p.instance, Generation: p.generation}
		if leader {
			req.Assignments = make(map[string][]byte)
			for _, o := range all {
				req.Assignments[o.ID] = []byte(fmt.Sprint(o.ID, "@", p.generation))
			}
		}
		code = p.ask(func(m *mate) (step.Code, error) {
			s, code, err := m.Sync(p.w.t.Context(), p.group, req)
			if s != nil {
				p.assignment = string(s.Assignment)
			}
			return code, err
		})
		if code == step.None {
			return
		}
	}
}

func (p *person) heartbeat() step.Code {
	return p.ask(func(m *mate) (step.Code, error) {
		return m.Heartbeat(p.w.t.Context(), p.group, p.id, p.instance, p.generation)
	})
}

// form makes a stable group of so many members.
func (w *team) form(id string, n int) (people []*person) {
	w.t.Helper()
	var wg sync.WaitGroup
	for range n {
		p := &person{w: w, group: id}
		people = append(people, p)
		wg.Go(p.become)
	}
	wg.Wait()
	for again := true; again; { // those who were there before the others came
		again = false
		for _, p := range people {
			if p.heartbeat() != step.None {
				again = true
				wg.Go(p.become)
			}
		}
		wg.Wait()
	}
	return people
}

func TestOneAgentClaimsEverySlot(t *testing.T) {
	withTeam(t, func(t *testing.T, w *team) {
		a := w.join("a")
		took := w.until("all slots", func() bool { owned, _ := w.slots(); return owned[a] == state.Slots })
		if took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		n := a.meta.Applied()
		time.Sleep(5 * time.Second)
		if more := a.meta.Applied() - n; more > 2 {
			t.Errorf("%d entries while nothing happens", more)
		}
	})
}

// Slots go to a newcomer, and groups with them: nobody has to join again, nobody is lost, and what was committed is there.
func TestANewcomerIsHandedItsSlots(t *testing.T) {
	withTeam(t, func(t *testing.T, w *team) {
		a := w.join("a")
		w.settled(a)
		groups := make(map[string][]*person)
		for i := range 8 {
			id := fmt.Sprint("group-", i)
			groups[id] = w.form(id, 2)
		}
		b := w.join("b")
		w.settled(a, b)
		moved := 0
		for id, people := range groups {
			if w.owner(id) == b {
				moved++
			}
			for _, p := range people {
				was := p.assignment
				if code := p.heartbeat(); code != step.None {
					t.Errorf("%s: heartbeat: %d", id, code)
				}
				if s, code, err := w.owner(id).Sync(t.Context(), id, classic.SyncRequest{MemberID: p.id, Generation: p.generation}); err != nil || code != step.None || string(s.Assignment) != was {
					t.Errorf("%s: assignment %q: %d, %v", id, was, code, err)
				}
			}
		}
		if moved == 0 {
			t.Error("no group moved")
		}
		n := a.meta.Applied()
		time.Sleep(10 * time.Second)
		if more := a.meta.Applied() - n; more > 6 {
			t.Errorf("%d entries while nothing happens: slots go to and fro", more)
		}
	})
}

// Of an agent that is killed the others take over every group, with its generation; sessions start anew, and whoever has
// gone with it is removed.
func TestAKilledAgentsGroupsGoOn(t *testing.T) {
	withTeam(t, func(t *testing.T, w *team) {
		a, b := w.join("a"), w.join("b")
		w.settled(a, b)
		c := w.join("c")
		w.settled(a, b, c)
		id := w.ownedBy(c)
		people := w.form(id, 3)
		topic := w.topic(a, "t")
		commit := &group.Commit{Group: id, Member: people[0].id, Generation: people[0].generation, Version: 8, Offsets: []entry.GroupOffset{at(topic, 0, 42)}}
		if codes, code := c.CommitOffsets(t.Context(), commit); code != step.None || codes[0] != step.None {
			t.Fatalf("commit: %d", code)
		}
		generation := people[0].generation
		w.kill(c)
		took := w.until("another coordinator", func() bool { return w.owner(id) != nil })
		if took > 15*time.Second {
			t.Errorf("took %v", took)
		}
		for _, p := range people[:2] {
			if code := p.heartbeat(); code != step.None || p.generation != generation {
				t.Errorf("heartbeat: %d", code)
			}
		}
		commit.Offsets[0].Offset = 43
		if codes, code := w.owner(id).CommitOffsets(t.Context(), commit); code != step.None || codes[0] != step.None {
			t.Errorf("commit to the new coordinator: %d", code)
		}
		began := time.Now()
		w.until("who is silent is removed", func() bool { time.Sleep(time.Second); return people[0].heartbeat() == step.RebalanceInProgress })
		if took := time.Since(began); took < 15*time.Second || took > 25*time.Second {
			t.Errorf("removed after %v", took)
		}
		w.settled(a, b)
	})
}

// A drain hands over everything; who waits is told to look elsewhere, and nothing comes back while it is still there.
func TestADrainHandsOverAndGetsNothingBack(t *testing.T) {
	withTeam(t, func(t *testing.T, w *team) {
		a, b, c := w.join("a"), w.join("b"), w.join("c")
		w.settled(a, b, c)
		id, other := w.ownedBy(a), "waiting-0"
		for i := 0; w.owner(other) != a; i++ {
			other = fmt.Sprint("waiting-", i)
		}
		people := w.form(id, 2)
		one := w.form(other, 1)[0]
		waits := make(chan step.Code)
		go func() { // one waits for the other
			p := &person{w: w, group: other}
			j, _, _ := a.Join(t.Context(), other, p.request())
			p.id = j.MemberID
			_, code, _ := a.Join(t.Context(), other, p.request())
			waits <- code
		}()
		faketime.Wait()
		began := time.Now()
		if err := a.HandOver(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		if code := <-waits; code != step.NotCoordinator {
			t.Errorf("who waited was told %d", code)
		}
		if code, err := a.Heartbeat(t.Context(), id, people[0].id, "", people[0].generation); code != step.NotCoordinator {
			t.Errorf("a heartbeat to the old one: %d, %v", code, err)
		}
		for _, p := range people {
			if code := p.heartbeat(); code != step.None {
				t.Errorf("heartbeat: %d", code)
			}
		}
		time.Sleep(10 * time.Second) // a is still there
		if owned, nobody := w.slots(); owned[a] != 0 || nobody != 0 {
			t.Errorf("%d slots came back, %d are nobody's", owned[a], nobody)
		}
		if code := one.heartbeat(); code != step.None && code != step.RebalanceInProgress {
			t.Errorf("heartbeat: %d", code)
		}
		w.drain(a)
		w.settled(b, c)
		// It comes back, and gets its slots.
		w.settled(w.join("a"), b, c)
	})
}

// The last agent has nobody to hand over to: it does not make a drain wait, and its groups are there when it is back.
func TestTheLastAgentDrains(t *testing.T) {
	withTeam(t, func(t *testing.T, w *team) {
		a := w.join("a")
		w.settled(a)
		people := w.form("g", 2)
		waits := make(chan step.Code)
		go func() {
			p := &person{w: w, group: "g"}
			j, _, _ := a.Join(t.Context(), "g", p.request())
			p.id = j.MemberID
			_, code, _ := a.Join(t.Context(), "g", p.request())
			waits <- code
		}()
		faketime.Wait()
		began := time.Now()
		w.drain(a)
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		if code := <-waits; code != step.NotAvailable {
			t.Errorf("who waited was told %d", code)
		}
		a = w.join("a")
		w.settled(a)
		for _, p := range people {
			if code := p.heartbeat(); code != step.None {
				t.Errorf("heartbeat: %d", code)
			}
		}
	})
}

// An agent that is cut off believes that it owns its slots. What it promises then has no effect: nothing is answered before
// it is applied, and Apply refuses it once others have claimed.
func TestAZombieChangesNothing(t *testing.T) {
	withTeam(t, func(t *testing.T, w *team) {
		a, b := w.join("a"), w.join("b")
		w.settled(a, b)
		id := w.ownedBy(b)
		p := w.form(id, 1)[0]
		topic := w.topic(a, "t")
		commit := func(m *mate, offset int64) step.Code {
			codes, code := m.CommitOffsets(t.Context(), &group.Commit{
				Group: id, Member: p.id, Generation: p.generation, Version: 8, Offsets: []entry.GroupOffset{at(topic, 0, offset)},
			})
			if code == step.None {
				code = codes[0]
			}
			return code
		}
		if code := commit(b, 10); code != step.None {
			t.Fatalf("commit: %d", code)
		}
		b.log.SetFaults(memlog.Faults{Partitioned: true, PartitionRefuses: true})
		if _, mine := b.OwnerOf(id); !mine {
			t.Fatal("it does not believe so")
		}
		late := make(chan step.Code, 1)
		go func() { late <- commit(b, 11) }()
		join := make(chan error, 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { // the leader joins: a new generation, which must not be told
			_, code, err := b.Join(ctx, id, func() classic.JoinRequest { r := p.request(); r.MemberID = p.id; return r }())
			if code == step.None && err == nil {
				t.Error("a zombie told a generation")
			}
			join <- err
		}()
		w.until("another coordinator", func() bool { _, mine := a.OwnerOf(id); return mine })
		if code := commit(a, 20); code != step.None {
			t.Fatalf("commit to the new coordinator: %d", code)
		}
		b.log.SetFaults(memlog.Faults{})
		if code := <-late; !elsewhere(code) {
			t.Errorf("the zombie's commit was answered with %d", code)
		}
		cancel(errors.New("enough"))
		<-join
		a.meta.View(func(st *state.State) {
			if o, ok := st.Group(id).Offset(topic, 0); !ok || o.Offset != 20 {
				t.Errorf("offset %d", o.Offset)
			}
			if g := st.Group(id); g.Generation != p.generation {
				t.Errorf("generation %d, was %d", g.Generation, p.generation)
			}
		})
		w.settled(a, b)
		if code := p.heartbeat(); code != step.None {
			t.Errorf("heartbeat: %d", code)
		}
	})
}

// topic makes a topic.
func (w *team) topic(m *mate, name string) entry.UUID {
	w.t.Helper()
	id := entry.UUID{'t', name[0]}
	r, err := m.meta.Propose(w.t.Context(), &entry.CreateTopic{Name: name, ID: id, Partitions: 4, ReplicationFactor: 1})
	if err != nil || r.Code != state.OK {
		w.t.Fatalf("create topic: %v, %v", r.Code, err)
	}
	return id
}
