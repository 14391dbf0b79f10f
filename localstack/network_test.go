package localstack

import (
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// echo serves whatever it is sent back to it.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func linked(t *testing.T) (*Network, string) {
	t.Helper()
	n := newNetwork()
	t.Cleanup(n.Close)
	var p ports
	addr, err := p.take("link")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.link("echo", addr, echo(t)); err != nil {
		t.Fatal(err)
	}
	return n, addr
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

func say(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := io.WriteString(c, what); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("%q, %v: want %q", got, err, want)
	}
}

func TestASilentLinkDeliversWhenItIsOver(t *testing.T) {
	n, addr := linked(t)
	before := dial(t, addr)
	say(t, before, "one")
	hear(t, before, "one")
	n.CutOff("echo", Rule{Silent: true})
	during := dial(t, addr)
	say(t, before, "two")
	say(t, during, "three")
	for _, c := range []net.Conn{before, during} {
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if k, err := c.Read(make([]byte, 1)); k != 0 || err == nil {
			t.Fatalf("%d bytes, %v from a link that is cut", k, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	n.Heal()
	hear(t, before, "two")
	hear(t, during, "three")
}

func TestARefusingLinkResetsWhatIsOpenAndWhatIsTried(t *testing.T) {
	n, addr := linked(t)
	open := dial(t, addr)
	say(t, open, "one")
	hear(t, open, "one")
	n.Set(Client, "echo", Rule{Refuse: true})
	if _, err := open.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v from what was open, want a reset", err)
	}
	// The kernel accepts, the link resets: a client may meet that while it still connects, or with its first read.
	tried, err := net.DialTimeout("tcp", addr, time.Minute)
	if err == nil {
		defer tried.Close()
		if err := tried.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		_, err = tried.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v from what is tried, want a reset", err)
	}
	n.Heal()
	after := dial(t, addr)
	say(t, after, "two")
	hear(t, after, "two")
}

// TestALinkToNobodyRefuses: whoever connects sees what they would see at the target itself.
func TestALinkToNobodyRefuses(t *testing.T) {
	n := newNetwork()
	t.Cleanup(n.Close)
	var p ports
	addr, err := p.take("link")
	if err != nil {
		t.Fatal(err)
	}
	target, err := p.take("target")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.link("target", addr, target); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	until := func(what string, f func(net.Conn, error) bool) {
		t.Helper()
		for {
			c, err := net.Dial("tcp", addr)
			done := f(c, err)
			if err == nil {
				c.Close()
			}
			if done {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: %v", what, err)
			}
			pause(ctx)
		}
	}
	until("it does not refuse", func(_ net.Conn, err error) bool { return errors.Is(err, syscall.ECONNREFUSED) })
	l, err := net.Listen("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	until("it still refuses", func(_ net.Conn, err error) bool { return err == nil })
}

// TestADelayDelaysAndDoesNotThrottle: a hundred pieces in flight at once take one delay, not a hundred.
func TestADelayDelaysAndDoesNotThrottle(t *testing.T) {
	n, addr := linked(t)
	n.CutOff("echo", Rule{Delay: 50 * time.Millisecond})
	c := dial(t, addr)
	began := time.Now()
	want := strings.Repeat("0123456789", 100)
	for i := range 100 {
		say(t, c, want[i*10:i*10+10])
	}
	hear(t, c, want)
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("there and back in %v", took)
	}
}

// TestTheNetworkKnowsWhoConnects: a rule about a process does not touch others.
func TestTheNetworkKnowsWhoConnects(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("no such thing here; rules name who is connected to")
		return
	}
	n, addr := linked(t)
	p, err := newProcess("part", "bash", t.TempDir()+"/log", "-c", `exec 3<>"/dev/tcp/${0/:/\/}" && echo hello >&3 && head -n1 <&3 && sleep 60`, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	n.know([]*Process{p})
	n.Set("part", "echo", Rule{Silent: true})
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ours := dial(t, addr)
	say(t, ours, "one")
	hear(t, ours, "one")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for from := ""; from != "part"; pause(ctx) {
		if ctx.Err() != nil {
			t.Fatal("the process was not recognised")
		}
		n.mu.Lock()
		for c := range n.conns {
			if c.from != Client {
				from = c.from
			}
		}
		n.mu.Unlock()
	}
}

func TestAProcessEndsWithAllThatItStarted(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("no process groups here")
		return
	}
	log := t.TempDir() + "/log"
	p, err := newProcess("parent", "bash", log, "-c", "sleep 600 & echo $!; wait")
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var child string
	for child == "" && ctx.Err() == nil {
		out, err := exec.Command("cat", log).Output()
		if err != nil {
			t.Fatal(err)
		}
		child = strings.TrimSpace(string(out))
		pause(ctx)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	for exec.Command("kill", "-0", child).Run() == nil {
		if ctx.Err() != nil {
			t.Fatalf("%s outlives its parent", child)
		}
		pause(ctx)
	}
}

func TestPortsThatAreTakenAreSaid(t *testing.T) {
	taken := echo(t)
	p := ports{asked: map[string]string{"haproxy.kafka": taken}}
	if _, err := p.take("haproxy.kafka"); err == nil || !strings.Contains(err.Error(), "haproxy.kafka: "+taken+" is taken by another program") {
		t.Error(err)
	}
	seen := make(map[string]bool)
	for range 50 {
		addr, err := p.take("any")
		if err != nil || seen[addr] {
			t.Fatal(addr, err)
		}
		seen[addr] = true
	}
}
