package ingest_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/objstoretest"
	"github.com/firnlog/firn/objstore/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is the shared log: one state machine, entries applied in the order in which agents commit them.
type cluster struct {
	t  testing.TB
	mu sync.RWMutex
	st *state.State

	subsMu sync.Mutex
	subs   map[*subscription]bool
}

type subscription struct {
	refs []state.PartitionRef
	ch   chan<- struct{}
}

func newCluster(t testing.TB) *cluster {
	return &cluster{t: t, st: state.New(state.Identity{ID: [16]byte{1}, Epoch: 1}), subs: make(map[*subscription]bool)}
}

// commit applies one entry and runs after with its results before anything else is applied.
func (c *cluster) commit(e entry.Entry, after func(*state.Results)) {
	e.Format, e.FeatureLevel = entry.Format, 1
	e.ClockMs = time.Now().UnixMilli()
	value := e.AppendTo(nil)
	decoded, err := entry.Parse(value)
	if err != nil {
		panic(fmt.Sprintf("an op does not survive its encoding: %v", err))
	}
	var r state.Results
	c.mu.Lock()
	err = c.st.Apply(c.st.N()+1, value, decoded, &r)
	c.mu.Unlock()
	if err != nil || r.EntryCode != state.OK {
		panic(fmt.Sprintf("apply: %v, %v", r.EntryCode, err))
	}
	after(&r)
	c.subsMu.Lock()
	defer c.subsMu.Unlock()
	for s := range c.subs {
		if slices.ContainsFunc(s.refs, func(ref state.PartitionRef) bool { return slices.Contains(r.Changed, ref) }) {
			select {
			case s.ch <- struct{}{}:
			default:
			}
		}
	}
}

// member is one agent's access to the cluster. Its ops are applied by one goroutine in order of submission.
type member struct {
	*cluster
	incarnation log.Incarnation

	mu     sync.Mutex
	seq    uint64
	queue  []proposal
	ops    []entry.Op // all that were submitted
	delay  time.Duration
	held   bool
	forget bool // do not keep ops
	wake   chan struct{}
	end    chan struct{}
	ended  chan struct{}
}

type proposal struct {
	op   entry.Op
	done func(state.OpResult, error)
}

func (c *cluster) join(name byte) *member {
	m := &member{
		cluster: c, incarnation: log.Incarnation{name}, wake: make(chan struct{}, 1),
		end: make(chan struct{}), ended: make(chan struct{}),
	}
	m.commitOne(&entry.Join{Name: fmt.Sprint("agent-", name), MaxFeatureLevel: 1}, func(state.OpResult, error) {})
	go m.apply()
	c.t.Cleanup(m.stop)
	return m
}

func (m *member) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.end:
		return
	default:
		close(m.end)
	}
	m.mu.Unlock()
	<-m.ended
	m.mu.Lock()
	for _, p := range m.queue {
		p.done(state.OpResult{}, errStopped)
	}
	m.queue = nil
}

var errStopped = fmt.Errorf("metastore stopped")

func (m *member) apply() {
	defer close(m.ended)
	for {
		m.mu.Lock()
		var next *proposal
		if len(m.queue) > 0 && !m.held {
			next = new(m.queue[0])
			m.queue = m.queue[1:]
		}
		delay := m.delay
		m.mu.Unlock()
		if next == nil {
			select {
			case <-m.wake:
				continue
			case <-m.end:
				return
			}
		}
		if delay > 0 {
			time.Sleep(delay)
		}
		m.commitOne(next.op, next.done)
	}
}

func (m *member) commitOne(op entry.Op, done func(state.OpResult, error)) {
	m.seq++
	m.commit(entry.Entry{Incarnation: m.incarnation, Seq: m.seq, Ops: []entry.Op{op}}, func(r *state.Results) {
		done(r.Ops[0], nil)
		for i := range r.Ops[0].Batches { // results are the applier's: whoever keeps them reads nonsense
			r.Ops[0].Batches[i] = state.BatchResult{Code: 200, BaseOffset: -999}
		}
	})
}

