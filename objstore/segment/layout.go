package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

// What Builder and Writer have in common: how a chunk is stored, and header, footer and trailer.

// DefaultChunkBytes is where chunks close when Options say nothing else.
const DefaultChunkBytes = 1 << 20

// Options are the tunables of a Builder or a Writer; the zero value stores chunks as they are.
type Options struct {
	// Compress compresses each chunk of which a sample shrinks. Costs CPU on the way in and for every reader.
	Compress bool
	// ChunkBytes closes a chunk at the first batch boundary at or past so many raw bytes. 0: DefaultChunkBytes.
	// At most MaxChunkRawSize-MaxBatchSize.
	ChunkBytes int
}

const (
	sampleSize = 16 << 10 // of a chunk's start, compressed to see whether the rest is worth it
	// Compression must save an eighth, or reading costs more CPU than the bytes are worth.
	worthNumerator, worthDenominator = 7, 8
)

func (o Options) withDefaults() Options {
	if o.ChunkBytes <= 0 {
		o.ChunkBytes = DefaultChunkBytes
	}
	o.ChunkBytes = min(o.ChunkBytes, MaxChunkRawSize-MaxBatchSize)
	return o
}

// compressor decides how chunks are stored. Not safe for concurrent use.
type compressor struct {
	enabled bool
	encoder *zstd.Encoder
	scratch []byte // a compressed chunk or sample
}

// compress returns raw compressed, where that is allowed and worth it. The result is valid until the next call.
func (c *compressor) compress(raw []byte) ([]byte, bool) {
	if !c.enabled {
		return nil, false
	}
	if c.encoder == nil {
		// Chunks have a CRC of their own; a single segment always declares its size. Constant options cannot be refused.
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
		if err != nil {
			panic(err)
		}
		c.encoder = e
	}
	try := func(raw []byte) bool {
		c.scratch = c.encoder.EncodeAll(raw, c.scratch[:0])
		return len(c.scratch)*worthDenominator <= len(raw)*worthNumerator
	}
	if len(raw) > 2*sampleSize && !try(raw[:sampleSize]) {
		return nil, false
	}
	ok := try(raw)
	return c.scratch, ok
}

func appendHeader(dst []byte, minor uint16) []byte {
	dst = append(dst, magic...)
	dst = binary.BigEndian.AppendUint16(dst, MajorVersion)
	dst = binary.BigEndian.AppendUint16(dst, minor)
	return append(dst, 0, 0, 0, 0)
}

func checkObjectID(id []byte) error {
	if len(id) > MaxObjectIDSize {
		return fmt.Errorf("object id of %d bytes: %w", len(id), ErrInvalid)
	}
	return nil
}

// footerBytes is the size of a footer with so many opaque bytes, blocks and chunks.
func footerBytes(opaque, blocks, chunks int, minor uint16) int {
	size := 3*fieldHeaderSize + opaque + 4 + blocks*blockRowSize + chunks*chunkRowSize
	if minor >= minorMerged {
		size += fieldHeaderSize + blocks*baseRowSize
	}
	return size
}

func appendFooter(dst, objectID, intendedOps []byte, blocks []Block, minor uint16) []byte {
	dst = appendField(dst, tagObjectID, objectID)
	dst = appendField(dst, tagIntendedOps, intendedOps)
	dst = appendField(dst, tagTable, nil)
	size := len(dst) - 4
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(blocks)))
	for i := range blocks {
		b := &blocks[i]
		dst = append(dst, b.Topic[:]...)
		dst = binary.BigEndian.AppendUint32(dst, uint32(b.Partition))
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(b.Chunks)))
		for j := range b.Chunks {
			c := &b.Chunks[j]
			dst = binary.BigEndian.AppendUint32(dst, uint32(c.StoredSize))
			dst = binary.BigEndian.AppendUint32(dst, uint32(c.RawSize))
			dst = binary.BigEndian.AppendUint64(dst, uint64(c.Span))
			dst = binary.BigEndian.AppendUint32(dst, uint32(c.Batches))
			dst = binary.BigEndian.AppendUint64(dst, uint64(c.MaxTimestamp))
			dst = append(dst, byte(c.Codec), 0, 0, 0)
			dst = binary.BigEndian.AppendUint32(dst, c.CRC)
		}
	}
	binary.BigEndian.PutUint32(dst[size:], uint32(len(dst)-size-4))
	if minor < minorMerged {
		return dst
	}
	dst = appendField(dst, tagBases, nil)
	binary.BigEndian.PutUint32(dst[len(dst)-4:], uint32(len(blocks)*baseRowSize))
	for i := range blocks {
		dst = binary.BigEndian.AppendUint64(dst, uint64(blocks[i].BaseOffset))
	}
	return dst
}

func appendField(dst []byte, tag uint16, value []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, tag)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(value)))
	return append(dst, value...)
}

func appendTrailer(dst []byte, position int64, footer []byte, minor uint16) []byte {
	at := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, uint64(position))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(footer)))
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(footer, castagnoli))
	dst = binary.BigEndian.AppendUint16(dst, MajorVersion)
	dst = binary.BigEndian.AppendUint16(dst, minor)
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[at:at+trailerGuarded], castagnoli))
	return append(dst, magic...)
}

// sum fills in the block's totals from its chunks.
func (b *Block) sum() {
	b.MaxTimestamp = b.Chunks[0].MaxTimestamp
	for i := range b.Chunks {
		c := &b.Chunks[i]
		b.RawSize += c.RawSize
		b.Span += c.Span
		b.Batches += c.Batches
		b.MaxTimestamp = max(b.MaxTimestamp, c.MaxTimestamp)
	}
}
