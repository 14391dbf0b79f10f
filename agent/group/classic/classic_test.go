package classic_test

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/record"
	"github.com/firnlog/firn/agent/group/step"
)

func TestAGroupForms(t *testing.T) {
	w := newWorld(t, delayed)
	a, b := w.client("a"), w.client("b")
	ja := a.join()
	w.pass(400 * time.Millisecond)
	jb := b.join()
	expect(t, "state", w.g.State(), classic.PreparingRebalance)
	w.pass(200 * time.Millisecond) // the delay starts over: there was company
	if a.took(ja) {
		t.Fatal("answered before the delay was over")
	}
	w.pass(400 * time.Millisecond)
	if !a.took(ja) || !b.took(jb) {
		t.Fatal("not answered")
	}
	expect(t, "generation", a.generation, 1)
	expect(t, "leader", a.joined.Leader, a.id)
	expect(t, "leader of b", b.joined.Leader, a.id)
	expect(t, "members told to the leader", len(a.joined.Members), 2)
	expect(t, "members told to another", len(b.joined.Members), 0)
	expect(t, "metadata", string(a.joined.Members[1].Metadata), "meta-b")
	expect(t, "protocol", b.joined.Protocol, "range")
	expect(t, "protocol type", b.joined.ProtocolType, "consumer")
	expect(t, "state", w.g.State(), classic.CompletingRebalance)
	sb := b.sync()
	if b.synced(sb) {
		t.Fatal("an assignment before there is one")
	}
	expect(t, "commit before the assignment", w.g.CheckCommit(b.id, "", 1, w.now), step.RebalanceInProgress)
	sa := a.sync()
	if !a.synced(sa) || !b.synced(sb) {
		t.Fatal("not synced")
	}
	expect(t, "assignment", b.assignment, b.id+"@1")
	expect(t, "state", w.g.State(), classic.Stable)
	expect(t, "writes", w.writes, 2)
	expect(t, "heartbeat", b.heartbeat(), step.None)
	expect(t, "commit", w.g.CheckCommit(b.id, "", 1, w.now), step.None)
	expect(t, "writes after a heartbeat", w.writes, 2)
}

// Clients that cannot come back with an id get it with the answer (T5).
func TestOldClientsJoinWithoutAnID(t *testing.T) {
	w := newWorld(t)
	a := w.client("a")
	a.req.KnownIDs = false
	to := a.sendJoin()
	if !a.took(to) || a.last != step.None || a.id == "" {
		t.Fatalf("code %d", a.last)
	}
}

func TestRefusals(t *testing.T) {
	type refusal struct {
		name string
		req  func(c *client)
		want step.Code
	}
	big := make([]byte, 200<<10)
	for _, r := range []refusal{
		{"session too short", func(c *client) { c.req.SessionTimeout = time.Second }, step.InvalidSessionTimeout},
		{"session too long", func(c *client) { c.req.SessionTimeout = time.Hour }, step.InvalidSessionTimeout},
		{"another protocol type", func(c *client) { c.req.ProtocolType = "connect" }, step.InconsistentProtocol},
		{"no protocol type", func(c *client) { c.req.ProtocolType = "" }, step.InconsistentProtocol},
		{"no common protocol", func(c *client) { c.req.Protocols[0].Name = "sticky" }, step.InconsistentProtocol},
		{"no protocols", func(c *client) { c.req.Protocols = nil }, step.InconsistentProtocol},
		{"giant metadata", func(c *client) { c.req.Protocols[0].Metadata = big }, step.InvalidRequest},
		{"a protocol without a name", func(c *client) { c.req.Protocols[0].Name = "" }, step.InvalidRequest},
		{"an endless instance id", func(c *client) { c.instance = strings.Repeat("x", 300) }, step.InvalidRequest},
		{"an id that nobody has", func(c *client) { c.id = "nobody" }, step.UnknownMemberID},
		{"an instance that nobody is", func(c *client) { c.id, c.instance = "nobody", "instance-nobody" }, step.UnknownMemberID},
		{"an instance that somebody else is", func(c *client) { c.id, c.instance = "nobody", "instance-s" }, step.FencedInstanceID},
	} {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t)
			w.form(w.client("a"), w.static("s"))
			c := w.client("c")
			r.req(c)
			to := c.join()
			if !c.took(to) || c.last != r.want {
				t.Errorf("code %d, want %d", c.last, r.want)
			}
			expect(t, "state", w.g.State(), classic.Stable)
		})
	}
}

