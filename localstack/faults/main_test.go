//go:build interop

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack"
)

var (
	firnBin    = filepath.Join("..", "..", "bin", "firn")
	etcdBin    = filepath.Join("..", "..", ".cache", "etcd", "etcd")
	minioBin   = filepath.Join("..", "..", ".cache", "minio", "minio")
	haproxyBin = "haproxy"
)

// TestMain refuses to run without what the tests need: a suite that skips proves nothing.
func TestMain(m *testing.M) {
	if p := os.Getenv("FIRN_BIN"); p != "" {
		firnBin = p
	}
	if p := os.Getenv("INTEROP_MINIO"); p != "" {
		minioBin = p
	}
	if p := os.Getenv("INTEROP_ETCD"); p != "" {
		etcdBin = p
	}
	if _, err := exec.LookPath(haproxyBin); err != nil {
		haproxyBin = "/usr/sbin/haproxy" // not on everybody's path
	}
	for _, need := range [][]string{{firnBin, "version"}, {etcdBin, "--version"}, {minioBin, "--version"}, {haproxyBin, "-v"}} {
		if out, err := exec.Command(need[0], need[1:]...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %v\n%s\nrun `make interop`, which installs what these tests need\n", need, err, out)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// start starts a cluster with everything: three members of etcd, MinIO, HAProxy, three agents, links between all of them.
func start(t *testing.T, change func(*localstack.Options)) *localstack.Stack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	o := localstack.Options{Dir: t.TempDir(), Agents: 3, Members: 3, HAProxy: haproxyBin, Links: true}
	for _, program := range []struct {
		path string
		to   *string
	}{{firnBin, &o.Firn}, {etcdBin, &o.EtcdBinary}, {minioBin, &o.MinIO}} {
		var err error
		if *program.to, err = filepath.Abs(program.path); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(&o)
	}
	s, err := localstack.Start(ctx, o)
	if err != nil {
		dumpLogs(t, o.Dir)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if t.Failed() {
			dumpLogs(t, o.Dir)
		}
	})
	return s
}

// dumpLogs prints the end of each part's output.
func dumpLogs(t *testing.T, dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, path := range logs {
		body, _ := os.ReadFile(path)
		t.Logf("== %s\n%s", filepath.Base(path), body[max(0, len(body)-8<<10):])
	}
}

// limited keeps the last of what is written to it.
type limited struct {
	mu sync.Mutex
	b  []byte
}

func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	l.b = l.b[max(0, len(l.b)-64<<10):]
	return len(p), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(bytes.TrimSpace(l.b))
}

// verifying is a `firn verify` that produces and reads until it is told to judge.
type verifying struct {
	cmd  *exec.Cmd
	out  limited
	done chan error
}

func verify(t *testing.T, brokers string, args ...string) *verifying {
	t.Helper()
	v := &verifying{done: make(chan error, 1)}
	v.cmd = exec.Command(firnBin, append([]string{"verify", "--brokers", brokers, "--duration", "30m", "--producers", "4", "--partitions", "6",
		"--rate", "1000", "--drain-timeout", "2m", "--json"}, args...)...)
	v.cmd.Stdout, v.cmd.Stderr = &v.out, &v.out
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { v.done <- v.cmd.Wait() }()
	t.Cleanup(func() { _ = v.cmd.Process.Kill() })
	return v
}

// judge ends the producing, has everything read back, and fails the test where anything acknowledged is lost, doubled or out of order.
func (v *verifying) judge(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := v.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	select {
	case err := <-v.done:
		t.Logf("verify: %s", v.out.String())
		if err != nil {
			t.Errorf("verify: %v", err)
		}
	case <-ctx.Done():
		t.Errorf("verify does not end: %v\n%s", context.Cause(ctx), v.out.String())
	}
}

// wait lets a fault last: its length is the scenario, and nothing is concluded from it.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// until waits for a condition.
func until(ctx context.Context, t *testing.T, what string, f func() bool) {
	t.Helper()
	for !f() {
		if ctx.Err() != nil {
			t.Fatalf("%s: %v", what, context.Cause(ctx))
		}
		wait(ctx, 10*time.Millisecond)
	}
}
