//go:build interop

package interop

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack"
)

// TestKill runs `firn verify` against agents that are killed with kill -9 every few seconds: nothing acknowledged may be
// lost, doubled, reordered or changed. verify's exit code is the judgement.
func TestKill(t *testing.T) {
	duration := 40 * time.Second
	if d, err := time.ParseDuration(os.Getenv("KILL_DURATION")); err == nil {
		duration = d
	}
	for _, tt := range []struct {
		name   string
		agents int
	}{{"one process", 0}, {"three agents", 3}} {
		t.Run(tt.name, func(t *testing.T) {
			verifyUnderKills(t, start(t, tt.agents), duration)
		})
	}
}

// verifyUnderKills runs `firn verify` against a cluster whose agents are killed all the while.
func verifyUnderKills(t *testing.T, stack *localstack.Stack, duration time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), duration+3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, firnBin, "verify", "--brokers", stack.Brokers(), "--duration", duration.String(),
		"--producers", "6", "--partitions", "12", "--rate", "4000", "--json")
	out := new(limited)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	kills := killUntil(ctx, t, stack, time.Now().Add(duration))
	err := <-ended
	t.Logf("%d kills\n%s", kills, out.b)
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	if kills < 3 {
		t.Fatalf("only %d kills: the test proves nothing", kills)
	}
}

// killUntil kills a random agent every three to six seconds and starts it again.
func killUntil(ctx context.Context, t *testing.T, stack *localstack.Stack, end time.Time) (kills int) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for {
		wait := 3*time.Second + time.Duration(rng.Int64N(int64(3*time.Second)))
		if time.Now().Add(wait).After(end) {
			return kills
		}
		select {
		case <-ctx.Done():
			return kills
		case <-time.After(wait):
		}
		a := stack.Agents[rng.IntN(len(stack.Agents))]
		if err := a.Kill(); err != nil {
			t.Errorf("kill: %v", err)
			return kills
		}
		kills++
		if err := a.Start(); err != nil {
			t.Errorf("start again: %v", err)
			return kills
		}
		if err := awaitReady(ctx, a); err != nil {
			t.Errorf("after kill %d: %v", kills, err)
			return kills
		}
	}
}

func awaitReady(ctx context.Context, a *localstack.Agent) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, fmt.Errorf("30 s passed"))
	defer cancel()
	return a.AwaitReady(ctx)
}
