package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

// Poison makes the server overwrite buffers as they return to the pool.
func (s *Server) Poison() { s.pool.poison = true }

// PartWithin gives clients another time to take notice that their connections end. Requires: there is no connection yet.
func (s *Server) PartWithin(d time.Duration) { s.partTime = d }

// Asleep makes it look as if the process had been asleep until now.
func (s *Server) Asleep(d time.Duration) { s.beat.last.Store(time.Now().Add(-d).UnixNano()) }

// Serve1 serves one connection; it returns when the connection has ended.
func (s *Server) Serve1(nc net.Conn) {
	c := newConn(s, nc, "kafka")
	c.run()
}

// InFlight and FetchInFlight report whether all of a budget is there again.
func (s *Server) InFlight() bool {
	return s.inFlight.sem.TryAcquire(s.inFlight.size) && release(s.inFlight, s.cfg.InFlightBytes) &&
		s.strangers.sem.TryAcquire(s.strangers.size) && release(s.strangers, s.cfg.StrangerBytes)
}

func (s *Server) FetchInFlight() bool {
	return s.answers.sem.TryAcquire(int64(s.cfg.FetchInFlightBytes)) && release(s.answers, s.cfg.FetchInFlightBytes)
}

// Idle reports whether nothing is held of the budgets of small requests and of what is made of requests.
func (s *Server) Idle() bool {
	return s.queued.sem.TryAcquire(s.queued.size) && release(s.queued, int(s.queued.size)) &&
		s.work.sem.TryAcquire(s.work.size) && release(s.work, int(s.work.size))
}

func release(b *budget, n int) bool {
	b.sem.Release(int64(n))
	return true
}

// Sessions is how many fetch sessions there are.
func (s *Server) Sessions() int {
	s.sessions.mu.Lock()
	defer s.sessions.mu.Unlock()
	return len(s.sessions.byID)
}

// Node is an agent for Placement.
type Node struct {
	ID   int32
	Zone string
}

// Placement returns the leader and the replicas of each partition of a topic for clients of a zone.
func Placement(nodes []Node, zone string, partitions, replication int) (leaders []int32, replicas [][]int32) {
	list := make([]node, len(nodes))
	for i, n := range nodes {
		list[i] = node{id: n.ID, zone: n.Zone}
	}
	t := topicView{id: [16]byte{1, 2, 3}, partitions: int32(partitions), replication: replication}
	for p := range t.partitions {
		leader, all := t.replicas(p, list, zone)
		leaders, replicas = append(leaders, leader), append(replicas, all)
	}
	return leaders, replicas
}

// ZoneOfClientID is the zone that a client.id names.
func ZoneOfClientID(id string) string { return zoneOfClientID(id) }

// Life is how old the nth connection may get.
func (s *Server) Life(n uint64) time.Duration { return s.life(n) }

// Conns is how many connections there are.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Draining reports whether every connection was told to read no more.
func (s *Server) Draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if !c.draining() {
			return false
		}
	}
	return s.closing
}

// Short is how many connections wait for memory.
func (s *Server) Short() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.short.Load() > 0 {
			n++
		}
	}
	return n
}

// WorkHeld is how much of the budget of small things is taken.
func (s *Server) WorkHeld() int64 {
	for n := s.work.size; n > 0; n -= 1 << 10 {
		if s.work.sem.TryAcquire(n) {
			s.work.sem.Release(n)
			return s.work.size - n
		}
	}
	return s.work.size
}

// Versions lists what is spoken, advertised or not.
func Versions() (list []struct {
	Key, Min, Max int16
	Hidden        bool
}) {
	for _, a := range apis {
		list = append(list, struct {
			Key, Min, Max int16
			Hidden        bool
		}{a.key, a.min, a.max, a.hidden})
	}
	return list
}

// CheckShape walks a body.
func CheckShape(key, version int16, body []byte) error {
	_, err := allShapes[key].check(version, body)
	return err
}

var allShapes = shapes()

// Body splits a frame whose header is good; nil where it is not.
func Body(b []byte) (key, version int16, body []byte) {
	r, unknown, err := parseRequest(b)
	if err != nil || unknown {
		return 0, 0, nil
	}
	return r.key, r.version, r.body
}

// ErrMalformed is the class of everything that a Decoder refuses.
var ErrMalformed = errMalformed

// OfState and OfError are the mappings of errors.go.
func OfState(c state.Code) (int16, bool) { code, ok := ofState(c); return int16(code), ok }

func OfError(err error) (int16, bool) {
	code, ok := ofError(err, codeRequestTimedOut)
	return int16(code), ok
}

// NextEpoch is the session epoch after e.
func NextEpoch(e int32) int32 { return nextEpoch(e) }

// Begin runs the session logic of a request.
func (s *Server) Begin(req *kmsg.FetchRequest) (id int32, parts int, code int16) {
	plan, c := s.sessions.begin(req, time.Now())
	return plan.sessionID, len(plan.parts), int16(c)
}

// Barrier takes a barrier as handlers do.
func (s *Server) Barrier(ctx context.Context) error { return s.barrier(ctx) }

// Decoder returns the header and body parsers of a frame, as the executor runs them.
func Decoder() func(b []byte) error {
	s := &Server{shapes: allShapes}
	return func(b []byte) error {
		r, unknown, err := parseRequest(b)
		if err != nil || unknown {
			return err
		}
		if r.key == keyProduce {
			_, err = parseProduce(s.shapes[keyProduce], r.version, r.body)
			return err
		}
		if _, err = s.shapes[r.key].check(r.version, r.body); err == nil {
			_, err = decode(&r)
		}
		return err
	}
}

