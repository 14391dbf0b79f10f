package group

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
)

// prefixBytesMax is how much of a client's id goes into the ids of its members.
const prefixBytesMax = 200

// memberID makes an id that nobody has, which says whose it is.
func memberID(prefix string) string {
	if len(prefix) > prefixBytesMax {
		prefix = prefix[:prefixBytesMax]
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%s-%x-%x-%x-%x-%x", strings.ToValidUTF8(prefix, "?"), b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Join takes a JoinGroup and waits until the group's next generation has formed. What is answered beside the code is never
// nil. NewID is filled in here.
func (c *Coordinator) Join(ctx context.Context, group string, req classic.JoinRequest) (*classic.Joined, Code, error) {
	req.NewID = memberID(req.ClientID)
	if req.InstanceID != "" {
		req.NewID = memberID(req.InstanceID)
	}
	a, err := c.Ask(ctx, group, func(g *Group, w step.Waiter, now time.Time) (eff step.Effects) {
		code := step.UnknownMemberID
		m, upgraded := g.classicFor(req.MemberID == "")
		switch {
		case c.alone.Load():
			code = step.NotAvailable
		case upgraded != nil:
			if code = c.cfg.Classic.CheckJoin(&req); code == step.None {
				return upgraded.Join(&req, w, now, topicsOf{c})
			}
		case m != nil:
			return m.Join(&req, w, now)
		case g.Machine() != nil:
			code = step.InconsistentProtocol
		}
		eff.Answer(w, code, nil)
		return eff
	})
	joined, _ := a.Body.(*classic.Joined)
	if joined == nil {
		joined = &classic.Joined{Generation: -1, MemberID: req.MemberID}
	}
	return joined, a.Code, err
}

// Sync takes a SyncGroup and waits for the leader's assignments. The body is nil where it was refused.
func (c *Coordinator) Sync(ctx context.Context, group string, req classic.SyncRequest) (*classic.Synced, Code, error) {
	a, err := c.Ask(ctx, group, func(g *Group, w step.Waiter, now time.Time) (eff step.Effects) {
		m, upgraded := g.classicFor(false)
		switch {
		case c.alone.Load():
			eff.Answer(w, step.NotAvailable, nil)
		case upgraded != nil:
			return upgraded.Sync(&req, w, now, topicsOf{c})
		case m == nil:
			eff.Answer(w, step.UnknownMemberID, nil)
		default:
			return m.Sync(&req, w, now)
		}
		return eff
	})
	synced, _ := a.Body.(*classic.Synced)
	return synced, a.Code, err
}

// Heartbeat keeps a member alive and says whether it has to join again.
func (c *Coordinator) Heartbeat(ctx context.Context, group, memberID, instanceID string, generation int32) (Code, error) {
	a, err := c.Ask(ctx, group, func(g *Group, w step.Waiter, now time.Time) (eff step.Effects) {
		code := step.UnknownMemberID
		if m, upgraded := g.classicFor(false); m != nil {
			code = m.Heartbeat(memberID, instanceID, generation, now)
		} else if upgraded != nil {
			code = upgraded.ClassicHeartbeat(memberID, instanceID, generation, now)
		}
		eff.Answer(w, code, nil)
		return eff
	})
	return a.Code, err
}

// Leave removes members: a code for each of them, or one for all.
func (c *Coordinator) Leave(ctx context.Context, group string, members []classic.LeaveRequest) ([]Code, Code, error) {
	a, err := c.Ask(ctx, group, func(g *Group, w step.Waiter, now time.Time) (eff step.Effects) {
		if m, upgraded := g.classicFor(false); m != nil {
			return m.Leave(members, w, now)
		} else if upgraded != nil {
			return upgraded.Leave(members, w, now)
		}
		codes := make([]Code, len(members))
		for i := range codes {
			codes[i] = step.UnknownMemberID
		}
		eff.Answer(w, step.None, codes)
		return eff
	})
	codes, _ := a.Body.([]Code)
	return codes, a.Code, err
}
