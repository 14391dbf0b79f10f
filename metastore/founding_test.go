package metastore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/log/metered"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

type deaf struct{}

func (deaf) Observe(metered.Op, metered.Outcome, time.Duration) {}

// An etcd that lost its data is not taken for a new one, also where the log is decorated; and nothing is left in it.
func TestAnEmptyEtcdBesideAUsedBucket(t *testing.T) {
	bubble(t, 80, func(t *testing.T, c *cluster) {
		c.close(c.open("a"))
		_ = c.store.Close()
		c.store = memlog.NewStore(memlog.Config{Empty: true})
		defer func() { _ = c.store.Close() }()
		l := c.store.Open("a")
		defer func() { _ = l.Close() }()
		if _, err := metastore.Open(t.Context(), c.config("a"), metered.New(l, deaf{}), c.bucket); !errors.Is(err, metastore.ErrNeedsRestore) {
			t.Fatalf("an agent starts: %v", err)
		}
		if st, err := l.Standing(t.Context()); err != nil || st.Keys != 0 {
			t.Errorf("it left %+v, %v", st, err)
		}
	})
}

// Two agents that start a new cluster at the same time: the second looks at the bucket just after the first has claimed it.
func TestTwoAgentsFoundACluster(t *testing.T) {
	bubble(t, 81, func(t *testing.T, c *cluster) {
		_ = c.store.Close()
		c.store = memlog.NewStore(memlog.Config{Empty: true})
		defer func() { _ = c.store.Close() }()
		var a *metastore.Client
		late := &lateBucket{Bucket: c.bucket, first: func() { a = c.open("a") }}
		l := c.store.Open("b")
		b, err := metastore.Open(t.Context(), c.config("b"), l, late)
		if err != nil {
			t.Fatal(err)
		}
		c.logs[b] = l
		c.close(a, b)
	})
}

// lateBucket does something before its first Get.
type lateBucket struct {
	objstore.Bucket
	first func()
}

func (b *lateBucket) Get(ctx context.Context, key string) ([]byte, error) {
	if first := b.first; first != nil {
		b.first = nil
		first()
	}
	return b.Bucket.Get(ctx, key)
}

// claimedBucket does something before its first Put, which claims it.
type claimedBucket struct {
	objstore.Bucket
	first func()
}

func (b *claimedBucket) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	if first := b.first; first != nil {
		b.first = nil
		first()
	}
	return b.Bucket.Put(ctx, key, body, opts)
}

// Of two agents that start a new cluster with different buckets only one does, whose bucket the log got to know first: what the other would
// acknowledge nobody else would find. Both had seen an empty log and claimed their bucket.
func TestTwoAgentsWithDifferentBucketsFoundOneCluster(t *testing.T) {
	bubble(t, 82, func(t *testing.T, c *cluster) {
		_ = c.store.Close()
		c.store = memlog.NewStore(memlog.Config{Empty: true})
		defer func() { _ = c.store.Close() }()
		var a *metastore.Client
		mistyped := &claimedBucket{Bucket: mem.New(), first: func() { a = c.open("a") }}
		l := c.store.Open("b")
		defer func() { _ = l.Close() }()
		for range 2 { // the second time it finds its own claim
			_, err := metastore.Open(t.Context(), c.config("b"), l, mistyped)
			if !errors.Is(err, metastore.ErrForeign) || !strings.Contains(err.Error(), "--bucket") || !strings.Contains(err.Error(), `agent "a"`) {
				t.Fatalf("an agent with another bucket starts: %v", err)
			}
		}
		if _, err := metastore.Status(t.Context(), l, mistyped); !errors.Is(err, metastore.ErrForeign) {
			t.Errorf("looking at the other bucket: %v", err)
		}
		right := c.open("b")
		var agents []state.Agent
		right.View(func(st *state.State) { agents = st.Agents() })
		if len(agents) != 2 {
			t.Errorf("%d agents joined, want both, on one bucket", len(agents))
		}
		c.close(a, right)
		c.close(c.open("a"))
	})
}

