//go:build interop

package clients

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/firnlog/firn/localstack"
)

const membersRun = 3

// fault takes an agent away; hit has it happen, and the group's next progress is counted from then; mend brings the agent back.
type fault struct {
	name      string
	hit, mend func(ctx context.Context, t *testing.T, a *localstack.Agent)
}

// faults come one after the other; a short run has one pause of the two.
var faults = []fault{
	{"kill -9", func(_ context.Context, t *testing.T, a *localstack.Agent) { must(t, a.Kill()) }, startAgain},
	{"pause", func(_ context.Context, t *testing.T, a *localstack.Agent) { must(t, a.Pause()) },
		func(_ context.Context, t *testing.T, a *localstack.Agent) { must(t, a.Resume()) }},
	{"pause of 5 s", func(ctx context.Context, t *testing.T, a *localstack.Agent) {
		must(t, a.Pause())
		wait(ctx, 5*time.Second) // not long enough for others to take over
		must(t, a.Resume())
	}, nil},
	{"drain", func(_ context.Context, t *testing.T, a *localstack.Agent) {
		// Stop returns when the agent has ended; the group gets on meanwhile.
		must(t, a.Stop(2*time.Minute))
		if err := a.Err(); err != nil {
			t.Errorf("the drained agent ended with %v", err)
		}
	}, startAgain},
}

func startAgain(ctx context.Context, t *testing.T, a *localstack.Agent) {
	t.Helper()
	must(t, a.Start())
	must(t, a.AwaitReady(ctx))
}

// times are what followed on faults of one kind.
type times struct{ read, committed []time.Duration }

func (x *times) add(l *lap) {
	x.read = append(x.read, l.read...)
	x.committed = append(x.committed, l.committed...)
}

func (x *times) String() string {
	of := func(all []time.Duration) string {
		all = slices.Sorted(slices.Values(all))
		return fmt.Sprintf("p50 %v, max %v", round(all[len(all)/2]), round(all[len(all)-1]))
	}
	if len(x.read) == 0 {
		return "never"
	}
	return fmt.Sprintf("a record is read after %s, committed after %s", of(x.read), of(x.committed))
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// TestGroupsOfStockClients has each client's group work behind the load balancer while the agent that coordinates it is killed, then
// the next, which is paused, then the next, which is drained; then a member leaves and another comes. With CLIENTS_DURATION, 10m for
// one, faults go on for so long, over all agents.
func TestGroupsOfStockClients(t *testing.T) {
	duration, err := time.ParseDuration("0" + os.Getenv("CLIENTS_DURATION"))
	must(t, err)
	for _, proxy := range []bool{true, false} {
		mode := "direct"
		if proxy {
			mode = "proxy"
		}
		t.Run(mode, func(t *testing.T) {
			s := start(t, proxy)
			for i, c := range clients {
				run := faults
				switch {
				case !proxy: // who is told of the agents waits for one that hangs as long as the client does, a minute
					run = slices.Delete(slices.Clone(faults), 1, 2)
				case duration == 0:
					run = slices.Delete(slices.Clone(faults), 1+i%2, 2+i%2)
				}
				if (proxy || c.direct) && (!c.simple || duration > 0) {
					t.Run(c.name, func(t *testing.T) { drill(t, s, c, run, duration) })
				}
			}
		})
	}
}

func drill(t *testing.T, s *localstack.Stack, c client, faults []fault, duration time.Duration) {
	t.Cleanup(func() { mendAll(t, s) })
	ctx, cancel := context.WithTimeoutCause(t.Context(), duration+3*time.Minute, fmt.Errorf("%v passed", duration+3*time.Minute))
	defer cancel()
	began := time.Now()
	name := strings.ReplaceAll(c.name, "/", "-")
	w := startWork(ctx, t, place{brokers: s.HAProxy.Kafka, topic: name, group: "group-" + name})
	w.watch()
	for range membersRun {
		w.add(c)
	}
	tell(t, "start", w.settle(ctx, t))
	w.allHave(ctx, t)
	w.watch()
	tell(t, "nothing", w.settle(ctx, t))

	of := make(map[string]*times)
	for i := 0; i < len(faults) || time.Since(began) < duration; i++ {
		f := faults[i%len(faults)]
		victim := coordinator(ctx, t, s)
		if duration > 0 && i/len(faults)%2 == 1 { // an agent that does not coordinate
			victim = s.Agents[(slices.Index(s.Agents, victim)+1)%len(s.Agents)]
		}
		w.watch()
		f.hit(ctx, t, victim)
		l := w.settle(ctx, t)
		tell(t, f.name+" "+victim.Name(), l)
		if of[f.name] == nil {
			of[f.name] = new(times)
		}
		of[f.name].add(l)
		if f.mend != nil {
			w.watch()
			f.mend(ctx, t, victim)
			tell(t, "  and back", w.settle(ctx, t))
		}
		if i%len(faults) == len(faults)-1 && !c.forgets {
			w.watch()
			w.leave()
			w.add(c)
			tell(t, "another member", w.settle(ctx, t))
			w.allHave(ctx, t)
		}
	}
	if duration > 0 {
		for _, f := range faults {
			if of[f.name] == nil {
				continue
			}
			t.Logf("all of %-15s %v", f.name, of[f.name])
		}
	}
	w.finish(ctx, t, c.forgets)
	t.Logf("took %v", round(time.Since(began)))
}

// mendAll has every agent run again, for the next client after one that failed.
func mendAll(t *testing.T, s *localstack.Stack) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, a := range s.Agents {
		if !a.Running() {
			must(t, a.Start())
		}
		must(t, a.Resume())
		must(t, a.AwaitReady(ctx))
	}
}

