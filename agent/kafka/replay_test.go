package kafka_test

import (
	"context"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/objstore/mem"
)

// A consumer of more partitions than runs of a merged object fit into memory takes little of each at a time, and still each run is got
// about once: partitions take turns by run.
func TestAConsumerOfManyPartitionsGetsEachRunOnce(t *testing.T) {
	const partitions, bytes, run = 24, 24 << 16, 100_000
	store := memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(1, 2))})
	t.Cleanup(func() { _ = store.Close() })
	bucket := &distant{Bucket: mem.New(), latency: time.Millisecond, bytesPerSec: 1e9}
	writer := startStackWith(t, store, bucket, "writer", ingest.Config{FlushInterval: 50 * time.Millisecond}, fetch.Config{})
	cl := kclient(t, []*stack{writer}, kgo.ProducerBatchMaxBytes(4<<10), kgo.ProducerLinger(10*time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	createTopic(t, cl, "t", partitions, nil)
	if err := produceNoise(cl, "t", partitions, bytes); err != nil {
		t.Fatal(err)
	}
	mergeAllInChunks(t, writer, bucket, 4<<10)
	reader := startStackWith(t, store, bucket, "reader", ingest.Config{}, fetch.Config{WholeBytes: 1, RunBytes: run, Bytes: 8 * run})
	consumer := kclient(t, []*stack{reader}, kgo.ConsumeTopics("t"), kgo.FetchMaxPartitionBytes(6<<10), kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, reader.addr)
	}))
	bucket.on.Store(true)
	next := make(map[int32]int64)
	for n := 0; n < bytes>>10; {
		fetches := consumer.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset != next[r.Partition] {
				t.Errorf("partition %d: offset %d where %d comes next", r.Partition, r.Offset, next[r.Partition])
			}
			next[r.Partition]++
			n++
		})
	}
	runs := int64(bytes/run + 1)
	if n := bucket.gets.Load(); n > 2*runs+4 {
		t.Errorf("%d GETs of %d runs", n, runs)
	} else {
		t.Logf("%d GETs of %d runs", n, runs)
	}
}