// Bodies crafts bodies of a request: for each of its arrays one in which that array has n elements that are as small as can
// be, and every other has one; with tagged, every element of it carries a tag that nobody knows.
func Bodies(key, version int16, n int, tagged bool) (list [][]byte) {
	s := allShapes[key]
	flexible := version >= s.flexible
	for target := 0; ; target++ {
		at := 0
		found := false
		var put func(b []byte, fs []field) []byte
		put = func(b []byte, fs []field) []byte {
			for i := range fs {
				f := &fs[i]
				if version < f.since || f.until > 0 && version > f.until {
					continue
				}
				switch f.kind {
				case fixed:
					b = append(b, make([]byte, f.size)...)
				case text, nullableText:
					if flexible {
						b = append(b, 2, 'x')
					} else {
						b = append(b, 0, 1, 'x')
					}
				case blob, kept:
					if flexible {
						b = append(b, 0)
					} else {
						b = append(b, 0xff, 0xff, 0xff, 0xff)
					}
				case optional:
					b = append(put(append(b, 1), f.elem), 0)
				case structs, primitives:
					count, mine := 1, at == target
					at++
					if mine {
						count, found = n, true
					}
					if flexible {
						b = binary.AppendUvarint(b, uint64(count)+1)
					} else {
						b = binary.BigEndian.AppendUint32(b, uint32(count))
					}
					from := len(b)
					b = put(b, f.elem)
					switch {
					case !flexible || f.kind == primitives:
					case tagged && mine:
						b = append(b, 1, 99, 0)
					default:
						b = append(b, 0)
					}
					b = append(b, bytes.Repeat(b[from:], count-1)...) // all alike
				}
			}
			return b
		}
		b := put(nil, s.fields)
		if flexible {
			b = append(b, 0)
		}
		if !found {
			return list
		}
		list = append(list, b)
	}
}

// Lookup returns the highest version of an API.
func Lookup(key int16) (highest int16, ok bool) {
	a, ok := lookupAPI(key)
	return a.max, ok
}

// BufferFor is the room that a buffer for size bytes has, and has again once it was given back.
func BufferFor(size int) int {
	var p buffers
	b := p.get(size)
	room := cap(b)
	p.put(b)
	if again := p.get(room); cap(again) != room {
		return -1
	}
	return room
}

// Handle decodes and serves a request as the executor does, and returns the encoded answer's body; charged is what was asked
// of the budget for it.
func (s *Server) Handle(req kmsg.Request) (body []byte, charged int64, err error) {
	return s.HandleFrame(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)[4:])
}

// HandleFrame is Handle for the bytes of a request, which is no Produce.
func (s *Server) HandleFrame(frame []byte) (body []byte, charged int64, err error) {
	r, unknown, err := parseRequest(frame)
	if err != nil {
		return nil, 0, err
	}
	if unknown {
		return s.unknownApiVersions().body(nil), 0, nil
	}
	ours, theirs := net.Pipe()
	defer func() { _, _ = ours.Close(), theirs.Close() }()
	c := newConn(s, ours, "kafka")
	r.conn, r.at = c, time.Now()
	a := &answer{request: r}
	defer a.held.give(c)
	msg, err := s.decode(c.ctx, a)
	if err != nil {
		return nil, 0, err
	}
	charged = a.held.n
	if a.held.free {
		charged += freeBytes
	}
	if a.reply, err = s.serve(c.ctx, &a.request, msg); err != nil {
		return nil, 0, err
	}
	if a.built != nil {
		s.answers.give(nil, a.charge)
		if a.lent == nil {
			return a.built, charged, nil
		}
		defer a.lent.Release()
		return bytes.Join(a.lent.Parts(nil), nil), charged, nil
	}
	return a.body(nil), charged, nil
}

// Serving runs a connection as Serve does with what it accepts.
func (s *Server) Serving(nc net.Conn) { s.start(nc, "kafka") }

// CountValidators counts the validators that the pool makes from now on.
func (s *Server) CountValidators() *atomic.Int64 {
	made, fresh := &atomic.Int64{}, s.validators.New
	s.validators.New = func() any { made.Add(1); return fresh() }
	return made
}

// Budget is a budget of its own; pressed may be nil.
type Budget struct{ b *budget }

// NewBudget makes one.
func NewBudget(size int, pressed func()) Budget {
	b := newBudget(kinds, size, nil)
	if pressed != nil {
		b.pressure = &pressure{relieve: pressed}
	}
	return Budget{b}
}

// Take waits for n bytes, More takes them where they are there.
func (b Budget) Take(ctx context.Context, n int64) error { return b.b.take(ctx, nil, n) }
func (b Budget) More(n int64) bool                       { return b.b.more(nil, n) }

// QueueRoom is how long a connection's queue is made where n go through it and it never holds fewer than two.
func QueueRoom(n int) int {
	var mu sync.Mutex
	var q stage[int]
	q.put(&mu, 0)
	q.put(&mu, 1)
	for i := range n {
		q.put(&mu, i+2)
		if v, ok := q.ready(&mu); !ok || v != i {
			return -1
		}
	}
	return cap(q.items)
}

// VersionsOf are the versions of an API that are spoken.
func VersionsOf(key int16) (low, high int16, ok bool) {
	a, ok := lookupAPI(key)
	return a.min, a.max, ok
}

// CheckBatch is what a Produce does with each partition's batch.
func (s *Server) CheckBatch(v *batch.Validator, raw []byte, lim batch.Limits) error {
	p := producedPartition{records: raw}
	_, err := s.checkBatch(v, 9, &p, lim)
	return err
}
