package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

var (
	// errForeign: the client speaks another protocol.
	errForeign = errors.New("not the Kafka protocol")
	// errFrameSize: a request is larger than allowed, or smaller than can be.
	errFrameSize = errors.New("request size out of bounds")
	// errIdle: nothing came for too long.
	errIdle = errors.New("idle")
	// errSlow: a request did not arrive whole in time, or an answer was not taken.
	errSlow = errors.New("client too slow")
	// errDisplaced: it asked for nothing, and another needed its place.
	errDisplaced = errors.New("made room for another connection")
	// errDraining: the server takes no more requests.
	errDraining = errors.New("draining")
)

const (
	// frameStep is the size of the largest request that may pass while producers are held back.
	frameStep = 64 << 10
	// uncharged is how much of a request is read before anything is asked of a budget, and freeBytes what one request and one
	// answer of each connection may take beside them: who does one thing after the other is served however crowded it is.
	uncharged = 4 << 10
	freeBytes = 4 << 10
	// firstRoom is the room made for a request before any of it came.
	firstRoom = 1 << 10
	// readStep is how much of a request must come within FrameTimeout.
	readStep = 256 << 10
	// largeRequest is up to where a connection may claim and get. What is larger is read one at a time, gets no more than this until so
	// much has come, and then waits for room for all of it, where others count.
	largeRequest = 16 << 20
)

// frameReader reads requests off one connection.
type frameReader struct {
	c *conn
	// head is what was read and is not part of a frame yet, got is how much that is: most requests come whole with one read. It
	// is small, as idle connections keep it.
	head [512]byte
	got  int
	// proven is the size of the largest frame that came whole, up to largeRequest; up to it room is made at once.
	proven int
}

// next reads a frame. io.EOF is the clean end between frames.
func (fr *frameReader) next() (*frame, error) {
	c, cfg := fr.c, &fr.c.s.cfg
	if time.Since(c.retire) > ageGrace {
		return nil, errAged
	}
	if err := fr.awaitFirst(); err != nil {
		return nil, err
	}
	if err := c.deadline(cfg.FrameTimeout); err != nil {
		return nil, err
	}
	for _, need := range [...]int{4, 4 + headerBytesMin} {
		if fr.got < need {
			n, err := io.ReadAtLeast(c.nc, fr.head[fr.got:], need-fr.got)
			fr.got += n
			if foreign := sniff(fr.head[:fr.got]); err != nil && foreign != "" {
				return nil, c.foreign(foreign)
			}
			if err != nil {
				return nil, late(err)
			}
		}
		size, most := fr.size(), int64(max(cfg.ProduceBytesMax, cfg.RequestBytesMax))
		if size >= headerBytesMin && size <= most {
			continue
		}
		if foreign := sniff(fr.head[:fr.got]); foreign != "" {
			return nil, c.foreign(foreign)
		}
		return nil, fmt.Errorf("%w: %d bytes, %d to %d allowed", errFrameSize, size, headerBytesMin, most)
	}
	key := int16(binary.BigEndian.Uint16(fr.head[4:]))
	if _, ok := lookupAPI(key); !ok {
		return nil, fmt.Errorf("%w: unknown API key %d", errMalformed, key)
	}
	if (fr.size() > largeRequest || key != keyProduce && fr.size() > int64(cfg.FirstRequestBytesMax)) && c.unanswered.Load() > 0 {
		select { // whether the one before it was a request is about to be known
		case <-c.understood:
		case <-c.ctx.Done():
			return nil, context.Cause(c.ctx)
		}
	}
	limit, first := int64(cfg.RequestBytesMax), ""
	switch {
	case key == keyProduce: // which may be a connection's first: clients of pinned versions ask for nothing before
		if limit = int64(cfg.ProduceBytesMax); limit > largeRequest && !c.proven.Load() {
			limit, first = largeRequest, " of a connection's first request"
		}
	case !c.proven.Load():
		limit, first = min(limit, int64(cfg.FirstRequestBytesMax)), " of a connection's first request"
	}
	if size := fr.size(); size > limit {
		return nil, fmt.Errorf("%w: %s of %d bytes, %d allowed%s", errFrameSize, kmsg.NameForKey(key), size, limit, first)
	}
	return fr.body(int(fr.size()), key == keyProduce)
}

