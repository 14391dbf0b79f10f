package segment

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// What a reader does next decides the class of an error.
var (
	// ErrCorrupt: the bytes are not a segment's, or not those that were written.
	ErrCorrupt = errors.New("corrupt segment")
	// ErrVersion: a newer firn wrote the segment, in a format this one cannot read.
	ErrVersion = errors.New("segment version not supported")
	// ErrInvalid: what was given to a Builder or a Writer cannot be written.
	ErrInvalid = errors.New("invalid segment contents")
)

// The newest format version that this package writes: a Writer's. A Builder's objects are 1.0, which has all they need, so
// that an older firn reads them too.
const (
	MajorVersion = 1
	MinorVersion = minorMerged

	minorMixed  = 0 // level 0: the offsets are the index's to know
	minorMerged = 1 // base offsets of the blocks
)

// NoOffset is the base offset of a block of an object that does not tell it.
const NoOffset = -1

// Sizes and bounds of the format, in bytes.
const (
	HeaderSize  = 16
	TrailerSize = 32

	MaxObjectIDSize = 64
	MaxFooterSize   = 64 << 20  // with the intended ops
	MaxBatchSize    = 128 << 20 // of one raw batch
	MaxChunkRawSize = 256 << 20 // and so what ReadChunk can allocate
)

const (
	magic = "FIRNSEG\n"

	tagObjectID    = 1
	tagIntendedOps = 2
	tagTable       = 3
	tagBases       = 4 // from 1.1

	fieldHeaderSize = 6
	blockRowSize    = 24
	chunkRowSize    = 36
	baseRowSize     = 8

	trailerGuarded = 20      // bytes of the trailer under its CRC
	maxTotal       = 1 << 62 // of sums: positions and spans stay far from overflow
	maxOffset      = math.MaxInt64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Codec is how a chunk is stored.
type Codec uint8

// The codecs of the format.
const (
	CodecNone Codec = 0
	CodecZstd Codec = 1
)

// String names the codec.
func (c Codec) String() string {
	switch c {
	case CodecNone:
		return "none"
	case CodecZstd:
		return "zstd"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// Block is one partition's part of a segment. Blocks are shared: treat them as read-only.
type Block struct {
	Topic        [16]byte
	Partition    int32
	Index        int   // in the segment's table
	BaseOffset   int64 // of the first batch, or NoOffset where the object does not tell it (1.0)
	RawSize      int64 // sum of the chunks'
	Span         int64 // offsets; sum of the chunks'
	Batches      int   // sum of the chunks'
	MaxTimestamp int64 // ms; largest of the chunks'
	Chunks       []Chunk
}

// Chunk is one independently stored unit of a block.
type Chunk struct {
	Position     int64 // of the stored bytes in the object
	StoredSize   int64
	RawPosition  int64 // of the raw bytes in the block
	RawSize      int64
	BaseDelta    int64 // first offset, from the block's first
	Span         int64 // offsets
	Batches      int
	MaxTimestamp int64 // ms
	Codec        Codec
	CRC          uint32 // CRC32C of the stored bytes
}
