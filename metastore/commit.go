package metastore

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// entryFormat is what this build writes.
const entryFormat = 1

// headroomBytes is what an entry needs beside its ops.
const headroomBytes = 256

// commitAttempt bounds one transaction; its outcome is then unknown and it is tried again.
const commitAttempt = 3 * time.Second

// ticket tells proposals apart by its address, so it has a size.
type ticket struct{ _ byte }

// Ops of Offer wait for company. One entry is under way at a time, so each may hold up the commit of an upload by its own time, and
// every agent pays for each: thousands of small ops a second need not make thousands of them.
const (
	// entryPace is the least time from one entry to another that holds nothing but such ops.
	entryPace = 5 * time.Millisecond
	// crowdPace is the same where it pays: many came with the entry before, or others than they, of which more are likely to follow and
	// take them along.
	crowdPace = 10 * time.Millisecond
	crowd     = 8
)

// pace is the least time from an entry with so many ops of Offer and of others to one of nothing but ops of Offer.
func pace(offered, others int) time.Duration {
	if others > 0 || offered >= crowd {
		return crowdPace
	}
	return entryPace
}

// proposal is an op on its way into an entry.
type proposal struct {
	value   []byte  // what it adds to an entry
	level   uint32  // feature level that it needs
	patient bool    // it waits for company
	join    bool    // it opens a session, and is of no use to another
	ticket  *ticket // by which it can be withdrawn; nil where it cannot
	at      time.Time
	// done is called once, from the applier or, with an error, from whoever ends the client.
	done func(state.OpResult, error)
}

// queue holds proposals that are not in an entry yet, in order of submission.
type queue struct {
	limit  int        // bytes of an entry's ops
	mu     sync.Mutex // guards the rest
	list   []proposal
	bytes  int // of list
	urgent int // in list: they are not patient
	closed error
	due    time.Time // until when patient ones wait, for the sake of the last entry
	armed  bool      // a timer will wake the loop
	wake   chan struct{}
}

func (q *queue) init(limit int) { q.limit, q.wake = limit, make(chan struct{}, 1) }

func (q *queue) push(p proposal) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.closed; err != nil {
		return err
	}
	q.list = append(q.list, p)
	q.countLocked(p, 1)
	if !q.waitsLocked() {
		q.wakeLocked()
	}
	return nil
}

// countLocked keeps the sums of list, of which p becomes a part (1) or is one no more (-1).
func (q *queue) countLocked(p proposal, by int) {
	q.bytes += by * len(p.value)
	if !p.patient {
		q.urgent += by
	}
}

// waitsLocked reports whether what is there waits for company; a timer then wakes the loop. What fills an entry has it.
func (q *queue) waitsLocked() bool {
	if q.urgent > 0 || q.bytes >= q.limit {
		return false
	}
	wait := time.Until(q.due)
	if wait > 0 && !q.armed {
		q.armed = true
		time.AfterFunc(wait, q.ring)
	}
	return wait > 0
}

// ring wakes the loop.
func (q *queue) ring() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.armed = false
	q.wakeLocked()
}

func (q *queue) wakeLocked() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.list)
}

// take removes proposals for an entry, at least one where there is one that waits for nothing. More wait: the wake channel is re-armed.
func (q *queue) take() []proposal {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 || q.waitsLocked() {
		return nil
	}
	n, size, others := 0, 0, q.urgent
	for n < len(q.list) && (n == 0 || size+len(q.list[n].value) <= q.limit) {
		size += len(q.list[n].value)
		q.countLocked(q.list[n], -1)
		n++
	}
	taken := slices.Clone(q.list[:n])
	clear(q.list[:n])
	q.list = q.list[n:]
	others -= q.urgent
	q.due = time.Now().Add(pace(n-others, others))
	if len(q.list) == 0 {
		q.list = nil
	} else {
		q.wakeLocked()
	}
	return taken
}

// putBack puts proposals at the front again, in order.
func (q *queue) putBack(ps []proposal) {
	if len(ps) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(slices.Clone(ps), q.list...)
	for i := range ps {
		q.countLocked(ps[i], 1)
	}
	q.wakeLocked()
}

