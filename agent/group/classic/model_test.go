package classic_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
)

// Random lives of clients that join, sync, fall silent, change their minds, share instance ids, lose connections and
// coordinators. world.check holds after every step; and
//
//   - each generation has one leader, and is told to its members alone;
//   - who is told an assignment of a generation is told its own: no two members of it get the same;
//   - everybody who waits is answered once, in the end;
//   - a group that everybody leaves alone becomes empty.
func TestRandomLives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, func(c *classic.Config) {
			c.SizeMax = rapid.IntRange(2, 6).Draw(t, "size")
			c.InitialDelay = rapid.SampledFrom([]time.Duration{0, time.Second}).Draw(t, "delay")
		})
		l := &lives{w: w, leaders: make(map[int32]string), given: make(map[string]string), joins: make(map[*client]step.Waiter), syncs: make(map[*client]step.Waiter)}
		for i := range 6 {
			c := w.client(fmt.Sprint("c", i))
			if i >= 3 {
				c.instance = fmt.Sprint("instance-", i/2) // two share one
			}
			c.req.KnownIDs, c.req.SkipsAssignment = i%2 == 0, i%3 == 0
			l.clients = append(l.clients, c)
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			l.step(t)
			l.answers(t)
		}
		w.pass(time.Hour)
		l.answers(t)
		if len(w.waiting) > 0 {
			t.Fatalf("%d wait for ever: %v", len(w.waiting), w.notes)
		}
		if w.g.State() != classic.Empty || len(w.members) > 0 || !w.g.Idle() {
			t.Fatalf("%v with %d members after an hour of silence", w.g.State(), len(w.members))
		}
	})
}

// lives are what the clients know of each other's answers.
type lives struct {
	w            *world
	clients      []*client
	joins, syncs map[*client]step.Waiter
	leaders      map[int32]string // by generation
	given        map[string]string
}

func (l *lives) step(t *rapid.T) {
	c := rapid.SampledFrom(l.clients).Draw(t, "client")
	switch what := rapid.SampledFrom([]string{"join", "join", "join", "sync", "sync", "beat", "leave", "pass", "wait", "forget", "change", "hang up", "fail over"}).Draw(t, "what"); what {
	case "join":
		if l.joins[c] == 0 {
			l.joins[c] = c.join()
		}
	case "sync":
		if l.syncs[c] == 0 && c.id != "" && c.joined != nil {
			l.syncs[c] = c.sync()
		}
	case "beat":
		if code := c.heartbeat(); code == step.UnknownMemberID || code == step.FencedInstanceID {
			c.id = ""
		}
	case "leave":
		if c.id != "" && c.leave() == step.None {
			c.id = ""
		}
	case "pass":
		l.w.pass(time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * time.Millisecond)
	case "wait":
		l.w.pass(time.Duration(rapid.IntRange(1, 90).Draw(t, "s")) * time.Second)
	case "forget": // the process starts anew
		l.hangUp(c)
		c.id, c.joined, c.leader = "", nil, false
	case "change":
		c.req.Protocols = []classic.Protocol{{Name: "range", Metadata: []byte(rapid.StringN(0, 5, 5).Draw(t, "topics"))}}
		if rapid.Bool().Draw(t, "sticky too") {
			c.req.Protocols = append(c.req.Protocols, classic.Protocol{Name: "sticky"})
		}
	case "hang up":
		l.hangUp(c)
	case "fail over":
		l.w.failOver()
		clear(l.joins)
		clear(l.syncs)
	}
}

// hangUp ends a client's connection.
func (l *lives) hangUp(c *client) {
	for _, waits := range []map[*client]step.Waiter{l.joins, l.syncs} {
		if to := waits[c]; to != 0 {
			if _, answered := l.w.answers[to]; !answered {
				delete(l.w.waiting, to)
				l.w.did(l.w.g.Abandon(to, l.w.now))
			}
			delete(waits, c)
		}
	}
}

// answers takes in what clients were told, and holds it against what others were told.
func (l *lives) answers(t *rapid.T) {
	for _, c := range l.clients {
		if to := l.joins[c]; to != 0 && c.took(to) {
			delete(l.joins, c)
			if c.last == step.None {
				l.joined(t, c)
			}
		}
		if to := l.syncs[c]; to != 0 && c.synced(to) {
			delete(l.syncs, c)
			if c.last == step.None && c.assignment != "" {
				at := fmt.Sprint(l.w.g.Generation(), " ", c.assignment)
				if other := l.given[at]; other != "" && other != c.id && l.alive(other) && l.alive(c.id) {
					t.Fatalf("%s is %s's and %s's", at, other, c.id)
				}
				l.given[at] = c.id
			}
		}
	}
}

func (l *lives) joined(t *rapid.T, c *client) {
	j := c.joined
	if j.Leader == "" || j.Protocol == "" || j.MemberID != c.id {
		t.Fatalf("%+v", j)
	}
	if !c.leader {
		if len(j.Members) > 0 {
			t.Fatalf("a follower is told the members: %+v", j)
		}
		return
	}
	// A static leader that came back leads under its new id.
	if was := l.leaders[j.Generation]; was != "" && was != c.id && l.alive(was) {
		t.Fatalf("generation %d is led by %s and %s", j.Generation, was, c.id)
	}
	l.leaders[j.Generation] = c.id
	for _, m := range j.Members {
		if m.ID == c.id {
			return
		}
	}
	t.Fatalf("the leader is not among the members: %+v", j)
}

func (l *lives) alive(id string) bool {
	for _, m := range l.w.g.Describe().Members {
		if m.ID == id {
			return true
		}
	}
	return false
}