func (m *member) Submit(op entry.Op, done func(state.OpResult, error)) {
	m.mu.Lock()
	m.queue = append(m.queue, proposal{op, done})
	if !m.forget {
		m.ops = append(m.ops, op)
	}
	m.mu.Unlock()
	m.poke()
}

func (m *member) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// hold stops applying; release goes on.
func (m *member) hold() { m.mu.Lock(); m.held = true; m.mu.Unlock() }

func (m *member) release() { m.mu.Lock(); m.held = false; m.mu.Unlock(); m.poke() }

// latency is how long a commit takes from now on.
func (m *member) latency(d time.Duration) {
	m.mu.Lock()
	m.delay = d
	m.mu.Unlock()
}

func (m *member) forgetOps() { m.mu.Lock(); m.forget = true; m.mu.Unlock() }

func (m *member) submitted() []entry.Op {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.ops)
}

func (m *member) View(fn func(*state.State)) {
	m.cluster.mu.RLock()
	defer m.cluster.mu.RUnlock()
	fn(m.st)
}

func (m *member) Incarnation() log.Incarnation { return m.incarnation }

func (m *member) Subscribe(refs []state.PartitionRef, ch chan<- struct{}) func() {
	s := &subscription{refs: slices.Clone(refs), ch: ch}
	m.subsMu.Lock()
	m.subs[s] = true
	m.subsMu.Unlock()
	return func() {
		m.subsMu.Lock()
		delete(m.subs, s)
		m.subsMu.Unlock()
	}
}

// propose submits an op and waits for its result.
func (m *member) propose(op entry.Op) state.OpResult {
	m.t.Helper()
	ch := make(chan state.OpResult, 1)
	m.Submit(op, func(r state.OpResult, _ error) {
		r.Batches = slices.Clone(r.Batches)
		ch <- r
	})
	return <-ch
}

func (m *member) createTopic(name string, partitions uint32, configs ...entry.Config) entry.UUID {
	m.t.Helper()
	id := entry.UUID{0xaa}
	copy(id[1:], name)
	if r := m.propose(&entry.CreateTopic{Name: name, ID: id, Partitions: partitions, Configs: configs}); r.Code != state.OK {
		m.t.Fatalf("create topic %s: %v", name, r.Code)
	}
	return id
}

// sink remembers what was uploaded.
type sink struct {
	mu     sync.Mutex
	bodies map[entry.ObjectID][]byte
}

func (s *sink) Put(id entry.ObjectID, body []byte, footer *segment.Footer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bodies == nil {
		s.bodies = make(map[entry.ObjectID][]byte)
	}
	s.bodies[id] = body
	if len(footer.Blocks) == 0 {
		panic("segment without blocks")
	}
}

// store is a bucket whose puts a test can look at and hold up.
type store struct {
	*mem.Bucket
	mu   sync.Mutex
	keys []string
	// before runs at the start of each put, number n from 0, and after with its result, which it may change.
	before func(ctx context.Context, n int) error
	after  func(n int, err error) error
}

func newStore() *store { return &store{Bucket: mem.New()} }

func (s *store) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	s.mu.Lock()
	n := len(s.keys)
	s.keys = append(s.keys, key)
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(ctx, n); err != nil {
			return err
		}
	}
	err := s.Bucket.Put(ctx, key, body, opts)
	if after != nil {
		err = after(n, err)
	}
	return err
}

func (s *store) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	return objstoretest.PutFrom(ctx, s, key, body, size, opts)
}

