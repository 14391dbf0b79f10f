package classic_test

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
)

// failer is what tests and properties have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is one group with a clock, what the state would keep of it, and who waits for what.
type world struct {
	t   failer
	cfg *classic.Config
	g   *classic.Group
	now time.Time

	waiter  step.Waiter
	waiting map[step.Waiter]string // what for
	answers map[step.Waiter]step.Answer
	notes   []string
	writes  int
	newID   int

	// What the state has.
	exists     bool
	generation int32
	record     []byte
	members    map[string][]byte
	// memberships are the members of each generation that was told to anybody, by generation.
	memberships map[int32][]string
}

func newWorld(t failer, tune ...func(*classic.Config)) *world {
	cfg := &classic.Config{}
	for _, f := range tune {
		f(cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatalf("%v", err)
	}
	return &world{
		t: t, cfg: cfg, g: classic.New("g", cfg), now: time.Unix(1_000_000, 0), waiting: make(map[step.Waiter]string),
		answers: make(map[step.Waiter]step.Answer), members: make(map[string][]byte), memberships: make(map[int32][]string),
	}
}

func delayed(c *classic.Config) { c.InitialDelay = 500 * time.Millisecond }

func (w *world) wait(what string) step.Waiter {
	w.waiter++
	w.waiting[w.waiter] = what
	return w.waiter
}

// did takes effects in: the write first.
func (w *world) did(eff step.Effects) {
	w.t.Helper()
	if x := eff.Write; x != nil {
		w.writes++
		if x.Kind != step.KindClassic || w.exists && x.Generation < w.generation {
			w.t.Fatalf("write of kind %d, generation %d after %d", x.Kind, x.Generation, w.generation)
		}
		w.exists, w.generation, w.record = true, x.Generation, x.Record
		for _, id := range x.Removes {
			if _, ok := w.members[id]; !ok {
				w.t.Fatalf("removes %s, which is not there", id)
			}
			delete(w.members, id)
		}
		for _, m := range x.Puts {
			w.members[m.ID] = m.Record
		}
	}
	for _, a := range eff.Answers {
		if _, ok := w.waiting[a.To]; !ok {
			w.t.Fatalf("answer %+v to nobody, or a second time", a)
		}
		delete(w.waiting, a.To)
		w.answers[a.To] = a
		if j, ok := a.Body.(*classic.Joined); ok && a.Code == step.None {
			if j.Generation != w.generation {
				w.t.Fatalf("told generation %d while the state has %d", j.Generation, w.generation)
			}
			if _, ok := w.members[j.MemberID]; !ok {
				w.t.Fatalf("member %s was told that it is one, and the state does not know it", j.MemberID)
			}
		}
	}
	w.notes = append(w.notes, eff.Notes...)
	w.check()
}

// check holds the group against what must always be so.
func (w *world) check() {
	w.t.Helper()
	d := w.g.Describe()
	ids, instances := make(map[string]bool), make(map[string]bool)
	for _, m := range d.Members {
		if ids[m.ID] || m.InstanceID != "" && instances[m.InstanceID] {
			w.t.Fatalf("two members are %s (instance %q)", m.ID, m.InstanceID)
		}
		ids[m.ID], instances[m.InstanceID] = true, true
	}
	if len(d.Members) > 0 != ids[d.Leader] {
		w.t.Fatalf("leader %q of %d members", d.Leader, len(d.Members))
	}
	if d.State == classic.Empty && len(d.Members) > 0 || d.State == classic.Stable && len(d.Members) == 0 ||
		d.State == classic.CompletingRebalance && len(d.Members) == 0 {
		w.t.Fatalf("%v with %d members", d.State, len(d.Members))
	}
	if d.State == classic.Stable || d.State == classic.CompletingRebalance {
		if d.Generation != w.generation || len(w.members) != len(ids) {
			w.t.Fatalf("%v: the state has generation %d and %d members, memory %d and %d", d.State, w.generation, len(w.members), d.Generation, len(ids))
		}
		if d.Protocol == "" {
			w.t.Fatalf("no protocol")
		}
		for _, m := range d.Members {
			if !slices.ContainsFunc(m.Protocols, func(p classic.Protocol) bool { return p.Name == d.Protocol }) {
				w.t.Fatalf("member %s does not support %s", m.ID, d.Protocol)
			}
		}
	}
	if d.State != classic.Empty && w.g.Deadline().IsZero() {
		w.t.Fatalf("%v without a deadline", d.State)
	}
	if w.g.Idle() != (d.State == classic.Empty) && d.State != classic.Empty {
		w.t.Fatalf("%v is idle", d.State)
	}
	for waiter, what := range w.waiting {
		if what == "now" {
			w.t.Fatalf("request %d has no answer", waiter)
		}
	}
}

// pass lets time go by, stopping where the group wants to do something.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for i := 0; ; i++ {
		due := w.g.Deadline()
		if due.IsZero() || due.After(end) {
			break
		}
		if due.After(w.now) {
			w.now = due
		}
		w.did(w.g.Tick(w.now))
		if again := w.g.Deadline(); i > 10_000 || !again.IsZero() && !again.After(w.now) {
			w.t.Fatalf("the deadline %v does not move on", again.Sub(w.now))
		}
	}
	w.now = end
}

