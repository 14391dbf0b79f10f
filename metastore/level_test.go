package metastore_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// ancient is an agent of a build that knows feature level 1 alone. It stops at what such a build cannot read.
type ancient struct {
	c            *cluster
	log          *memlog.Log
	incarnation  log.Incarnation
	registration log.Registration
	identity     log.Identity
	seq          uint64
}

func (c *cluster) openAncient(tag byte) *ancient {
	c.t.Helper()
	a := &ancient{c: c, log: c.store.Open("ancient"), incarnation: log.Incarnation{0xa, tag}}
	var err error
	if a.identity, err = metastore.Identify(c.t.Context(), a.log, c.bucket); err != nil {
		c.t.Fatal(err)
	}
	marker := fmt.Appendf(nil, `{"format":1,"log_id":"%x"}`, a.identity.ID)
	if err := c.bucket.Put(c.t.Context(), metastore.MarkerKey, marker, objstore.PutOptions{}); err != nil {
		c.t.Fatal(err)
	}
	if a.registration, err = a.log.Register(c.t.Context(), a.incarnation, []byte("ancient"), 10*time.Second); err != nil {
		c.t.Fatal(err)
	}
	a.commit(&entry.Join{Name: "ancient", MaxFeatureLevel: 1, Listeners: []entry.Listener{{Name: "kafka", Host: "ancient", Port: 9092}}})
	return a
}

func (a *ancient) commit(ops ...entry.Op) {
	a.c.t.Helper()
	a.seq++
	e := entry.Entry{Format: 1, FeatureLevel: 1, Incarnation: a.incarnation, Seq: a.seq, ClockMs: time.Now().UnixMilli(), Ops: ops}
	outcome, err := a.log.Commit(a.c.t.Context(), a.identity, log.Key{Incarnation: a.incarnation, Seq: a.seq}, e.AppendTo(nil))
	if err != nil || outcome != log.Committed {
		a.c.t.Fatalf("commit: %v, %v", outcome, err)
	}
}

// leave leaves the cluster and checks what of the log such a build could read.
func (a *ancient) leave() {
	a.c.t.Helper()
	a.commit(&entry.Leave{Incarnation: a.incarnation})
	entries, _, more, err := a.log.Read(a.c.t.Context(), 0, nil, 1<<30)
	if err != nil || more {
		a.c.t.Fatal(more, err)
	}
	for _, x := range entries {
		e, err := entry.Parse(x.Value)
		if err != nil {
			a.c.t.Fatal(err)
		}
		if e.FeatureLevel > 1 {
			a.c.t.Errorf("entry n=%d is of feature level %d: the old build has stopped there", x.N, e.FeatureLevel)
		}
		for _, op := range e.Ops {
			if entry.Level(op) > 1 {
				a.c.t.Errorf("entry n=%d holds %T: the old build has stopped there", x.N, op)
			}
		}
	}
	a.end()
}

func (a *ancient) end() {
	a.c.t.Helper()
	if err := errors.Join(a.registration.Close(a.c.t.Context()), a.log.Close()); err != nil {
		a.c.t.Error(err)
	}
}

func level(cl *metastore.Client) (level uint32) {
	cl.View(func(st *state.State) { level = st.FeatureLevel() })
	return level
}

func isJoined(cl *metastore.Client, name string) (joined bool) {
	cl.View(func(st *state.State) {
		for _, a := range st.Agents() {
			joined = joined || a.Name == name
		}
	})
	return joined
}

func claim(cl *metastore.Client, slot int) *entry.ClaimSlot {
	op := &entry.ClaimSlot{Slot: uint32(slot), Owner: cl.Incarnation()}
	cl.View(func(st *state.State) { op.Epoch = st.Slot(slot).Epoch })
	return op
}

// A new log has the newest level from its first entry on: whoever opens it can use all there is.
func TestANewLogStartsAtTheNewestLevel(t *testing.T) {
	bubble(t, 300, func(t *testing.T, c *cluster) {
		a := c.open("a")
		defer c.close(a)
		if got := level(a); got != state.MaxFeatureLevel || a.Applied() != 1 {
			t.Errorf("level %d after %d entries", got, a.Applied())
		}
		if r := c.propose(a, claim(a, 3)); r.Code != state.OK {
			t.Error(r.Code)
		}
	})
}