func TestUnknownMembersAndStaleGenerations(t *testing.T) {
	w := newWorld(t)
	a, s := w.client("a"), w.static("s")
	w.form(a, s)
	sync := func(id, instance string, generation int32, kind, protocol string) step.Code {
		to := w.wait("sync")
		w.did(w.g.Sync(&classic.SyncRequest{MemberID: id, InstanceID: instance, Generation: generation, ProtocolType: kind, Protocol: protocol}, to, w.now))
		return w.answers[to].Code
	}
	gen := w.g.Generation()
	expect(t, "sync of nobody", sync("nobody", "", gen, "", ""), step.UnknownMemberID)
	expect(t, "sync of old", sync(a.id, "", gen-1, "", ""), step.IllegalGeneration)
	expect(t, "sync of an impostor", sync(a.id, s.instance, gen, "", ""), step.FencedInstanceID)
	expect(t, "sync of another type", sync(a.id, "", gen, "connect", ""), step.InconsistentProtocol)
	expect(t, "sync of another protocol", sync(a.id, "", gen, "consumer", "sticky"), step.InconsistentProtocol)
	expect(t, "sync", sync(a.id, "", gen, "consumer", "range"), step.None)
	expect(t, "heartbeat of nobody", w.g.Heartbeat("nobody", "", gen, w.now), step.UnknownMemberID)
	expect(t, "heartbeat of old", w.g.Heartbeat(a.id, "", gen-1, w.now), step.IllegalGeneration)
	expect(t, "heartbeat of an impostor", w.g.Heartbeat(a.id, s.instance, gen, w.now), step.FencedInstanceID)
	expect(t, "commit of nobody", w.g.CheckCommit("nobody", "", gen, w.now), step.UnknownMemberID)
	expect(t, "commit of old", w.g.CheckCommit(a.id, "", gen-1, w.now), step.IllegalGeneration)
	expect(t, "commit of an impostor", w.g.CheckCommit(a.id, s.instance, gen, w.now), step.FencedInstanceID)
	expect(t, "commit of no member while there are some", w.g.CheckCommit("", "", -1, w.now), step.UnknownMemberID)
	a.leave()
	s.leave()
	expect(t, "commit of no member to an empty group", w.g.CheckCommit("", "", -1, w.now), step.None)
	expect(t, "heartbeat to an empty group", w.g.Heartbeat(a.id, "", gen, w.now), step.UnknownMemberID)
}

func TestAMemberThatLeavesStartsARebalance(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	gen := w.g.Generation()
	expect(t, "leave", b.leave(), step.None)
	if _, ok := w.members[b.id]; ok {
		t.Error("the state still has who left")
	}
	expect(t, "heartbeat", a.heartbeat(), step.RebalanceInProgress)
	to := a.join()
	if !a.took(to) || a.generation != gen+1 {
		t.Errorf("generation %d", a.generation)
	}
	expect(t, "leave again", b.leave(), step.UnknownMemberID)
	a.sync()
	a.leave()
	expect(t, "state", w.g.State(), classic.Empty)
	expect(t, "members in the state", len(w.members), 0)
	if !w.g.Idle() {
		t.Error("an empty group stays in memory")
	}
}

func TestSilenceEndsASession(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	for range 5 {
		w.pass(3 * time.Second)
		a.heartbeat()
	}
	expect(t, "state", w.g.State(), classic.PreparingRebalance)
	expect(t, "heartbeat of the dead", b.heartbeat(), step.UnknownMemberID)
	to := a.join()
	if !a.took(to) || len(a.joined.Members) != 1 {
		t.Fatal("the rebalance waits for the dead")
	}
}

