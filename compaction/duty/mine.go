package duty

import (
	"hash/fnv"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/rendezvous"
	"github.com/firnlog/firn/metastore/state"
)

// TerritoryPartitions is how many neighbouring partitions of a topic one agent looks after.
const TerritoryPartitions = 64

// Mine reports whether the piece of work with this key is the agent's: it has the highest weight among those joined. An
// agent that has not joined has none.
func Mine(st *state.State, self [16]byte, key uint64) bool {
	me, joined := st.AgentByIncarnation(self)
	if !joined {
		return false
	}
	mine := rendezvous.Weight(key, me.NodeID)
	for _, other := range st.Agents() {
		w := rendezvous.Weight(key, other.NodeID)
		if w > mine || w == mine && other.NodeID < me.NodeID {
			return false
		}
	}
	return true
}

// Object is the key of a level-0 object.
func Object(id entry.ObjectID) uint64 {
	return rendezvous.Key(id.Incarnation, id.Seq)
}

// Territory is the key of everything that happens to a partition's merged data.
func Territory(topic entry.UUID, partition int32) uint64 {
	return rendezvous.Key(topic, uint64(partition/TerritoryPartitions))
}

// Name is the key of a duty of which there is one in a cluster.
func Name(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return rendezvous.Mix(h.Sum64())
}
