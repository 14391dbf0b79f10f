//go:build interop

package localstack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// server stands for an agent: it says its name to whoever connects, then repeats what it is told, and answers checks as it is told to.
type server struct {
	HAProxyServer
	health atomic.Int32 // status of a check; 0 answers none
	greets atomic.Pointer[[]byte]
	kafka  net.Listener
}

func startServer(t *testing.T, name string) *server {
	t.Helper()
	s := &server{}
	s.health.Store(http.StatusOK)
	var err error
	if s.kafka, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	checks, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := int(s.health.Load())
		if r.URL.String() != "/readyz?draining=404" {
			status = http.StatusTeapot
		}
		if status == 0 {
			select {
			case <-r.Context().Done():
			case <-done:
			}
			return
		}
		w.WriteHeader(status)
	})}
	go func() { _ = web.Serve(checks) }()
	t.Cleanup(func() { close(done); web.Close(); s.kafka.Close() })
	go func() {
		for {
			c, err := s.kafka.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				first := make([]byte, 1024)
				n, _ := c.Read(first)
				first = first[:n]
				s.greets.Store(&first)
				_, _ = c.Write([]byte(name))
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(checks.Addr().String())
	s.HAProxyServer = HAProxyServer{Name: name, Kafka: s.kafka.Addr().String(), HTTPPort: port}
	return s
}

func startHAProxy(t *testing.T, proxyProtocol bool, servers ...*server) *HAProxy {
	t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		program = "/usr/sbin/haproxy"
	}
	var p ports
	h := new(HAProxy)
	if h.Kafka, err = p.take("kafka"); err != nil {
		t.Fatal(err)
	}
	if h.Stats, err = p.take("stats"); err != nil {
		t.Fatal(err)
	}
	config := HAProxyConfig{Kafka: h.Kafka, Stats: h.Stats, ProxyProtocol: proxyProtocol}
	for _, s := range servers {
		config.Servers = append(config.Servers, s.HAProxyServer)
	}
	text, err := config.Render()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "-c", "-f", path).CombinedOutput(); err != nil || bytes.Contains(out, []byte("WARNING")) {
		t.Fatalf("%v\n%s\n%s", err, out, text)
	}
	if h.Process, err = newProcess("haproxy", program, filepath.Join(dir, "haproxy.log"), "-db", "-f", path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.close()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "haproxy.log"))
			t.Logf("%s", log)
		}
	})
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	return h
}

// greet says hello and returns who answers.
func greet(t *testing.T, addr string) (net.Conn, string) {
	t.Helper()
	c := dial(t, addr)
	say(t, c, "hello")
	name := make([]byte, 2)
	if _, err := io.ReadFull(c, name); err != nil {
		t.Fatalf("nobody answers: %v", err)
	}
	return c, string(name)
}

func awaited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, fmt.Errorf("a minute passed"))
	t.Cleanup(cancel)
	return ctx
}

// TestHAProxyWhoGetsWhom: one that drains keeps its clients and gets no new ones, one that hangs loses them at once, and where no check
// passes clients get through all the same.
func TestHAProxyWhoGetsWhom(t *testing.T) {
	ctx := awaited(t)
	a1, a2 := startServer(t, "a1"), startServer(t, "a2")
	h := startHAProxy(t, false, a1, a2)
	if err := h.AwaitServers(ctx, map[string]string{"a1": "UP", "a2": "UP"}); err != nil {
		t.Fatal(err)
	}
	with := make(map[string]net.Conn)
	for len(with) < 2 {
		c, name := greet(t, h.Kafka)
		with[name] = c
	}

	a1.health.Store(http.StatusNotFound)
	if err := h.AwaitServers(ctx, map[string]string{"a1": "NOLB", "a2": "UP"}); err != nil {
		t.Fatal(err)
	}
	say(t, with["a1"], "still here")
	hear(t, with["a1"], "still here")
	for range 10 {
		if _, name := greet(t, h.Kafka); name != "a2" {
			t.Fatal("the one that drains got a new client")
		}
	}

	a1.health.Store(http.StatusOK)
	if err := h.AwaitServers(ctx, map[string]string{"a1": "UP"}); err != nil {
		t.Fatal(err)
	}
	a2.health.Store(0)
	if err := h.AwaitServers(ctx, map[string]string{"a2": "DOWN"}); err != nil {
		t.Fatal(err)
	}
	if n, err := with["a2"].Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatal("the client of one that hangs is kept")
	}
	if _, name := greet(t, h.Kafka); name != "a1" {
		t.Fatal("a new client went to the one that hangs")
	}

	a1.health.Store(http.StatusServiceUnavailable)
	if err := h.AwaitServers(ctx, map[string]string{"a1": "DOWN", "a2": "DOWN"}); err != nil {
		t.Fatal(err)
	}
	both := make(map[string]bool)
	for range 4 {
		_, name := greet(t, h.Kafka)
		both[name] = true
	}
	if len(both) != 2 {
		t.Errorf("while no check passes clients get %v, want both", both)
	}
}

// TestHAProxyGoesOnToTheNext: a server that is gone, before a check has noticed, costs its new clients nothing.
func TestHAProxyGoesOnToTheNext(t *testing.T) {
	a1, a2 := startServer(t, "a1"), startServer(t, "a2")
	h := startHAProxy(t, false, a1, a2)
	if err := h.AwaitServers(awaited(t), map[string]string{"a1": "UP", "a2": "UP"}); err != nil {
		t.Fatal(err)
	}
	a1.kafka.Close() // its checks go on passing
	for range 6 {
		if _, name := greet(t, h.Kafka); name != "a2" {
			t.Fatal(name)
		}
	}
}

// TestHAProxySaysWhomItSpeaksFor: the header of the PROXY protocol's version 2 comes before the client's first byte, and checks have none.
func TestHAProxySaysWhomItSpeaksFor(t *testing.T) {
	a1 := startServer(t, "a1")
	h := startHAProxy(t, true, a1)
	if err := h.AwaitServers(awaited(t), map[string]string{"a1": "UP"}); err != nil {
		t.Fatal(err)
	}
	c, _ := greet(t, h.Kafka)
	got := *a1.greets.Load()
	if !bytes.HasPrefix(got, []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01")) {
		t.Fatalf("%q", got)
	}
	port := c.LocalAddr().(*net.TCPAddr).Port
	if len(got) < 28 || int(got[24])<<8|int(got[25]) != port {
		t.Errorf("%q does not name the client's port %d", got, port)
	}
}