// A member that stops in the middle of a rebalance holds it up for its session, and no longer than the rebalance timeout.
func TestSilenceDuringARebalance(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.client("a"), w.client("b"), w.client("c")
	w.form(a, b)
	jc, ja := c.join(), a.join()
	w.pass(9 * time.Second)
	if a.took(ja) {
		t.Fatal("the rebalance does not wait")
	}
	w.pass(2 * time.Second)
	if !a.took(ja) || !c.took(jc) || a.generation != c.generation {
		t.Fatal("the rebalance waits for the dead")
	}
	// It answers heartbeats but does not join: the rebalance timeout is all it gets.
	w.form(a, c)
	d := w.client("d")
	jd, ja := d.join(), a.join()
	for range 19 {
		w.pass(3 * time.Second)
		expect(t, "heartbeat", c.heartbeat(), step.RebalanceInProgress)
	}
	if a.took(ja) && a.generation == w.g.Generation() {
		t.Fatal("the rebalance does not wait")
	}
	w.pass(4 * time.Second)
	if !a.took(ja) || !d.took(jd) || a.generation != d.generation {
		t.Fatal("the rebalance waits beyond its timeout")
	}
	expect(t, "heartbeat of who was left behind", c.heartbeat(), step.UnknownMemberID)
}

func TestALeaderThatNeverSyncs(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	ja := a.join() // the leader's joins force a rebalance
	jb := b.join()
	if !a.took(ja) || !b.took(jb) || !a.leader {
		t.Fatal("no generation")
	}
	sb := b.sync()
	for range 21 {
		w.pass(3 * time.Second)
		a.heartbeat()
	}
	if !b.synced(sb) {
		t.Fatal("b waits for ever")
	}
	expect(t, "b's sync", b.last, step.RebalanceInProgress)
	expect(t, "a's heartbeat", a.heartbeat(), step.UnknownMemberID)
	jb = b.join()
	if !b.took(jb) || !b.leader {
		t.Error("b does not lead")
	}
}

func TestJoinsWhileARebalanceCompletes(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.client("a"), w.client("b"), w.client("c")
	w.form(a, b)
	ja, jb := a.join(), b.join()
	a.took(ja)
	b.took(jb)
	sb := b.sync()
	writes := w.writes
	// The same metadata again: the answer was lost.
	again := a.join()
	if !a.took(again) || a.last != step.None || len(a.joined.Members) != 2 || w.writes != writes {
		t.Fatal("a join that was answered before starts something")
	}
	jc := c.join()
	if !b.synced(sb) || b.last != step.RebalanceInProgress {
		t.Fatal("who waits for an assignment is not told to join again")
	}
	ja, jb = a.join(), b.join()
	if !a.took(ja) || !b.took(jb) || !c.took(jc) || c.generation != a.generation || len(a.joined.Members) != 3 {
		t.Fatal("no generation of three")
	}
}

func TestRejoiningAStableGroup(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	gen := w.g.Generation()
	to := b.join()
	if !b.took(to) || b.generation != gen || len(b.joined.Members) != 0 {
		t.Fatal("a follower with nothing new starts a rebalance")
	}
	b.req.Protocols = []classic.Protocol{{Name: "range", Metadata: []byte("other topics")}}
	to = b.join()
	if b.took(to) && b.generation == gen || w.g.State() != classic.PreparingRebalance {
		t.Fatal("new metadata starts no rebalance")
	}
	w.form(a, b)
	to = a.join()
	expect(t, "state after the leader joins", w.g.State(), classic.PreparingRebalance)
	w.form(b, a)
	if !a.took(to) {
		t.Error("the leader's first join was never answered")
	}
}

// A second request of one member ends the first: nobody is answered twice, nobody waits for ever.
func TestTwoJoinsOfOneMember(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	first := a.join()
	second := a.join()
	if _, ok := w.answers[first]; !ok {
		t.Error("the first waits in vain")
	}
	jb := b.join()
	if !a.took(second) || !b.took(jb) {
		t.Error("the second is not answered")
	}
}

