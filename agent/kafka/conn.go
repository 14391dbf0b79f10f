package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// conn is one connection; see the package doc for its goroutines.
type conn struct {
	s        *Server
	nc       net.Conn
	listener string          // that it came by
	from     netip.Addr      // the client's, as admission counts it; zero where unknown. Guarded by Server.mu until it is served
	visitor  *visitor        // what it shares with others of its address; nil where that is unknown
	early    []byte          // what was read before there was a reader
	left     atomic.Bool     // admission has counted it out
	at       time.Time       // when it was accepted
	retire   time.Time       // when it is old
	heldUp   time.Time       // of the executor: when a request that was passed on last came back after lateAfter or more
	sleeps   uint64          // of this process before it was accepted, see asleep.go
	ctx      context.Context // ends with the connection
	cancel   context.CancelCauseFunc

	// slots bounds the requests that are read and not answered, and with them both queues below: while the executor is in a
	// long poll, the reader must not be held up behind it, or it would not see the client go.
	slots     chan struct{}
	bounced   bounced   // of the executor
	redirects redirects // of the executor
	// unanswered is how many requests that are.
	unanswered atomic.Int32
	budget     *budget
	// free is taken while a request or an answer of the connection is held without a charge; see freeBytes.
	freeRequest, freeAnswer atomic.Bool
	// proven: a request was understood. Until then the connection is given little; see Config.FirstRequestTimeout.
	proven     atomic.Bool
	understood chan struct{} // closed when proven is set
	// readSince and writeSince are since when (Unix ns) a piece of a request or of an answer has been under way; 0: none is.
	// A connection that holds a budget others wait for must not take long over it.
	readSince, writeSince atomic.Int64
	// largeSince is since when (Unix ns) its request is the large one that is being read, waits of ours apart; 0: it is not.
	largeSince atomic.Int64
	// charged: the request with the executor holds some of Server.work. crowded tells it that others wait for memory that it
	// holds, or that requests behind it do.
	charged atomic.Bool
	crowded chan struct{}
	// short is how many of the connection's goroutines wait for a budget.
	short atomic.Int32
	// hungUp is closed when the client has said that it sends nothing more. What it sent is answered, long polls at once. sawOff
	// is when that was noticed, progress when an answer was last written (Unix ns, 0: never); see inspect.
	hungUp chan struct{}
	hangUp sync.Once
	// guest: it is another agent's client, see Server.Forwarded. Its requests are passed on no further.
	guest            bool
	sawOff, progress atomic.Int64

	wg    sync.WaitGroup // the executor and the writer
	mu    sync.Mutex     // guards the rest
	queue stage[*frame]  // reader to executor
	line  stage[*answer] // executor to writer, in request order
	drain bool           // the reader is to stop; never falls. Orders it with setting deadlines.
}

// answer is one response on its way out.
type answer struct {
	reply
	request request
	held    hold
}

