package balancer_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
)

// readyz is what a load balancer is told of an agent.
func (m *member) readyz(t *testing.T) (code int, h agent.Health) {
	t.Helper()
	resp, err := http.Get("http://" + m.HTTPAddr() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, h
}

// etcd goes away for all agents: none leaves service, all say what is wrong, and what was written is still read.
func TestAllAgentsStayReadyWithoutEtcd(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	server, err := etcdembed.Start(t.Context(), etcdembed.Options{Dir: t.TempDir(), UnsafeNoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	c := start(t, 3, func(string) log.Log {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		l, err := etcdlog.Open(ctx, etcdlog.Options{Endpoints: server.Endpoints()})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}, func(cfg *agent.Config) { cfg.WatchSilence = 500 * time.Millisecond })
	t.Cleanup(func() { // without etcd there is nothing to leave
		for i := range c.members {
			c.kill(i)
		}
	})
	for _, m := range c.members {
		c.await(m.name+" is ready", func() bool { code, h := m.readyz(t); return code == http.StatusOK && h.Degraded == "" })
	}
	producer := c.client(kgo.DefaultProduceTopic("t"))
	if err := producer.ProduceSync(t.Context(), kgo.StringRecord("before")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	// What one agent has acknowledged the others learn from etcd: it must not go before they have.
	var applied uint64
	for _, m := range c.members {
		_, h := m.readyz(t)
		applied = max(applied, h.Applied)
	}
	for _, m := range c.members {
		c.await(m.name+" has applied what was written", func() bool { _, h := m.readyz(t); return h.Applied >= applied })
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.members {
		c.await(m.name+" says what is wrong", func() bool { _, h := m.readyz(t); return strings.Contains(h.Degraded, "etcd") })
	}
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) { // longer than an agent may be behind another
		for _, m := range c.members {
			if code, h := m.readyz(t); code != http.StatusOK || !h.Ready {
				t.Fatalf("%s is out of service: %d %+v", m.name, code, h)
			}
		}
	}
	for range c.members {
		reader := c.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"t": {0: kgo.NewOffset().At(0), 1: kgo.NewOffset().At(0), 2: kgo.NewOffset().At(0),
			3: kgo.NewOffset().At(0), 4: kgo.NewOffset().At(0), 5: kgo.NewOffset().At(0)}}))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for got := ""; got != "before" && ctx.Err() == nil; {
			reader.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = string(r.Value) })
		}
		if ctx.Err() != nil {
			t.Error("what was written before is not read during the outage")
		}
		cancel()
	}
}
