package retention_test

import (
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/retention"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// timed is an agent that measures how long the state's lock is held.
type timed struct {
	agent
	held, times time.Duration
}

func (t *timed) View(fn func(*state.State)) {
	began := time.Now()
	t.agent.View(fn)
	t.held += time.Since(began)
	t.times++
}

// BenchmarkPass looks at 100 000 partitions of 1000 topics with a row each, of which nothing is due.
func BenchmarkPass(b *testing.B) {
	c := newCluster(b, 3)
	for i := range 1000 {
		id := entry.UUID{byte(i), byte(i >> 8), 1}
		c.ok(1, &entry.CreateTopic{Name: "t" + string(rune('a'+i%26)) + time.Duration(i).String(), ID: id, Partitions: 100, Configs: configs("retention.ms", "86400000")})
		op := &entry.Append{Object: entry.ObjectID{Incarnation: [16]byte{1}, Seq: uint64(i + 1), CollectionEpoch: 1}, ObjectSize: 1000}
		for p := range uint32(100) {
			op.Blocks = append(op.Blocks, entry.Block{Topic: id, Partition: p, Index: p, Sizes: []uint64{10}, Spans: []uint64{10}, Timestamps: []int64{start}})
		}
		c.ok(1, op)
	}
	a := &timed{agent: agent{c, 1}}
	t, err := retention.New(retention.Config{}, retention.Deps{Meta: a, Cells: c})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for worked := true; worked; {
			if worked, err = t.Step(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64((a.held / a.times).Microseconds()), "µs-lock")
}
