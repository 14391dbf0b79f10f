package metastore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a log, a bucket and some clients under fake time.
type cluster struct {
	t      *testing.T
	store  *memlog.Store
	bucket *mem.Bucket
	seed   uint64
	logs   map[*metastore.Client]*memlog.Log
}

// bubble runs fn with a fresh cluster under fake time.
func bubble(t *testing.T, seed uint64, fn func(*testing.T, *cluster)) {
	t.Helper()
	faketime.Test(t, func(t *testing.T) {
		c := &cluster{
			t: t, seed: seed, bucket: mem.New(), logs: make(map[*metastore.Client]*memlog.Log),
			store: memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(seed, 1))}),
		}
		defer func() { _ = c.store.Close() }()
		fn(t, c)
	})
}

func (c *cluster) config(name string) metastore.Config {
	c.seed++
	var key [32]byte
	copy(key[:], fmt.Sprintf("%s-%d", name, c.seed))
	return metastore.Config{
		Name: name, Listeners: []entry.Listener{{Name: "kafka", Host: name, Port: 9092}}, Rand: rand.NewChaCha8(key),
	}
}

// open starts a client; tune may change its config.
func (c *cluster) open(name string, tune ...func(*metastore.Config)) *metastore.Client {
	c.t.Helper()
	cfg := c.config(name)
	for _, f := range tune {
		f(&cfg)
	}
	l := c.store.Open(name)
	cl, err := metastore.Open(c.t.Context(), cfg, l, c.bucket)
	if err != nil {
		c.t.Fatalf("open %s: %v", name, err)
	}
	c.logs[cl] = l
	return cl
}

func (c *cluster) close(cls ...*metastore.Client) {
	c.t.Helper()
	for _, cl := range cls {
		if err := cl.Close(context.Background()); err != nil && !errors.Is(err, log.ErrUnavailable) {
			c.t.Errorf("close: %v", err)
		}
		_ = c.logs[cl].Close()
	}
}

func topic(name string) *entry.CreateTopic {
	var id entry.UUID
	copy(id[:], "id-"+name+strings.Repeat("-", 16))
	return &entry.CreateTopic{Name: name, ID: id, Partitions: 1, ReplicationFactor: 1}
}

func (c *cluster) propose(cl *metastore.Client, op entry.Op) state.OpResult {
	c.t.Helper()
	r, err := cl.Propose(c.t.Context(), op)
	if err != nil {
		c.t.Fatalf("propose %T: %v", op, err)
	}
	return r
}

func has(cl *metastore.Client, name string) (found bool) {
	cl.View(func(st *state.State) { found = st.TopicByName(name) != nil })
	return found
}

func TestProposalsAreAnsweredByApply(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		a, b := c.open("a"), c.open("b")
		defer c.close(a, b)
		if a.NodeID() == b.NodeID() || a.NodeID() < 0 || b.NodeID() < 0 {
			t.Fatalf("node ids %d and %d", a.NodeID(), b.NodeID())
		}
		if r := c.propose(a, topic("t")); r.Code != state.OK {
			t.Fatalf("create: %v", r.Code)
		}
		if !has(a, "t") {
			t.Fatal("answered before it was applied")
		}
		if r := c.propose(b, topic("t")); r.Code != state.TopicExists {
			t.Fatalf("second create: %v", r.Code)
		}
	})
}

func TestBarrierSeesWhatOthersCommitted(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		a, b := c.open("a"), c.open("b")
		defer c.close(a, b)
		c.logs[b].SetFaults(memlog.Faults{WatchLate: 1, WatchLateMax: time.Second}) // b's watch trails
		missed := 0
		for i := range 20 {
			name := fmt.Sprint("t", i)
			c.propose(a, topic(name))
			if !has(b, name) {
				missed++
			}
			if err := b.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !has(b, name) {
				t.Fatalf("barrier did not show %s", name)
			}
		}
		if missed == 0 {
			t.Fatal("b never trailed: the test proves nothing")
		}
	})
}

func TestNodeIDSurvivesRestart(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		a, b := c.open("a"), c.open("b")
		id := b.NodeID()
		c.close(b)
		x := c.open("x")
		b = c.open("b")
		defer c.close(a, b, x)
		if b.NodeID() != id || x.NodeID() == id {
			t.Fatalf("b had node id %d, now %d; x has %d", id, b.NodeID(), x.NodeID())
		}
	})
}

