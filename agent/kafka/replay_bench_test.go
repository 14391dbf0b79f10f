package kafka_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/merge"
	rewriting "github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

// distant is a bucket in memory as far away as one at a cloud: a GET takes a time to begin, and more for its bytes.
type distant struct {
	objstore.Bucket
	on          atomic.Bool // else at once, and not counted
	latency     time.Duration
	bytesPerSec float64
	gets, bytes atomic.Int64
}

func (d *distant) Get(ctx context.Context, key string) ([]byte, error) {
	body, err := d.Bucket.Get(ctx, key)
	return d.away(ctx, body, err)
}

func (d *distant) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	body, err := d.Bucket.GetRange(ctx, key, position, size)
	return d.away(ctx, body, err)
}

func (d *distant) away(ctx context.Context, body []byte, err error) ([]byte, error) {
	if !d.on.Load() || err != nil {
		return body, err
	}
	d.gets.Add(1)
	d.bytes.Add(int64(len(body)))
	t := time.NewTimer(d.latency + time.Duration(float64(len(body))/d.bytesPerSec*float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
		return body, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", objstore.ErrUnavailable, context.Cause(ctx))
	}
}

// BenchmarkColdReplay reads a topic from its start through an agent that has nothing in memory, over the protocol, from a bucket whose GETs
// take 30 ms and a second for 100 MB: as it was flushed, and then merged. Beside MB/s it tells the GETs and the bytes got for each MiB read.
// Run it with -benchtime 3x.
func BenchmarkColdReplay(b *testing.B) {
	for _, c := range []struct{ partitions, others int }{{1, 0}, {12, 0}, {12, 3}, {100, 0}} {
		b.Run(fmt.Sprintf("partitions=%d/others=%d", c.partitions, c.others), func(b *testing.B) {
			const bytes = 192 << 20 // of the topic
			store := memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(1, 2))})
			b.Cleanup(func() { _ = store.Close() })
			bucket := &distant{Bucket: mem.New(), latency: 30 * time.Millisecond, bytesPerSec: 100e6}
			writer := startStackWith(b, store, bucket, "writer", ingest.Config{FlushInterval: 250 * time.Millisecond}, fetch.Config{})
			produced := make(chan error, 1+c.others)
			for i := range 1 + c.others {
				topic := "t"
				if i > 0 {
					topic = fmt.Sprint("other-", i)
				}
				cl := kclient(b, []*stack{writer}, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(20*time.Millisecond), kgo.BrokerMaxWriteBytes(16<<20),
					kgo.RecordPartitioner(kgo.ManualPartitioner()))
				createTopic(b, cl, topic, int32(c.partitions), nil)
				go func() { produced <- produceNoise(cl, topic, c.partitions, bytes) }()
			}
			for range 1 + c.others {
				if err := <-produced; err != nil {
					b.Fatal(err)
				}
			}
			replays := 0
			replay := func(b *testing.B) {
				b.SetBytes(bytes)
				bucket.gets.Store(0)
				bucket.bytes.Store(0)
				for range b.N {
					b.StopTimer()
					replays++
					reader := startStack(b, store, bucket, fmt.Sprint("reader-", replays))
					consumer := kclient(b, []*stack{reader}, kgo.ConsumeTopics("t"), kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, network, reader.addr)
					}))
					b.StartTimer()
					bucket.on.Store(true)
					for n := 0; n < bytes>>10; {
						fetches := consumer.PollFetches(b.Context())
						if err := fetches.Err(); err != nil {
							b.Fatal(err)
						}
						n += fetches.NumRecords()
					}
					bucket.on.Store(false)
					b.StopTimer()
					consumer.Close()
					b.StartTimer()
				}
				b.ReportMetric(float64(bucket.gets.Load())/float64(b.N)/(bytes>>20), "GETs/MiB")
				b.ReportMetric(float64(bucket.bytes.Load())/float64(b.N)/bytes, "got/read")
			}
			b.Run("flushed", replay)
			mergeAll(b, writer, bucket)
			b.Run("merged", replay)
		})
	}
}

// mergeAll merges what there is to merge.
func mergeAll(b testing.TB, a *stack, bucket objstore.Bucket) {
	b.Helper()
	mergeAllInChunks(b, a, bucket, 0)
}

func mergeAllInChunks(b testing.TB, a *stack, bucket objstore.Bucket, chunk int) {
	b.Helper()
	now := time.Now()
	env, err := rewriting.New(rewriting.Config{ChunkBytes: chunk}, rewriting.Deps{Meta: a.meta, Bucket: bucket, Scratch: duty.InMemory(4 << 30)})
	if err != nil {
		b.Fatal(err)
	}
	m, err := merge.New(merge.Config{}, merge.Deps{Env: env, Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	for idle := 0; idle < 3; {
		worked, err := m.Step(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if !worked {
			idle++
			now = now.Add(2 * time.Hour)
		}
	}
	flushed := 0
	a.meta.View(func(st *state.State) {
		for o := range st.ObjectTable() {
			if !o.ID.Merged() {
				flushed++
			}
		}
	})
	if flushed > 0 {
		b.Fatalf("%d objects were not merged", flushed)
	}
}

// produceNoise produces records of 1 KiB that do not shrink, to all partitions in turn.
func produceNoise(cl *kgo.Client, topic string, partitions, bytes int) error {
	ctx, fail := context.WithCancelCause(context.Background())
	defer fail(nil)
	noise := rand.NewChaCha8([32]byte{1})
	for i := range bytes >> 10 {
		value := make([]byte, 1<<10)
		_, _ = noise.Read(value)
		cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(i % partitions), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				fail(err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return context.Cause(ctx)
	}
	return nil
}