// Buckets claimed by builds that gave them no id have none, and logs of such know of none.
func TestABucketWithoutAnID(t *testing.T) {
	bubble(t, 83, func(t *testing.T, c *cluster) {
		l := c.store.Open("x")
		defer func() { _ = l.Close() }()
		identity, err := l.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		old := fmt.Sprintf(`{"format":1,"log_id":"%x"}`, identity.ID)
		if err := c.bucket.Put(t.Context(), metastore.MarkerKey, []byte(old), objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		c.close(c.open("a"))
		c.close(c.open("b"))
		if got, err := c.bucket.Get(t.Context(), metastore.MarkerKey); err != nil || string(got) != old {
			t.Errorf("marker %s, %v", got, err)
		}
	})
}

// Whoever only looks leaves an empty etcd empty: beside a cluster's bucket it then still is fit for a restore.
func TestLookingFoundsNoLog(t *testing.T) {
	for name, look := range map[string]func(context.Context, log.Log, objstore.Bucket) error{
		"status": func(ctx context.Context, l log.Log, b objstore.Bucket) error {
			_, err := metastore.Status(ctx, l, b)
			return err
		},
		"verify": func(ctx context.Context, l log.Log, b objstore.Bucket) error {
			_, err := metastore.Verify(ctx, l, b)
			return err
		},
		"snapshot": func(ctx context.Context, l log.Log, b objstore.Bucket) error {
			_, err := metastore.TakeSnapshot(ctx, l, b)
			return err
		},
		"entry": func(ctx context.Context, l log.Log, b objstore.Bucket) error {
			_, _, err := metastore.FindEntry(ctx, l, b, 1)
			return err
		},
		"names": func(ctx context.Context, l log.Log, b objstore.Bucket) error {
			_, err := metastore.TopicNames(ctx, l, b)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 81, func(t *testing.T, c *cluster) {
				c.close(c.open("a"))
				_ = c.store.Close()
				c.store = memlog.NewStore(memlog.Config{Empty: true})
				defer func() { _ = c.store.Close() }()
				l := c.store.Open("a")
				defer func() { _ = l.Close() }()
				if err := look(t.Context(), l, c.bucket); !errors.Is(err, metastore.ErrNeedsRestore) {
					t.Errorf("beside the cluster's bucket: %v", err)
				}
				if err := look(t.Context(), l, mem.New()); !errors.Is(err, metastore.ErrForeign) {
					t.Errorf("beside an empty bucket: %v", err)
				}
				if st, err := l.Standing(t.Context()); err != nil || st.Keys != 0 {
					t.Errorf("it left %+v, %v", st, err)
				}
			})
		})
	}
}

// A restored log knows its bucket from the start: an agent that still has another one, claimed when the cluster was new, spoils nothing for those
// that come after it.
func TestARestoredLogKnowsItsBucket(t *testing.T) {
	bubble(t, 84, func(t *testing.T, c *cluster) {
		_ = c.store.Close()
		c.store = memlog.NewStore(memlog.Config{Empty: true})
		var a *metastore.Client
		mistyped := &claimedBucket{Bucket: mem.New(), first: func() {
			a = c.open("a", func(cfg *metastore.Config) { cfg.ArchiveInterval = time.Second })
		}}
		start := func() error {
			l := c.store.Open("b")
			defer func() { _ = l.Close() }()
			_, err := metastore.Open(t.Context(), c.config("b"), l, mistyped)
			return err
		}
		if err := start(); !errors.Is(err, metastore.ErrForeign) {
			t.Fatalf("an agent with another bucket starts: %v", err)
		}
		c.propose(a, topic("t"))
		time.Sleep(10 * time.Second)
		c.loseEtcd(a)
		defer func() { _ = c.store.Close() }()
		if _, err := c.restore(metastore.RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := start(); !errors.Is(err, metastore.ErrForeign) || !strings.Contains(err.Error(), "restored") {
			t.Errorf("an agent with another bucket starts on the restored log: %v", err)
		}
		b := c.open("b")
		defer c.close(b)
		if !has(b, "t") {
			t.Error("the topic is gone")
		}
	})
}
