package agent_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Connections of HTTP that ask for nothing keep no health check out, and do not become more than there may be.
func TestHTTPConnectionsAreBounded(t *testing.T) {
	n := start(t, func(s *setup) { s.cfg.HTTPConnections = 4 })
	var silent []net.Conn
	for range 12 {
		nc, err := net.Dial("tcp", n.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, nc)
	}
	if code, body := n.get("/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("%d %q", code, body)
	}
	var closed atomic.Int32
	var wg sync.WaitGroup
	for _, nc := range silent {
		wg.Go(func() {
			_, _ = nc.Read(make([]byte, 1)) // nobody sends anything
			closed.Add(1)
		})
	}
	await(t, "connections beyond the four that may be open are closed", func() bool { return closed.Load() >= 9 }) // three may be left beside the one that asked
	for _, nc := range silent {
		_ = nc.Close()
	}
	wg.Wait()
}
