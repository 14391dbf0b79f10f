package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

// cluster is a log of entries in memory and the records they order. agent is one replica of it.
type cluster struct {
	t  testing.TB
	mu sync.Mutex // guards the rest

	entries  [][]byte
	seqs     map[[16]byte]uint64
	full     *state.State // what every entry gives
	agents   []*agent
	batches  map[state.PartitionRef][]stored
	objects  uint64
	reserved int64
}

// stored is a batch as it was produced, at its offset.
type stored struct {
	base, end int64
	raw       []byte
}

// agent is the metastore client, the produce path and the read path of one agent.
type agent struct {
	*cluster
	incarnation [16]byte
	nodeID      int32
	unsure      atomic.Bool // see Sure

	stMu sync.RWMutex // guards st
	st   *state.State

	subsMu sync.Mutex
	subs   map[*subscription]bool

	ctlMu sync.Mutex // guards the rest
	// behind: entries are applied at barriers only.
	behind     bool
	barrierErr error
	proposeErr error
	readErr    error
	// stuck is a partition whose reads do not return before their context ends.
	stuck    map[int32]bool
	later    map[int32]time.Time // partitions that are not to be read yet
	stageErr error
	barriers int
	reads    int
	// barrierGate, where not nil, holds back barriers until it is closed.
	barrierGate chan struct{}
	// gate, where not nil, holds back the outcomes of what was staged until it is closed.
	gate chan struct{}
	wg   sync.WaitGroup
}

type subscription struct {
	refs []state.PartitionRef
	ch   chan<- struct{}
}

func newCluster(t testing.TB) *cluster {
	return &cluster{
		t: t, seqs: make(map[[16]byte]uint64), full: newState(), batches: make(map[state.PartitionRef][]stored), reserved: 1000,
	}
}

func newState() *state.State { return state.New(state.Identity{ID: [16]byte{7}, Epoch: 1}) }

// join adds an agent with an address on the listener "kafka".
func (c *cluster) join(host string) *agent {
	a := &agent{cluster: c, incarnation: [16]byte{byte(len(c.agents) + 1)}, st: newState(), subs: make(map[*subscription]bool)}
	c.mu.Lock()
	c.agents = append(c.agents, a)
	c.mu.Unlock()
	res := c.commit(a.incarnation, &entry.Join{
		Name: host, Zone: "zone-" + host, MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{
			{Name: "other", Host: "not-" + host, Port: 1}, {Name: "kafka", Host: host, Port: 9092},
		},
	})
	a.nodeID = res.NodeID
	a.catchUp()
	c.t.Cleanup(a.wg.Wait)
	return a
}

// coordinate makes the agents own the slots of groups in turn.
func (c *cluster) coordinate(agents ...*agent) {
	c.t.Helper()
	if res := c.commit(agents[0].incarnation, &entry.SetFeatureLevel{Level: state.MaxFeatureLevel}); res.Code != state.OK {
		c.t.Fatalf("feature level: %v", res.Code)
	}
	for i := range state.Slots {
		a := agents[i%len(agents)]
		if res := c.commit(a.incarnation, &entry.ClaimSlot{Slot: uint32(i), Owner: a.incarnation}); res.Code != state.OK {
			c.t.Fatalf("claim slot %d: %v", i, res.Code)
		}
	}
}

// commit orders an op. Agents that are not behind apply it.
func (c *cluster) commit(incarnation [16]byte, op entry.Op) state.OpResult {
	c.mu.Lock()
	c.seqs[incarnation]++
	e := entry.Entry{
		Format: entry.Format, FeatureLevel: entry.Level(op), Incarnation: incarnation, Seq: c.seqs[incarnation],
		ClockMs: time.Now().UnixMilli(), Ops: []entry.Op{op},
	}
	c.entries = append(c.entries, e.AppendTo(nil))
	r := apply(c.t, c.full, c.entries)
	res := r.Ops[0]
	res.Batches = slices.Clone(res.Batches)
	agents := slices.Clone(c.agents)
	c.mu.Unlock()
	for _, a := range agents {
		a.ctlMu.Lock()
		behind := a.behind
		a.ctlMu.Unlock()
		if !behind {
			a.catchUp()
		}
	}
	return res
}

// apply brings st up to the entries and returns the results of the last.
func apply(t testing.TB, st *state.State, entries [][]byte) *state.Results {
	r := &state.Results{}
	for n := st.N(); n < uint64(len(entries)); n++ {
		e, err := entry.Parse(entries[n])
		if err == nil {
			err = st.Apply(n+1, entries[n], e, r)
		}
		if err != nil || r.EntryCode != state.OK {
			t.Errorf("entry %d: %v, %v", n+1, r.EntryCode, err)
			return &state.Results{Ops: []state.OpResult{{Code: state.InvalidRequest}}}
		}
	}
	return r
}

