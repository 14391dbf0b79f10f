package segment_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/firnlog/firn/objstore/segment"
	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "write golden files that are missing; those that exist are kept for ever")

type added struct {
	topic        [16]byte
	partition    int32
	raw          []byte
	span         int64
	maxTimestamp int64
}

func topic(b byte) [16]byte { return [16]byte{0: b, 15: b} }

func addAll(b *segment.Builder, batches []added) {
	for _, a := range batches {
		b.Add(a.topic, a.partition, a.raw, a.span, a.maxTimestamp)
	}
}

func finish(t testing.TB, opts segment.Options, batches []added, id, ops []byte) ([]byte, []segment.Block) {
	t.Helper()
	b := segment.NewBuilder(opts)
	addAll(b, batches)
	body, blocks, err := b.Finish(nil, id, ops)
	if err != nil {
		t.Fatal(err)
	}
	return body, blocks
}

// small returns batches of three partitions, out of order, half of them compressible.
func small() []added {
	rng := rand.New(rand.NewPCG(1, 1))
	var out []added
	for i := range 12 {
		raw := make([]byte, 20+i)
		if i%2 == 0 {
			for j := range raw {
				raw[j] = byte(rng.Uint32())
			}
		}
		out = append(out, added{topic: topic(byte(2 - i%2)), partition: int32(i % 3), raw: raw, span: int64(i + 1), maxTimestamp: int64(1000 - i*i)})
	}
	return out
}

// readAll decodes every chunk of a segment and compares it with what was added.
func readAll(t testing.TB, body []byte, f *segment.Footer, batches []added) error {
	t.Helper()
	type key struct {
		topic     [16]byte
		partition int32
	}
	want := map[key][]added{}
	for _, a := range batches {
		k := key{a.topic, a.partition}
		want[k] = append(want[k], a)
	}
	if len(f.Blocks) != len(want) {
		return fmt.Errorf("%d blocks, want %d", len(f.Blocks), len(want))
	}
	for i, b := range f.Blocks {
		rest := want[key{b.Topic, b.Partition}]
		if b.Index != i || b.Batches != len(rest) {
			return fmt.Errorf("block %d: index %d, %d batches of %d", i, b.Index, b.Batches, len(rest))
		}
		var rawPosition, delta int64
		for _, c := range b.Chunks {
			if c.RawPosition != rawPosition || c.BaseDelta != delta {
				return fmt.Errorf("block %d: chunk at raw %d, delta %d", i, c.RawPosition, c.BaseDelta)
			}
			raw, err := segment.ReadChunk(body[c.Position:c.Position+c.StoredSize], c, nil)
			if err != nil {
				return err
			}
			rawPosition += int64(len(raw))
			newest := int64(-1 << 62)
			for range c.Batches {
				a := rest[0]
				rest = rest[1:]
				if !bytes.HasPrefix(raw, a.raw) {
					return fmt.Errorf("block %d: a batch differs", i)
				}
				raw = raw[len(a.raw):]
				delta += a.span
				newest = max(newest, a.maxTimestamp)
			}
			if len(raw) != 0 || c.MaxTimestamp != newest || delta != c.BaseDelta+c.Span {
				return fmt.Errorf("block %d: chunk %+v", i, c)
			}
		}
		if len(rest) != 0 || b.RawSize != rawPosition || b.Span != delta {
			return fmt.Errorf("block %d: %+v", i, b)
		}
	}
	return nil
}

