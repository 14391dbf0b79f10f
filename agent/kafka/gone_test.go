package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/objstore/batch"
)

// tcpServer serves over real TCP; net.Pipe has no state that a system could be asked for.
type tcpServer struct {
	*kafka.Server
	t  *testing.T
	at string
}

func overTCP(t *testing.T, a *agent, tune ...func(*kafka.Config)) *tcpServer {
	t.Helper()
	s := server(t, a, tune...)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve("kafka", ln); !errors.Is(err, kafka.ErrClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return &tcpServer{s, t, ln.Addr().String()}
}

// tcpClient is a client whose socket the test ends itself.
type tcpClient struct {
	client
	tcp *net.TCPConn
}

func (s *tcpServer) dial() *tcpClient {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.at)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = nc.Close() })
	tcp, _ := nc.(*net.TCPConn)
	return &tcpClient{client{t: s.t, nc: nc}, tcp}
}

// post writes requests in one go.
func (c *tcpClient) post(reqs ...kmsg.Request) {
	c.t.Helper()
	var b []byte
	for _, r := range reqs {
		c.correlation++
		b = append(b, kmsg.NewRequestFormatter().AppendRequest(nil, r, c.correlation)...)
	}
	if _, err := c.tcp.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// reset ends the connection as a process does that dies with answers unread.
func (c *tcpClient) reset() {
	_ = c.tcp.SetLinger(0)
	_ = c.tcp.Close()
}

func (s *tcpServer) await(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("timed out: %s", what)
		}
	}
}

func (s *tcpServer) awaitConns(n int) {
	s.t.Helper()
	s.await("connections end", func() bool { return s.Conns() == n })
}

// onlyWhereSeen ends a test of what only Linux tells.
func onlyWhereSeen(t *testing.T) (seen bool) {
	if runtime.GOOS != "linux" {
		t.Log("nothing is to be seen here")
	}
	return runtime.GOOS == "linux"
}

// A reader that is held up by requests without answers sees its client go all the same.
func TestAResetIsSeenBehindFullSlots(t *testing.T) {
	if !onlyWhereSeen(t) {
		return
	}
	a := newCluster(t).join("a")
	a.topic("t", 1)
	gate := make(chan struct{})
	defer close(gate)
	a.with(func(a *agent) { a.gate = gate })
	s := overTCP(t, a, func(c *kafka.Config) { c.ConnectionRequests = 3 })
	for range 5 {
		c := s.dial()
		for range 10 {
			c.post(produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "x")))
		}
		defer c.reset()
	}
	staged := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.batches[a.ref("t")])
	}
	s.await("requests are staged", func() bool { return staged() == 15 })
	gone := s.dial()
	for range 10 {
		gone.post(produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "x")))
	}
	s.await("requests are staged", func() bool { return staged() == 18 })
	gone.reset()
	s.awaitConns(5)
}

// crowd is a server whose memory for small things is taken by one connection until the test ends, and others that have
// pipelined requests and wait for it.
func crowd(t *testing.T, tune ...func(*kafka.Config)) (s *tcpServer, waiting []*tcpClient) {
	t.Helper()
	a := newCluster(t).join("a")
	s = overTCP(t, a, append(slices.Clip(tune), func(c *kafka.Config) { c.WorkBytes, c.ConnectionRequests, c.BarrierTimeout = 64<<10, 3, time.Hour })...)
	gate := make(chan struct{})
	a.with(func(a *agent) { a.barrierGate = gate })
	t.Cleanup(func() { close(gate) })
	large := kmsg.NewPtrMetadataRequest()
	large.Version, large.Topics = 12, nil
	for i := range 200 {
		large.Topics = append(large.Topics, kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr(fmt.Sprint(strings.Repeat("x", 100), i))})
	}
	s.dial().post(large, large)
	s.await("somebody holds the memory", func() bool { return s.WorkHeld() > 32<<10 })
	for range 5 {
		c := s.dial()
		c.post(large, large, large, large, large) // more than are taken, but no more than the system takes: else it keeps the end to itself
		waiting = append(waiting, c)
	}
	s.await("others wait for it", func() bool { return s.Short() >= 5 })
	return s, waiting
}

func TestAResetIsSeenByWhoWaitsForMemory(t *testing.T) {
	if !onlyWhereSeen(t) {
		return
	}
	s, waiting := crowd(t)
	for _, c := range waiting {
		c.reset()
	}
	s.awaitConns(1)
}

// Who sends nothing more is not waited for where memory is short: nobody can tell whether it is still there.
func TestWhoSendsNoMoreDoesNotStandInLine(t *testing.T) {
	if !onlyWhereSeen(t) {
		return
	}
	s, waiting := crowd(t, func(c *kafka.Config) { c.PressureTimeout = 100 * time.Millisecond })
	for i, c := range waiting {
		if i%2 == 0 {
			_ = c.tcp.CloseWrite()
		} else {
			_ = c.tcp.Close()
		}
	}
	s.awaitConns(1)
}

// Closing one side is no going away: what was asked before it is answered, a long poll at once.
func TestAClientThatSendsNoMoreGetsItsAnswers(t *testing.T) {
	a := newCluster(t).join("a")
	id := a.topic("t", 1)
	gate := make(chan struct{})
	a.with(func(a *agent) { a.gate = gate })
	s := overTCP(t, a)
	c := s.dial()
	meta, poll := kmsg.NewPtrMetadataRequest(), fetchRequest(13, "", id, 0, 0)
	meta.Version, poll.MaxWaitMillis, poll.MinBytes = 12, 3_600_000, 1<<20
	produce := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "x"))
	var all []kmsg.Request
	for range 200 {
		all = append(all, meta)
	}
	all = append(all, produce, poll)
	c.post(all...)
	if err := c.tcp.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for i, req := range all {
		if req == kmsg.Request(produce) {
			close(gate)
		}
		c.receive(int32(i+1), req)
	}
	if _, err := c.frame(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v", err)
	}
	s.awaitConns(0)
}

// A drain does not wait for outcomes that nobody is there to learn.
func TestADrainDoesNotWaitForTheGone(t *testing.T) {
	if !onlyWhereSeen(t) {
		return
	}
	a := newCluster(t).join("a")
	a.topic("t", 1)
	gate := make(chan struct{})
	defer close(gate)
	a.with(func(a *agent) { a.gate = gate })
	s := overTCP(t, a)
	c := s.dial()
	c.post(produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "x")))
	s.await("the request is staged", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.batches[a.ref("t")]) == 1
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(ctx) }()
	s.await("draining", s.Draining)
	c.reset()
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
}
