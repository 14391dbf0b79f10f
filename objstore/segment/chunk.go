package segment

import (
	"fmt"
	"hash/crc32"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// decoders keeps idle zstd decoders. Each decodes on its caller's goroutine and holds little between calls; nothing that
// a caller could observe is shared.
var decoders sync.Pool

// ReadChunk checks the stored bytes of c and returns its raw bytes: stored itself where the chunk is not compressed,
// else decompressed into dst's memory where that is large enough, never more than c.RawSize bytes. dst may be nil and
// must not overlap stored. Safe for concurrent use. Error: ErrCorrupt.
func ReadChunk(stored []byte, c Chunk, dst []byte) ([]byte, error) {
	if int64(len(stored)) != c.StoredSize {
		return nil, fmt.Errorf("chunk at %d: %d bytes of %d: %w", c.Position, len(stored), c.StoredSize, ErrCorrupt)
	}
	if got := crc32.Checksum(stored, castagnoli); got != c.CRC {
		return nil, fmt.Errorf("chunk at %d: CRC32C %08x, stored %08x: %w", c.Position, got, c.CRC, ErrCorrupt)
	}
	if !c.plausible() {
		return nil, fmt.Errorf("chunk at %d: %s, %d bytes from %d: %w", c.Position, c.Codec, c.RawSize, c.StoredSize, ErrCorrupt)
	}
	if c.Codec == CodecNone {
		return stored, nil
	}
	// Frames declare their content's size, so the memory asked for next is what table and frame agree on.
	var frame zstd.Header
	if err := frame.Decode(stored); err != nil || !frame.HasFCS || frame.FrameContentSize != uint64(c.RawSize) {
		return nil, fmt.Errorf("chunk at %d: frame is not of %d bytes: %w", c.Position, c.RawSize, ErrCorrupt)
	}
	d, _ := decoders.Get().(*zstd.Decoder)
	if d == nil {
		var err error
		d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxChunkRawSize),
			zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
	}
	defer decoders.Put(d)
	dst = slices.Grow(dst[:0], int(c.RawSize))
	raw, err := d.DecodeAll(stored, dst[:0:c.RawSize])
	if err != nil {
		return nil, fmt.Errorf("chunk at %d: %w: %w", c.Position, err, ErrCorrupt)
	}
	if int64(len(raw)) != c.RawSize {
		return nil, fmt.Errorf("chunk at %d: %d bytes decompressed of %d: %w", c.Position, len(raw), c.RawSize, ErrCorrupt)
	}
	return raw, nil
}
