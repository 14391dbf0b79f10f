package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sync/semaphore"
)

var (
	// ErrUnreachable: the agent could not be asked; it did nothing.
	ErrUnreachable = errors.New("agent not reachable")
	// ErrLost: the connection broke after the request may have come; what was done is not known.
	ErrLost = errors.New("connection to the agent lost")
	// ErrRefused: the agent did nothing, and said why.
	ErrRefused = errors.New("agent refused")
)

// Client asks other agents. Safe for concurrent use.
type Client struct {
	cfg     Config
	address func(node int32) (string, bool)
	dial    func(ctx context.Context, address string) (net.Conn, error)
	many    *http.Client // requests in numbers: HTTP/2
	bulk    *http.Client // HTTP/1.1
	ranges  [kinds]*semaphore.Weighted
}

// NewClient makes a client. address finds where an agent's internal listener is, by its node id; dial may be nil: TCP.
func NewClient(cfg Config, address func(node int32) (string, bool), dial func(ctx context.Context, address string) (net.Conn, error)) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if dial == nil {
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	c := &Client{cfg: cfg, address: address, dial: dial, ranges: newRanges(cfg)}
	transport := func(set func(*http.Protocols), idle, conns int) *http.Transport {
		t := &http.Transport{
			DialContext:           func(ctx context.Context, _, address string) (net.Conn, error) { return c.connect(ctx, address) },
			DisableCompression:    true,
			MaxIdleConnsPerHost:   idle,
			MaxIdleConns:          1024,
			MaxConnsPerHost:       conns,
			IdleConnTimeout:       time.Minute,
			ResponseHeaderTimeout: 0, // requests wait as long as clients do; pings find out who is gone
			HTTP2: &http.HTTP2Config{
				SendPingTimeout: cfg.PingInterval, PingTimeout: cfg.PingTimeout, WriteByteTimeout: cfg.StallTimeout,
			},
			Protocols: new(http.Protocols),
		}
		set(t.Protocols)
		return t
	}
	c.many = &http.Client{Transport: transport(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }, 4, 2)}
	c.bulk = &http.Client{Transport: transport(func(p *http.Protocols) { p.SetHTTP1(true) }, 8, 0)}
	return c, nil
}

// Close ends connections that nobody uses. Requests end with their contexts.
func (c *Client) Close() {
	c.many.CloseIdleConnections()
	c.bulk.CloseIdleConnections()
}