// withdraw takes a proposal out that is not in an entry, and reports whether it did: then it was never committed.
func (q *queue) withdraw(ticket *ticket) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.IndexFunc(q.list, func(p proposal) bool { return p.ticket == ticket })
	if i < 0 {
		return false
	}
	q.countLocked(q.list[i], -1)
	q.list = slices.Delete(q.list, i, i+1)
	return true
}

// drain refuses further proposals and answers those that wait.
func (q *queue) drain(err error) {
	q.mu.Lock()
	list := q.list
	q.list, q.bytes, q.urgent, q.closed = nil, 0, 0, err
	q.mu.Unlock()
	for _, p := range list {
		p.done(state.OpResult{}, err)
	}
}

// session is one incarnation of this agent; see the package doc.
type session struct {
	incarnation  log.Incarnation
	registration log.Registration
	nodeID       atomic.Int32
	joined       atomic.Bool
	dead         chan struct{} // closed when the state rejected an entry of it: it was removed from the cluster
	deadOnce     sync.Once

	mu       sync.Mutex            // guards the rest
	inFlight map[uint64][]proposal // by seq: proposals in entries that are not applied yet
	returned []proposal            // of entries that the state rejected whole, in order
	seq      uint64                // of the last entry applied
	drained  error                 // set by drain: there is no next session
}

func (s *session) track(seq uint64, ps []proposal) {
	s.mu.Lock()
	s.inFlight[seq] = ps
	s.mu.Unlock()
}

// settle takes out the proposals of an entry that was just applied. With rejected they are kept for the next session, or come
// back with an error where there will be none.
//
// Requires: the caller holds the state's lock and has not announced the entry as applied yet. settleSession takes what is left
// once everything is applied; an entry between the two would be committed again under the next incarnation.
func (s *session) settle(seq uint64, rejected bool) ([]proposal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ps := s.inFlight[seq]
	delete(s.inFlight, seq)
	s.seq = max(s.seq, seq)
	if !rejected {
		return ps, nil
	}
	s.deadOnce.Do(func() { close(s.dead) })
	if s.drained != nil {
		return ps, s.drained
	}
	s.returned = append(s.returned, ps...)
	return nil, nil
}

func (s *session) appliedSeq() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq
}

// unsettled empties the session: every proposal that had no effect, in order.
func (s *session) unsettled() []proposal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unsettledLocked()
}

func (s *session) unsettledLocked() []proposal {
	ps := s.returned
	seqs := make([]uint64, 0, len(s.inFlight))
	for seq := range s.inFlight {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	for _, seq := range seqs {
		ps = append(ps, s.inFlight[seq]...)
	}
	s.returned, s.inFlight = nil, make(map[uint64][]proposal)
	return ps
}

func (s *session) drain(err error) {
	s.mu.Lock()
	ps := s.unsettledLocked()
	s.drained = err
	s.mu.Unlock()
	for _, p := range ps {
		p.done(state.OpResult{}, err)
	}
}

// Submit queues an op. done is called exactly once: from the applier, in log order, when the entry with op was applied (the result is
// valid during the call only), or with ErrTooLarge or entry.ErrCorrupt (never committed) or an error that wraps ErrClosed
// (unknown). done must not block; of the client it may call Submit.
//
// An op above the cluster's feature level is refused at once, with the result that Apply would give. It must not reach the log:
// agents that know no such op would stop there.
func (c *Client) Submit(op entry.Op, done func(state.OpResult, error)) {
	c.submit(op, proposal{done: done})
}

// Offer is Submit for those who may give up: withdraw takes op back unless an entry with it is under way, and done is then never
// called. It may wait for others, so that many share an entry, and it is answered behind all ops of Submit in its entry. What waits while the log gives no answer is so bounded by those who still wait.
func (c *Client) Offer(op entry.Op, done func(state.OpResult, error)) (withdraw func()) {
	p := proposal{patient: true, ticket: new(ticket), done: done}
	c.submit(op, p)
	return func() { c.queue.withdraw(p.ticket) }
}

func (c *Client) submit(op entry.Op, p proposal) {
	level := entry.Level(op)
	if level > 1 && level > c.level.Load() {
		p.done(state.OpResult{Code: state.FeatureLevelNotReached, FirstProducerID: -1, NodeID: -1, LogStartOffset: -1}, nil)
		return
	}
	p.level, p.at = level, time.Now()
	var err error
	if p.value, err = c.encoder.encode(op, level > 1); err == nil {
		err = c.queue.push(p)
	}
	if err != nil {
		p.done(state.OpResult{}, err)
	}
}

// opEncoder encodes ops, once each.
type opEncoder struct {
	mu sync.Mutex // guards x
	x  entry.Encoder
}

// encode returns what op adds to an entry. With check it has to decode, too.
func (o *opEncoder) encode(op entry.Op, check bool) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	value := o.x.Encode(op)
	if len(value) > log.MaxValueBytes-headroomBytes {
		return nil, fmt.Errorf("%w: %T of %d bytes, limit %d", ErrTooLarge, op, len(value), log.MaxValueBytes-headroomBytes)
	}
	if check { // it is made of what clients send; in the log it would stop every agent
		if err := o.x.Check(); err != nil {
			return nil, fmt.Errorf("an op that no agent could read: %w", err)
		}
	}
	return slices.Clone(value), nil
}