// foreign is the error of a client that speaks something else.
func (c *conn) foreign(what string) error {
	if _, trusted := c.nc.(*proxied); what == proxyProtocol && !trusted {
		return fmt.Errorf("%w: looks like %s, which is taken from --trusted-proxies alone", errForeign, what)
	}
	return fmt.Errorf("%w: looks like %s", errForeign, what)
}

func (fr *frameReader) size() int64 { return int64(int32(binary.BigEndian.Uint32(fr.head[:]))) }

// awaitFirst waits for the first bytes of a frame. A connection that waits for answers is not idle.
func (fr *frameReader) awaitFirst() error {
	if fr.got > 0 { // they came with the frame before
		return nil
	}
	c := fr.c
	cfg := &c.s.cfg
	waited := time.Duration(0)
	for fr.got = 0; ; {
		first := !c.proven.Load()
		patience := max(cfg.IdleTimeout-waited, 0)
		if first {
			patience = min(patience, cfg.FirstRequestTimeout)
		}
		left := time.Until(c.retire)
		old := left <= 0
		switch {
		case left < -ageGrace:
			return errAged
		case old:
			patience = min(patience, ageQuiet)
		default:
			patience = min(patience, left)
		}
		if err := c.deadline(patience); err != nil {
			return err
		}
		n, err := c.nc.Read(fr.head[:])
		fr.got = n
		switch {
		case n > 0:
			return nil
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case c.draining():
			return errDraining
		case old && c.unanswered.Load() == 0:
			return errAged
		case old || patience == left: // has become old, or waits for an answer
		case first && c.proven.Load():
			waited += patience // the first request was still on its way through
		case c.unanswered.Load() == 0:
			return errIdle
		}
	}
}

// charges are what a request holds of the budgets.
type charges struct {
	size   int64   // the request's
	own    int64   // of the connection's
	shared *budget // nil: none but the connection's
	n      int64   // of shared
	spared int64   // of n, what does not count as its address's
	free   bool    // it is the connection's one request that goes without
	over   bool    // it is the one that may go beyond shared: it holds Server.overdraft
	large  bool    // it is the large one that is being read: it holds Server.large
}

// charge waits for room for a request of size bytes. Every request counts against the connection's budget for as long as it
// is queued, and against one that connections share. That is another for small ones that carry no records: they must get
// through while producers are held back. A stranger has not sent anything as large before; it is charged as bytes come, of a
// budget of its own, so that any number of large claims holds up nobody who is at work. A request that is larger than all of the
// connection's budget comes alone.
func (c *conn) charge(size int64, records, stranger bool) (ch charges, err error) {
	ch.n, ch.own = size, min(size, c.budget.size)
	own := ch.own
	switch {
	case size <= freeBytes && c.freeRequest.CompareAndSwap(false, true):
		ch.free, ch.n = true, 0
	case stranger:
		ch.shared, ch.n = c.s.strangers, 0
	default:
		ch.shared = c.s.budgetFor(size, records)
	}
	if ch.n > 0 {
		ch.n = ch.shared.clip(ch.n)
	}
	if err = c.take(c.ctx, c.budget, nil, own); err == nil && ch.n > 0 {
		if err = c.take(c.ctx, ch.shared, c.visitor, ch.n); err != nil {
			c.budget.give(nil, own)
		}
	}
	if err != nil {
		if ch.free {
			c.freeRequest.Store(false)
		}
		return charges{}, err
	}
	ch.size = size
	return ch, nil
}

// budgetFor is where a request counts that is no stranger's.
func (s *Server) budgetFor(size int64, records bool) *budget {
	if records || size > frameStep {
		return s.inFlight
	}
	return s.queued
}

// settle moves the charge of a stranger's request to where others count, if there is room for all of it at once, and where it
// is not there yet for half of the budget besides. One that is there may be kept for long, and other strangers' could not come
// in meanwhile.
func (c *conn) settle(ch *charges, records, there bool) bool {
	to := c.s.budgetFor(ch.size, records)
	n, spare := to.clip(ch.size), to.size/2
	if there {
		spare = 0
	}
	if !to.more(c.visitor, n+spare) {
		return false
	}
	to.give(c.visitor, spare)
	ch.shared.give(c.visitor, ch.n)
	ch.shared, ch.n = to, n
	c.backInBudget(ch)
	return true
}