func TestProtocolsAreVotedOn(t *testing.T) {
	names := func(list ...string) (ps []classic.Protocol) {
		for _, n := range list {
			ps = append(ps, classic.Protocol{Name: n, Metadata: []byte(n)})
		}
		return ps
	}
	for _, c := range []struct {
		name    string
		members [][]classic.Protocol
		want    string
	}{
		{"of one", [][]classic.Protocol{names("sticky", "range")}, "sticky"},
		{"most votes", [][]classic.Protocol{names("range", "sticky"), names("sticky", "range"), names("sticky", "range")}, "sticky"},
		{"only what all have", [][]classic.Protocol{names("cooperative", "range"), names("cooperative", "range"), names("range")}, "range"},
		{"a tie goes to the leader's", [][]classic.Protocol{names("range", "sticky"), names("sticky", "range")}, "range"},
		{"named twice counts once", [][]classic.Protocol{names("sticky", "sticky", "range"), names("range")}, "range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, delayed)
			var joins []step.Waiter
			var clients []*client
			for i, ps := range c.members {
				m := w.client(string(rune('a' + i)))
				m.req.Protocols = ps
				clients, joins = append(clients, m), append(joins, m.join())
			}
			w.pass(10 * time.Second)
			for i, m := range clients {
				if !m.took(joins[i]) || m.joined.Protocol != c.want {
					t.Fatalf("%+v", m.joined)
				}
			}
			expect(t, "metadata", string(clients[0].joined.Members[0].Metadata), c.want)
		})
	}
}

func TestAGroupOfItsGreatestSize(t *testing.T) {
	w := newWorld(t, func(c *classic.Config) { c.SizeMax = 2 })
	a, b, c := w.client("a"), w.client("b"), w.client("c")
	w.form(a, b)
	to := c.join()
	if !c.took(to) || c.last != step.GroupMaxSizeReached {
		t.Fatalf("code %d", c.last)
	}
	// While a rebalance is prepared the first to come stay.
	ja := a.join()
	jc := c.join()
	jb := b.join()
	if !b.took(jb) || b.last != step.GroupMaxSizeReached && b.last != step.None {
		t.Fatalf("b: code %d", b.last)
	}
	w.pass(time.Minute)
	if !a.took(ja) || !c.took(jc) || len(a.joined.Members) > 2 {
		t.Errorf("%d members", len(a.joined.Members))
	}
}

func TestMetadataOfAllMembersIsBounded(t *testing.T) {
	w := newWorld(t, func(c *classic.Config) { c.MetadataBytes, c.GroupBytes = 1000, 1500 })
	a, b := w.client("a"), w.client("b")
	a.req.Protocols[0].Metadata, b.req.Protocols[0].Metadata = make([]byte, 900), make([]byte, 900)
	w.form(a)
	to := b.join()
	if !b.took(to) || b.last != step.GroupMaxSizeReached {
		t.Errorf("code %d", b.last)
	}
}

func TestGiantAssignments(t *testing.T) {
	w := newWorld(t, func(c *classic.Config) { c.AssignmentBytes = 100 })
	a := w.client("a")
	to := a.join()
	w.pass(0)
	a.took(to)
	s := w.wait("sync")
	w.did(w.g.Sync(&classic.SyncRequest{MemberID: a.id, Generation: a.generation, Assignments: map[string][]byte{a.id: make([]byte, 101)}}, s, w.now))
	expect(t, "sync", w.answers[s].Code, step.InvalidRequest)
	expect(t, "state", w.g.State(), classic.CompletingRebalance)
	s = w.wait("sync")
	w.did(w.g.Sync(&classic.SyncRequest{MemberID: a.id, Generation: a.generation, Assignments: map[string][]byte{"nobody": make([]byte, 101)}}, s, w.now))
	expect(t, "assignments of nobody", w.answers[s].Code, step.None)
}

// Ids that were given out hold a rebalance up until their clients come or their sessions are over.
func TestIDsThatNobodyComesBackWith(t *testing.T) {
	w := newWorld(t)
	a, ghost := w.client("a"), w.client("ghost")
	to := ghost.sendJoin()
	ghost.took(to)
	expect(t, "code", ghost.last, step.MemberIDRequired)
	ja := a.join()
	if a.took(ja) {
		t.Fatal("the rebalance does not wait for an id that was given out")
	}
	w.pass(11 * time.Second)
	if !a.took(ja) || a.last != step.None {
		t.Fatal("a is not answered")
	}
	jg := ghost.sendJoin()
	if !ghost.took(jg) || ghost.last != step.UnknownMemberID {
		t.Errorf("an id that has lapsed: code %d", ghost.last)
	}
	// One that leaves does not hold anything up.
	second := w.client("second")
	second.took(second.sendJoin())
	expect(t, "leave", second.leave(), step.None)
}