// A registration that is gone ends the session, not the client; what was in doubt is settled exactly once.
func TestLostRegistration(t *testing.T) {
	bubble(t, 4, func(t *testing.T, c *cluster) {
		a, b := c.open("a"), c.open("b")
		defer c.close(a, b)
		first := a.Incarnation()
		answers := make(chan state.Code, 1)
		c.store.Expire(first)
		a.Submit(topic("t"), func(r state.OpResult, err error) {
			if err != nil {
				t.Error(err)
			}
			answers <- r.Code
		})
		if code := <-answers; code != state.OK {
			t.Fatalf("create: %v", code)
		}
		if a.Incarnation() == first {
			t.Fatal("still the fenced incarnation")
		}
	})
}

// Whatever the log and its watch do, each proposal takes effect once and is answered once, and all replicas are equal.
func TestProposalsUnderFaults(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble(t, 100+seed, func(t *testing.T, c *cluster) {
				clients := []*metastore.Client{c.open("a"), c.open("b"), c.open("c")}
				c.store.SetFaults(memlog.Faults{
					Ambiguous: .1, Dropped: .1, Late: .05, LateMax: 3 * time.Second, NoSpace: .02, LatencyMax: 20 * time.Millisecond,
					WatchLose: .05, WatchRepeat: .05, WatchLate: .02, WatchStall: .01, WatchEnd: .01, WatchCompact: .01,
					LeaseExpire: .02, LostHidden: seed%2 == 0, MembersStale: .1,
				})
				var wg sync.WaitGroup
				ids := make(chan int64, 3*60)
				for _, cl := range clients {
					for range 60 {
						wg.Go(func() {
							r, err := cl.Propose(t.Context(), &entry.ReserveProducerIDs{Count: 7})
							if err != nil || r.Code != state.OK {
								t.Errorf("reserve: %v %v", r.Code, err)
								return
							}
							ids <- r.FirstProducerID
						})
						time.Sleep(3 * time.Millisecond)
					}
				}
				wg.Wait()
				c.store.SetFaults(memlog.Faults{})
				close(ids)
				seen := make(map[int64]bool)
				for id := range ids {
					if seen[id] {
						t.Fatalf("id %d given twice", id)
					}
					seen[id] = true
				}
				var hashes [3][32]byte
				var n [3]uint64
				for i, cl := range clients {
					if err := cl.Barrier(t.Context()); err != nil {
						t.Fatal(err)
					}
					_ = i
				}
				low := min(clients[0].Applied(), clients[1].Applied(), clients[2].Applied())
				for i, cl := range clients {
					cl.View(func(st *state.State) { hashes[i], _ = st.HashAt(low); n[i] = st.N() })
				}
				if hashes[0] != hashes[1] || hashes[1] != hashes[2] || hashes[0] == [32]byte{} {
					t.Fatalf("replicas differ at n=%d", low)
				}
				// Exactly once: the ids handed out are all that were ever reserved.
				var next int64
				r := c.propose(clients[0], &entry.ReserveProducerIDs{Count: 1})
				next = r.FirstProducerID
				lowest := next
				for id := range seen {
					lowest = min(lowest, id)
				}
				if got := (next - lowest) / 7; got != int64(len(seen)) {
					t.Fatalf("%d reservations took effect, %d were answered", got, len(seen))
				}
				counts := c.store.Counts()
				if counts.Ambiguous+counts.Dropped+counts.WatchLost+counts.LeaseExpired == 0 {
					t.Fatal("no fault struck: the test proves nothing")
				}
				c.close(clients...)
			})
		})
	}
}

// History moves to the bucket: the log stays short, and an agent that starts, or that slept, reads what it needs there.
func TestSnapshotTrimAndArchive(t *testing.T) {
	bubble(t, 5, func(t *testing.T, c *cluster) {
		small := func(cfg *metastore.Config) {
			cfg.SnapshotEntries, cfg.TrimMargin, cfg.ArchiveInterval = 100, 20, time.Second
		}
		a := c.open("a", small)
		sleeper := c.open("sleeper", small)
		c.logs[sleeper].SetFaults(memlog.Faults{Partitioned: true})
		for i := range 500 {
			c.propose(a, topic(fmt.Sprint("t", i)))
			if i%50 == 0 {
				time.Sleep(3 * time.Second)
			}
		}
		time.Sleep(20 * time.Second)
		if _, _, _, err := c.logs[a].Read(t.Context(), 0, nil, 1<<20); !errors.Is(err, log.ErrTrimmed) {
			t.Fatalf("the log was not trimmed: %v", err)
		}
		c.logs[sleeper].SetFaults(memlog.Faults{})
		b := c.open("b", small) // boots from the snapshot
		if err := b.Barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := sleeper.Barrier(t.Context()); err != nil { // goes on from the archive
			t.Fatal(err)
		}
		for _, cl := range []*metastore.Client{b, sleeper} {
			if !has(cl, "t0") || !has(cl, "t499") {
				t.Fatal("history is missing")
			}
		}
		var want, got [32]byte
		low := min(a.Applied(), b.Applied(), sleeper.Applied())
		a.View(func(st *state.State) { want, _ = st.HashAt(low) })
		for _, cl := range []*metastore.Client{b, sleeper} {
			if err := cl.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			cl.View(func(st *state.State) { got, _ = st.HashAt(low) })
			if got != want {
				t.Fatalf("chain hash at n=%d: %x, want %x", low, got[:4], want[:4])
			}
		}
		c.close(a, b, sleeper)
	})
}

