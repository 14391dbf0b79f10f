package agent

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/state"
)

// Status is what an agent says of itself, to operators and to its peers.
type Status struct {
	Health
	Zone    string `json:"zone"`
	Version string `json:"version"`
	// AdvertiseMode is how clients see it; "" where an older agent does not say.
	AdvertiseMode AdvertiseMode `json:"advertise_mode"`
	Started       time.Time     `json:"started"`
	Connections   int           `json:"connections"`
	Unanswered    int           `json:"unanswered"` // requests that were read, long polls among them
	// EtcdWell: it hears from the metastore.
	EtcdWell bool `json:"etcd_well"`
}

// Status says how the agent is.
func (a *Agent) Status() Status {
	s := Status{Health: a.Health(), Zone: a.cfg.Zone, Version: a.cfg.Version, AdvertiseMode: a.cfg.AdvertiseMode, Started: a.started}
	if a.state.Load() == starting || a.meta == nil {
		return s
	}
	s.EtcdWell = a.meta.Degraded() == ""
	s.Connections, s.Unanswered = a.kafka.Connections(), a.kafka.Unanswered()
	return s
}

// ClusterStatus is the cluster as one agent sees it, with what each says of itself.
type ClusterStatus struct {
	ClusterID    string        `json:"cluster_id"`
	FeatureLevel uint32        `json:"feature_level"`
	Applied      uint64        `json:"applied_n"` // here
	Topics       int           `json:"topics"`
	Groups       int           `json:"groups"`
	AskedAgent   string        `json:"asked_agent"` // whose view this is
	Agents       []AgentStatus `json:"agents"`
	// SlotsUnowned is how many coordinator slots no live agent owns.
	SlotsUnowned int `json:"slots_unowned"`
	// Etcd is what the metastore's members say of themselves, by endpoint, or why that is not known.
	Etcd      []EtcdMember `json:"etcd"`
	EtcdError string       `json:"etcd_error,omitempty"`
}