func TestStaticMembersComeBackWithoutARebalance(t *testing.T) {
	w := newWorld(t)
	a, s := w.client("a"), w.static("s")
	w.form(a, s)
	gen, before, assignment := w.g.Generation(), s.id, s.assignment
	s.id = ""
	to := s.sendJoin()
	if !s.took(to) || s.last != step.None || s.generation != gen || s.id == before {
		t.Fatalf("%+v", s.joined)
	}
	expect(t, "state", w.g.State(), classic.Stable)
	expect(t, "leader", s.joined.Leader, a.id)
	expect(t, "members in the state", len(w.members), 2)
	if !s.synced(s.sync()) || s.assignment != assignment {
		t.Errorf("assignment %q, want the former self's %q", s.assignment, assignment)
	}
	expect(t, "the former self's heartbeat", w.g.Heartbeat(before, s.instance, gen, w.now), step.FencedInstanceID)
	expect(t, "its heartbeat without its instance id", w.g.Heartbeat(before, "", gen, w.now), step.UnknownMemberID)
	expect(t, "its commit", w.g.CheckCommit(before, s.instance, gen, w.now), step.FencedInstanceID)
	// With another protocol in force there has to be a rebalance.
	s.id = ""
	s.req.Protocols = []classic.Protocol{{Name: "sticky"}, {Name: "range"}}
	s.took(s.sendJoin())
	expect(t, "state", w.g.State(), classic.Stable) // a votes for range, and it is all that a supports
}

func TestAStaticLeaderComesBack(t *testing.T) {
	for _, skips := range []bool{true, false} {
		w := newWorld(t)
		s, b := w.static("s"), w.client("b")
		s.req.SkipsAssignment = skips
		w.form(s, b)
		before := s.id
		s.id = ""
		to := s.sendJoin()
		if !s.took(to) || s.last != step.None {
			t.Fatal("not answered")
		}
		expect(t, "skip", s.joined.SkipAssignment, skips)
		if skips {
			expect(t, "leader", s.joined.Leader, s.id)
			expect(t, "members", len(s.joined.Members), 2)
		} else { // it must not take itself for the leader
			expect(t, "leader", s.joined.Leader, before)
			expect(t, "members", len(s.joined.Members), 0)
		}
		expect(t, "leader of the group", w.g.Describe().Leader, s.id)
		expect(t, "state", w.g.State(), classic.Stable)
	}
}

// Two clients with one instance id: the one that came last is the member, the other is fenced, whatever it waits for.
func TestTwoClientsWithOneInstanceID(t *testing.T) {
	w := newWorld(t)
	a, s := w.client("a"), w.static("s")
	w.form(a, s)
	double := w.static("s")
	ja, js := a.join(), s.join() // a leads: a rebalance
	_ = ja
	if s.took(js); s.last != step.None {
		t.Fatalf("code %d", s.last)
	}
	ss := s.sync() // waits for a
	jd := double.sendJoin()
	if !s.synced(ss) || s.last != step.FencedInstanceID {
		t.Fatalf("the former self waits, or got code %d", s.last)
	}
	expect(t, "state", w.g.State(), classic.PreparingRebalance) // the leader may be assigning to the former self
	first := s.id
	js = s.join()
	if !s.took(js) || s.last != step.FencedInstanceID {
		t.Errorf("the former self joins: code %d", s.last)
	}
	ja = a.join()
	if !a.took(ja) || !double.took(jd) || double.id == first {
		t.Error("no generation with the newcomer")
	}
	// While both wait to join.
	w = newWorld(t, delayed)
	s, double = w.static("s"), w.static("s")
	js, jd = s.sendJoin(), double.sendJoin()
	if !s.took(js) || s.last != step.FencedInstanceID {
		t.Errorf("the first: code %d", s.last)
	}
	w.pass(2 * time.Second)
	if !double.took(jd) || double.last != step.None {
		t.Errorf("the second: code %d", double.last)
	}
}

