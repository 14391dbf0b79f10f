package group

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// Group is one group in its coordinator's memory. Functions that Ask and Propose run have it locked; nobody else may use it.
type Group struct {
	c     *Coordinator
	id    string
	slot  int
	epoch uint64

	mu sync.Mutex // guards the rest, but for what belongs to timers
	// gone: not in memory any more, and of no use to anybody.
	gone bool
	// failed: the log refused a write, or the agent is unsure what it owns. It stays in memory, refusing everything, until all that
	// was proposed is settled: the state says only then what there is.
	failed bool
	loaded bool
	// machine is nil where the state has no group of this id, or only its offsets.
	machine step.Machine
	waiting map[step.Waiter]chan<- step.Answer
	// proposed and applied count the ops of writes; the latter those that are settled. Invariant: applied <= proposed.
	proposed, applied uint64
	since             time.Time // when applied last fell behind
	// calls is how many ops of Propose are under way.
	calls int
	held  []held // answers that wait for ops, in order

	due   time.Time // of timers
	timer int       // of timers: its index in the heap, -1 where it is not in there
}

// held are answers that leave when so many ops are applied.
type held struct {
	after   uint64
	answers []step.Answer
}

// ID is the group's.
func (g *Group) ID() string { return g.id }

// Machine is the group's machine: nil where there is nothing but offsets, if that.
func (g *Group) Machine() step.Machine { return g.machine }

// SetMachine replaces the group's machine, as when a group changes its protocol.
func (g *Group) SetMachine(m step.Machine) { g.machine = m }

// Classic returns the group's machine where it is of the classic protocol. With create, a group that has none gets one. nil
// where the group is of another protocol, or not there.
func (g *Group) Classic(create bool) *classic.Group {
	if g.machine == nil && create {
		g.machine = classic.New(g.id, &g.c.cfg.Classic)
	}
	m, _ := g.machine.(*classic.Group)
	return m
}

// load fills the group from the state, once.
func (g *Group) load() Code {
	if g.loaded {
		return step.None
	}
	var have state.Group
	var members []step.Member
	found := false
	g.c.meta.View(func(st *state.State) {
		x := st.Group(g.id)
		if x == nil {
			return
		}
		found = true
		have = state.Group{Kind: x.Kind, Generation: x.Generation, Record: x.Record, Complete: x.Complete}
		for id, record := range x.Members() {
			members = append(members, step.Member{ID: id, Record: record})
		}
	})
	if found {
		m, err := g.restore(&have, members)
		if err != nil {
			g.c.cfg.Logger.Error("cannot load a consumer group; it is not served", "group", g.id, "error", err)
			return step.UnknownServerError
		}
		g.machine = m
	}
	g.loaded = true
	return step.None
}

// restore makes a machine of what the state has.
func (g *Group) restore(have *state.Group, members []step.Member) (step.Machine, error) {
	each := func(yield func(string, []byte) bool) {
		for i := range members {
			if !yield(members[i].ID, members[i].Record) {
				return
			}
		}
	}
	switch have.Kind {
	case step.KindSimple:
		return nil, nil //nolint:nilnil // there is none, and that is no error
	case step.KindClassic:
		return classic.Load(g.id, &g.c.cfg.Classic, have.Generation, have.Record, have.Complete, each, time.Now())
	case step.KindConsumer:
		return consumer.Load(&g.c.cfg.Consumer, g.id, have.Generation, have.Record, each, have.Complete, time.Now())
	}
	return nil, fmt.Errorf("groups of kind %d are of a newer firn", have.Kind)
}

// await registers a request.
func (g *Group) await(w step.Waiter, ch chan<- step.Answer) {
	if g.waiting == nil {
		g.waiting = make(map[step.Waiter]chan<- step.Answer)
	}
	g.waiting[w] = ch
}

// run does what a step of the machine led to. Functions that Ask runs return theirs instead.
func (g *Group) run(eff step.Effects) {
	for _, line := range eff.Notes {
		g.c.cfg.Logger.Info("consumer group", "group", g.id, "what", line)
	}
	if eff.Write != nil {
		g.c.cfg.Metrics.writes.Inc()
		g.write(eff.Write)
	}
	switch {
	case len(eff.Answers) == 0:
	case g.applied == g.proposed:
		g.tell(eff.Answers)
	default:
		g.held = append(g.held, held{g.proposed, eff.Answers})
	}
	g.downgrade()
}

// tell answers those who still wait.
func (g *Group) tell(answers []step.Answer) {
	for _, a := range answers {
		if ch := g.waiting[a.To]; ch != nil {
			delete(g.waiting, a.To)
			ch <- a // has room for it
		}
	}
}

// opBytesMax is how much of a write goes into one op: several fit an entry of the log.
const opBytesMax = 384 << 10

