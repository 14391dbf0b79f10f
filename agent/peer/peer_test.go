package peer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/agent/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait: reaching it is a failure.
const patience = 2 * time.Minute

func secret(t testing.TB, b byte) peer.Secret {
	t.Helper()
	s, err := peer.NewSecret(bytes.Repeat([]byte{b}, peer.SecretBytes))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// node is one agent's internal listener.
type node struct {
	*peer.Server
	address string
}

func serve(t testing.TB, cfg peer.Config, h peer.Handlers) *node {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Secret == (peer.Secret{}) {
		cfg.Secret = secret(t, 1)
	}
	s, err := peer.NewServer(cfg, "process")
	if err != nil {
		t.Fatal(err)
	}
	if h.Self == nil {
		h.Self = func() int32 { return 7 }
	}
	h.Incarnation = func() string { return "abc" }
	s.Handle(h)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(ln) })
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return &node{s, ln.Addr().String()}
}

func client(t testing.TB, cfg peer.Config, address string) *peer.Client {
	t.Helper()
	if cfg.Secret == (peer.Secret{}) {
		cfg.Secret = secret(t, 1)
	}
	c, err := peer.NewClient(cfg, func(node int32) (string, bool) { return address, node == 7 || node == 8 }, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestForwardBringsRequestAndAnswer(t *testing.T) {
	n := serve(t, peer.Config{}, peer.Handlers{Kafka: func(_ context.Context, f peer.Forwarded) ([]byte, error) {
		return fmt.Appendf(nil, "%s from %s by %s", f.Frame, f.Client, f.Listener), nil
	}})
	c := client(t, peer.Config{}, n.address)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			got, err := c.Forward(bounded(t), 7, peer.Request{Frame: fmt.Appendf(nil, "request %d", i), Client: "10.0.0.1:555", Listener: "kafka"})
			if want := fmt.Sprintf("request %d from 10.0.0.1:555 by kafka", i); err != nil || string(got) != want {
				t.Errorf("answer %q, %v; want %q", got, err, want)
			}
		})
	}
	wg.Wait()
}

// A request that must not be done any more as it goes out does not go out, and one that may does once.
func TestForwardAsksOnceMore(t *testing.T) {
	var served, asked atomic.Int32
	n := serve(t, peer.Config{}, peer.Handlers{Kafka: func(_ context.Context, f peer.Forwarded) ([]byte, error) {
		served.Add(1)
		return f.Frame, nil
	}})
	c := client(t, peer.Config{}, n.address)
	late := errors.New("too late")
	for _, err := range []error{nil, late} {
		frame := bytes.Repeat([]byte("x"), 100_000)
		got, refused := c.Forward(bounded(t), 7, peer.Request{Frame: frame, Still: func() error { asked.Add(1); return err }})
		if (refused != nil) != (err != nil) || err == nil && !bytes.Equal(got, frame) {
			t.Errorf("with %v: %d bytes, %v", err, len(got), refused)
		}
	}
	if served.Load() != 1 || asked.Load() < 2 {
		t.Errorf("%d requests were served, asked %d times", served.Load(), asked.Load())
	}
}

func TestForwardEndsWithItsCaller(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	n := serve(t, peer.Config{}, peer.Handlers{Kafka: func(ctx context.Context, _ peer.Forwarded) ([]byte, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}})
	c := client(t, peer.Config{}, n.address)
	ctx, cancel := context.WithCancel(bounded(t))
	go func() { <-began; cancel() }()
	if _, err := c.Forward(ctx, 7, peer.Request{Frame: []byte("x")}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the handler was not told that its caller is gone")
	}
}

