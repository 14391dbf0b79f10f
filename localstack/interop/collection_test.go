//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/compaction/gc"
	"github.com/firnlog/firn/localstack"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// objects are the keys below data/ and topics/.
func (b *bucketOf) objects() (keys []string) {
	b.t.Helper()
	for _, root := range []string{"data/", "topics/"} {
		infos, err := b.List(b.t.Context(), root, "", 1000)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, info := range infos {
			keys = append(keys, info.Key)
		}
	}
	return keys
}

// consume counts the records of a topic.
func (b *bucketOf) consume(topic string) int {
	b.t.Helper()
	out := run(b.t, firnBin, "consume", topic, "--from", "start", "--exit-at-end", "--brokers", b.stack.Brokers())
	return strings.Count(string(out), "snow\n")
}

// TestRetentionAndCollectionOnMinIO: records that a topic no longer promises are gone, and then their objects from the store; those
// of another topic are whole.
func TestRetentionAndCollectionOnMinIO(t *testing.T) {
	dir := t.TempDir()
	m := startMinIO(t, dir, false)
	b := &bucketOf{t: t, url: m.URL("s3", "logs", "cluster-1"), Bucket: openMinIO(t, m, "s3", "logs", false)}
	b.stack = startOn(t, localstack.Options{Dir: dir, Agents: 1, Bucket: b.url, Env: m.Env(), Args: []string{
		"--merge-after=1s", "--merge-rescan=200ms", "--retention-interval=1s", "--collection-interval=1s", "--sweep-interval=5s",
	}})
	b.topic("topic", "create", "aged", "--partitions", "3")
	b.produce("aged")
	merged := ""
	b.await("a merged object", func() (string, bool) {
		keys := b.objects()
		i := slices.IndexFunc(keys, func(key string) bool { return strings.HasPrefix(key, "topics/") })
		if i >= 0 {
			merged = keys[i]
		}
		return fmt.Sprint(keys), i >= 0
	})
	if got := b.consume("aged"); got != 100 {
		t.Fatalf("%d records before they are old", got)
	}
	before := b.objects() // of which other topics have nothing

	b.topic("topic", "create", "kept", "--partitions", "3")
	b.topic("config", "set", "topic", "aged", "retention.ms=1000")
	produced := 0
	own := merged[:len("topics/")+32+len("/")]
	b.await("objects of records that are old are gone", func() (string, bool) {
		b.produce("kept")
		produced += 100
		var left []string
		for _, key := range b.objects() {
			if slices.Contains(before, key) || strings.HasPrefix(key, own) {
				left = append(left, key)
			}
		}
		return fmt.Sprint(left), len(left) == 0
	})
	if got := b.consume("aged"); got != 0 {
		t.Errorf("%d records that are old", got)
	}
	if got := b.consume("kept"); got != produced {
		t.Errorf("%d records of the topic that keeps them, want %d", got, produced)
	}
	out, err := exec.CommandContext(t.Context(), firnBin, "gc", "verify", "--deep", "--etcd", b.stack.EtcdAddr, "--bucket", b.url).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "nothing is missing or damaged") {
		t.Errorf("verify: %v: %s", err, out)
	}
}

// hard is a bucket with versions as a store without: what is deleted is deleted for good, or refused.
type hard struct {
	objstore.Bucket
	objstore.VersionStore
	refused int
}

func (b *hard) Unwrap() objstore.Bucket { return b.Bucket }

func (b *hard) Delete(ctx context.Context, keys ...string) error {
	var kept error
	for _, key := range keys {
		versions, err := b.ListVersions(ctx, key, "", "", 10)
		if err != nil {
			return err
		}
		for _, v := range versions {
			switch err := b.DeleteVersion(ctx, v.Key, v.ID); {
			case errors.Is(err, objstore.ErrRetained):
				b.refused++
				kept = err
			case err != nil:
				return err
			}
		}
	}
	return kept
}

// ledger is a metastore of one agent, all of which is archived.
type ledger struct {
	*testing.T
	st  *state.State
	seq uint64
}

func (l *ledger) View(fn func(*state.State)) { fn(l.st) }

func (l *ledger) Incarnation() log.Incarnation { return log.Incarnation{1} }

func (l *ledger) Propose(_ context.Context, op entry.Op) (state.OpResult, error) {
	l.seq++
	value := (&entry.Entry{Incarnation: l.Incarnation(), Seq: l.seq, FeatureLevel: l.st.FeatureLevel(), ClockMs: time.Now().UnixMilli(), Ops: []entry.Op{op}}).AppendTo(nil)
	var d entry.Decoder
	e, err := d.Decode(value)
	var r state.Results
	if err == nil {
		err = l.st.Apply(l.st.N()+1, value, e, &r)
	}
	if err != nil || r.EntryCode != state.OK {
		l.Fatalf("%T: %v, %v", op, r.EntryCode, err)
	}
	return r.Ops[0], nil
}

