package peer

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/firnlog/firn/agent/sparse"
)

// gate is a net.Listener that lets agents of the cluster through and nobody else. It owns the listener below and one
// goroutine for each handshake.
type gate struct {
	net.Listener
	cfg   *Config
	lines *sparse.Lines
	out   chan net.Conn // proven connections
	wg    sync.WaitGroup

	mu      sync.Mutex // guards the rest
	err     error      // why accepting ended
	ended   chan struct{}
	waiting []net.Conn // in their handshake, oldest first
}

func newGate(ln net.Listener, cfg *Config, lines *sparse.Lines) *gate {
	g := &gate{Listener: ln, cfg: cfg, lines: lines, out: make(chan net.Conn), ended: make(chan struct{})}
	g.wg.Go(g.accept)
	return g
}

func (g *gate) accept() {
	for pause := 5 * time.Millisecond; ; {
		nc, err := g.Listener.Accept()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			if g.enter(nc) {
				g.wg.Go(func() { g.prove(nc) })
			}
			continue
		case errors.Is(err, net.ErrClosed):
			g.end(err)
			return
		}
		select { // out of file descriptors, or a caller that left at once: others may fare better
		case <-time.After(pause):
		case <-g.ended:
			return
		}
		pause = min(2*pause, time.Second)
	}
}

// enter counts a connection among those in their handshake. At the bound the oldest makes room.
func (g *gate) enter(nc net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		_ = nc.Close()
		return false
	}
	if len(g.waiting) >= g.cfg.Handshakes {
		_ = g.waiting[0].Close()
		g.waiting = g.waiting[1:]
	}
	g.waiting = append(g.waiting, nc)
	return true
}

func (g *gate) leave(nc net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.waiting {
		if g.waiting[i] == nc {
			g.waiting = append(g.waiting[:i:i], g.waiting[i+1:]...)
			return
		}
	}
}

func (g *gate) prove(nc net.Conn) {
	err := g.cfg.Secret.receive(nc, time.Now().Add(g.cfg.HandshakeTimeout))
	g.leave(nc)
	if err != nil {
		_ = nc.Close()
		g.cfg.Metrics.strangers.Inc()
		if leftOut, write := g.lines.Take("stranger"); write {
			g.cfg.Logger.Warn("closing a connection to the internal listener", "remote", nc.RemoteAddr(), "error", err, "left_out", leftOut)
		}
		return
	}
	select {
	case g.out <- nc:
	case <-g.ended:
		_ = nc.Close()
	}
}

// end stops the gate; the first reason counts.
func (g *gate) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return
	}
	g.err = err
	close(g.ended)
	for _, nc := range g.waiting {
		_ = nc.Close()
	}
}

// Accept implements net.Listener.
func (g *gate) Accept() (net.Conn, error) {
	select {
	case nc := <-g.out:
		return nc, nil
	case <-g.ended:
		g.mu.Lock()
		defer g.mu.Unlock()
		return nil, g.err
	}
}

// Close implements net.Listener. It returns when every goroutine has.
func (g *gate) Close() error {
	g.end(net.ErrClosed)
	err := g.Listener.Close()
	g.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
