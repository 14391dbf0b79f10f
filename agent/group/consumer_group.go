package group

import (
	"context"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
)

// ConsumerHeartbeat takes a ConsumerGroupHeartbeat: of a member that joins, leaves, or is told what it has. Of a refusal the answer has
// the message. NewMemberID is filled in here.
func (c *Coordinator) ConsumerHeartbeat(ctx context.Context, group string, req consumer.Heartbeat) (consumer.HeartbeatAnswer, Code, error) {
	if code, why := req.Check(group); code != step.None {
		return consumer.HeartbeatAnswer{Message: why}, code, nil
	}
	if req.MemberID == "" {
		req.NewMemberID = memberID(req.ClientID)
	}
	a, err := c.Ask(ctx, group, func(g *Group, w step.Waiter, now time.Time) (eff step.Effects) {
		if c.alone.Load() {
			eff.Answer(w, step.NotAvailable, nil)
			return eff
		}
		return g.consumerHeartbeat(&req, w, now)
	})
	answer, _ := a.Body.(consumer.HeartbeatAnswer)
	return answer, a.Code, err
}

func (g *Group) consumerHeartbeat(req *consumer.Heartbeat, w step.Waiter, now time.Time) (eff step.Effects) {
	topics := topicsOf{g.c}
	refused := func(code Code, why string) step.Effects {
		eff.Answer(w, code, consumer.HeartbeatAnswer{Message: why})
		return eff
	}
	switch m := g.machine.(type) {
	case *consumer.Group:
		return m.Heartbeat(w, now, req, topics)
	case *classic.Group:
		d, gone := m.Handover()
		if req.MemberEpoch != 0 {
			// Kafka says GROUP_ID_NOT_FOUND, on which its clients give up. They join anew when they are told this.
			return refused(step.UnknownMemberID, "Member "+req.MemberID+" is not a member of the group, which is a classic one.")
		}
		if d.State != classic.Empty {
			if code, why := consumer.Upgrades(&g.c.cfg.Consumer, d); code != step.None {
				return refused(code, why)
			}
		}
		return g.replaced(consumer.FromClassic(&g.c.cfg.Consumer, g.id, d, gone, topics, now), req, w, now, m)
	case nil:
		if req.MemberEpoch != 0 {
			return refused(step.UnknownMemberID, "Member "+req.MemberID+" is not a member of the group, which has none.")
		}
		return g.replaced(consumer.New(&g.c.cfg.Consumer, g.id, 0), req, w, now, nil)
	}
	return refused(step.GroupIDNotFound, "The group is not a consumer group.")
}

// replaced has a new machine take a heartbeat, and the group, where it does not refuse. former is the classic machine that it had, if any.
func (g *Group) replaced(m *consumer.Group, req *consumer.Heartbeat, w step.Waiter, now time.Time, former *classic.Group) step.Effects {
	eff := m.Heartbeat(w, now, req, topicsOf{g.c})
	if eff.Answers[0].Code != step.None {
		return eff
	}
	g.machine = m
	if former != nil {
		former.Dismiss(&eff)
		if former.State() != classic.Empty {
			eff.Note("upgraded from the classic to the consumer protocol")
		}
	}
	return eff
}

// downgrade makes the group a classic one where its last member of the consumer protocol has gone.
func (g *Group) downgrade() {
	m, ok := g.machine.(*consumer.Group)
	if !ok || !m.Downgrades() {
		return
	}
	next, eff := classic.From(g.id, &g.c.cfg.Classic, m.Classic(topicsOf{g.c}), time.Now())
	eff.Note("downgraded from the consumer to the classic protocol")
	g.machine = next
	g.run(eff)
}

// classicFor returns the machine that serves a classic member: one of both, or none. Where a group of the consumer protocol has no
// members left, one that joins makes it a classic one.
func (g *Group) classicFor(joins bool) (*classic.Group, *consumer.Group) {
	m, ok := g.machine.(*consumer.Group)
	if ok && (m.Members() > 0 || !joins) {
		return nil, m
	}
	if ok {
		g.machine, _ = classic.From(g.id, &g.c.cfg.Classic, classic.Description{Generation: m.Generation()}, time.Now())
	}
	return g.Classic(joins), nil
}

// DescribeConsumer describes a group of the consumer protocol; one of another, or that is not there, is GroupIDNotFound.
func (c *Coordinator) DescribeConsumer(ctx context.Context, group string) (consumer.Description, Code, error) {
	a, err := c.Ask(ctx, group, func(g *Group, w step.Waiter, _ time.Time) (eff step.Effects) {
		if m, ok := g.machine.(*consumer.Group); ok {
			eff.Answer(w, step.None, m.Describe())
		} else {
			eff.Answer(w, step.GroupIDNotFound, nil)
		}
		return eff
	})
	d, _ := a.Body.(consumer.Description)
	return d, a.Code, err
}