func TestForwardToAnAgentThatDies(t *testing.T) {
	began := make(chan struct{})
	n := serve(t, peer.Config{}, peer.Handlers{Kafka: func(ctx context.Context, _ peer.Forwarded) ([]byte, error) {
		close(began)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	c := client(t, peer.Config{}, n.address)
	go func() { <-began; n.Close() }()
	if _, err := c.Forward(bounded(t), 7, peer.Request{Frame: []byte("x")}); !errors.Is(err, peer.ErrLost) {
		t.Errorf("an agent that died in the middle: %v", err)
	}
	if _, err := c.Forward(bounded(t), 7, peer.Request{Frame: []byte("x")}); !errors.Is(err, peer.ErrUnreachable) {
		t.Errorf("an agent that is dead: %v", err)
	}
}

// An agent that is stopped, or whose machine is gone, says nothing any more, and its connections stay.
func TestForwardToAnAgentThatFallsSilent(t *testing.T) {
	began := make(chan struct{})
	n := serve(t, peer.Config{}, peer.Handlers{Kafka: func(ctx context.Context, _ peer.Forwarded) ([]byte, error) {
		close(began)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	silent := newMuteProxy(t, n.address)
	// Long enough for a machine that is busy to answer while it is not silent.
	c := client(t, peer.Config{PingInterval: 20 * time.Millisecond, PingTimeout: 2 * time.Second}, silent.address)
	go func() { <-began; silent.mute() }()
	if _, err := c.Forward(bounded(t), 7, peer.Request{Frame: []byte("x")}); !errors.Is(err, peer.ErrLost) {
		t.Errorf("an agent that fell silent: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	n := serve(t, peer.Config{RequestBytesMax: 100, ReadBytesMax: 100, ReadBytes: 100}, peer.Handlers{
		Kafka: func(context.Context, peer.Forwarded) ([]byte, error) { return nil, peer.ErrDraining },
		Segments: func(_ context.Context, q peer.Range) ([]byte, func(), error) {
			switch q.Key {
			case "busy":
				return nil, nil, fmt.Errorf("%w: as it is", peer.ErrBusy)
			case "cold":
				return nil, nil, &peer.NotHeld{Below: 42}
			}
			return make([]byte, q.Size-1), nil, nil
		},
	})
	c := client(t, peer.Config{}, n.address)
	for _, x := range []struct {
		what string
		ask  func() error
		want error
		says string
	}{
		{"another agent", func() error { _, err := c.Forward(bounded(t), 8, peer.Request{Frame: []byte("x")}); return err }, peer.ErrRefused, "this is agent 7, asked for 8"},
		{"an agent that is not live", func() error { _, err := c.Forward(bounded(t), 9, peer.Request{Frame: []byte("x")}); return err }, peer.ErrUnreachable, "agent 9"},
		{"a request too large", func() error { _, err := c.Forward(bounded(t), 7, peer.Request{Frame: make([]byte, 101)}); return err }, peer.ErrRefused, "100 allowed"},
		{"an agent that drains", func() error { _, err := c.Forward(bounded(t), 7, peer.Request{Frame: []byte("x")}); return err }, peer.ErrRefused, "draining"},
		{"a range too large", func() error {
			_, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "k", Position: 0, Size: 101})
			return err
		}, peer.ErrRefused, "size 101"},
		{"a range too large for us", func() error {
			_, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "k", Position: 0, Size: 1 << 30})
			return err
		}, peer.ErrRefused, "allowed"},
		{"no range", func() error {
			_, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "k", Position: -1, Size: 10})
			return err
		}, peer.ErrRefused, "position -1"},
		{"half a range", func() error {
			_, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "k", Position: 0, Size: 10})
			return err
		}, peer.ErrLost, "9 bytes of 10"},
		{"a range that is busy", func() error { _, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "busy", Size: 10}); return err }, peer.ErrBusy, "as it is"},
		{"no status", func() error { return c.Status(bounded(t), 7, new(any)) }, peer.ErrRefused, "no status"},
	} {
		if err := x.ask(); !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v", x.what, err)
		}
	}
}

