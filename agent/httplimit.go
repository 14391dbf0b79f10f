package agent

import (
	"net"
	"net/http"
	"sync"
)

// httpConns bounds the connections of the operators' HTTP. Whoever opens many and asks for nothing must not keep health checks
// out: for one more the oldest that has no request makes room, and only where all have one is it closed itself.
type httpConns struct {
	most int

	mu     sync.Mutex // guards the rest
	number uint64     // of the last state
	open   map[net.Conn]httpConn
}

type httpConn struct {
	asks bool
	// since is when it came to its state; lower is longer ago.
	since uint64
}

func newHTTPConns(most int) *httpConns {
	return &httpConns{most: most, open: make(map[net.Conn]httpConn)}
}

// note is a ConnState hook of an http.Server.
func (h *httpConns) note(nc net.Conn, state http.ConnState) {
	if over := h.take(nc, state); over != nil {
		_ = over.Close()
	}
}

// take returns the connection that has to go.
func (h *httpConns) take(nc net.Conn, state http.ConnState) (over net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(h.open, nc)
		return nil
	}
	h.number++
	h.open[nc] = httpConn{asks: state == http.StateActive, since: h.number}
	if state != http.StateNew || len(h.open) <= h.most {
		return nil
	}
	over = nc
	for other, c := range h.open {
		if !c.asks && c.since < h.open[over].since {
			over = other
		}
	}
	delete(h.open, over)
	return over
}