// AgentStatus is one joined agent.
type AgentStatus struct {
	NodeID          int32             `json:"node_id"`
	Name            string            `json:"name"`
	Incarnation     string            `json:"incarnation"`
	Zone            string            `json:"zone"`
	Version         string            `json:"version"`
	Listeners       map[string]string `json:"listeners"` // advertised addresses by name
	Slots           int               `json:"slots"`     // that it owns
	MaxFeatureLevel uint32            `json:"max_feature_level"`
	// Status is what it answered; nil where it did not, and Error says why.
	Status *Status `json:"status,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// EtcdMember is one endpoint of the metastore.
type EtcdMember struct {
	Endpoint string            `json:"endpoint"`
	Is       map[string]string `json:"is"`
}

// askTimeout bounds a question to a peer about how it is.
const askTimeout = 2 * time.Second

// Cluster asks every agent how it is.
func (a *Agent) Cluster(ctx context.Context) ClusterStatus {
	c := ClusterStatus{AskedAgent: a.cfg.Name, Agents: []AgentStatus{}, Etcd: []EtcdMember{}}
	if a.state.Load() == starting || a.meta == nil {
		c.EtcdError = "the agent is starting"
		return c
	}
	c.ClusterID = a.meta.ClusterID()
	a.meta.View(func(st *state.State) {
		c.FeatureLevel, c.Applied, c.Topics, c.Groups = st.FeatureLevel(), st.N(), st.TopicCount(), st.GroupCount()
		slots := make(map[[16]byte]int)
		for i := range state.Slots {
			slots[st.Slot(i).Owner]++
		}
		c.SlotsUnowned = state.Slots
		for _, joined := range st.Agents() {
			s := AgentStatus{
				NodeID: joined.NodeID, Name: joined.Name, Incarnation: hex.EncodeToString(joined.Incarnation[:]), Zone: joined.Zone, Version: joined.Version,
				Listeners: make(map[string]string), Slots: slots[joined.Incarnation], MaxFeatureLevel: joined.MaxFeatureLevel,
			}
			for _, l := range joined.Listeners {
				s.Listeners[l.Name] = net.JoinHostPort(l.Host, strconv.Itoa(int(l.Port)))
			}
			c.SlotsUnowned -= s.Slots
			c.Agents = append(c.Agents, s)
		}
	})
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for i := range c.Agents {
		asked.Go(func() {
			s := &c.Agents[i]
			if status, err := a.askPeer(ctx, s.NodeID); err != nil {
				s.Error = err.Error()
			} else {
				s.Status = &status
			}
		})
	}
	asked.Go(func() { c.Etcd, c.EtcdError = a.etcdMembers(ctx) })
	asked.Wait()
	return c
}

// askPeer asks an agent how it is.
func (a *Agent) askPeer(ctx context.Context, node int32) (s Status, err error) {
	switch {
	case node == a.meta.NodeID():
		return a.Status(), nil
	case a.peers == nil:
		return s, fmt.Errorf("agent %q has no internal listener, and asks nobody", a.cfg.Name)
	}
	err = a.peers.Status(ctx, node, &s)
	return s, err
}

// etcdMembers sorts what the metastore says by endpoint.
func (a *Agent) etcdMembers(ctx context.Context) ([]EtcdMember, string) {
	said, err := a.log.Status(ctx)
	by := make(map[string]map[string]string)
	for key, value := range said {
		if endpoint, what, ok := cutLast(key, ' '); ok {
			if by[endpoint] == nil {
				by[endpoint] = make(map[string]string)
			}
			by[endpoint][what] = value
		}
	}
	members := make([]EtcdMember, 0, len(by))
	for _, endpoint := range slices.Sorted(maps.Keys(by)) {
		members = append(members, EtcdMember{endpoint, by[endpoint]})
	}
	if err != nil {
		return members, err.Error()
	}
	return members, ""
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == sep {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

const (
	// peersInterval is how often an agent asks peers how far they are, and peersAsked how many of them.
	peersInterval = time.Second
	peersAsked    = 5
)

// behindPatience is how long an agent may take to apply what a peer has applied. It is more than it takes to find out that
// nothing is heard from the metastore: in an outage that all share nobody counts as behind.
func (c *Config) behindPatience() time.Duration { return 4 * c.WatchSilence }

// behind tells whether this agent has not applied for a while what others have. A peer that hears nothing from the metastore
// says nothing: where all are cut off, whoever happens to have heard an entry more must not take the others out of service.
type behind struct {
	patience time.Duration

	mu   sync.Mutex // guards the rest
	mark uint64     // what a peer had applied
	of   string     // which
	at   time.Time  // when this agent was seen to lack it; zero: it is not known to lack anything
	why  string
}

// saw takes what well peers have applied, "" where none is known, and what this agent has.
func (b *behind) saw(now time.Time, peer string, theirs, ours uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case peer == "", ours >= b.mark && ours >= theirs:
		b.mark, b.of, b.at, b.why = 0, "", time.Time{}, ""
		return
	case b.at.IsZero(), ours >= b.mark:
		b.mark, b.of, b.at, b.why = theirs, peer, now, ""
	}
	if late := now.Sub(b.at); late >= b.patience {
		b.why = fmt.Sprintf("agent %q applied n=%d %v ago, this one is at n=%d", b.of, b.mark, late.Round(time.Second), ours)
	}
}

// cause says why the agent is behind, or "".
func (b *behind) cause() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.why
}

// watchPeers asks some peers every now and then how far they are, until ctx ends.
func (a *Agent) watchPeers(ctx context.Context) {
	if a.peers == nil {
		return
	}
	ticker := time.NewTicker(peersInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		var nodes []int32 // of the others
		a.meta.View(func(st *state.State) {
			for _, other := range st.Agents() {
				if other.NodeID != a.meta.NodeID() {
					nodes = append(nodes, other.NodeID)
				}
			}
		})
		there := slices.Clone(nodes)
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		bounded, cancel := context.WithTimeout(ctx, askTimeout)
		var asked sync.WaitGroup
		answers := make([]Status, min(len(nodes), peersAsked))
		for i := range answers {
			asked.Go(func() {
				if s, err := a.askPeer(bounded, nodes[i]); err == nil && s.EtcdWell && s.Cluster == a.meta.ClusterID() {
					answers[i] = s
				}
			})
		}
		asked.Wait()
		cancel()
		a.modes.saw(there, answers)
		furthest := Status{}
		for _, s := range answers {
			if s.Agent != "" && (furthest.Agent == "" || s.Applied > furthest.Applied) {
				furthest = s
			}
		}
		a.behind.saw(time.Now(), furthest.Agent, furthest.Applied, a.meta.Applied())
	}
}
