package group

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// Code is a Kafka error code; package step has them.
type Code = step.Code

// Meta is what groups need of metastore.Client.
type Meta interface {
	// Submit proposes op behind everything that was submitted before. done is called once, when it was applied or with an
	// error when its outcome is unknown, and must not block.
	Submit(op entry.Op, done func(state.OpResult, error))
	// Offer is Submit; withdraw takes op back unless it is on its way already, and done is then never called.
	Offer(op entry.Op, done func(state.OpResult, error)) (withdraw func())
	// View runs fn under the state's read lock.
	View(fn func(*state.State))
	// SubscribeCluster sends on ch, without blocking, whenever agents, slots or topics changed.
	SubscribeCluster(ch chan<- struct{}) (cancel func())
	// Incarnation is this agent's; it changes when its registration was lost.
	Incarnation() log.Incarnation
	// Sure is for how long from now what is applied here may be counted on to say who owns a slot, without another word from the
	// log; 0 or less: others may have removed this agent.
	Sure() time.Duration
}

// Config are the tunables; the zero value of each is its default.
type Config struct {
	Classic  classic.Config
	Consumer consumer.Config
	// SettleTime is how long an agent has to have been there before slots that prefer it are handed to it. Default 1 s.
	SettleTime time.Duration
	// VacantStep is how long an agent leaves a slot without an owner to each of those whom it prefers. Default 500 ms.
	VacantStep time.Duration
	// LateMax is how late a timer may be, or how long the log may take, before silence is not held against members: their
	// sessions start anew. Default 1 s.
	LateMax time.Duration
	// OffsetsRetention is for how long, of log time, a group without members keeps what it committed, and a group with members what
	// it committed for topics that it does not read any more. Default 7 days.
	OffsetsRetention time.Duration
	// ExpireInterval is how often that is looked at. Default 10 min.
	ExpireInterval time.Duration

	// Logger gets one line per change of a slot and per rebalance. Default: discard.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&c.SettleTime, time.Second}, {&c.VacantStep, 500 * time.Millisecond}, {&c.LateMax, time.Second},
		{&c.OffsetsRetention, 7 * 24 * time.Hour}, {&c.ExpireInterval, 10 * time.Minute}} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < 0 {
			errs = append(errs, errors.New("group: a duration is negative"))
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	errs = append(errs, c.Classic.Validate(), c.Consumer.Validate())
	c.Consumer.ClassicMembersMax = c.Classic.SizeMax
	return errors.Join(errs...)
}

// Coordinator coordinates the groups of the slots that this agent owns. Safe for concurrent use.
type Coordinator struct {
	cfg  Config
	meta Meta

	waiters  atomic.Uint64 // the last Waiter given out
	draining atomic.Bool
	// alone: draining, and nobody is there to take over. Nothing may wait any more.
	alone  atomic.Bool
	lonely chan struct{} // closed when alone is set
	// cut: what this agent proposes does not arrive any more.
	cut atomic.Bool
	// unsure: so long was nothing heard from the log that nobody is answered. regained is how often that was over.
	unsure   atomic.Bool
	regained atomic.Uint64
	kick     chan struct{} // makes manage look
	timers   timers
	done     completions
	names    topicNames

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards the rest
	slots [state.Slots]slot
}

// slot is one of the slots as far as it is ours.
type slot struct {
	epoch  uint64 // under which it is; 0: it is not
	groups map[string]*Group
	// claiming is the epoch that a claim under way expects, plus one; 0: none is.
	claiming uint64
}

// topicNames are the names of all topics, for groups that match expressions with them.
type topicNames struct {
	mu      sync.Mutex // guards the rest
	version uint64     // that list is of; 0: none yet
	list    []string   // replaced, never modified
}