func (l *ledger) ArchivedThrough(context.Context) (uint64, error) { return l.st.N(), nil }

func (l *ledger) OwnsBucket(context.Context) error { return nil }

func (l *ledger) Load(context.Context, string) (log.Cell, error) { return log.Cell{}, nil }

func (l *ledger) Swap(context.Context, string, uint64, []byte) (log.Cell, error) {
	return log.Cell{}, log.ErrConflict
}

// TestCollectingWhatALockKeepsOnMinIO: what a lock keeps is refused by the store, counted and left, opens no breaker, and goes after the
// lock has ended.
func TestCollectingWhatALockKeepsOnMinIO(t *testing.T) {
	for _, driver := range []string{"s3", "minio"} {
		t.Run(driver, func(t *testing.T) {
			m := startMinIO(t, t.TempDir(), false)
			b := &hard{Bucket: openMinIO(t, m, driver, "logs", true)}
			b.VersionStore, _ = objstore.As[objstore.VersionStore](b.Bucket)
			clock, _ := objstore.As[objstore.Clock](b.Bucket)
			now := func() time.Time {
				t.Helper()
				now, err := clock.Now(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return now
			}
			l := &ledger{T: t, st: state.New(state.Identity{ID: [16]byte{1}, Epoch: 1})}
			for _, op := range []entry.Op{
				&entry.Join{Name: "a", MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: "h", Port: 1}}},
				&entry.SetFeatureLevel{Level: state.MaxFeatureLevel}, &entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2},
			} {
				if r, err := l.Propose(t.Context(), op); err != nil || r.Code != state.OK {
					t.Fatalf("%T: %v, %v", op, r.Code, err)
				}
			}
			var made uint64
			put := func(lock objstore.Lock) (key string) {
				t.Helper()
				made++
				key = entry.ObjectID{Incarnation: [16]byte{2}, Seq: made, CollectionEpoch: 1}.Key()
				if err := b.Put(t.Context(), key, []byte("snow"), objstore.PutOptions{Lock: lock}); err != nil {
					t.Fatal(err)
				}
				return key
			}
			there := func(key string) bool {
				t.Helper()
				versions, err := b.ListVersions(t.Context(), key, "", "", 10)
				if err != nil {
					t.Fatal(err)
				}
				return len(versions) > 0
			}
			const long = 6
			var kept []string
			for range long {
				kept = append(kept, put(objstore.Lock{Mode: objstore.LockGovernance, Until: now().Add(24 * time.Hour)}))
			}
			free := put(objstore.Lock{})
			ends := now().Add(10 * time.Second).Truncate(time.Second)
			soon := put(objstore.Lock{Mode: objstore.LockCompliance, Until: ends})

			registry := prometheus.NewRegistry()
			steady := time.Duration(0)
			c, err := gc.New(gc.Config{OrphansFree: 3, SweepInterval: time.Hour, ScrubBytesPerSecond: -1}, gc.Deps{
				Meta: l, Cells: l, Bucket: b, Metrics: gc.NewMetrics(registry), Steady: func() time.Duration { return steady },
			})
			if err != nil {
				t.Fatal(err)
			}
			pass := func(d time.Duration) {
				t.Helper()
				steady += d
				for worked := true; worked; {
					if worked, err = c.Step(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				for _, key := range kept {
					if !there(key) {
						t.Errorf("%s is gone, locked for a day", key)
					}
				}
				if !there(soon) && now().Before(ends) {
					t.Errorf("%s is gone before its lock has ended", soon)
				}
				if c.Fault() != "" {
					t.Errorf("a lock is no fault: %s", c.Fault())
				}
			}
			pass(0)                // it takes the duty up
			pass(10 * time.Minute) // a sweep
			pass(10 * time.Second) // and what it found
			if there(free) || b.refused == 0 {
				t.Errorf("what nothing keeps is there: %v; %d deletes were refused", there(free), b.refused)
			}
			if got := gauge(t, registry, "firn_gc_retained_objects"); got < long {
				t.Errorf("%v objects are counted as kept by a lock, want %d", got, long)
			}
			waits := &bucketOf{t: t}
			waits.await("the lock ends", func() (string, bool) { at := now(); return at.String(), at.After(ends.Add(time.Second)) })
			pass(7 * time.Hour) // refused ones are tried again after six
			pass(10 * time.Second)
			if there(soon) {
				t.Errorf("%s is there, its lock has ended", soon)
			}
			if got := gauge(t, registry, "firn_gc_retained_objects"); got != long {
				t.Errorf("%v objects are counted as kept by a lock, want %d", got, long)
			}
		})
	}
}

// gauge reads a metric.
func gauge(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
