package bucketcopy_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/cmd/firn/bucketcopy"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/wal/walfs"
)

// patience bounds every wait: reaching it is a failure.
const patience = 60 * time.Second

// startAgent starts an agent of a cluster in this process; stop drains it.
func startAgent(t *testing.T, l log.Log, bucket objstore.Bucket) (address string, stop func(), err error) {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	kafka, http := listen(), listen()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a, err := agent.Start(ctx, agent.Config{Name: "a", Version: "test", Advertise: kafka.Addr().String(), WALBytes: 64 << 20}, agent.Components{
		Kafka: kafka, HTTP: http, FS: walfs.New(rand.New(rand.NewPCG(1, 2))), WALDir: "wal", Log: l, Bucket: bucket,
	})
	if err != nil {
		_, _ = kafka.Close(), http.Close()
		return "", nil, err
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := a.Drain(ctx); err != nil {
			t.Errorf("drain: %v", err)
		}
	}
	t.Cleanup(stop)
	return kafka.Addr().String(), stop, nil
}

func dial(t *testing.T, address string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(address)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// produce adds records to both topics and notes them in want.
func produce(t *testing.T, address string, from, to int, want map[string]bool) {
	t.Helper()
	c := dial(t, address)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := from; i < to; i++ {
		value := fmt.Sprintf("%d %s", i, strings.Repeat("snow", 200))
		topic := []string{"orders", "payments"}[i%2]
		if err := c.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value), Key: fmt.Appendf(nil, "%d", i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		want[topic+" "+value] = true
	}
}

// wantAll reads both topics from their starts.
func wantAll(t *testing.T, address string, want map[string]bool) {
	t.Helper()
	c := dial(t, address, kgo.ConsumeTopics("orders", "payments"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := map[string]int{}
	for n := 0; n < len(want); {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d records", n, len(want))
		}
		fetches.EachError(func(topic string, p int32, err error) { t.Fatalf("%s/%d: %v", topic, p, err) })
		fetches.EachRecord(func(r *kgo.Record) {
			got[r.Topic+" "+string(r.Value)]++
			n++
		})
	}
	for record := range want {
		if got[record] != 1 {
			t.Fatalf("%.40q was read %d times", record, got[record])
		}
	}
}

// The whole of docs/buckets.md: a copy at work, a final one, agents on the copy that read everything, a forgotten one on the
// old bucket; and a second cluster from the copy alone.
func TestAClusterMoves(t *testing.T) {
	store, old, moved := memlog.NewStore(memlog.Config{}), mem.New(), mem.New()
	t.Cleanup(func() { _ = store.Close() })
	address, stop, err := startAgent(t, store.Open("a"), old)
	if err != nil {
		t.Fatal(err)
	}
	admin := dial(t, address)
	if _, err := kadm.NewClient(admin).CreateTopics(t.Context(), 3, 1, nil, "orders", "payments"); err != nil {
		t.Fatal(err)
	}
	admin.Close()
	want := map[string]bool{}
	produce(t, address, 0, 40, want)
	if r, err := run(t, old, moved, bucketcopy.Options{}); err != nil || r.Copied == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	produce(t, address, 40, 60, want)
	if _, _, err := startAgent(t, store.Open("b"), moved); err == nil || !strings.Contains(err.Error(), "has not been finished") {
		t.Fatalf("an agent on half a copy: %v", err)
	}
	stop()
	if _, err := metastore.TakeSnapshot(t.Context(), store.Open("operator"), old); err != nil { // for the second cluster
		t.Fatal(err)
	}
	r, err := run(t, old, moved, bucketcopy.Options{Final: true, Verify: true, Retire: true, To: "mem://moved"})
	if err != nil || !r.Final || r.Copied == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, _, err := startAgent(t, store.Open("b"), old); err == nil || !strings.Contains(err.Error(), "moved to mem://moved") {
		t.Fatalf("an agent with the old address: %v", err)
	}
	if err := old.Close(); err != nil { // nothing of it is needed
		t.Fatal(err)
	}
	clone := mem.New() // of the copy as it is now
	if _, err := run(t, moved, clone, bucketcopy.Options{Final: true}); err != nil {
		t.Fatal(err)
	}
	address, stop, err = startAgent(t, store.Open("a"), moved)
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, address, want)
	more := map[string]bool{}
	for record := range want {
		more[record] = true
	}
	produce(t, address, 60, 70, more)
	wantAll(t, address, more)
	stop()

	other := memlog.NewStore(memlog.Config{Empty: true})
	t.Cleanup(func() { _ = other.Close() })
	l := other.Open("a")
	founder, ok := log.FounderOf(l)
	if !ok {
		t.Fatal("a log in memory cannot be restored to")
	}
	if _, err := metastore.Restore(t.Context(), founder, clone, metastore.RestoreOptions{EtcdIsLost: true}); err != nil {
		t.Fatal(err)
	}
	address, _, err = startAgent(t, l, clone)
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, address, want)
}
