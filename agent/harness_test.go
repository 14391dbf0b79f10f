package agent_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/wal/walfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait: reaching it is a failure.
const patience = 2 * time.Minute

// node is a whole agent in this process.
type node struct {
	*agent.Agent
	t      testing.TB
	store  *memlog.Store
	kafka  string
	client http.Client
}

// setup is what a test may change before an agent starts.
type setup struct {
	cfg    agent.Config
	parts  agent.Components
	store  *memlog.Store
	bucket objstore.Bucket
	log    log.Log
}

// prepare is what an agent needs.
func prepare(t testing.TB, tune ...func(*setup)) *setup {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	kafka := listen()
	s := &setup{store: memlog.NewStore(memlog.Config{}), bucket: mem.New()}
	s.cfg = agent.Config{Name: "a", Version: "test", Advertise: kafka.Addr().String(), WALBytes: 64 << 20, AutoCreateTopics: true}
	s.parts = agent.Components{
		Kafka: kafka, HTTP: listen(), FS: walfs.New(rand.New(rand.NewPCG(1, 2))), WALDir: "wal", Scratch: duty.InMemory(1 << 30),
	}
	s.log = s.store.Open("a")
	for _, f := range tune {
		f(s)
	}
	s.parts.Log, s.parts.Bucket = s.log, s.bucket
	return s
}

func start(t testing.TB, tune ...func(*setup)) *node {
	t.Helper()
	s := prepare(t, tune...)
	a, err := agent.Start(t.Context(), s.cfg, s.parts)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Agent: a, t: t, store: s.store, kafka: s.parts.Kafka.Addr().String()}
	t.Cleanup(func() {
		n.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := a.Drain(ctx); err != nil {
			t.Errorf("drain: %v", err)
		}
		_ = s.store.Close()
	})
	return n
}

// team is agents of one cluster in this process, on a metastore and a bucket in memory.
type team struct {
	t      testing.TB
	store  *memlog.Store
	bucket *mem.Bucket
}

func newTeam(t testing.TB) *team {
	t.Helper()
	c := &team{t: t, store: memlog.NewStore(memlog.Config{}), bucket: mem.New()}
	t.Cleanup(func() { _ = c.store.Close() })
	return c
}

// mate is an agent of a team and what it runs on.
type mate struct {
	*agent.Agent
	cfg   agent.Config
	parts agent.Components
	log   *memlog.Log
	disk  *walfs.FS
}

// listen waits for an address that is taken: one that an agent had and gave up may be another program's for a while.
func listen(t testing.TB, address string) (l net.Listener) {
	t.Helper()
	await(t, "listen at "+address, func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil
	})
	return l
}

// begin starts an agent of the team; it is drained with the test.
func (c *team) begin(name string, tune ...func(*mate)) (*mate, error) {
	c.t.Helper()
	kafka, internal := listen(c.t, "127.0.0.1:0"), listen(c.t, "127.0.0.1:0")
	m := &mate{log: c.store.Open(name), disk: walfs.New(rand.New(rand.NewPCG(1, rand.Uint64())))}
	m.cfg = agent.Config{
		Name: name, Version: "test", Advertise: kafka.Addr().String(), Internal: internal.Addr().String(), WALBytes: 64 << 20, AutoCreateTopics: true,
	}
	m.parts = agent.Components{Kafka: kafka, Internal: internal, HTTP: listen(c.t, "127.0.0.1:0"), FS: m.disk, WALDir: "wal", Scratch: duty.InMemory(1 << 30), Bucket: c.bucket, Log: m.log}
	for _, f := range tune {
		f(m)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	a, err := agent.Start(ctx, m.cfg, m.parts)
	if err != nil {
		_, _ = kafka.Close(), internal.Close()
		return m, err
	}
	m.Agent = a
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := a.Drain(ctx); err != nil {
			c.t.Errorf("drain %s: %v", name, err)
		}
	})
	return m, nil
}

// join is begin where it must succeed.
func (c *team) join(name string, tune ...func(*mate)) *mate {
	c.t.Helper()
	m, err := c.begin(name, tune...)
	if err != nil {
		c.t.Fatalf("start %s: %v", name, err)
	}
	return m
}

// get answers a GET of the agent's HTTP.
func (n *node) get(path string) (int, string) {
	n.t.Helper()
	resp, err := n.client.Get("http://" + n.HTTPAddr() + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// await waits until ok says so.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out: %s", what)
		}
	}
}
