package kafka_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore/batch"
)

// lines counts log lines of Warn and above, and keeps them.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := strings.TrimSpace(l.buf.String())
	l.buf.Reset()
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

func logged(l *lines) func(*kafka.Config) {
	return func(c *kafka.Config) {
		c.Logger = slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
}

// framed puts the size before a request.
func framed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func TestWhatIsNoRequestClosesWithOneLine(t *testing.T) {
	for name, tc := range map[string]struct {
		bytes []byte
		why   string
	}{
		"http":            {[]byte("GET /metrics HTTP/1.1\r\n\r\n"), "HTTP"},
		"http, cut short": {[]byte("HEAD /\r\n"), ""},
		"tls":             {append([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, make([]byte, 100)...), "TLS"},
		"garbage":         {bytes.Repeat([]byte{0xee}, 64), "size out of bounds"},
		"too large":       {[]byte{0x7f, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1}, "size out of bounds"},
		"large, but not for this API": {
			[]byte{0, 0x30, 0, 0, 0, 3, 0, 9, 0, 0, 0, 1}, "size out of bounds",
		},
		"too small":           {[]byte{0, 0, 0, 7, 0, 3, 0, 9, 0, 0, 0, 1}, "size out of bounds"},
		"unknown key":         {framed([]byte{0, 99, 0, 0, 0, 0, 0, 1, 0xff, 0xff}), "unknown API key 99"},
		"inter-broker key":    {framed([]byte{0, 4, 0, 0, 0, 0, 0, 1, 0xff, 0xff}), "unknown API key 4"},
		"unknown version":     {framed([]byte{0, 3, 0, 77, 0, 0, 0, 1, 0xff, 0xff}), "Metadata version 77"},
		"negative version":    {framed([]byte{0, 3, 0xff, 0xff, 0, 0, 0, 1, 0xff, 0xff}), "Metadata version -1"},
		"truncated body":      {framed([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 9}), "elements announced"},
		"bytes left over":     {framed([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 1, 2}), "left over"},
		"two billion tags":    {framed([]byte{0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f}), "elements announced"},
		"a follower's fetch":  {framed(append([]byte{0, 1, 0, 17, 0, 0, 0, 1, 0xff, 0xff, 0}, make([]byte, 4+4+4+1+4+4)...)), "malformed"},
		"produce, no batches": {framed([]byte{0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0x7f}), "Produce version 9"},
	} {
		t.Run(name, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				log := &lines{}
				s := server(t, newCluster(t).join("a"), logged(log))
				c := dial(t, s)
				c.write(tc.bytes)
				if tc.why == "" { // not a whole frame: closed when it has not come in time, or the client goes
					faketime.Wait()
					c.close()
					return
				}
				c.closed()
				faketime.Wait()
				if got := log.take(); len(got) != 1 || !strings.Contains(got[0], tc.why) {
					t.Errorf("log: %q", got)
				}
			})
		})
	}
}

func TestComingAndGoingIsNotLogged(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		log := &lines{}
		s := server(t, newCluster(t).join("a"), logged(log))
		dial(t, s).close()
		c := dial(t, s)
		ask[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest())
		c.write([]byte{0, 0, 1, 0, 0, 3}) // in the middle of a request
		faketime.Wait()
		c.close()
		faketime.Wait()
		if got := log.take(); len(got) != 0 {
			t.Errorf("log: %q", got)
		}
	})
}

func TestIdleAndSlowClientsAreClosed(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) { c.IdleTimeout, c.FrameTimeout = time.Minute, 5*time.Second })
		start := time.Now()
		silent := dial(t, s)
		silent.closed()
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("a client that never asked for anything was closed after %v", took)
		}
		idle := dial(t, s)
		ask[*kmsg.MetadataResponse](idle, kmsg.NewPtrMetadataRequest())
		start = time.Now()
		idle.closed()
		if took := time.Since(start); took != time.Minute {
			t.Errorf("an idle client was closed after %v", took)
		}
		start = time.Now()
		slow := dial(t, s)
		slow.write([]byte{0, 0, 1, 0})
		slow.closed()
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("a slow client was closed after %v", took)
		}
		// Who waits for an answer is not idle.
		waiting := dial(t, s)
		req := fetchRequest(13, "", id, 0, 0)
		req.MaxWaitMillis = 250_000
		ask[*kmsg.FetchResponse](waiting, req)
	})
}

