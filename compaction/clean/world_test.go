package clean_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/clean"
	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/segment"
)

// world is a cluster of one agent in one goroutine: its state, its bucket, and everything that was ever produced. Its clock is its own.
type world struct {
	t       testing.TB
	st      *state.State
	inc     log.Incarnation
	seq     uint64
	clock   int64 // ms
	object  uint64
	bucket  *bucket
	env     *rewrite.Env // one for all: it numbers the objects
	scratch duty.Scratch
	// proposing, where set, is asked before and after each op; an error is what the proposer hears, and before keeps the op out.
	before, after func(entry.Op) error
	topic         entry.UUID
	made          map[int32]map[int64]rec // by partition and offset
	rng           *rand.Rand
	builder       *batch.Builder
	walker        *batch.Validator
	transactional bool // what is produced
	plain         bool // it is not compressed
}

// bucket is a bucket that can be replaced.
type bucket struct{ objstore.Bucket }

// rec is a record as it was produced.
type rec struct {
	key, value []byte // nil: null
	timestamp  int64
	header     string
	logAppend  bool
}

func newWorld(t testing.TB, seed uint64, partitions int, configs ...entry.Config) *world {
	t.Helper()
	w := &world{
		t: t, st: state.New(state.Identity{ID: [16]byte{1}}), inc: log.Incarnation{7}, clock: 1_700_000_000_000,
		bucket: &bucket{mem.New()}, scratch: duty.InMemory(1 << 30), topic: entry.UUID{9, 9}, made: make(map[int32]map[int64]rec), rng: rand.New(rand.NewPCG(seed, 77)),
		builder: batch.NewBuilder(batch.BuildOptions{}), walker: batch.NewValidator(),
	}
	var err error
	w.env, err = rewrite.New(rewrite.Config{ChunkBytes: 512, RunBytes: 2048, Attempts: 1}, rewrite.Deps{Meta: w, Bucket: w.bucket, Scratch: w.scratch})
	if err != nil {
		t.Fatal(err)
	}
	w.must(&entry.Join{Name: "a", MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: "h", Port: 1}}})
	w.must(&entry.SetFeatureLevel{Level: state.MaxFeatureLevel})
	w.must(&entry.CreateTopic{Name: "t", ID: w.topic, Partitions: uint32(partitions), ReplicationFactor: 1, Configs: configs})
	return w
}

func config(pairs ...string) (list []entry.Config) {
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, entry.Config{Name: pairs[i], Value: pairs[i+1]})
	}
	return list
}

func (w *world) View(fn func(*state.State))    { fn(w.st) }
func (w *world) Barrier(context.Context) error { return nil }
func (w *world) Incarnation() log.Incarnation  { return w.inc }

// Propose applies an op at once.
func (w *world) Propose(ctx context.Context, op entry.Op) (state.OpResult, error) {
	if err := context.Cause(ctx); err != nil {
		return state.OpResult{}, err
	}
	if w.before != nil {
		if err := w.before(op); err != nil {
			return state.OpResult{}, err
		}
	}
	r, err := w.apply(op)
	if err == nil && w.after != nil {
		err = w.after(op)
	}
	return r.Ops[0], err
}

func (w *world) apply(op entry.Op) (*state.Results, error) {
	w.seq++
	value := (&entry.Entry{Incarnation: w.inc, Seq: w.seq, ClockMs: w.clock, Ops: []entry.Op{op}}).AppendTo(nil)
	var d entry.Decoder
	e, err := d.Decode(value)
	if err != nil {
		w.t.Fatal(err)
	}
	var r state.Results
	if err := w.st.Apply(w.st.N()+1, value, e, &r); err != nil || r.EntryCode != state.OK {
		w.t.Fatal(err, r.EntryCode)
	}
	return &r, nil
}

func (w *world) must(op entry.Op) *state.Results {
	w.t.Helper()
	r, err := w.apply(op)
	if err != nil || r.Ops[0].Code != state.OK {
		w.t.Fatalf("%T: %v %v", op, r.Ops[0].Code, err)
	}
	return r
}

