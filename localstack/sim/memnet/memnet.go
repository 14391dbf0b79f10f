package memnet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// ErrRefused: nobody listens at the address.
var ErrRefused = fmt.Errorf("memnet: %w", syscall.ECONNREFUSED)

// bufferBytes bounds what is under way in one direction of a connection.
const bufferBytes = 256 << 10

// Faults are how a network misbehaves; the zero value does not.
type Faults struct {
	LatencyMax time.Duration // a write arrives a uniform part of it later
	Reset      float64       // chance per write that it breaks the connection
}

// Counts says how often each fault struck.
type Counts struct {
	Delayed, Reset int // writes
	Cut            int // connections
	Stalled        int // times an address was stalled
}

// Network connects dialers with listeners by address. Safe for concurrent use.
type Network struct {
	mu        sync.Mutex // guards the rest; never held over a wait
	rng       *rand.Rand
	faults    Faults
	counts    Counts
	listeners map[string]*Listener
	links     map[*link]struct{}
	stalled   map[string]chan struct{} // by address; closed when the stall ends
	dialled   int
}

// New returns an empty network. It takes rng over.
func New(rng *rand.Rand) *Network {
	return &Network{rng: rng, listeners: map[string]*Listener{}, links: map[*link]struct{}{}, stalled: map[string]chan struct{}{}}
}

// SetFaults changes how the network misbehaves from now on.
func (n *Network) SetFaults(f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = f
}

// Counts is a copy of the counters.
func (n *Network) Counts() Counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts
}

// Cut breaks all connections to an address.
func (n *Network) Cut(address string) {
	n.mu.Lock()
	var broken []*link
	for l := range n.links {
		if l.address == address {
			broken = append(broken, l)
		}
	}
	n.counts.Cut += len(broken)
	n.mu.Unlock()
	for _, l := range broken {
		l.reset()
	}
}

// Stall holds back everything to and from an address, until it is called with false.
func (n *Network) Stall(address string, on bool) {
	n.mu.Lock()
	was, stalled := n.stalled[address]
	switch {
	case on && !stalled:
		n.stalled[address] = make(chan struct{})
		n.counts.Stalled++
	case !on && stalled:
		delete(n.stalled, address)
		close(was)
	}
	n.mu.Unlock()
}

// stall returns a channel that is closed when the address's stall ends, or nil where there is none.
func (n *Network) stall(address string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stalled[address]
}

// Listen opens an address, which must be free.
func (n *Network) Listen(address string) (*Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, taken := n.listeners[address]; taken {
		return nil, fmt.Errorf("memnet: listen %s: %w", address, syscall.EADDRINUSE)
	}
	l := &Listener{network: n, address: address, accept: make(chan *Conn, 64), closed: make(chan struct{})}
	n.listeners[address] = l
	return l, nil
}

// Dial connects to an address. Errors: ErrRefused; ctx's own.
func (n *Network) Dial(ctx context.Context, address string) (net.Conn, error) {
	for stall := n.stall(address); stall != nil; stall = n.stall(address) {
		select {
		case <-stall:
		case <-ctx.Done():
			return nil, fmt.Errorf("memnet: dial %s: %w", address, ctx.Err())
		}
	}
	n.mu.Lock()
	l := n.listeners[address]
	n.dialled++
	from := addr(fmt.Sprintf("client:%d", n.dialled))
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", address, ErrRefused)
	}
	k := &link{network: n, address: address}
	k.up.init()
	k.down.init()
	near := &Conn{link: k, in: &k.down, out: &k.up, local: from, remote: addr(address)}
	far := &Conn{link: k, in: &k.up, out: &k.down, local: addr(address), remote: from}
	n.mu.Lock()
	n.links[k] = struct{}{}
	n.mu.Unlock()
	select {
	case l.accept <- far:
		select {
		case <-l.closed: // perhaps after it had reset what waited
		default:
			return near, nil
		}
	case <-l.closed:
	case <-ctx.Done():
	}
	k.reset()
	return nil, fmt.Errorf("dial %s: %w", address, ErrRefused)
}

// Listener accepts the connections to one address. It implements net.Listener.
type Listener struct {
	network *Network
	address string
	accept  chan *Conn
	once    sync.Once
	closed  chan struct{}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener: connections that nobody accepted are reset, accepted ones go on. Safe twice.
func (l *Listener) Close() error {
	l.once.Do(func() {
		l.network.mu.Lock()
		delete(l.network.listeners, l.address)
		l.network.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.accept:
				c.link.reset()
			default:
				return
			}
		}
	})
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return addr(l.address) }

type addr string

func (addr) Network() string  { return "mem" }
func (a addr) String() string { return string(a) }

// link is a connection as the network sees it: one stream each way.
type link struct {
	network  *Network
	address  string
	up, down stream // to the listener, to the dialer
}

var errReset = fmt.Errorf("memnet: %w", syscall.ECONNRESET)

// reset fails both ends; what is under way is gone.
func (l *link) reset() {
	l.up.fail(errReset)
	l.down.fail(errReset)
	l.forget()
}

func (l *link) forget() {
	l.network.mu.Lock()
	delete(l.network.links, l)
	l.network.mu.Unlock()
}

// fate says what becomes of a write of size bytes: how many of them are sent, when they arrive, and whether the
// connection breaks, at once or after what was sent.
func (n *Network) fate(size int) (sent int, delay time.Duration, broken, torn bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	sent = size
	if n.faults.LatencyMax > 0 {
		delay = time.Duration(n.rng.Int64N(int64(n.faults.LatencyMax))) + 1
		n.counts.Delayed++
	}
	if n.faults.Reset > 0 && n.rng.Float64() < n.faults.Reset {
		n.counts.Reset++
		broken, torn = true, n.rng.IntN(2) == 0
		sent = n.rng.IntN(size + 1)
	}
	return sent, delay, broken, torn
}

// Conn is one end of a connection. It implements net.Conn.
type Conn struct {
	link          *link
	in, out       *stream
	local, remote addr
}

var _ net.Conn = (*Conn)(nil)

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) { return c.in.read(b, c.held) }

// held is the stall that keeps bytes from arriving, if any.
func (c *Conn) held() <-chan struct{} { return c.link.network.stall(c.link.address) }

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	sent, delay, broken, torn := c.link.network.fate(len(b))
	n, err := c.out.write(b[:sent], time.Now().Add(delay))
	if err != nil || !broken {
		return n, err
	}
	if torn {
		c.out.end()         // the peer reads what came, then the end
		c.in.fail(errReset) // and cannot answer
		c.link.forget()
	} else {
		c.link.reset()
	}
	return n, errReset
}

// Close implements net.Conn: the peer reads what was written and then the end. Safe twice.
func (c *Conn) Close() error {
	c.out.end()
	c.in.fail(net.ErrClosed)
	c.out.refuse(net.ErrClosed)
	c.link.forget()
	return nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.in.setDeadline(t, &c.in.readBy) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.out.setDeadline(t, &c.out.writeBy) }