// write proposes a change, in as many ops as it takes.
func (g *Group) write(w *step.Write) {
	op := func() *entry.UpdateGroup {
		return &entry.UpdateGroup{
			Slot: uint32(g.slot), Epoch: g.epoch, Group: g.id, Generation: w.Generation, Kind: w.Kind, Record: w.Record,
		}
	}
	next := op()
	size := len(w.Record)
	for _, id := range w.Removes {
		if size += len(id); size > opBytesMax {
			g.propose(next)
			next, size = op(), len(w.Record)
		}
		next.Removes = append(next.Removes, id)
	}
	for i := range w.Puts {
		n := len(w.Puts[i].ID) + len(w.Puts[i].Record)
		if size += n; size > opBytesMax {
			g.propose(next)
			next, size = op(), len(w.Record)+n
		}
		next.Puts = append(next.Puts, entry.GroupMember{ID: w.Puts[i].ID, Record: w.Puts[i].Record})
	}
	next.Complete = true
	g.propose(next)
}

func (g *Group) propose(op entry.Op) {
	if g.applied == g.proposed {
		g.since = time.Now()
	}
	g.proposed++
	g.c.meta.Submit(op, func(res state.OpResult, err error) { g.c.done.add(completion{g, res.Code, err}) })
}

// settled takes what became of an op of a write.
func (g *Group) settled(code state.Code, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return
	}
	g.applied++
	switch {
	case err == nil && code == state.OK:
	case g.failed:
	case err == nil && code == state.StaleCoordinator:
		g.fail(step.NotCoordinator)
		g.c.wakeManage()
	default:
		if !errors.Is(err, metastore.ErrClosed) {
			g.c.cfg.Logger.Error("a consumer group's change was refused; it is loaded again", "group", g.id, "code", code, "error", err)
		}
		g.fail(step.NotAvailable)
	}
	if g.failed {
		g.rest()
		return
	}
	n := 0
	for ; n < len(g.held) && g.held[n].after <= g.applied; n++ {
		g.tell(g.held[n].answers)
	}
	g.held = g.held[n:]
	if g.applied == g.proposed {
		g.held = nil
		if now := time.Now(); now.Sub(g.since) > g.c.cfg.LateMax && g.machine != nil {
			g.machine.Renew(now)
		}
		g.rest()
	}
}

// fail refuses everything from here on.
func (g *Group) fail(code Code) {
	g.failed, g.machine, g.held = true, nil, nil
	g.answerAll(code)
	g.c.timers.remove(g)
}

func (g *Group) answerAll(code Code) {
	for w, ch := range maps.All(g.waiting) {
		ch <- step.Answer{To: w, Code: code} // has room for it
	}
	g.waiting = nil
}

// end takes the group out of memory.
func (g *Group) end(code Code) {
	if g.gone {
		return
	}
	g.gone, g.machine, g.held = true, nil, nil
	g.answerAll(code)
	g.c.timers.remove(g)
	g.c.cfg.Metrics.groups.Dec()
	g.c.mu.Lock()
	if s := &g.c.slots[g.slot]; s.groups[g.id] == g {
		delete(s.groups, g.id)
	}
	g.c.mu.Unlock()
}

// Forget takes the group out of memory, as after it was deleted. Whoever asks next loads it again, once everything that was
// proposed is settled: only then does the state say what there is.
func (g *Group) Forget() { g.discard(step.NotAvailable) }

func (g *Group) discard(code Code) {
	switch {
	case g.gone:
	case g.applied < g.proposed:
		g.fail(code)
	default:
		g.end(code)
	}
}

// release unlocks the group after a request.
func (g *Group) release() {
	g.rest()
	g.mu.Unlock()
}

// rest leaves the group: its timer is set, or it goes out of memory.
func (g *Group) rest() {
	switch {
	case g.gone, g.failed && (g.applied < g.proposed || g.calls > 0):
	case g.failed:
		g.end(step.NotAvailable)
	case g.applied < g.proposed || g.calls > 0 || len(g.waiting) > 0 || g.machine != nil && !g.machine.Idle():
		if g.machine != nil {
			g.c.timers.set(g, g.machine.Deadline())
		}
	default:
		g.end(step.NotAvailable)
	}
}

// abandon forgets a request.
func (g *Group) abandon(w step.Waiter) {
	g.mu.Lock()
	if _, ok := g.waiting[w]; ok && !g.gone && !g.failed {
		delete(g.waiting, w)
		if g.machine != nil {
			g.run(g.machine.Abandon(w, time.Now()))
		}
		g.rest()
	}
	g.mu.Unlock()
}

// tick does what is due. late is by how much the timer was.
func (g *Group) tick(now time.Time, late time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone || g.failed || g.machine == nil {
		return
	}
	if g.applied < g.proposed { // settled sets the timer again
		return
	}
	if late > g.c.cfg.LateMax || g.c.unheard() {
		g.machine.Renew(now)
	}
	g.run(g.machine.Tick(now))
	g.rest()
}
