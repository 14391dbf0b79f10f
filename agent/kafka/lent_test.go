package kafka_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/mem"
)

// fetchFigure is one of the read path's.
func fetchFigure(t testing.TB, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "firn_fetch_"+name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// mergedTopic is a topic of 1.9 MB in batches of 100 kB in partition 0, as much again in 1, one batch in 2, a few small ones in 3 and one more that is not merged yet.
func mergedTopic(t testing.TB, tune ...func(*kafka.Config)) (reader *stack, reg *prometheus.Registry, id entry.UUID, values [4][]string) {
	t.Helper()
	store := memlog.NewStore(memlog.Config{Rand: rand.New(rand.NewPCG(1, 2))})
	t.Cleanup(func() { _ = store.Close() })
	bucket := mem.New()
	writer := startStack(t, store, bucket, "writer")
	cl := kclient(t, []*stack{writer}, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	createTopic(t, cl, "t", 4, nil)
	produce := func(partition, size int) {
		value := fmt.Sprintf("%0*d", size, len(values[partition]))
		values[partition] = append(values[partition], value)
		if err := cl.ProduceSync(context.Background(), &kgo.Record{Topic: "t", Partition: int32(partition), Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for range 19 {
		produce(0, 100_000)
		produce(1, 100_000)
	}
	produce(2, 100_000)
	for range 3 {
		produce(3, 100)
	}
	mergeAll(t, writer, bucket)
	produce(3, 100)
	reg = prometheus.NewRegistry()
	reader = startStackWith(t, store, bucket, "reader", ingest.Config{}, fetch.Config{WholeBytes: 1 << 20, RunBytes: 500_000, Metrics: fetch.NewMetrics(reg)}, tune...)
	if err := reader.meta.Barrier(context.Background()); err != nil {
		t.Fatal(err)
	}
	reader.meta.View(func(st *state.State) { id = st.TopicByName("t").ID })
	return reader, reg, id, values
}

// Records of a merged topic go out from the cache. Answers are what they were, whatever is lent of them, in every version, and where the length of
// the records takes another number of bytes than room was left for.
func TestLentRecordsInEveryVersion(t *testing.T) {
	reader, reg, id, values := mergedTopic(t)
	c := dial(t, reader.server)
	for _, version := range []int16{4, 5, 7, 11, 12, 13, 17} {
		for _, most := range []int32{1000, 150_000, 4 << 20} { // a batch that is larger, some, all
			req := fetchRequest(version, "t", id, 0, 0)
			req.MaxBytes = 16 << 20
			req.MaxWaitMillis = 10_000
			req.Topics[0].Partitions[0].PartitionMaxBytes = most
			for k := int32(1); k < 4; k++ {
				p := req.Topics[0].Partitions[0]
				p.Partition = k
				req.Topics[0].Partitions = append(req.Topics[0].Partitions, p)
			}
			var next [4]int64
			var got [4][]string
			for rounds := 0; rounds < 200; rounds++ { // replays answer what is in memory, and read the rest ahead
				for k := range next {
					req.Topics[0].Partitions[k].FetchOffset = next[k]
				}
				res := ask[*kmsg.FetchResponse](c, req)
				done := 0
				for _, p := range res.Topics[0].Partitions {
					if p.ErrorCode != 0 {
						t.Fatalf("version %d, partition %d: code %d", version, p.Partition, p.ErrorCode)
					}
					read, to := valuesOf(t, p.RecordBatches, next[p.Partition])
					got[p.Partition] = append(got[p.Partition], read...)
					if next[p.Partition] = to; to == p.HighWatermark {
						done++
					}
				}
				if done == len(next) {
					break
				}
			}
			for k := range got {
				if !slices.Equal(got[k], values[k]) {
					t.Fatalf("version %d, %d bytes at most, partition %d: %d records, want %d", version, most, k, len(got[k]), len(values[k]))
				}
			}
		}
	}
	if n := fetchFigure(t, reg, "lent_bytes_total"); n < 7*3*3.8e6 {
		t.Errorf("%.0f bytes were lent", n)
	}
}

// Over TCP what is lent and what is not goes out together, also behind a load balancer that speaks the PROXY protocol.
func TestLentRecordsOverTCP(t *testing.T) {
	for _, trusted := range []string{"", "127.0.0.1"} {
		t.Run("trusted="+trusted, func(t *testing.T) {
			reader, reg, _, values := mergedTopic(t, func(cfg *kafka.Config) {
				if trusted != "" {
					prefix, err := kafka.ParsePrefix(trusted)
					if err != nil {
						t.Fatal(err)
					}
					cfg.TrustedProxies = append(cfg.TrustedProxies, prefix)
				}
			})
			consumer := kclient(t, []*stack{reader}, kgo.ConsumeTopics("t"), kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, reader.addr)
			}))
			var got [4][]string
			for n := 0; n < len(values[0])+len(values[1])+len(values[2])+len(values[3]); {
				fetches := consumer.PollFetches(t.Context())
				if err := fetches.Err(); err != nil {
					t.Fatal(err)
				}
				fetches.EachRecord(func(r *kgo.Record) { got[r.Partition] = append(got[r.Partition], string(r.Value)); n++ })
			}
			for k := range got {
				if !slices.Equal(got[k], values[k]) {
					t.Errorf("partition %d: %d records, want %d", k, len(got[k]), len(values[k]))
				}
			}
			if n := fetchFigure(t, reg, "lent_bytes_total"); n < 3.8e6 {
				t.Errorf("%.0f bytes were lent", n)
			}
		})
	}
}

// Loans end when an answer has gone out, and where the client goes without taking it.
func TestLoansEndWithTheAnswer(t *testing.T) {
	reader, reg, id, _ := mergedTopic(t)
	ended := func() {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); fetchFigure(t, reg, "lent_bytes") > 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%.0f bytes are still lent", fetchFigure(t, reg, "lent_bytes"))
			}
		}
	}
	c := dial(t, reader.server)
	if p := only(t, ask[*kmsg.FetchResponse](c, fetchRequest(12, "t", id, 0, 0))); len(p.RecordBatches) < 100_000 {
		t.Fatalf("%d bytes", len(p.RecordBatches))
	}
	ended()
	for range 3 {
		c.send(fetchRequest(12, "t", id, 1, 0))
	}
	for deadline := time.Now().Add(time.Minute); fetchFigure(t, reg, "lent_bytes") == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is lent")
		}
	}
	c.close()
	ended()
}
