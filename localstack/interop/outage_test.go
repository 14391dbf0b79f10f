//go:build interop

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestClientsOutliveEtcdAndPauses stops etcd, kills it, and stops an agent for longer than its registration lasts, while kafka-python and
// `firn verify` (franz-go) produce and consume. Neither client may give up on a record, and nothing acknowledged may be lost,
// doubled or out of order. Nothing but what was stopped is started again.
func TestClientsOutliveEtcdAndPauses(t *testing.T) {
	stack := start(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	run(t, firnBin, "topic", "create", "outage", "--partitions", "1", "--brokers", stack.Brokers())

	var python, judged bytes.Buffer
	producer := exec.CommandContext(ctx, pythonBin, "outage.py", stack.Brokers(), "outage", "60")
	producer.Stdout, producer.Stderr = &python, &judged
	verify := exec.CommandContext(ctx, firnBin, "verify", "--brokers", stack.Brokers(), "--duration", "60s",
		"--producers", "2", "--partitions", "4", "--rate", "500", "--drain-timeout", "3m", "--json")
	out := new(limited)
	verify.Stdout, verify.Stderr = out, out
	for _, cmd := range []*exec.Cmd{producer, verify} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	pause := func(what string, signal func(syscall.Signal) error, d time.Duration) {
		t.Logf("%s is stopped for %v", what, d)
		if err := signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		wait(ctx, d)
		if err := signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	wait(ctx, 3*time.Second)
	pause("etcd", func(s syscall.Signal) error { return stack.Etcd.Signal(s) }, 12*time.Second)
	wait(ctx, 5*time.Second)
	if err := stack.Etcd.Kill(); err != nil {
		t.Fatal(err)
	}
	wait(ctx, 5*time.Second)
	if err := stack.Etcd.Start(); err != nil {
		t.Fatal(err)
	}
	wait(ctx, 5*time.Second)
	pause("an agent", func(s syscall.Signal) error { return stack.Agents[0].Signal(s) }, 15*time.Second)

	if err := verify.Wait(); err != nil {
		t.Errorf("verify: %v\n%s", err, out.b)
	}
	if err := producer.Wait(); err != nil {
		t.Fatalf("kafka-python: %v\n%s", err, judged.String())
	}
	var r struct {
		Sent, Acked, Read, Doubled, Missing int
		Failed, Wrong                       []any
		Ordered                             bool
	}
	if err := json.Unmarshal(python.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, python.String())
	}
	t.Logf("kafka-python: %s", python.String())
	if r.Sent < 1000 || r.Acked != r.Sent || r.Read != r.Sent || r.Doubled+r.Missing+len(r.Failed)+len(r.Wrong) != 0 || !r.Ordered {
		t.Errorf("kafka-python: %s", python.String())
	}
	for _, a := range stack.Agents {
		if err := awaitReady(ctx, a); err != nil {
			t.Error(err)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
