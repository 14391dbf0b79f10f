package kafka

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
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
	// errDraining: the server takes no more requests.
	errDraining = errors.New("draining")
)

// frameStep is how much is read of a frame before the client has shown that it sends large ones.
const frameStep = 64 << 10

// frameReader reads requests off one connection.
type frameReader struct {
	c  *conn
	br *bufio.Reader
	// proven is the size of the largest frame that came whole; up to it room is made at once.
	proven int
}

// next reads a frame. io.EOF is the clean end between frames.
func (fr *frameReader) next() (*frame, error) {
	c, cfg := fr.c, &fr.c.s.cfg
	if err := fr.awaitFirst(); err != nil {
		return nil, err
	}
	if err := c.deadline(cfg.FrameTimeout); err != nil {
		return nil, err
	}
	head, err := fr.br.Peek(4 + headerBytesMin)
	if err != nil {
		if foreign := sniff(head); foreign != "" {
			return nil, fmt.Errorf("%w: looks like %s", errForeign, foreign)
		}
		return nil, late(err)
	}
	size := int64(int32(binary.BigEndian.Uint32(head)))
	key := int16(binary.BigEndian.Uint16(head[4:]))
	limit := int64(cfg.RequestBytesMax)
	if key == keyProduce {
		limit = int64(cfg.ProduceBytesMax)
	}
	if size < headerBytesMin || size > limit {
		if foreign := sniff(head); foreign != "" {
			return nil, fmt.Errorf("%w: looks like %s", errForeign, foreign)
		}
		return nil, fmt.Errorf("%w: %s of %d bytes, %d allowed", errFrameSize, kmsg.NameForKey(key), size, limit)
	}
	if _, ok := lookupAPI(key); !ok {
		return nil, fmt.Errorf("%w: unknown API key %d", errMalformed, key)
	}
	if _, err := fr.br.Discard(4); err != nil {
		return nil, err
	}
	return fr.body(int(size), key == keyProduce || size > frameStep)
}

// awaitFirst waits for the first bytes of a frame. A connection that waits for answers is not idle.
func (fr *frameReader) awaitFirst() error {
	for {
		if err := fr.c.deadline(fr.c.s.cfg.IdleTimeout); err != nil {
			return err
		}
		_, err := fr.br.Peek(1)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case fr.c.draining():
			return errDraining
		case fr.c.unanswered.Load() == 0:
			return errIdle
		}
	}
}

// body reads size bytes. Beyond the first step it waits for the budgets before it makes room, and it doubles the room only
// as bytes come: what a client claims costs nothing. Every request counts against the connection's budget for as long as it
// is queued. Small ones that carry no records do not count against the one that all connections share: they must get
// through while producers are held back.
func (fr *frameReader) body(size int, shared bool) (*frame, error) {
	c, pool := fr.c, &fr.c.s.pool
	charged := int64(0)
	charge := func() error {
		// Waiting for room is ours to answer for, not the client's.
		if err := c.budget.take(c.ctx, int64(size)); err != nil {
			return err
		}
		if shared {
			if err := c.s.inFlight.take(c.ctx, int64(size)); err != nil {
				c.budget.give(int64(size))
				return err
			}
		}
		charged = int64(size)
		return nil
	}
	refund := func() {
		c.budget.give(charged)
		if shared {
			c.s.inFlight.give(charged)
		}
	}
	b := pool.get(min(size, frameStep))
	fail := func(err error) (*frame, error) {
		pool.put(b)
		refund()
		return nil, late(err)
	}
	for len(b) < size {
		if len(b) == cap(b) || len(b) == frameStep {
			if charged == 0 {
				if err := charge(); err != nil {
					return fail(err)
				}
				if err := c.deadline(c.s.cfg.FrameTimeout); err != nil {
					return fail(err)
				}
			}
			if len(b) == cap(b) {
				grown := append(pool.get(min(size, max(2*cap(b), fr.proven))), b...)
				pool.put(b)
				b = grown
			}
		}
		end := min(size, cap(b))
		if charged == 0 {
			end = min(end, frameStep)
		}
		n, err := io.ReadFull(fr.br, b[len(b):end])
		b = b[:len(b)+n]
		if err != nil {
			return fail(err)
		}
	}
	if charged == 0 {
		if err := charge(); err != nil {
			return fail(err)
		}
	}
	fr.proven = max(fr.proven, size)
	f := &frame{body: b}
	f.holders.Store(1)
	f.free = func() {
		pool.put(b)
		refund()
	}
	return f, nil
}

// late names what a deadline in the middle of a frame means.
func late(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: a request did not arrive whole in time", errSlow)
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

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
		return "the PROXY protocol"
	case "SSH-":
		return "SSH"
	}
	return ""
}

// deadline bounds the reads from now on.
func (c *conn) deadline(d time.Duration) error {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	if c.drain {
		return errDraining
	}
	return c.nc.SetReadDeadline(time.Now().Add(d))
}

// stopReading makes the reader return after the frame it is in, or at once between frames.
func (c *conn) stopReading() {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.drain = true
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
}

func (c *conn) draining() bool {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	return c.drain
}

// gone reports whether err is only the client's going away.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, errDraining) || errors.Is(err, errIdle) || errors.Is(err, ErrClosed)
}