// New makes a coordinator; Start lets it claim slots.
func New(cfg Config, meta Meta) (*Coordinator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Coordinator{cfg: cfg, meta: meta, kick: make(chan struct{}, 1), lonely: make(chan struct{})}
	c.timers.wake, c.done.wake = make(chan struct{}, 1), make(chan struct{}, 1)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Start starts the coordinator's goroutines; Close ends them.
func (c *Coordinator) Start() {
	for _, loop := range []func(){c.manage, c.keepTime, c.settle, c.expire, c.watchSure} {
		c.wg.Go(loop)
	}
}

// Close ends everything; who waits is told to look for the coordinator again. Safe twice.
func (c *Coordinator) Close() {
	c.cancel()
	c.wg.Wait()
	for i := range state.Slots {
		c.drop(i, math.MaxUint64, step.NotAvailable)
	}
}

// GroupIDBytesMax bounds a group's id.
const GroupIDBytesMax = state.MaxGroupID

// validID says whether a group may have this id.
func validID(id string) bool { return id != "" && len(id) <= GroupIDBytesMax && utf8.ValidString(id) }

// OwnerOf says which agent coordinates a group by what this one has applied: its node id, -1 where nobody does, or where it would be
// this agent and it is unsure of that: who is sent away must not be sent back here.
func (c *Coordinator) OwnerOf(id string) (nodeID int32, mine bool) {
	nodeID = -1
	me := c.meta.Incarnation()
	c.meta.View(func(st *state.State) {
		s := st.Slot(state.SlotOf(id))
		if a, ok := st.AgentByIncarnation(s.Owner); ok {
			nodeID, mine = a.NodeID, s.Owner == me
		}
	})
	if mine && c.unheard() {
		return -1, false
	}
	return nodeID, mine
}

// Ask runs fn with the group, locked and loaded, and waits until fn's machine has answered w, which fn passes to it. Where the
// group is not this agent's to coordinate the answer says so, and fn does not run. An error is the context's: nobody waits
// any more.
func (c *Coordinator) Ask(ctx context.Context, id string, fn func(g *Group, w step.Waiter, now time.Time) step.Effects) (step.Answer, error) {
	g, code := c.acquire(id)
	if code != step.None {
		return step.Answer{Code: code}, nil
	}
	return c.answer(ctx, g, func(w step.Waiter) step.Effects { return fn(g, w, time.Now()) })
}

// answer runs fn with a waiter of its own, releases the group, and waits for the answer.
func (c *Coordinator) answer(ctx context.Context, g *Group, fn func(w step.Waiter) step.Effects) (step.Answer, error) {
	w := step.Waiter(c.waiters.Add(1))
	ch := make(chan step.Answer, 1)
	g.await(w, ch)
	g.run(fn(w))
	g.release()
	select {
	case a := <-ch:
		return a, nil
	case <-ctx.Done():
		g.abandon(w)
		return step.Answer{}, context.Cause(ctx)
	}
}

// OpMaker makes an op for a slot and its coordinator epoch.
type OpMaker func(slot uint32, epoch uint64) entry.Op

// Propose runs fn with the group, locked and loaded. Where fn's code is None its op is proposed behind all others of the group,
// and Propose returns the result once it is applied. A code that is not None says that it was not applied, except for
// NotAvailable, where that is unknown. An error is the context's: the outcome is unknown too.
func (c *Coordinator) Propose(ctx context.Context, id string, fn func(g *Group, now time.Time) (OpMaker, Code)) (state.OpResult, Code, error) {
	g, code := c.acquire(id)
	if code != step.None {
		return state.OpResult{}, code, nil
	}
	op, code := fn(g, time.Now())
	if code != step.None { // true once all is applied that it was judged by
		a, err := c.answer(ctx, g, func(w step.Waiter) step.Effects { return step.Effects{Answers: []step.Answer{{To: w, Code: code}}} })
		return state.OpResult{}, a.Code, err
	}
	type outcome struct {
		res  state.OpResult
		lost bool // what became of it is unknown
	}
	ch := make(chan outcome, 1)
	withdraw := c.meta.Offer(op(uint32(g.slot), g.epoch), func(res state.OpResult, err error) {
		res.Batches, res.Offsets = nil, append([]state.Code(nil), res.Offsets...)
		ch <- outcome{res, err != nil}
	})
	g.calls++
	g.release()
	defer func() {
		g.mu.Lock()
		g.calls--
		g.release()
	}()
	select {
	case o := <-ch:
		switch {
		case o.lost:
			return o.res, step.NotAvailable, nil
		case o.res.Code == state.StaleCoordinator:
			return o.res, step.NotCoordinator, nil
		}
		return o.res, step.None, nil
	case <-ctx.Done():
		withdraw()
		return state.OpResult{}, step.NotAvailable, context.Cause(ctx)
	}
}

// acquire returns the group locked and loaded, where its slot is ours; release unlocks it.
func (c *Coordinator) acquire(id string) (*Group, Code) {
	if !validID(id) {
		return nil, step.InvalidGroupID
	}
	at := state.SlotOf(id)
	for {
		epoch, code := c.own(at)
		if code != step.None {
			return nil, code
		}
		g := c.find(at, epoch, id)
		if g == nil { // lost since
			continue
		}
		g.mu.Lock()
		switch {
		case g.gone:
			g.mu.Unlock()
		case g.failed:
			g.mu.Unlock()
			return nil, step.NotAvailable
		default:
			if code := g.load(); code != step.None {
				g.release()
				return nil, code
			}
			return g, step.None
		}
	}
}

// own returns the epoch under which the slot is ours, or what to answer where it is not.
func (c *Coordinator) own(at int) (epoch uint64, code Code) {
	me := c.meta.Incarnation()
	var s state.Slot
	var live, joined bool
	c.meta.View(func(st *state.State) {
		s = st.Slot(at)
		_, live = st.AgentByIncarnation(s.Owner)
		_, joined = st.AgentByIncarnation(me)
	})
	switch {
	case s.Owner == me && joined && c.unheard():
		return 0, step.NotAvailable
	case s.Owner == me && joined:
		c.adopt(at, s.Epoch)
		return s.Epoch, step.None
	case live:
		return 0, step.NotCoordinator
	default:
		return 0, step.NotAvailable
	}
}

// find returns the group's place, nil where the slot is not ours under this epoch.
func (c *Coordinator) find(at int, epoch uint64, id string) *Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.slots[at]
	if s.epoch != epoch {
		return nil
	}
	g := s.groups[id]
	if g == nil {
		g = &Group{c: c, id: id, slot: at, epoch: epoch, timer: -1}
		s.groups[id] = g
		c.cfg.Metrics.groups.Inc()
	}
	return g
}

