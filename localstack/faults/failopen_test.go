//go:build interop

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/localstack"
)

// newReader is a client that was not there before, knows the load balancer's address alone, and reads n records of a partition from an
// offset that it remembers.
func newReader(ctx context.Context, t *testing.T, brokers, topic string, from int64, n int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.AlwaysRetryEOF(), kgo.FetchMaxWait(time.Second),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(from)}}))
	must(t, err)
	defer cl.Close()
	for next := from; next < from+int64(n); {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("read up to offset %d: %v", next, errors.Join(fetches.Err(), context.Cause(ctx)))
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset != next || string(r.Value) != fmt.Sprint(next) {
				t.Fatalf("record %q at offset %d, want %d", r.Value, r.Offset, next)
			}
			next++
		})
	}
}

// TestTheLoadBalancerFailsOpen: where etcd is gone, agents are degraded and stay in service; where no check passes, they get clients all
// the same. Clients that come then are served what was ordered before.
func TestTheLoadBalancerFailsOpen(t *testing.T) {
	s := start(t, nil)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Minute, fmt.Errorf("3 minutes passed"))
	defer cancel()
	const records = 100
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.HAProxy.Kafka), kgo.AlwaysRetryEOF(), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("kept"))
	must(t, err)
	defer cl.Close()
	for i := range records {
		must(t, cl.ProduceSync(ctx, &kgo.Record{Value: fmt.Append(nil, i)}).FirstErr())
	}
	up := map[string]string{"a1": "UP", "a2": "UP", "a3": "UP"}
	down := map[string]string{"a1": "DOWN", "a2": "DOWN", "a3": "DOWN"}
	must(t, s.HAProxy.AwaitServers(ctx, up))

	for _, m := range s.Members {
		must(t, m.Kill())
	}
	for _, a := range s.Agents {
		until(ctx, t, a.Name()+" is degraded and ready", func() bool { h := health(ctx, t, a); return h.Degraded != "" && h.Ready })
	}
	must(t, s.HAProxy.AwaitServers(ctx, up))
	newReader(ctx, t, s.HAProxy.Kafka, "kept", 0, records)

	for _, a := range s.Agents {
		s.Network.Set("haproxy", a.Name()+".http", localstack.Rule{Refuse: true})
	}
	must(t, s.HAProxy.AwaitServers(ctx, down))
	newReader(ctx, t, s.HAProxy.Kafka, "kept", records/2, records/2)

	s.Network.Heal()
	for _, m := range s.Members {
		must(t, m.Start())
	}
	must(t, s.HAProxy.AwaitServers(ctx, up))
	must(t, cl.ProduceSync(ctx, &kgo.Record{Value: fmt.Append(nil, records)}).FirstErr())
	newReader(ctx, t, s.HAProxy.Kafka, "kept", records, 1)
}

type healthAnswer struct {
	Ready    bool   `json:"ready"`
	Degraded string `json:"degraded"`
}

func health(ctx context.Context, t *testing.T, a *localstack.Agent) (h healthAnswer) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.HTTP+"/readyz", nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	must(t, json.NewDecoder(resp.Body).Decode(&h))
	return h
}
