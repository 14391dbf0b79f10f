package segment_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/firnlog/firn/objstore/segment"
	"pgregory.net/rapid"
)

// placed is a batch with its place in the log.
type placed struct {
	added
	base, end int64
}

// merge writes batches, which come in order, as a merged object.
func merge(opts segment.Options, batches []placed, id, ops []byte) ([]byte, []segment.Block, error) {
	var out bytes.Buffer
	w := segment.NewWriter(&out, opts)
	for _, p := range batches {
		if err := w.Add(p.topic, p.partition, p.raw, p.base, p.end, p.maxTimestamp); err != nil {
			return nil, nil, err
		}
	}
	blocks, size, err := w.Finish(id, ops)
	if err == nil && size != int64(out.Len()) {
		err = fmt.Errorf("Finish says %d bytes, %d were written", size, out.Len())
	}
	return out.Bytes(), blocks, err
}

// compacted returns small in the order of the table, with offsets that have gaps before, between and behind batches.
func compacted() []placed {
	batches := small()
	slices.SortStableFunc(batches, func(a, b added) int {
		if c := bytes.Compare(a.topic[:], b.topic[:]); c != 0 {
			return c
		}
		return int(a.partition - b.partition)
	})
	var out []placed
	for i, a := range batches {
		p := placed{added: a, base: int64(1000 * i)}
		p.end = p.base + a.span + int64(i%3)
		out = append(out, p)
	}
	return out
}

// readPlaced decodes every chunk of a merged object and compares it with what was added.
func readPlaced(t testing.TB, body []byte, f *segment.Footer, batches []placed) error {
	t.Helper()
	if f.Minor != 1 {
		return fmt.Errorf("version 1.%d", f.Minor)
	}
	rest := batches
	for i, b := range f.Blocks {
		if len(rest) == 0 || rest[0].topic != b.Topic || rest[0].partition != b.Partition || b.Index != i || b.BaseOffset != rest[0].base {
			return fmt.Errorf("block %d: %+v", i, b)
		}
		var last placed
		for j, c := range b.Chunks {
			raw, err := segment.ReadChunk(body[c.Position:c.Position+c.StoredSize], c, nil)
			if err != nil {
				return err
			}
			if b.BaseOffset+c.BaseDelta != rest[0].base {
				return fmt.Errorf("block %d: chunk %d starts at offset %d, its first batch at %d", i, j, b.BaseOffset+c.BaseDelta, rest[0].base)
			}
			newest := rest[0].maxTimestamp
			for range c.Batches {
				last, rest = rest[0], rest[1:]
				if last.topic != b.Topic || last.partition != b.Partition || !bytes.HasPrefix(raw, last.raw) {
					return fmt.Errorf("block %d: a batch differs", i)
				}
				raw = raw[len(last.raw):]
				newest = max(newest, last.maxTimestamp)
				for _, offset := range []int64{last.base, last.end - 1} {
					if found, ok := b.ChunkAt(offset - b.BaseOffset); !ok || found != c {
						return fmt.Errorf("block %d: offset %d is found in %+v", i, offset, found)
					}
				}
			}
			if len(raw) > 0 || newest != c.MaxTimestamp {
				return fmt.Errorf("block %d: chunk %d, %+v", i, j, c)
			}
		}
		if b.BaseOffset+b.Span != last.end {
			return fmt.Errorf("block %d: ends at %d, its last batch at %d", i, b.BaseOffset+b.Span, last.end)
		}
	}
	if len(rest) > 0 {
		return fmt.Errorf("%d batches are missing", len(rest))
	}
	return nil
}

func TestMergedRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		opts := segment.Options{ChunkBytes: rapid.IntRange(1, 3000).Draw(rt, "chunk"), Compress: rapid.Bool().Draw(rt, "compress")}
		var batches []placed
		for topicID := range rapid.ByteRange(0, 3).Draw(rt, "topics") {
			for part := range rapid.Int32Range(1, 3).Draw(rt, "partitions") {
				offset := rapid.Int64Range(0, 1<<40).Draw(rt, "first")
				for range rapid.IntRange(1, 12).Draw(rt, "batches") {
					p := placed{added: added{topic: topic(topicID), partition: part, maxTimestamp: rapid.Int64Range(-1, 1<<50).Draw(rt, "timestamp")}}
					p.raw = bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(rt, "raw"), rapid.IntRange(1, 60).Draw(rt, "times"))
					p.base = offset + rapid.Int64Range(0, 50).Draw(rt, "gap")
					p.end = p.base + rapid.Int64Range(1, 1<<32).Draw(rt, "covers")
					offset = p.end
					batches = append(batches, p)
				}
			}
		}
		id := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(rt, "id")
		body, blocks, err := merge(opts, batches, id, []byte("ops"))
		if err != nil {
			rt.Fatal(err)
		}
		opened, err := segment.Open(body)
		if err != nil {
			rt.Fatal(err)
		}
		read, err := segment.ReadFooter(bytes.NewReader(body), int64(len(body)))
		if err != nil {
			rt.Fatal(err)
		}
		for _, f := range []*segment.Footer{opened, read} {
			if !bytes.Equal(f.ObjectID, id) || string(f.IntendedOps) != "ops" {
				rt.Fatalf("footer %+v", f)
			}
			if !slices.EqualFunc(f.Blocks, blocks, func(a, b segment.Block) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
				rt.Fatalf("blocks differ:\n%v\n%v", f.Blocks, blocks)
			}
			if err := readPlaced(t, body, f, batches); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

func goldenMerged() map[string]segment.Options {
	return map[string]segment.Options{
		"v1.1-stored": {ChunkBytes: 60},
		"v1.1-zstd":   {ChunkBytes: 60, Compress: true},
		"v1.1-empty":  {},
	}
}

// What version 1.1 wrote must be read for ever.
func TestGoldenMergedObjects(t *testing.T) {
	id := []byte("topics/7f3a/0000000000000042")
	for name, opts := range goldenMerged() {
		t.Run(name, func(t *testing.T) {
			batches := compacted()
			if name == "v1.1-empty" {
				batches = nil
			}
			fresh, _, err := merge(opts, batches, id, nil)
			if err != nil {
				t.Fatal(err)
			}
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
			if err := readPlaced(t, body, f, batches); err != nil || !bytes.Equal(f.ObjectID, id) {
				t.Fatal(err)
			}
			// A compressor may change its output with its version; the rest may not change without a new format version.
			if !opts.Compress && !bytes.Equal(body, fresh) {
				t.Fatal("version 1.1 is written otherwise now")
			}
		})
	}
}

// An older reader skips the base offsets, and an object of level 0 tells none.
func TestOffsetsOfBlocksAreToldFrom11(t *testing.T) {
	_, blocks := finish(t, segment.Options{}, small(), nil, nil)
	body, _ := finish(t, segment.Options{}, small(), nil, nil)
	f, err := segment.Open(body)
	if err != nil || f.Minor != 0 {
		t.Fatalf("version 1.%d, %v", f.Minor, err)
	}
	for i := range blocks {
		if blocks[i].BaseOffset != segment.NoOffset || f.Blocks[i].BaseOffset != segment.NoOffset {
			t.Errorf("block %d of a mixed object starts at %d and %d", i, blocks[i].BaseOffset, f.Blocks[i].BaseOffset)
		}
	}
}

func TestMergedFootersThatLieAreRefused(t *testing.T) {
	body, blocks, err := merge(segment.Options{}, compacted(), []byte("id"), nil)
	if err != nil {
		t.Fatal(err)
	}
	footer := footerOf(body)
	bases := len(footer) - 8*len(blocks)
	for name, change := range map[string]func(b []byte) []byte{
		"a base offset missing":    func(b []byte) []byte { b[bases-1] -= 8; return b[:len(b)-8] },
		"a base offset too many":   func(b []byte) []byte { b[bases-1] += 8; return append(b, make([]byte, 8)...) },
		"a base offset cut":        func(b []byte) []byte { b[bases-1]--; return b[:len(b)-1] },
		"a negative base offset":   func(b []byte) []byte { b[bases] = 0x80; return b },
		"offsets past the end":     func(b []byte) []byte { binary.BigEndian.PutUint64(b[bases:], 1<<63-1); return b },
		"base offsets twice":       func(b []byte) []byte { return append(b, b[bases-6:]...) },
		"base offsets, no table":   func(b []byte) []byte { return append(b[:14:14], b[bases-6:]...) },
		"the table after the rest": func(b []byte) []byte { return append(append(b[:14:14], b[bases-6:]...), b[14:bases-6]...) },
	} {
		if _, err := segment.Open(withFooter(body, change(bytes.Clone(footer)))); !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	unknown := withFooter(body, append(bytes.Clone(footer), 0, 9, 0, 0, 0, 3, 'n', 'e', 'w'))
	f, err := segment.Open(unknown)
	if err != nil {
		t.Fatal(err)
	}
	if err := readPlaced(t, unknown, f, compacted()); err != nil {
		t.Fatal(err)
	}
}

func TestWriterRefuses(t *testing.T) {
	add := func(w *segment.Writer, topicID byte, part int32, base, end int64) error {
		return w.Add(topic(topicID), part, []byte("x"), base, end, 0)
	}
	for name, do := range map[string]func(w *segment.Writer) error{
		"an empty batch": func(w *segment.Writer) error { return w.Add(topic(1), 3, nil, 30, 31, 0) },
		"a batch beyond the bound": func(w *segment.Writer) error {
			return w.Add(topic(1), 3, make([]byte, segment.MaxBatchSize+1), 30, 31, 0)
		},
		"a negative partition":    func(w *segment.Writer) error { return add(w, 2, -1, 30, 31) },
		"a negative offset":       func(w *segment.Writer) error { return add(w, 2, 0, -1, 31) },
		"no offsets":              func(w *segment.Writer) error { return add(w, 1, 3, 30, 30) },
		"offsets that overflow":   func(w *segment.Writer) error { return add(w, 1, 3, 30, 1<<63-1) },
		"a batch before the last": func(w *segment.Writer) error { return add(w, 1, 3, 19, 20) },
		"a partition before":      func(w *segment.Writer) error { return add(w, 1, 2, 30, 31) },
		"a topic before":          func(w *segment.Writer) error { return add(w, 0, 3, 30, 31) },
		"too many offsets": func(w *segment.Writer) error {
			_ = add(w, 2, 0, 0, 1<<62)
			_ = add(w, 2, 1, 0, 1<<62)
			_, _, err := w.Finish(nil, nil)
			return err
		},
		"a long object id": func(w *segment.Writer) error { _, _, err := w.Finish(make([]byte, 65), nil); return err },
		"a huge footer": func(w *segment.Writer) error {
			_, _, err := w.Finish(nil, make([]byte, segment.MaxFooterSize))
			return err
		},
		"anything once finished": func(w *segment.Writer) error {
			if _, _, err := w.Finish(nil, nil); err != nil {
				return err
			}
			return add(w, 9, 0, 0, 1)
		},
	} {
		w := segment.NewWriter(io.Discard, segment.Options{})
		if err := add(w, 1, 3, 10, 20); err != nil {
			t.Fatal(err)
		}
		if err := do(w); !errors.Is(err, segment.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := w.Finish(nil, nil); !errors.Is(err, segment.ErrInvalid) {
			t.Errorf("%s is forgotten at Finish: %v", name, err)
		}
	}
}

// full takes so many bytes.
type full struct{ left int }

var errFull = errors.New("no space left on device")

func (f *full) Write(b []byte) (int, error) {
	n := min(len(b), f.left)
	f.left -= n
	if n < len(b) {
		return n, errFull
	}
	return n, nil
}

func TestWriterKeepsTheFirstError(t *testing.T) {
	whole, _, err := merge(segment.Options{ChunkBytes: 60}, compacted(), []byte("id"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for room := range len(whole) {
		w := segment.NewWriter(&full{room}, segment.Options{ChunkBytes: 60})
		for _, p := range compacted() {
			_ = w.Add(p.topic, p.partition, p.raw, p.base, p.end, p.maxTimestamp)
		}
		for range 2 {
			if _, _, err := w.Finish([]byte("id"), nil); !errors.Is(err, errFull) {
				t.Fatalf("%d bytes of %d: %v", room, len(whole), err)
			}
		}
	}
}

func TestWriterHoldsAChunk(t *testing.T) {
	raw := make([]byte, 100<<10)
	w := segment.NewWriter(io.Discard, segment.Options{ChunkBytes: 1 << 20})
	fill := func(batches int, from int64) {
		for i := range batches {
			if err := w.Add(topic(1), 0, raw, from+int64(i), from+int64(i)+1, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(100, 0)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fill(2000, 100) // 200 MB more
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 256<<10 {
		t.Errorf("200 MB of batches allocated %d bytes", got)
	}
	if size := w.Size(); size != segment.HeaderSize+2100*int64(len(raw)) {
		t.Errorf("size %d", size)
	}
}
