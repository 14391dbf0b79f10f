package rendezvous_test

import (
	"testing"

	"github.com/firnlog/firn/metastore/rendezvous"
)

// TestWeightsStay: agents of all versions compute the same.
func TestWeightsStay(t *testing.T) {
	key := rendezvous.Key([16]byte{1, 2, 3, 15: 4}, 7)
	if got := [...]uint64{key, rendezvous.Weight(key, 1), rendezvous.Weight(key, 2)}; got != [...]uint64{0xaa2951efe0e14f01, 0x67dfa0f44b74fd92, 0xd74235edb0b90ee} {
		t.Errorf("%#x", got)
	}
}

func TestKeysSpreadAndOnlyWhatANodeHadMoves(t *testing.T) {
	const keys, nodes = 10_000, 5
	pick := func(key uint64, without int32) (best int32) {
		var most uint64
		for n := int32(1); n <= nodes; n++ {
			if w := rendezvous.Weight(key, n); n != without && w >= most {
				best, most = n, w
			}
		}
		return best
	}
	var have [nodes + 1]int
	for i := range uint64(keys) {
		key := rendezvous.Key([16]byte{9}, i)
		all, less := pick(key, 0), pick(key, 3)
		have[all]++
		if all != 3 && all != less {
			t.Fatalf("key %d moved from %d to %d when 3 left", i, all, less)
		}
	}
	for n := 1; n <= nodes; n++ {
		if have[n] < keys/nodes*9/10 || have[n] > keys/nodes*11/10 {
			t.Errorf("node %d has %d of %d keys", n, have[n], keys)
		}
	}
}
