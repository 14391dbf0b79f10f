package metastore_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
)

// Three agents take a slot from each other, lose their sessions, and commit: each raises the group's offset by one, from what its
// own state says. Whatever the log does, the offset is then the number of commits that were acknowledged: none was lost, none
// came twice, none of a former owner came late.
func TestCommitsSurviveHandOversUnderFaults(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble(t, 400+seed, func(t *testing.T, c *cluster) { commitsUnderFaults(t, c, seed) })
		})
	}
}

func commitsUnderFaults(t *testing.T, c *cluster, seed uint64) {
	clients := []*metastore.Client{c.open("a"), c.open("b"), c.open("c")}
	tt := topic("t")
	if r := c.propose(clients[0], tt); r.Code != state.OK {
		t.Fatal(r.Code)
	}
	c.store.SetFaults(memlog.Faults{
		Ambiguous: .1, Dropped: .1, Late: .05, LateMax: 3 * time.Second, LatencyMax: 20 * time.Millisecond,
		WatchLose: .05, WatchRepeat: .05, WatchLate: .02, WatchStall: .01, WatchEnd: .01, LeaseExpire: .02, LostHidden: seed%2 == 0, MembersStale: .1,
	})
	const group = "g"
	slot := state.SlotOf(group)
	var acknowledged, refused, claims atomic.Int64
	var wg sync.WaitGroup
	for i, cl := range clients {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() {
			for range 60 {
				time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond)
				var now state.Slot
				offset, owned, live := int64(-1), false, false
				cl.View(func(st *state.State) {
					now = st.Slot(slot)
					_, live = st.AgentByIncarnation(now.Owner)
					if owned = now.Owner == [16]byte(cl.Incarnation()); !owned {
						return
					}
					if g := st.Group(group); g != nil {
						if o, ok := g.Offset(tt.ID, 0); ok {
							offset = o.Offset
						}
					}
				})
				if owned {
					op := &entry.CommitOffsets{Slot: uint32(slot), Epoch: now.Epoch, Group: group, Generation: -1,
						Offsets: []entry.GroupOffset{{Topic: tt.ID, Offset: offset + 1, ExpireMs: -1}}}
					switch r, err := cl.Propose(t.Context(), op); {
					case err != nil:
						t.Errorf("commit: %v", err)
					case r.Code == state.OK && r.Offsets[0] == state.OK:
						acknowledged.Add(1)
					case r.Code == state.StaleCoordinator:
						refused.Add(1)
					default:
						t.Errorf("commit: %v %v", r.Code, r.Offsets)
					}
				}
				if live && random.IntN(8) > 0 {
					continue
				}
				// A claim that is proposed under a session that ends meanwhile names who is not joined any more.
				r, err := cl.Propose(t.Context(), &entry.ClaimSlot{Slot: uint32(slot), Epoch: now.Epoch, Owner: cl.Incarnation()})
				if err != nil || r.Code != state.OK && r.Code != state.Conflict && r.Code != state.NotJoined {
					t.Errorf("claim: %v %v", r.Code, err)
				}
				if r.Code == state.OK {
					claims.Add(1)
				}
			}
		})
	}
	wg.Wait()
	c.store.SetFaults(memlog.Faults{})
	for _, cl := range clients {
		if err := cl.Barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
		cl.View(func(st *state.State) {
			g := st.Group(group)
			if g == nil {
				t.Fatal("no commit was taken")
			}
			if o, _ := g.Offset(tt.ID, 0); o.Offset+1 != acknowledged.Load() {
				t.Errorf("%d commits were acknowledged, the offset is %d", acknowledged.Load(), o.Offset)
			}
		})
	}
	if counts := c.store.Counts(); claims.Load() < 2 || counts.Ambiguous+counts.Dropped+counts.LeaseExpired == 0 {
		t.Fatalf("%d claims, %+v: the test proves nothing", claims.Load(), counts)
	}
	t.Logf("%d commits acknowledged, %d refused, %d claims", acknowledged.Load(), refused.Load(), claims.Load())
	c.close(clients...)
}
