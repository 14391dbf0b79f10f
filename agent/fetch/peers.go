package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/rendezvous"
)

// Ask is a request to a peer for bytes of a segment object.
type Ask struct {
	Object         entry.ObjectID
	ObjectSize     int64 // bytes
	Position, Size int64 // what of it
	// Held asks for what is in the peer's memory. Where it is not set the peer gets from the bucket what it does not have, and
	// keeps it.
	Held bool
	// Cold says that a replay wants it: it may wait behind everything else.
	Cold bool
}

// Peers is how bytes are got from other agents: the internal transport.
type Peers interface {
	// Read returns the ask.Size bytes that the Serve of the agent with that node id gives, in a buffer that is the caller's. It
	// returns soon after ctx ends. Errors: *NotHeld, ErrBusy and ErrRefused, as Serve gave them; anything else says that the
	// agent could not be reached.
	Read(ctx context.Context, node int32, ask Ask) ([]byte, error)
}

// What a peer answers instead of bytes. None of them says anything about the data: the asker goes on to the next source.
var (
	// ErrBusy: it serves as much as it may.
	ErrBusy = errors.New("peer busy")
	// ErrRefused: it cannot have the bytes, whatever the reason.
	ErrRefused = errors.New("peer refused")
)

// NotHeld is the answer to an Ask with Held for what is not in memory.
type NotHeld struct {
	// Below: of the objects that the peer uploaded itself it has none of a lower sequence in memory. 0 says nothing.
	Below uint64
}

func (e *NotHeld) Error() string { return fmt.Sprintf("not in memory, nor anything below %d", e.Below) }

// Agent is a live agent that answers Asks.
type Agent struct {
	Node        int32
	Incarnation [16]byte
	Zone        string
}

// Sharing lets a Cache get from peers what they have in memory, and makes the agents of a zone get each piece of the bucket once.
type Sharing struct {
	Peers Peers
	// Agents lists the live agents, this one among them, as far as they answer Asks. It is called a few times a second.
	Agents func() []Agent
	// Self is this agent's node id.
	Self func() int32
}

// Share begins sharing. Requires: before the first read.
func (c *Cache) Share(s Sharing) {
	c.share = &sharing{Sharing: s, cfg: &c.cfg, gone: make(map[[16]byte]uint64), faults: make(map[int32]*fault), allowance: hedgesAtStart}
}

// sharing is what an agent knows of its peers. Safe for concurrent use.
type sharing struct {
	Sharing
	cfg *Config
	// held and fetched are how long answers take, of what is in memory and of what may have to be fetched.
	held, fetched delays
	known         atomic.Pointer[roster]

	mu sync.Mutex // guards the rest
	// gone: by incarnation, below which of its objects its agent holds none any more. Only of live ones.
	gone   map[[16]byte]uint64
	faults map[int32]*fault // by node, of those that did not answer last
	// allowance is how many hedges may start now: what peers give adds parts of one.
	allowance float64
}

// roster is the live agents at a time.
type roster struct {
	at     time.Time
	agents []Agent
	self   Agent
	member bool // self is among them
}

// rosterAge is how old what is known of the agents may be. Who asks one that is gone meanwhile goes on to the next source.
const rosterAge = 250 * time.Millisecond

