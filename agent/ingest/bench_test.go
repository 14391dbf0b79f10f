package ingest_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/segment"
)

// discard is a bucket that takes everything at once.
type discard struct{ objstore.Bucket }

func (discard) Put(context.Context, string, []byte, objstore.PutOptions) error { return nil }

// BenchmarkStage measures staging to answer with nothing slow below: the pipeline's own cost, and Apply's. One op is one
// batch; a request has 8, each for another partition.
func BenchmarkStage(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("batch=%dKiB", size>>10), func(b *testing.B) {
			c := newCluster(b)
			m := c.join(1)
			topic := m.createTopic("t", 8)
			m.forgetOps()
			p, err := ingest.New(ingest.Config{}, m, discard{}, nil, nothing{})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			type request struct {
				parts []*ingest.Part
				raw   [][]byte
				done  chan struct{}
			}
			idle := make(chan *request, 64)
			for range cap(idle) {
				r := &request{done: make(chan struct{}, 1)}
				for i := range 8 {
					x := producer{topic: topic, partition: int32(i), id: -1}
					part := x.part(b, string(make([]byte, size)))
					r.parts, r.raw = append(r.parts, part), append(r.raw, part.Records)
				}
				idle <- r
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N/8 + 1 {
				r := <-idle
				for i, part := range r.parts {
					part.Records = r.raw[i]
				}
				if err := p.Stage(context.Background(), r.parts, func() { idle <- r }); err != nil {
					b.Fatal(err)
				}
			}
			for range cap(idle) {
				<-idle
			}
		})
	}
}

// nothing is a Sink that keeps nothing.
type nothing struct{}

func (nothing) Put(entry.ObjectID, []byte, *segment.Footer) {}

// What the flush policy costs and gives, on fake time: producers that each wait for their answer, uploads of 30 ms, commits
// of 3 ms. The package doc quotes the numbers.
func TestFlushPolicy(t *testing.T) {
	const upload, commit = 30 * time.Millisecond, 3 * time.Millisecond
	for _, c := range []struct{ producers, eager int }{{1, 1}, {8, 1}, {64, 1}, {8, 4}} {
		producers, eager := c.producers, c.eager
		faketime.Test(t, func(t *testing.T) {
			const each = 100
			c := newCluster(t)
			m, bucket := c.join(1), newStore()
			m.latency(commit)
			bucket.before = slow(upload)
			topic := m.createTopic("t", 16)
			p := open(t, ingest.Config{EagerUploads: eager}, m, bucket, nil)
			start, latency := time.Now(), time.Duration(0)
			var wg sync.WaitGroup
			var mu sync.Mutex
			for k := range producers {
				x := producer{topic: topic, partition: int32(k % 16), id: -1}
				wg.Go(func() {
					for range each {
						at := time.Now()
						stage(t, p, x.part(t, "v")).offset(t)
						mu.Lock()
						latency += time.Since(at)
						mu.Unlock()
						time.Sleep(time.Duration(k+1) * time.Millisecond / 4)
					}
				})
			}
			wg.Wait()
			rate := float64(len(bucket.puts())) / time.Since(start).Seconds()
			mean := latency / time.Duration(each*producers)
			t.Logf("%d producers, %d eager: %.0f objects/s, %v a batch", producers, eager, rate, mean)
			if rate > float64(eager)*(float64(time.Second/upload)+1) {
				t.Errorf("%d producers: %.0f objects a second: more than %d uploads at a time", producers, rate, eager)
			}
			if mean > 2*upload+2*commit {
				t.Errorf("%d producers: %v a batch", producers, mean)
			}
		})
	}
}
