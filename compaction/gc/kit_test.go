package gc_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/compaction/gc"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is the clock of tests, Unix milliseconds.
const start = int64(1_700_000_000_000)

// world is a log, the states of its agents, and a bucket.
type world struct {
	t       testing.TB
	bucket  *hooked
	epoch   uint64   // log epoch
	entries [][]byte // the whole log
	head    *state.State
	seqs    map[[16]byte]uint64
	archive uint64 // n up to which the bucket alone gives the log
	now     int64
	made    uint64
	cells   map[string]log.Cell
	agent   [16]byte // that proposes
	steady  time.Duration
	still   bool // the archive does not go on by itself
}

// hooked is a bucket that can be asked to do something before a call, and to fail.
type hooked struct {
	objstore.Bucket
	mu     sync.Mutex // guards calls
	before func(what string)
	fail   map[string]error // by what is called
	kept   map[string]bool  // keys that a lock keeps
	calls  map[string]int
}

func (b *hooked) Unwrap() objstore.Bucket { return b.Bucket }

func (b *hooked) called(what string) error {
	b.mu.Lock()
	b.calls[what]++
	b.mu.Unlock()
	if b.before != nil {
		b.before(what)
	}
	return b.fail[what]
}

func (b *hooked) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := b.called("list"); err != nil {
		return nil, err
	}
	return b.Bucket.List(ctx, prefix, after, limit)
}

func (b *hooked) Delete(ctx context.Context, keys ...string) error {
	if err := b.called("delete"); err != nil {
		return err
	}
	for _, key := range keys {
		if b.kept[key] {
			return objstore.ErrRetained
		}
	}
	return b.Bucket.Delete(ctx, keys...)
}

func (b *hooked) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	if err := b.called("get"); err != nil {
		return nil, err
	}
	return b.Bucket.GetRange(ctx, key, position, size)
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		t: t, epoch: 1, head: state.New(state.Identity{ID: [16]byte{1}, Epoch: 1}), seqs: make(map[[16]byte]uint64), now: start,
		cells: make(map[string]log.Cell), agent: [16]byte{1},
		bucket: &hooked{Bucket: mem.New(), fail: make(map[string]error), kept: make(map[string]bool), calls: make(map[string]int)},
	}
	w.join()
	w.ok(&entry.SetFeatureLevel{Level: state.MaxFeatureLevel})
	w.ok(&entry.CreateTopic{Name: "a", ID: topicA, Partitions: 2}, &entry.CreateTopic{Name: "b", ID: topicB, Partitions: 1})
	return w
}

var topicA, topicB = entry.UUID{0xaa, 1}, entry.UUID{0xbb, 1}

func (w *world) join() {
	w.ok(&entry.Join{Name: "a", MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: "h", Port: 1}}})
}

// apply commits ops.
func (w *world) apply(ops ...entry.Op) []state.OpResult {
	w.t.Helper()
	w.seqs[w.agent]++
	e := &entry.Entry{Incarnation: w.agent, Seq: w.seqs[w.agent], FeatureLevel: w.head.FeatureLevel(), ClockMs: w.now, Ops: ops}
	value := e.AppendTo(nil)
	w.entries = append(w.entries, value)
	r := step(w.t, w.head, value)
	if r.EntryCode != state.OK {
		w.t.Fatal(r.EntryCode)
	}
	return r.Ops
}

