package localstack

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Client is the name of whoever connects and is no part of the Stack: a test, a command that it runs.
const Client = "client"

// Rule is what a Network does to the connections from one part to another. The zero Rule is a good network.
type Rule struct {
	// Silent lets nothing through and says nothing, as a cable that was pulled. What was sent meanwhile arrives once it is over,
	// as TCP would have it.
	Silent bool
	// Refuse resets what is open and what is tried.
	Refuse bool
	// Delay is how long every byte is on its way, in each direction.
	Delay time.Duration
}

// Network is the links between the parts of a Stack: a TCP relay before each part that listens. It knows who connects by
// asking the kernel which process holds the other end, so that one relay serves all and can still cut one off.
type Network struct {
	mu      sync.Mutex // guards the rest
	parts   []*Process // whom a connection may be from
	rules   map[[2]string]Rule
	changed chan struct{} // closed and replaced whenever rules change
	closed  bool
	links   map[string]net.Listener // by their addresses
	conns   map[*passage]struct{}
	wg      sync.WaitGroup
}

func newNetwork() *Network {
	return &Network{rules: make(map[[2]string]Rule), changed: make(chan struct{}), links: make(map[string]net.Listener), conns: make(map[*passage]struct{})}
}

// Set puts a rule on what from connects to, at to: a part, or one of its listeners, as a1.http.
func (n *Network) Set(from, to string, r Rule) {
	n.change(func() { n.rules[[2]string{from, to}] = r })
}

// CutOff puts a rule on everything that goes to part and everything that comes from it, whoever is at the other end.
func (n *Network) CutOff(part string, r Rule) {
	n.change(func() { n.rules[[2]string{part, ""}], n.rules[[2]string{"", part}] = r, r })
}

// Heal takes every rule away.
func (n *Network) Heal() { n.change(func() { clear(n.rules) }) }

func (n *Network) change(f func()) {
	n.mu.Lock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
	var reset []*passage
	for p := range n.conns {
		if n.ruleLocked(p.from, p.to).Refuse {
			reset = append(reset, p)
		}
	}
	n.mu.Unlock()
	for _, p := range reset {
		p.reset()
	}
}

// ruleLocked is what holds between two parts: all that was said about both or either, taken together.
func (n *Network) ruleLocked(from, to string) (r Rule) {
	part, _, _ := strings.Cut(to, ".")
	for _, key := range [][2]string{{from, to}, {from, part}, {from, ""}, {"", to}, {"", part}} {
		also := n.rules[key]
		r = Rule{Silent: r.Silent || also.Silent, Refuse: r.Refuse || also.Refuse, Delay: max(r.Delay, also.Delay)}
	}
	return r
}

// rule is what holds now, and a channel that is closed when that may have changed; false once the network is gone.
func (n *Network) rule(from, to string) (Rule, <-chan struct{}, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ruleLocked(from, to), n.changed, !n.closed
}

// know tells it whom connections may be from.
func (n *Network) know(parts []*Process) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.parts = parts
}

// pids are the process ids of the parts that run, by name.
func (n *Network) pids() map[string]int {
	n.mu.Lock()
	parts := n.parts
	n.mu.Unlock()
	all := make(map[string]int)
	for _, p := range parts {
		if pid := p.PID(); pid != 0 {
			all[p.Name()] = pid
		}
	}
	return all
}

// link listens at addr and carries what comes to target, the listener named to: a part, or a part and which of its listeners.
func (n *Network) link(to, addr, target string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[addr] = l
	n.wg.Go(func() {
		for l != nil {
			down := make(chan struct{}, 1)
			n.accept(l, to, target, down)
			select {
			case <-down:
				l = n.reopen(addr, target)
			default: // the network is closed
				return
			}
		}
	})
	return nil
}

// accept takes connections until the listener is closed; down is told where that is because nobody listens at the target.
func (n *Network) accept(l net.Listener, to, target string, down chan<- struct{}) {
	var once sync.Once
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		n.wg.Go(func() {
			if err := n.carry(c.(*net.TCPConn), to, target); errors.Is(err, syscall.ECONNREFUSED) {
				once.Do(func() {
					down <- struct{}{}
					_ = l.Close()
				})
			}
		})
	}
}