// While an agent of an older build is joined, or was a moment ago, the log holds nothing that it could not read. Then the cluster
// moves on, and that build is refused.
func TestAMixedClusterKeepsToTheLevelOfItsOldestAgent(t *testing.T) {
	bubble(t, 301, func(t *testing.T, c *cluster) {
		old := c.openAncient(1)
		a, b := c.open("a"), c.open("b")
		defer c.close(a, b)
		refused := func() {
			t.Helper()
			if level(a) != 1 || level(b) != 1 {
				t.Fatalf("levels %d and %d", level(a), level(b))
			}
			for _, op := range []entry.Op{claim(a, 3), &entry.CommitOffsets{Group: "g", Generation: -1}} {
				before := a.Applied()
				if r := c.propose(a, op); r.Code != state.FeatureLevelNotReached {
					t.Fatalf("%T: %v", op, r.Code)
				}
				if a.Applied() != before {
					t.Fatalf("%T reached the log", op)
				}
			}
		}
		refused()
		time.Sleep(3 * time.Minute)
		refused()
		if r := c.propose(a, topic("t")); r.Code != state.OK {
			t.Fatal(r.Code)
		}
		old.leave()
		time.Sleep(30 * time.Second) // it restarts
		old = c.openAncient(2)
		time.Sleep(3 * time.Minute)
		refused()
		old.leave()
		time.Sleep(2 * time.Minute) // it comes back as a newer build, or not at all
		if level(a) != state.MaxFeatureLevel || level(b) != state.MaxFeatureLevel {
			t.Fatalf("levels %d and %d", level(a), level(b))
		}
		if r := c.propose(b, claim(b, 3)); r.Code != state.OK {
			t.Fatal(r.Code)
		}
		old = c.openAncient(3)
		defer old.end()
		if err := a.Barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
		if isJoined(a, "ancient") {
			t.Error("a build that does not know the cluster's level has joined it")
		}
	})
}

// An op of which no agent could read the entry never gets there.
func TestOpsThatNoAgentCouldRead(t *testing.T) {
	bubble(t, 302, func(t *testing.T, c *cluster) {
		a := c.open("a")
		defer c.close(a)
		before := a.Applied()
		op := &entry.CommitOffsets{Group: "g", Generation: -1, Offsets: []entry.GroupOffset{{Topic: topic("t").ID, Offset: -1}}}
		if _, err := a.Propose(t.Context(), op); !errors.Is(err, entry.ErrCorrupt) {
			t.Error(err)
		}
		if a.Applied() != before {
			t.Error("it reached the log")
		}
		if r := c.propose(a, topic("t")); r.Code != state.OK {
			t.Error(r.Code)
		}
	})
}

// SubscribeCluster tells of agents, slots, topics and configs, and not of offsets.
func TestSubscribeCluster(t *testing.T) {
	bubble(t, 303, func(t *testing.T, c *cluster) {
		a := c.open("a")
		defer c.close(a)
		ch := make(chan struct{}, 1)
		cancel := a.SubscribeCluster(ch)
		told := func(what string, want bool) {
			t.Helper()
			time.Sleep(time.Second)
			select {
			case <-ch:
				if !want {
					t.Errorf("woken by %s", what)
				}
			default:
				if want {
					t.Errorf("not woken by %s", what)
				}
			}
		}
		told("nothing", false)
		b := c.open("b")
		told("an agent that joins", true)
		c.close(b)
		told("an agent that leaves", true)
		slot := state.SlotOf("g")
		c.propose(a, claim(a, slot))
		told("a claim", true)
		c.propose(a, topic("t"))
		told("a topic", true)
		c.propose(a, &entry.AlterConfigs{ResourceType: entry.ResourceBroker, Changes: []entry.ConfigChange{{Name: "log.retention.ms", Value: "1"}}})
		told("a config", true)
		commit := &entry.CommitOffsets{Slot: uint32(slot), Epoch: claim(a, slot).Epoch, Group: "g", Generation: -1,
			Offsets: []entry.GroupOffset{{Topic: topic("t").ID, Offset: 5, ExpireMs: -1}, {Topic: topic("other").ID}}}
		r := c.propose(a, commit)
		if r.Code != state.OK || len(r.Offsets) != 2 || r.Offsets[0] != state.OK || r.Offsets[1] != state.UnknownTopic {
			t.Errorf("%+v", r)
		}
		told("a commit", false)
		cancel()
		cancel()
		c.propose(a, topic("u"))
		told("a topic after the end", false)
	})
}
