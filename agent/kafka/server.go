package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/agent/sparse"
	"github.com/firnlog/firn/objstore/batch"
)

// ErrClosed is what Serve returns after Drain or Close.
var ErrClosed = errors.New("kafka server closed")

// Server answers Kafka clients on any number of listeners, each of which gives out the agents' addresses of its own name. Safe
// for concurrent use.
type Server struct {
	cfg      Config
	meta     Metastore
	producer Producer
	log      Log
	groups   Groups

	balancers  map[string]*node // by listener; none where clients see the agents
	shapes     map[int16]shape
	pool       buffers
	inFlight   *budget       // large requests and those with records, until they are done with
	strangers  *budget       // requests larger than any that their connection has sent before, as far as they have come
	overdraft  chan struct{} // has room for one: the stranger that goes beyond its budget, see conn.grow
	large      chan struct{} // has room for one: the request beyond largeRequest that is being read
	largeLine  pressure      // by those who wait for that
	largeWait  gauge         // seconds that they did
	queued     *budget       // other requests
	work       *budget       // what is made of requests until they are answered, records apart
	answers    *budget       // records of Fetch answers until they are written
	decompress *budget       // what checking compressed batches takes, while it does
	admission  *admission
	lines      sparse.Lines
	sessions   *sessions
	validators sync.Pool // of *batch.Validator
	settings   settingsCache
	unwatched  sync.Once     // closes closed
	closed     chan struct{} // ends watchStalls
	// serving ends when the server closes; what is done for clients that have hung up runs under it.
	serving context.Context
	stop    context.CancelCauseFunc
	// drained is closed when draining starts: long polls end.
	drained chan struct{}
	came    atomic.Uint64 // connections so far
	beat    beat
	// partTime is what a client gets to take notice that its connection ends. Set before the first connection.
	partTime time.Duration
	wg       sync.WaitGroup // one for each connection

	mu        sync.Mutex // guards the rest
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	guests    map[*conn]struct{} // of other agents, see Forwarded
	closing   bool
}

// New makes a server; Serve starts it.
func New(cfg Config, meta Metastore, producer Producer, log Log, groups Groups) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if meta == nil || producer == nil || log == nil || groups == nil {
		return nil, errors.New("kafka: metastore, producer, log and groups are required")
	}
	cfg.Metrics.inFlightLimit.Set(float64(cfg.InFlightBytes))
	cfg.Metrics.fetchLimit.Set(float64(cfg.FetchInFlightBytes))
	cfg.Metrics.queuedLimit.Set(float64(cfg.QueuedBytes))
	cfg.Metrics.workLimit.Set(float64(cfg.WorkBytes))
	cfg.Metrics.connLimit.Set(float64(cfg.Connections))
	s := &Server{
		cfg: cfg, meta: meta, producer: producer, log: log, groups: groups,
		balancers:  make(map[string]*node),
		shapes:     shapes(),
		inFlight:   newBudget(kindInFlight, cfg.InFlightBytes, cfg.Metrics.inFlightBytes),
		overdraft:  make(chan struct{}, 1),
		large:      make(chan struct{}, 1),
		strangers:  newBudget(kindStrangers, cfg.StrangerBytes, nil),
		queued:     newBudget(kindQueued, cfg.QueuedBytes, cfg.Metrics.queuedBytes),
		work:       newBudget(kindWork, cfg.WorkBytes, cfg.Metrics.workBytes),
		answers:    newBudget(kindAnswers, cfg.FetchInFlightBytes, cfg.Metrics.fetchBytes),
		decompress: newBudget(kindDecompress, cfg.DecompressBytes, nil),
		admission:  newAdmission(cfg.ConnectionsPerAddress, cfg.AcceptsPerSecond),
		sessions:   newSessions(cfg.FetchSessions, cfg.FetchSessionBytes, cfg.Metrics),
		validators: sync.Pool{New: func() any { return batch.NewValidator() }},
		closed:     make(chan struct{}),
		partTime:   partTime,
		drained:    make(chan struct{}),
		listeners:  make(map[net.Listener]struct{}),
		conns:      make(map[*conn]struct{}),
		guests:     make(map[*conn]struct{}),
	}
	s.serving, s.stop = context.WithCancelCause(context.Background())
	s.largeLine.relieve, s.largeWait = s.hurryLarge, cfg.Metrics.budgetWait.WithLabelValues("large")
	for _, l := range cfg.Balancer {
		s.balancers[l.Name] = &node{id: balancerID, listener: l.Name, host: l.Host, port: int32(l.Port)}
	}
	// Those who decompress are done in a moment: nobody need make room for them.
	requests, rest := &pressure{relieve: func() { s.relieve(true) }}, &pressure{relieve: func() { s.relieve(false) }}
	for _, b := range []struct {
		name     string
		budget   *budget
		pressure *pressure
	}{
		{"in_flight", s.inFlight, requests}, {"strangers", s.strangers, requests}, {"queued", s.queued, requests},
		{"work", s.work, rest}, {"fetch", s.answers, rest}, {"decompress", s.decompress, nil},
	} {
		s.admission.budgets = append(s.admission.budgets, b.budget)
		b.budget.pressure = b.pressure
		b.budget.waited = cfg.Metrics.budgetWait.WithLabelValues(b.name)
	}
	return s, nil
}