// catchUp applies everything and wakes who waits.
func (a *agent) catchUp() {
	a.mu.Lock()
	entries := a.entries
	a.mu.Unlock()
	a.stMu.Lock()
	for n := a.st.N(); n < uint64(len(entries)); n++ {
		r := apply(a.t, a.st, entries[:n+1])
		a.notify(r.Changed)
	}
	a.stMu.Unlock()
}

func (a *agent) notify(changed []state.PartitionRef) {
	a.subsMu.Lock()
	defer a.subsMu.Unlock()
	for s := range a.subs {
		if s.refs == nil || slices.ContainsFunc(s.refs, func(ref state.PartitionRef) bool { return slices.Contains(changed, ref) }) {
			select {
			case s.ch <- struct{}{}:
			default:
			}
		}
	}
}

// with changes the agent's behaviour.
func (a *agent) with(change func(*agent)) {
	a.ctlMu.Lock()
	defer a.ctlMu.Unlock()
	change(a)
}

func (a *agent) Propose(ctx context.Context, op entry.Op) (state.OpResult, error) {
	a.ctlMu.Lock()
	err := a.proposeErr
	a.ctlMu.Unlock()
	if err != nil {
		return state.OpResult{}, err
	}
	res := a.commit(a.incarnation, op)
	a.catchUp()
	return res, ctx.Err()
}

// Offer orders op at once.
func (a *agent) Offer(op entry.Op, done func(state.OpResult, error)) (withdraw func()) {
	a.Submit(op, done)
	return func() {}
}

// Submit orders op at once.
func (a *agent) Submit(op entry.Op, done func(state.OpResult, error)) {
	done(a.Propose(context.Background(), op))
}

// SubscribeCluster sends after every entry.
func (a *agent) SubscribeCluster(ch chan<- struct{}) func() {
	s := &subscription{ch: ch}
	a.subsMu.Lock()
	a.subs[s] = true
	a.subsMu.Unlock()
	return func() {
		a.subsMu.Lock()
		delete(a.subs, s)
		a.subsMu.Unlock()
	}
}

func (a *agent) Incarnation() log.Incarnation { return a.incarnation }

func (a *agent) Sure() time.Duration {
	if a.unsure.Load() {
		return 0
	}
	return time.Hour
}

func (a *agent) View(fn func(*state.State)) {
	a.stMu.RLock()
	defer a.stMu.RUnlock()
	fn(a.st)
}

func (a *agent) Barrier(ctx context.Context) error {
	a.ctlMu.Lock()
	a.barriers++
	err, gate := a.barrierErr, a.barrierGate
	a.ctlMu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
	if err == nil {
		a.catchUp()
	}
	return errors.Join(err, ctx.Err())
}

func (a *agent) Subscribe(refs []state.PartitionRef, ch chan<- struct{}) func() {
	s := &subscription{refs: slices.Clone(refs), ch: ch}
	a.subsMu.Lock()
	a.subs[s] = true
	a.subsMu.Unlock()
	return func() {
		a.subsMu.Lock()
		delete(a.subs, s)
		a.subsMu.Unlock()
	}
}

func (a *agent) subscriptions() int {
	a.subsMu.Lock()
	defer a.subsMu.Unlock()
	return len(a.subs)
}

func (a *agent) ReserveProducerID(ctx context.Context) (int64, error) {
	a.ctlMu.Lock()
	err := a.proposeErr
	a.ctlMu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reserved++
	return a.reserved, errors.Join(err, ctx.Err())
}

func (a *agent) NodeID() int32 { return a.nodeID }

func (a *agent) ClusterID() string { return "BwAAAAAAAAAAAAAAAAAAAA" }

// Stage orders the parts in the order of calls and keeps their bytes. The outcome comes from another goroutine.
func (a *agent) Stage(ctx context.Context, parts []*ingest.Part, done func()) error {
	a.ctlMu.Lock()
	gate, err := a.gate, a.stageErr
	a.ctlMu.Unlock()
	if err := errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	for _, p := range parts {
		a.append(p)
	}
	a.wg.Go(func() {
		if gate != nil {
			<-gate
		}
		for _, p := range parts {
			// Until it is released the batch must be as it was, however many requests came since.
			if err := batch.VerifyCRC(p.Records); err != nil {
				a.t.Errorf("a staged batch changed: %v", err)
			}
			p.Release()
		}
		done()
	})
	return nil
}