// adopt begins to coordinate a slot under an epoch, unless it does so already or under a later one; fresh says that it began.
func (c *Coordinator) adopt(at int, epoch uint64) (fresh bool) {
	c.mu.Lock()
	have := c.slots[at].epoch
	c.mu.Unlock()
	if have >= epoch {
		return false
	}
	if have != 0 {
		c.drop(at, have, step.NotCoordinator)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.slots[at]
	if s.epoch >= epoch {
		return false
	}
	s.epoch, s.groups = epoch, make(map[string]*Group)
	c.cfg.Metrics.slots.Inc()
	c.wakeManage() // which loads the groups that have members
	return true
}

// drop ends coordinating a slot under epochs up to this one: whoever waits is told code.
func (c *Coordinator) drop(at int, epoch uint64, code Code) {
	c.mu.Lock()
	s := &c.slots[at]
	if s.epoch == 0 || s.epoch > epoch {
		c.mu.Unlock()
		return
	}
	groups := s.groups
	s.epoch, s.groups = 0, nil
	c.mu.Unlock()
	c.cfg.Metrics.slots.Dec()
	for _, g := range groups {
		g.mu.Lock()
		g.end(code)
		g.mu.Unlock()
	}
}

func (c *Coordinator) wakeManage() { wake(c.kick) }

func wake(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// completions are ops that were settled, in the log's order, until somebody looks: the applier must not wait for a group.
type completions struct {
	wake chan struct{}
	mu   sync.Mutex // guards list
	list []completion
}

type completion struct {
	g    *Group
	code state.Code
	err  error
}

func (q *completions) add(x completion) {
	q.mu.Lock()
	q.list = append(q.list, x)
	q.mu.Unlock()
	wake(q.wake)
}

// settle passes what became of ops on to their groups.
func (c *Coordinator) settle() {
	for {
		select {
		case <-c.done.wake:
		case <-c.ctx.Done():
			return
		}
		c.done.mu.Lock()
		list := c.done.list
		c.done.list = nil
		c.done.mu.Unlock()
		for i := range list {
			list[i].g.settled(list[i].code, list[i].err)
		}
	}
}