// relieve ends, while others wait for a budget, the connections that hold it and are slow about it: about sending a request
// where it is one of the budgets of requests, about taking an answer otherwise, or where it keeps a request from being
// looked at. It also ends the long polls that hold memory, or hold up requests that do.
func (s *Server) relieve(requests bool) {
	now := time.Now()
	late := now.Add(-s.cfg.PressureTimeout).UnixNano()
	var slow []*conn
	s.mu.Lock()
	for c := range s.conns {
		w := c.writeSince.Load()
		stuck := w != 0 && w < late
		switch {
		case !requests && stuck, requests && (c.dawdles(now) || stuck && len(c.slots) == cap(c.slots)):
			slow = append(slow, c)
		case !requests && c.charged.Load(), requests && c.unanswered.Load() > 1:
			select {
			case c.crowded <- struct{}{}:
			default:
			}
		}
	}
	s.mu.Unlock()
	for _, c := range slow {
		c.fail(fmt.Errorf("%w: others wait for the memory that it holds", errSlow))
	}
}

// hurryLarge ends, while others wait to be read next, the large request that is being read and slow.
func (s *Server) hurryLarge() {
	now := time.Now()
	var slow []*conn
	s.mu.Lock()
	for c := range s.conns {
		if c.largeSince.Load() != 0 && c.dawdles(now) {
			slow = append(slow, c)
		}
	}
	s.mu.Unlock()
	for _, c := range slow {
		c.fail(fmt.Errorf("%w: others wait to have a request as large read, one at a time is", errSlow))
	}
}

// Serve accepts connections of the listener of that name until the listener fails or the server closes, which closes the listener. It returns ErrClosed,
// or why the listener failed.
func (s *Server) Serve(name string, ln net.Listener) error {
	defer func() { _ = ln.Close() }()
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	over := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() { s.beat.keep(over, s.wokenUp) })
	defer func() { close(over); beating.Wait() }()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	for pause := 5 * time.Millisecond; ; {
		nc, err := ln.Accept()
		if err == nil {
			pause = 5 * time.Millisecond
			s.keepAlive(nc)
			s.start(nc, name)
			continue
		}
		select {
		case <-s.drained:
			return ErrClosed
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept a connection: %w", err)
		}
		// Out of file descriptors, or a client that left at once: others may fare better.
		if leftOut, write := s.lines.Take("accept"); write {
			s.cfg.Logger.Warn("cannot accept a connection, retrying", "error", err, "left_out", leftOut)
		}
		select {
		case <-time.After(pause):
		case <-s.drained:
			return ErrClosed
		}
		pause = min(2*pause, time.Second)
	}
}

// newcomerAge is how old a connection is at least that makes room for another because it has not asked for anything yet.
const newcomerAge = time.Second