// interpose replaces before while puts may be under way.
func (s *store) interpose(before func(context.Context, int) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

func (s *store) puts() []string { s.mu.Lock(); defer s.mu.Unlock(); return slices.Clone(s.keys) }

// slow makes every put take d.
func slow(d time.Duration) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error { return sleep(ctx, d) }
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func open(t testing.TB, cfg ingest.Config, m *member, bucket objstore.Bucket, spill ingest.Spill) *ingest.Pipeline {
	t.Helper()
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(1, 2))
	}
	p, err := ingest.New(cfg, m, bucket, spill, &sink{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// producer makes batches of one idempotent producer for one partition; id -1 makes plain ones.
type producer struct {
	topic     entry.UUID
	partition int32
	id        int64
	epoch     int16
	next      int32
}

func (p *producer) part(t testing.TB, values ...string) *ingest.Part {
	t.Helper()
	var opts batch.BuildOptions
	if p.id >= 0 {
		opts.Producer = &batch.Producer{ID: p.id, Epoch: p.epoch, BaseSequence: p.next}
		p.next = (p.next + int32(len(values))) & math.MaxInt32
	}
	b := batch.NewBuilder(opts)
	for _, v := range values {
		b.Add(time.Now().UnixMilli(), nil, []byte(v))
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := batch.ParseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &ingest.Part{Topic: p.topic, Partition: p.partition, Records: raw, Header: h}
}

// staged is a Stage whose answer can be waited for.
type staged struct {
	parts []*ingest.Part
	done  chan struct{}
}

func stage(t testing.TB, p *ingest.Pipeline, parts ...*ingest.Part) *staged {
	t.Helper()
	s := &staged{parts: parts, done: make(chan struct{})}
	if err := p.Stage(context.Background(), parts, func() { close(s.done) }); err != nil {
		t.Fatalf("stage: %v", err)
	}
	return s
}

func (s *staged) answered() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// offset waits for the only part's answer, which must be good.
func (s *staged) offset(t testing.TB) int64 {
	t.Helper()
	<-s.done
	part := s.parts[0]
	if part.Code != state.OK || part.Err != nil {
		t.Fatalf("answer: %v, %v", part.Code, part.Err)
	}
	return part.BaseOffset
}

// values reads a partition through the index and the bucket: what every reader would see.
func (c *cluster) values(bucket objstore.Bucket, topic entry.UUID, partition int32) []string {
	c.t.Helper()
	var rows []state.Row
	c.mu.RLock()
	rows = c.st.TopicByID(topic).Partition(int(partition)).Rows(0, 1<<20, nil)
	c.mu.RUnlock()
	var out []string
	next := int64(0)
	for _, row := range rows {
		if row.Base != next {
			c.t.Fatalf("row starts at %d, expected %d", row.Base, next)
		}
		body, err := bucket.Get(context.Background(), row.Object.Key())
		if err != nil {
			c.t.Fatal(err)
		}
		if int64(len(body)) != row.ObjectSize {
			c.t.Fatalf("object of %d bytes, the row says %d", len(body), row.ObjectSize)
		}
		footer, err := segment.Open(body)
		if err != nil {
			c.t.Fatal(err)
		}
		block, ok := footer.Block(int(row.Block))
		if !ok || block.Topic != topic || block.Partition != partition {
			c.t.Fatalf("row names block %d, which is of %x/%d", row.Block, block.Topic, block.Partition)
		}
		var raw []byte
		for _, chunk := range block.Chunks {
			got, err := segment.ReadChunk(body[chunk.Position:chunk.Position+chunk.StoredSize], chunk, nil)
			if err != nil {
				c.t.Fatal(err)
			}
			raw = append(raw, got...)
		}
		for s := batch.Split(raw[row.Position : row.Position+row.Size]); s.Next(); {
			if err := batch.VerifyCRC(s.Raw()); err != nil {
				c.t.Fatal(err)
			}
			h := s.Header()
			next += h.Span()
			if err := batch.Records(s.Raw(), batch.Limits{}, func(r batch.Record) error {
				out = append(out, string(r.Value))
				return nil
			}); err != nil {
				c.t.Fatal(err)
			}
		}
		if next != row.End {
			c.t.Fatalf("row's batches end at %d, the row at %d", next, row.End)
		}
	}
	return out
}

// bump moves the collection epoch on from the one given.
func bump(m *member, from uint64) {
	m.t.Helper()
	if r := m.propose(&entry.BumpCollectionEpoch{From: from}); r.Code != state.OK {
		m.t.Fatalf("bump from %d: %v", from, r.Code)
	}
}
