package kafka

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/firnlog/firn/metastore/rendezvous"
)

// Clients keep their connections for as long as they can, so an agent that was added gets no load from clients that are there
// already, and none from behind a load balancer that spreads connections. A connection that is old is therefore closed and its
// client comes again. The protocol has no word for it: a request that is on its way while the connection closes is lost, and the
// client sends it again. So it is closed at a quiet moment, when every request is answered and for ageQuiet none came; a
// connection that has none within ageGrace takes no further request, and is closed after its last answer, a long poll's too.

// errAged: the connection was old.
var errAged = errors.New("old enough")

const (
	ageQuiet = 100 * time.Millisecond
	ageGrace = 30 * time.Second
)

// life is how old the nth connection may get: MaxAge and up to a tenth more or less, so that those who came together, after a
// restart, do not all come again together. Spread by number rather than by chance, which a simulation can repeat.
func (s *Server) life(n uint64) time.Duration {
	tenth := uint64(s.cfg.MaxAge / 10)
	return s.cfg.MaxAge - time.Duration(tenth) + time.Duration(rendezvous.Mix(n)%(2*tenth+1))
}

// keepAlive lets the system ask silent clients whether they are there.
func (s *Server) keepAlive(nc net.Conn) {
	if tcp, ok := nc.(*net.TCPConn); ok {
		// What a system cannot be told it leaves as it is.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: s.cfg.KeepAliveIdle, Interval: s.cfg.KeepAliveInterval, Count: s.cfg.KeepAliveCount,
		})
	}
}

// partTime bounds how long a client is given to take notice that its connection ends.
const partTime = 500 * time.Millisecond

// part ends our side and waits until the client has ended its own. Closing with a request unread would be a reset, which may
// overtake the last answers on their way.
func (c *conn) part() {
	nc := c.nc
	if p, ok := nc.(*proxied); ok {
		nc = p.Conn
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok || c.ctx.Err() != nil || tcp.CloseWrite() != nil || tcp.SetReadDeadline(time.Now().Add(c.s.partTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, tcp)
}
