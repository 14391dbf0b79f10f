package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/localstack/sim/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a network with one connection.
func pair(t *testing.T) (n *memnet.Network, near, far net.Conn) {
	t.Helper()
	n = memnet.New(rand.New(rand.NewPCG(1, 2)))
	l, err := n.Listen("a:1")
	if err != nil {
		t.Fatal(err)
	}
	if near, err = n.Dial(t.Context(), "a:1"); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return n, near, far
}

func TestBytesArriveInOrder(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		n, near, far := pair(t)
		n.SetFaults(memnet.Faults{LatencyMax: time.Second})
		want := make([]byte, 1<<20) // more than is ever buffered
		rng := rand.NewChaCha8([32]byte{1})
		_, _ = rng.Read(want)
		go func() {
			for rest := want; len(rest) > 0; {
				k := min(len(rest), 30_000)
				if _, err := near.Write(rest[:k]); err != nil {
					t.Error(err)
				}
				rest = rest[k:]
			}
			_ = near.Close()
		}()
		start := time.Now()
		got, err := io.ReadAll(far)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read %d bytes of %d, err %v", len(got), len(want), err)
		}
		if time.Since(start) == 0 {
			t.Error("latency took no time")
		}
		if _, err := far.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to a closed peer: %v", err)
		}
	})
}

func TestWritesWaitForRoomUntilTheirDeadline(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		_, near, _ := pair(t)
		_ = near.SetWriteDeadline(time.Now().Add(time.Minute))
		start := time.Now()
		n, err := near.Write(make([]byte, 1<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == 1<<20 || time.Since(start) != time.Minute {
			t.Errorf("wrote %d in %v, err %v", n, time.Since(start), err)
		}
		_ = near.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
	})
}

func TestADeadlineReachesAReaderThatWaits(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		_, near, _ := pair(t)
		done := make(chan error)
		go func() {
			_, err := near.Read(make([]byte, 1))
			done <- err
		}()
		faketime.Wait()
		_ = near.SetReadDeadline(time.Now())
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestStallHoldsBytesBack(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		n, near, far := pair(t)
		n.Stall("a:1", true)
		if _, err := near.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Dial(ctx, "a:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial into a stall: %v", err)
		}
		time.AfterFunc(time.Minute, func() { n.Stall("a:1", false) })
		start := time.Now()
		if _, err := far.Read(make([]byte, 1)); err != nil || time.Since(start) != time.Minute {
			t.Errorf("read after %v: %v", time.Since(start), err)
		}
	})
}

func TestBrokenConnections(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		n, near, far := pair(t)
		n.Cut("a:1")
		for _, c := range []net.Conn{near, far} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read of a cut connection: %v", err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("write to a cut connection: %v", err)
			}
		}
		if _, err := n.Dial(t.Context(), "b:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial nobody: %v", err)
		}

		n.SetFaults(memnet.Faults{Reset: 1})
		torn, whole := 0, 0
		for range 50 {
			_, near, far := pairOn(t, n)
			k, err := near.Write([]byte("frame"))
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("a write that breaks its connection: %v", err)
			}
			got, err := io.ReadAll(far)
			switch {
			case err == nil && len(got) == k:
				torn++
			case errors.Is(err, syscall.ECONNRESET) && len(got) == 0:
				whole++
			default:
				t.Fatalf("wrote %d, read %q, %v", k, got, err)
			}
		}
		if torn == 0 || whole == 0 || n.Counts().Reset != 50 || n.Counts().Cut != 1 {
			t.Errorf("torn %d, whole %d, %+v", torn, whole, n.Counts())
		}
	})
}

func pairOn(t *testing.T, n *memnet.Network) (l *memnet.Listener, near, far net.Conn) {
	t.Helper()
	l, err := n.Listen("c:1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if near, err = n.Dial(t.Context(), "c:1"); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return l, near, far
}

func TestAClosedListenerRefuses(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		n := memnet.New(rand.New(rand.NewPCG(1, 2)))
		l, err := n.Listen("a:1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen("a:1"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second listener: %v", err)
		}
		waiting, err := n.Dial(t.Context(), "a:1")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		_ = l.Close()
		if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection that nobody accepted: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		if _, err := n.Listen("a:1"); err != nil {
			t.Errorf("the address is not free again: %v", err)
		}
	})
}
