package agent_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/metastore/entry"
)

func TestClusterStatusHasEveryAgent(t *testing.T) {
	c := newTeam(t)
	a := c.join("a", func(m *mate) { m.cfg.Zone = "z1" })
	b := c.join("b", func(m *mate) { m.cfg.Zone = "z2" })
	silent := c.join("silent", func(m *mate) {
		_ = m.parts.Internal.Close()
		m.parts.Internal, m.cfg.Internal = nil, ""
	})
	var s agent.ClusterStatus
	await(t, "a knows all, and the two that can be asked answer in time", func() bool {
		s = a.Cluster(t.Context())
		return len(s.Agents) == 3 && s.Agents[0].Status != nil && s.Agents[1].Status != nil && s.Agents[0].Status.Ready && s.Agents[1].Status.Ready
	})
	if s.ClusterID != a.Health().Cluster || s.AskedAgent != "a" || s.FeatureLevel == 0 || s.Applied == 0 {
		t.Errorf("cluster %+v", s)
	}
	for i, m := range []*mate{a, b} {
		of := s.Agents[i]
		if of.Name != m.cfg.Name || of.Zone != m.cfg.Zone || of.Status == nil || !of.Status.Ready || of.Status.NodeID != of.NodeID ||
			of.Listeners["kafka"] != m.cfg.Advertise || of.Listeners["internal"] != m.cfg.Internal || of.Error != "" || of.Status.Started.IsZero() {
			t.Errorf("agent %+v, %+v", of, of.Status)
		}
	}
	if of := s.Agents[2]; of.Name != silent.cfg.Name || of.Status != nil || !strings.Contains(of.Error, "no internal listener") {
		t.Errorf("the agent that cannot be asked: %+v", of)
	}
	var served agent.ClusterStatus
	n := &node{Agent: a.Agent, t: t}
	if code, body := n.get("/cluster"); code != 200 || json.Unmarshal([]byte(body), &served) != nil || len(served.Agents) != 3 {
		t.Errorf("%d %s", code, body)
	}
	n.client.CloseIdleConnections()
}

// An outage of the metastore takes nobody out of service; an agent that alone hears nothing is.
func TestReadinessAmongPeers(t *testing.T) {
	c := newTeam(t)
	const silence = 500 * time.Millisecond
	sharp := func(m *mate) { m.cfg.WatchSilence = silence }
	mates := []*mate{c.join("a", sharp), c.join("b", sharp), c.join("c", sharp)}
	cut := func(yes bool, which ...*mate) {
		for _, m := range which {
			f := partitioned
			f.Partitioned, f.PartitionRefuses = yes, yes
			m.log.SetFaults(f)
		}
	}
	cut(true, mates...)
	for _, m := range mates {
		await(t, "degraded", func() bool { return strings.Contains(m.Health().Degraded, "etcd") })
	}
	for until := time.Now().Add(6 * silence); time.Now().Before(until); { // an agent counts as behind after four
		for _, m := range mates {
			if h := m.Health(); !h.Ready {
				t.Fatalf("an outage of all takes an agent out of service: %+v", h)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	cut(false, mates...)
	for _, m := range mates {
		await(t, "well again", func() bool { return m.Health().Degraded == "" })
	}
	cut(true, mates[0])
	await(t, "the one that is cut off is not ready", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := mates[1].Metastore().Propose(ctx, &entry.Tick{}); err != nil {
			t.Fatal(err)
		}
		h := mates[0].Health()
		return !h.Ready && strings.Contains(h.Behind, "applied n=")
	})
	await(t, "the others are ready", func() bool { return mates[1].Health().Ready && mates[2].Health().Ready })
	cut(false, mates[0])
	await(t, "ready again", func() bool { return mates[0].Health().Ready })
}

// How far an agent is behind is judged by peers that hear from the metastore.
func TestBehind(t *testing.T) {
	const second = time.Second
	type seen struct {
		at           time.Duration
		peer         string
		theirs, ours uint64
		behind       bool
	}
	for name, events := range map[string][]seen{
		"in step":                {{0, "b", 5, 5, false}, {10 * second, "b", 9, 9, false}, {20 * second, "b", 12, 12, false}},
		"a little late all day":  {{0, "b", 5, 4, false}, {second, "b", 8, 7, false}, {9 * second, "b", 20, 19, false}, {18 * second, "b", 30, 29, false}},
		"stuck":                  {{0, "b", 5, 4, false}, {3 * second, "b", 50, 4, false}, {7 * second, "b", 60, 4, true}, {8 * second, "b", 70, 70, false}},
		"stuck, then some":       {{0, "b", 5, 4, false}, {7 * second, "b", 60, 4, true}, {8 * second, "b", 70, 50, false}, {15 * second, "b", 80, 50, true}},
		"nobody hears anything":  {{0, "b", 5, 4, false}, {3 * second, "", 0, 4, false}, {20 * second, "", 0, 4, false}},
		"nobody, after a while":  {{0, "b", 5, 4, false}, {7 * second, "b", 5, 4, true}, {8 * second, "", 0, 4, false}},
		"ahead of all that talk": {{0, "b", 5, 9, false}, {20 * second, "b", 5, 9, false}},
	} {
		saw, cause := agent.Behind()
		start := time.Now()
		for i, e := range events {
			saw(start.Add(e.at), e.peer, e.theirs, e.ours)
			if got := cause(); (got != "") != e.behind {
				t.Errorf("%s, step %d: %q", name, i, got)
			}
		}
	}
}
