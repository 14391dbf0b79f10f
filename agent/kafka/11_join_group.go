package kafka

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/step"
)

// JoinGroup (11), versions 0 to 9. Version 0 has no rebalance timeout; from 4 on a client is given its id first and comes
// back with it; from 5 on there are static members, from 9 on leaders that need not assign.

// errCrowded ends a wait for other members.
var errCrowded = errors.New("others wait for the memory that requests behind this one hold, or the client sends nothing more")

// leisurely runs fn, which waits for others, without holding what the request took of the memory that all share. It ends
// the wait where requests behind this one hold some that is needed, and where the client sends nothing more and may be gone;
// then crowded is true, and fn's error of no matter. Before it returns it takes room for an answer of answerBytes.
func (s *Server) leisurely(ctx context.Context, r *request, fn func(ctx context.Context) (answerBytes int, err error)) (crowded bool, err error) {
	c := r.conn
	r.held.give(c)
	c.charged.Store(false)
	select {
	case <-c.crowded: // was meant for a request before it
	default:
	}
	waiting, cancel := context.WithCancelCause(ctx)
	over := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-c.crowded:
			cancel(errCrowded)
		case <-c.hungUp:
			cancel(errCrowded)
		case <-over:
		}
	}()
	n, err := fn(waiting)
	close(over)
	<-ended
	cancel(nil)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if errors.Is(err, errCrowded) {
		crowded, n = true, 0
	} else if err != nil {
		return false, err
	}
	if err := r.held.take(ctx, c, int64(n)+namedAnswer); err != nil {
		return false, err
	}
	c.charged.Store(r.held.n > 0)
	return crowded, nil
}

func (s *Server) joinGroup(ctx context.Context, r *request, req *kmsg.JoinGroupRequest) (reply, error) {
	join := classic.JoinRequest{
		MemberID: req.MemberID, InstanceID: orEmpty(req.InstanceID), ClientID: r.clientID, Host: r.conn.host(),
		SessionTimeout: millis(req.SessionTimeoutMillis), RebalanceTimeout: millis(req.RebalanceTimeoutMillis),
		ProtocolType: req.ProtocolType, Reason: orEmpty(req.Reason), KnownIDs: req.Version >= 4, SkipsAssignment: req.Version >= 9,
	}
	if req.Version == 0 {
		join.RebalanceTimeout = join.SessionTimeout
	}
	for i := range req.Protocols {
		join.Protocols = append(join.Protocols, classic.Protocol{Name: req.Protocols[i].Name, Metadata: req.Protocols[i].Metadata})
	}
	group := req.Group
	joined, code := &classic.Joined{Generation: -1, MemberID: req.MemberID}, step.NotAvailable
	crowded, err := s.leisurely(ctx, r, func(ctx context.Context) (int, error) {
		j, c, err := s.groups.Join(ctx, group, join)
		if err != nil {
			return 0, err
		}
		joined, code = j, c
		n := 0
		for i := range j.Members {
			n += namedAnswer + len(j.Members[i].Metadata)
		}
		return n, nil
	})
	if err != nil {
		return reply{}, err
	}
	if crowded {
		code = step.NotAvailable
	}
	res := kmsg.NewPtrJoinGroupResponse()
	res.Version, res.ErrorCode, res.MemberID = req.Version, s.groupCode(keyJoinGroup, code), joined.MemberID
	res.Generation = -1
	if code != step.None {
		return say(res), nil
	}
	res.Generation, res.LeaderID, res.SkipAssignment = joined.Generation, joined.Leader, joined.SkipAssignment
	res.ProtocolType, res.Protocol = &joined.ProtocolType, &joined.Protocol
	for i := range joined.Members {
		m := kmsg.NewJoinGroupResponseMember()
		m.MemberID, m.InstanceID, m.ProtocolMetadata = joined.Members[i].ID, orNull(joined.Members[i].InstanceID), joined.Members[i].Metadata
		res.Members = append(res.Members, m)
	}
	return say(res), nil
}

// groupCode is a group's code for an answer, and counts it where it is an error.
func (s *Server) groupCode(key int16, code step.Code) int16 {
	if code != step.None {
		s.cfg.Metrics.failed(key, errorCode(code))
	}
	return int16(code)
}

// host is the client's address as groups show it.
func (c *conn) host() string {
	if host, _, err := net.SplitHostPort(c.nc.RemoteAddr().String()); err == nil {
		return "/" + host
	}
	return "/" + c.nc.RemoteAddr().String()
}

func millis(ms int32) time.Duration { return time.Duration(ms) * time.Millisecond }

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