// tick moves the clock, and log time with it.
func (w *world) tick(d time.Duration) {
	w.clock += d.Milliseconds()
	w.must(&entry.ReserveProducerIDs{Count: 1})
}

var codecs = [...]batch.BuildOptions{
	{}, {Codec: batch.CodecGzip}, {Codec: batch.CodecSnappy}, {Codec: batch.CodecSnappy, Xerial: true}, {Codec: batch.CodecLZ4}, {Codec: batch.CodecZstd},
}

// flush produces records of a partition, in batches of up to most, as one object.
func (w *world) flush(partition int32, most int, records ...rec) {
	w.t.Helper()
	w.object++
	id := entry.ObjectID{Incarnation: w.inc, Seq: w.object, CollectionEpoch: w.st.CollectionEpoch()}
	b := segment.NewBuilder(segment.Options{ChunkBytes: 256})
	block := entry.Block{Topic: w.topic, Partition: uint32(partition)}
	rest := records
	for len(rest) > 0 {
		n := min(len(rest), 1+w.rng.IntN(most))
		builder := w.builder
		opts := codecs[w.rng.IntN(len(codecs))]
		if w.plain {
			opts = batch.BuildOptions{}
		}
		if w.transactional {
			opts.Transactional, opts.Producer = true, &batch.Producer{ID: 9}
		}
		builder.Reset(opts)
		for _, r := range rest[:n] {
			builder.Add(r.timestamp, r.key, r.value, batch.HeaderPair{Key: "h", Value: []byte(r.header)})
		}
		raw, err := builder.Build(nil)
		if err != nil {
			w.t.Fatal(err)
		}
		h, _ := batch.ParseHeader(raw)
		b.Add(w.topic, partition, raw, h.Span(), h.MaxTimestamp)
		block.AddBatch(uint64(len(raw)), uint64(h.Span()), h.MaxTimestamp, entry.NoProducer())
		rest = rest[n:]
	}
	body, _, err := b.Finish(nil, entry.AppendObjectID(nil, id), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.bucket.Put(context.Background(), id.Key(), body, objstore.PutOptions{}); err != nil {
		w.t.Fatal(err)
	}
	r := w.must(&entry.Append{Object: id, ObjectSize: uint64(len(body)), Blocks: []entry.Block{block}})
	if w.made[partition] == nil {
		w.made[partition] = make(map[int64]rec)
	}
	offset := r.Ops[0].Batches[0].BaseOffset
	for i, x := range records {
		if ts := r.Ops[0].Batches[0].Timestamp; ts >= 0 {
			x.timestamp, x.logAppend = ts, true
		}
		w.made[partition][offset+int64(i)] = x
	}
}

// random makes n records of keys 0 to keys-1, most of them with values.
func (w *world) random(n, keys int) (list []rec) {
	for range n {
		r := rec{key: fmt.Append(nil, "key-", w.rng.IntN(keys)), value: bytes.Repeat([]byte{byte(w.rng.Uint32())}, w.rng.IntN(40)), timestamp: w.clock - w.rng.Int64N(1000)}
		switch w.rng.IntN(12) {
		case 0, 1:
			r.value = nil
		case 2:
			r.key = nil
		}
		r.header = fmt.Sprint(w.rng.IntN(1000))
		list = append(list, r)
	}
	return list
}

func (w *world) partition(i int32) *state.Partition { return w.st.TopicByID(w.topic).Partition(int(i)) }

func (w *world) rows(partition int32) []state.Row { return w.partition(partition).Rows(0, 1<<20, nil) }

func (w *world) input(partition int32) rewrite.Input {
	p := w.partition(partition)
	return rewrite.Input{Topic: w.topic, Partition: partition, Epochs: p.Epochs(nil), LogStart: p.LogStart()}
}

// merge rewrites the rows of level 0 of a partition, except the last keep of them, into merged objects of up to each rows.
func (w *world) merge(partition int32, each, keep int) {
	w.t.Helper()
	env := w.env
	rows := w.rows(partition)
	rows = rows[:max(0, len(rows)-keep)]
	for len(rows) > 0 && rows[0].Object.Merged() {
		rows = rows[1:]
	}
	for len(rows) > 0 {
		n := min(each, len(rows))
		part := rewrite.PartOf(partition, rows[:n])
		source := env.NewSource()
		out, err := env.NewOutput(w.topic)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := out.Begin(partition); err != nil {
			w.t.Fatal(err)
		}
		r := source.Read(w.input(partition), rows[:n])
		for r.Next(context.Background()) {
			if err := out.Add(context.Background(), r.Batch().Raw, &r.Batch().Header); err != nil {
				w.t.Fatal(err)
			}
		}
		if r.Err() != nil {
			w.t.Fatal(r.Err())
		}
		row, _ := out.End()
		part.Replacement = []rewrite.Row{row}
		object, err := out.Upload(context.Background())
		if err != nil {
			w.t.Fatal(err)
		}
		outcomes, err := env.Commit(context.Background(), w.topic, []rewrite.Object{object}, []rewrite.Part{part})
		if err != nil || outcomes[0] != rewrite.Applied {
			w.t.Fatal(outcomes, err)
		}
		out.Close()
		source.Close()
		rows = rows[n:]
	}
}

func (w *world) cleaner(cfg clean.Config, change ...func(*clean.Deps)) *clean.Cleaner {
	w.t.Helper()
	deps := clean.Deps{Env: w.env, Scratch: w.scratch, Now: func() time.Time { return time.UnixMilli(w.clock) }}
	for _, f := range change {
		f(&deps)
	}
	c, err := clean.New(cfg, deps)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// settle steps until there is nothing to do.
func (w *world) settle(c *clean.Cleaner) {
	w.t.Helper()
	for range 100 {
		worked, err := c.Step(context.Background())
		if err != nil {
			w.t.Fatal(err)
		}
		if !worked {
			return
		}
	}
	w.t.Fatal("it never comes to rest")
}

// got is a record as it is stored.
type got struct {
	offset  int64
	horizon int64 // of its batch; 0: none
	rec
}

var errStop = errors.New("the test stops here")

// read returns the records of a partition in order, and holds each against what was produced.
func (w *world) read(partition int32) (list []got) {
	w.t.Helper()
	source := w.env.NewSource()
	defer source.Close()
	last := int64(-1)
	r := source.Read(w.input(partition), w.rows(partition))
	for r.Next(context.Background()) {
		b := r.Batch()
		if err := batch.VerifyCRC(b.Raw); err != nil {
			w.t.Fatal(err)
		}
		largest := int64(-1)
		err := w.walker.Walk(b.Raw, batch.Limits{}, func(x batch.Record) error {
			g := got{offset: b.Header.BaseOffset + int64(x.OffsetDelta)}
			if h, ok := b.Header.DeleteHorizon(); ok {
				g.horizon = h
			}
			g.key, g.value, g.timestamp = clone(x.Key), clone(x.Value), x.Timestamp
			for _, v := range x.Headers.All() {
				g.header += string(v)
			}
			largest = max(largest, x.Timestamp)
			if g.offset <= last {
				w.t.Fatalf("offset %d after %d", g.offset, last)
			}
			last = g.offset
			want, ok := w.made[partition][g.offset]
			g.logAppend = b.Header.LogAppendTime()
			if !ok || !same(want.key, g.key) || !same(want.value, g.value) || want.timestamp != g.timestamp || want.header != g.header || want.logAppend != g.logAppend {
				w.t.Fatalf("offset %d: %+v is not what was produced: %+v", g.offset, g.rec, want)
			}
			if g.offset >= w.partition(partition).LogStart() {
				list = append(list, g)
			}
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
		if row := w.rows(partition)[b.Row]; b.Header.MaxTimestamp != largest || row.MaxTimestamp < largest {
			w.t.Fatalf("max timestamp %d, of the row %d, of the records %d", b.Header.MaxTimestamp, row.MaxTimestamp, largest)
		}
	}
	if r.Err() != nil {
		w.t.Fatal(r.Err())
	}
	return list
}

func clone(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// offsetsOf are the offsets of records that were produced, in order.
func (w *world) offsetsOf(partition int32) (list []int64) {
	for offset := range w.made[partition] {
		list = append(list, offset)
	}
	slices.Sort(list)
	return list
}
