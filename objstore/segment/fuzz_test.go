package segment_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"runtime"
	"testing"

	"github.com/firnlog/firn/objstore/segment"
)

func bounded(t *testing.T, limit uint64, do func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > limit {
		t.Fatalf("allocated %d bytes, %d expected at most", got, limit)
	}
}

func FuzzReadFooter(f *testing.F) {
	for _, opts := range goldenSegments() {
		body, _ := finish(f, opts, small(), []byte("id"), []byte("ops"))
		f.Add(body)
		f.Add(footerOf(body))
	}
	for _, opts := range goldenMerged() {
		body, _, err := merge(opts, compacted(), []byte("id"), nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
		f.Add(footerOf(body))
	}
	frame, _ := finish(f, segment.Options{}, small(), []byte("id"), []byte("ops"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// As an object, and as a footer whose checksums hold.
		for _, body := range [][]byte{b, withFooter(frame, b)} {
			bounded(t, 1<<20+uint64(len(body))*4, func() {
				if whole, err := segment.Open(body); err == nil && len(whole.Blocks) > 0 && segment.ParseHeader(body) != nil {
					t.Fatal("opened under a header that does not parse")
				} else if err != nil && !errors.Is(err, segment.ErrCorrupt) && !errors.Is(err, segment.ErrVersion) {
					t.Fatalf("unclassified error: %v", err)
				}
			})
			bounded(t, 1<<20+uint64(len(body))*4, func() {
				footer, err := segment.ReadFooter(bytes.NewReader(body), int64(len(body)))
				if err != nil {
					if !errors.Is(err, segment.ErrCorrupt) && !errors.Is(err, segment.ErrVersion) {
						t.Fatalf("unclassified error: %v", err)
					}
					return
				}
				position := int64(segment.HeaderSize)
				for i, block := range footer.Blocks {
					if found, ok := footer.Find(block.Topic, block.Partition); !ok || found.Index != i || len(block.Chunks) == 0 {
						t.Fatalf("block %d: %+v", i, block)
					}
					if block.BaseOffset < segment.NoOffset || block.BaseOffset+block.Span < 0 {
						t.Fatalf("block %d: %d offsets from %d", i, block.Span, block.BaseOffset)
					}
					for _, c := range block.Chunks {
						if c.Position != position || c.StoredSize <= 0 || c.Position+c.StoredSize > int64(len(body)) || c.BaseDelta < 0 || c.Span <= 0 {
							t.Fatalf("chunk %+v", c)
						}
						position += c.StoredSize
						if at, ok := block.ChunkAt(c.BaseDelta + c.Span - 1); !ok || at != c {
							t.Fatalf("ChunkAt finds %+v for %+v", at, c)
						}
						if in := block.ChunksIn(c.RawPosition, c.RawSize); len(in) != 1 || in[0] != c {
							t.Fatalf("ChunksIn finds %+v for %+v", in, c)
						}
					}
				}
			})
		}
	})
}

func FuzzReadChunk(f *testing.F) {
	batches := []added{{raw: bytes.Repeat([]byte("firn "), 1000), span: 1}}
	for _, compress := range []bool{false, true} {
		body, blocks := finish(f, segment.Options{Compress: compress}, batches, nil, nil)
		c := blocks[0].Chunks[0]
		f.Add(body[c.Position:c.Position+c.StoredSize], uint32(c.RawSize), uint8(c.Codec))
	}
	// A frame that declares 64 KiB and holds one repeated byte more.
	f.Add(binary.BigEndian.AppendUint32(nil, 0x28b52ffd), uint32(1<<16), uint8(1))
	f.Fuzz(func(t *testing.T, stored []byte, rawSize uint32, codec uint8) {
		rawSize %= 8 << 20
		c := segment.Chunk{StoredSize: int64(len(stored)), RawSize: int64(rawSize), Span: 1, Batches: 1, Codec: segment.Codec(codec),
			CRC: crc32.Checksum(stored, crc32.MakeTable(crc32.Castagnoli))}
		// Beside the output: a decoder, and what it keeps of blocks of at most 128 KiB.
		bounded(t, 8<<20+2*uint64(rawSize), func() {
			raw, err := segment.ReadChunk(stored, c, nil)
			if err != nil {
				if !errors.Is(err, segment.ErrCorrupt) {
					t.Fatalf("unclassified error: %v", err)
				}
				return
			}
			if int64(len(raw)) != c.RawSize {
				t.Fatalf("%d bytes of %d", len(raw), c.RawSize)
			}
		})
		c.CRC++
		if _, err := segment.ReadChunk(stored, c, nil); !errors.Is(err, segment.ErrCorrupt) {
			t.Fatalf("a wrong CRC: %v", err)
		}
	})
}