// reopen waits until somebody listens at the target again, and listens in its place; until then connections are refused, as the
// target itself would. Nil once the network is closed.
func (n *Network) reopen(addr, target string) net.Listener {
	for {
		if _, _, open := n.rule("", ""); !open {
			return nil
		}
		if listens(target) {
			if l, err := net.Listen("tcp", addr); err == nil {
				n.mu.Lock()
				n.links[addr] = l
				if n.closed {
					_ = l.Close()
				}
				n.mu.Unlock()
				return l
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Close ends every link and what it carries.
func (n *Network) Close() {
	n.mu.Lock()
	n.closed = true
	close(n.changed)
	n.changed = make(chan struct{})
	all := make([]*passage, 0, len(n.conns))
	for p := range n.conns {
		all = append(all, p)
	}
	for _, l := range n.links {
		_ = l.Close()
	}
	n.mu.Unlock()
	for _, p := range all {
		p.reset()
	}
	n.wg.Wait()
}

// passage is one connection that is carried.
type passage struct {
	from, to string

	mu     sync.Mutex // guards the rest
	ends   []*net.TCPConn
	broken bool
}

// reset breaks both ends off, as a host that has forgotten the connection would.
func (p *passage) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = true
	for _, c := range p.ends {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// add takes an end into the passage's care; false where that is broken already.
func (p *passage) add(c *net.TCPConn) bool {
	p.mu.Lock()
	p.ends = append(p.ends, c)
	broken := p.broken
	p.mu.Unlock()
	if broken {
		p.reset()
	}
	return !broken
}

// carry carries a connection to its end. The error says why the target cannot be reached.
func (n *Network) carry(in *net.TCPConn, to, target string) error {
	p := &passage{from: owner(in, n.pids()), to: to}
	p.add(in)
	n.mu.Lock()
	gone := n.closed
	n.conns[p] = struct{}{}
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.conns, p)
		n.mu.Unlock()
	}()
	if gone || !n.pass(p, time.Now()) {
		p.reset()
		return nil
	}
	out, err := net.Dial("tcp", target)
	if err != nil || !p.add(out.(*net.TCPConn)) {
		p.reset()
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { n.pump(p, out.(*net.TCPConn), in) })
	wg.Go(func() { n.pump(p, in, out.(*net.TCPConn)) })
	wg.Wait()
	_ = in.Close()
	_ = out.Close()
	return nil
}

// pass waits until what was sent at a moment may arrive; false where it never will.
func (n *Network) pass(p *passage, sent time.Time) bool {
	for {
		rule, changed, ok := n.rule(p.from, p.to)
		wait := time.Until(sent.Add(rule.Delay))
		switch {
		case !ok || rule.Refuse:
			return false
		case rule.Silent:
			<-changed
		case wait > 0:
			select {
			case <-changed:
			case <-time.After(wait):
			}
		default:
			return true
		}
	}
}

// pump carries one direction. The reader runs ahead of the writer by a bounded number of pieces, so that a delay delays and
// does not throttle.
func (n *Network) pump(p *passage, to, from *net.TCPConn) {
	type piece struct {
		at    time.Time
		bytes []byte // nil at the end
		err   error  // how it ended, where not well
	}
	pieces := make(chan piece, 256)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			k, err := from.Read(buf)
			next := piece{at: time.Now(), bytes: slices.Clone(buf[:k])}
			if k == 0 && err != nil {
				next.bytes = nil
				if !errors.Is(err, io.EOF) {
					next.err = err
				}
			}
			select {
			case pieces <- next:
			case <-stop:
				return
			}
			if next.bytes == nil {
				return
			}
		}
	})
	for {
		next := <-pieces
		if !n.pass(p, next.at) || next.err != nil {
			p.reset()
			break
		}
		if next.bytes == nil {
			_ = to.CloseWrite()
			break
		}
		if _, err := to.Write(next.bytes); err != nil {
			p.reset()
			break
		}
	}
	close(stop)
	wg.Wait()
}