func TestAnIdleClusterWritesNothingToTheBucket(t *testing.T) {
	bubble(t, 6, func(t *testing.T, c *cluster) {
		a := c.open("a")
		defer c.close(a)
		c.propose(a, topic("t"))
		time.Sleep(time.Minute)
		before := objects(c)
		time.Sleep(30 * time.Minute)
		if after := objects(c); after != before {
			t.Fatalf("%d objects after half an hour without news, %d before", after, before)
		}
	})
}

func objects(c *cluster) int {
	infos, err := c.bucket.List(c.t.Context(), "", "", 1000)
	if err != nil {
		c.t.Fatal(err)
	}
	return len(infos)
}

// An agent whose registration is gone leaves the cluster's state.
func TestTheDeadAreRemoved(t *testing.T) {
	bubble(t, 7, func(t *testing.T, c *cluster) {
		a, b := c.open("a"), c.open("b")
		defer c.close(a)
		c.logs[b].SetFaults(memlog.Faults{Partitioned: true})
		time.Sleep(time.Minute)
		var agents []state.Agent
		a.View(func(st *state.State) { agents = st.Agents() })
		if len(agents) != 1 || agents[0].Name != "a" {
			t.Fatalf("joined: %+v", agents)
		}
		if b.Degraded() == "" {
			t.Error("the one cut off does not know")
		}
		c.logs[b].SetFaults(memlog.Faults{})
		time.Sleep(time.Minute)
		a.View(func(st *state.State) { agents = st.Agents() })
		if len(agents) != 2 {
			t.Fatalf("b did not come back: %+v", agents)
		}
		c.close(b)
	})
}

func TestForeignBucketIsRefused(t *testing.T) {
	bubble(t, 8, func(t *testing.T, c *cluster) {
		c.close(c.open("a"))
		other := memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(99, 99))})
		defer func() { _ = other.Close() }()
		_, err := metastore.Open(t.Context(), c.config("a"), other.Open("a"), c.bucket)
		if !errors.Is(err, metastore.ErrForeign) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("got %v", err)
		}
	})
}

// An agent that is pointed at an empty bucket beside a log with entries would acknowledge records where no other agent looks for them.
func TestAnEmptyBucketBesideALogWithEntriesIsRefused(t *testing.T) {
	bubble(t, 8, func(t *testing.T, c *cluster) {
		c.close(c.open("a"))
		wrong, l := mem.New(), c.store.Open("b")
		defer func() { _ = l.Close() }()
		_, err := metastore.Open(t.Context(), c.config("b"), l, wrong)
		if !errors.Is(err, metastore.ErrForeign) || !strings.Contains(err.Error(), metastore.MarkerKey) || !strings.Contains(err.Error(), "--bucket") {
			t.Fatalf("got %v", err)
		}
		if _, err := wrong.Get(t.Context(), metastore.MarkerKey); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("the wrong bucket was claimed: %v", err)
		}
		c.close(c.open("b"))
	})
}

// A log that was replaced under a running agent ends it: it must not serve two logs as one.
func TestReplacedLogEndsTheAgent(t *testing.T) {
	bubble(t, 9, func(t *testing.T, c *cluster) {
		a := c.open("a")
		c.store.SetIdentity(log.Identity{ID: [16]byte{1}, Epoch: 1})
		_, err := a.Propose(t.Context(), topic("t"))
		if !errors.Is(err, metastore.ErrForeign) && !errors.Is(err, metastore.ErrClosed) {
			t.Fatalf("got %v", err)
		}
		<-a.Failed()
		_ = a.Close(context.Background())
		_ = c.logs[a].Close()
	})
}

func TestOpsTooLargeAreNeverCommitted(t *testing.T) {
	bubble(t, 10, func(t *testing.T, c *cluster) {
		a := c.open("a")
		defer c.close(a)
		op := topic("t")
		op.Configs = []entry.Config{{Name: "x", Value: strings.Repeat("x", log.MaxValueBytes)}}
		if _, err := a.Propose(t.Context(), op); !errors.Is(err, metastore.ErrTooLarge) {
			t.Fatalf("got %v", err)
		}
		if r := c.propose(a, topic("u")); r.Code != state.OK {
			t.Fatalf("after it: %v", r.Code)
		}
	})
}

