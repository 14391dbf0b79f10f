package batch

import (
	"encoding/binary"
	"errors"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Bounds of what a batch may decompress to by its own size, beside Limits.MaxDecompressedBytes: a few bytes of zstd stand for
// any number of equal ones, and whoever has them decompressed spends nothing on it. Real batches of hundreds of times their
// size are well within.
const (
	ratioMax   = 1024
	ratioSlack = 16 << 20
)

// decompressedMax is how much of a payload's output is looked at.
func decompressedMax(payload int, limit int64) int64 {
	return min(limit, ratioSlack+ratioMax*int64(payload))
}

// DecompressRoom is about how much memory Validate takes for a batch, from what the batch declares and nothing decompressed:
// 0 for one that is not compressed. Where the batch is none, the answer is 0 too, as Validate refuses it first.
func DecompressRoom(raw []byte, lim Limits) int64 {
	h, err := ParseHeader(raw)
	if err != nil {
		return 0
	}
	payload := raw[HeaderSize:]
	limit := decompressedMax(len(payload), lim.withDefaults().MaxDecompressedBytes)
	switch h.Codec() {
	case CodecGzip:
		return windowSize + 64<<10
	case CodecSnappy:
		return windowSize + min(snappyBlock(payload), limit)
	case CodecLZ4:
		const descriptor, sizes = 5, 7
		if len(payload) <= descriptor {
			return 0
		}
		block := int64(1) << (8 + 2*(payload[descriptor]>>4&sizes)) // 4 to 7 are 64 KiB to 4 MiB
		return windowSize + 2*min(block, 4<<20)
	case CodecZstd:
		window, err := zstdWindow(payload)
		switch {
		case err != nil:
			return windowSize
		case window > zstdWindowMax: // decoded whole, into a buffer that doubles
			return 2 * limit
		}
		return windowSize + int64(window) + 512<<10
	}
	return 0
}

// snappyBlock is the size of the largest block, as declared and as far as that is possible.
func snappyBlock(payload []byte) (largest int64) {
	var r snappyReader
	if r.reset(payload, 0) != nil {
		return 0
	}
	for more := true; more; more = r.framed && len(r.in) >= 4 {
		block := r.in
		if r.framed {
			if len(r.in) < 4 || uint64(binary.BigEndian.Uint32(r.in)) > uint64(len(r.in)-4) {
				break
			}
			block = r.in[4 : 4+binary.BigEndian.Uint32(r.in)]
			r.in = r.in[4+len(block):]
		}
		if n, err := s2.DecodedLen(block); err == nil && n <= snappyRatioMax*len(block) {
			largest = max(largest, int64(n))
		}
	}
	return largest
}

var errZstdFrame = errors.New("malformed zstd frame")

// zstdWindow walks the frames of a zstd stream and returns the largest window that any of them declares. A decoder makes room
// for a window before it decodes, and each frame brings its own.
func zstdWindow(b []byte) (window uint64, err error) {
	const blockHeader, typeRLE, typeReserved = 3, 1, 3
	for len(b) > 0 {
		var h zstd.Header
		if err := h.Decode(b); err != nil {
			return window, err
		}
		if h.Skippable {
			size := h.HeaderSize + int(h.SkippableSize)
			if size <= 0 || size > len(b) {
				return window, errZstdFrame
			}
			b = b[size:]
			continue
		}
		frame := h.WindowSize
		if h.SingleSegment {
			frame = h.FrameContentSize
		}
		window = max(window, frame)
		b = b[min(h.HeaderSize, len(b)):]
		for last := false; !last; {
			if len(b) < blockHeader {
				return window, errZstdFrame
			}
			v := binary.LittleEndian.Uint32([]byte{b[0], b[1], b[2], 0})
			size, kind := int(v>>3), v>>1&3
			last = v&1 != 0
			if kind == typeRLE {
				size = 1
			}
			if kind == typeReserved || size > len(b)-blockHeader {
				return window, errZstdFrame
			}
			b = b[blockHeader+size:]
		}
		if h.HasCheckSum {
			if len(b) < 4 {
				return window, errZstdFrame
			}
			b = b[4:]
		}
	}
	return window, nil
}
