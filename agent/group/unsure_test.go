package group_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
)

func cutOff(m *mate) { m.log.SetFaults(memlog.Faults{Partitioned: true, PartitionRefuses: true}) }

// A coordinator that is cut off alone tells no member that it is well once another can have claimed its slots, and nobody
// who waits for others is left waiting. Where it hears again before that, it goes on with its groups as they are.
func TestWhoIsCutOffSendsItsMembersAway(t *testing.T) {
	withTeam(t, func(t *testing.T, w *team) {
		a, b := w.join("a"), w.join("b")
		w.settled(a, b)
		id := w.ownedBy(b)
		p := w.form(id, 1)[0]
		beat := func() step.Code {
			code, err := b.Heartbeat(t.Context(), id, p.id, "", p.generation)
			if err != nil {
				t.Fatal(err)
			}
			return code
		}

		waits := make(chan step.Code, 1)
		go func() { // for the one who is there
			q := &person{w: w, group: id}
			j, _, _ := b.Join(t.Context(), id, q.request())
			q.id = j.MemberID
			_, code, _ := b.Join(t.Context(), id, q.request())
			waits <- code
		}()
		faketime.Wait()
		cutOff(b)
		began := time.Now()
		for beat() != step.NotAvailable {
			time.Sleep(100 * time.Millisecond)
			if time.Since(began) > 7*time.Second { // of a registration that lasts ten
				t.Fatal("it goes on answering")
			}
		}
		if took := time.Since(began); took < 5*time.Second {
			t.Errorf("members are sent away after %v", took)
		}
		if node, mine := b.OwnerOf(id); node >= 0 || mine { // where they would come back from
			t.Errorf("it sends them to itself: node %d, %v", node, mine)
		}
		if node, _ := b.OwnerOf(w.ownedBy(a)); node != a.meta.NodeID() {
			t.Errorf("another's group is node %d's", node)
		}
		faketime.Wait()
		select {
		case code := <-waits:
			if code != step.NotAvailable {
				t.Errorf("who waited was told %d", code)
			}
		default:
			t.Error("who waited waits on")
		}
		if _, mine := a.OwnerOf(id); mine {
			t.Error("another has claimed before")
		}
		if list, code := b.List(); code != step.NotAvailable { // it has let go of its groups, which are not gone
			t.Errorf("a list of groups: %d, %+v", code, list)
		}
		w.until("another coordinator", func() bool {
			if code := beat(); code != step.NotAvailable {
				t.Fatalf("a heartbeat: %d", code)
			}
			_, mine := a.OwnerOf(id)
			return mine
		})
		for range 300 { // it is told nothing of that
			if code := beat(); code != step.NotAvailable {
				t.Fatalf("a heartbeat: %d", code)
			}
			if code, err := a.Heartbeat(t.Context(), id, p.id, "", p.generation); err != nil || code != step.None {
				t.Fatalf("a heartbeat to its successor: %d, %v", code, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		b.log.SetFaults(memlog.Faults{})
		w.settled(a, b)
		if code := p.heartbeat(); code != step.None {
			t.Errorf("heartbeat: %d", code)
		}
		if node, _ := b.OwnerOf(id); node < 0 {
			t.Error("it hears, and knows no coordinator")
		}
	})
}

// In an outage that all share members are told to try again, and nobody loses its place, however long it lasts. Who went away meanwhile
// is removed afterwards, even where nobody asks for the group.
func TestAnOutageOfAllThrowsNobodyOut(t *testing.T) {
	withTeam(t, func(t *testing.T, w *team) {
		a, b := w.join("a"), w.join("b")
		w.settled(a, b)
		id, silent := w.ownedBy(b), "silent-0"
		for i := 0; w.owner(silent) != a; i++ {
			silent = fmt.Sprint("silent-", i)
		}
		people := w.form(id, 3)
		w.form(silent, 2)
		topic := w.topic(a, "t")
		generation := people[0].generation
		cutOff(a)
		cutOff(b)
		late := make(chan step.Code, 1)
		go func() {
			time.Sleep(3 * time.Second) // while it does not know yet
			_, code := b.CommitOffsets(t.Context(), &group.Commit{
				Group: id, Member: people[0].id, Generation: generation, Version: 8, Offsets: []entry.GroupOffset{at(topic, 0, 42)},
			})
			late <- code
		}()
		answers := make(map[step.Code]int)
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(time.Second) { // three sessions
			code, err := b.Heartbeat(t.Context(), id, people[0].id, "", generation)
			if err != nil {
				t.Fatal(err)
			}
			answers[code]++
		}
		if answers[step.None]+answers[step.NotAvailable] != 60 || answers[step.NotAvailable] < 50 {
			t.Errorf("heartbeats: %v", answers)
		}
		for _, m := range []*mate{a, b} {
			if list, code := m.List(); code != step.NotAvailable {
				t.Errorf("a list of groups of %s: %d, %+v", m.name, code, list)
			}
		}
		a.log.SetFaults(memlog.Faults{})
		b.log.SetFaults(memlog.Faults{})
		for _, p := range people {
			if code := p.heartbeat(); code != step.None || p.generation != generation {
				t.Errorf("heartbeat: %d", code)
			}
		}
		<-late // done, or refused where the registration had lapsed
		w.until("who is silent is removed", func() (gone bool) {
			time.Sleep(3 * time.Second)
			for _, p := range people {
				if code := p.heartbeat(); code != step.None {
					t.Errorf("heartbeat: %d", code)
				}
			}
			a.meta.View(func(st *state.State) { gone = st.Group(silent).MemberCount() == 0 })
			return gone
		})
	})
}

// What was proposed while nothing is heard takes effect or not; until that is known the group is not served, and then it is what the
// state says. Its slot is its coordinator's all the time.
func TestAnOutageThatIsOverBeforeALeaseIs(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		c := coordinator(t, l)
		member, generation := join(t, c, "g", "consumer", reads("t"))
		syncUp(t, c, "g", member, generation)
		l.hold()
		left := make(chan step.Code, 1)
		go func() {
			_, code, _ := c.Join(t.Context(), "g", loner(member))
			left <- code
		}()
		faketime.Wait()
		l.sure.Store(-1)
		time.Sleep(time.Minute)
		select {
		case code := <-left:
			if code != step.NotAvailable {
				t.Errorf("who waited for the log was told %d", code)
			}
		default:
			t.Error("who waited for the log waits on")
			l.release()
			return
		}
		if n := c.Loaded(); n != 1 {
			t.Errorf("%d groups in memory: what becomes of the change is not known", n)
		}
		l.sure.Store(int64(time.Hour))
		time.Sleep(time.Second)
		if code, _ := c.Heartbeat(t.Context(), "g", member, "", generation); code != step.NotAvailable {
			t.Errorf("heartbeat while a change is under way: %d", code)
		}
		if list, code := c.List(); code != step.NotAvailable {
			t.Errorf("a list of groups while a change is under way: %d, %+v", code, list)
		}
		l.release()
		time.Sleep(2 * time.Second) // nobody asks, and it is loaded
		if list, code := c.List(); code != step.None || len(list) != 1 {
			t.Errorf("a list of groups: %d, %+v", code, list)
		}
		if n := c.Loaded(); n != 1 {
			t.Errorf("%d groups in memory", n)
		}
		if code, _ := c.Heartbeat(t.Context(), "g", member, "", generation+1); code != step.None {
			t.Errorf("heartbeat of the new generation: %d", code)
		}
	})
}