func TestProducerIDsAreUnique(t *testing.T) {
	bubble(t, 11, func(t *testing.T, c *cluster) {
		a, b := c.open("a"), c.open("b")
		defer c.close(a, b)
		seen := make(map[int64]bool)
		for i := range 2500 {
			cl := a
			if i%3 == 0 {
				cl = b
			}
			id, err := cl.ReserveProducerID(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if seen[id] {
				t.Fatalf("id %d given twice", id)
			}
			seen[id] = true
		}
	})
}

func (c *cluster) status(cl *metastore.Client) *metastore.Report {
	c.t.Helper()
	r, err := metastore.Status(c.t.Context(), c.logs[cl], c.bucket)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// A backlog longer than what a live state remembers of its chain is archived all the same.
func TestABacklogIsArchived(t *testing.T) {
	bubble(t, 12, func(t *testing.T, c *cluster) {
		a := c.open("a", func(cfg *metastore.Config) { cfg.ArchiveInterval = time.Hour })
		defer c.close(a)
		filler := strings.Repeat("x", 2000)
		for i := range 9500 { // one read takes about 4000, and more than a state remembers are left behind it
			op := &entry.AlterConfigs{ResourceType: 4, Changes: []entry.ConfigChange{{Name: "filler", Value: fmt.Sprint(filler, i)}}}
			c.propose(a, op)
		}
		time.Sleep(2 * time.Hour)
		if r := c.status(a); r.ArchivedTo < 9500 {
			t.Fatalf("archived to n=%d of n=%d", r.ArchivedTo, r.Head)
		}
	})
}

// Where entries come one by one, each becomes an archive object. What an agent has to read when it starts or takes up the duty
// stays short all the same.
func TestAQuietClusterKeepsItsTailShort(t *testing.T) {
	bubble(t, 13, func(t *testing.T, c *cluster) {
		a := c.open("a", func(cfg *metastore.Config) { cfg.ArchiveInterval = time.Second })
		for i := range 1000 {
			c.propose(a, topic(fmt.Sprint("t", i)))
			time.Sleep(2 * time.Second)
		}
		r := c.status(a)
		if r.ArchivedTo-r.SnapshotN > 400 || r.ArchivedTo-r.TrimmedTo > 600 {
			t.Fatalf("archived to n=%d, snapshot at n=%d, trimmed to n=%d", r.ArchivedTo, r.SnapshotN, r.TrimmedTo)
		}
		c.close(a)
		b := c.open("b")
		defer c.close(b)
		if !has(b, "t0") || !has(b, "t999") {
			t.Fatal("history is missing")
		}
		v, err := metastore.Verify(t.Context(), c.logs[b], c.bucket)
		if err != nil || len(v.Problems) > 0 || v.Topics != 1000 {
			t.Fatalf("verify: %v %+v", err, v)
		}
	})
}

// Verify sees what an archive object or a snapshot has lost.
func TestVerifySeesDamage(t *testing.T) {
	for _, prefix := range []string{"metastore/archive/", "metastore/snapshot/"} {
		t.Run(prefix, func(t *testing.T) {
			bubble(t, 14, func(t *testing.T, c *cluster) {
				a := c.open("a", func(cfg *metastore.Config) { cfg.ArchiveInterval, cfg.SnapshotEntries = time.Second, 20 })
				defer c.close(a)
				for i := range 100 {
					c.propose(a, topic(fmt.Sprint("t", i)))
					time.Sleep(time.Second)
				}
				time.Sleep(5 * time.Second)
				infos, err := c.bucket.List(t.Context(), prefix, "", 1000)
				if err != nil || len(infos) == 0 {
					t.Fatalf("%d objects, %v", len(infos), err)
				}
				key := infos[len(infos)-1].Key
				body, err := c.bucket.Get(t.Context(), key)
				if err != nil {
					t.Fatal(err)
				}
				body[len(body)/2] ^= 1
				if err := c.bucket.Put(t.Context(), key, body, objstore.PutOptions{}); err != nil {
					t.Fatal(err)
				}
				v, err := metastore.Verify(t.Context(), c.logs[a], c.bucket)
				if err != nil || len(v.Problems) == 0 || !strings.Contains(strings.Join(v.Problems, " "), key) {
					t.Fatalf("verify: %v %+v", err, v)
				}
			})
		})
	}
}

func TestConfigSaysAllThatIsWrong(t *testing.T) {
	cfg := metastore.Config{Name: strings.Repeat("n", 256), TickInterval: -1, EntryBytes: 1 << 30}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"name", "listener", "tick interval", "entry bytes"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word of the %s in %q", want, err)
		}
	}
}
