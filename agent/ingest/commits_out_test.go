package ingest_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/localstack/faketime"
)

// gaugeOf reads a gauge.
func gaugeOf(t *testing.T, reg *prometheus.Registry, name string) int64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return int64(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// While nothing commits the bucket may be well: segments that were uploaded wait in memory. What was spilled must then stay in the
// spill until there is room, or an outage of etcd fills memory as fast as the bucket takes uploads.
func TestWhileNothingCommitsWhatWasSpilledStaysThere(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		const memory, target, slots, size, spill = 10_000, 4000, 4, 970, 40_000
		c := newCluster(t)
		m, bucket, d, reg := c.join(1), newStore(), newDisk(spill), prometheus.NewRegistry()
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{TargetBytes: target, MemoryBytes: memory, UploadSlots: slots, Metrics: ingest.NewMetrics(reg)}, m, bucket, d)
		x := producer{topic: topic, id: 3}
		m.hold()
		var want []string
		var all []*staged
		var mu sync.Mutex
		taken := 0
		finished := make(chan struct{})
		go func() { // one connection
			defer close(finished)
			for i := range 300 {
				v := fmt.Sprintf("%0900d", i)
				s := stage(t, p, x.part(t, v))
				mu.Lock()
				all, want, taken = append(all, s), append(want, v), taken+1
				mu.Unlock()
			}
		}()
		time.Sleep(time.Minute) // of the bubble
		faketime.Wait()
		mu.Lock()
		if most := (memory + slots*(target+size) + spill) / 900; taken > most {
			t.Errorf("%d batches were taken in while nothing commits, want at most %d", taken, most)
		}
		mu.Unlock()
		if resident := gaugeOf(t, reg, "firn_ingest_resident_bytes"); resident > memory+slots*(target+size) {
			t.Errorf("%d bytes in memory, the bound is %d", resident, memory+slots*(target+size))
		}
		m.release()
		<-finished
		for i, s := range all {
			if got := s.offset(t); got != int64(i) {
				t.Fatalf("batch %d is at offset %d", i, got)
			}
		}
		if got := c.values(bucket.Bucket, topic, 0); !slices.Equal(got, want) {
			t.Errorf("%d records in the log, want %d in order", len(got), len(want))
		}
		if left := gaugeOf(t, reg, "firn_ingest_resident_bytes"); left != 0 || d.inUse() != 0 {
			t.Errorf("%d bytes in memory and %d in the spill when all is answered", left, d.inUse())
		}
	})
}