// A static member that is away during a rebalance stays a member until its session is over.
func TestStaticMembersAreNotRemovedForMissingARebalance(t *testing.T) {
	w := newWorld(t)
	a, s := w.client("a"), w.static("s")
	s.req.SessionTimeout = 5 * time.Minute
	w.form(a, s)
	ja := a.join()
	w.pass(61 * time.Second)
	if !a.took(ja) || len(a.joined.Members) != 2 {
		t.Fatal("not answered, or without the static member")
	}
	// An operator removes it by its instance id.
	to := w.wait("now")
	w.did(w.g.Leave([]classic.LeaveRequest{{InstanceID: s.instance}, {InstanceID: "nobody"}, {}}, to, w.now))
	codes, _ := w.answers[to].Body.([]step.Code)
	expect(t, "leave by instance", codes[0], step.None)
	expect(t, "leave of nobody", codes[1], step.UnknownMemberID)
	expect(t, "leave of nothing", codes[2], step.UnknownMemberID)
}

func TestOnlyStaticMembersThatAreAway(t *testing.T) {
	w := newWorld(t)
	s, b := w.static("s"), w.client("b")
	s.req.SessionTimeout = 10 * time.Minute
	w.form(s, b)
	b.leave()
	w.pass(3 * time.Minute)
	expect(t, "state", w.g.State(), classic.PreparingRebalance)
	js := s.join()
	if !s.took(js) || !s.leader {
		t.Error("it does not lead")
	}
}

func TestConnectionsThatGo(t *testing.T) {
	w := newWorld(t, delayed)
	old, a := w.client("old"), w.client("a")
	old.req.KnownIDs = false
	jo, ja := old.sendJoin(), a.join()
	delete(w.waiting, jo)
	w.did(w.g.Abandon(jo, w.now)) // nobody knows the id that it would have had
	delete(w.waiting, ja)
	w.did(w.g.Abandon(ja, w.now)) // a knows its own
	w.pass(100 * time.Millisecond)
	ja = a.join()
	w.pass(5 * time.Second)
	if !a.took(ja) || a.last != step.None || len(a.joined.Members) != 1 {
		t.Fatalf("code %d, %+v", a.last, a.joined)
	}
	// Nobody left at all: nothing is kept.
	w = newWorld(t, delayed)
	old = w.client("old")
	old.req.KnownIDs = false
	jo = old.sendJoin()
	delete(w.waiting, jo)
	w.did(w.g.Abandon(jo, w.now))
	w.pass(time.Second)
	expect(t, "state", w.g.State(), classic.Empty)
	if w.exists || !w.g.Idle() {
		t.Error("a group that came to nothing is kept")
	}
	// Who waits for an assignment has its session to come back.
	w = newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	ja, jb := a.join(), b.join()
	a.took(ja)
	b.took(jb)
	sb := b.sync()
	delete(w.waiting, sb)
	w.did(w.g.Abandon(sb, w.now))
	a.sync()
	sb = b.sync()
	if !b.synced(sb) || b.last != step.None {
		t.Errorf("code %d", b.last)
	}
}

// After a fail-over a stable group is stable: no rebalance, nobody lost, sessions start anew.
func TestAStableGroupSurvivesItsCoordinator(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.static("b")
	w.form(a, b)
	w.pass(8 * time.Second)
	w.failOver()
	w.pass(8 * time.Second)
	expect(t, "state", w.g.State(), classic.Stable)
	expect(t, "heartbeat", a.heartbeat(), step.None)
	expect(t, "heartbeat", b.heartbeat(), step.None)
	expect(t, "commit", w.g.CheckCommit(a.id, "", a.generation, w.now), step.None)
	if !b.synced(b.sync()) || b.assignment != b.id+"@"+"2" && b.assignment != b.id+"@1" {
		t.Errorf("assignment %q", b.assignment)
	}
	d := w.g.Describe()
	expect(t, "client id", d.Members[0].ClientID, "a")
	expect(t, "host", d.Members[0].Host, "/127.0.0.1")
	expect(t, "instance", d.Members[1].InstanceID, "instance-b")
	expect(t, "protocol type", d.ProtocolType, "consumer")
	w.pass(11 * time.Second)
	expect(t, "state when all fall silent", w.g.State(), classic.Empty)
}

