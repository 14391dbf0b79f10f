package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/wal/walfs"
)

// at makes an agent listen where another one did.
func at(t testing.TB, kafka, internal string) func(*mate) {
	return func(m *mate) {
		_, _ = m.parts.Kafka.Close(), m.parts.Internal.Close()
		m.parts.Kafka, m.parts.Internal = listen(t, kafka), listen(t, internal)
		m.cfg.Advertise, m.cfg.Internal = kafka, internal
	}
}

func on(disk *walfs.FS) func(*mate) { return func(m *mate) { m.disk, m.parts.FS = disk, disk } }

// An agent that was killed is back at once, though its registration lives on.
func TestKilledAgentIsBackAtOnce(t *testing.T) {
	c := newTeam(t)
	long := func(m *mate) { m.cfg.RegistrationTTL = 10 * time.Minute } // who waits for its end runs out of patience
	for name, again := range map[string]func(*mate) []func(*mate){
		"same-place": func(m *mate) []func(*mate) {
			return []func(*mate){on(m.disk), at(t, m.cfg.Advertise, m.cfg.Internal)}
		},
		"other-address": func(m *mate) []func(*mate) { return []func(*mate){on(m.disk)} },
		"new-disk":      func(m *mate) []func(*mate) { return []func(*mate){at(t, m.cfg.Advertise, m.cfg.Internal)} },
		"new-machine":   func(*mate) []func(*mate) { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			m := c.join(name, long)
			m.log.SetFaults(partitioned) // or Kill would leave no registration behind
			m.Kill()
			next := c.join(name, append(again(m), long)...)
			if next.Health().NodeID != m.Health().NodeID && m.Health().NodeID > 0 {
				t.Errorf("node id %d, before %d", next.Health().NodeID, m.Health().NodeID)
			}
		})
	}
}

// errorLines counts what is logged as an error.
type errorLines struct {
	slog.Handler
	n atomic.Int32
}

func (*errorLines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

func (l *errorLines) Handle(context.Context, slog.Record) error {
	l.n.Add(1)
	return nil
}

func (l *errorLines) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *errorLines) WithGroup(string) slog.Handler      { return l }

// Two agents of one configuration: the second does not start while the first is alive, and the first is not disturbed.
func TestRivalsAreRefused(t *testing.T) {
	c := newTeam(t)
	first := c.join("a")
	elsewhere := func(m *mate) {
		// The same advertised addresses, but the process listens somewhere else: another machine's configuration was copied.
		m.cfg.Advertise, m.cfg.Internal = first.cfg.Advertise, first.cfg.Internal
	}
	for _, x := range []struct {
		what, name string
		tune       func(*mate)
		says       string
	}{
		{"name", "a", func(*mate) {}, `the name "a"`},
		{"advertised address", "b", func(m *mate) { m.cfg.Advertise = first.cfg.Advertise }, "the advertised address " + first.cfg.Advertise},
		{"internal address", "b", func(m *mate) { m.cfg.Internal = first.cfg.Internal }, "the internal address " + first.cfg.Internal},
		{"everything", "a", elsewhere, `the name "a"`},
	} {
		logged := &errorLines{Handler: slog.DiscardHandler}
		_, err := c.begin(x.name, x.tune, func(m *mate) { m.parts.Logger = slog.New(logged) })
		if n := logged.n.Load(); n != 0 {
			t.Errorf("%s: %d errors are logged beside the one that Start returns", x.what, n)
		}
		if !errors.Is(err, agent.ErrRival) || !strings.Contains(err.Error(), x.says) || !strings.Contains(err.Error(), `agent "a" is alive`) {
			t.Errorf("%s: %v", x.what, err)
		}
	}
	if h := first.Health(); !h.Ready {
		t.Errorf("the first agent: %+v", h)
	}
}

// degradedLines looks for the line that says how an agent differs from others.
type degradedLines struct {
	slog.Handler
	told atomic.Bool
}

func (*degradedLines) Enabled(context.Context, slog.Level) bool { return true }

func (l *degradedLines) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if r.Message == "degraded" && r.Level == slog.LevelWarn && a.Value.String() == "advertise_mode" {
			l.told.Store(true)
		}
		return true
	})
	return nil
}

func (l *degradedLines) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *degradedLines) WithGroup(string) slog.Handler      { return l }

