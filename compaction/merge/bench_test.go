package merge_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/merge"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/compaction/rewrite/rewritetest"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/file"
	"github.com/firnlog/firn/objstore/segment"
)

// BenchmarkWindow merges windows of 32 objects of 8 MiB: 16 KiB batches of 20 topics with 8 partitions each. Scratch space is a disk.
func BenchmarkWindow(b *testing.B) {
	for _, store := range []string{"mem", "file"} {
		for _, compress := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/compressed=%v", store, compress), func(b *testing.B) {
				k := rewritetest.New(b, 1)
				var bucket objstore.Bucket = k.Bucket
				if store == "file" {
					f, err := file.Open(b.TempDir())
					if err != nil {
						b.Fatal(err)
					}
					b.Cleanup(func() { _ = f.Close() })
					bucket = f
				}
				var topics []entry.UUID
				for i := range 20 {
					topics = append(topics, k.Topic(fmt.Sprint("t", i), 8))
				}
				const objects, perPartition, batchBytes = 32, 3, 16 << 10
				now := time.Unix(1_700_000_000, 0)
				reg := prometheus.NewRegistry()
				env := k.Env(rewrite.Config{Compress: compress}, func(d *rewrite.Deps) {
					d.Bucket, d.Scratch, d.Metrics = bucket, duty.InDir(b.TempDir(), 2<<30), rewrite.NewMetrics(reg)
				})
				m, err := merge.New(merge.Config{}, merge.Deps{Env: env, Now: func() time.Time { return now }})
				if err != nil {
					b.Fatal(err)
				}
				raw := k.Batch(batchBytes)
				var batches []rewritetest.Flushed
				for _, topic := range topics {
					for p := range int32(8) {
						for range perPartition {
							batches = append(batches, rewritetest.Flushed{Topic: topic, Partition: p, Raw: raw})
						}
					}
				}
				b.SetBytes(int64(objects * len(batches) * len(raw)))
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					b.StopTimer()
					for range objects {
						op := k.Upload(segment.Options{Compress: compress}, batches...)
						if store == "file" {
							body, err := k.Bucket.Get(b.Context(), op.Object.Key())
							if err != nil {
								b.Fatal(err)
							}
							if err := bucket.Put(b.Context(), op.Object.Key(), body, objstore.PutOptions{}); err != nil {
								b.Fatal(err)
							}
							_ = k.Bucket.Delete(b.Context(), op.Object.Key())
						}
						k.Propose(op)
					}
					b.StartTimer()
					for range 2 { // what is not closed is merged once it is old enough
						for worked := true; worked; {
							var err error
							if worked, err = m.Step(b.Context()); err != nil {
								b.Fatal(err)
							}
						}
						now = now.Add(2 * time.Hour)
					}
				}
				b.ReportMetric(float64(objects*len(batches)), "batches/op")
			})
		}
	}
}