func (a *agent) append(p *ingest.Part) {
	p.BaseOffset, p.Timestamp, p.LogStartOffset = -1, -1, -1
	a.mu.Lock()
	a.objects++
	object := entry.ObjectID{Incarnation: a.incarnation, Seq: a.objects, CollectionEpoch: 1}
	a.mu.Unlock()
	block := entry.Block{Topic: p.Topic, Partition: uint32(p.Partition)}
	h := p.Header
	block.AddBatch(uint64(len(p.Records)), uint64(h.Span()), h.MaxTimestamp, entry.Producer{
		ID: h.ProducerID, Epoch: h.ProducerEpoch, BaseSequence: h.BaseSequence,
	})
	raw := slices.Clone(p.Records)
	ref := state.PartitionRef{Topic: p.Topic, Partition: p.Partition}
	res := a.commit(a.incarnation, &entry.Append{Object: object, ObjectSize: uint64(len(raw)) + 100, Blocks: []entry.Block{block}})
	a.catchUp()
	if res.Code != state.OK {
		p.Code = res.Code
		return
	}
	b := res.Batches[0]
	p.Code, p.LogStartOffset = b.Code, b.LogStartOffset
	if b.Code == state.Duplicate {
		p.Code = state.OK
	}
	if p.Code != state.OK {
		return
	}
	if p.BaseOffset = b.BaseOffset; p.LogAppendTime {
		p.Timestamp = b.Timestamp
	}
	if b.Code == state.Duplicate {
		return
	}
	batch.StampBase(raw, b.BaseOffset, 0)
	if p.LogAppendTime {
		batch.StampLogAppendTime(raw, b.Timestamp)
	}
	a.mu.Lock()
	a.batches[ref] = append(a.batches[ref], stored{b.BaseOffset, b.BaseOffset + h.Span(), raw})
	a.mu.Unlock()
	for _, other := range a.agents { // a reader may have seen the entry before its bytes
		other.notify([]state.PartitionRef{ref})
	}
}

func (a *agent) ReadTo(
	ctx context.Context, topic entry.UUID, partition int32, offset int64, maxBytes int, out *fetch.Out, atLeastOne bool,
) (fetch.Result, error) {
	a.ctlMu.Lock()
	a.reads++
	err, stuck := a.readErr, a.stuck[partition]
	later := time.Now().Before(a.later[partition])
	a.ctlMu.Unlock()
	if stuck {
		<-ctx.Done()
		err = fmt.Errorf("%w: %w", fetch.ErrUnavailable, context.Cause(ctx))
	}
	if err != nil {
		out.Own = append(out.Own, "garbage"...)
		return fetch.Result{}, err
	}
	var res fetch.Result
	a.View(func(st *state.State) {
		p := st.TopicByID(topic).Partition(int(partition))
		res = fetch.Result{HighWatermark: p.Next(), LastStable: p.LastStable(), LogStart: p.LogStart(), NextOffset: p.Next()}
	})
	if later {
		res.NextOffset, res.Later = offset, true
		return res, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	start := len(out.Own)
	for _, b := range a.batches[state.PartitionRef{Topic: topic, Partition: partition}] {
		if b.end <= offset || b.base >= res.HighWatermark {
			continue
		}
		if len(out.Own)-start+len(b.raw) > maxBytes && (len(out.Own) > start || !atLeastOne) {
			res.NextOffset = b.base
			break
		}
		out.Own = append(out.Own, b.raw...)
	}
	return res, nil
}

var errNoTimestamps = fmt.Errorf("%w: no timestamps here", fetch.ErrUnavailable)

// OffsetForTimestamp goes by whole batches.
func (a *agent) OffsetForTimestamp(_ context.Context, topic entry.UUID, partition int32, ts int64) (int64, int64, error) {
	a.ctlMu.Lock()
	err := a.readErr
	a.ctlMu.Unlock()
	if err != nil {
		return -1, -1, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.batches[state.PartitionRef{Topic: topic, Partition: partition}] {
		if h, err := batch.ParseHeader(b.raw); err != nil {
			return -1, -1, errNoTimestamps
		} else if h.MaxTimestamp >= ts {
			return b.base, h.MaxTimestamp, nil
		}
	}
	return -1, -1, nil
}

func (a *agent) MaxTimestamp(_ context.Context, topic entry.UUID, partition int32) (int64, int64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	offset, most := int64(-1), int64(-1)
	for _, b := range a.batches[state.PartitionRef{Topic: topic, Partition: partition}] {
		if h, err := batch.ParseHeader(b.raw); err != nil {
			return -1, -1, errNoTimestamps
		} else if h.MaxTimestamp > most {
			offset, most = b.end-1, h.MaxTimestamp
		}
	}
	return offset, most, nil
}