func TestRoundTrip(t *testing.T) {
	plain, packed := segment.NewBuilder(segment.Options{ChunkBytes: 500}), segment.NewBuilder(segment.Options{ChunkBytes: 3000, Compress: true})
	rapid.Check(t, func(rt *rapid.T) {
		b := rapid.SampledFrom([]*segment.Builder{plain, packed}).Draw(rt, "builder")
		b.Reset()
		batches := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) added {
			a := added{topic: topic(rapid.ByteMax(4).Draw(rt, "topic")), partition: rapid.Int32Range(0, 4).Draw(rt, "partition"),
				span: rapid.Int64Range(1, 1<<40).Draw(rt, "span"), maxTimestamp: rapid.Int64Range(-1, 1<<50).Draw(rt, "timestamp")}
			a.raw = bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(rt, "raw"), rapid.IntRange(1, 200).Draw(rt, "times"))
			return a
		}), 0, 60).Draw(rt, "batches")
		id := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(rt, "id")
		ops := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(rt, "ops")
		addAll(b, batches)
		prefix := []byte("before")
		body, blocks, err := b.Finish(prefix, id, ops)
		if err != nil {
			rt.Fatal(err)
		}
		again, _, err := b.Finish(nil, id, ops)
		if err != nil || !bytes.Equal(body, append([]byte("before"), again...)) {
			rt.Fatal("Finish is not deterministic")
		}
		body = body[len(prefix):]
		opened, err := segment.Open(body)
		if err != nil {
			rt.Fatal(err)
		}
		read, err := segment.ReadFooter(bytes.NewReader(body), int64(len(body)))
		if err != nil {
			rt.Fatal(err)
		}
		for _, f := range []*segment.Footer{opened, read} {
			if !bytes.Equal(f.ObjectID, id) || !bytes.Equal(f.IntendedOps, ops) || f.Minor != 0 {
				rt.Fatalf("footer %+v", f)
			}
			if !slices.EqualFunc(f.Blocks, blocks, func(a, b segment.Block) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
				rt.Fatalf("blocks differ:\n%v\n%v", f.Blocks, blocks)
			}
			if err := readAll(t, body, f, batches); err != nil {
				rt.Fatal(err)
			}
		}
		size := 0
		for _, a := range batches {
			size += len(a.raw)
		}
		if b.Size() != size || b.Batches() != len(batches) {
			rt.Fatalf("size %d of %d", b.Size(), size)
		}
	})
}

func TestChunksCloseAtTheFirstBoundaryPastTheSize(t *testing.T) {
	var batches []added
	for range 10 {
		batches = append(batches, added{raw: make([]byte, 40), span: 1})
	}
	batches = append(batches, added{raw: make([]byte, 900), span: 1})
	_, blocks := finish(t, segment.Options{ChunkBytes: 100}, batches, nil, nil)
	var sizes []int64
	for _, c := range blocks[0].Chunks {
		sizes = append(sizes, c.RawSize)
	}
	if !slices.Equal(sizes, []int64{120, 120, 120, 940}) {
		t.Fatalf("chunks of %v", sizes)
	}
}

func TestCompressionOnlyWhereItIsWorthIt(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	batches := []added{
		{topic: topic(1), raw: noise, span: 1},
		{topic: topic(2), raw: bytes.Repeat([]byte("firn "), 40_000), span: 1},
		{topic: topic(3), raw: append(bytes.Clone(noise[:100_000]), make([]byte, 100_000)...), span: 1}, // the sample does not shrink
		{topic: topic(4), raw: []byte("tiny"), span: 1},
	}
	body, blocks := finish(t, segment.Options{Compress: true}, batches, nil, nil)
	var codecs []segment.Codec
	for _, b := range blocks {
		codecs = append(codecs, b.Chunks[0].Codec)
	}
	if !slices.Equal(codecs, []segment.Codec{segment.CodecNone, segment.CodecZstd, segment.CodecNone, segment.CodecNone}) {
		t.Fatalf("codecs %v", codecs)
	}
	f, err := segment.Open(body)
	if err != nil {
		t.Fatal(err)
	}
	if err := readAll(t, body, f, batches); err != nil {
		t.Fatal(err)
	}
	c := blocks[0].Chunks[0]
	stored := body[c.Position : c.Position+c.StoredSize]
	if raw, err := segment.ReadChunk(stored, c, nil); err != nil || &raw[0] != &stored[0] {
		t.Fatal("an uncompressed chunk was copied")
	}
	c = blocks[1].Chunks[0]
	dst := make([]byte, 10, 300_000)
	if raw, err := segment.ReadChunk(body[c.Position:c.Position+c.StoredSize], c, dst); err != nil || &raw[0] != &dst[0] {
		t.Fatal("the memory given was not used")
	}
}

