package batch

import "encoding/binary"

// StampBase writes the base offset and leader epoch, which the CRC does not cover.
// Requires: raw starts with a batch.
func StampBase(raw []byte, baseOffset int64, leaderEpoch int32) {
	_ = raw[HeaderSize-1]
	binary.BigEndian.PutUint64(raw, uint64(baseOffset))
	binary.BigEndian.PutUint32(raw[posLeaderEpoch:], uint32(leaderEpoch))
}

// StampLogAppendTime marks the batch as LogAppendTime and writes ts (ms) as its max timestamp, which then stands for the
// timestamp of every record. The CRC is patched in time that does not depend on the batch's size (it grows with the
// logarithm of it): a batch that was intact stays so, and one that was damaged is still found out.
// Requires: raw is exactly one batch.
func StampLogAppendTime(raw []byte, ts int64) {
	_ = raw[HeaderSize-1]
	stamp(raw, binary.BigEndian.Uint16(raw[posAttributes:])|attrLogAppendTime, ts)
}

// StampMaxTimestamp writes ts (ms) as the max timestamp and patches the CRC. It corrects a producer's wrong header as
// Kafka does; where the header was right, as nearly all are, it changes nothing and costs a comparison.
// Requires: raw is exactly one batch.
func StampMaxTimestamp(raw []byte, ts int64) {
	_ = raw[HeaderSize-1]
	if binary.BigEndian.Uint64(raw[posMaxTimestamp:]) == uint64(ts) {
		return
	}
	stamp(raw, binary.BigEndian.Uint16(raw[posAttributes:]), ts)
}

// stamp replaces attributes and max timestamp.
//
// CRCs are linear over GF(2): for messages a and b of one length, crc(a) xor crc(b) is the plain remainder (no initial
// value, no final complement) of a xor b. Here a xor b is zero except in the 22 bytes from the attributes to the end of
// the max timestamp, so its remainder is that of those bytes, advanced over as many zero bytes as follow them.
func stamp(raw []byte, attributes uint16, maxTimestamp int64) {
	const size = posMaxTimestamp + 8 - posAttributes
	field := raw[posAttributes : posAttributes+size]
	var before [size]byte
	copy(before[:], field)
	binary.BigEndian.PutUint16(field, attributes)
	binary.BigEndian.PutUint64(field[posMaxTimestamp-posAttributes:], uint64(maxTimestamp))
	// By table and not crc32.Update: that is slower on so few bytes, and makes them escape to the heap.
	var r uint32
	for i := range before {
		r = castagnoli[byte(r)^before[i]^field[i]] ^ r>>8
	}
	if r == 0 { // nothing changed
		return
	}
	r = multiply(zeros(len(raw)-posAttributes-size), r)
	crc := raw[posCRC:posAttributes]
	binary.BigEndian.PutUint32(crc, binary.BigEndian.Uint32(crc)^r)
}

// Polynomials over GF(2) modulo the CRC32C polynomial, as zlib's crc32_combine does them: bit 31 is the coefficient of
// x^0, bit 0 that of x^31.
const (
	castagnoliPoly = 0x82f63b78
	one            = 1 << 31
)

// multiply returns a·b.
func multiply(a, b uint32) uint32 {
	var p uint32
	for m := uint32(one); m != 0; m >>= 1 {
		if a&m != 0 {
			p ^= b
			if a&(m-1) == 0 {
				break
			}
		}
		// b·x
		if b&1 != 0 {
			b = b>>1 ^ castagnoliPoly
		} else {
			b >>= 1
		}
	}
	return p
}

// zeros returns the operator that advances a remainder over n zero bytes: x^(8n).
func zeros(n int) uint32 {
	p := uint32(one)
	for k := 3; n > 0; n, k = n>>1, k+1 {
		if n&1 != 0 {
			p = multiply(powers[k%len(powers)], p)
		}
	}
	return p
}

// powers[k] is x^(2^k). The polynomial is (x+1) times a primitive one of degree 31, so x^(2^31) is x again.
var powers = [31]uint32{
	0x40000000, 0x20000000, 0x08000000, 0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c, 0x18b8ea18,
	0x510ac59a, 0xb82be955, 0xb8fdb1e7, 0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a, 0x35d73a62,
	0x28461564, 0xbf455269, 0xe2ea32dc, 0xfe7740e6, 0xf946610b, 0x3c204f8f, 0x538586e3, 0x59726915,
	0x734d5309, 0xbc1ac763, 0x7d0722cc, 0xd289cabe, 0xe94ca9bc, 0x05b74f3f, 0xa51e1f42,
}
