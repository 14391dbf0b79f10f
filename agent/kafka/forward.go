package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/peer"
	"github.com/firnlog/firn/metastore/state"
)

// Behind a load balancer (Config.Balancer) clients see one broker, and send it what is another agent's to answer. Such requests
// are passed on here, before and around the handlers, which know nothing of it:
//
//   - that name one group go, as they came, to the agent that coordinates it. Whatever goes wrong on the way, this agent then
//     answers by itself: since the group is not its own, with the code by which clients look for the coordinator, in the
//     shape that the request's version has. Where it has become its own meanwhile, the request is served. That a request may
//     so be done twice is what clients do anyway when an answer is lost.
//   - that name several are split, and what the agents answer is put together.
//   - that clients ask of every broker, and sum up, are asked of every agent.
//
// A request that was passed on is not passed on again: two agents may each believe in the other for a moment.

// Peers is how a server asks other agents: peer.Client.
type Peers interface {
	// Forward brings a request to an agent and returns its answer. It ends with ctx.
	Forward(ctx context.Context, node int32, q peer.Request) ([]byte, error)
}

// way is how a request is passed on.
type way struct {
	// one: the body starts with the id of the group that the request is about, in versions below manyFrom.
	one      bool
	manyFrom int16 // version from which on it may name many; -1: never
	// waits: for other members. Such requests end with the agent's service.
	waits bool
	every bool // it is asked of every agent
}

// ways are the APIs that are passed on, by key.
var ways = map[int16]way{
	kmsg.OffsetCommit.Int16():           {one: true, manyFrom: -1},
	kmsg.OffsetFetch.Int16():            {one: true, manyFrom: 8},
	kmsg.JoinGroup.Int16():              {one: true, manyFrom: -1, waits: true},
	kmsg.Heartbeat.Int16():              {one: true, manyFrom: -1},
	kmsg.LeaveGroup.Int16():             {one: true, manyFrom: -1},
	kmsg.SyncGroup.Int16():              {one: true, manyFrom: -1, waits: true},
	kmsg.DescribeGroups.Int16():         {manyFrom: 0},
	kmsg.ListGroups.Int16():             {every: true},
	kmsg.DeleteGroups.Int16():           {manyFrom: 0},
	kmsg.OffsetDelete.Int16():           {one: true, manyFrom: -1},
	kmsg.ConsumerGroupHeartbeat.Int16(): {one: true, manyFrom: -1},
	kmsg.ConsumerGroupDescribe.Int16():  {manyFrom: 0},
}

// wayOf is how r is passed on, if it is.
func (s *Server) wayOf(r *request) (w way, ok bool) {
	if len(s.balancers) == 0 || r.conn.guest {
		return w, false
	}
	w, ok = ways[r.key]
	return w, ok
}

// owner is the agent that coordinates a group, by what is known here; -1 where none does.
func (s *Server) owner(group string) (node int32) {
	node = -1
	s.meta.View(func(st *state.State) {
		if a, ok := st.AgentByIncarnation(st.Slot(state.SlotOf(group)).Owner); ok {
			node = a.NodeID
		}
	})
	return node
}

// elsewhere reports whether node is another agent.
func (s *Server) elsewhere(node int32) bool { return node >= 0 && node != s.meta.NodeID() }

// firstText reads the text that a request's body starts with.
func firstText(r *request) (string, bool) {
	w := walker{b: r.body, version: r.version, flexible: flexible(r.key, r.version)}
	n := w.length(2)
	if w.why != "" || n < 0 || n > len(w.b) {
		return "", false
	}
	return string(w.b[:n]), true
}

