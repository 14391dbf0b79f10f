package agent_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// readers are the members of a group, and what they have read and committed.
type readers struct {
	t    *testing.T
	seen sync.Map // values that any of them has read

	mu       sync.Mutex // guards the rest
	rewinds  int        // times that a partition was read from further back than before
	next     map[int32]int64
	progress time.Time // of the last new value
	longest  time.Duration
}

// read consumes until ctx ends, committing what was read.
func (r *readers) read(ctx context.Context, group, topic string, seeds []string, opts ...kgo.Opt) {
	c, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(seeds...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMinAge(100 * time.Millisecond), kgo.HeartbeatInterval(200 * time.Millisecond), kgo.FetchMaxWait(250 * time.Millisecond), kgo.DisableAutoCommit(),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
	}, opts...)...)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer c.CloseAllowingRebalance()
	for ctx.Err() == nil {
		fetches := c.PollFetches(ctx)
		fetches.EachRecord(func(rec *kgo.Record) {
			if _, again := r.seen.LoadOrStore(string(rec.Value), true); !again {
				r.mu.Lock()
				if now := time.Now(); !r.progress.IsZero() {
					r.longest, r.progress = max(r.longest, now.Sub(r.progress)), now
				} else {
					r.progress = now
				}
				r.mu.Unlock()
			}
			r.mu.Lock()
			if rec.Offset < r.next[rec.Partition] {
				r.rewinds++
			}
			r.next[rec.Partition] = rec.Offset + 1
			r.mu.Unlock()
		})
		commit, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = c.CommitUncommittedOffsets(commit) // what fails is read again
		cancel()
	}
}

// committed watches that offsets of the group only rise, until ctx ends.
func committed(ctx context.Context, t *testing.T, view func(func(*state.State)), group string) {
	last := make(map[int32]int64)
	for ctx.Err() == nil {
		view(func(st *state.State) {
			g := st.Group(group)
			if g == nil {
				return
			}
			for o := range g.Offsets() {
				if o.Offset < last[o.Partition] {
					t.Errorf("partition %d: committed offset went from %d back to %d", o.Partition, last[o.Partition], o.Offset)
				}
				last[o.Partition] = o.Offset
			}
		})
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// A group of a stock client goes on while its coordinator is killed, replaced, and drained: every record is read, what was
// committed never goes back, and the group does not lose its members.
func TestAGroupOutlivesItsCoordinators(t *testing.T) {
	c := newTeam(t)
	agents := map[string]*mate{"a": c.join("a"), "b": c.join("b"), "c": c.join("c")}
	var seeds []string
	for _, m := range agents {
		seeds = append(seeds, m.cfg.Advertise)
	}
	const topic, group, partitions = "records", "readers", 12
	witness := agents["a"]
	admin, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.MetadataMinAge(100*time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := kadm.NewClient(admin).CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { end(); wg.Wait() }()
	r := &readers{t: t, next: make(map[int32]int64)}
	for i := range 3 {
		var opts []kgo.Opt
		if i == 0 {
			opts = append(opts, kgo.InstanceID("static"))
		}
		wg.Go(func() { r.read(ctx, group, topic, seeds, opts...) })
	}
	wg.Go(func() { committed(ctx, t, witness.Metastore().View, group) })
	produced := 0
	produce := func(n int) {
		t.Helper()
		for range n {
			rec := &kgo.Record{Topic: topic, Partition: int32(produced % partitions), Value: []byte(strconv.Itoa(produced))}
			if err := admin.ProduceSync(ctx, rec).FirstErr(); err != nil {
				t.Fatalf("produce: %v", err)
			}
			produced++
		}
	}
	read := func(what string) {
		t.Helper()
		await(t, what+": every record is read", func() bool {
			for i := range produced {
				if _, ok := r.seen.Load(strconv.Itoa(i)); !ok {
					return false
				}
			}
			return true
		})
	}
	owner := func() (name string) {
		witness.Metastore().View(func(st *state.State) {
			if a, ok := st.AgentByIncarnation(st.Slot(state.SlotOf(group)).Owner); ok {
				name = a.Name
			}
		})
		return name
	}
	generation := func() (g int32, members int) {
		witness.Metastore().View(func(st *state.State) {
			if x := st.Group(group); x != nil {
				g, members = x.Generation, x.MemberCount()
			}
		})
		return g, members
	}
	produce(partitions)
	read("at first")
	await(t, "three members", func() bool { _, members := generation(); return members == 3 })
	produce(partitions)
	read("by three members")
	// The witness must not coordinate: it is asked all the time.
	await(t, "a coordinator other than the witness", func() bool {
		if owner() == witness.cfg.Name {
			hand(t, witness, group, agents["b"])
		}
		return owner() != "" && owner() != witness.cfg.Name
	})
	await(t, "a stable group", func() bool { produce(1); _, members := generation(); return members == 3 })
	before, _ := generation()

	victim := agents[owner()]
	victim.log.SetFaults(partitioned) // or it would take its leave
	victim.Kill()
	produce(partitions)
	read("after a kill")
	await(t, "another coordinator", func() bool { return owner() != "" && owner() != victim.cfg.Name })
	after, members := generation()
	if members != 3 || after > before {
		t.Logf("generation %d with %d members, %d before the kill", after, members, before) // a client may have started a rebalance
	}
	agents[victim.cfg.Name] = c.join(victim.cfg.Name, on(victim.disk), at(t, victim.cfg.Advertise, victim.cfg.Internal))
	produce(partitions)
	read("after it is back")

	if name := owner(); name != "" && name != witness.cfg.Name {
		stop, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := agents[name].Drain(stop); err != nil {
			t.Errorf("drain: %v", err)
		}
	}
	produce(partitions)
	read("after a drain")
	await(t, "all is committed", func() bool {
		sum := int64(0)
		witness.Metastore().View(func(st *state.State) {
			for o := range st.Group(group).Offsets() {
				sum += o.Offset
			}
		})
		return sum == int64(produced)
	})
	t.Logf("%d records, longest pause %v, %d partitions read from further back, generation %s", produced, r.longest, r.rewinds, fmt.Sprint(generation()))
}

// hand makes an agent give the slot of a group to another.
func hand(t *testing.T, from *mate, group string, to *mate) {
	t.Helper()
	slot := state.SlotOf(group)
	var epoch uint64
	from.Metastore().View(func(st *state.State) { epoch = st.Slot(slot).Epoch })
	if _, err := from.Metastore().Propose(t.Context(), &entry.ClaimSlot{Slot: uint32(slot), Epoch: epoch, Owner: [16]byte(to.Metastore().Incarnation())}); err != nil {
		t.Error(err)
	}
}