func TestReadRange(t *testing.T) {
	object := make([]byte, 3<<20)
	for i := range object {
		object[i] = byte(i * 7)
	}
	want := peer.Range{Key: "a/key with &?", ObjectSize: 1 << 40, Position: 5, Size: 2 << 20, Held: true, Cold: true}
	returned := make(chan struct{}, 1)
	n := serve(t, peer.Config{}, peer.Handlers{Segments: func(_ context.Context, q peer.Range) ([]byte, func(), error) {
		if q.Key == "cold" {
			return nil, nil, &peer.NotHeld{Below: 42}
		}
		if q != want {
			return nil, nil, errors.New("no such object")
		}
		return object[q.Position:][:q.Size], func() { returned <- struct{}{} }, nil
	}})
	c := client(t, peer.Config{}, n.address)
	got, err := c.ReadRange(bounded(t), 7, want)
	if err != nil || !bytes.Equal(got, object[5:5+2<<20]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "other", Position: 0, Size: 1}); !errors.Is(err, peer.ErrRefused) || !strings.Contains(err.Error(), "no such object") {
		t.Errorf("a handler's error: %v", err)
	}
	var none *peer.NotHeld
	if _, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "cold", Size: 1}); !errors.As(err, &none) || none.Below != 42 || !errors.Is(err, peer.ErrRefused) {
		t.Errorf("what is not held: %v", err)
	}
	select {
	case <-returned:
	case <-bounded(t).Done():
		t.Error("the buffer was not given back")
	}
}

// An agent that goes and comes back is asked again, however often.
func TestAgentThatComesBack(t *testing.T) {
	address := "127.0.0.1:0"
	var c *peer.Client
	for round := range 6 {
		ln, err := net.Listen("tcp", address)
		for end := time.Now().Add(patience); err != nil && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			ln, err = net.Listen("tcp", address) // between two rounds the port was anybody's
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := peer.NewServer(peer.Config{Secret: secret(t, 1)}, "process")
		if err != nil {
			t.Fatal(err)
		}
		s.Handle(peer.Handlers{
			Self: func() int32 { return 7 }, Incarnation: func() string { return "" },
			Kafka: func(_ context.Context, f peer.Forwarded) ([]byte, error) { return f.Frame, nil },
			Segments: func(_ context.Context, q peer.Range) ([]byte, func(), error) {
				return make([]byte, q.Size), func() {}, nil
			},
		})
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Serve(ln) })
		if c == nil {
			address = ln.Addr().String()
			c = client(t, peer.Config{}, address)
		}
		for end := time.Now().Add(patience); ; {
			_, kafka := c.Forward(bounded(t), 7, peer.Request{Frame: []byte("x")})
			_, segment := c.ReadRange(bounded(t), 7, peer.Range{Key: "k", Size: 10})
			if kafka == nil && segment == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("round %d: %v, %v", round, kafka, segment)
			}
		}
		s.Close()
		wg.Wait()
	}
}

// What is on its way to peers is bounded; who finds no room asks the bucket.
func TestRangesBeyondTheBoundAreRefused(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	n := serve(t, peer.Config{ReadBytesMax: 100, ReadBytes: 150}, peer.Handlers{Segments: func(_ context.Context, q peer.Range) ([]byte, func(), error) {
		if q.Key == "slow" {
			close(began)
			<-goOn
		}
		return make([]byte, q.Size), nil, nil
	}})
	c := client(t, peer.Config{}, n.address)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "slow", Position: 0, Size: 100}); err != nil {
			t.Error(err)
		}
	})
	<-began
	if _, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "k", Position: 0, Size: 51}); !errors.Is(err, peer.ErrBusy) {
		t.Errorf("beyond the bound: %v", err)
	}
	if _, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "k", Size: 100, Cold: true}); err != nil {
		t.Errorf("a replay has a bound of its own: %v", err)
	}
	if _, err := c.ReadRange(bounded(t), 7, peer.Range{Key: "k", Position: 0, Size: 50}); err != nil {
		t.Error(err)
	}
	close(goOn)
	wg.Wait()
}

