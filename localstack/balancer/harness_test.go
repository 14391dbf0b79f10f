package balancer_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/wal/walfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait: reaching it is a failure.
const patience = time.Minute

// balancer forwards each new connection to the next of its targets that takes it, from a port of its own.
type balancer struct {
	t    *testing.T
	ln   net.Listener
	next atomic.Int64
	wg   sync.WaitGroup

	mu      sync.Mutex // guards the rest
	targets []string
	open    map[net.Conn]struct{}
	closed  bool
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{t: t, ln: ln, open: make(map[net.Conn]struct{})}
	b.wg.Go(b.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		b.mu.Lock()
		b.closed = true
		for nc := range b.open {
			_ = nc.Close()
		}
		b.mu.Unlock()
		b.wg.Wait()
	})
	return b
}

func (b *balancer) address() string { return b.ln.Addr().String() }

// set says where connections go from now on.
func (b *balancer) set(targets ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.targets = targets
}

func (b *balancer) accept() {
	for {
		in, err := b.ln.Accept()
		if err != nil {
			return
		}
		out := b.dial()
		if out == nil || !b.hold(in) || !b.hold(out) {
			_ = in.Close()
			continue
		}
		pass := func(to, from net.Conn) {
			_, _ = io.Copy(to, from)
			_ = to.(*net.TCPConn).CloseWrite()
		}
		b.wg.Go(func() {
			var both sync.WaitGroup
			both.Go(func() { pass(out, in) })
			pass(in, out)
			_ = in.Close() // as a balancer does whose server has hung up
			both.Wait()
			_ = out.Close()
			b.mu.Lock()
			delete(b.open, in)
			delete(b.open, out)
			b.mu.Unlock()
		})
	}
}

func (b *balancer) dial() net.Conn {
	b.mu.Lock()
	targets := b.targets
	b.mu.Unlock()
	for range targets {
		nc, err := net.Dial("tcp", targets[int(b.next.Add(1))%len(targets)])
		if err == nil {
			return nc
		}
	}
	return nil
}

func (b *balancer) hold(nc net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		_ = nc.Close()
		return false
	}
	b.open[nc] = struct{}{}
	return true
}

// cluster is agents behind a balancer.
type cluster struct {
	t        *testing.T
	balancer *balancer
	open     func(name string) log.Log
	bucket   *mem.Bucket
	members  []*member
	logger   *slog.Logger
	tune     []func(*agent.Config)
}

type member struct {
	*agent.Agent
	name    string
	kafka   string
	disk    *walfs.FS
	log     log.Log
	stopped bool
}

// start brings up agents on a metastore in memory, or on the one given.
func start(t *testing.T, agents int, open func(name string) log.Log, tune ...func(*agent.Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, tune: tune, balancer: newBalancer(t), open: open, bucket: mem.New(), logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if open == nil {
		store := memlog.NewStore(memlog.Config{})
		t.Cleanup(func() { _ = store.Close() })
		c.open = func(name string) log.Log { return store.Open(name) }
	}
	for i := range agents {
		c.members = append(c.members, &member{name: fmt.Sprintf("agent-%d", i), disk: walfs.New(rand.New(rand.NewPCG(uint64(i), 7)))})
		c.begin(i)
	}
	c.retarget()
	c.settled(agents)
	t.Cleanup(func() {
		for i := range c.members {
			c.drain(i)
		}
	})
	return c
}

// begin starts an agent, on the disk that it had before.
func (c *cluster) begin(i int) {
	c.t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			c.t.Fatal(err)
		}
		return l
	}
	m := c.members[i]
	kafka, internal, admin := listen(), listen(), listen()
	m.kafka, m.log = kafka.Addr().String(), c.open(m.name)
	cfg := agent.Config{
		Name: m.name, Version: "test", Advertise: c.balancer.address(), AdvertiseMode: agent.AdvertiseProxy, Internal: internal.Addr().String(),
		AutoCreateTopics: true, DefaultPartitions: 6, WALBytes: 64 << 20, FlushInterval: 20 * time.Millisecond, RegistrationTTL: 2 * time.Second, DrainNotice: time.Millisecond, ConsumerHeartbeatInterval: 300 * time.Millisecond,
	}
	for _, f := range c.tune {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := agent.Start(ctx, cfg, agent.Components{
		Log: m.log, Bucket: c.bucket, FS: m.disk, WALDir: "/wal", Kafka: kafka, Internal: internal, HTTP: admin, Logger: c.logger.With("on", m.name),
	})
	if err != nil {
		c.t.Fatalf("start %s: %v", m.name, err)
	}
	m.Agent, m.stopped = a, false
}

// retarget tells the balancer who is there.
func (c *cluster) retarget() {
	var targets []string
	for _, m := range c.members {
		if !m.stopped {
			targets = append(targets, m.kafka)
		}
	}
	c.balancer.set(targets...)
}

// live are the agents that were not stopped.
func (c *cluster) live() (list []*member) {
	for _, m := range c.members {
		if !m.stopped {
			list = append(list, m)
		}
	}
	return list
}

// settled waits until every slot is owned, each agent has some, and all see that.
func (c *cluster) settled(agents int) {
	c.t.Helper()
	for _, m := range c.live() {
		c.await("slots are spread over "+m.name, func() bool {
			s := m.Cluster(context.Background())
			if len(s.Agents) != agents || s.SlotsUnowned > 0 {
				return false
			}
			for _, a := range s.Agents {
				if a.Slots == 0 {
					return false
				}
			}
			return true
		})
	}
}

func (c *cluster) await(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("timed out: %s", what)
		}
	}
}

// coordinator is the agent that coordinates a group.
func (c *cluster) coordinator(group string) (at int) {
	c.t.Helper()
	at = -1
	c.await("the group has a coordinator", func() bool {
		c.live()[0].Metastore().View(func(st *state.State) {
			if a, ok := st.AgentByIncarnation(st.Slot(state.SlotOf(group)).Owner); ok {
				at = slices.IndexFunc(c.members, func(m *member) bool { return m.name == a.Name && !m.stopped })
			}
		})
		return at >= 0
	})
	return at
}

// drain stops an agent in order, and reports how long that took.
func (c *cluster) drain(i int) time.Duration {
	m := c.members[i]
	if m.stopped {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	if err := m.Drain(ctx); err != nil {
		c.t.Errorf("drain %s: %v", m.name, err)
	}
	took := time.Since(began)
	m.stopped = true
	_ = m.log.Close()
	c.retarget()
	return took
}

// kill ends an agent as a crash would: its registration lives on, and its connections are cut.
func (c *cluster) kill(i int) {
	m := c.members[i]
	m.stopped = true
	_ = m.log.Close()
	m.Kill()
	c.retarget()
}

// client is a Kafka client that knows the balancer's address and ends with the test.
func (c *cluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.balancer.address()), kgo.MetadataMinAge(100 * time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.AllowAutoTopicCreation(), kgo.AlwaysRetryEOF(),
	}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}