// Propose submits an op and waits for its result. An error that is neither ErrTooLarge nor entry.ErrCorrupt means that the
// outcome is unknown.
//
// Where ctx ends while the op still waits for an entry to travel in, it is withdrawn: however long the log is out, there wait
// as many ops as there are callers, and of what nobody waits for any more at most the one entry under way is done later.
func (c *Client) Propose(ctx context.Context, op entry.Op) (state.OpResult, error) {
	type answer struct {
		r   state.OpResult
		err error
	}
	ch := make(chan answer, 1)
	p := proposal{ticket: new(ticket), done: func(r state.OpResult, err error) {
		r.Batches, r.Offsets, r.Parts = slices.Clone(r.Batches), slices.Clone(r.Offsets), slices.Clone(r.Parts)
		ch <- answer{r, err}
	}}
	c.submit(op, p)
	select {
	case a := <-ch:
		return a.r, a.err
	case <-ctx.Done():
		c.queue.withdraw(p.ticket)
		return state.OpResult{}, context.Cause(ctx)
	}
}

// Sessions that end soon after another are opened with these pauses between them.
const (
	sessionDelayMin = 10 * time.Millisecond
	sessionDelayMax = 5 * time.Second
)

var (
	errFenced = errors.New("registration gone")
	errEnded  = errors.New("client ended")
)

// commitLoop is the one committer: it packs what waits into the next entry and never has two commits in flight, since two
// of one agent could take effect in either order.
func (c *Client) commitLoop() {
	defer c.answerAll()
	for delay := sessionDelayMin; c.ctx.Err() == nil; {
		began := time.Now()
		s, err := c.openSession()
		if err != nil {
			return
		}
		err = c.serve(s)
		if errors.Is(err, errEnded) {
			return
		}
		if !c.settleSession(s, err) {
			return
		}
		if other, displaced := c.displacedBy(s); displaced {
			c.fail(fmt.Errorf("%w: %q joined as incarnation %s, zone %q, version %q, listening at %s; give each agent a name and a --data-dir of its own",
				ErrDisplaced, c.cfg.Name, log.Incarnation(other.Incarnation), other.Zone, other.Version, addresses(other.Listeners)))
			return
		}
		if time.Since(began) > time.Minute {
			delay = sessionDelayMin
		} else if !c.pause(delay) { // whatever ends sessions one after the other: not as fast as we can
			return
		} else {
			delay = min(2*delay, sessionDelayMax)
		}
	}
}

// answerAll tells every proposer that waits that the client is at its end. The applier may be answering some of them at the
// same time; each is answered by whoever takes it out first.
func (c *Client) answerAll() {
	err := c.Err()
	if !errors.Is(err, ErrClosed) {
		err = fmt.Errorf("%w: %w", ErrClosed, errors.Join(err))
	}
	c.queue.drain(err)
	if s := c.session.Load(); s != nil {
		s.drain(err)
	}
}

// displacedBy reports the agent of another process that has joined under our name since s, which is settled.
func (c *Client) displacedBy(s *session) (other state.Agent, displaced bool) {
	last := c.lastJoined.Load()
	c.View(func(st *state.State) {
		for _, a := range st.Agents() {
			ours := a.Incarnation == s.incarnation || last != nil && a.Incarnation == *last
			if a.Name == c.cfg.Name && !ours {
				other, displaced = a, true
			}
		}
	})
	return other, displaced
}

