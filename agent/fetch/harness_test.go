package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const now = 1_700_000_000_000 // ms

var incarnation = [16]byte{1}

// index is an agent's view of the log. Ops committed with lag are only applied by the next barrier.
type index struct {
	t  testing.TB
	mu sync.RWMutex
	st *state.State

	seq     uint64
	clock   int64
	lagging []entry.Op
	// barriers counts, broken makes them fail.
	barriers int
	broken   error
	stuck    bool // barriers last until their context ends
	objects  uint64
}

func newIndex(t testing.TB) *index {
	x := &index{t: t, st: state.New(state.Identity{ID: [16]byte{1}, Epoch: 1}), clock: now}
	x.commit(&entry.Join{Name: "a", MaxFeatureLevel: state.MaxFeatureLevel})
	x.commit(&entry.SetFeatureLevel{Level: state.MaxFeatureLevel})
	return x
}

func (x *index) commit(op entry.Op) state.OpResult {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.commitLocked(op)
}

func (x *index) commitLocked(op entry.Op) state.OpResult {
	x.t.Helper()
	x.seq++
	e := entry.Entry{Format: entry.Format, FeatureLevel: entry.Level(op), Incarnation: incarnation, Seq: x.seq, ClockMs: x.clock, Ops: []entry.Op{op}}
	value := e.AppendTo(nil)
	decoded, err := entry.Parse(value)
	if err != nil {
		x.t.Fatal(err)
	}
	var r state.Results
	if err := x.st.Apply(x.st.N()+1, value, decoded, &r); err != nil || r.EntryCode != state.OK {
		x.t.Fatalf("apply: %v %v", r.EntryCode, err)
	}
	if r.Ops[0].Code != state.OK {
		x.t.Fatalf("%T: %v", op, r.Ops[0].Code)
	}
	return r.Ops[0]
}

func (x *index) View(fn func(*state.State)) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	fn(x.st)
}

func (x *index) Barrier(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stuck {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	x.barriers++
	if x.broken != nil {
		return x.broken
	}
	for _, op := range x.lagging {
		x.commitLocked(op)
	}
	x.lagging = nil
	return nil
}

func (x *index) topic(name string, configs ...entry.Config) entry.UUID {
	x.t.Helper()
	id := entry.UUID{0xaa}
	copy(id[1:], name)
	x.commit(&entry.CreateTopic{Name: name, ID: id, Partitions: 4, Configs: configs})
	return id
}

// part is a batch for a segment.
type part struct {
	topic     entry.UUID
	partition int32
	raw       []byte
	header    batch.Header
}

// of makes a batch with one record a value, the i-th at timestamp ts+i.
func of(t testing.TB, opts batch.BuildOptions, topic entry.UUID, partition int32, ts int64, values ...string) part {
	t.Helper()
	b := batch.NewBuilder(opts)
	for i, v := range values {
		b.Add(ts+int64(i), nil, []byte(v))
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := batch.ParseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	return part{topic, partition, raw, h}
}

// write uploads parts as one segment and returns the op that commits them, in the order of the segment's blocks.
func (x *index) write(bucket objstore.Bucket, opts segment.Options, parts ...part) (*entry.Append, []byte) {
	x.t.Helper()
	b := segment.NewBuilder(opts)
	for _, p := range parts {
		b.Add(p.topic, p.partition, p.raw, p.header.Span(), p.header.MaxTimestamp)
	}
	body, blocks, err := b.Finish(nil, nil, nil)
	if err != nil {
		x.t.Fatal(err)
	}
	x.objects++
	op := &entry.Append{Object: entry.ObjectID{Incarnation: incarnation, Seq: x.objects, CollectionEpoch: 1}, ObjectSize: uint64(len(body))}
	for i, block := range blocks {
		e := entry.Block{Topic: block.Topic, Partition: uint32(block.Partition), Index: uint32(i)}
		for _, p := range parts {
			if p.topic == entry.UUID(block.Topic) && p.partition == block.Partition {
				e.AddBatch(uint64(len(p.raw)), uint64(p.header.Span()), p.header.MaxTimestamp, entry.Producer{
					ID: p.header.ProducerID, Epoch: p.header.ProducerEpoch, BaseSequence: p.header.BaseSequence,
				})
			}
		}
		op.Blocks = append(op.Blocks, e)
	}
	if err := bucket.Put(context.Background(), op.Object.Key(), body, objstore.PutOptions{}); err != nil {
		x.t.Fatal(err)
	}
	return op, body
}

// add writes and commits.
func (x *index) add(bucket objstore.Bucket, opts segment.Options, parts ...part) *entry.Append {
	x.t.Helper()
	op, _ := x.write(bucket, opts, parts...)
	x.commit(op)
	return op
}

// store counts GETs and can misbehave.
type store struct {
	*mem.Bucket
	mu     sync.Mutex
	gets   []string
	before func(ctx context.Context, key string) error
	damage func(key string, position int64, body []byte) []byte
}

func newStore() *store { return &store{Bucket: mem.New()} }

// slow makes every GET take d. most is how many were under way at once so far.
func (s *store) slow(d time.Duration) (most func() int) {
	var mu sync.Mutex
	running, highest := 0, 0
	s.before = func(context.Context, string) error {
		mu.Lock()
		running++
		highest = max(highest, running)
		mu.Unlock()
		time.Sleep(d)
		mu.Lock()
		running--
		mu.Unlock()
		return nil
	}
	return func() int { mu.Lock(); defer mu.Unlock(); return highest }
}

func (s *store) Get(ctx context.Context, key string) ([]byte, error) {
	return s.get(ctx, key, 0, func() ([]byte, error) { return s.Bucket.Get(ctx, key) })
}

func (s *store) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	return s.get(ctx, key, position, func() ([]byte, error) { return s.Bucket.GetRange(ctx, key, position, size) })
}

func (s *store) get(ctx context.Context, key string, position int64, read func() ([]byte, error)) ([]byte, error) {
	s.mu.Lock()
	s.gets = append(s.gets, key)
	before, damage := s.before, s.damage
	s.mu.Unlock()
	if before != nil {
		if err := before(ctx, key); err != nil {
			return nil, err
		}
	}
	body, err := read()
	if err == nil && damage != nil {
		body = damage(key, position, bytes.Clone(body))
	}
	return body, err
}

func (s *store) count() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.gets) }

