package metastore_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/mem"
)

// BenchmarkCommits is what a commit of one offset costs an agent between its coordinator and the answer, over a log in memory: proposed,
// checked, packed with others, committed, decoded, applied. 256 wait at a time, and none of them for company.
func BenchmarkCommits(b *testing.B) {
	c := &cluster{bucket: mem.New(), logs: make(map[*metastore.Client]*memlog.Log), store: memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(1, 1))})}
	defer func() { _ = c.store.Close() }()
	l := c.store.Open("a")
	defer func() { _ = l.Close() }()
	a, err := metastore.Open(b.Context(), c.config("a"), l, c.bucket)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = a.Close(b.Context()) }()
	must := func(op entry.Op) {
		if r, err := a.Propose(b.Context(), op); err != nil || r.Code != state.OK {
			b.Fatalf("propose %T: %v, %v", op, r.Code, err)
		}
	}
	tt := topic("t")
	must(tt)
	ops := make([]*entry.CommitOffsets, 256)
	claimed := make(map[int]uint64)
	for i := range ops {
		group := fmt.Sprintf("a-consumer-group-%03d", i)
		slot := state.SlotOf(group)
		if claimed[slot] == 0 {
			must(&entry.ClaimSlot{Slot: uint32(slot), Owner: a.Incarnation()})
			a.View(func(st *state.State) { claimed[slot] = st.Slot(slot).Epoch })
		}
		ops[i] = &entry.CommitOffsets{
			Slot: uint32(slot), Epoch: claimed[slot], Group: group, Generation: -1, Offsets: []entry.GroupOffset{{Topic: tt.ID, Offset: 1 << 20, LeaderEpoch: -1, ExpireMs: -1}},
		}
	}
	free := make(chan struct{}, len(ops))
	for range ops {
		free <- struct{}{}
	}
	done := func(r state.OpResult, err error) {
		if err != nil || r.Code != state.OK || r.Offsets[0] != state.OK {
			b.Errorf("commit: %v, %v", r.Code, err)
		}
		free <- struct{}{}
	}
	before := a.Applied()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		<-free
		a.Submit(ops[i%len(ops)], done)
		i++
	}
	for range ops {
		<-free
	}
	b.ReportMetric(float64(i)/float64(a.Applied()-before), "commits/entry")
}
