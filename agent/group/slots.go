package group

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// retryPause is after how long a claim that was refused is tried again if nothing happens before.
const retryPause = time.Second

// groupsLevel is the feature level from which on there are groups.
const groupsLevel = 2

// manager is what the goroutine that looks after slots remembers.
type manager struct {
	c *Coordinator
	// seen is since when each live agent has been there, as far as this one knows.
	seen map[[16]byte]time.Time
	// leaving are live agents that gave away a slot that preferred them: they drain.
	leaving map[[16]byte]bool
	owners  [state.Slots]state.Slot // as of the last look
	vacant  [state.Slots]time.Time  // since when a slot has had no live owner
	loaded  [state.Slots]uint64     // epoch under which its groups with members were loaded
	// regained is Coordinator's, as of when they were.
	regained uint64
	began    bool
}

// manage claims slots, hands them over and lets go of them, as agents come and go.
func (c *Coordinator) manage() {
	changed := make(chan struct{}, 1)
	defer c.meta.SubscribeCluster(changed)()
	m := &manager{c: c, seen: make(map[[16]byte]time.Time), leaving: make(map[[16]byte]bool)}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-changed:
		case <-c.kick:
		case <-timer.C:
		case <-c.ctx.Done():
			return
		}
		timer.Stop()
		now := time.Now()
		if next := m.look(now); !next.IsZero() {
			timer.Reset(next.Sub(now))
		}
	}
}

// look does what there is to do now, and says when to look again even if nothing happens; zero: no need.
func (m *manager) look(now time.Time) (next time.Time) {
	again := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	me := [16]byte(m.c.meta.Incarnation())
	var agents []state.Agent
	var slots [state.Slots]state.Slot
	level := uint32(0)
	m.c.meta.View(func(st *state.State) {
		agents, level = st.Agents(), st.FeatureLevel()
		for i := range slots {
			slots[i] = st.Slot(i)
		}
	})
	live := m.meet(agents, now)
	if level < groupsLevel { // some agent does not know of groups yet
		return now.Add(retryPause)
	}
	if n := m.c.regained.Load(); n != m.regained {
		m.regained = n
		clear(m.loaded[:])
	}
	draining := m.c.draining.Load()
	claims, given := 0, 0
	for i := range slots {
		s := slots[i]
		m.watch(i, s, agents, live)
		prefers := m.order(i, agents, func(id [16]byte) bool { return !m.leaving[id] && !(draining && id == me) })
		switch {
		case s.Owner == me && live[me]:
			m.vacant[i] = time.Time{}
			if !m.hold(i, s.Epoch) {
				again(now.Add(retryPause))
			}
			if len(prefers) == 0 || prefers[0] == me {
				break
			}
			if at := m.seen[prefers[0]].Add(m.c.cfg.SettleTime); !draining && now.Before(at) {
				again(at)
			} else {
				again(now.Add(retryPause)) // where the claim is refused
				if m.c.claim(i, s.Epoch, prefers[0]) {
					given++
				}
			}
		case live[s.Owner]:
			m.vacant[i] = time.Time{}
			m.c.drop(i, s.Epoch, step.NotCoordinator)
		default:
			m.c.drop(i, s.Epoch, step.NotAvailable)
			if m.vacant[i].IsZero() {
				m.vacant[i] = now
			}
			for rank, id := range prefers {
				if id != me {
					continue
				}
				if at := m.vacant[i].Add(time.Duration(rank) * m.c.cfg.VacantStep); now.Before(at) {
					again(at)
				} else {
					again(now.Add(retryPause))
					if m.c.claim(i, s.Epoch, me) {
						claims++
					}
				}
			}
		}
	}
	m.began = true
	if claims > 0 {
		m.c.cfg.Logger.Info("claiming slots of consumer groups that nobody coordinates", "slots", claims)
	}
	if given > 0 {
		m.c.cfg.Logger.Info("handing over slots of consumer groups", "slots", given, "draining", draining)
	}
	if draining && !m.othersStay(agents, me) {
		m.c.strand()
	}
	return next
}

// meet notes who is live.
func (m *manager) meet(agents []state.Agent, now time.Time) (live map[[16]byte]bool) {
	live = make(map[[16]byte]bool, len(agents))
	for i := range agents {
		id := agents[i].Incarnation
		live[id] = true
		if _, ok := m.seen[id]; !ok {
			m.seen[id] = now
		}
	}
	for id := range m.seen {
		if !live[id] {
			delete(m.seen, id)
			delete(m.leaving, id)
		}
	}
	return live
}

// watch finds out who drains: a live agent that has lost a slot that prefers it gave it away.
func (m *manager) watch(i int, s state.Slot, agents []state.Agent, live map[[16]byte]bool) {
	was := m.owners[i]
	m.owners[i] = s
	if !m.began || was.Epoch == s.Epoch || was.Owner == s.Owner || !live[was.Owner] || m.leaving[was.Owner] {
		return
	}
	if prefers := m.order(i, agents, func(id [16]byte) bool { return !m.leaving[id] }); len(prefers) > 0 && prefers[0] == was.Owner {
		m.leaving[was.Owner] = true
	}
}