func addresses(listeners []entry.Listener) string {
	list := make([]string, len(listeners))
	for i, l := range listeners {
		list[i] = fmt.Sprintf("%s %s:%d", l.Name, l.Host, l.Port)
	}
	return strings.Join(list, ", ")
}

// openSession registers a new incarnation and queues its join in front of everything.
func (c *Client) openSession() (*session, error) {
	s := &session{dead: make(chan struct{}), inFlight: make(map[uint64][]proposal)}
	s.nodeID.Store(c.NodeID())
	again := false
	for delay := 10 * time.Millisecond; ; delay = min(2*delay, time.Second) {
		c.randomBytes(s.incarnation[:])
		ctx, cancel := context.WithTimeout(c.ctx, commitAttempt)
		var err error
		s.registration, err = c.log.Register(ctx, s.incarnation, c.cfg.Info, c.cfg.RegistrationTTL)
		cancel()
		if err == nil {
			c.contact()
			c.stuck.Store(nil)
			break
		}
		if permanent(err) || errors.Is(err, log.ErrRefused) && c.NodeID() < 0 { // at the start a person is there to read it
			c.fail(fmt.Errorf("register: %w", err))
			return nil, err
		}
		c.waits("this agent cannot register", err)
		c.cfg.Logger.Log(c.ctx, first(&again), "cannot register with the metastore, trying again", "error", err)
		if !c.pause(delay) {
			return nil, errEnded
		}
	}
	join := &entry.Join{
		Name: c.cfg.Name, Listeners: c.cfg.Listeners, Zone: c.cfg.Zone, Version: c.cfg.Version,
		MaxFeatureLevel: state.MaxFeatureLevel,
	}
	value, err := c.encoder.encode(join, false)
	if err != nil {
		c.fail(fmt.Errorf("join as %q: %w", c.cfg.Name, err))
		return nil, err
	}
	first := proposal{value: value, level: entry.Level(join), join: true, at: time.Now(), done: func(r state.OpResult, err error) {
		if err == nil && r.Code != state.OK {
			err = fmt.Errorf("%w: %v", ErrJoinRefused, r.Code)
		}
		if err != nil {
			c.fail(fmt.Errorf("join as %q: %w", c.cfg.Name, err))
			return
		}
		s.nodeID.Store(r.NodeID)
		c.lastJoined.Store(&s.incarnation)
		s.joined.Store(true)
		c.cfg.Logger.Info("joined the cluster", "agent", c.cfg.Name, "node_id", r.NodeID, "incarnation", s.incarnation)
	}}
	c.queue.putBack(append([]proposal{first}, c.foundingLevel()...))
	c.session.Store(s)
	return s, nil
}

func (c *Client) randomBytes(b []byte) {
	if c.cfg.Rand == nil {
		_, _ = crand.Read(b) // never fails: it ends the process instead
		return
	}
	for i := 0; i < len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], c.cfg.Rand.Uint64())
	}
}

// serve commits entries of s until it is fenced.
func (c *Client) serve(s *session) error {
	for seq := uint64(1); ; seq++ {
		var ps []proposal
		for len(ps) == 0 {
			select {
			case <-c.queue.wake:
				ps = c.queue.take()
			case <-s.registration.Lost():
				return errFenced
			case <-s.dead:
				return errFenced
			case <-c.ctx.Done():
				return errEnded
			}
		}
		if err := c.commit(s, seq, ps); err != nil {
			return err
		}
	}
}

