//go:build interop

package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// terminal is `make localstack` as somebody types it: what it prints, and a process group that Ctrl-C goes to.
type terminal struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex // guards out
	out bytes.Buffer
}

func (m *terminal) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out.Write(p)
}

func (m *terminal) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out.String()
}

var root = filepath.Join("..", "..")

func typed(t *testing.T, args ...string) *terminal {
	t.Helper()
	m := &terminal{done: make(chan struct{}), cmd: exec.Command("make", append([]string{"localstack"}, args...)...)}
	m.cmd.Dir, m.cmd.Stdout, m.cmd.Stderr = root, m, m
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	for _, pair := range os.Environ() { // a make around us has its own ideas
		if !strings.HasPrefix(pair, "MAKE") && !strings.HasPrefix(pair, "MFLAGS") {
			m.cmd.Env = append(m.cmd.Env, pair)
		}
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = m.cmd.Wait()
		close(m.done)
	}()
	t.Cleanup(func() {
		select {
		case <-m.done:
		default:
			_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
			<-m.done
		}
		if t.Failed() {
			t.Log(m.text())
		}
	})
	return m
}

// says waits until it has printed something.
func (m *terminal) says(t *testing.T, what string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute) // what it builds may be built for the first time
	defer cancel()
	for {
		text := m.text()
		if strings.Contains(text, what) {
			return text
		}
		select {
		case <-m.done:
			if text := m.text(); strings.Contains(text, what) {
				return text
			}
			t.Fatalf("it ended and did not say %q:\n%s", what, m.text())
		case <-ctx.Done():
			t.Fatalf("it does not say %q:\n%s", what, m.text())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (m *terminal) ends(t *testing.T) {
	t.Helper()
	select {
	case <-m.done:
	case <-time.After(2 * time.Minute):
		t.Fatalf("it does not end:\n%s", m.text())
	}
}

func (m *terminal) interrupt(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-m.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}

// offset is one at which all ports are free.
func offset(t *testing.T) string {
	t.Helper()
	for range 100 {
		c := config{agents: 2, members: 3, offset: 1000 + rand.IntN(19_000)}
		free := true
		for _, addr := range c.addrs() {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return strconv.Itoa(c.offset)
		}
	}
	t.Fatal("no free ports")
	return ""
}

// TestMakeLocalstack does what a newcomer does: start it, type what it says, kill an agent, end it with Ctrl-C, start it again.
func TestMakeLocalstack(t *testing.T) {
	dir, at := t.TempDir(), offset(t)
	args := []string{"AGENTS=2", "DIR=" + dir, "OFFSET=" + at}
	m := typed(t, args...)
	text := m.says(t, "Ctrl-C takes all down")

	try := regexp.MustCompile(`(?s)\nTry\n(.*?)  bin/firn verify`).FindStringSubmatch(text)
	if try == nil {
		t.Fatalf("nothing to try:\n%s", text)
	}
	sh := func(script string) string {
		t.Helper()
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	if out := sh(try[1]); !regexp.MustCompile(`(?m)^hello`).MatchString(out) || !strings.Contains(out, "archive") {
		t.Errorf("the commands it proposes say\n%s", out)
	}
	pids := regexp.MustCompile(`process (\d+)`).FindAllStringSubmatch(text, -1)
	if len(pids) != 2+3+2 {
		t.Errorf("%d processes are named, want 7:\n%s", len(pids), text)
	}

	kill := regexp.MustCompile(`(?m)^  (kill -9 \d+) `).FindStringSubmatch(text)
	if kill == nil {
		t.Fatalf("no kill to try:\n%s", text)
	}
	sh(kill[1])
	again := regexp.MustCompile(`a1 runs again, process (\d+)`).FindStringSubmatch(m.says(t, "a1 runs again, process "))
	if again != nil {
		pids = append(pids, again)
	}

	// A second one beside it is told why not.
	second := typed(t, args...)
	second.says(t, "is in use by another localstack")
	second.ends(t)

	m.interrupt(t)
	m.says(t, "all ended after")
	m.ends(t)
	for _, pid := range pids {
		if n, _ := strconv.Atoi(pid[1]); syscall.Kill(n, 0) == nil {
			if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", n)); strings.Contains("firn etcd minio haproxy", strings.TrimSpace(string(name))) {
				t.Errorf("process %d (%s) outlives it", n, bytes.TrimSpace(name))
			}
		}
	}

	m = typed(t, args...)
	m.says(t, "Ctrl-C takes all down")
	if out := sh(strings.SplitAfter(try[1], "\n")[0] + "bin/firn consume events --from start --exit-at-end"); !strings.Contains(out, "hello") {
		t.Errorf("after a restart: %s", out)
	}
	m.interrupt(t)
	m.says(t, "all ended after")
	m.ends(t)
}

// TestMakeLocalstackWherePortsAreTaken: it says which, and how to go on, and starts nothing.
func TestMakeLocalstackWherePortsAreTaken(t *testing.T) {
	at := offset(t)
	n, err := strconv.Atoi(at)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(9092+n)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	m := typed(t, "AGENTS=2", "DIR="+dir, "OFFSET="+at)
	m.says(t, "haproxy.kafka: "+l.Addr().String()+" is taken by another program; end it, or choose another port (OFFSET=")
	m.ends(t)
	if _, err := os.Stat(filepath.Join(dir, "a1")); err == nil {
		t.Error("an agent was started")
	}
}
