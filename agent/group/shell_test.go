package group_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

func loner(member string) classic.JoinRequest {
	return classic.JoinRequest{
		MemberID: member, ClientID: "c", Host: "/127.0.0.1", SessionTimeout: 10 * time.Second, RebalanceTimeout: 30 * time.Second,
		ProtocolType: "consumer", Protocols: []classic.Protocol{{Name: "range", Metadata: reads("t")}},
	}
}

// No answer leaves before what it says is applied; others of the group wait behind it, in order, and no session ends meanwhile.
func TestAnswersWaitForTheLog(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		c := coordinator(t, l)
		l.hold()
		joined, beat := make(chan string, 1), make(chan step.Code, 1)
		go func() {
			j, code, err := c.Join(t.Context(), "g", loner(""))
			if code != step.None || err != nil {
				t.Errorf("join: %d, %v", code, err)
			}
			joined <- j.MemberID
		}()
		faketime.Wait()
		go func() {
			code, _ := c.Heartbeat(t.Context(), "g", "nobody", "", 1)
			beat <- code
		}()
		time.Sleep(time.Minute) // six sessions
		if len(joined) > 0 || len(beat) > 0 {
			t.Fatal("answered before the generation is in the log")
		}
		l.release()
		member := <-joined
		if code := <-beat; code != step.UnknownMemberID {
			t.Errorf("heartbeat: %d", code)
		}
		time.Sleep(9 * time.Second)
		if code, _ := c.Heartbeat(t.Context(), "g", member, "", 1); code != step.None {
			t.Errorf("heartbeat: %d: the session ran while the log was away", code)
		}
	})
}

// What the log refuses was never so: who waits is told to look for the coordinator, and the group is what the state says.
func TestARefusedChangeWasNeverSo(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		c := coordinator(t, l)
		other := log.Incarnation{2}
		l.must(other, &entry.Join{Name: "b", MaxFeatureLevel: 2})
		l.hold()
		code := make(chan step.Code, 2)
		for range 2 {
			go func() {
				_, got, _ := c.Join(t.Context(), "g", loner(""))
				code <- got
			}()
			faketime.Wait()
		}
		slot, epoch := l.slotOf("g")
		l.must(other, &entry.ClaimSlot{Slot: slot, Epoch: epoch, Owner: other})
		l.release()
		for range 2 {
			if got := <-code; got != step.NotCoordinator {
				t.Errorf("code %d", got)
			}
		}
		if l.exists("g") {
			t.Error("the group is there")
		}
		if _, mine := c.OwnerOf("g"); mine {
			t.Error("the slot is still its own")
		}
		if _, got, _ := c.Join(t.Context(), "g", loner("")); got != step.NotCoordinator {
			t.Errorf("code %d", got)
		}
	})
}

// A metastore that has ended leaves outcomes open: clients are told to try again, and nothing waits for ever.
func TestAnOutcomeThatIsUnknown(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		c := coordinator(t, l)
		l.fail(errors.New("closed"))
		if _, code, err := c.Join(t.Context(), "g", loner("")); code != step.NotAvailable || err != nil {
			t.Errorf("join: %d, %v", code, err)
		}
	})
}

// A request whose client has gone ends, and its member has its session to come back.
func TestAnAbandonedJoin(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		c := coordinator(t, l)
		j, code, err := c.Join(t.Context(), "g", loner(""))
		if code != step.None || err != nil {
			t.Fatalf("join: %d, %v", code, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		hungUp, done := errors.New("hung up"), make(chan error, 1)
		go func() {
			_, _, err := c.Join(ctx, "g", loner(""))
			done <- err
		}()
		faketime.Wait()
		cancel(hungUp)
		if err := <-done; !errors.Is(err, hungUp) {
			t.Errorf("%v", err)
		}
		again, code, err := c.Join(t.Context(), "g", loner(j.MemberID)) // nobody knows the other's id: it is not waited for
		if code != step.None || err != nil || len(again.Members) != 1 {
			t.Errorf("join: %d, %v, %d members", code, err, len(again.Members))
		}
	})
}

// A group without members takes no memory, and neither do requests for groups that are not there.
func TestIdleGroupsAreNotKept(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		c := coordinator(t, l)
		member, generation := join(t, c, "g", "consumer", reads("t"))
		syncUp(t, c, "g", member, generation)
		if n := c.Loaded(); n != 1 {
			t.Errorf("%d groups in memory", n)
		}
		if codes, code, err := c.Leave(t.Context(), "g", []classic.LeaveRequest{{MemberID: member}}); err != nil || code != step.None || codes[0] != step.None {
			t.Fatalf("leave: %v, %d, %v", codes, code, err)
		}
		for _, id := range []string{"g", "h", "i"} {
			if code, _ := c.Heartbeat(t.Context(), id, "nobody", "", 1); code != step.UnknownMemberID {
				t.Errorf("heartbeat: %d", code)
			}
		}
		faketime.Wait()
		if n := c.Loaded(); n != 0 {
			t.Errorf("%d groups in memory", n)
		}
		again, generation := join(t, c, "g", "consumer", reads("t"))
		if again == member || generation <= 1 {
			t.Errorf("generation %d", generation)
		}
	})
}

// A member's record may be large, and a group's change larger than an op: it arrives in parts.
func TestALargeGroup(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		l := newOneLog(t)
		c := coordinator(t, l, func(cfg *group.Config) { cfg.Classic.InitialDelay = time.Second })
		const members = 8
		done := make(chan *classic.Joined, members)
		for range members {
			go func() {
				req := loner("")
				req.Protocols[0].Metadata = make([]byte, 127<<10)
				j, code, err := c.Join(t.Context(), "g", req)
				if code != step.None || err != nil {
					t.Errorf("join: %d, %v", code, err)
				}
				done <- j
			}()
		}
		var leader *classic.Joined
		for range members {
			if j := <-done; j.Leader == j.MemberID {
				leader = j
			}
		}
		req := classic.SyncRequest{MemberID: leader.MemberID, Generation: leader.Generation, Assignments: make(map[string][]byte)}
		for _, m := range leader.Members {
			req.Assignments[m.ID] = make([]byte, 112<<10)
		}
		if _, code, err := c.Sync(t.Context(), "g", req); code != step.None || err != nil {
			t.Fatalf("sync: %d, %v", code, err)
		}
		l.View(func(st *state.State) {
			if g := st.Group("g"); g.MemberCount() != members || !g.Complete {
				t.Errorf("%d members, complete: %v", g.MemberCount(), g.Complete)
			}
		})
	})
}
