package inspect_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/firnlog/firn/cmd/firn/inspect"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/segment"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

const root = "../../../"

// input is bytes under a name.
func input(name string, b []byte) *inspect.Input {
	return &inspect.Input{Name: name, Size: int64(len(b)), ReaderAt: bytes.NewReader(b)}
}

func golden(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.FromSlash(root + path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flipped is b with one bit of the byte at position changed; from the end where that is negative.
func flipped(b []byte, position int) []byte {
	b = bytes.Clone(b)
	if position < 0 {
		position += len(b)
	}
	b[position] ^= 0x10
	return b
}

// records is a batch of n records, the second of which has a null key and a header.
func records(t testing.TB, n int, base int64) []byte {
	t.Helper()
	b := batch.NewBuilder(batch.BuildOptions{Producer: &batch.Producer{ID: 7, Epoch: 1, BaseSequence: int32(base)}})
	for i := range n {
		if i == 1 {
			b.Add(1_700_000_000_000+base, nil, []byte{0xff, 0xfe}, batch.HeaderPair{Key: "h", Value: []byte("v")})
			continue
		}
		b.Add(1_700_000_000_000+base, fmt.Appendf(nil, "key-%d", i), bytes.Repeat([]byte("value "), 4))
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// realSegment is an object as the ingest path lays it out: two blocks, the first of two chunks.
func realSegment(t testing.TB, compress bool) []byte {
	t.Helper()
	b := segment.NewBuilder(segment.Options{ChunkBytes: 250, Compress: compress})
	add := func(topic byte, n int, base int64) {
		raw := records(t, n, base)
		b.Add([16]byte{topic}, 3, raw, int64(n), 1_700_000_000_000+base)
	}
	add(1, 3, 0)
	add(1, 2, 3)
	add(1, 2, 5)
	add(2, 4, 0)
	body, _, err := b.Finish(nil, make([]byte, 32), nil)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// mergedSegment is a merged object: offsets are missing before its second and behind its third batch, and a chunk goes on.
func mergedSegment(t testing.TB, lie int64) []byte {
	t.Helper()
	var body bytes.Buffer
	w := segment.NewWriter(&body, segment.Options{ChunkBytes: 250})
	for _, b := range []struct {
		part  int32
		n     int
		base  int64
		spare int64
	}{{3, 3, 1000, 0}, {3, 2, 1010, 0}, {3, 2, 1012, 5}, {3, 2, 1100, 0}, {4, 4, 7, 0}} {
		raw := records(t, b.n, b.base)
		batch.StampBase(raw, b.base+lie, 6)
		if err := w.Add([16]byte{1}, b.part, raw, b.base, b.base+int64(b.n)+b.spare, 1_700_000_000_000+b.base); err != nil {
			t.Fatal(err)
		}
	}
	id := entry.ObjectID{Incarnation: entry.UUID{9}, Seq: 5, CollectionEpoch: 2, Topic: entry.UUID{1}}
	if _, _, err := w.Finish(entry.AppendObjectID(nil, id), nil); err != nil {
		t.Fatal(err)
	}
	return body.Bytes()
}

// cleanedSegment is a merged object that key compaction has been over: of its batch a record and a tombstone are left.
func cleanedSegment(t testing.TB) []byte {
	t.Helper()
	b := batch.NewBuilder(batch.BuildOptions{})
	for i, value := range [][]byte{[]byte("old"), []byte("stays"), nil} {
		b.Add(1_700_000_000_000+int64(i), []byte{'a' + byte(i)}, value)
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	batch.StampBase(raw, 50, 1)
	left, err := batch.NewFilter().Rewrite(raw, batch.Limits{}, 1_700_086_400_000, func(r batch.Record) bool { return r.OffsetDelta > 0 })
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	w := segment.NewWriter(&body, segment.Options{})
	if err := w.Add([16]byte{1}, 0, left.Raw, 50, 53, left.Header.MaxTimestamp); err != nil {
		t.Fatal(err)
	}
	id := entry.ObjectID{Incarnation: entry.UUID{9}, Seq: 6, CollectionEpoch: 2, Topic: entry.UUID{1}}
	if _, _, err := w.Finish(entry.AppendObjectID(nil, id), nil); err != nil {
		t.Fatal(err)
	}
	return body.Bytes()
}

// TestGolden holds what is printed, in both forms, to files that are reviewed as a diff.
func TestGolden(t *testing.T) {
	walFile := golden(t, "wal/testdata/v1/0000000000000005.wal")
	volume := golden(t, "wal/testdata/v1/VOLUME")
	stored := golden(t, "objstore/segment/testdata/v1-stored.seg")
	snapshot := golden(t, "metastore/state/testdata/snapshot.v2")
	archive := golden(t, "metastore/testdata/archive-v1.bin")
	mixed := golden(t, "metastore/entry/testdata/mixed.v1.entry")
	seg := func(b []byte, opts inspect.SegmentOptions) func(*inspect.Out) error {
		return func(out *inspect.Out) error { return inspect.ReadSegment(input("x.seg", b), opts, out) }
	}
	dir := func(file []byte) func(*inspect.Out) error {
		return func(out *inspect.Out) error {
			fsys := fstest.MapFS{"VOLUME": {Data: volume}, "LOCK": {}, "0000000000000005.wal": {Data: file}, "0000000000000006.spill": {Data: nil},
				"0000000000000004.wal.000000002000.broken": {}, "notes": {}}
			return inspect.ReadWALDir(t.Context(), "dir", fsys, true, out)
		}
	}
	snap := func(b []byte, opts inspect.SnapshotOptions) func(*inspect.Out) error {
		return func(out *inspect.Out) error { return inspect.ReadSnapshot(input("s", b), opts, out) }
	}
	records := inspect.SegmentOptions{Records: true}
	for name, print := range map[string]func(*inspect.Out) error{
		"segment-golden":         seg(stored, inspect.SegmentOptions{}),
		"segment-empty":          seg(golden(t, "objstore/segment/testdata/v1-empty.seg"), inspect.SegmentOptions{}),
		"segment-records":        seg(realSegment(t, false), records),
		"segment-compressed":     seg(realSegment(t, true), inspect.SegmentOptions{Batches: true}),
		"segment-merged":         seg(mergedSegment(t, 0), records),
		"segment-merged-flip":    seg(flipped(mergedSegment(t, 0), 180), inspect.SegmentOptions{Batches: true}),
		"segment-merged-damaged": seg(mergedSegment(t, 1), inspect.SegmentOptions{}),
		"segment-cleaned":        seg(cleanedSegment(t), records),
		"segment-header-flip":    seg(flipped(realSegment(t, false), 3), inspect.SegmentOptions{}),
		"segment-chunk-flip":     seg(flipped(realSegment(t, false), 180), inspect.SegmentOptions{Batches: true}),
		"segment-footer-flip":    seg(flipped(realSegment(t, false), -150), inspect.SegmentOptions{}),
		"segment-trailer-flip":   seg(flipped(realSegment(t, false), -19), inspect.SegmentOptions{}),
		"segment-no-footer":      seg(realSegment(t, false)[:400], inspect.SegmentOptions{}),
		"wal":                    dir(walFile),
		"wal-torn":               dir(flipped(walFile, 4176+9)),
		"wal-damaged":            dir(flipped(walFile, 4096+40)),
		"wal-file":               func(out *inspect.Out) error { return inspect.ReadWALFile(t.Context(), input("f", walFile), true, out) },
		"snapshot":               snap(snapshot, inspect.SnapshotOptions{}),
		"snapshot-v1": func(out *inspect.Out) error {
			return inspect.ReadSnapshot(input("s", golden(t, "metastore/state/testdata/snapshot.v1")), inspect.SnapshotOptions{Topic: "stamped"}, out)
		},
		"snapshot-topic":         snap(snapshot, inspect.SnapshotOptions{Topic: "x.y", Rows: true, Producers: true, Objects: true}),
		"snapshot-header-flip":   snap(flipped(snapshot, 20), inspect.SnapshotOptions{}),
		"snapshot-topics-flip":   snap(flipped(snapshot, 700), inspect.SnapshotOptions{}),
		"snapshot-checksum-flip": snap(flipped(snapshot, -1), inspect.SnapshotOptions{}),
		"snapshot-cut":           snap(snapshot[:500], inspect.SnapshotOptions{}),
		"snapshot-groups": func(out *inspect.Out) error {
			opts := inspect.SnapshotOptions{Group: "*", Slots: true}
			return inspect.ReadSnapshot(input("s", golden(t, "metastore/state/testdata/snapshot.v3")), opts, out)
		},
		"snapshot-merged": func(out *inspect.Out) error {
			opts := inspect.SnapshotOptions{Topic: "*", Rows: true, Live: true, Objects: true}
			return inspect.ReadSnapshot(input("s", golden(t, "metastore/state/testdata/snapshot.v4")), opts, out)
		},
		"snapshot-digest": snap(snapshot, inspect.SnapshotOptions{SHA256: "00"}),
		"archive":         func(out *inspect.Out) error { return inspect.ReadArchive(input("a", archive), 0, false, out) },
		"archive-flip": func(out *inspect.Out) error {
			return inspect.ReadArchive(input("a", flipped(archive, 60)), 0, false, out)
		},
		"entry": func(out *inspect.Out) error { return inspect.EntryFile(input("e", mixed), out) },
		"entry-groups": func(out *inspect.Out) error {
			return inspect.EntryFile(input("e", golden(t, "metastore/entry/testdata/mixed_groups.v1.entry")), out)
		},
		"entry-merged": func(out *inspect.Out) error {
			return inspect.EntryFile(input("e", golden(t, "metastore/entry/testdata/mixed_merged.v1.entry")), out)
		},
		"entry-flip": func(out *inspect.Out) error { return inspect.EntryFile(input("e", flipped(mixed, 0)), out) },
	} {
		t.Run(name, func(t *testing.T) {
			for ext, asJSON := range map[string]bool{"txt": false, "jsonl": true} {
				var got bytes.Buffer
				out := inspect.NewOut(&got, asJSON)
				if err := errors.Join(print(out), out.Flush()); err != nil {
					t.Fatal(err)
				}
				damage, _ := out.Damage()
				if want := strings.Contains(name, "flip") || strings.Contains(name, "damaged") || strings.Contains(name, "cut") || strings.Contains(name, "no-footer") ||
					name == "snapshot-digest" || name == "segment-golden" || name == "archive"; (damage > 0) != want { // the last two hold no real batches and entries
					t.Errorf("%d damaged places", damage)
				}
				checkLines(t, got.String(), asJSON, damage)
				path := filepath.Join("testdata", name+"."+ext)
				if *rewrite {
					if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, got.Bytes(), 0o644)); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil || got.String() != string(want) {
					t.Errorf("%s (%v) is not what is printed:\n%s", path, err, got.String())
				}
			}
		})
	}
}

// checkLines holds JSON output to its frame: a type in every line, a summary in the last.
func checkLines(t *testing.T, got string, asJSON bool, damage int) {
	t.Helper()
	if !asJSON {
		return
	}
	var last map[string]any
	for line := range strings.Lines(got) {
		last = nil
		if err := json.Unmarshal([]byte(line), &last); err != nil || last["type"] == "" || !strings.HasPrefix(line, `{"type":`) {
			t.Errorf("%v: line %q", err, line)
		}
	}
	if last["type"] != "summary" || last["sound"] != (damage == 0) || last["damage"] != float64(damage) {
		t.Errorf("summary %v", last)
	}
}

// found runs a reader and returns the damage it prints.
func found(t *testing.T, read func(*inspect.Out) error) (damage []inspect.Damage, err error) {
	t.Helper()
	var b bytes.Buffer
	out := inspect.NewOut(&b, true)
	err = read(out)
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		var d inspect.Damage
		if err := json.Unmarshal([]byte(line), &d); err == nil && d.Type == "damage" {
			damage = append(damage, d)
		}
	}
	return damage, err
}

// Every flipped bit of an object is found, and the first damage named is the unit that it lies in.
func TestEveryFlipInASegmentIsLocated(t *testing.T) {
	for _, compress := range []bool{false, true} {
		body := realSegment(t, compress)
		footer, err := segment.Open(body)
		if err != nil {
			t.Fatal(err)
		}
		for at := range body {
			damage, err := found(t, func(out *inspect.Out) error {
				return inspect.ReadSegment(input("x", flipped(body, at)), inspect.SegmentOptions{}, out)
			})
			if errors.Is(err, inspect.ErrUnreadable) && (at == 8 || at == 9 || at == len(body)-16 || at == len(body)-15) {
				continue // a newer version, as far as anyone can tell
			}
			if err != nil || len(damage) == 0 {
				if at == 10 || at == 11 { // the header's minor version, which nothing checks
					continue
				}
				t.Fatalf("byte %d: %v, %v", at, err, damage)
			}
			d := damage[0]
			if int64(at) < d.Position || d.Size > 0 && int64(at) >= d.Position+d.Size {
				t.Errorf("byte %d: named are [%d, +%d): %+v", at, d.Position, d.Size, d)
			}
			for _, b := range footer.Blocks {
				for i, c := range b.Chunks {
					if in := int64(at) >= c.Position && int64(at) < c.Position+c.StoredSize; in && (d.Block == nil || *d.Block != b.Index || *d.Chunk != i) {
						t.Errorf("byte %d lies in block %d, chunk %d: %+v", at, b.Index, i, d)
					}
				}
			}
		}
	}
}

// In a chunk that is not compressed the batch is named as well, and the others are read.
func TestTheDamagedBatchIsNamed(t *testing.T) {
	body := realSegment(t, false)
	second := int64(segment.HeaderSize + len(records(t, 3, 0)))
	damage, err := found(t, func(out *inspect.Out) error {
		return inspect.ReadSegment(input("x", flipped(body, int(second)+70)), inspect.SegmentOptions{}, out)
	})
	if err != nil || len(damage) != 2 || damage[1].Part != "record batch" || damage[1].Position != second || damage[1].Want == "" {
		t.Errorf("%v: %+v", err, damage)
	}
}

func TestEveryFlipInASnapshotAndAnArchiveIsFound(t *testing.T) {
	snapshot, archive := golden(t, "metastore/state/testdata/snapshot.v4"), golden(t, "metastore/testdata/archive-v1.bin")
	for at := range snapshot {
		damage, err := found(t, func(out *inspect.Out) error {
			return inspect.ReadSnapshot(input("s", flipped(snapshot, at)), inspect.SnapshotOptions{}, out)
		})
		if len(damage) == 0 && !errors.Is(err, inspect.ErrUnreadable) || at > 8 && err != nil {
			t.Errorf("snapshot byte %d: %v", at, err)
		}
	}
	for at := range archive {
		damage, err := found(t, func(out *inspect.Out) error {
			return inspect.ReadArchive(input("a", flipped(archive, at)), 0, false, out)
		})
		if (len(damage) == 0 || damage[0].Part != "archive object") && !errors.Is(err, inspect.ErrUnreadable) || at > 9 && err != nil {
			t.Errorf("archive byte %d: %v, %v", at, damage, err)
		}
	}
}

// Every op that entries can hold is printed by name.
func TestEveryOpHasAName(t *testing.T) {
	files, err := filepath.Glob(filepath.FromSlash(root + "metastore/entry/testdata/*.entry"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		out := inspect.NewOut(&got, true)
		if err := errors.Join(inspect.EntryFile(input(path, b), out), out.Flush()); err != nil {
			t.Fatal(err)
		}
		var e inspect.Entry
		line, _, _ := strings.Cut(got.String(), "\n")
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		for _, op := range e.Ops {
			if op.Op != strings.ToLower(op.Op) || strings.Contains(op.Op, ".") {
				t.Errorf("%s: op %q has no name of its own", path, op.Op)
			}
		}
	}
}

// What is no format of the command's, or of a newer version, is an error that says what it is.
func TestRefusals(t *testing.T) {
	seg, snapshot, archive := realSegment(t, false), golden(t, "metastore/state/testdata/snapshot.v2"), golden(t, "metastore/testdata/archive-v1.bin")
	walFile := golden(t, "wal/testdata/v1/0000000000000005.wal")
	set := func(b []byte, at int, v byte) []byte { b = bytes.Clone(b); b[at] = v; return b }
	for name, tt := range map[string]struct {
		read func(*inspect.Out) error
		want string
	}{
		"a snapshot as a segment": {func(o *inspect.Out) error {
			return inspect.ReadSegment(input("x", snapshot), inspect.SegmentOptions{}, o)
		}, "use firn inspect snapshot"},
		"a segment as a snapshot": {func(o *inspect.Out) error { return inspect.ReadSnapshot(input("x", seg), inspect.SnapshotOptions{}, o) }, "use firn inspect segment"},
		"a segment as an archive": {func(o *inspect.Out) error { return inspect.ReadArchive(input("x", seg), 0, false, o) }, "use firn inspect segment"},
		"an archive as an entry":  {func(o *inspect.Out) error { return inspect.EntryFile(input("x", archive), o) }, "use firn inspect archive"},
		"a segment as a WAL file": {func(o *inspect.Out) error { return inspect.ReadWALFile(t.Context(), input("x", seg), false, o) }, "use firn inspect segment"},
		"text as a segment": {func(o *inspect.Out) error {
			return inspect.ReadSegment(input("x", bytes.Repeat([]byte("text "), 99)), inspect.SegmentOptions{}, o)
		}, "does not begin as"},
		"nothing as a segment":  {func(o *inspect.Out) error { return inspect.ReadSegment(input("x", nil), inspect.SegmentOptions{}, o) }, "does not begin as"},
		"nothing as a snapshot": {func(o *inspect.Out) error { return inspect.ReadSnapshot(input("x", nil), inspect.SnapshotOptions{}, o) }, "does not begin as"},
		"a newer segment": {func(o *inspect.Out) error {
			return inspect.ReadSegment(input("x", set(seg, len(seg)-15, 2)), inspect.SegmentOptions{}, o)
		}, "version 2.0"},
		"a newer snapshot": {func(o *inspect.Out) error {
			return inspect.ReadSnapshot(input("x", set(snapshot, 8, 99)), inspect.SnapshotOptions{}, o)
		}, "99"},
		"a newer archive": {func(o *inspect.Out) error { return inspect.ReadArchive(input("x", set(archive, 9, 9)), 0, false, o) }, "version 9"},
		"a newer WAL file": {func(o *inspect.Out) error {
			return inspect.ReadWALFile(t.Context(), input("x", set(walFile, 9, 9)), false, o)
		}, "version 9"},
		"a newer entry":         {func(o *inspect.Out) error { return inspect.EntryFile(input("x", []byte{8, 9}), o) }, "format 9"},
		"an entry out of range": {func(o *inspect.Out) error { return inspect.ReadArchive(input("x", archive), 105, false, o) }, "n=100 to n=104"},
		"an empty directory":    {func(o *inspect.Out) error { return inspect.ReadWALDir(t.Context(), "d", fstest.MapFS{}, false, o) }, "no WAL directory"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := found(t, tt.read)
			if !errors.Is(err, inspect.ErrUnreadable) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// counting is a bucket that counts what is read of it at once.
type counting struct {
	objstore.Bucket
	largest int64
}

func (c *counting) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	c.largest = max(c.largest, size)
	return c.Bucket.GetRange(ctx, key, position, size)
}

func TestObjectsAreReadInWindows(t *testing.T) {
	bucket := &counting{Bucket: mem.New()}
	body := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	body = append(bytes.Repeat(body, 6), "end"...)
	if err := bucket.Put(t.Context(), "k", body, objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	in, err := inspect.OpenObject(t.Context(), bucket, "k")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(in, 0, in.Size))
	if err != nil || !bytes.Equal(got, body) || bucket.largest > 8<<20 {
		t.Errorf("%v, %d bytes of %d, %d at once", err, len(got), len(body), bucket.largest)
	}
	if _, err := inspect.OpenObject(t.Context(), bucket, "missing"); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("a missing object: %v", err)
	}
}

func TestStandardInput(t *testing.T) {
	in, err := inspect.OpenStream(bytes.NewReader(realSegment(t, false)))
	if err != nil {
		t.Fatal(err)
	}
	damage, err := found(t, func(out *inspect.Out) error { return inspect.ReadSegment(in, inspect.SegmentOptions{}, out) })
	if err := errors.Join(err, in.Close()); err != nil || len(damage) > 0 {
		t.Errorf("%v, %v", err, damage)
	}
}

// sparse is a file of zeros behind a head, as large as anybody likes.
type sparse struct{ head []byte }

func (s sparse) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	if at < int64(len(s.head)) {
		copy(b, s.head[at:])
	}
	return len(b), nil
}

// Memory follows the largest unit, not the input.
func TestMemoryIsThatOfOneUnit(t *testing.T) {
	b := segment.NewBuilder(segment.Options{})
	for i := range 48 {
		raw := records(t, 12_000, int64(i))
		b.Add([16]byte{1}, 0, raw, 12_000, 1)
	}
	body, _, err := b.Finish(nil, []byte("id"), nil)
	if err != nil || len(body) < 16<<20 {
		t.Fatal(len(body), err)
	}
	for name, read := range map[string]func(*inspect.Out) error{
		"segment": func(o *inspect.Out) error { return inspect.ReadSegment(input("x", body), inspect.SegmentOptions{}, o) },
		"wal file of 1 GiB": func(o *inspect.Out) error {
			in := &inspect.Input{Name: "f", Size: 1 << 30, ReaderAt: sparse{golden(t, "wal/testdata/v1/0000000000000005.wal")}}
			return inspect.ReadWALFile(t.Context(), in, true, o)
		},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		damage, err := found(t, read)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; err != nil || len(damage) > 0 || got > 8<<20 {
			t.Errorf("%s: allocated %d bytes, %v, %v", name, got, damage, err)
		}
	}
}

// FuzzInspect: whatever the bytes, a reader ends with damage or an error, and holds no more than the input and its bounds.
func FuzzInspect(f *testing.F) {
	f.Add(byte(0), realSegment(f, false))
	f.Add(byte(0), realSegment(f, true))
	for i, path := range []string{"wal/testdata/v1/0000000000000005.wal", "metastore/state/testdata/snapshot.v2", "metastore/testdata/archive-v1.bin",
		"metastore/entry/testdata/mixed.v1.entry"} {
		b, err := os.ReadFile(filepath.FromSlash(root + path))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i+1), b)
	}
	f.Fuzz(func(t *testing.T, format byte, b []byte) {
		in := input("x", b)
		out := inspect.NewOut(io.Discard, format&8 != 0)
		var err error
		switch format % 5 {
		case 0:
			err = inspect.ReadSegment(in, inspect.SegmentOptions{Records: true}, out)
		case 1:
			err = inspect.ReadWALFile(t.Context(), in, true, out)
		case 2:
			err = inspect.ReadSnapshot(in, inspect.SnapshotOptions{Topic: "*", Rows: true, Producers: true, Objects: true}, out)
		case 3:
			err = inspect.ReadArchive(in, 0, true, out)
		case 4:
			err = inspect.EntryFile(in, out)
		}
		if err != nil && !errors.Is(err, inspect.ErrUnreadable) {
			t.Fatal(err)
		}
	})
}
