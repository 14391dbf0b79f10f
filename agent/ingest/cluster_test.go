package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/faulty"
	"github.com/firnlog/firn/objstore/mem"
)

// agent is a real metastore client with an ingest pipeline and a read path.
type agent struct {
	meta   *metastore.Client
	ingest *ingest.Pipeline
	reader *fetch.Reader
}

// Two agents over a bad log and a bad bucket, and idempotent producers that move between them and send again what is not
// answered. Every record is there once, in order, at the offset that was answered, and both agents serve it.
func TestExactlyOnceUnderFaults(t *testing.T) {
	seen := make(map[string]float64)
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) { exactlyOnce(t, seed, seen) })
		})
	}
	for _, name := range []string{"parked_batches", "upload_retries", "spilled_bytes", "stale_segments"} {
		if seen["firn_ingest_"+name+"_total"] == 0 {
			t.Errorf("%s: never happened, so the test no longer covers it", name)
		}
	}
	t.Log(seen)
}

// gather adds a registry's counters to seen.
func gather(t *testing.T, reg *prometheus.Registry, seen map[string]float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			seen[f.GetName()] += m.GetCounter().GetValue()
			if left := m.GetGauge().GetValue(); left != 0 && !strings.Contains(f.GetName(), "_limit_") {
				t.Errorf("%s is %v when all is answered", f.GetName(), left)
			}
		}
	}
}

func exactlyOnce(t *testing.T, seed uint64, seen map[string]float64) {
	rng := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }
	store := memlog.NewStore(memlog.Config{Rand: rng(1)})
	defer store.Close()
	inner := mem.New()
	var agents []agent
	for i := range 2 {
		var key [32]byte
		key[0], key[1] = byte(seed), byte(i)
		l := store.Open(fmt.Sprint("agent-", i))
		meta, err := metastore.Open(t.Context(), metastore.Config{
			Name: fmt.Sprint("agent-", i), Listeners: []entry.Listener{{Name: "x", Host: "h", Port: 1}}, Rand: rand.NewChaCha8(key),
		}, l, inner)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		defer func() { _ = meta.Close(context.Background()) }()
		bad, err := faulty.New(keepOpen{inner}, rng(uint64(10+i)), faulty.Config{
			Slow: 0.5, SlowMax: 300 * time.Millisecond, Unavailable: 0.1, Ambiguous: 0.2, Late: 0.1, LateMax: 3 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = bad.Close() }()
		cache, err := fetch.NewCache(fetch.Config{Bytes: 20_000}, bad)
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		reg := prometheus.NewRegistry()
		defer gather(t, reg, seen)
		p, err := ingest.New(ingest.Config{
			Metrics:     ingest.NewMetrics(reg),
			TargetBytes: 500, MemoryBytes: 800, FlushInterval: 20 * time.Millisecond, OpBytes: 400, Rand: rng(uint64(20 + i)),
		}, meta, bad, newDisk(8000), cache)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		agents = append(agents, agent{meta, p, fetch.NewReader(meta, cache)})
	}
	topic := entry.UUID{0xaa}
	if r, err := agents[0].meta.Propose(t.Context(), &entry.CreateTopic{Name: "t", ID: topic, Partitions: 2}); err != nil || r.Code != state.OK {
		t.Fatal(r.Code, err)
	}
	store.SetFaults(memlog.Faults{
		Ambiguous: 0.1, Dropped: 0.05, Late: 0.02, LatencyMax: 10 * time.Millisecond, WatchRepeat: 0.05, WatchLate: 0.02, WatchEnd: 0.02,
	})
	var wg sync.WaitGroup
	const producers, each = 4, 60
	answered := make([][]int64, producers)
	for k := range producers {
		x := producer{topic: topic, partition: int32(k % 2), id: int64(100 + k)}
		r := rng(uint64(30 + k))
		wg.Go(func() { answered[k] = send(t, agents, &x, each, r) })
	}
	go func() { // the collection epoch moves on while things are slow
		for i := range uint64(30) {
			time.Sleep(200 * time.Millisecond)
			_, _ = agents[1].meta.Propose(t.Context(), &entry.BumpCollectionEpoch{From: i + 1}) // fails where the test is over
		}
	}()
	wg.Wait()
	store.SetFaults(memlog.Faults{})
	for _, a := range agents {
		if err := a.ingest.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		for partition := range int32(2) {
			check(t, a, topic, partition, answered)
		}
	}
}

// keepOpen is a bucket that several own.
type keepOpen struct{ *mem.Bucket }

func (keepOpen) Close() error { return nil }

// send produces n batches in order, up to five in flight, each through the agent of the moment. It returns their offsets.
func send(t *testing.T, agents []agent, x *producer, n int, r *rand.Rand) []int64 {
	offsets := make([]int64, 0, n)
	at := 0
	for len(offsets) < n {
		if r.IntN(8) == 0 {
			at = 1 - at
		}
		var window []*staged
		inFlight := min(1+r.IntN(5), n-len(offsets))
		if len(offsets) == 0 { // any sequence is accepted of a producer that is not known yet
			inFlight = 1
		}
		for i := range inFlight {
			x.next = int32(len(offsets) + i)
			to := agents[at]
			if r.IntN(10) == 0 { // overtaken by, or overtaking, what goes another way
				to = agents[1-at]
			}
			window = append(window, stage(t, to.ingest, x.part(t, fmt.Sprint(x.id, "-", x.next))))
		}
		for _, s := range window {
			<-s.done
			part := s.parts[0]
			switch {
			case part.Err != nil && !errors.Is(part.Err, ingest.ErrClosed):
				t.Errorf("producer %d: %v", x.id, part.Err)
				return offsets
			case part.Code == state.OK:
				offsets = append(offsets, part.BaseOffset)
				continue
			case part.Code != state.OutOfOrderSequence:
				t.Errorf("producer %d: %v", x.id, part.Code)
				return offsets
			}
			break // sent again, with all behind it
		}
		for _, s := range window {
			<-s.done
		}
	}
	return offsets
}

// check reads a partition through an agent and compares it with what was answered.
func check(t *testing.T, a agent, topic entry.UUID, partition int32, answered [][]int64) {
	t.Helper()
	if err := a.meta.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make([][]int64, len(answered))
	for offset := int64(0); ; {
		dst, res, err := a.reader.Read(t.Context(), topic, partition, offset, 3000, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		for s := batch.Split(dst); s.Next(); {
			h := s.Header()
			if err := batch.Records(s.Raw(), batch.Limits{}, func(rec batch.Record) error {
				k := int(h.ProducerID - 100)
				if want := fmt.Sprint(h.ProducerID, "-", len(got[k])); string(rec.Value) != want {
					return fmt.Errorf("offset %d holds %s, want %s", h.BaseOffset, rec.Value, want)
				}
				got[k] = append(got[k], h.BaseOffset)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if offset = res.NextOffset; offset == res.HighWatermark {
			break
		}
	}
	for k := range answered {
		if int32(k%2) == partition && !slices.Equal(got[k], answered[k]) {
			t.Fatalf("producer %d was answered %v, the log has %v", 100+k, answered[k], got[k])
		}
	}
}
