package gc_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/gc"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
)

// listed is a bucket of very many keys, of which only the listing is there.
type listed struct {
	objstore.Bucket
	infos  []objstore.Info // ascending
	lists  int
	others int
}

func (b *listed) List(_ context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	b.lists++
	from := sort.Search(len(b.infos), func(i int) bool { return b.infos[i].Key >= prefix && b.infos[i].Key > after })
	to := from
	for to < len(b.infos) && to-from < limit && strings.HasPrefix(b.infos[to].Key, prefix) {
		to++
	}
	return b.infos[from:to], nil
}

func (b *listed) Delete(_ context.Context, keys ...string) error {
	b.others++
	for _, key := range keys {
		if i, found := slices.BinarySearchFunc(b.infos, key, func(o objstore.Info, key string) int { return strings.Compare(o.Key, key) }); found {
			b.infos[i].Size = -1
		}
	}
	return nil
}

// BenchmarkSweep is what a sweep takes beside the time of the store.
func BenchmarkSweep(b *testing.B) {
	for _, objects := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("objects=%d", objects), func(b *testing.B) {
			w := newWorld(b)
			bucket := &listed{Bucket: w.bucket}
			var ops []entry.Op
			for i := range objects {
				id := entry.ObjectID{Incarnation: [16]byte{1, byte(i), byte(i >> 8)}, Seq: uint64(i + 1), CollectionEpoch: 1}
				bucket.infos = append(bucket.infos, objstore.Info{Key: id.Key(), Size: objectSize})
				if i%100 == 0 { // one in a hundred is an orphan
					continue
				}
				if ops = append(ops, appendOf(id, topicA, uint32(i%2))); len(ops) == 1000 || i == objects-1 {
					w.ok(ops...)
					w.entries[len(w.entries)-1] = nil
					ops = ops[:0]
				}
			}
			w.ok(ops...)
			w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
			slices.SortFunc(bucket.infos, func(a, b objstore.Info) int { return strings.Compare(a.Key, b.Key) })
			w.archiveAll()
			heap := func() uint64 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			for b.Loop() {
				b.StopTimer()
				bucket.lists, bucket.others = 0, 0
				r := &replica{w: w, st: w.head, epoch: w.epoch}
				t, err := gc.New(gc.Config{ScrubBytesPerSecond: -1}, gc.Deps{
					Meta: r, Cells: w, Bucket: bucket, Steady: func() time.Duration { return w.steady },
				})
				if err != nil {
					b.Fatal(err)
				}
				before := heap()
				step := func() bool {
					worked, err := t.Step(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					return worked
				}
				step()
				w.steady += 2 * time.Hour
				var held uint64
				var longest time.Duration
				b.StartTimer()
				for n := 0; ; n++ {
					began := time.Now()
					worked := step()
					longest = max(longest, time.Since(began))
					if !worked {
						break
					}
					if n == objects/2000 {
						b.StopTimer()
						held = heap() - before
						b.StartTimer()
					}
				}
				b.ReportMetric(float64(bucket.lists), "lists")
				b.ReportMetric(float64(bucket.others), "deletes")
				b.ReportMetric(float64(held)/float64(objects), "B/object")
				b.ReportMetric(float64(longest.Milliseconds()), "ms-longest-step")
			}
		})
	}
}