// A handler that has decoded its request lets others in, however long it waits then.
func TestWaitingRequestsHoldNoRoom(t *testing.T) {
	const requests = 10
	goOn := make(chan struct{})
	var all sync.WaitGroup
	all.Add(requests)
	n := serve(t, peer.Config{RequestBytesMax: 1000, RequestBytes: 1000}, peer.Handlers{Kafka: func(_ context.Context, f peer.Forwarded) ([]byte, error) {
		f.Release()
		all.Done()
		<-goOn
		return nil, nil
	}})
	c := client(t, peer.Config{}, n.address)
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			if _, err := c.Forward(bounded(t), 7, peer.Request{Frame: make([]byte, 900)}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	close(goOn)
	wg.Wait()
}

func TestHelloSaysWhoIsThere(t *testing.T) {
	n := serve(t, peer.Config{}, peer.Handlers{})
	h, err := client(t, peer.Config{}, "").Hello(bounded(t), n.address)
	if want := (peer.Hello{NodeID: 7, Incarnation: "abc", Process: "process"}); err != nil || h != want {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestWrongSecretIsLetInNowhere(t *testing.T) {
	var logged lockedBuffer
	n := serve(t, peer.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil))}, peer.Handlers{
		Kafka: func(context.Context, peer.Forwarded) ([]byte, error) { return []byte("reached"), nil },
	})
	c := client(t, peer.Config{Secret: secret(t, 2)}, n.address)
	_, err := c.Forward(bounded(t), 7, peer.Request{Frame: []byte("x")})
	if !errors.Is(err, peer.ErrUnreachable) || !strings.Contains(err.Error(), "took this agent for a stranger") {
		t.Errorf("error %v", err)
	}
	n.Close() // which waits until it has written what there is to say
	if !strings.Contains(logged.String(), "did not prove that it belongs to this cluster") {
		t.Errorf("log: %s", logged.String())
	}
	for _, text := range []string{logged.String(), err.Error(), fmt.Sprintf("%v %+v %#v %s", secret(t, 1), secret(t, 1), secret(t, 1), secret(t, 1))} {
		if strings.Contains(text, strings.Repeat("\x01", 4)) || strings.Contains(text, "0x1, 0x1") || strings.Contains(text, "1 1 1 1") || strings.Contains(text, "01010101") {
			t.Errorf("the secret shows: %q", text)
		}
	}
}

// A listener that does not know the secret gets no request either.
func TestImpostorGetsNoRequest(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan int, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		hello := make([]byte, 73)
		_, _ = io.ReadFull(nc, hello)
		_, _ = nc.Write(make([]byte, 64))
		n, _ := nc.Read(make([]byte, 1))
		got <- n
	}()
	t.Cleanup(func() { _ = ln.Close() })
	c := client(t, peer.Config{}, ln.Addr().String())
	if _, err := c.Forward(bounded(t), 7, peer.Request{Frame: []byte("x")}); !errors.Is(err, peer.ErrUnreachable) {
		t.Errorf("error %v", err)
	}
	if n := <-got; n != 0 {
		t.Error("the impostor was sent something")
	}
}

func TestStrangerGetsNothingButAClosedConnection(t *testing.T) {
	n := serve(t, peer.Config{HandshakeTimeout: 100 * time.Millisecond}, peer.Handlers{})
	for name, sent := range map[string]string{
		"nothing at all":        "",
		"http":                  "GET /v1/hello HTTP/1.1\r\nHost: x\r\n\r\n",
		"http2":                 "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"tls":                   "\x16\x03\x01\x02\x00\x01\x00",
		"kafka":                 "\x00\x00\x00\x10\x00\x12\x00\x03",
		"half a hello":          "firnpeer\x01",
		"a hello with no proof": "firnpeer\x01" + strings.Repeat("n", 64),
		"another version":       "firnpeer\x02" + strings.Repeat("n", 64),
		"a flood":               strings.Repeat("\x00", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := net.Dial("tcp", n.address)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			_ = nc.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(nc, sent) // the flood may be cut off
			b, err := io.ReadAll(nc)
			if len(b) > 0 || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%d bytes %q, %v", len(b), b, err)
			}
		})
	}
}