// coordinator is the agent that has the one group with members in its memory.
func coordinator(ctx context.Context, t *testing.T, s *localstack.Stack) *localstack.Agent {
	t.Helper()
	var found *localstack.Agent
	until(ctx, t, "one agent coordinates the group", func() bool {
		found = nil
		for _, a := range s.Agents {
			n, err := loaded(ctx, a)
			if err != nil {
				return false
			}
			if n > 0 && found != nil {
				return false
			}
			if n > 0 {
				found = a
			}
		}
		return found != nil
	})
	return found
}

// loaded is how many groups an agent has in memory.
func loaded(ctx context.Context, a *localstack.Agent) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.HTTP+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return 0, err
	}
	f := families["firn_group_loaded"]
	if f == nil {
		return 0, errors.New("no firn_group_loaded")
	}
	return f.GetMetric()[0].GetGauge().GetValue(), nil
}

// TestGroupsOnOneAgent has each client's group work with nothing in its way, and one member leave for another.
func TestGroupsOnOneAgent(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := localstack.Start(ctx, localstack.Options{Dir: t.TempDir(), Firn: programs["FIRN_BIN"]})
	must(t, err)
	t.Cleanup(s.Close)
	for _, c := range clients {
		if !c.simple {
			continue // TestGroupsOfStockClients has it
		}
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("a minute passed"))
			defer cancel()
			name := strings.ReplaceAll(c.name, "/", "-")
			w := startWork(ctx, t, place{brokers: s.Brokers(), topic: name, group: "group-" + name})
			w.watch()
			for range membersRun {
				w.add(c)
			}
			tell(t, "start", w.settle(ctx, t))
			w.allHave(ctx, t)
			w.watch()
			if !c.forgets {
				w.leave()
			}
			w.add(c)
			tell(t, "another member", w.settle(ctx, t))
			w.finish(ctx, t, c.forgets)
		})
	}
}

// tell says what followed on something.
func tell(t *testing.T, what string, l *lap) {
	t.Helper()
	var x times
	x.add(l)
	t.Logf("%-22s %v; members' partitions changed %d times", what, &x, l.rebalance)
}