// A fail-over between join and sync: the generation that was told goes on.
func TestACompletingRebalanceSurvivesItsCoordinator(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	ja, jb := a.join(), b.join()
	a.took(ja)
	b.took(jb)
	w.failOver()
	expect(t, "state", w.g.State(), classic.CompletingRebalance)
	sb, sa := b.sync(), a.sync()
	if !a.synced(sa) || !b.synced(sb) || a.last != step.None || b.last != step.None {
		t.Fatalf("codes %d, %d", a.last, b.last)
	}
	expect(t, "state", w.g.State(), classic.Stable)
	// And a leader that does not come is given up on.
	ja, jb = a.join(), b.join()
	a.took(ja)
	b.took(jb)
	w.failOver()
	sb = b.sync()
	for range 25 {
		w.pass(3 * time.Second)
	}
	if !b.synced(sb) {
		t.Error("b waits for ever")
	}
}

// Who left stays away after a fail-over, and the rebalance that it started goes on.
func TestARebalanceGoesOnAfterAFailOver(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	gen := w.g.Generation()
	b.leave()
	w.failOver()
	expect(t, "state", w.g.State(), classic.PreparingRebalance)
	expect(t, "heartbeat", a.heartbeat(), step.RebalanceInProgress)
	ja := a.join()
	if !a.took(ja) || a.generation != gen+1 || len(a.joined.Members) != 1 {
		t.Errorf("%+v", a.joined)
	}
}

// A change that came only in part makes the group rebalance; the leader may be missing.
func TestAnIncompleteChangeIsARebalance(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	one := func(yield func(string, []byte) bool) { yield(b.id, w.members[b.id]) }
	g, err := classic.Load("g", w.cfg, w.generation, w.record, false, one, w.now)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "state", g.State(), classic.PreparingRebalance)
	expect(t, "leader", g.Describe().Leader, b.id)
}

// Where that was a change of protocol, a member whose part is missing is written as the other one has it. It has to join again.
func TestAnIncompleteChangeOfProtocolIsARebalance(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	w.members[b.id] = []byte("\x01\x00\x00\x00")
	load := func(complete bool) error {
		g, err := classic.Load("g", w.cfg, w.generation, w.record, complete, maps.All(w.members), w.now)
		w.g = g
		return err
	}
	if err := load(true); !errors.Is(err, record.ErrCorrupt) {
		t.Errorf("as a whole: %v", err)
	}
	if err := load(false); err != nil {
		t.Fatal(err)
	}
	expect(t, "state", w.g.State(), classic.PreparingRebalance)
	expect(t, "heartbeat of who is there", a.heartbeat(), step.RebalanceInProgress)
	expect(t, "heartbeat of who is not", b.heartbeat(), step.UnknownMemberID)
	if ja := a.join(); !a.took(ja) || len(a.joined.Members) != 1 || len(w.members) != 1 {
		t.Errorf("%+v; the state has %d members", a.joined, len(w.members))
	}
	w.members = map[string][]byte{b.id: []byte("\x01\x00\x00\x00")}
	if err := load(false); err != nil {
		t.Fatal(err)
	}
	w.pass(0)
	if expect(t, "state", w.g.State(), classic.Empty); len(w.members) != 0 || !w.g.Idle() {
		t.Errorf("the state has %d members; idle: %v", len(w.members), w.g.Idle())
	}
}

// So it does with the time that members have to join: those who were about to are not removed.
func TestRenewStartsTheRebalanceTimeoutAnew(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.client("a"), w.client("b"), w.client("c")
	w.form(a, b)
	jc := c.join()
	ja := a.join()
	w.now = w.now.Add(time.Hour)
	w.g.Renew(w.now)
	w.did(w.g.Tick(w.now))
	expect(t, "heartbeat", b.heartbeat(), step.RebalanceInProgress)
	if jb := b.join(); !b.took(jb) || !a.took(ja) || !c.took(jc) {
		t.Error("the rebalance is not over")
	}
}

// Renew forgives silence that was the coordinator's own.
func TestRenewStartsSessionsAnew(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a"), w.client("b")
	w.form(a, b)
	w.now = w.now.Add(time.Hour)
	w.g.Renew(w.now)
	w.did(w.g.Tick(w.now))
	expect(t, "state", w.g.State(), classic.Stable)
	w.pass(11 * time.Second)
	expect(t, "state", w.g.State(), classic.Empty)
}
