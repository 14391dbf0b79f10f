package agent

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/firnlog/firn/agent/peer"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// An agent whose process died leaves its registration behind for as long as its lease lasts, and until then its groups have
// nobody. The host that it ran on knows better: it refuses connections to its internal listener. So agents look out for each
// other, each for the next few by node id, and end the registration of one that is gone. That is a guess that may be wrong
// and costs little then: no entry of an ended registration takes effect, whoever still lives notices and joins again. It must
// not be wrong again and again, as it would be where a firewall refuses in the host's name: nobody is taken for gone who has not
// been met.
//
// A host that vanished, or a process that stands still, refuses nothing. For these the lease decides, as before.

const (
	// lookEvery is how often an agent is looked at, and goneAfter how often in a row it must have been found gone.
	lookEvery = 500 * time.Millisecond
	goneAfter = 2
	// lookAfter is how many agents each one looks after.
	lookAfter = 2
)

// sight is what a look at an agent found.
type sight int8

const (
	sawNothing sight = iota // no answer: that says nothing
	sawIt
	sawNobody // its host refuses, or another process answers in its place
)

// acquaintance is what is known of an agent that is looked after.
type acquaintance struct {
	met  bool
	gone int // how often in a row nobody was there
}

// note takes a look into account and says whether the agent is gone.
func (q *acquaintance) note(s sight) (gone bool) {
	switch s {
	case sawIt:
		q.met, q.gone = true, 0
	case sawNobody:
		if q.gone++; q.met && q.gone >= goneAfter {
			q.gone = 0
			return true
		}
	}
	return false
}

// charge is an agent to look after.
type charge struct {
	incarnation log.Incarnation
	node        int32
	name        string
	internal    string
}

// charges are the agents that the one of a node id looks after: the next few by node id, in a ring.
func charges(agents []state.Agent, me int32) (after []charge) {
	for _, a := range agents {
		if a.NodeID == me {
			continue
		}
		for _, l := range a.Listeners {
			if l.Name == peer.ListenerName {
				after = append(after, charge{log.Incarnation(a.Incarnation), a.NodeID, a.Name, net.JoinHostPort(l.Host, strconv.Itoa(int(l.Port)))})
			}
		}
	}
	slices.SortFunc(after, func(a, b charge) int { return cmp.Compare(uint32(a.node-me), uint32(b.node-me)) })
	return after[:min(len(after), lookAfter)]
}

// lookOut looks after other agents until ctx ends.
func (a *Agent) lookOut(ctx context.Context) {
	known := make(map[log.Incarnation]*acquaintance)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var after []charge
		a.meta.View(func(st *state.State) { after = charges(st.Agents(), a.meta.NodeID()) })
		seen := make([]sight, len(after))
		var looking sync.WaitGroup
		for i, c := range after {
			looking.Go(func() { seen[i] = a.look(ctx, c) })
		}
		looking.Wait()
		now, met := make(map[log.Incarnation]*acquaintance, len(after)), int32(0)
		for i, c := range after {
			q := known[c.incarnation]
			if q == nil {
				q = new(acquaintance)
			}
			now[c.incarnation] = q
			if q.note(seen[i]) && ctx.Err() == nil {
				a.bury(ctx, c)
			}
			if q.met {
				met++
			}
		}
		known = now
		a.met.Store(met)
	}
}

// look looks at an agent once.
func (a *Agent) look(ctx context.Context, c charge) sight {
	ctx, cancel := context.WithTimeout(ctx, 2*lookEvery)
	defer cancel()
	switch h, err := a.peers.Hello(ctx, c.internal); {
	case err == nil && h.Incarnation == c.incarnation.String():
		return sawIt
	case err == nil && h.Process == a.process:
		return sawNothing // this very process: the address means something else there
	case err == nil && h.Incarnation != "", errors.Is(err, syscall.ECONNREFUSED):
		return sawNobody
	}
	return sawNothing
}

// bury ends the registration of an agent that is gone, and says so in the log. The one first: what it may still have under way
// must not take effect afterwards.
func (a *Agent) bury(ctx context.Context, c charge) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.BarrierTimeout)
	defer cancel()
	if err := a.log.Unregister(ctx, c.incarnation); err != nil {
		a.parts.Logger.Warn("an agent is gone, and its registration cannot be ended; it lapses by itself", "agent", c.name, "incarnation", c.incarnation, "error", err)
		return
	}
	a.parts.Logger.Info("removing an agent that is gone: nobody is at its internal listener", "agent", c.name, "node_id", c.node, "incarnation", c.incarnation, "internal", c.internal)
	a.meta.Submit(&entry.Leave{Incarnation: c.incarnation}, func(state.OpResult, error) {})
}
