package group_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// oneLog is a metastore of one agent, in memory: what is submitted is applied at once, or when release is called.
type oneLog struct {
	t  testing.TB
	me log.Incarnation
	// sure is for how long; see group.Meta.
	sure atomic.Int64

	mu    sync.RWMutex // guards the rest
	st    *state.State
	seqs  map[[16]byte]uint64
	held  bool
	queue []submitted
	err   error // outcome of what is submitted from now on; nothing is applied
	subs  map[chan<- struct{}]bool
}

type submitted struct {
	op   entry.Op
	done func(state.OpResult, error)
}

func newOneLog(t testing.TB) *oneLog {
	l := &oneLog{t: t, me: log.Incarnation{1}, st: state.New(state.Identity{ID: [16]byte{7}, Epoch: 1}), seqs: make(map[[16]byte]uint64), subs: make(map[chan<- struct{}]bool)}
	l.sure.Store(int64(time.Hour))
	l.must(l.me, &entry.Join{Name: "a", MaxFeatureLevel: 2})
	l.must(l.me, &entry.SetFeatureLevel{Level: 2})
	return l
}

// must has an incarnation do something.
func (l *oneLog) must(by log.Incarnation, op entry.Op) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if res := l.applyLocked(by, op); res.Code != state.OK {
		l.t.Fatalf("%T: %v", op, res.Code)
	}
}

func (l *oneLog) applyLocked(by log.Incarnation, op entry.Op) state.OpResult {
	l.seqs[by]++
	e := entry.Entry{
		Format: entry.Format, FeatureLevel: l.st.FeatureLevel(), Incarnation: by, Seq: l.seqs[by], ClockMs: time.Now().UnixMilli(), Ops: []entry.Op{op},
	}
	b := e.AppendTo(nil)
	parsed, err := entry.Parse(b)
	r := &state.Results{}
	if err == nil {
		err = l.st.Apply(l.st.N()+1, b, parsed, r)
	}
	if err != nil || r.EntryCode != state.OK {
		l.t.Errorf("%T: %v, %v", op, err, r.EntryCode)
		return state.OpResult{Code: state.InvalidRequest}
	}
	if r.SlotsChanged || r.AgentsChanged || r.TopicsChanged {
		for ch := range l.subs {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
	return r.Ops[0]
}

func (l *oneLog) Submit(op entry.Op, done func(state.OpResult, error)) {
	l.mu.Lock()
	l.queue = append(l.queue, submitted{op, done})
	l.mu.Unlock()
	l.pump(false)
}

func (l *oneLog) Offer(op entry.Op, done func(state.OpResult, error)) (withdraw func()) {
	l.Submit(op, done)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.queue = slices.DeleteFunc(l.queue, func(x submitted) bool { return x.op == op })
	}
}

// pump settles what waits.
func (l *oneLog) pump(force bool) {
	l.mu.Lock()
	type outcome struct {
		done func(state.OpResult, error)
		res  state.OpResult
		err  error
	}
	var out []outcome
	for len(l.queue) > 0 && (force || !l.held) {
		x := l.queue[0]
		l.queue = l.queue[1:]
		if l.err != nil {
			out = append(out, outcome{x.done, state.OpResult{}, l.err})
			continue
		}
		out = append(out, outcome{x.done, l.applyLocked(l.me, x.op), nil})
	}
	l.mu.Unlock()
	for _, o := range out {
		o.done(o.res, o.err)
	}
}

func (l *oneLog) hold()    { l.mu.Lock(); l.held = true; l.mu.Unlock() }
func (l *oneLog) release() { l.mu.Lock(); l.held = false; l.mu.Unlock(); l.pump(true) }

func (l *oneLog) View(fn func(*state.State)) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	fn(l.st)
}

func (l *oneLog) SubscribeCluster(ch chan<- struct{}) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subs[ch] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.subs, ch)
	}
}

func (l *oneLog) Incarnation() log.Incarnation { return l.me }

func (l *oneLog) Sure() time.Duration { return time.Duration(l.sure.Load()) }

// topic makes a topic and returns its id.
func (l *oneLog) topic(name string, partitions uint32) entry.UUID {
	l.t.Helper()
	id := entry.UUID{name[0]}
	l.must(l.me, &entry.CreateTopic{Name: name, ID: id, Partitions: partitions, ReplicationFactor: 1})
	return id
}

// tick lets the log's clock move on to now.
func (l *oneLog) tick() { l.must(l.me, &entry.ReserveProducerIDs{Count: 1}) }

// offset is what a group has committed; -1: nothing.
func (l *oneLog) offset(id string, topic entry.UUID, partition int32) int64 {
	at := int64(-1)
	l.View(func(st *state.State) {
		if g := st.Group(id); g != nil {
			if o, ok := g.Offset(topic, partition); ok {
				at = o.Offset
			}
		}
	})
	return at
}

func (l *oneLog) exists(id string) (ok bool) {
	l.View(func(st *state.State) { ok = st.Group(id) != nil })
	return ok
}

// coordinator is one that owns every slot, closed with the test.
func coordinator(t testing.TB, l *oneLog, tune ...func(*group.Config)) *group.Coordinator {
	t.Helper()
	cfg := group.Config{}
	for _, f := range tune {
		f(&cfg)
	}
	c, err := group.New(cfg, l)
	if err != nil {
		t.Fatal(err)
	}
	for i := range state.Slots {
		l.must(l.me, &entry.ClaimSlot{Slot: uint32(i), Owner: l.me})
	}
	c.Start()
	t.Cleanup(c.Close)
	return c
}

// slotOf is the slot of a group and its coordinator epoch.
func (l *oneLog) slotOf(id string) (slot uint32, epoch uint64) {
	i := state.SlotOf(id)
	l.View(func(st *state.State) { epoch = st.Slot(i).Epoch })
	return uint32(i), epoch
}

// fail lets everything end with an error and an open outcome.
func (l *oneLog) fail(err error) {
	l.mu.Lock()
	l.err, l.held = err, false
	l.mu.Unlock()
	l.pump(true)
}