// connect dials an agent and proves to be one.
func (c *Client) connect(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
	defer cancel()
	nc, err := c.dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	end, _ := ctx.Deadline()
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	err = c.cfg.Secret.introduce(nc, end)
	if err == nil && !stop() { // what AfterFunc does may come after introduce is done
		err = context.Cause(ctx)
	}
	if err != nil {
		stop()
		_ = nc.Close()
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return nc, nil
}

// Request is a Kafka request on its way to another agent.
type Request struct {
	Frame            []byte // without its size
	Client, Listener string // see Forwarded
	// Room, where set, is asked for room for an answer of this size before it is read; an error refuses it.
	Room func(size int64) error
	// Still, where set, is asked as the frame goes out; with an error it does not.
	Still func() error
}

// lateBody is a frame that is looked at once more as it goes out. It goes out once: the transport cannot begin again with it.
type lateBody struct {
	*bytes.Reader
	still func() error
}

// Read implements io.Reader.
func (b *lateBody) Read(p []byte) (int, error) {
	if err := b.still(); err != nil {
		return 0, err
	}
	return b.Reader.Read(p)
}

// WriteTo must not be found in the Reader: it would not ask.
func (b *lateBody) WriteTo(w io.Writer) (int64, error) {
	if err := b.still(); err != nil {
		return 0, err
	}
	return b.Reader.WriteTo(w)
}

// Forward sends a Kafka request to an agent and returns the answer's bytes without their size. The request's frame is not
// looked at after the return.
func (c *Client) Forward(ctx context.Context, node int32, q Request) (answer []byte, err error) {
	defer func(began time.Time) { c.cfg.Metrics.ended(kindKafka, began, err) }(time.Now())
	header := http.Header{}
	header.Set(headerClient, q.Client)
	header.Set(headerListener, q.Listener)
	// A copy: the transport may read on after it has returned.
	frame := bytes.NewReader(bytes.Clone(q.Frame))
	var body io.Reader = frame
	if q.Still != nil {
		body = &lateBody{frame, q.Still}
	}
	return c.ask(ctx, c.many, node, http.MethodPost, "/v1/kafka", header, body, c.cfg.AnswerBytesMax, q.Room)
}

// ReadRange reads a range of an object from an agent's memory, or by way of it from the bucket. Whatever error it returns, the
// bucket can be asked. *NotHeld and ErrBusy are the agent's own answers, and so is what else is ErrRefused.
func (c *Client) ReadRange(ctx context.Context, node int32, q Range) (b []byte, err error) {
	defer func(began time.Time) { c.cfg.Metrics.ended(kindSegment, began, err) }(time.Now())
	if q.Size < 1 || q.Size > int64(c.cfg.ReadBytesMax) {
		return nil, fmt.Errorf("%w: a range of %d bytes, %d allowed", ErrRefused, q.Size, c.cfg.ReadBytesMax)
	}
	ranges := c.ranges[q.kind()]
	if err := ranges.Acquire(ctx, q.Size); err != nil {
		return nil, err
	}
	defer ranges.Release(q.Size)
	b, err = c.ask(ctx, c.bulk, node, http.MethodGet, "/v1/segment?"+q.encode(), nil, nil, int(q.Size), nil)
	if err == nil && int64(len(b)) != q.Size {
		return nil, fmt.Errorf("%w: %d bytes of %d", ErrLost, len(b), q.Size)
	}
	return b, err
}

// statusBytesMax bounds what an agent says of itself.
const statusBytesMax = 1 << 20

// Status asks an agent how it is, and decodes the answer into v.
func (c *Client) Status(ctx context.Context, node int32, v any) (err error) {
	defer func(began time.Time) { c.cfg.Metrics.ended(kindStatus, began, err) }(time.Now())
	b, err := c.ask(ctx, c.many, node, http.MethodGet, "/v1/status", nil, nil, statusBytesMax, nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// Hello asks who is at an address.
func (c *Client) Hello(ctx context.Context, address string) (h Hello, err error) {
	defer func(began time.Time) { c.cfg.Metrics.ended(kindHello, began, err) }(time.Now())
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
	defer cancel()
	b, err := c.askAt(ctx, c.many, address, http.MethodGet, "/v1/hello", nil, nil, statusBytesMax, nil)
	if err != nil {
		return h, err
	}
	return h, json.Unmarshal(b, &h)
}

func (c *Client) ask(
	ctx context.Context, via *http.Client, node int32, method, path string, header http.Header, body io.Reader, answerMax int, room func(int64) error,
) ([]byte, error) {
	address, ok := c.address(node)
	if !ok {
		return nil, fmt.Errorf("%w: agent %d is not live, or has no internal listener", ErrUnreachable, node)
	}
	if header == nil {
		header = http.Header{}
	}
	header.Set(headerTo, strconv.Itoa(int(node)))
	return c.askAt(ctx, via, address, method, path, header, body, answerMax, room)
}

func (c *Client) askAt(
	ctx context.Context, via *http.Client, address, method, path string, header http.Header, body io.Reader, answerMax int, room func(int64) error,
) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if late, ok := body.(*lateBody); ok {
		req.ContentLength = late.Size()
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", "firn")
	resp, err := via.Do(req)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil && errors.Is(err, ErrUnreachable):
		return nil, fmt.Errorf("%s: %w", address, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrLost, address, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		err := fmt.Errorf("%w: %s: %s: %s", ErrRefused, address, resp.Status, bytes.TrimSpace(why))
		return nil, refusal(resp.Header, err)
	}
	if resp.ContentLength < 0 || resp.ContentLength > int64(answerMax) {
		return nil, fmt.Errorf("%w: %s: an answer of %d bytes, %d allowed", ErrLost, address, resp.ContentLength, answerMax)
	}
	if room != nil {
		if err := room(resp.ContentLength); err != nil {
			return nil, fmt.Errorf("%w: %s: no room for an answer of %d bytes: %w", ErrLost, address, resp.ContentLength, err)
		}
	}
	b := make([]byte, resp.ContentLength)
	if _, err := io.ReadFull(resp.Body, b); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: %s: %w", ErrLost, address, err)
	}
	return b, nil
}