func TestAClientThatTakesNoAnswersIsClosed(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s := server(t, newCluster(t).join("a"), func(c *kafka.Config) { c.StallTimeout = 20 * time.Second })
		c := dial(t, s)
		c.send(kmsg.NewPtrMetadataRequest())
		time.Sleep(21 * time.Second)
		faketime.Wait()
		c.closed()
	})
}

// The connection's budget: what is not given back stops further reading, and nothing else does.
func TestBackPressureIsNotReading(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) {
			c.ProduceBytesMax, c.RequestBytesMax = 1<<20, 1<<20
			c.ConnectionInFlightBytes, c.InFlightBytes = 1<<20, 2<<20
		})
		staged := func() int {
			faketime.Wait()
			a.mu.Lock()
			defer a.mu.Unlock()
			return len(a.batches[a.ref("t")]) - 3
		}
		send := func(c *client, n int) {
			for range n {
				c.send(produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, strings.Repeat("x", 400_000))))
			}
		}
		c, other, third := dial(t, s), dial(t, s), dial(t, s)
		for _, c := range []*client{c, other, third} { // who has sent as much before is charged for it at once
			c.produce("t", 0, strings.Repeat("x", 400_000))
		}
		gate := make(chan struct{})
		a.with(func(a *agent) { a.gate = gate })
		send(c, 4)
		if n := staged(); n != 2 {
			t.Errorf("%d requests of 400 kB are in flight where 1 MiB may be", n)
		}
		send(other, 4)
		if n := staged(); n != 4 {
			t.Errorf("%d in all: another connection has a budget of its own", n)
		}
		send(third, 4)
		if n := staged(); n != 5 { // 2 MiB in all
			t.Errorf("%d with three connections", n)
		}
		// Who asks for something small gets it all the same.
		ask[*kmsg.MetadataResponse](dial(t, s), kmsg.NewPtrMetadataRequest())
		close(gate)
		for range 4 {
			for _, c := range []*client{c, other, third} {
				if _, err := c.frame(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := staged(); n != 12 {
			t.Errorf("%d in the end", n)
		}
	})
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		gate := make(chan struct{})
		a.with(func(a *agent) { a.gate = gate })
		c := dial(t, server(t, a, func(c *kafka.Config) { c.ConnectionRequests = 3 }))
		for range 10 {
			c.send(produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "x")))
		}
		faketime.Wait()
		a.mu.Lock()
		n := len(a.batches[a.ref("t")])
		a.mu.Unlock()
		if n != 3 {
			t.Errorf("%d requests are in flight", n)
		}
		close(gate)
		for range 10 {
			if _, err := c.frame(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What is pipelined behind a long poll must not keep the server from seeing the client go.
func TestGoingAwayIsSeenBehindPipelinedRequests(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		c := dial(t, server(t, a))
		req := fetchRequest(13, "", id, 0, 0)
		req.MaxWaitMillis = 3_600_000
		c.send(req)
		for range 20 {
			c.send(kmsg.NewPtrMetadataRequest())
		}
		faketime.Wait()
		if a.subscriptions() != 1 {
			t.Fatal("nobody waits")
		}
		c.close()
		faketime.Wait()
		if a.subscriptions() != 0 {
			t.Error("the wait goes on")
		}
	})
}