// step applies one more entry to a state.
func step(t testing.TB, st *state.State, value []byte) *state.Results {
	t.Helper()
	var d entry.Decoder
	e, err := d.Decode(value)
	if err != nil {
		t.Fatal(err)
	}
	var r state.Results
	if err := st.Apply(st.N()+1, value, e, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func (w *world) ok(ops ...entry.Op) {
	w.t.Helper()
	for i, r := range w.apply(ops...) {
		if r.Code != state.OK {
			w.t.Fatalf("%T: %v", ops[i], r.Code)
		}
	}
}

// upload puts an object of some bytes, of the current collection epoch.
func (w *world) upload(topic entry.UUID) entry.ObjectID {
	w.t.Helper()
	w.made++
	id := entry.ObjectID{Incarnation: w.agent, Seq: w.made, CollectionEpoch: w.head.CollectionEpoch(), Topic: topic}
	w.put(id, make([]byte, objectSize))
	return id
}

const objectSize = 10

func (w *world) put(id entry.ObjectID, body []byte) {
	w.t.Helper()
	if err := w.bucket.Put(context.Background(), id.Key(), body, objstore.PutOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// appendOf names an object by ten offsets of a partition.
func appendOf(id entry.ObjectID, topic entry.UUID, partition uint32) *entry.Append {
	return &entry.Append{Object: id, ObjectSize: objectSize, Blocks: []entry.Block{{
		Topic: topic, Partition: partition, Sizes: []uint64{5}, Spans: []uint64{10}, Timestamps: []int64{start},
	}}}
}

// named puts an object and names it.
func (w *world) named(topic entry.UUID, partition uint32) entry.ObjectID {
	w.t.Helper()
	id := w.upload(entry.UUID{})
	w.ok(appendOf(id, topic, partition))
	return id
}

// empty deletes all records of a partition.
func (w *world) empty(topic entry.UUID, partition uint32) {
	w.t.Helper()
	w.ok(&entry.DeleteRecords{Topic: topic, Partition: partition, BeforeOffset: -1})
}

// archiveAll brings the archive up to the head.
func (w *world) archiveAll() { w.archive = w.head.N() }

// archiveNews brings the archive up to the last entry that holds more than ticks, as an archivist does.
func (w *world) archiveNews() {
	w.t.Helper()
	var d entry.Decoder
	for n := w.head.N(); n > w.archive; n-- {
		e, err := d.Decode(w.entries[n-1])
		if err != nil {
			w.t.Fatal(err)
		}
		for _, op := range e.Ops {
			if _, tick := op.(*entry.Tick); !tick {
				w.archive = n
				return
			}
		}
	}
}

// keys are those of objects in the bucket.
func (w *world) keys() (keys []string) {
	w.t.Helper()
	for _, root := range []string{"data/", "topics/"} {
		for after := ""; ; {
			infos, err := w.bucket.Bucket.List(context.Background(), root, after, 1000)
			if err != nil {
				w.t.Fatal(err)
			}
			if len(infos) == 0 {
				break
			}
			for _, info := range infos {
				keys = append(keys, info.Key)
			}
			after = infos[len(infos)-1].Key
		}
	}
	return keys
}

func (w *world) has(id entry.ObjectID) bool {
	_, err := w.bucket.Head(context.Background(), id.Key())
	return err == nil
}

// replica is an agent's metastore: a state that may trail.
type replica struct {
	w     *world
	st    *state.State
	epoch uint64 // log epoch that it knows
	asked int    // for the archive
}

func (w *world) replica() *replica { return &replica{w: w, st: w.copy(w.head.N()), epoch: w.epoch} }

// copy is the state at n.
func (w *world) copy(n uint64) *state.State {
	w.t.Helper()
	st := state.New(state.Identity{ID: [16]byte{1}, Epoch: 1})
	for _, value := range w.entries[:n] {
		step(w.t, st, value)
	}
	return st
}

// follow applies up to most entries.
func (r *replica) follow(most int) {
	for range most {
		if r.epoch != r.w.epoch || r.st.N() == r.w.head.N() {
			return
		}
		step(r.w.t, r.st, r.w.entries[r.st.N()])
	}
}

func (r *replica) View(fn func(*state.State)) { fn(r.st) }

func (r *replica) Incarnation() log.Incarnation { return r.w.agent }

func (r *replica) Propose(_ context.Context, op entry.Op) (state.OpResult, error) {
	if r.epoch != r.w.epoch {
		return state.OpResult{}, errors.New("another log")
	}
	res := r.w.apply(op)[0]
	r.follow(1 << 30)
	return res, nil
}

func (r *replica) ArchivedThrough(context.Context) (uint64, error) {
	r.asked++
	return r.w.archive, nil
}

func (r *replica) OwnsBucket(context.Context) error {
	if r.epoch != r.w.epoch {
		return errors.New("the bucket's log was restored since")
	}
	return nil
}

func (w *world) Load(_ context.Context, name string) (log.Cell, error) { return w.cells[name], nil }

func (w *world) Swap(_ context.Context, name string, version uint64, value []byte) (log.Cell, error) {
	if w.cells[name].Version != version {
		return log.Cell{}, log.ErrConflict
	}
	w.cells[name] = log.Cell{Value: value, Version: version + 1}
	return w.cells[name], nil
}

// collector is a T on a replica.
type collector struct {
	*gc.T
	*replica
	logged *strings.Builder
}

func (w *world) collector(cfg gc.Config, more ...func(*gc.Deps)) *collector {
	w.t.Helper()
	c := &collector{replica: w.replica(), logged: new(strings.Builder)}
	deps := gc.Deps{
		Meta: c.replica, Cells: w, Bucket: w.bucket, Steady: func() time.Duration { return w.steady },
		Logger: slog.New(slog.NewTextHandler(c.logged, nil)),
	}
	for _, f := range more {
		f(&deps)
	}
	var err error
	if c.T, err = gc.New(cfg, deps); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// settle steps until there is nothing to do.
func (c *collector) settle() (steps int) {
	c.w.t.Helper()
	for steps = 0; ; steps++ {
		c.follow(1 << 30)
		worked, err := c.Step(context.Background())
		if err != nil {
			c.w.t.Fatal(err)
		}
		if !worked {
			return steps
		}
		if steps > 100_000 {
			c.w.t.Fatal("it never ends")
		}
	}
}

// pass lets time go by on all clocks, and settles.
func (c *collector) pass(d time.Duration) {
	c.w.t.Helper()
	for d > 0 {
		piece := min(d, 5*time.Minute)
		d -= piece
		c.w.steady += piece
		c.w.now += piece.Milliseconds()
		c.w.ok(&entry.Tick{})
		c.settle()
		if !c.w.still {
			c.w.archiveNews()
		}
	}
}