// start runs a connection.
func (s *Server) start(nc net.Conn, listener string) {
	c := newConn(s, nc, listener)
	visitor, wait, welcome := s.admission.enter(c.from, c.at)
	var displaced *conn
	s.mu.Lock()
	switch {
	case s.closing:
	case !welcome: // its address has too many: one of those makes room
		if displaced = s.displaceLocked(c.at, c.from); displaced != nil {
			visitor, wait, welcome = s.admission.enter(c.from, c.at)
		}
	case len(s.conns) >= s.cfg.Connections:
		displaced = s.displaceLocked(c.at, netip.Addr{})
	}
	c.visitor = visitor
	refused := ""
	switch {
	case s.closing:
		refused = refusedDraining
	case !welcome:
		refused = refusedAddress
	case len(s.conns) >= s.cfg.Connections:
		refused = refusedFull
	default:
		s.conns[c] = struct{}{}
		s.wg.Add(1)
	}
	s.mu.Unlock()
	if displaced != nil {
		s.cfg.Metrics.displaced.Inc()
		displaced.fail(errDisplaced)
	}
	if refused != "" {
		s.cfg.Metrics.refused.WithLabelValues(refused).Inc()
		if welcome {
			s.leave(c)
		}
		c.fail(errDraining)
		return
	}
	s.cfg.Metrics.accepted.Inc()
	s.cfg.Metrics.connections.Inc()
	go func() {
		defer s.wg.Done()
		defer s.cfg.Metrics.connections.Dec()
		defer s.leave(c)
		if wait > 0 {
			s.cfg.Metrics.paced.Inc()
			pause(c.ctx, wait, nil, s.drained)
		}
		c.run()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
}

// leave counts a connection out, once.
func (s *Server) leave(c *conn) {
	if !c.left.Swap(true) {
		s.admission.leave(c.from, time.Now())
	}
}

// displaceLocked takes the oldest connection that never asked for anything out of the counts, to be closed; nil where there is
// none. A valid address means one of its own. So whoever opens connections and leaves them keeps nobody out.
func (s *Server) displaceLocked(now time.Time, from netip.Addr) (oldest *conn) {
	for c := range s.conns {
		if !c.proven.Load() && c.unanswered.Load() == 0 && (!from.IsValid() || c.from == from) && now.Sub(c.at) >= newcomerAge &&
			(oldest == nil || c.at.Before(oldest.at)) {
			oldest = c
		}
	}
	if oldest != nil {
		delete(s.conns, oldest)
		s.leave(oldest)
	}
	return oldest
}

// Drain stops accepting and reading, answers what was read (long polls at once, with what there is), closes each connection
// after its last answer, and returns when all are closed. When ctx ends first the rest is closed as by Close. Safe twice.
func (s *Server) Drain(ctx context.Context) error {
	for _, c := range s.shut() {
		c.stopReading()
	}
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
		s.Close()
		<-done
	}
	s.unwatch()
	return err
}

// Connections is how many there are.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Unanswered is how many requests were read and have no answer yet, long polls among them.
func (s *Server) Unanswered() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		n += int(c.unanswered.Load())
	}
	return n
}

// Close ends every connection at once and returns when all goroutines have. Safe twice.
func (s *Server) Close() {
	for _, c := range s.shut() {
		c.fail(ErrClosed)
	}
	s.mu.Lock()
	for c := range s.guests {
		c.cancel(ErrClosed)
	}
	s.mu.Unlock()
	s.stop(ErrClosed)
	s.wg.Wait()
	s.unwatch()
}

// unwatch ends watchStalls. Safe twice.
func (s *Server) unwatch() {
	s.unwatched.Do(func() { close(s.closed) })
}

// shut closes the listeners and returns the connections.
func (s *Server) shut() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.closing = true
		close(s.drained)
	}
	for ln := range s.listeners {
		_ = ln.Close()
	}
	open := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	return open
}

// barrier takes a read barrier within its time.
func (s *Server) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.BarrierTimeout)
	defer cancel()
	return s.meta.Barrier(ctx)
}
