// Package rendezvous is the hash by which agents agree, without a word, on which of them a thing belongs to: each gives every
// node a weight for the thing's key, and the heaviest has it. Where a node comes or goes, only what it has or had moves.
//
// It places leaders, shared reads and background work. Agents of all versions have to agree on it; where they do not, work is
// done twice, and nothing else goes wrong.
//
// Source: D. Thaler and C. Ravishankar, "Using name-based mappings to increase hit rates", 1998 (highest random weight).
package rendezvous

import "encoding/binary"

// Mix is the finaliser of splitmix64.
func Mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// Key is the key of a 16-byte id, such as a topic's or an incarnation, and of what is numbered below it.
func Key(id [16]byte, numbers ...uint64) uint64 {
	k := Mix(binary.BigEndian.Uint64(id[:8]))
	k = Mix(k ^ binary.BigEndian.Uint64(id[8:]))
	for _, n := range numbers {
		k = Mix(k ^ n)
	}
	return k
}

// Weight orders nodes for a key: the highest is chosen.
func Weight(key uint64, node int32) uint64 { return Mix(key ^ Mix(uint64(uint32(node))+1)) }
