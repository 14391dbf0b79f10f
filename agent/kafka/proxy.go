package kafka

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
)

// A load balancer that passes connections on hides where they come from. With the PROXY protocol, version 1 or 2, it says so in a
// header before the first byte of its client. Whoever may write that header may claim any address, so it is taken from trusted
// addresses alone (Config.TrustedProxies); from others it ends the connection, and the log says which setting would take it.
//
// From a trusted address the header is optional. That costs no safety, as who could leave it out could as well write what it
// likes, it cannot be mistaken (as a request's size it would be 208 MiB or 1.3 GiB, of an API that does not exist), and it lets
// health checks, operators beside the load balancer, and the change of its configuration through. A connection of a trusted
// address without one, or with one that says LOCAL (the load balancer's own) or UNKNOWN, is of nobody in particular: it shares
// no bound of one address with others of the load balancer, which would be a bound of all clients together.

// proxyHeaderMax bounds a header of version 2. Its addresses take 52 bytes at most, and the rest are extensions, which are not
// looked at; they may hold a certificate's names.
const proxyHeaderMax = 4 << 10

// proxyV1Max is the longest header of version 1, its line end included.
const proxyV1Max = 107

// proxied is a connection of a trusted proxy. RemoteAddr is the client's once it is known.
type proxied struct {
	net.Conn
	client atomic.Pointer[net.TCPAddr]
}

func (p *proxied) RemoteAddr() net.Addr {
	if client := p.client.Load(); client != nil {
		return client
	}
	return p.Conn.RemoteAddr()
}

// trusts reports whether an address may say whom it speaks for.
func (s *Server) trusts(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || len(s.cfg.TrustedProxies) == 0 {
		return false
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	for _, p := range s.cfg.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// ParsePrefix reads an address, or a network as 10.0.0.0/8.
func ParsePrefix(v string) (netip.Prefix, error) {
	if !strings.Contains(v, "/") {
		addr, err := netip.ParseAddr(v)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, errors.New("is no IP address and no network; write 10.0.0.5 or 10.0.0.0/8")
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(v)
	switch {
	case err != nil:
		return netip.Prefix{}, errors.New("is no IP address and no network; write 10.0.0.5 or 10.0.0.0/8")
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("is a network of IPv4 written as one of IPv6; write it as 10.0.0.0/8")
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("has bits beyond its length; write %s, or %s for the one address", p.Masked(), p.Addr())
	}
	return p, nil
}

// errRefused: the client's address has too many connections. It was counted where it was found out.
var errRefused = errors.New("too many connections of one address")

// arrive learns whom a connection of a trusted proxy is of, and counts it as theirs.
func (c *conn) arrive() error {
	p, ok := c.nc.(*proxied)
	if !ok {
		return nil
	}
	client, kind, err := c.readProxyHeader()
	c.s.cfg.Metrics.proxied.WithLabelValues(kind).Inc()
	if err != nil || client == nil {
		return err
	}
	p.client.Store(client)
	wait, err := c.s.recount(c, addressOf(client))
	if err == nil && wait > 0 {
		c.s.cfg.Metrics.paced.Inc()
		pause(c.ctx, wait, nil, c.s.drained)
	}
	return err
}

// recount counts a connection as one of an address that was not known when it came.
func (s *Server) recount(c *conn, from netip.Addr) (wait time.Duration, err error) {
	now := time.Now()
	visitor, wait, welcome := s.admission.enter(from, now)
	var displaced *conn
	s.mu.Lock()
	if !welcome {
		if displaced = s.displaceLocked(now, from); displaced != nil {
			visitor, wait, welcome = s.admission.enter(from, now)
		}
	}
	_, here := s.conns[c]
	if here && welcome { // from here on leave counts it out
		c.from, c.visitor = from, visitor
	}
	s.mu.Unlock()
	if displaced != nil {
		s.cfg.Metrics.displaced.Inc()
		displaced.fail(errDisplaced)
	}
	switch {
	case !welcome:
		s.cfg.Metrics.refused.WithLabelValues(refusedAddress).Inc()
		return 0, errRefused
	case !here: // it made room for another meanwhile
		s.admission.leave(from, now)
		return 0, errDisplaced
	}
	return wait, nil
}

// Label values of firn_kafka_proxied_connections_total.
const (
	proxyV1    = "v1"
	proxyV2    = "v2"
	proxyLocal = "local"
	proxyNone  = "none"
	proxyBad   = "bad"
)

// readProxyHeader reads the header of a trusted proxy. A nil client is one that is not known. What came behind the header is
// left in c.early. The library sees whole headers only: it takes none of version 1 that comes in pieces, and has no bound of ours.
func (c *conn) readProxyHeader() (client *net.TCPAddr, kind string, err error) {
	if err := c.deadline(c.s.cfg.FirstRequestTimeout); err != nil {
		return nil, proxyNone, err
	}
	b := make([]byte, 0, len(frameReader{}.head))
	var size int
	for {
		if size, err = proxyHeaderSize(b); err != nil {
			return nil, proxyBad, fmt.Errorf("%w: PROXY protocol header: %w", errMalformed, err)
		}
		if size == 0 {
			c.early = b
			return nil, proxyNone, nil
		}
		if len(b) >= size {
			break
		}
		if size > cap(b) {
			b = append(make([]byte, 0, size), b...)
		}
		n, err := c.nc.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == nil || n > 0:
		case c.draining():
			return nil, proxyNone, errDraining
		case errors.Is(err, os.ErrDeadlineExceeded) && len(b) == 0:
			return nil, proxyNone, errIdle
		case len(b) > 0:
			return nil, proxyBad, late(err)
		default:
			return nil, proxyNone, err
		}
	}
	c.early = b[size:]
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b[:size]), max(size, 256)))
	if err != nil {
		return nil, proxyBad, fmt.Errorf("%w: PROXY protocol header: %w", errMalformed, err)
	}
	switch {
	case h.Command.IsLocal() || h.TransportProtocol.IsUnix():
		return nil, proxyLocal, nil
	case !h.TransportProtocol.IsStream():
		return nil, proxyBad, fmt.Errorf("%w: PROXY protocol header: of another transport than TCP", errMalformed)
	}
	tcp, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		return nil, proxyBad, fmt.Errorf("%w: PROXY protocol header: without a client's address", errMalformed)
	}
	if h.Version == 1 {
		return tcp, proxyV1, nil
	}
	return tcp, proxyV2, nil
}

// proxyHeaderSize is the size of the header that b begins with: 0 where it begins with none, and more than len(b) where more
// must come to tell.
func proxyHeaderSize(b []byte) (int, error) {
	begins := func(with []byte) bool { return bytes.HasPrefix(with, b[:min(len(b), len(with))]) }
	v1, v2 := []byte("PROXY "), proxyproto.SIGV2
	switch {
	case len(b) == 0:
		return 1, nil
	case begins(v1):
		end := bytes.IndexByte(b[:min(len(b), proxyV1Max)], '\n')
		switch {
		case end >= 0:
			return end + 1, nil
		case len(b) >= proxyV1Max:
			return 0, fmt.Errorf("no end of line within %d bytes", proxyV1Max)
		}
		return len(b) + 1, nil
	case begins(v2):
		if len(b) < 16 {
			return 16, nil
		}
		size := 16 + int(binary.BigEndian.Uint16(b[14:]))
		if size > proxyHeaderMax {
			return 0, fmt.Errorf("%d bytes, %d allowed", size, proxyHeaderMax)
		}
		return size, nil
	}
	return 0, nil
}