// Agents that show themselves to clients in different ways say so, loudly, for as long as they do: that must be possible while a cluster is
// changed from one to the other, and is a mistake otherwise.
func TestAgentsOfDifferentAdvertiseModes(t *testing.T) {
	c := newTeam(t)
	log := &degradedLines{Handler: slog.DiscardHandler}
	direct := c.join("direct", func(m *mate) { m.parts.Logger = slog.New(log) })
	proxy := c.join("proxy", func(m *mate) {
		m.cfg.AdvertiseMode, m.cfg.Advertise, m.cfg.DrainNotice = agent.AdvertiseProxy, "lb:9092", time.Millisecond
	})
	for _, x := range []struct {
		who   *mate
		other agent.AdvertiseMode
		says  string
	}{
		{direct, agent.AdvertiseProxy, `advertise_mode: this agent runs with --advertise-mode direct, and "proxy" in the other`},
		{proxy, agent.AdvertiseDirect, `advertise_mode: this agent runs with --advertise-mode proxy, and "direct" in the other`},
	} {
		await(t, "both tell", func() bool { return strings.Contains(x.who.Health().Degraded, x.says) })
		if h := x.who.Health(); !h.Ready {
			t.Errorf("taken out of service: %+v", h)
		}
		await(t, "the status of the cluster says how the other is seen", func() bool { // which it cannot where the other is slow to answer
			return slices.ContainsFunc(x.who.Cluster(t.Context()).Agents, func(a agent.AgentStatus) bool {
				return a.Status != nil && a.Name == string(x.other) && a.Status.AdvertiseMode == x.other
			})
		})
	}
	await(t, "it is logged", log.told.Load)
	if err := proxy.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "it is over", func() bool { return !strings.Contains(direct.Health().Degraded, "advertise_mode") })
}

// Behind a load balancer all agents have its address.
func TestAgentsBehindALoadBalancerShareItsAddress(t *testing.T) {
	c := newTeam(t)
	behind := func(m *mate) {
		m.cfg.AdvertiseMode, m.cfg.Advertise, m.cfg.DrainNotice = agent.AdvertiseProxy, "lb:9092", time.Millisecond
	}
	c.join("a", behind)
	c.join("b", behind)
}

// An agent that answers nobody but keeps its registration is alive: who has its name waits for as long as a lease lasts, and is
// refused then.
func TestRivalThatAnswersNobodyIsRefusedAfterItsLease(t *testing.T) {
	c := newTeam(t)
	c.join("a", func(m *mate) {
		_ = m.parts.Internal.Close()
		m.parts.Internal, m.cfg.Internal = nil, ""
	})
	began := time.Now()
	_, err := c.begin("a", func(m *mate) { m.cfg.RegistrationTTL = 2 * time.Second })
	if !errors.Is(err, agent.ErrRival) {
		t.Errorf("start: %v", err)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("refused after %v, within its lease", took)
	}
}

// Two that could not know of each other at their start do not take the name from each other in turns: one ends. It is the older
// one, unless that was about to write when the newer one took its registration: then it has joined again since.
func TestDisplacedAgentEnds(t *testing.T) {
	c := newTeam(t)
	first := c.join("a")
	second := c.join("a", func(m *mate) { m.parts.Dial = nowhere })
	select {
	case <-first.Failed():
	case <-second.Failed():
		first, second = second, first
	case <-time.After(patience):
		t.Fatal("both go on")
	}
	if err := first.Err(); !errors.Is(err, metastore.ErrDisplaced) {
		t.Errorf("the one ended with %v", err)
	}
	if h := second.Health(); !h.Ready || h.NodeID != 1 {
		t.Errorf("the other: %+v", h)
	}
}

func TestInternalListenerOfAnAgentThatHasNone(t *testing.T) {
	c := newTeam(t)
	if _, err := c.begin("a", func(m *mate) { m.cfg.AdvertiseMode, m.cfg.Internal = agent.AdvertiseProxy, "" }); err == nil ||
		!strings.Contains(err.Error(), "no internal address") {
		t.Errorf("start: %v", err)
	}
	if _, err := c.begin("a", func(m *mate) { m.cfg.Internal = ":9093" }); err == nil || !strings.Contains(err.Error(), "internal address") {
		t.Errorf("start: %v", err)
	}
}

// partitioned: the agent does not reach the metastore.
var partitioned = memlog.Faults{Partitioned: true, PartitionRefuses: true}

// nowhere dials other agents, and each is as if its machine were gone.
func nowhere(context.Context, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
