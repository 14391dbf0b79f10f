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
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/wal/walfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait: reaching it is a failure.
const patience = 30 * time.Second

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

func start(t testing.TB, tune ...func(*setup)) *node {
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
		Kafka: kafka, HTTP: listen(), FS: walfs.New(rand.New(rand.NewPCG(1, 2))), WALDir: "wal",
	}
	s.log = s.store.Open("a")
	for _, f := range tune {
		f(s)
	}
	s.parts.Log, s.parts.Bucket = s.log, s.bucket
	a, err := agent.Start(t.Context(), s.cfg, s.parts)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Agent: a, t: t, store: s.store, kafka: kafka.Addr().String()}
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
