package kafka

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// conn is one connection; see the package doc for its three goroutines.
type conn struct {
	s      *Server
	nc     net.Conn
	ctx    context.Context // ends with the connection
	cancel context.CancelCauseFunc

	// requests go from the reader to the executor. There is room for all that slots allow: while the executor is in a long
	// poll, the reader must not be held up here, or it would not see the client go.
	requests chan *frame
	answers  chan *answer // executor to writer, in request order
	// slots bounds the requests that are read and not answered.
	slots   chan struct{}
	bounced bounced // of the executor
	// unanswered is how many those are.
	unanswered atomic.Int32
	budget     *budget

	deadlineMu sync.Mutex // guards drain and orders it with setting deadlines
	drain      bool       // the reader is to stop; never falls
}

// answer is one response on its way out.
type answer struct {
	reply
	request request
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		s: s, nc: nc,
		requests: make(chan *frame, s.cfg.ConnectionRequests),
		answers:  make(chan *answer, s.cfg.ConnectionRequests),
		slots:    make(chan struct{}, s.cfg.ConnectionRequests),
		budget:   newBudget(s.cfg.ConnectionInFlightBytes, nil),
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// run serves the connection until it ends, and closes it.
func (c *conn) run() {
	var wg sync.WaitGroup
	wg.Go(c.execute)
	wg.Go(c.write)
	if err := c.read(); !c.draining() {
		c.fail(err)
	}
	close(c.requests)
	wg.Wait()
	c.fail(errDraining) // where nothing failed before
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
	fr := frameReader{c: c, br: bufio.NewReaderSize(c.nc, 4<<10)}
	for {
		f, err := fr.next()
		if err != nil {
			return err
		}
		select {
		case c.slots <- struct{}{}:
		case <-c.ctx.Done():
			f.release()
			return context.Cause(c.ctx)
		}
		c.unanswered.Add(1)
		select {
		case c.requests <- f:
		case <-c.ctx.Done():
			f.release()
			return context.Cause(c.ctx)
		}
	}
}

// execute runs requests one after the other.
func (c *conn) execute() {
	defer close(c.answers)
	for f := range c.requests {
		if c.ctx.Err() != nil {
			f.release()
			continue
		}
		a, err := c.handle(f)
		if err != nil {
			c.fail(err)
			continue
		}
		c.answers <- a // has room for as many as there are slots
	}
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
	switch {
	case unknownVersion:
		f.release()
		a.reply = c.s.unknownApiVersions()
	case r.key == keyProduce:
		defer f.release()
		a.reply, err = c.s.produce(c.ctx, &a.request)
	default:
		msg, derr := c.s.decode(&r)
		f.release()
		if derr != nil {
			return nil, derr
		}
		a.reply, err = c.s.serve(c.ctx, &a.request, msg)
	}
	a.request.body, a.request.frame = nil, nil
	return a, err
}

// writeStep is how much of an answer the client must take within StallTimeout; small answers that are ready are gathered
// up to it.
const writeStep = 256 << 10

// write sends answers in order. Once the connection has failed it only gives back what they hold.
func (c *conn) write() {
	out := c.s.pool.get(0)
	defer func() { c.s.pool.put(out) }()
	flush := func() {
		if len(out) > 0 {
			c.send(out)
			out = out[:0]
		}
	}
	for a := range c.answers {
		if a.ready != nil {
			select {
			case <-a.ready:
			default:
				flush()
				c.await(a)
			}
		}
		if c.ctx.Err() != nil {
			a.drop(c.s)
			c.answered()
			continue
		}
		switch err := a.failure(); {
		case err != nil:
			a.drop(c.s)
			c.fail(fmt.Errorf("%s: %w", kmsg.NameForKey(a.request.key), err))
		case a.built != nil:
			flush()
			c.send(finish(a.built, 0))
			a.drop(c.s)
		case a.body != nil:
			start := len(out)
			out = finish(a.body(appendHeader(out, &a.request)), start)
		}
		c.s.cfg.Metrics.answered(a.request.key, time.Since(a.request.at))
		c.answered()
		if len(out) >= writeStep || len(c.answers) == 0 {
			flush()
		}
	}
	flush()
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
func (a *answer) drop(s *Server) {
	if a.built != nil {
		s.pool.put(a.built)
		a.built = nil
	}
	s.fetchBudget.give(a.charge)
	a.charge = 0
}

// send writes b, or fails the connection.
func (c *conn) send(b []byte) {
	for len(b) > 0 && c.ctx.Err() == nil {
		n := min(len(b), writeStep)
		err := c.nc.SetWriteDeadline(time.Now().Add(c.s.cfg.StallTimeout))
		if err == nil {
			_, err = c.nc.Write(b[:n])
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("%w: %d bytes of an answer not taken", errSlow, len(b))
		}
		if err != nil {
			c.fail(err)
			return
		}
		b = b[n:]
	}
}