// Small requests count against their connection's budget while they are queued, and against nobody else's.
func TestQueuedRequestsAreBoundedInBytes(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) {
			c.ProduceBytesMax, c.RequestBytesMax, c.ConnectionInFlightBytes, c.InFlightBytes = 10_000, 10_000, 10_000, 10_000
		})
		c := dial(t, s)
		req := fetchRequest(13, "", id, 0, 0)
		req.MaxWaitMillis = 3_600_000
		c.send(req)
		large := kmsg.NewPtrMetadataRequest()
		large.Version, large.Topics = 12, []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr(strings.Repeat("x", 4000))}}
		for range 20 {
			c.send(large)
		}
		faketime.Wait()
		if unsent := len(c.out); unsent < 14 { // two in the queue, one that waits for room, one in each side's buffer
			t.Errorf("%d of 20 requests were not taken", unsent)
		}
		dial(t, s).produce("t", 0, "x") // has a budget of its own, and wakes the poll
		for range 21 {
			if _, err := c.frame(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Frames of every size arrive in pieces of every size.
func TestFramesInPieces(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		s := server(t, a)
		for _, size := range []int{1, 3000, 64<<10 - 200, 64 << 10, 150_000, 900_000} {
			for _, piece := range []int{1, 7, 4096, 64 << 10, 1 << 20} {
				if size/piece > 20_000 {
					continue
				}
				c := dial(t, s)
				req := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, strings.Repeat("x", size)))
				b := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
				go func() {
					for len(b) > 0 {
						n := min(piece, len(b))
						if _, err := c.nc.Write(b[:n]); err != nil {
							return
						}
						b = b[n:]
					}
				}()
				res, _ := c.receive(1, req).(*kmsg.ProduceResponse)
				if code := outcome(res).ErrorCode; code != 0 {
					t.Errorf("%d bytes in pieces of %d: code %d", size, piece, code)
				}
				c.close()
			}
		}
	})
}

func TestDrainAnswersWhatWasRead(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		gate := make(chan struct{})
		a.with(func(a *agent) { a.gate = gate })
		s := server(t, a)
		ln := newPipeListener()
		served := make(chan error, 1)
		go func() { served <- s.Serve("kafka", ln) }()
		connect := func() *client {
			nc := ln.dial()
			c := &client{t: t, nc: nc, out: make(chan []byte, 100)}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for b := range c.out {
					_, _ = nc.Write(b)
				}
			}()
			t.Cleanup(func() { c.close(); <-done })
			return c
		}
		producer, poller, idle := connect(), connect(), connect()
		produce := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "x"))
		producer.send(produce)
		poll := fetchRequest(13, "", id, 0, 1)
		poll.MaxWaitMillis = 600_000
		poller.send(poll)
		faketime.Wait()
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(t.Context()) }()
		idle.closed()
		poller.receive(1, poll)
		poller.closed()
		faketime.Wait()
		select {
		case <-drained:
			t.Fatal("drained with a batch in flight")
		default:
		}
		close(gate)
		producer.receive(1, produce)
		producer.closed()
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, kafka.ErrClosed) {
			t.Error(err)
		}
		if err := s.Serve("kafka", newPipeListener()); !errors.Is(err, kafka.ErrClosed) {
			t.Errorf("serving again: %v", err)
		}
	})
}

func TestDrainGivesUpInTime(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		gate := make(chan struct{})
		a.with(func(a *agent) { a.gate = gate })
		s := server(t, a)
		ln := newPipeListener()
		go func() { _ = s.Serve("kafka", ln) }()
		nc := ln.dial()
		defer func() { _ = nc.Close() }()
		go func() {
			_, _ = nc.Write(kmsg.NewRequestFormatter().AppendRequest(nil, produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "x")), 1))
		}()
		faketime.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if err := s.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		close(gate)
		faketime.Wait()
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s := server(t, newCluster(t).join("a"), func(c *kafka.Config) { c.Connections = 1 })
		ln := newPipeListener()
		go func() { _ = s.Serve("kafka", ln) }()
		first := ln.dial()
		faketime.Wait()
		second := ln.dial()
		if _, err := second.Read(make([]byte, 1)); err == nil {
			t.Error("one connection too many")
		}
		_ = first.Close()
		faketime.Wait()
		third := ln.dial()
		faketime.Wait()
		_ = third.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := third.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "EOF") {
			t.Errorf("there is room again: %v", err)
		}
		_ = third.Close()
	})
}

// pipeListener accepts in-memory connections.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	return ours
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }
