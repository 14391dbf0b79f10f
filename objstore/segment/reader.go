package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sort"
)

// Trailer is what the end of an object says about its footer.
type Trailer struct {
	FooterPosition int64
	FooterSize     int64
	FooterCRC      uint32
	Major, Minor   uint16
}

// Footer is the parsed footer of a segment: shared, immutable.
type Footer struct {
	Blocks      []Block // sorted by topic id and partition
	ObjectID    []byte
	IntendedOps []byte
	Minor       uint16 // version of the format, within our major
}

// ParseHeader checks the magic and version at the start of an object. Errors: ErrCorrupt, ErrVersion.
func ParseHeader(b []byte) error {
	if len(b) < HeaderSize || string(b[:len(magic)]) != magic {
		return fmt.Errorf("header: no magic: %w", ErrCorrupt)
	}
	if err := checkVersion(b[8:]); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if binary.BigEndian.Uint32(b[12:]) != 0 {
		return fmt.Errorf("header: reserved bytes: %w", ErrCorrupt)
	}
	return nil
}

func checkVersion(b []byte) error {
	major, minor := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	switch {
	case major > MajorVersion:
		return fmt.Errorf("version %d.%d, this firn reads up to %d: %w", major, minor, MajorVersion, ErrVersion)
	case major == 0:
		return fmt.Errorf("version 0: %w", ErrCorrupt)
	}
	return nil
}

// ParseTrailer reads the trailer at the end of tail, which holds the last bytes, at least TrailerSize, of an object of
// size bytes. The footer is then [FooterPosition, FooterPosition+FooterSize) of the object, right before the trailer.
// Errors: ErrCorrupt, ErrVersion.
func ParseTrailer(tail []byte, size int64) (Trailer, error) {
	if len(tail) < TrailerSize || size < HeaderSize+TrailerSize || int64(len(tail)) > size {
		return Trailer{}, fmt.Errorf("trailer: object of %d bytes, %d read: %w", size, len(tail), ErrCorrupt)
	}
	b := tail[len(tail)-TrailerSize:]
	if string(b[24:]) != magic {
		return Trailer{}, fmt.Errorf("trailer: no magic: %w", ErrCorrupt)
	}
	// The version comes before the checksum, which another major version may compute otherwise.
	if err := checkVersion(b[16:]); err != nil {
		return Trailer{}, fmt.Errorf("trailer: %w", err)
	}
	want := binary.BigEndian.Uint32(b[trailerGuarded:])
	if got := crc32.Checksum(b[:trailerGuarded], castagnoli); got != want {
		return Trailer{}, fmt.Errorf("trailer: CRC32C %08x, stored %08x: %w", got, want, ErrCorrupt)
	}
	position := binary.BigEndian.Uint64(b)
	t := Trailer{
		FooterSize: int64(binary.BigEndian.Uint32(b[8:])),
		FooterCRC:  binary.BigEndian.Uint32(b[12:]),
		Major:      binary.BigEndian.Uint16(b[16:]),
		Minor:      binary.BigEndian.Uint16(b[18:]),
	}
	t.FooterPosition = size - TrailerSize - t.FooterSize
	if t.FooterSize > MaxFooterSize || t.FooterPosition < HeaderSize || position != uint64(t.FooterPosition) {
		return Trailer{}, fmt.Errorf("trailer: footer of %d bytes at %d in an object of %d: %w", t.FooterSize, position, size, ErrCorrupt)
	}
	return t, nil
}

// tailSize is how much ReadFooter reads first: enough for the whole footer of most segments.
const tailSize = 64 << 10

// ReadFooter reads the end of an object of size bytes: one read of up to 64 KiB, and a second where the footer is
// larger. Errors: ErrCorrupt, ErrVersion, or what r returned.
func ReadFooter(r io.ReaderAt, size int64) (*Footer, error) {
	if size < HeaderSize+TrailerSize {
		return nil, fmt.Errorf("object of %d bytes: %w", size, ErrCorrupt)
	}
	tail := make([]byte, min(size, tailSize))
	if err := readAt(r, tail, size-int64(len(tail))); err != nil {
		return nil, fmt.Errorf("read trailer: %w", err)
	}
	t, err := ParseTrailer(tail, size)
	if err != nil {
		return nil, err
	}
	var footer []byte
	if missing := t.FooterSize + TrailerSize - int64(len(tail)); missing > 0 {
		footer = make([]byte, t.FooterSize)
		if err := readAt(r, footer[:missing], t.FooterPosition); err != nil {
			return nil, fmt.Errorf("read footer: %w", err)
		}
		copy(footer[missing:], tail)
	} else {
		footer = tail[-missing : -missing+t.FooterSize]
	}
	return ParseFooter(t, footer)
}

// readAt fills b, or fails: an end of file with all of b read is fine, before that the object is shorter than said.
func readAt(r io.ReaderAt, b []byte, position int64) error {
	n, err := r.ReadAt(b, position)
	switch {
	case n == len(b):
		return nil
	case err == io.EOF || err == nil:
		return fmt.Errorf("%d of %d bytes at position %d: %w", n, len(b), position, ErrCorrupt)
	}
	return err
}

// Open parses the footer of an object that is in memory whole, and checks its header. The Footer aliases body.
// Errors: ErrCorrupt, ErrVersion.
func Open(body []byte) (*Footer, error) {
	if err := ParseHeader(body); err != nil {
		return nil, err
	}
	t, err := ParseTrailer(body, int64(len(body)))
	if err != nil {
		return nil, err
	}
	return ParseFooter(t, body[t.FooterPosition:t.FooterPosition+t.FooterSize])
}

// ParseFooter checks and parses the footer that t describes. The Footer aliases b. Error: ErrCorrupt.
func ParseFooter(t Trailer, b []byte) (*Footer, error) {
	if got := crc32.Checksum(b, castagnoli); int64(len(b)) != t.FooterSize || got != t.FooterCRC {
		return nil, fmt.Errorf("footer of %d bytes: CRC32C %08x, stored %08x: %w", len(b), got, t.FooterCRC, ErrCorrupt)
	}
	f := &Footer{Minor: t.Minor}
	bases := false
	for want := uint16(tagObjectID); want <= tagTable || len(b) > 0; want++ {
		if len(b) < fieldHeaderSize {
			return nil, fmt.Errorf("footer: field cut short: %w", ErrCorrupt)
		}
		tag, size := binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])
		b = b[fieldHeaderSize:]
		if uint64(size) > uint64(len(b)) {
			return nil, fmt.Errorf("footer: field %d of %d bytes in %d: %w", tag, size, len(b), ErrCorrupt)
		}
		value := b[:size:size]
		b = b[size:]
		switch {
		case want > tagTable: // of a later minor version
			if tag <= tagTable || tag == tagBases && bases {
				return nil, fmt.Errorf("footer: field %d twice: %w", tag, ErrCorrupt)
			}
			want = tagTable
			if tag == tagBases {
				bases = true
				if err := f.parseBases(value); err != nil {
					return nil, fmt.Errorf("footer: %w", err)
				}
			}
		case tag != want:
			return nil, fmt.Errorf("footer: field %d where %d belongs: %w", tag, want, ErrCorrupt)
		case tag == tagObjectID:
			if len(value) > MaxObjectIDSize {
				return nil, fmt.Errorf("footer: object id of %d bytes: %w", len(value), ErrCorrupt)
			}
			f.ObjectID = value
		case tag == tagIntendedOps:
			f.IntendedOps = value
		case tag == tagTable:
			if err := f.parseTable(value, t.FooterPosition); err != nil {
				return nil, fmt.Errorf("footer: %w", err)
			}
		}
	}
	return f, nil
}

// parseTable reads the table of a segment whose chunks end at the given position.
func (f *Footer) parseTable(b []byte, end int64) error {
	if len(b) < 4 {
		return fmt.Errorf("table of %d bytes: %w", len(b), ErrCorrupt)
	}
	count := int64(binary.BigEndian.Uint32(b))
	b = b[4:]
	rows := int64(len(b)) - count*blockRowSize
	if rows < 0 || rows%chunkRowSize != 0 {
		return fmt.Errorf("table of %d bytes for %d blocks: %w", len(b), count, ErrCorrupt)
	}
	blocks := make([]Block, count)
	chunks := make([]Chunk, rows/chunkRowSize)
	position, spans := int64(HeaderSize), int64(0)
	for i := range blocks {
		if len(b) < blockRowSize {
			return fmt.Errorf("block %d: table too short: %w", i, ErrCorrupt)
		}
		block := &blocks[i]
		block.Index, block.BaseOffset = i, NoOffset
		copy(block.Topic[:], b)
		block.Partition = int32(binary.BigEndian.Uint32(b[16:]))
		n := int64(binary.BigEndian.Uint32(b[20:]))
		b = b[blockRowSize:]
		switch {
		case n == 0 || n > int64(len(chunks)):
			return fmt.Errorf("block %d: %d chunks: %w", i, n, ErrCorrupt)
		case block.Partition < 0:
			return fmt.Errorf("block %d: partition %d: %w", i, block.Partition, ErrCorrupt)
		case i > 0 && blocks[i-1].key().compare(block.key()) >= 0:
			return fmt.Errorf("block %d: out of order: %w", i, ErrCorrupt)
		}
		block.Chunks, chunks = chunks[:n:n], chunks[n:]
		var rawPosition, delta int64
		for j := range block.Chunks {
			if len(b) < chunkRowSize {
				return fmt.Errorf("block %d: table too short: %w", i, ErrCorrupt)
			}
			c := &block.Chunks[j]
			c.parse(b)
			b = b[chunkRowSize:]
			c.Position, c.RawPosition, c.BaseDelta = position, rawPosition, delta
			if !c.plausible() || c.Span > maxTotal-spans {
				return fmt.Errorf("block %d, chunk %d: impossible sizes: %w", i, j, ErrCorrupt)
			}
			position += c.StoredSize
			rawPosition += c.RawSize
			delta += c.Span
			spans += c.Span
		}
		block.sum()
	}
	if len(chunks) > 0 || position != end {
		return fmt.Errorf("table describes %d of %d bytes, %d chunks unused: %w", position, end, len(chunks), ErrCorrupt)
	}
	f.Blocks = blocks
	return nil
}

// parseBases reads the base offset of each block.
func (f *Footer) parseBases(b []byte) error {
	if len(b) != len(f.Blocks)*baseRowSize {
		return fmt.Errorf("base offsets of %d bytes for %d blocks: %w", len(b), len(f.Blocks), ErrCorrupt)
	}
	for i := range f.Blocks {
		base := binary.BigEndian.Uint64(b[i*baseRowSize:])
		if base > uint64(maxOffset-f.Blocks[i].Span) {
			return fmt.Errorf("block %d: base offset %d with %d offsets: %w", i, base, f.Blocks[i].Span, ErrCorrupt)
		}
		f.Blocks[i].BaseOffset = int64(base)
	}
	return nil
}

func (b *Block) key() partition { return partition{b.Topic, b.Partition} }

// parse reads a row of the table; a reserved byte that is set makes the codec one that does not exist.
func (c *Chunk) parse(b []byte) {
	c.StoredSize = int64(binary.BigEndian.Uint32(b))
	c.RawSize = int64(binary.BigEndian.Uint32(b[4:]))
	c.Span = int64(binary.BigEndian.Uint64(b[8:]))
	c.Batches = int(binary.BigEndian.Uint32(b[16:]))
	c.MaxTimestamp = int64(binary.BigEndian.Uint64(b[20:]))
	c.Codec = Codec(b[28])
	if b[29]|b[30]|b[31] != 0 {
		c.Codec = 0xff
	}
	c.CRC = binary.BigEndian.Uint32(b[32:])
}

func (c *Chunk) plausible() bool {
	return c.StoredSize > 0 && c.RawSize > 0 && c.RawSize <= MaxChunkRawSize && c.Span > 0 && c.Batches > 0 &&
		(c.Codec == CodecNone && c.StoredSize == c.RawSize || c.Codec == CodecZstd)
}

// Block returns the i-th block of the table, false where there is none.
func (f *Footer) Block(i int) (Block, bool) {
	if i < 0 || i >= len(f.Blocks) {
		return Block{}, false
	}
	return f.Blocks[i], true
}

// Find returns the block of a partition, false where the segment has none.
func (f *Footer) Find(topic [16]byte, part int32) (Block, bool) {
	i, ok := slices.BinarySearchFunc(f.Blocks, partition{topic, part}, func(b Block, p partition) int {
		return b.key().compare(p)
	})
	if !ok {
		return Block{}, false
	}
	return f.Blocks[i], true
}

// ChunksIn returns the chunks that hold the raw bytes [position, position+size) of the block, clipped to it.
func (b Block) ChunksIn(position, size int64) []Chunk {
	if size <= 0 {
		return nil
	}
	first := sort.Search(len(b.Chunks), func(i int) bool { c := &b.Chunks[i]; return c.RawPosition+c.RawSize > position })
	last := sort.Search(len(b.Chunks), func(i int) bool { return b.Chunks[i].RawPosition-position >= size })
	return b.Chunks[first:max(first, last)]
}

// ChunkAt returns the chunk that holds the offset delta from the block's first offset, false where the block has none.
func (b Block) ChunkAt(delta int64) (Chunk, bool) {
	i := sort.Search(len(b.Chunks), func(i int) bool { c := &b.Chunks[i]; return c.BaseDelta+c.Span > delta })
	if delta < 0 || i == len(b.Chunks) {
		return Chunk{}, false
	}
	return b.Chunks[i], true
}

// ChunkAtTime returns the first chunk with a record at or after the timestamp (ms), false where the block has none.
func (b Block) ChunkAtTime(timestamp int64) (Chunk, bool) {
	for _, c := range b.Chunks { // timestamps need not rise
		if c.MaxTimestamp >= timestamp {
			return c, true
		}
	}
	return Chunk{}, false
}
