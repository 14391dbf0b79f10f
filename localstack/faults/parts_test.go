//go:build interop

package faults

import (
	"context"
	"flag"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack"
)

// fault is one thing that happens to a part. The part is well again when it returns.
type fault struct {
	name string
	do   func(ctx context.Context, t *testing.T, s *localstack.Stack)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// killed is kill -9, a while without the part, and its start.
func killed(p *localstack.Process, d time.Duration) func(context.Context, *testing.T) {
	return func(ctx context.Context, t *testing.T) {
		must(t, p.Kill())
		wait(ctx, d)
		must(t, p.Start())
	}
}

func paused(p *localstack.Process, d time.Duration) func(context.Context, *testing.T) {
	return func(ctx context.Context, t *testing.T) {
		must(t, p.Pause())
		wait(ctx, d)
		must(t, p.Resume())
	}
}

func cutOff(s *localstack.Stack, part string, r localstack.Rule, d time.Duration) func(context.Context, *testing.T) {
	return func(ctx context.Context, t *testing.T) {
		s.Network.CutOff(part, r)
		wait(ctx, d)
		s.Network.Heal()
	}
}

// follower is a member of etcd that does not lead.
func follower(ctx context.Context, t *testing.T, s *localstack.Stack) *localstack.Member {
	leads := leader(ctx, t, s)
	for _, m := range s.Members {
		if m != leads {
			return m
		}
	}
	t.Fatal("etcd has one member")
	return nil
}

func leader(ctx context.Context, t *testing.T, s *localstack.Stack) *localstack.Member {
	m, err := s.Leader(ctx)
	must(t, err)
	return m
}

var silent = localstack.Rule{Silent: true}

// scale is how long a part is away, give or take.
var scale = flag.Duration("faults.scale", time.Second, "how long parts are taken away, about")

func faultsOf(scale time.Duration) []fault {
	return []fault{
		{"etcd follower, kill -9", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			killed(follower(ctx, t, s).Process, scale)(ctx, t)
		}},
		{"etcd leader, kill -9", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			killed(leader(ctx, t, s).Process, 2*scale)(ctx, t)
		}},
		{"etcd follower, paused", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			paused(follower(ctx, t, s).Process, 2*scale)(ctx, t)
		}},
		{"etcd leader, cut off", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			cutOff(s, leader(ctx, t, s).Name(), silent, 2*scale)(ctx, t)
		}},
		{"MinIO, kill -9", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			killed(s.MinIO.Process, scale)(ctx, t)
			must(t, s.MinIO.AwaitReady(ctx))
		}},
		{"MinIO, cut off", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			cutOff(s, "minio", silent, 2*scale)(ctx, t)
		}},
		{"agent, kill -9", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			killed(s.Agents[0].Process, scale)(ctx, t)
			must(t, s.Agents[0].AwaitReady(ctx))
		}},
		{"agent, paused for 15 s", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			paused(s.Agents[1].Process, 15*time.Second)(ctx, t) // longer than its registration lasts
		}},
		{"agent, cut off from everybody", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			cutOff(s, "a3", silent, 12*time.Second)(ctx, t)
		}},
		{"agent, cut off from etcd", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			for _, m := range s.Members {
				s.Network.Set("a1", m.Name(), localstack.Rule{Refuse: true})
			}
			wait(ctx, 2*scale)
			s.Network.Heal()
		}},
		{"agent, drained", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			must(t, s.Agents[1].Stop(2*time.Minute))
			if err := s.Agents[1].Err(); err != nil {
				t.Errorf("the drained agent ended with %v", err)
			}
			wait(ctx, scale)
			must(t, s.Agents[1].Start())
			must(t, s.Agents[1].AwaitReady(ctx))
		}},
		{"HAProxy, kill -9", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			killed(s.HAProxy.Process, scale)(ctx, t)
			must(t, s.HAProxy.AwaitReady(ctx))
		}},
		{"network, 30 ms each way around every part", func(ctx context.Context, t *testing.T, s *localstack.Stack) {
			for _, p := range s.Processes() {
				s.Network.Set(p.Name(), "", localstack.Rule{Delay: 30 * time.Millisecond})
			}
			wait(ctx, 2*scale)
			s.Network.Heal()
		}},
	}
}

// TestEachPartIsTakenAway kills, pauses, cuts off and drains each part in turn while clients that know the load balancer's address only
// produce and read. Nothing acknowledged may be lost, doubled or out of order, and after each fault every partition is written and
// read again without anybody's help. Clients are sent to the agents, or see HAProxy alone.
func TestEachPartIsTakenAway(t *testing.T) {
	t.Run("direct", func(t *testing.T) { takeAway(t, false) })
	t.Run("proxy", func(t *testing.T) { takeAway(t, true) })
}

func takeAway(t *testing.T, proxy bool) {
	s := start(t, func(o *localstack.Options) { o.Proxy, o.ProxyProtocol = proxy, proxy })
	ctx, cancel := context.WithTimeoutCause(t.Context(), 8*time.Minute, fmt.Errorf("8 minutes passed"))
	defer cancel()
	v := verify(t, s.HAProxy.Kafka, "--behind-proxy="+strconv.FormatBool(proxy))
	p := startPulse(t, s.HAProxy.Kafka, "pulse", 12)
	p.settle(ctx, t)
	p.lap()
	wait(ctx, 2*time.Second)
	t.Logf("%-45s %s", "nothing", p.lap())
	for _, f := range faultsOf(*scale) {
		f.do(ctx, t, s)
		p.settle(ctx, t)
		t.Logf("%-45s %s", f.name, p.lap())
	}
	p.check(t)
	v.judge(ctx, t)
	for _, a := range s.Agents {
		if err := a.AwaitReady(ctx); err != nil {
			t.Error(err)
		}
	}
}
