package agent_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
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
		defer func() { _ = nc.Close() }()
		silent = append(silent, nc)
	}
	if code, body := n.get("/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("%d %q", code, body)
	}
	closed := 0
	for _, nc := range silent {
		_ = nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := nc.Read(make([]byte, 1)); err != nil && !strings.Contains(err.Error(), "timeout") {
			closed++
		} else if err == nil || errors.Is(err, io.EOF) {
			closed++
		}
	}
	if closed < 9 { // of 12 three may be left beside the one that asked
		t.Errorf("%d of 12 connections were closed, 4 may be open", closed)
	}
}
