package clean

import (
	"encoding/binary"
	"math/bits"
)

// digest is the 128-bit hash that stands for a record's key. Two keys with one digest would be taken for one, and the older one's
// records would be lost. That must not happen, by chance or because somebody wants it to:
//
//   - By chance: among n different keys the probability is below n²/2^129: 10^-19 for ten thousand million keys in a partition.
//   - On purpose: the hash is SipHash-2-4 with 128 bits, a pseudorandom function under a key of 128 random bits that is drawn for
//     every cleaning, is never stored and leaves the process in no form. Who does not know it can do no better than chance.
//     An unkeyed hash, such as the MD5 that Kafka's cleaner uses, lets anybody who may produce make collisions at home.
type digest struct{ hi, lo uint64 }

// hashKey is the secret of one cleaning.
type hashKey struct{ k0, k1 uint64 }

// newHashKey takes 16 random bytes.
func newHashKey(random [16]byte) hashKey {
	return hashKey{binary.LittleEndian.Uint64(random[:]), binary.LittleEndian.Uint64(random[8:])}
}

// sum is SipHash-2-4 with 128 bits of output (Aumasson and Bernstein; vectors of the reference code are in the test).
func (k hashKey) sum(b []byte) digest {
	v0 := k.k0 ^ 0x736f6d6570736575
	v1 := k.k1 ^ 0x646f72616e646f6d ^ 0xee
	v2 := k.k0 ^ 0x6c7967656e657261
	v3 := k.k1 ^ 0x7465646279746573
	last := uint64(len(b)) << 56
	for len(b) >= 8 {
		m := binary.LittleEndian.Uint64(b)
		b = b[8:]
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	for i, c := range b {
		last |= uint64(c) << (8 * i)
	}
	v3 ^= last
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= last

	v2 ^= 0xee
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	d := digest{hi: v0 ^ v1 ^ v2 ^ v3}
	v1 ^= 0xdd
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	d.lo = v0 ^ v1 ^ v2 ^ v3
	return d
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}