// passOn sends a request about one group to its coordinator. Where it returns nothing this agent has to answer.
func (s *Server) passOn(ctx context.Context, a *answer) ([]byte, error) {
	r := &a.request
	w, ok := s.wayOf(r)
	if !ok || !w.one || w.manyFrom >= 0 && r.version >= w.manyFrom {
		return nil, nil
	}
	if r.late && r.key == keyOffsetCommit {
		return nil, nil // it is refused here
	}
	group, ok := firstText(r)
	if !ok {
		return nil, nil // decoding it says what is wrong
	}
	node := s.owner(group)
	if !s.elsewhere(node) {
		return nil, nil
	}
	waiting := ctx
	if w.waits {
		var done func()
		waiting, done = s.patient(ctx, r.conn)
		defer done()
	}
	began := time.Now()
	answer, err := s.ask(waiting, r.conn, node, r.frame.body, func(size int64) error { return a.held.take(waiting, r.conn, size) })
	if now := time.Now(); now.Sub(began) >= lateAfter {
		r.conn.heldUp = now
	}
	if err == nil && answers(answer, r) {
		return answer, nil
	}
	a.held.give(r.conn)
	switch {
	case err == nil:
		s.bug("an agent answered a request that it was not asked", "api", apiName(r.key), "node_id", node)
		return nil, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	s.cfg.Logger.Debug("could not pass a request on", "api", apiName(r.key), "node_id", node, "error", err)
	r.late = true
	return nil, nil
}

// ask has another agent answer. room is asked for room for the answer before that is read.
func (s *Server) ask(ctx context.Context, c *conn, node int32, frame []byte, room func(int64) error) ([]byte, error) {
	return s.cfg.Peers.Forward(ctx, node, peer.Request{Frame: frame, Client: c.nc.RemoteAddr().String(), Listener: c.listener, Room: room, Still: c.awake})
}

// answers reports whether b starts as an answer to r does.
func answers(b []byte, r *request) bool {
	return len(b) >= answerHeader(r) && int32(binary.BigEndian.Uint32(b)) == r.correlation
}

// answerHeader is the size of an answer's header.
func answerHeader(r *request) int { return len(appendHeader(nil, r)) - 4 }

// errServiceEnds ends a wait for other members.
var errServiceEnds = errors.New("the agent or its client ends, or others wait for the memory that requests behind this one hold")

// patient is ctx for as long as a request of c may wait for others.
func (s *Server) patient(ctx context.Context, c *conn) (waiting context.Context, done func()) {
	waiting, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	select {
	case <-c.crowded: // was meant for a request before it
	default:
	}
	wg.Go(func() {
		select {
		case <-s.drained:
		case <-c.hungUp:
		case <-c.crowded:
		case <-waiting.Done():
		}
		cancel(errServiceEnds)
	})
	return waiting, func() { cancel(nil); wg.Wait() }
}

// split serves a decoded request of which other agents have a part. ok is false where this agent has all of it.
func (s *Server) split(ctx context.Context, a *answer, msg kmsg.Request) (rep reply, ok bool, err error) {
	r := &a.request
	w, ok := s.wayOf(r)
	if !ok || w.one && r.version < w.manyFrom || w.one && w.manyFrom < 0 {
		return reply{}, false, nil
	}
	mine := s.meta.NodeID()
	parts := map[int32]kmsg.Request{}
	if w.every {
		s.meta.View(func(st *state.State) {
			for _, other := range st.Agents() {
				parts[other.NodeID] = msg
			}
		})
		parts[mine] = msg
	} else {
		for i, group := range groupsOf(msg) {
			node := s.owner(group)
			if !s.elsewhere(node) {
				node = mine
			}
			if parts[node] == nil {
				parts[node] = without(msg)
			}
			takeGroup(parts[node], msg, i)
		}
	}
	if len(parts) == 0 || len(parts) == 1 && parts[mine] != nil {
		return reply{}, false, nil
	}
	got := make(map[int32]kmsg.Response, len(parts))
	var mu sync.Mutex                // guards got, and what the request holds
	room := func(size int64) error { // as bytes, decoded, and in the answer to all
		mu.Lock()
		defer mu.Unlock()
		if !a.held.more(r.conn, 3*size) {
			return fmt.Errorf("%w: no memory for what agents answer together", errSlow)
		}
		return nil
	}
	var wg sync.WaitGroup
	for node, part := range parts {
		if node == mine {
			continue
		}
		wg.Go(func() {
			res, err := s.askPart(ctx, r, node, part, room)
			if err != nil {
				s.cfg.Logger.Debug("could not pass a part of a request on", "api", apiName(r.key), "node_id", node, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			got[node] = res
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return reply{}, true, context.Cause(ctx)
	}
	all := msg.ResponseKind()
	all.SetVersion(r.version)
	for _, node := range slices.Sorted(keys(parts)) {
		res := got[node]
		if res == nil && (node == mine || !w.every) { // what another did not answer gets the code by which clients ask again
			if res, err = s.serveHere(ctx, a, parts[node]); err != nil {
				return reply{}, true, err
			}
		}
		if res == nil {
			refuse(all, codeCoordinatorNotAvailable)
			s.cfg.Metrics.failed(r.key, codeCoordinatorNotAvailable)
			continue
		}
		merge(all, res)
	}
	return say(all), true, nil
}

// askPart asks another agent for its part.
func (s *Server) askPart(ctx context.Context, r *request, node int32, part kmsg.Request, room func(int64) error) (kmsg.Response, error) {
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID(r.clientID)).AppendRequest(nil, part, r.correlation)[4:]
	b, err := s.ask(ctx, r.conn, node, frame, room)
	switch {
	case err != nil:
		return nil, err
	case !answers(b, r):
		return nil, errors.New("it answered something else")
	}
	res := part.ResponseKind()
	return res, res.ReadFrom(b[answerHeader(r):])
}

// serveHere is the handler's answer to a part of a request.
func (s *Server) serveHere(ctx context.Context, a *answer, part kmsg.Request) (kmsg.Response, error) {
	rep, err := s.serve(ctx, &a.request, part)
	if err != nil {
		return nil, err
	}
	res := part.ResponseKind()
	return res, res.ReadFrom(rep.body(nil))
}

func keys[K comparable, V any](m map[K]V) func(yield func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// groupsOf lists the groups that a request of many names.
func groupsOf(msg kmsg.Request) (ids []string) {
	switch req := msg.(type) {
	case *kmsg.OffsetFetchRequest:
		for i := range req.Groups {
			ids = append(ids, req.Groups[i].Group)
		}
	case *kmsg.DescribeGroupsRequest:
		ids = req.Groups
	case *kmsg.DeleteGroupsRequest:
		ids = req.Groups
	case *kmsg.ConsumerGroupDescribeRequest:
		ids = req.Groups
	}
	return ids
}

// without is msg with no groups.
func without(msg kmsg.Request) kmsg.Request {
	switch req := msg.(type) {
	case *kmsg.OffsetFetchRequest:
		c := *req
		c.Groups = nil
		return &c
	case *kmsg.DescribeGroupsRequest:
		c := *req
		c.Groups = nil
		return &c
	case *kmsg.DeleteGroupsRequest:
		c := *req
		c.Groups = nil
		return &c
	case *kmsg.ConsumerGroupDescribeRequest:
		c := *req
		c.Groups = nil
		return &c
	}
	panic("kafka: an API is split that cannot be: " + kmsg.NameForKey(msg.Key()))
}

// takeGroup adds the i-th group of from to a request of the same kind.
func takeGroup(to, from kmsg.Request, i int) {
	switch from := from.(type) {
	case *kmsg.OffsetFetchRequest:
		to, _ := to.(*kmsg.OffsetFetchRequest)
		to.Groups = append(to.Groups, from.Groups[i])
	case *kmsg.DescribeGroupsRequest:
		to, _ := to.(*kmsg.DescribeGroupsRequest)
		to.Groups = append(to.Groups, from.Groups[i])
	case *kmsg.DeleteGroupsRequest:
		to, _ := to.(*kmsg.DeleteGroupsRequest)
		to.Groups = append(to.Groups, from.Groups[i])
	case *kmsg.ConsumerGroupDescribeRequest:
		to, _ := to.(*kmsg.ConsumerGroupDescribeRequest)
		to.Groups = append(to.Groups, from.Groups[i])
	}
}

// merge adds what one agent answered to all.
func merge(all, part kmsg.Response) {
	switch part := part.(type) {
	case *kmsg.OffsetFetchResponse:
		all, _ := all.(*kmsg.OffsetFetchResponse)
		all.Groups = append(all.Groups, part.Groups...)
	case *kmsg.DescribeGroupsResponse:
		all, _ := all.(*kmsg.DescribeGroupsResponse)
		all.Groups = append(all.Groups, part.Groups...)
	case *kmsg.DeleteGroupsResponse:
		all, _ := all.(*kmsg.DeleteGroupsResponse)
		all.Groups = append(all.Groups, part.Groups...)
	case *kmsg.ConsumerGroupDescribeResponse:
		all, _ := all.(*kmsg.ConsumerGroupDescribeResponse)
		all.Groups = append(all.Groups, part.Groups...)
	case *kmsg.ListGroupsResponse:
		all, _ := all.(*kmsg.ListGroupsResponse)
		if part.ErrorCode != 0 {
			all.ErrorCode = part.ErrorCode
		}
		for i := range part.Groups { // while a slot changes hands two agents may list its groups
			if !slices.ContainsFunc(all.Groups, func(g kmsg.ListGroupsResponseGroup) bool { return g.Group == part.Groups[i].Group }) {
				all.Groups = append(all.Groups, part.Groups[i])
			}
		}
	}
}

// refuse sets the code of an answer that an agent's part is missing from.
func refuse(all kmsg.Response, code errorCode) {
	if res, ok := all.(*kmsg.ListGroupsResponse); ok {
		res.ErrorCode = int16(code)
	}
}

// Forwarded answers a request that a client sent to another agent. An error says that there is no answer.
func (s *Server) Forwarded(ctx context.Context, f peer.Forwarded) ([]byte, error) {
	if s.drowsy() {
		f.Release()
		return nil, errAsleep
	}
	c := newConn(s, guestConn{f.Client}, f.Listener)
	c.guest = true
	fr := &frame{body: f.Frame, came: time.Now(), free: f.Release}
	fr.holders.Store(1)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		fr.release()
		return nil, peer.ErrDraining
	}
	s.guests[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.cancel(context.Cause(ctx)) })
	defer func() {
		stop()
		c.cancel(ErrClosed)
		s.mu.Lock()
		delete(s.guests, c)
		s.mu.Unlock()
		s.wg.Done()
	}()
	if len(f.Frame) >= headerBytesMin {
		key := int16(binary.BigEndian.Uint16(f.Frame))
		if _, ok := ways[key]; !ok {
			fr.release()
			return nil, fmt.Errorf("%s is not passed on", apiName(key))
		}
	}
	a, err := c.handle(fr)
	if err != nil {
		return nil, err
	}
	defer a.drop(c)
	if a.body == nil {
		return nil, fmt.Errorf("%s has no answer of its own", apiName(a.request.key))
	}
	return finish(a.body(appendHeader(nil, &a.request)), 0)[4:], nil
}

// guestConn stands for the connection of another agent's client.
type guestConn struct{ remote string }

var errGuest = errors.New("another agent's connection")

// Read, Write and the rest implement net.Conn. Nothing goes over it.
func (guestConn) Read([]byte) (int, error)         { return 0, errGuest }
func (guestConn) Write([]byte) (int, error)        { return 0, errGuest }
func (guestConn) Close() error                     { return nil }
func (guestConn) LocalAddr() net.Addr              { return guestAddr("") }
func (g guestConn) RemoteAddr() net.Addr           { return guestAddr(g.remote) }
func (guestConn) SetDeadline(time.Time) error      { return nil }
func (guestConn) SetReadDeadline(time.Time) error  { return nil }
func (guestConn) SetWriteDeadline(time.Time) error { return nil }

type guestAddr string

func (guestAddr) Network() string  { return "tcp" }
func (a guestAddr) String() string { return string(a) }