func (s *sharing) roster() *roster {
	now := time.Now()
	if r := s.known.Load(); r != nil && now.Sub(r.at) < rosterAge {
		return r
	}
	r := &roster{at: now, agents: s.Agents()}
	self := s.Self()
	live := make(map[[16]byte]bool, len(r.agents))
	for _, a := range r.agents {
		live[a.Incarnation] = true
		if a.Node == self {
			r.self, r.member = a, true
		}
	}
	s.known.Store(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	for incarnation := range s.gone {
		if !live[incarnation] {
			delete(s.gone, incarnation)
		}
	}
	for node := range s.faults {
		known := false
		for _, a := range r.agents {
			known = known || a.Node == node
		}
		if !known {
			delete(s.faults, node)
		}
	}
	return r
}

// step is one peer to ask.
type step struct {
	node int32
	held bool // only for what it has in memory
}

// route lists whom to ask for a piece of an object before the bucket, in order. own: the piece is this agent's to fetch.
//
// The uploader comes first, where it may still have the object in memory. One in another zone is asked only for what is small: a byte
// from there costs money, a GET costs as much as some twenty KiB of them. Then the agent of the zone that rendezvous hashing
// names for the piece.
func (s *sharing) route(o object, piece int64) (steps []step, own bool) {
	r := s.roster()
	if !r.member {
		return nil, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var owner Agent
	var heaviest uint64
	key := pieceKey(o.id, piece)
	uploader := int32(-1)
	for _, a := range r.agents {
		if a.Node != r.self.Node && s.shunnedLocked(a.Node, now) {
			continue
		}
		if w := rendezvous.Weight(key, a.Node); a.Zone == r.self.Zone && (w > heaviest || heaviest == 0) {
			owner, heaviest = a, w
		}
		if a.Incarnation == o.id.Incarnation && a.Node != r.self.Node && s.freshLocked(o) && (a.Zone == r.self.Zone || o.size <= s.cfg.CrossZoneBytes) {
			uploader = a.Node
		}
	}
	own = owner.Node == r.self.Node
	if uploader >= 0 && (own || uploader != owner.Node) {
		steps = append(steps, step{node: uploader, held: true})
	}
	if !own {
		steps = append(steps, step{node: owner.Node})
	}
	return steps, own
}

// freshLocked reports whether the uploader of an object may still have it in memory. What it merged it never had.
func (s *sharing) freshLocked(o object) bool {
	return !o.id.Merged() && o.size <= s.cfg.WholeBytes && o.id.Seq >= s.gone[o.id.Incarnation]
}

// pieceKey is what rendezvous hashing spreads: a piece is a whole small object (0), or a run of a larger one (its number).
func pieceKey(id entry.ObjectID, piece int64) uint64 {
	return rendezvous.Key(id.Incarnation, id.Seq, uint64(piece))
}

// forgotten notes that an agent has none of its objects below a sequence in memory any more.
func (s *sharing) forgotten(incarnation [16]byte, below uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone[incarnation] = max(s.gone[incarnation], below)
}

// fault is what an agent that does not answer has coming: it is left out until a time, and then tried once.
type fault struct {
	count int
	until time.Time
}

// A peer is left out after so many asks in a row that it did not answer, for a time that doubles. One that let an ask run out of time
// is left out at once: the next would wait as long.
const (
	faultsMax = 3
	shunMin   = time.Second
	shunMax   = 10 * time.Second
)

func (s *sharing) shunnedLocked(node int32, now time.Time) bool {
	f := s.faults[node]
	return f != nil && now.Before(f.until)
}

// failed notes that an agent did not answer; late says that it let the ask run out of time.
func (s *sharing) failed(node int32, late bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.faults[node]
	if f == nil {
		f = new(fault)
		s.faults[node] = f
	}
	f.count++
	if late {
		f.count = max(f.count, faultsMax)
	}
	if f.count >= faultsMax {
		f.until = time.Now().Add(min(shunMin<<min(f.count-faultsMax, 4), shunMax))
	}
}

// answered notes that an agent answered, whatever.
func (s *sharing) answered(node int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.faults, node)
}

// Hedges are a twentieth of what would be GETs without peers at most, with a few at the start and a few saved up.
const (
	hedgeShare    = 0.05
	hedgesAtStart = 2
	hedgesSaved   = 8
)

// earn counts what a peer gave, as a part of what one GET would have given.
func (s *sharing) earn(part float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowance = min(s.allowance+hedgeShare*part, hedgesSaved)
}

// hedge takes one from what was earned.
func (s *sharing) hedge() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.allowance < 1 {
		return false
	}
	s.allowance--
	return true
}