// grow charges a stranger for room bytes in all. Many who come at once, as after a restart, need not wait for each other while
// memory is half free. Otherwise whoever holds some and needs more waits for what others keep while they wait too; so that they
// do not all wait for each other, one at a time may go on beyond the budget, to its end. That adds the largest request to
// what strangers take, and no more.
func (c *conn) grow(ch *charges, room int64, records bool) error {
	more := ch.shared.clip(room) - ch.n
	switch {
	case ch.over || more <= 0:
		return nil
	case ch.shared.more(c.visitor, more):
		ch.n += more
		return nil
	case c.settle(ch, records, false):
		return nil
	case ch.n == 0:
		if err := c.take(c.ctx, ch.shared, c.visitor, more); err != nil {
			return context.Cause(c.ctx)
		}
		ch.n = more
		return nil
	}
	ch.shared.pressure.enter()
	defer ch.shared.pressure.leave()
	defer c.lookOut()()
	since := time.Now()
	defer func() { ch.shared.waited.Add(time.Since(since).Seconds()) }()
	patience := time.NewTimer(c.s.cfg.FrameTimeout)
	defer patience.Stop()
	select {
	case c.s.overdraft <- struct{}{}:
	case <-patience.C:
		return fmt.Errorf("%w: no memory for a request this large; others hold it", errSlow)
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
	ch.over = true
	if ch.shared.more(c.visitor, more) { // room was made meanwhile
		ch.n += more
		c.backInBudget(ch)
	}
	return nil
}

// queueLarge waits until no other large request is being read, so that those who claim to have one, however many, hold nothing, and one of
// them at most stands in line where others count. It is no memory that is waited for: only who is being read has to make haste.
func (c *conn) queueLarge(ch *charges) error {
	select {
	case c.s.large <- struct{}{}:
	default:
		c.s.largeLine.enter()
		defer c.s.largeLine.leave()
		defer c.lookOut()()
		since := time.Now()
		defer func() { c.s.largeWait.Add(time.Since(since).Seconds()) }()
		select { // served in order of arrival
		case c.s.large <- struct{}{}:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
	ch.large = true
	c.largeSince.Store(time.Now().UnixNano())
	return nil
}

// nextLarge lets the next large request be read.
func (c *conn) nextLarge(ch *charges) {
	if ch.large {
		ch.large = false
		c.largeSince.Store(0)
		<-c.s.large
	}
}

// dawdles reports whether a request is slow to come where others wait for what it keeps from them: for the next piece of it, or, of a large
// one, for all of it. The latter is as long as clients wait with their own defaults: a piece every few seconds would make it half an hour.
func (c *conn) dawdles(now time.Time) bool {
	piece, all := c.readSince.Load(), c.largeSince.Load()
	return piece != 0 && (piece < now.Add(-c.s.cfg.PressureTimeout).UnixNano() || all != 0 && all < now.Add(-c.s.cfg.FrameTimeout).UnixNano())
}

// enlarge charges for all of a large request, of which as much has come as a stranger is given, where others count. It waits for
// room, which is not its client's time: whoever holds some there needs nothing of the strangers' any more. Where there is less in all than
// the request takes, it goes on with what one address gets: no other that is as large can then. Small ones of its address can.
func (c *conn) enlarge(ch *charges, records bool) error {
	to := c.s.budgetFor(ch.size, records)
	if ch.shared == to {
		return nil
	}
	n, since := to.clip(ch.size), time.Now()
	of := to.most(n)
	defer c.lookOut()()
	if err := to.takeOf(c.ctx, c.visitor, n, of); err != nil {
		return context.Cause(c.ctx)
	}
	c.largeSince.Add(int64(time.Since(since)))
	ch.shared.give(c.visitor, ch.n)
	ch.shared, ch.n, ch.spared = to, n, n-of
	c.backInBudget(ch)
	return nil
}

// backInBudget lets the next one go beyond the budget.
func (c *conn) backInBudget(ch *charges) {
	if ch.over {
		ch.over = false
		<-c.s.overdraft
	}
}

func (c *conn) refund(ch charges) {
	c.budget.give(nil, ch.own)
	if ch.shared != nil {
		ch.shared.giveOf(c.visitor, ch.n, ch.n-ch.spared)
	}
	if ch.free {
		c.freeRequest.Store(false)
	}
	c.backInBudget(&ch)
	c.nextLarge(&ch)
}

// body reads a request of size bytes. Beyond what is uncharged it waits for the budgets before it makes room, and it doubles
// the room only as bytes come: what a client claims costs nothing. A large request gets the rest of its room at once, when it has shown
// that it is one; that is of its size to the byte, and not recycled.
func (fr *frameReader) body(size int, records bool) (*frame, error) {
	c, pool := fr.c, &fr.c.s.pool
	var held charges
	stranger := size > max(fr.proven, uncharged)
	b := pool.get(min(size, firstRoom))
	fail := func(err error) (*frame, error) {
		c.readSince.Store(0)
		c.s.recycle(b)
		c.refund(held)
		return nil, late(err)
	}
	b = append(b, fr.head[4:min(4+size, fr.got)]...)
	fr.got = copy(fr.head[:], fr.head[4+len(b):fr.got])
	for charged := false; ; {
		if !charged && (len(b) == size || len(b) >= uncharged || size <= fr.proven) {
			// Waiting for room is ours to answer for, not the client's.
			c.readSince.Store(0)
			var err error
			if held, err = c.charge(int64(size), records, stranger); err != nil {
				return fail(err)
			}
			charged = true
			if size > largeRequest {
				if err := c.queueLarge(&held); err != nil {
					return fail(err)
				}
			}
		}
		if len(b) == size {
			break
		}
		if len(b) == cap(b) {
			room := 2 * cap(b)
			if room > largeRequest && size > largeRequest {
				c.readSince.Store(0)
				if err := c.enlarge(&held, records); err != nil {
					return fail(err)
				}
				whole := append(make([]byte, 0, size), b...)
				c.s.recycle(b)
				b = whole
				continue
			}
			switch {
			case charged && stranger:
				c.readSince.Store(0)
				since := time.Now()
				if err := c.grow(&held, int64(min(size, room)), records); err != nil {
					return fail(err)
				}
				if held.large {
					c.largeSince.Add(int64(time.Since(since)))
				}
			case charged:
				room = max(room, fr.proven)
			}
			grown := append(pool.get(min(size, room)), b...)
			pool.put(b)
			b = grown
		}
		end := min(size, cap(b), len(b)+readStep)
		if !charged {
			end = min(end, max(uncharged, len(b)))
		}
		if charged {
			c.readSince.Store(time.Now().UnixNano())
			if err := c.deadline(c.s.cfg.FrameTimeout); err != nil {
				return fail(err)
			}
		}
		n, err := io.ReadFull(c.nc, b[len(b):end])
		b = b[:len(b)+n]
		if err != nil {
			return fail(err)
		}
	}
	c.readSince.Store(0)
	c.nextLarge(&held)
	if held.shared == c.s.strangers {
		c.settle(&held, records, true)
	}
	fr.proven = min(max(fr.proven, size), largeRequest)
	f := &frame{body: b, came: time.Now()}
	f.holders.Store(1)
	f.free = func() {
		c.s.recycle(b)
		c.refund(held)
	}
	return f, nil
}

// recycle takes a request's room back; that of a large one is left to the collector.
func (s *Server) recycle(b []byte) {
	if cap(b) <= largeRequest {
		s.pool.put(b)
	}
}

// late tells a request that did not come in time from a connection that broke.
func late(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: a request did not arrive whole in time", errSlow)
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

const proxyProtocol = "the PROXY protocol"

// sniff names a protocol that people point at a Kafka port by mistake.
func sniff(head []byte) string {
	if len(head) >= 3 && head[0] == 0x16 && head[1] == 3 {
		return "TLS"
	}
	if len(head) < 4 {
		return ""
	}
	switch string(head[:4]) {
	case "GET ", "HEAD", "POST", "PUT ", "OPTI", "DELE", "PATC", "CONN", "PRI ":
		return "HTTP"
	case "PROX", "\r\n\r\n":
		return proxyProtocol
	case "SSH-":
		return "SSH"
	}
	return ""
}

// deadline bounds the reads from now on.
func (c *conn) deadline(d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drain {
		return errDraining
	}
	return c.nc.SetReadDeadline(time.Now().Add(d))
}

// stopReading makes the reader return after the frame it is in, or at once between frames.
func (c *conn) stopReading() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain = true
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
}

func (c *conn) draining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drain
}

// gone reports whether err is only the client's going away.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, errDraining) || errors.Is(err, errIdle) || errors.Is(err, errDisplaced) || errors.Is(err, errGone) || errors.Is(err, errRefused) || errors.Is(err, errAged) || errors.Is(err, errAsleep) ||
		errors.Is(err, ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) // it left with answers on their way
}