// order lists the agents that ok accepts, the one that the slot prefers first.
func (m *manager) order(slot int, agents []state.Agent, ok func([16]byte) bool) [][16]byte {
	list := make([][16]byte, 0, len(agents))
	weights := make([]uint64, 0, len(agents))
	for i := range agents {
		if !ok(agents[i].Incarnation) {
			continue
		}
		w := weight(slot, agents[i].NodeID)
		at := len(weights)
		for at > 0 && weights[at-1] < w {
			at--
		}
		weights = append(weights[:at], append([]uint64{w}, weights[at:]...)...)
		list = append(list[:at], append([][16]byte{agents[i].Incarnation}, list[at:]...)...)
	}
	return list
}

// weight orders agents for a slot: the highest is preferred. All agents have to agree on it, or slots would go to and fro.
func weight(slot int, nodeID int32) uint64 {
	var b [8]byte
	binary.BigEndian.PutUint32(b[:], uint32(slot))
	binary.BigEndian.PutUint32(b[4:], uint32(nodeID))
	x := binary.BigEndian.Uint64(b[:]) + 0x9e3779b97f4a7c15
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func (m *manager) othersStay(agents []state.Agent, me [16]byte) bool {
	for i := range agents {
		if id := agents[i].Incarnation; id != me && !m.leaving[id] {
			return true
		}
	}
	return false
}

// hold makes sure that a slot of ours is looked after: the sessions of its members run. false: not yet, of all of them.
func (m *manager) hold(i int, epoch uint64) bool {
	m.c.adopt(i, epoch)
	switch {
	case m.loaded[i] == epoch:
		return true
	case m.c.unheard():
		return false
	}
	m.loaded[i] = epoch
	var ids []string
	m.c.meta.View(func(st *state.State) {
		for g := range st.GroupsOf(i) {
			if g.MemberCount() > 0 {
				ids = append(ids, g.ID)
			}
		}
	})
	for _, id := range ids {
		g, code := m.c.acquire(id)
		switch code {
		case step.None:
			g.release()
		case step.NotAvailable: // nothing is heard, or what was proposed about it is not settled
			m.loaded[i] = 0
		default: // it is not ours any more, or was logged
		}
	}
	if len(ids) > 0 {
		m.c.cfg.Logger.Debug("consumer groups loaded", "slot", i, "groups", len(ids))
	}
	return m.loaded[i] == epoch
}

// claim proposes that owner has the slot, behind everything that was proposed about its groups, unless such a claim is
// under way.
func (c *Coordinator) claim(i int, epoch uint64, owner [16]byte) bool {
	c.mu.Lock()
	under := c.slots[i].claiming
	if under == 0 {
		c.slots[i].claiming = epoch + 1
	}
	c.mu.Unlock()
	if under != 0 {
		return false
	}
	c.meta.Submit(&entry.ClaimSlot{Slot: uint32(i), Epoch: epoch, Owner: owner}, func(res state.OpResult, err error) {
		c.mu.Lock()
		c.slots[i].claiming = 0
		c.mu.Unlock()
		switch {
		case err != nil: // the metastore's client has ended, and this agent with it
			c.cut.Store(true)
		case res.Code == state.OK:
			c.wakeManage()
		}
	})
	return true
}

// strand answers everybody who waits: this agent drains, and nobody takes over.
func (c *Coordinator) strand() {
	if c.alone.Swap(true) {
		return
	}
	defer close(c.lonely)
	c.discardAll(step.NotAvailable)
}

// Members is how many members the groups have that this agent coordinates, by what it has applied.
func (c *Coordinator) Members() (n int) {
	me := c.meta.Incarnation()
	for i := range state.Slots {
		c.meta.View(func(st *state.State) {
			if st.Slot(i).Owner != me {
				return
			}
			for g := range st.GroupsOf(i) {
				n += g.MemberCount()
			}
		})
	}
	return n
}

// HandOver gives every slot to another agent, and returns when none is left, or when nobody is there to take them. Requests
// that wait are answered so that clients look for the coordinator again; nothing may wait afterwards. It is for an agent that
// is about to leave: there is no way back.
func (c *Coordinator) HandOver(ctx context.Context) error {
	c.draining.Store(true)
	changed := make(chan struct{}, 1)
	defer c.meta.SubscribeCluster(changed)()
	c.wakeManage()
	again := time.NewTicker(retryPause / 4) // for what is no change of the cluster: nobody is there
	defer again.Stop()
	for {
		me := [16]byte(c.meta.Incarnation())
		mine := 0
		c.meta.View(func(st *state.State) {
			if _, joined := st.AgentByIncarnation(me); !joined { // others take what was its
				return
			}
			for i := range state.Slots {
				if st.Slot(i).Owner == me {
					mine++
				}
			}
		})
		switch {
		case mine == 0 || c.alone.Load():
			return nil
		case c.cut.Load():
			c.strand()
			return nil
		}
		c.wakeManage()
		select {
		case <-changed:
		case <-c.lonely:
		case <-again.C:
		case <-ctx.Done():
			c.strand()
			return fmt.Errorf("hand over %d slots of consumer groups: %w", mine, context.Cause(ctx))
		case <-c.ctx.Done():
			return nil
		}
	}
}