func TestLookups(t *testing.T) {
	var batches []added
	for i := range 10 {
		batches = append(batches, added{topic: topic(7), partition: 3, raw: make([]byte, 100), span: 10, maxTimestamp: int64(100 * (i % 4))})
	}
	_, blocks := finish(t, segment.Options{ChunkBytes: 200}, append(batches, small()...), nil, nil)
	f := segment.Footer{Blocks: blocks}
	b, ok := f.Find(topic(7), 3)
	if !ok || len(b.Chunks) != 5 {
		t.Fatalf("%v %+v", ok, b)
	}
	if same, ok := f.Block(b.Index); !ok || same.Topic != b.Topic || same.Partition != 3 {
		t.Fatalf("block %d is %+v", b.Index, same)
	}
	if _, ok := f.Find(topic(7), 2); ok {
		t.Fatal("found a partition that is not there")
	}
	for _, i := range []int{-1, len(blocks)} {
		if _, ok := f.Block(i); ok {
			t.Fatalf("block %d of %d", i, len(blocks))
		}
	}
	for _, c := range []struct{ position, size, first, count int64 }{
		{0, 1, 0, 1}, {0, 200, 0, 1}, {0, 201, 0, 2}, {199, 2, 0, 2}, {200, 200, 1, 1}, {0, 1 << 62, 0, 5},
		{999, 1, 4, 1}, {1000, 5, 5, 0}, {300, 0, 0, 0}, {300, -1, 0, 0}, {900, 1<<63 - 1, 4, 1},
	} {
		got := b.ChunksIn(c.position, c.size)
		if int64(len(got)) != c.count || c.count > 0 && got[0].RawPosition != c.first*200 {
			t.Errorf("ChunksIn(%d, %d) = %+v", c.position, c.size, got)
		}
	}
	for _, c := range []struct {
		delta int64
		raw   int64
		ok    bool
	}{{0, 0, true}, {19, 0, true}, {20, 200, true}, {99, 800, true}, {100, 0, false}, {-1, 0, false}} {
		if got, ok := b.ChunkAt(c.delta); ok != c.ok || got.RawPosition != c.raw {
			t.Errorf("ChunkAt(%d) = %+v, %v", c.delta, got, ok)
		}
	}
	for _, c := range []struct {
		timestamp int64
		raw       int64
		ok        bool
	}{{-5, 0, true}, {100, 0, true}, {101, 200, true}, {300, 200, true}, {301, 0, false}} {
		if got, ok := b.ChunkAtTime(c.timestamp); ok != c.ok || got.RawPosition != c.raw {
			t.Errorf("ChunkAtTime(%d) = %+v, %v", c.timestamp, got, ok)
		}
	}
}

func TestBuilderRefuses(t *testing.T) {
	for name, do := range map[string]func(b *segment.Builder) (id []byte){
		"an empty batch":          func(b *segment.Builder) []byte { b.Add(topic(1), 0, nil, 1, 0); return nil },
		"a negative partition":    func(b *segment.Builder) []byte { b.Add(topic(1), -1, []byte("x"), 1, 0); return nil },
		"a batch without offsets": func(b *segment.Builder) []byte { b.Add(topic(1), 0, []byte("x"), 0, 0); return nil },
		"more offsets than there are": func(b *segment.Builder) []byte {
			b.Add(topic(1), 0, []byte("x"), 1<<62, 0)
			b.Add(topic(2), 0, []byte("x"), 1, 0)
			return nil
		},
		"a batch beyond the bound": func(b *segment.Builder) []byte {
			b.Add(topic(1), 0, make([]byte, segment.MaxBatchSize+1), 1, 0)
			return nil
		},
		"a long object id": func(*segment.Builder) []byte { return make([]byte, 65) },
	} {
		b := segment.NewBuilder(segment.Options{})
		id := do(b)
		if body, _, err := b.Finish(nil, id, nil); !errors.Is(err, segment.ErrInvalid) || body != nil {
			t.Errorf("%s: %v", name, err)
		}
		b.Reset()
		b.Add(topic(1), 0, []byte("x"), 1, 0)
		if _, _, err := b.Finish(nil, nil, nil); err != nil {
			t.Errorf("%s stays after Reset: %v", name, err)
		}
	}
	b := segment.NewBuilder(segment.Options{})
	if _, _, err := b.Finish(nil, nil, make([]byte, segment.MaxFooterSize)); !errors.Is(err, segment.ErrInvalid) {
		t.Errorf("a footer beyond the bound: %v", err)
	}
}

func goldenSegments() map[string]segment.Options {
	return map[string]segment.Options{
		"v1-stored": {ChunkBytes: 60},
		"v1-zstd":   {ChunkBytes: 60, Compress: true},
		"v1-empty":  {},
	}
}