// failOver makes another coordinator load what the state has. Who waits is cut off.
func (w *world) failOver() {
	w.t.Helper()
	w.waiting = make(map[step.Waiter]string)
	if !w.exists {
		w.g = classic.New("g", w.cfg)
		return
	}
	var sorted iter.Seq2[string, []byte] = func(yield func(string, []byte) bool) {
		for _, id := range slices.Sorted(maps.Keys(w.members)) {
			if !yield(id, w.members[id]) {
				return
			}
		}
	}
	g, err := classic.Load("g", w.cfg, w.generation, w.record, true, sorted, w.now)
	if err != nil {
		w.t.Fatalf("load: %v", err)
	}
	w.g = g
	w.check()
}

// client is a member to be, or one.
type client struct {
	w          *world
	id         string
	instance   string
	name       string
	generation int32
	leader     bool
	joined     *classic.Joined
	assignment string
	req        classic.JoinRequest
	last       step.Code
}

func (w *world) client(name string) *client {
	return &client{w: w, name: name, req: classic.JoinRequest{
		ClientID: name, Host: "/127.0.0.1", SessionTimeout: 10 * time.Second, RebalanceTimeout: 60 * time.Second, ProtocolType: "consumer",
		Protocols: []classic.Protocol{{Name: "range", Metadata: []byte("meta-" + name)}}, KnownIDs: true, SkipsAssignment: true,
	}}
}

func (w *world) static(name string) *client {
	c := w.client(name)
	c.instance = "instance-" + name
	return c
}

// join sends a JoinGroup, twice where the group wants the client to come back with its id.
func (c *client) join() step.Waiter {
	c.w.t.Helper()
	to := c.sendJoin()
	if a, ok := c.w.answers[to]; ok && a.Code == step.MemberIDRequired {
		c.took(to)
		to = c.sendJoin()
	}
	return to
}

func (c *client) sendJoin() step.Waiter {
	c.w.t.Helper()
	req := c.req
	c.w.newID++
	req.NewID = fmt.Sprintf("%s-%d", c.name, c.w.newID)
	req.MemberID, req.InstanceID = c.id, c.instance
	req.Protocols = slices.Clone(c.req.Protocols)
	to := c.w.wait("join")
	c.w.did(c.w.g.Join(&req, to, c.w.now))
	return to
}

// took takes the answer to a join in; false where there is none yet.
func (c *client) took(to step.Waiter) bool {
	a, ok := c.w.answers[to]
	if !ok {
		return false
	}
	j, _ := a.Body.(*classic.Joined)
	switch c.last = a.Code; a.Code {
	case step.None:
		c.id, c.generation, c.joined, c.leader = j.MemberID, j.Generation, j, j.Leader == j.MemberID
	case step.MemberIDRequired:
		c.id = j.MemberID
	case step.UnknownMemberID, step.FencedInstanceID:
		c.id = ""
	}
	return true
}

// sync sends a SyncGroup; a leader gives everybody its own id for an assignment.
func (c *client) sync() step.Waiter {
	c.w.t.Helper()
	req := classic.SyncRequest{MemberID: c.id, InstanceID: c.instance, Generation: c.generation}
	if c.leader {
		req.Assignments = make(map[string][]byte)
		for _, m := range c.joined.Members {
			req.Assignments[m.ID] = []byte(fmt.Sprintf("%s@%d", m.ID, c.generation))
		}
	}
	to := c.w.wait("sync")
	c.w.did(c.w.g.Sync(&req, to, c.w.now))
	return to
}

func (c *client) synced(to step.Waiter) bool {
	a, ok := c.w.answers[to]
	if !ok {
		return false
	}
	c.last = a.Code
	if s, ok := a.Body.(*classic.Synced); ok && a.Code == step.None {
		c.assignment = string(s.Assignment)
	}
	return true
}

func (c *client) heartbeat() step.Code {
	c.w.t.Helper()
	code := c.w.g.Heartbeat(c.id, c.instance, c.generation, c.w.now)
	c.w.check()
	return code
}

func (c *client) leave() step.Code {
	c.w.t.Helper()
	to := c.w.wait("now")
	c.w.did(c.w.g.Leave([]classic.LeaveRequest{{MemberID: c.id, InstanceID: c.instance, Reason: "told to"}}, to, c.w.now))
	codes, _ := c.w.answers[to].Body.([]step.Code)
	return codes[0]
}

// form makes all of them members of one stable generation.
func (w *world) form(clients ...*client) {
	w.t.Helper()
	joins := make(map[*client]step.Waiter)
	for range 10 {
		for _, c := range clients {
			if joins[c] == 0 && (c.id == "" || c.generation != w.g.Generation() || w.g.State() == classic.PreparingRebalance) {
				joins[c] = c.join()
			}
		}
		w.pass(w.cfg.InitialDelay * 4)
		for _, c := range clients {
			if joins[c] != 0 && c.took(joins[c]) {
				joins[c] = 0
			}
		}
	}
	syncs := make([]step.Waiter, len(clients))
	for _, c := range clients {
		if joins[c] != 0 || c.last != step.None || c.generation != w.g.Generation() {
			w.t.Fatalf("%s did not join: code %d", c.name, c.last)
		}
	}
	for i, c := range clients {
		syncs[i] = c.sync()
	}
	for i, c := range clients {
		if !c.synced(syncs[i]) || c.last != step.None {
			w.t.Fatalf("%s did not sync: code %d", c.name, c.last)
		}
	}
	if w.g.State() != classic.Stable {
		w.t.Fatalf("%v", w.g.State())
	}
}

func expect[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