// commit makes one entry part of the log, whatever it takes, or finds that s is fenced.
func (c *Client) commit(s *session, seq uint64, ps []proposal) error {
	e := entry.Entry{
		Format: entryFormat, Incarnation: s.incarnation, Seq: seq,
		ClockMs: c.cfg.Now().UnixMilli(), FeatureLevel: 1,
	}
	size := headroomBytes
	for i := range ps {
		e.FeatureLevel = max(e.FeatureLevel, ps[i].level) // the lowest that an agent must understand to apply them
		size += len(ps[i].value)
	}
	c.View(func(st *state.State) {
		hash := st.ChainHash()
		e.SeenN, e.SeenHash = st.N(), binary.BigEndian.Uint64(hash[:8])
	})
	value := e.AppendTo(make([]byte, 0, size))
	for i := range ps {
		value = append(value, ps[i].value...)
	}
	s.track(seq, ps)
	start := time.Now()
	defer func() { c.cfg.Metrics.commitSeconds.Observe(time.Since(start).Seconds()) }()
	c.cfg.Metrics.entryBytes.Observe(float64(len(value)))

	key := log.Key{Incarnation: s.incarnation, Seq: seq}
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, 500*time.Millisecond) {
		ctx, cancel := context.WithTimeout(c.ctx, commitAttempt)
		outcome, err := c.log.Commit(ctx, c.identity, key, value)
		cancel()
		if err == nil {
			c.contact()
			c.stuck.Store(nil)
			switch outcome {
			case log.Committed, log.Exists:
				return nil
			case log.Fenced:
				return errFenced
			default:
				c.fail(fmt.Errorf("%w: the log's identity changed while this agent was running", ErrForeign))
				return errEnded
			}
		}
		c.cfg.Metrics.commitUnknown.Inc()
		switch {
		case c.ctx.Err() != nil:
			return errEnded
		case errors.Is(err, log.ErrTooLarge), errors.Is(err, log.ErrClosed), permanent(err):
			c.fail(fmt.Errorf("commit %v: %w", key, err))
			return errEnded
		case s.appliedSeq() >= seq:
			c.stuck.Store(nil)
			return nil // the watch was faster than the answer
		}
		c.waits("commits have no outcome", err)
		c.cfg.Logger.Debug("commit outcome unknown, retrying under the same key", "key", key, "error", err)
		if !c.pause(delay) {
			return errEnded
		}
	}
}

// first is the level of a line that is told once: a warning the first time, for debugging after that.
func first(again *bool) slog.Level {
	if *again {
		return slog.LevelDebug
	}
	*again = true
	return slog.LevelWarn
}

// settleSession makes the outcome of every entry of a fenced session known and queues again what had no effect.
//
// Correctness: once the registration is gone no transaction of s can succeed; every one that did succeed is at or below a
// head read after that. What is still unsettled when that head is applied never happened and never will.
func (c *Client) settleSession(s *session, why error) bool {
	c.cfg.Logger.Warn("session ended, joining again under a new incarnation", "incarnation", s.incarnation, "cause", why)
	c.cfg.Metrics.sessionsLost.Inc()
	for delay := 10 * time.Millisecond; ; delay = min(2*delay, time.Second) {
		ctx, cancel := context.WithTimeout(c.ctx, commitAttempt)
		err := c.log.Unregister(ctx, s.incarnation)
		cancel()
		var head uint64
		if err == nil {
			head, err = c.readHead(barrierRead)
		}
		if err == nil {
			if c.awaitApplied(c.ctx, head) != nil {
				return false
			}
			break
		}
		if !c.pause(delay) {
			return false
		}
	}
	_ = s.registration.Close(c.ctx) // its lease may go too; the key is gone already
	left := s.unsettled()
	left = slices.DeleteFunc(left, func(p proposal) bool { return p.join })
	c.queue.putBack(left)
	return true
}

// idBlock hands out producer ids from a range taken by one op.
type idBlock struct {
	mu        sync.Mutex // guards the range
	next, end int64
	filling   chan struct{} // holds a token while one caller takes a new range: a lock that a waiting caller can give up
}

// idBlockSize is how many producer ids an agent takes at a time; those it does not hand out are never used.
const idBlockSize = 1000

func (b *idBlock) take() (int64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == b.end {
		return 0, false
	}
	b.next++
	return b.next - 1, true
}

// ReserveProducerID returns an id that no other producer of this cluster ever had or will have.
func (c *Client) ReserveProducerID(ctx context.Context) (int64, error) {
	if id, ok := c.ids.take(); ok {
		return id, nil
	}
	select {
	case c.ids.filling <- struct{}{}:
		defer func() { <-c.ids.filling }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	for {
		if id, ok := c.ids.take(); ok {
			return id, nil
		}
		r, err := c.Propose(ctx, &entry.ReserveProducerIDs{Count: idBlockSize})
		if err != nil {
			return 0, err
		}
		if r.Code != state.OK {
			return 0, fmt.Errorf("reserve producer ids: %v", r.Code)
		}
		c.ids.mu.Lock()
		c.ids.next, c.ids.end = r.FirstProducerID, r.FirstProducerID+idBlockSize
		c.ids.mu.Unlock()
	}
}