// What version 1 wrote must be read for ever.
func TestGoldenSegments(t *testing.T) {
	id, ops := []byte("l0/7f3a/0000000000000042"), []byte("intended ops, opaque")
	for name, opts := range goldenSegments() {
		t.Run(name, func(t *testing.T) {
			batches := small()
			if name == "v1-empty" {
				batches = nil
			}
			fresh, _ := finish(t, opts, batches, id, ops)
			path := filepath.Join("testdata", name+".seg")
			if _, err := os.Stat(path); *rewrite && errors.Is(err, os.ErrNotExist) {
				if err := os.WriteFile(path, fresh, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			body, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f, err := segment.Open(body)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(f.ObjectID, id) || !bytes.Equal(f.IntendedOps, ops) {
				t.Fatalf("id %q, ops %q", f.ObjectID, f.IntendedOps)
			}
			if err := readAll(t, body, f, batches); err != nil {
				t.Fatal(err)
			}
			compressed := false
			for _, b := range f.Blocks {
				for _, c := range b.Chunks {
					compressed = compressed || c.Codec == segment.CodecZstd
				}
			}
			if compressed != opts.Compress {
				t.Fatalf("compressed: %v", compressed)
			}
			// A compressor may change its output with its version; the rest may not change without a new format version.
			if !opts.Compress && !bytes.Equal(body, fresh) {
				t.Fatal("version 1 is written otherwise now")
			}
		})
	}
}

func TestVersions(t *testing.T) {
	body, _ := finish(t, segment.Options{}, small(), []byte("id"), nil)
	stamp := func(header, trailer uint16, at int) []byte {
		c := bytes.Clone(body)
		binary.BigEndian.PutUint16(c[8+at:], header)
		end := c[len(c)-segment.TrailerSize:]
		binary.BigEndian.PutUint16(end[16+at:], trailer)
		return resealTrailer(c)
	}
	for name, c := range map[string]struct {
		body []byte
		want error
	}{
		"newer major":               {stamp(2, 2, 0), segment.ErrVersion},
		"newer major in the header": {stamp(2, 1, 0), segment.ErrVersion},
		"newer major at the end":    {stamp(1, 2, 0), segment.ErrVersion},
		"major 0":                   {stamp(0, 0, 0), segment.ErrCorrupt},
		"newer minor":               {stamp(9, 9, 2), nil},
	} {
		if _, err := segment.Open(c.body); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A later major may compute its checksums otherwise: the version is what the reader must be told.
	newer := stamp(2, 2, 0)
	newer[len(newer)-12]++
	if _, err := segment.ReadFooter(bytes.NewReader(newer), int64(len(newer))); !errors.Is(err, segment.ErrVersion) {
		t.Errorf("newer major with an unknown checksum: %v", err)
	}
}

func resealTrailer(body []byte) []byte {
	end := body[len(body)-segment.TrailerSize:]
	binary.BigEndian.PutUint32(end[20:], crc32.Checksum(end[:20], crc32.MakeTable(crc32.Castagnoli)))
	return body
}

// withFooter replaces the footer and seals it.
func withFooter(body, footer []byte) []byte {
	end := bytes.Clone(body[len(body)-segment.TrailerSize:])
	position := binary.BigEndian.Uint64(end)
	binary.BigEndian.PutUint32(end[8:], uint32(len(footer)))
	binary.BigEndian.PutUint32(end[12:], crc32.Checksum(footer, crc32.MakeTable(crc32.Castagnoli)))
	out := append(bytes.Clone(body[:position]), footer...)
	return resealTrailer(append(out, end...))
}

func footerOf(body []byte) []byte {
	position := binary.BigEndian.Uint64(body[len(body)-segment.TrailerSize:])
	return bytes.Clone(body[position : len(body)-segment.TrailerSize])
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	batches := small()
	body, _ := finish(t, segment.Options{}, batches, []byte("id"), []byte("ops"))
	footer := append(footerOf(body), 0, 9, 0, 0, 0, 3, 'n', 'e', 'w', 0, 10, 0, 0, 0, 0)
	body = withFooter(body, footer)
	f, err := segment.Open(body)
	if err != nil {
		t.Fatal(err)
	}
	if err := readAll(t, body, f, batches); err != nil {
		t.Fatal(err)
	}
}

// Footers whose checksums hold but that contradict themselves or the object.
func TestFootersThatLieAreRefused(t *testing.T) {
	body, _ := finish(t, segment.Options{}, small(), []byte("id"), []byte("ops"))
	footer := footerOf(body)
	table := len(footer) - (4 + 6*24 + 6*36) // 6 blocks of a chunk each
	row := table + 4                         // first block
	chunk := row + 24
	for name, change := range map[string]func(b []byte) []byte{
		"nothing":                  func(b []byte) []byte { return nil },
		"no table":                 func(b []byte) []byte { return b[:table-6] },
		"a field cut":              func(b []byte) []byte { return b[:len(b)-1] },
		"a field header cut":       func(b []byte) []byte { return append(b, 0, 9, 0) },
		"a field past the end":     func(b []byte) []byte { return append(b, 0, 9, 0, 0, 0, 1) },
		"a second object id":       func(b []byte) []byte { return append(b, 0, 1, 0, 0, 0, 0) },
		"fields out of order":      func(b []byte) []byte { b[1] = 2; return b },
		"a long object id":         func(b []byte) []byte { return append(append([]byte{0, 1, 0, 0, 0, 65}, make([]byte, 65)...), b[8:]...) },
		"a short table":            func(b []byte) []byte { b[table-1] = 2; return b[:table+2] },
		"more blocks":              func(b []byte) []byte { b[table+3]++; return b },
		"fewer blocks":             func(b []byte) []byte { b[table+3]--; return b },
		"2^32 blocks":              func(b []byte) []byte { binary.BigEndian.PutUint32(b[table:], 1<<32-1); return b },
		"blocks out of order":      func(b []byte) []byte { b[row] = 9; return b },
		"a negative partition":     func(b []byte) []byte { b[row+16] = 0x80; return b },
		"no chunks":                func(b []byte) []byte { b[row+23] = 0; return b },
		"2^32 chunks":              func(b []byte) []byte { binary.BigEndian.PutUint32(b[row+20:], 1<<32-1); return b },
		"an empty chunk":           func(b []byte) []byte { clear(b[chunk : chunk+8]); return b },
		"a longer chunk":           func(b []byte) []byte { b[chunk+3]++; b[chunk+7]++; return b },
		"a shorter chunk":          func(b []byte) []byte { b[chunk+3]--; b[chunk+7]--; return b },
		"a stored chunk that grew": func(b []byte) []byte { b[chunk+7]++; return b },
		"a huge raw size":          func(b []byte) []byte { b[chunk+28] = 1; b[chunk+4] = 0x7f; return b },
		"no span":                  func(b []byte) []byte { clear(b[chunk+8 : chunk+16]); return b },
		"a negative span":          func(b []byte) []byte { b[chunk+8] = 0x80; return b },
		"spans that overflow":      func(b []byte) []byte { b[chunk+8] = 0x40; return b },
		"no batches":               func(b []byte) []byte { clear(b[chunk+16 : chunk+20]); return b },
		"codec 2":                  func(b []byte) []byte { b[chunk+28] = 2; return b },
		"a reserved byte":          func(b []byte) []byte { b[chunk+30] = 1; return b },
	} {
		lie := withFooter(body, change(bytes.Clone(footer)))
		if _, err := segment.Open(lie); !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := segment.Open(withFooter(body, footer)); err != nil {
		t.Fatalf("the truth: %v", err)
	}
}

// Every flipped bit is found out, or does no harm: the minor version and, without Open, the header.
func TestEveryFlippedBit(t *testing.T) {
	batches := small()
	for name, opts := range goldenSegments() {
		if name == "v1-empty" {
			continue
		}
		body, _ := finish(t, opts, batches, []byte("id"), []byte("ops"))
		for i := range len(body) * 8 {
			body[i/8] ^= 1 << (i % 8)
			for how, open := range map[string]func() (*segment.Footer, error){
				"Open":       func() (*segment.Footer, error) { return segment.Open(body) },
				"ReadFooter": func() (*segment.Footer, error) { return segment.ReadFooter(bytes.NewReader(body), int64(len(body))) },
			} {
				harmless := i/8 >= 10 && i/8 < 12 || how == "ReadFooter" && i/8 < segment.HeaderSize
				f, err := open()
				if err == nil {
					if !bytes.Equal(f.ObjectID, []byte("id")) || !bytes.Equal(f.IntendedOps, []byte("ops")) {
						t.Fatalf("%s, %s: bit %d of byte %d changed the footer", name, how, i%8, i/8)
					}
					err = readAll(t, body, f, batches)
				}
				if harmless != (err == nil) || err != nil && !errors.Is(err, segment.ErrCorrupt) && !errors.Is(err, segment.ErrVersion) {
					t.Fatalf("%s, %s: bit %d of byte %d: %v", name, how, i%8, i/8, err)
				}
			}
			body[i/8] ^= 1 << (i % 8)
		}
	}
}

func TestTruncations(t *testing.T) {
	body, _ := finish(t, segment.Options{ChunkBytes: 60}, small(), []byte("id"), []byte("ops"))
	for n := range len(body) {
		for how, err := range map[string]error{
			"cut at the end":        second(segment.Open(body[:n])),
			"cut at the start":      second(segment.Open(body[len(body)-n:])),
			"read, cut":             second(segment.ReadFooter(bytes.NewReader(body[:n]), int64(n))),
			"shorter than its size": second(segment.ReadFooter(bytes.NewReader(body[:n]), int64(len(body)))),
		} {
			if !errors.Is(err, segment.ErrCorrupt) {
				t.Fatalf("%d of %d bytes, %s: %v", n, len(body), how, err)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

// brokenAt fails reads of the given number, counted from 1.
type brokenAt struct {
	io.ReaderAt
	n int
}

var errBroken = errors.New("broken disk")

func (b *brokenAt) ReadAt(p []byte, position int64) (int, error) {
	if b.n--; b.n == 0 {
		return 0, errBroken
	}
	return b.ReaderAt.ReadAt(p, position)
}

func TestReadFooterOfManyBlocks(t *testing.T) {
	var batches []added
	for i := range 3000 {
		batches = append(batches, added{topic: topic(1), partition: int32(i), raw: []byte{1, byte(i)}, span: 1})
	}
	body, _ := finish(t, segment.Options{}, batches, nil, bytes.Repeat([]byte("op"), 1000))
	f, err := segment.ReadFooter(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	if err := readAll(t, body, f, batches); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		if _, err := segment.ReadFooter(&brokenAt{bytes.NewReader(body), n}, int64(len(body))); !errors.Is(err, errBroken) || errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("read %d broken: %v", n, err)
		}
	}
}

// A raw size that the frame does not confirm must not be allocated.
func TestReadChunkDoesNotTrustTheRawSize(t *testing.T) {
	body, blocks := finish(t, segment.Options{Compress: true}, []added{{raw: bytes.Repeat([]byte("firn "), 1000), span: 1}}, nil, nil)
	c := blocks[0].Chunks[0]
	stored := body[c.Position : c.Position+c.StoredSize]
	if c.Codec != segment.CodecZstd {
		t.Fatal("not compressed")
	}
	for _, size := range []int64{c.RawSize - 1, c.RawSize + 1, 200 << 20, segment.MaxChunkRawSize + 1, 0, -1} {
		lie := c
		lie.RawSize = size
		bounded(t, 4<<20, func() {
			if _, err := segment.ReadChunk(stored, lie, nil); !errors.Is(err, segment.ErrCorrupt) {
				t.Errorf("raw size %d: %v", size, err)
			}
		})
	}
}

func TestAddGoesOnAfterFinish(t *testing.T) {
	batches := small()
	b := segment.NewBuilder(segment.Options{})
	addAll(b, batches)
	if _, _, err := b.Finish(nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	addAll(b, batches[:5])
	body, _, err := b.Finish(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := segment.Open(body)
	if err != nil {
		t.Fatal(err)
	}
	if err := readAll(t, body, f, append(batches, batches[:5]...)); err != nil {
		t.Fatal(err)
	}
}

func TestBuilderDoesNotAllocatePerBatch(t *testing.T) {
	raw := make([]byte, 1000)
	b := segment.NewBuilder(segment.Options{})
	var dst []byte
	run := func() {
		b.Reset()
		for i := range 1000 {
			b.Add(topic(byte(i%7)), int32(i%12), raw, 1, 5)
		}
		body, _, err := b.Finish(dst[:0], []byte("id"), nil)
		if err != nil {
			t.Fatal(err)
		}
		dst = body
	}
	run()
	if got := testing.AllocsPerRun(20, run); got > 2 { // the blocks and their chunks, which the caller keeps
		t.Fatalf("%v allocations a segment of 1000 batches", got)
	}
}
