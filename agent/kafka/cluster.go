package kafka

import (
	"context"
	"slices"
	"sync"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/rendezvous"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// node is a live agent as clients see it.
type node struct {
	id       int32
	listener string // that the address is of
	host     string
	port     int32
	zone     string
}

// audience is whom an answer is for, as far as that makes a difference to it.
type audience struct {
	listener string // that its connection came by
	zone     string // where it is; "" where that is not known
	// balancer is the one broker that clients behind a load balancer see; nil where they see the agents.
	balancer *node
}

// audience is who sent the request.
func (r *request) audience() audience {
	return audience{listener: r.conn.listener, zone: r.zone(), balancer: r.conn.s.balancers[r.conn.listener]}
}

// balancerID is the node id of a load balancer. No agent has it.
const balancerID = 0

// self is the id under which the audience knows the agent of this id.
func (who audience) self(nodeID int32) int32 {
	if who.balancer != nil {
		return balancerID
	}
	return nodeID
}

// nodes returns the joined agents that have an address on the audience's listener, by id: to who came by another network, an
// agent without one there is as good as dead. To who came by a load balancer they are one.
func (who audience) nodes(st *state.State) []node {
	if who.balancer != nil {
		return []node{*who.balancer}
	}
	agents := st.Agents()
	list := make([]node, 0, len(agents))
	for i := range agents {
		for _, l := range agents[i].Listeners {
			if l.Name == who.listener {
				list = append(list, node{id: agents[i].NodeID, listener: l.Name, host: l.Host, port: int32(l.Port), zone: agents[i].Zone})
				break
			}
		}
	}
	return list
}

// controller is the live agent of the lowest id, -1 where there is none.
func controller(nodes []node) int32 {
	if len(nodes) == 0 {
		return -1
	}
	return nodes[0].id
}

// rack is a node's zone as the protocol has it: absent where unknown.
func (n node) rack() *string {
	if n.zone == "" {
		return nil
	}
	return &n.zone
}

// partitionKey is what rendezvous hashing spreads.
func partitionKey(topic entry.UUID, partition int32) uint64 {
	return rendezvous.Key(topic, uint64(uint32(partition)))
}

// choose returns the node chosen for key among those that ok accepts.
func choose(key uint64, nodes []node, ok func(node) bool) (node, bool) {
	var best node
	var bestWeight uint64
	found := false
	for _, n := range nodes {
		if !ok(n) {
			continue
		}
		if w := rendezvous.Weight(key, n.id); !found || w > bestWeight {
			best, bestWeight, found = n, w, true
		}
	}
	return best, found
}

func anyNode(node) bool { return true }

// assigned are the ids that a partition was given by hand.
func (t *topicView) assigned(partition int32) []int32 {
	if int(partition) < len(t.assignment) {
		return t.assignment[partition].Nodes
	}
	return nil
}

// leader is the id of the partition's leader for clients of a zone, -1 where no agent is live; the package doc says how it is
// chosen.
func (t *topicView) leader(partition int32, nodes []node, zone string) int32 {
	if len(nodes) == 0 {
		return -1
	}
	key, assigned := partitionKey(t.id, partition), t.assigned(partition)
	byHand := func(n node) bool { return slices.Contains(assigned, n.id) }
	for _, ok := range [...]func(node) bool{
		func(n node) bool { return zone != "" && n.zone == zone && byHand(n) }, byHand,
		func(n node) bool { return zone != "" && n.zone == zone },
	} {
		if leader, found := choose(key, nodes, ok); found {
			return leader.id
		}
	}
	leader, _ := choose(key, nodes, anyNode)
	return leader.id
}

// replicas returns the leader of a partition for clients of a zone and the ids reported for it; the package doc says how they
// are chosen. -1 and none where no agent is live.
func (t *topicView) replicas(partition int32, nodes []node, zone string) (int32, []int32) {
	if len(nodes) == 0 {
		return -1, nil
	}
	key, leader := partitionKey(t.id, partition), t.leader(partition, nodes, zone)
	if assigned := t.assigned(partition); len(assigned) > 0 {
		return leader, assigned
	}
	want := min(max(t.replication, 1), state.MaxReplicas)
	ids := append(make([]int32, 0, want), leader)
	if want > 1 {
		ids = t.spread(key, nodes, ids, min(want, len(nodes)))
	}
	for id := int32(1); len(ids) < want; id++ {
		if !slices.ContainsFunc(nodes, func(n node) bool { return n.id == id }) {
			ids = append(ids, id)
		}
	}
	return leader, ids
}

// spread adds replicas to the leader until there are want: as long as there are zones without one from these, then from all.
// A consumer that says where it is can so be sent to one near it.
func (t *topicView) spread(key uint64, nodes []node, ids []int32, want int) []int32 {
	fresh := func(n node) bool { return !slices.Contains(ids, n.id) }
	var zones []string
	add := func(n node) {
		if !slices.Contains(zones, n.zone) {
			zones = append(zones, n.zone)
		}
	}
	for _, n := range nodes {
		if !fresh(n) {
			add(n)
		}
	}
	for len(ids) < want {
		next, ok := choose(key, nodes, func(n node) bool { return fresh(n) && !slices.Contains(zones, n.zone) })
		if !ok {
			next, _ = choose(key, nodes, fresh)
		}
		ids = append(ids, next.id)
		add(next)
	}
	return ids
}

// topicView is what handlers need of a topic, good beyond the read lock: its slices are never modified.
type topicView struct {
	id          entry.UUID
	name        string
	partitions  int32
	replication int // factor, as asked for
	assignment  []entry.Replicas
	configs     []entry.Config // its own
	cluster     []entry.Config // of all brokers
	epochs      []int32        // leader epochs, by partition; nil where all are 0
}

func (t *topicView) leaderEpoch(partition int32) int32 {
	if int(partition) < len(t.epochs) {
		return t.epochs[partition]
	}
	return 0
}

func viewTopic(st *state.State, t *state.Topic) topicView {
	return topicView{
		id: t.ID, name: t.Name, partitions: int32(t.Partitions()), replication: int(t.ReplicationFactor),
		assignment: t.Assignment, configs: t.Configs, cluster: st.BrokerConfigs(),
	}
}

// viewTopicEpochs is viewTopic with the leader epochs, for those who tell them. It looks at every partition: too much for a
// produce, and in a log that was never restored, for nothing.
func viewTopicEpochs(st *state.State, t *state.Topic) topicView {
	view := viewTopic(st, t)
	if st.Identity().Epoch > 1 {
		view.epochs = make([]int32, view.partitions)
		for i := range view.epochs {
			view.epochs[i] = t.Partition(i).LeaderEpoch()
		}
	}
	return view
}

// getter looks up a config in a list sorted by name.
func getter(list []entry.Config) topicconfig.Get {
	return func(name string) (string, bool) {
		for i := range list {
			if list[i].Name == name {
				return list[i].Value, true
			}
		}
		return "", false
	}
}

// fresh runs look under the read lock; where look says that something is missing, it takes a barrier and runs look again.
// It returns nil where nothing is missing or what is missing is proven not to be there, else the barrier's error.
func (s *Server) fresh(ctx context.Context, look func(*state.State) (complete bool)) error {
	complete := false
	s.meta.View(func(st *state.State) { complete = look(st) })
	if complete {
		return nil
	}
	if err := s.barrier(ctx); err != nil {
		return err
	}
	s.meta.View(func(st *state.State) { look(st) })
	return nil
}

// settingsCache keeps parsed settings for as long as the configs they come from are in force. The zero value is ready.
type settingsCache struct {
	mu     sync.RWMutex // guards topics
	topics map[entry.UUID]cachedSettings
}

type cachedSettings struct {
	topic, cluster configsIdentity
	settings       topicconfig.Settings
}

// configsIdentity tells two lists apart: the state replaces lists and never changes one.
type configsIdentity struct {
	first *entry.Config
	size  int
}

func identify(list []entry.Config) configsIdentity {
	if len(list) == 0 {
		return configsIdentity{}
	}
	return configsIdentity{&list[0], len(list)}
}

// cachedTopicsMax bounds the cache; past it, it starts anew.
const cachedTopicsMax = 100_000

// settings returns what is in force for the topic.
func (c *settingsCache) settings(t *topicView) topicconfig.Settings {
	topic, cluster := identify(t.configs), identify(t.cluster)
	c.mu.RLock()
	have, ok := c.topics[t.id]
	c.mu.RUnlock()
	if ok && have.topic == topic && have.cluster == cluster {
		return have.settings
	}
	parsed := topicconfig.Parse(getter(t.configs), getter(t.cluster))
	c.mu.Lock()
	if c.topics == nil || len(c.topics) >= cachedTopicsMax {
		c.topics = make(map[entry.UUID]cachedSettings)
	}
	c.topics[t.id] = cachedSettings{topic, cluster, parsed}
	c.mu.Unlock()
	return parsed
}
