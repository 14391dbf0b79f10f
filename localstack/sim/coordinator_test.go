package sim_test

import (
	"context"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// cutGroup is the group of a life whose coordinator is cut off.
const cutGroup = "readers of stays"

// cutFrom is when in the storm that begins: its members have had time to join.
const cutFrom = 4 * time.Second

// cutLasts is how long it lasts: beyond the agent's lease, what it may believe without a word from the log, and a session, in which whoever
// coordinates in its place removes the members that it keeps.
func (p *plan) cutLasts() time.Duration { return 2*p.ttl + memberSession + 5*time.Second }

// sureFor is how long an agent may count on what it has applied without another word from the log.
func (p *plan) sureFor() time.Duration { return p.ttl / 3 * 2 }

// cutCoordinator cuts the agent that coordinates the readers off from the log. Members reach it all the time, and the others as well: once a
// successor has claimed, connections to it break, and each member asks whomever it likes for the coordinator. Until it is over members
// do nothing that a coordinator would have to write: one that waits for the log answers nobody in its group, whatever it believes.
func (l *life) cutCoordinator(ctx context.Context) {
	defer l.still.Store(false)
	r := stream(l.plan.seed, "cut coordinator")
	if !pause(ctx, cutFrom) {
		return
	}
	n := l.coordinatorOf(cutGroup, nil)
	if n == nil {
		return // nobody coordinates in this weather
	}
	refuses := r.IntN(2) == 0
	l.logf("%s befalls %s, refusing: %v", coordinatorCut, n.name, refuses)
	l.count(coordinatorCut, 1)
	n.cut(1, refuses)
	defer n.cut(-1, refuses)
	broken := l.plan.ttl/4*5 + time.Second + time.Duration(r.Int64N(int64(2*time.Second)))
	for _, d := range []time.Duration{broken, l.plan.cutLasts() - broken} {
		select {
		case <-time.After(d):
			if next := l.coordinatorOf(cutGroup, n); next != nil && next != n {
				l.sometimes("cut_coordinators_followed")
			}
			l.net.Cut(n.address)
		case <-l.healed:
			return
		}
	}
}

// coordinatorOf is where the group's coordinator runs, by what any agent but one has applied.
func (l *life) coordinatorOf(group string, but *node) (at *node) {
	for _, n := range l.nodes {
		a := n.running()
		if a == nil || n == but {
			continue
		}
		name := ""
		a.Metastore().View(func(st *state.State) {
			if owner, ok := st.AgentByIncarnation(st.Slot(state.SlotOf(group)).Owner); ok {
				name = owner.Name
			}
		})
		for _, other := range l.nodes {
			if other.name == name {
				return other
			}
		}
	}
	return nil
}

// asked is a request to a coordinator.
type asked struct {
	at time.Time
	of *node
	// cutSince is since when the agent had been cut off then, where that was the first that it ever missed of the log; else zero.
	cutSince time.Time
}

// word is an answer of success that a member was given by who coordinates its group, or believes to.
type word struct {
	asked
	slot int
	what string
	came time.Time
}

// hears notes that a member was told that all is well.
func (l *life) hears(m *member, what string) {
	w := word{asked: m.asked, slot: state.SlotOf(m.group.name), what: m.name + ": " + what, came: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.words = append(l.words, w)
}

// quietLog says that nothing but partitions befalls what agents hear of the log, and that no lease ends but by lapsing.
func (p *plan) quietLog() bool {
	for _, f := range [...]fault{logLatency, commitAmbiguous, commitDropped, commitLate, commitNoSpace, watchLose, watchRepeat, watchLate, watchStall, watchEnd,
		watchCompact, leaseExpire, leaseHidden, membersStale, agentKill, agentDrain} {
		if p.on[f] {
			return false
		}
	}
	return true
}

// holding is that an agent became a slot's owner.
type holding struct {
	since time.Time
	owner string
}

// holdings are the owners of each slot, in order.
type holdings [state.Slots][]holding

// note takes the claims of an entry that was applied.
func (h *holdings) note(st *state.State, e *log.Entry, decoded *entry.Entry, r *state.Results, at time.Time) {
	for i := range decoded.Ops {
		claim, ok := decoded.Ops[i].(*entry.ClaimSlot)
		if !ok || i >= len(r.Ops) || r.Ops[i].Code != state.OK {
			continue
		}
		if owner, ok := st.AgentByIncarnation(claim.Owner); ok && st.Slot(int(claim.Slot)).Epoch == e.N {
			h[claim.Slot] = append(h[claim.Slot], holding{at, owner.Name})
		}
	}
}

// usurped returns when another was first given the slot, where node had no part in it from then until an answer came; zero where it was the owner.
func (h *holdings) usurped(slot int, node string, asked, came time.Time) (since time.Time) {
	for _, x := range h[slot] {
		switch {
		case x.since.After(came):
			return since
		case x.owner == node:
			since = time.Time{}
		case since.IsZero() && x.since.After(asked):
			return since // it was the owner when it was asked
		case since.IsZero():
			since = x.since
		}
	}
	return since
}

// judgeWords holds what members were told to who owned their groups' slots. An agent that has heard everything that was committed before some
// moment may answer for two thirds of a lease from then on, and no longer. So nobody is told anything by a coordinator that has had a
// successor for longer than that; and nothing at all by one that was cut off while it was the coordinator, since its lease has not lapsed by then.
func (l *life) judgeWords(h *holdings) {
	l.mu.Lock()
	words := l.words
	l.words = nil
	l.mu.Unlock()
	quiet := l.plan.quietLog()
	for _, w := range words {
		since := h.usurped(w.slot, w.of.name, w.at, w.came)
		if since.IsZero() {
			continue
		}
		grace := l.plan.sureFor()
		if quiet && !w.cutSince.IsZero() && since.Sub(w.cutSince) > time.Second {
			grace = 0
		}
		if late := w.at.Sub(since); late >= grace {
			l.find("usurped", "%s answered well by %s, asked %v after another had claimed the group", w.what, w.of.name, late)
		}
	}
}