func open(t testing.TB, cfg fetch.Config, x *index, bucket objstore.Bucket) (*fetch.Reader, *fetch.Cache) {
	t.Helper()
	if cfg.ReadAhead == 0 {
		cfg.ReadAhead = -1
	}
	if cfg.ColdBytes == 0 {
		cfg.ColdBytes = 8 << 30 // a machine that is busy with tests would make replays slow
	}
	cache, err := fetch.NewCache(cfg, bucket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cache.Close)
	return fetch.NewReader(x, cache), cache
}

// record is what a client sees.
type record struct {
	offset, timestamp int64
	value             string
}

// decode checks served bytes and returns their records.
func decode(t testing.TB, raw []byte) []record {
	t.Helper()
	var out []record
	s := batch.Split(raw)
	for s.Next() {
		h := s.Header()
		if err := batch.VerifyCRC(s.Raw()); err != nil {
			t.Fatal(err)
		}
		if h.LeaderEpoch != 0 {
			t.Fatalf("leader epoch %d", h.LeaderEpoch)
		}
		if err := batch.Records(s.Raw(), batch.Limits{}, func(r batch.Record) error {
			out = append(out, record{h.BaseOffset + int64(r.OffsetDelta), r.Timestamp, string(r.Value)})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	return out
}

// readAll reads from an offset to the high watermark, at most most bytes a time.
func readAll(t testing.TB, r *fetch.Reader, topic entry.UUID, partition int32, offset int64, most int) []record {
	t.Helper()
	var out []record
	for {
		var lent fetch.Out
		lent.LendAll()
		res, err := r.ReadTo(context.Background(), topic, partition, offset, most, &lent, true)
		if err != nil {
			t.Fatalf("read at %d: %v", offset, err)
		}
		raw := bytes.Join(lent.Parts(nil), nil)
		if lent.Len() != len(raw) {
			t.Fatalf("read at %d: %d bytes, %d said", offset, len(raw), lent.Len())
		}
		lent.Release()
		for _, rec := range decode(t, raw) {
			if rec.offset >= offset {
				out = append(out, rec)
			}
		}
		if res.NextOffset == res.HighWatermark {
			return out
		}
		if res.NextOffset <= offset {
			t.Fatalf("read at %d goes on at %d", offset, res.NextOffset)
		}
		offset = res.NextOffset
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}
