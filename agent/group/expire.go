package group

import (
	"context"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// What groups committed does not stay for ever. It goes by ops that the slot's owner proposes, judged on log time: the state
// machine by itself forgets nothing. As in Kafka:
//
//	a group without members         OffsetsRetention after the last member left and the last commit of the partition
//	a group that never had any      OffsetsRetention after the last commit of the partition
//	a group with members            the same, of topics that none of them reads, while it is stable and they say what they read
//	a commit with its own time      (retention_time, versions 2 to 4) at that time, in a group as above
//
// An op names how old a commit may be, so that one that comes in between stays. A group that is left with neither members nor
// offsets is deleted.

// nothingToDo ends a Propose that has nothing to propose; no caller sees it.
const nothingToDo = step.InvalidRequest

// expire looks through the groups of this agent's slots from time to time.
func (c *Coordinator) expire() {
	ticker := time.NewTicker(c.cfg.ExpireInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.expireAll(c.ctx)
		case <-c.ctx.Done():
			return
		}
	}
}

func (c *Coordinator) expireAll(ctx context.Context) {
	me := c.meta.Incarnation()
	for i := range state.Slots {
		var ids []string
		c.meta.View(func(st *state.State) {
			if st.Slot(i).Owner != me {
				return
			}
			for g := range st.GroupsOf(i) {
				if c.mayExpire(g, st.LogTime()) {
					ids = append(ids, g.ID)
				}
			}
		})
		for _, id := range ids {
			if ctx.Err() != nil {
				return
			}
			c.expireGroup(ctx, id)
		}
	}
}

// mayExpire is a first look that does not ask what members read.
func (c *Coordinator) mayExpire(g *state.Group, now int64) bool {
	if g.OffsetCount() == 0 {
		return c.abandoned(g, now)
	}
	for o := range g.Offsets() {
		if c.overdue(&o, 0, now) {
			return true
		}
	}
	return false
}

// abandoned says whether a group has neither members nor offsets, for long enough that nobody is about to come back.
func (c *Coordinator) abandoned(g *state.Group, now int64) bool {
	return g.OffsetCount() == 0 && g.MemberCount() == 0 && now-g.UpdatedMs >= c.cfg.ExpireInterval.Milliseconds()
}

// overdue says whether an offset may go that nobody has needed since.
func (c *Coordinator) overdue(o *state.Offset, since, now int64) bool {
	if o.ExpireMs >= 0 {
		return now >= o.ExpireMs
	}
	return now-max(o.CommitMs, since) >= c.cfg.OffsetsRetention.Milliseconds()
}

// expireGroup removes what is overdue of a group, and the group where nothing is left.
func (c *Coordinator) expireGroup(ctx context.Context, id string) {
	for {
		removed := 0
		res, code, err := c.Propose(ctx, id, func(g *Group, _ time.Time) (OpMaker, Code) {
			list, notAfter := g.overdue()
			if removed = len(list); removed == 0 {
				return nil, nothingToDo
			}
			return func(slot uint32, epoch uint64) entry.Op {
				return &entry.DeleteOffsets{Slot: slot, Epoch: epoch, Group: id, Offsets: list, NotAfterMs: notAfter}
			}, step.None
		})
		if err != nil || code != step.None || res.Code != state.OK {
			break
		}
		c.cfg.Metrics.expired.Add(float64(removed))
		c.cfg.Logger.Info("committed offsets have expired", "group", id, "partitions", removed)
		if removed < deletedPerOp {
			break
		}
	}
	res, code, err := c.Propose(ctx, id, func(g *Group, _ time.Time) (OpMaker, Code) {
		idle := g.machine == nil || g.machine.Idle()
		left := false
		c.meta.View(func(st *state.State) {
			x := st.Group(id)
			left = x != nil && c.abandoned(x, st.LogTime())
		})
		// What is under way may be a commit, and the op would take it along.
		if !idle || !left || g.calls > 0 || g.applied < g.proposed {
			return nil, nothingToDo
		}
		return func(slot uint32, epoch uint64) entry.Op {
			return &entry.DeleteGroup{Slot: slot, Epoch: epoch, Group: id}
		}, step.None
	})
	if err == nil && code == step.None && res.Code == state.OK {
		c.cfg.Logger.Info("a consumer group without members and offsets is gone", "group", id)
	}
}

// overdue lists offsets of the group that may go, as many as fit an op, and the log time of the youngest of them. Requires: it is
// locked.
func (g *Group) overdue() (list []entry.GroupPartition, notAfter int64) {
	reads := func(entry.UUID) bool { return false }
	if g.machine != nil && !g.machine.Idle() {
		if m, ok := g.machine.(*classic.Group); ok && m.State() != classic.Stable {
			return nil, 0
		}
		var code Code
		if reads, code = g.reading(); code != step.None { // they do not say
			return nil, 0
		}
	}
	g.c.meta.View(func(st *state.State) {
		x := st.Group(g.id)
		if x == nil {
			return
		}
		since := int64(0)
		if x.Kind != entry.GroupSimple && x.MemberCount() == 0 {
			since = x.UpdatedMs
		}
		for o := range x.Offsets() {
			if len(list) == deletedPerOp {
				return
			}
			if g.c.overdue(&o, since, st.LogTime()) && !reads(o.Topic) {
				list = append(list, entry.GroupPartition{Topic: o.Topic, Partition: uint32(o.Partition)})
				notAfter = max(notAfter, o.CommitMs)
			}
		}
	})
	return list, notAfter
}
