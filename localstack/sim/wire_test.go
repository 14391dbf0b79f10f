package sim_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// answerWithin is how long a client waits for an answer before it gives its connection up.
const answerWithin = 15 * time.Second

// frameMax bounds what a client takes for a response.
const frameMax = 8 << 20

// link is a client's connection to one agent. Requests are answered in order. One goroutine sends and one receives.
type link struct {
	life        *life
	node        *node
	conn        net.Conn
	in          *bufio.Reader
	correlation int32
	format      *kmsg.RequestFormatter
	tamper      *tamper
}

// sent is a request on its way.
type sent struct {
	request     kmsg.Request
	correlation int32
	copies      int // how often a planted bug sent it
}

// connect opens a connection to a node.
func (l *life) connect(ctx context.Context, n *node, client string) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	conn, err := l.net.Dial(ctx, n.address)
	if err != nil {
		return nil, err
	}
	k := &link{
		life: l, node: n, conn: conn, in: bufio.NewReader(conn),
		format: kmsg.NewRequestFormatter(kmsg.FormatterClientID(client)),
	}
	if l.plant != nil && l.plant.tamper != nil {
		k.tamper = l.plant.tamper(stream(l.plan.seed, "tamper "+client))
	}
	return k, nil
}

func (k *link) close() { _ = k.conn.Close() }

func (k *link) send(request kmsg.Request) (sent, error) {
	k.correlation++
	s := sent{request: request, correlation: k.correlation, copies: 1}
	if k.tamper != nil && k.tamper.copies != nil {
		s.copies = k.tamper.copies(request)
	}
	frame := k.format.AppendRequest(nil, request, s.correlation)
	if err := k.conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return s, err
	}
	for range s.copies {
		if _, err := k.conn.Write(frame); err != nil {
			return s, fmt.Errorf("send %s to %s: %w", kmsg.NameForKey(request.Key()), k.node.name, err)
		}
	}
	return s, nil
}

// receive reads the answer to the oldest request that has none.
func (k *link) receive(s sent) (kmsg.Response, error) {
	response := s.request.ResponseKind()
	response.SetVersion(s.request.GetVersion())
	if s.copies == 0 {
		madeUp(s.request, response)
	}
	for range s.copies {
		body, err := k.frame(s)
		if err != nil {
			return nil, fmt.Errorf("answer to %s from %s: %w", kmsg.NameForKey(s.request.Key()), k.node.name, err)
		}
		if err := response.ReadFrom(body); err != nil {
			k.life.find("protocol", "%s answers %s version %d with what is no answer: %v",
				k.node.name, kmsg.NameForKey(s.request.Key()), s.request.GetVersion(), err)
			return nil, err
		}
	}
	if k.tamper != nil && k.tamper.answer != nil {
		k.tamper.answer(s.request, response)
	}
	return response, nil
}

func (k *link) frame(s sent) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(k.in, head[:]); err != nil {
		return nil, err
	}
	size := int32(binary.BigEndian.Uint32(head[:]))
	if size < 4 || size > frameMax {
		k.life.find("protocol", "%s sends a frame of %d bytes", k.node.name, size)
		return nil, io.ErrUnexpectedEOF
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(k.in, body); err != nil {
		return nil, err
	}
	b := kbin.Reader{Src: body}
	if got := b.Int32(); got != s.correlation {
		k.life.find("protocol", "%s answers request %d where %d is due", k.node.name, got, s.correlation)
		return nil, io.ErrUnexpectedEOF
	}
	if s.request.IsFlexible() && s.request.Key() != int16(kmsg.ApiVersions) {
		for range b.Uvarint() { // tags of the response header
			b.Uvarint()
			b.Span(int(b.Uvarint()))
		}
	}
	return b.Src, nil
}

// call sends one request and waits for its answer.
func (k *link) call(request kmsg.Request) (kmsg.Response, error) {
	s, err := k.send(request)
	if err != nil {
		return nil, err
	}
	return k.receive(s)
}

// client is what all clients have: it roams between agents. One goroutine uses it.
type client struct {
	life *life
	name string
	rng  *rand.Rand
	link *link
}

func newClient(l *life, name string) *client {
	return &client{life: l, name: name, rng: stream(l.plan.seed, name)}
}

// somewhere makes sure that there is a connection, to another agent than the last one where there is another. It tries
// until ctx ends; then it is false.
func (c *client) somewhere(ctx context.Context) bool {
	for c.link == nil {
		nodes := c.life.nodes
		n := nodes[c.rng.IntN(len(nodes))]
		c.doing("connecting to %s", n.name)
		k, err := c.life.connect(ctx, n, c.name)
		if err == nil {
			c.link = k
			return true
		}
		if !pause(ctx, time.Duration(50+c.rng.IntN(300))*time.Millisecond) {
			return false
		}
	}
	return ctx.Err() == nil
}

// leave gives the connection up.
func (c *client) leave() {
	if c.link != nil {
		c.link.close()
		c.link = nil
	}
}

func (c *client) doing(format string, args ...any) { c.life.watching.does(c.name, format, args...) }

// call makes a request of whichever agent answers, until ctx ends. retry says from the answer whether to ask again.
func (c *client) call(ctx context.Context, request kmsg.Request, retry func(kmsg.Response) bool) (kmsg.Response, bool) {
	for c.somewhere(ctx) {
		c.doing("waiting for %s from %s", kmsg.NameForKey(request.Key()), c.link.node.name)
		response, err := c.link.call(request)
		switch {
		case err != nil:
			c.life.logf("%s: %v", c.name, err)
			c.leave()
		case retry == nil || !retry(response):
			return response, true
		}
		if !pause(ctx, time.Duration(20+c.rng.IntN(200))*time.Millisecond) {
			break
		}
	}
	return nil, false
}

// Kafka's error codes that clients tell apart.
const (
	errNone               = 0
	errOffsetOutOfRange   = 1
	errCorruptMessage     = 2
	errUnknownTopic       = 3
	errLeaderNotAvailable = 5
	errNotLeader          = 6
	errTimedOut           = 7
	errTopicExists        = 36
	errInvalidPartitions  = 37
	errOutOfOrder         = 45
	errDuplicateSequence  = 46
	errProducerEpoch      = 47
	errStorage            = 56
	errSessionNotFound    = 70
	errSessionEpoch       = 71
	errOffsetNotAvailable = 78
	errUnknownTopicID     = 100
	errSessionTopicID     = 106
)

// passing says that an error is one that goes away by itself.
func passing(code int16) bool {
	switch code {
	case errLeaderNotAvailable, errNotLeader, errTimedOut, errOffsetNotAvailable, 14, 15, 16, 19, 20, 41:
		return true
	}
	return false
}
