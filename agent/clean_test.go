package agent_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/metastore/state"
)

// TestCompactedTopics writes some thousand updates of a few keys with an ordinary client, and reads back the newest of each.
func TestCompactedTopics(t *testing.T) {
	n := start(t, func(s *setup) {
		s.cfg.MergeAfter, s.cfg.MergeRescan, s.cfg.KeyInterval = time.Second, 10*time.Millisecond, 100*time.Millisecond
		s.cfg.MergeWindowMin, s.cfg.MergeWindowMax = 64<<10, 64<<10
		s.cfg.LevelPatience = time.Second
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, policy := range []string{"compact", "compact,delete"} {
		t.Run(policy, func(t *testing.T) {
			topic := "table-" + policy[len(policy)-3:]
			value := func(v string) *string { return &v }
			r, err := kadm.NewClient(cl).CreateTopic(ctx, 2, 1, map[string]*string{
				"cleanup.policy": &policy, "min.cleanable.dirty.ratio": value("0"), "delete.retention.ms": value("3600000"), "retention.ms": value("86400000"),
			}, topic)
			if err != nil || r.Err != nil {
				t.Fatal(err, r.Err)
			}
			newest := make(map[string]string)
			sent := make(map[int64]*kgo.Record)
			const updates, keys = 4000, 40
			for i := range updates {
				key := fmt.Sprint("key-", i*7%keys)
				rec := &kgo.Record{
					Topic: topic, Partition: int32(i % 2), Key: []byte(key), Value: fmt.Append(nil, "value ", i), Timestamp: time.UnixMilli(time.Now().UnixMilli() - 1000),
					Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, i)}},
				}
				if i >= updates-keys && i%5 == 0 { // the last word on some keys is that they are gone
					rec.Value = nil
				}
				newest[key] = string(rec.Value)
				if i%20 == 19 { // small batches, of which some lie in the same flush
					if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
						t.Fatal(err)
					}
				} else {
					cl.Produce(ctx, rec, nil)
				}
				sent[int64(i)] = rec
			}
			if err := cl.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			// What is young is not merged, and what is not merged is left alone. So something is said now and then until all has been cleaned.
			marks := 0
			for !n.cleaned(topic, 2, updates/2) {
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
					t.Fatalf("updates are left: %s", n.describe(topic))
				}
				marks++
				for p := range int32(2) {
					if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: p, Key: []byte("mark"), Value: fmt.Append(nil, marks)}).FirstErr(); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, from := range []int64{0, 1, 777, updates/2 - 1} { // in gaps, too
				got := n.table(ctx, t, topic, 2, from, func(r *kgo.Record) {
					was := sent[int64(number(t, r))]
					if r.Offset >= updates/2 || !r.Timestamp.Equal(was.Timestamp) || string(r.Key) != string(was.Key) || string(r.Value) != string(was.Value) || r.Offset != was.Offset {
						t.Errorf("%v is not what was sent: %v", r, was)
					}
				})
				if from == 0 && !maps.Equal(got, newest) {
					t.Errorf("read %v, want %v", got, newest)
				}
			}
		})
	}
}

// number is the number of a record that the test sent.
func number(t *testing.T, r *kgo.Record) (n int) {
	t.Helper()
	if len(r.Headers) != 1 {
		t.Fatalf("%v has no header", r)
	}
	if _, err := fmt.Sscan(string(r.Headers[0].Value), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// cleaned reports whether everything below an offset has been cleaned in every partition.
func (n *node) cleaned(topic string, partitions int32, end int64) bool {
	all := true
	n.rows(topic, func(rows []state.Row) {
		at := 0
		for at < len(rows) && rows[at].Cleaned {
			at++
		}
		all = all && at > 0 && rows[at-1].End >= end
	})
	return all
}

func (n *node) rows(topic string, look func([]state.Row)) {
	n.View(func(st *state.State) {
		for t := range st.Topics() {
			for i := 0; t.Name == topic && i < t.Partitions(); i++ {
				look(t.Partition(i).Rows(0, 1<<20, nil))
			}
		}
	})
}

func (n *node) describe(topic string) (s string) {
	n.rows(topic, func(rows []state.Row) { s += fmt.Sprintf("%+v\n", rows) })
	return s
}

// table reads all partitions of a topic from an offset on, up to its marks, and returns keys and their last values.
func (n *node) table(ctx context.Context, t *testing.T, topic string, partitions int32, from int64, see func(*kgo.Record)) map[string]string {
	t.Helper()
	offsets := make(map[int32]kgo.Offset)
	for p := range partitions {
		offsets[p] = kgo.NewOffset().At(from)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	got, done := make(map[string]string), make(map[int32]bool)
	seen := make(map[string][]int64)
	for len(done) < int(partitions) {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		fetches.EachError(func(_ string, p int32, err error) { t.Errorf("partition %d: %v", p, err) })
		fetches.EachRecord(func(r *kgo.Record) {
			if string(r.Key) == "mark" {
				done[r.Partition] = true
				return
			}
			see(r)
			got[string(r.Key)] = string(r.Value)
			seen[string(r.Key)] = append(seen[string(r.Key)], r.Offset)
		})
	}
	for key, offsets := range seen {
		if len(offsets) > 1 {
			t.Errorf("%s comes at %v", key, slices.Sorted(slices.Values(offsets)))
		}
	}
	return got
}