func newConn(s *Server, nc net.Conn, listener string) *conn {
	if s.trusts(nc.RemoteAddr()) {
		nc = &proxied{Conn: nc}
	}
	c := &conn{
		s: s, nc: nc, listener: listener, at: time.Now(),
		understood: make(chan struct{}),
		slots:      make(chan struct{}, s.cfg.ConnectionRequests),
		budget:     newBudget(kinds, s.cfg.ConnectionInFlightBytes, nil),
		crowded:    make(chan struct{}, 1),
		hungUp:     make(chan struct{}),
	}
	if c.sleeps = s.beat.look(s.wokenUp); s.drowsy() {
		c.sleeps-- // it may have waited to be accepted all the while
	}
	c.retire = c.at.Add(s.life(s.came.Add(1)))
	if _, ok := nc.(*proxied); !ok {
		c.from = addressOf(nc.RemoteAddr())
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// run serves the connection until it ends, and closes it. It is the reader.
func (c *conn) run() {
	err := c.arrive()
	if err == nil {
		err = c.read()
	}
	switch {
	case c.draining():
		err = errDraining
	case errors.Is(err, errAged):
		c.s.cfg.Metrics.aged.Inc()
	case errors.Is(err, io.EOF):
		c.sendsNoMore()
	default:
		c.fail(err)
	}
	if c.queue.close(&c.mu) || c.line.close(&c.mu) { // the executor passes it on to the writer
		c.finish()
	}
	c.wg.Wait()
	if errors.Is(err, errAged) || errors.Is(err, errDraining) {
		c.part()
	}
	c.fail(err) // where nothing failed before
	if err := context.Cause(c.ctx); gone(err) {
		c.s.cfg.Logger.Debug("connection ended", "remote", c.nc.RemoteAddr(), "reason", err)
	} else {
		c.s.cfg.Metrics.faulty.WithLabelValues(faultReason(err)).Inc()
		// Garbage comes in floods: a line a minute for each kind, with the number of those that it stands for.
		if leftOut, write := c.s.lines.Take("faulty " + faultReason(err)); write {
			c.s.cfg.Logger.Warn("closing a connection", "remote", c.nc.RemoteAddr(), "error", err, "left_out", leftOut)
		}
	}
}

// fail ends the connection; the first reason counts.
func (c *conn) fail(err error) {
	c.cancel(err)
	_ = c.nc.Close()
}

// read hands frames to the executor until one cannot be had.
func (c *conn) read() error {
	fr := frameReader{c: c}
	fr.got, c.early = copy(fr.head[:], c.early), nil
	for {
		f, err := fr.next()
		if err != nil {
			return err
		}
		if err := c.slot(); err != nil {
			f.release()
			return err
		}
		c.unanswered.Add(1)
		if c.queue.put(&c.mu, f) {
			c.wg.Go(c.execute)
		}
	}
}

// execute runs requests one after the other, until there are none.
func (c *conn) execute() {
	for {
		f, more := c.queue.next(&c.mu)
		switch more {
		case nothingNow:
			return
		case nothingMore:
			c.line.close(&c.mu)
			return
		}
		if c.ctx.Err() != nil {
			f.release()
			continue
		}
		a, err := c.handle(f)
		if err != nil {
			c.fail(err)
			continue
		}
		if !c.proven.Swap(true) {
			close(c.understood)
		}
		if c.line.put(&c.mu, a) {
			c.wg.Go(c.write)
		}
	}
}

// stage is a queue with a goroutine behind it, which runs only while there is something to do and a little longer: most
// connections are idle at any time, and then cost one small stack. All fields are guarded by the mutex that is passed in.
type stage[T any] struct {
	items []T
	head  int
	// running: the goroutine is there. Invariant: it is where items are left.
	running bool
	closed  bool // nothing more comes
	wake    chan struct{}
	timer   *time.Timer
}

// linger is how long a stage's goroutine waits for more.
const linger = 2 * time.Second

// put adds v; start says that the caller has to start the goroutine.
func (q *stage[T]) put(mu *sync.Mutex, v T) (start bool) {
	mu.Lock()
	defer mu.Unlock()
	if len(q.items) == cap(q.items) && 2*q.head > len(q.items) { // a queue that never runs empty must not grow by what has left it
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v)
	if q.running {
		q.wakeLocked()
		return false
	}
	q.running = true
	if q.wake == nil {
		q.wake = make(chan struct{}, 1)
	}
	return true
}

func (q *stage[T]) wakeLocked() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// close ends the goroutine, if there is one, once it has taken what is left.
func (q *stage[T]) close(mu *sync.Mutex) (running bool) {
	mu.Lock()
	defer mu.Unlock()
	q.closed = true
	if q.running {
		q.wakeLocked()
	}
	return q.running
}

// ready takes the next one, if there is one.
func (q *stage[T]) ready(mu *sync.Mutex) (v T, ok bool) {
	mu.Lock()
	defer mu.Unlock()
	return q.popLocked()
}

// next says what became of waiting for the next one. Where none was taken the goroutine has to end.
type next int8

const (
	taken next = iota
	nothingNow
	nothingMore
)

// next waits for the next one.
func (q *stage[T]) next(mu *sync.Mutex) (v T, _ next) {
	for over := false; ; {
		mu.Lock()
		v, ok := q.popLocked()
		if ok {
			mu.Unlock()
			return v, taken
		}
		if q.closed || over {
			defer mu.Unlock()
			q.running, q.items, q.wake, q.timer = false, nil, nil, nil
			if q.closed {
				return v, nothingMore
			}
			return v, nothingNow
		}
		if q.timer == nil {
			q.timer = time.NewTimer(linger)
		} else {
			q.timer.Reset(linger)
		}
		wake, timer := q.wake, q.timer
		mu.Unlock()
		select {
		case <-wake:
		case <-timer.C:
			over = true
		}
		timer.Stop()
	}
}

func (q *stage[T]) popLocked() (v T, ok bool) {
	if q.head == len(q.items) {
		return v, false
	}
	var none T
	v, q.items[q.head] = q.items[q.head], none
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return v, true
}

// handle takes over the frame's hold.
func (c *conn) handle(f *frame) (*answer, error) {
	r, unknownVersion, err := parseRequest(f.body)
	if err != nil {
		f.release()
		return nil, err
	}
	r.conn, r.frame, r.at = c, f, time.Now()
	a := &answer{request: r}
	defer func() {
		if err != nil {
			a.held.give(c)
		}
	}()
	switch {
	case unknownVersion:
		f.release()
		a.reply = c.s.unknownApiVersions()
	case r.key == keyProduce:
		defer f.release()
		a.reply, err = c.s.produce(c.ctx, a)
	default:
		a.reply, err = c.s.answer(c.ctx, a, f)
	}
	a.request.body, a.request.frame = nil, nil
	return a, err
}

// answer has a request answered, by another agent where it is that one's to answer. It gives the frame back.
func (s *Server) answer(ctx context.Context, a *answer, f *frame) (reply, error) {
	if _, group := ways[a.request.key]; group && !a.request.conn.guest && a.request.conn.slept() {
		f.release()
		return reply{}, errAsleep
	}
	// What stood in line behind others may be of a client that has long gone on by way of another agent.
	// A long poll is no such wait: clients that use one connection for everything have commits behind it all the time.
	a.request.late = f.came.Before(a.request.conn.heldUp) && time.Since(f.came) >= lateAfter
	elsewhere, err := s.passOn(ctx, a)
	if elsewhere != nil || err != nil {
		f.release()
		return reply{raw: elsewhere}, err
	}
	msg, err := s.decode(ctx, a)
	f.release()
	if err != nil {
		return reply{}, err
	}
	if whole, split, err := s.split(ctx, a, msg); split || err != nil {
		return whole, err
	}
	return s.serve(ctx, &a.request, msg)
}

// writeStep is how much of an answer the client must take within StallTimeout; gatherStep is up to which size small answers
// that are ready are put together.
const (
	writeStep  = 256 << 10
	gatherStep = 16 << 10
)

// write sends answers in order, until there are none. Once the connection has failed it only gives back what they hold.
func (c *conn) write() {
	out := c.s.pool.get(0)
	defer func() { c.s.pool.put(out) }()
	var parts [][]byte
	flush := func() {
		if len(out) > 0 {
			c.send(out)
			out = out[:0]
		}
		if cap(out) > 2*gatherStep { // a large answer's: nothing accounts for it once the answer is gone
			c.s.pool.put(out)
			out = c.s.pool.get(0)
		}
	}
	for {
		a, ok := c.line.ready(&c.mu)
		if !ok {
			flush()
			var more next
			if a, more = c.line.next(&c.mu); more != taken {
				return
			}
		}
		if a.ready != nil {
			select {
			case <-a.ready:
			default:
				flush()
				c.await(a)
			}
		}
		if c.ctx.Err() != nil {
			a.drop(c)
			c.answered()
			continue
		}
		switch err := a.failure(); {
		case err != nil:
			c.fail(fmt.Errorf("%s: %w", kmsg.NameForKey(a.request.key), err))
		case a.built != nil:
			flush()
			if a.lent == nil || a.lent.Lent() == 0 {
				c.send(finish(a.built, 0))
				break
			}
			binary.BigEndian.PutUint32(a.built, uint32(a.lent.Len()-4))
			parts = a.lent.Parts(parts[:0])
			c.sendParts(parts)
			clear(parts) // the cache's
		case a.raw != nil:
			flush()
			var size [4]byte
			binary.BigEndian.PutUint32(size[:], uint32(len(a.raw)))
			c.send(append(size[:], a.raw...))
			a.raw = nil
		case a.body != nil:
			start := len(out)
			out = finish(a.body(appendHeader(out, &a.request)), start)
			a.body = nil
			if len(out) >= gatherStep {
				flush()
			}
		}
		c.s.cfg.Metrics.answered(a.request.key, time.Since(a.request.at))
		a.drop(c)
		c.answered()
	}
}

// await waits until a is ready, the connection ends, or the client's patience does.
func (c *conn) await(a *answer) {
	var over <-chan time.Time
	if a.patience > 0 {
		t := time.NewTimer(a.patience - time.Since(a.request.at))
		defer t.Stop()
		over = t.C
	}
	select {
	case <-a.ready:
	case <-c.ctx.Done():
	case <-over:
		a.gaveUp()
	}
}

// answered frees the slot of a request.
func (c *conn) answered() {
	c.unanswered.Add(-1)
	<-c.slots
}

func (a *answer) failure() error {
	if a.fault == nil {
		return nil
	}
	return a.fault()
}

// drop gives back what the answer holds.
func (a *answer) drop(c *conn) {
	if a.lent != nil {
		a.lent.Release()
		a.lent = nil
	}
	if a.built != nil {
		c.s.pool.put(a.built)
		a.built = nil
	}
	c.s.answers.give(c.visitor, a.charge)
	a.charge = 0
	a.held.give(c)
}

// send writes b, or fails the connection.
func (c *conn) send(b []byte) {
	defer c.writeSince.Store(0)
	for len(b) > 0 && c.ctx.Err() == nil {
		n := min(len(b), writeStep)
		if !c.sendStep(len(b), func() error { _, err := c.nc.Write(b[:n]); return err }) {
			return
		}
		b = b[n:]
	}
}

// sendParts writes parts one behind the other, or fails the connection. The slices in parts are changed.
func (c *conn) sendParts(parts [][]byte) {
	defer c.writeSince.Store(0)
	left := 0
	for _, p := range parts {
		left += len(p)
	}
	var to io.Writer = c.nc
	if p, ok := c.nc.(*proxied); ok { // several buffers go out with one call only where this is the socket itself
		to = p.Conn
	}
	var step net.Buffers
	for left > 0 && c.ctx.Err() == nil {
		n := 0
		for step = step[:0]; n < writeStep && len(parts) > 0; {
			p := parts[0][:min(len(parts[0]), writeStep-n)]
			if parts[0] = parts[0][len(p):]; len(parts[0]) == 0 {
				parts = parts[1:]
			}
			n += len(p)
			step = append(step, p)
		}
		if !c.sendStep(left, func() error { out := step; _, err := out.WriteTo(to); return err }) {
			return
		}
		left -= n
	}
}

// sendStep has write write at most writeStep of the left bytes of an answer. False: it failed the connection.
func (c *conn) sendStep(left int, write func() error) bool {
	now := time.Now()
	c.writeSince.Store(now.UnixNano())
	err := c.nc.SetWriteDeadline(now.Add(c.s.cfg.StallTimeout))
	if err == nil {
		err = write()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: %d bytes of an answer not taken", errSlow, left)
	}
	if err != nil {
		c.fail(err)
		return false
	}
	c.progress.Store(now.UnixNano())
	return true
}