// Whoever opens connections and proves nothing keeps no agent out: the oldest makes room.
func TestHandshakesUnderWayAreBounded(t *testing.T) {
	n := serve(t, peer.Config{Handshakes: 4, HandshakeTimeout: time.Minute}, peer.Handlers{})
	var open []net.Conn
	for range 20 {
		nc, err := net.Dial("tcp", n.address)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		open = append(open, nc)
	}
	if _, err := client(t, peer.Config{}, "").Hello(bounded(t), n.address); err != nil {
		t.Errorf("an agent among strangers: %v", err)
	}
	_ = open[0].SetDeadline(time.Now().Add(patience))
	if _, err := open[0].Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the oldest stranger: %v", err)
	}
}

func TestConfigProblemsComeAllAtOnce(t *testing.T) {
	cfg := peer.Config{Handshakes: -1, PingTimeout: -1, RequestBytesMax: 10, RequestBytes: 5, ReadBytesMax: 10, ReadBytes: 5}
	err := cfg.Validate()
	for _, want := range []string{"no secret", "handshakes", "ping timeout", "request bytes are", "read bytes are"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
	if _, err := peer.NewSecret([]byte("short")); err == nil || strings.Contains(err.Error(), "short") {
		t.Errorf("a short secret: %v", err)
	}
}

// muteProxy passes bytes on until it is muted; its connections stay open.
type muteProxy struct {
	address string
	muted   chan struct{}
	once    sync.Once
}

func newMuteProxy(t testing.TB, to string) *muteProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &muteProxy{address: ln.Addr().String(), muted: make(chan struct{})}
	var wg sync.WaitGroup
	pass := func(to, from net.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := from.Read(buf)
			select {
			case <-p.muted:
				n = 0 // swallowed
			default:
			}
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				_ = a.Close()
				continue
			}
			t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
			wg.Go(func() { pass(a, b) })
			wg.Go(func() { pass(b, a) })
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { _ = ln.Close() })
	return p
}

func (p *muteProxy) mute() { p.once.Do(func() { close(p.muted) }) }

// lockedBuffer is a log that is written to at any time.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Thousands of members may wait at one agent.
func TestThousandsWaitAtOnce(t *testing.T) {
	const requests = 1200 // more than HTTP/2 servers let wait where nothing is said
	goOn := make(chan struct{})
	var all sync.WaitGroup
	all.Add(requests)
	n := serve(t, peer.Config{}, peer.Handlers{Kafka: func(_ context.Context, f peer.Forwarded) ([]byte, error) {
		f.Release()
		all.Done()
		<-goOn
		return f.Frame, nil
	}})
	c := client(t, peer.Config{}, n.address)
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			if _, err := c.Forward(bounded(t), 7, peer.Request{Frame: []byte("x")}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	close(goOn)
	wg.Wait()
}

// BenchmarkForward is a small request to another agent and its answer, one after the other and many at once.
func BenchmarkForward(b *testing.B) {
	n := serve(b, peer.Config{}, peer.Handlers{Kafka: func(_ context.Context, f peer.Forwarded) ([]byte, error) { return f.Frame, nil }})
	c := client(b, peer.Config{}, n.address)
	ctx, q := b.Context(), peer.Request{Frame: make([]byte, 100), Client: "10.0.0.1:1", Listener: "kafka"}
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.Forward(ctx, 7, q); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := c.Forward(ctx, 7, q); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
