package retention_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is the clock of tests, Unix milliseconds.
const start = int64(1_700_000_000_000)

// cluster is a state machine with agents {1}, {2}, …, and cells.
type cluster struct {
	t     testing.TB
	st    *state.State
	r     state.Results
	seqs  map[byte]uint64
	now   int64
	made  uint64 // objects
	cells map[string]log.Cell
	ops   int
	views int
}

func newCluster(t testing.TB, agents int) *cluster {
	t.Helper()
	c := &cluster{t: t, st: state.New(state.Identity{ID: [16]byte{1}, Epoch: 1}), seqs: make(map[byte]uint64), now: start, cells: make(map[string]log.Cell)}
	for i := range agents {
		c.ok(byte(i+1), &entry.Join{Name: string(rune('a' + i)), MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: "h", Port: 1}}})
	}
	c.ok(1, &entry.SetFeatureLevel{Level: state.MaxFeatureLevel})
	return c
}

// apply commits ops of an agent whose clock is now.
func (c *cluster) apply(agent byte, ops ...entry.Op) []state.OpResult {
	c.t.Helper()
	c.seqs[agent]++
	e := &entry.Entry{Incarnation: [16]byte{agent}, Seq: c.seqs[agent], FeatureLevel: c.st.FeatureLevel(), ClockMs: c.now, Ops: ops}
	if err := c.st.Apply(c.st.N()+1, e.AppendTo(nil), e, &c.r); err != nil || c.r.EntryCode != state.OK {
		c.t.Fatal(err, c.r.EntryCode)
	}
	return c.r.Ops
}

func (c *cluster) ok(agent byte, ops ...entry.Op) {
	c.t.Helper()
	for i, r := range c.apply(agent, ops...) {
		if r.Code != state.OK {
			c.t.Fatalf("%T: %v", ops[i], r.Code)
		}
	}
}

func (c *cluster) topic(id byte, partitions uint32, configs ...entry.Config) entry.UUID {
	c.t.Helper()
	topic := entry.UUID{id, 1}
	c.ok(1, &entry.CreateTopic{Name: string(rune('a'+id)) + "-topic", ID: topic, Partitions: partitions, Configs: configs})
	return topic
}

// append puts a row of ten offsets.
func (c *cluster) append(topic entry.UUID, partition uint32, timestamp int64, size uint64) {
	c.t.Helper()
	c.made++
	c.ok(1, &entry.Append{
		Object: entry.ObjectID{Incarnation: [16]byte{1}, Seq: c.made, CollectionEpoch: c.st.CollectionEpoch()}, ObjectSize: size + 100,
		Blocks: []entry.Block{{Topic: topic, Partition: partition, Sizes: []uint64{size}, Spans: []uint64{10}, Timestamps: []int64{timestamp}}},
	})
}

func (c *cluster) logStart(topic entry.UUID, partition int) int64 {
	return c.st.TopicByID(topic).Partition(partition).LogStart()
}

// agent is one agent's metastore.
type agent struct {
	*cluster
	id byte
}

func (a agent) Incarnation() log.Incarnation { return log.Incarnation{a.id} }

func (a agent) View(fn func(*state.State)) { a.views++; fn(a.st) }

func (a agent) Submit(op entry.Op, done func(state.OpResult, error)) {
	a.ops++
	done(a.apply(a.id, op)[0], nil)
}

func (c *cluster) Load(_ context.Context, name string) (log.Cell, error) { return c.cells[name], nil }

func (c *cluster) Swap(_ context.Context, name string, version uint64, value []byte) (log.Cell, error) {
	if c.cells[name].Version != version {
		return log.Cell{}, log.ErrConflict
	}
	c.cells[name] = log.Cell{Value: value, Version: version + 1}
	return c.cells[name], nil
}

// clock is a bucket's.
type clock struct {
	ms    *int64
	err   error
	asked int
}

func (c *clock) Now(context.Context) (time.Time, error) {
	c.asked++
	return time.UnixMilli(*c.ms), c.err
}
