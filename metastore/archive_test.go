package metastore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

var rewrite = flag.Bool("rewrite", false, "write golden files anew")

func sampleRange() *archiveRange {
	a := &archiveRange{identity: log.Identity{ID: [16]byte{1, 2, 3}, Epoch: 4}, previous: "metastore/archive/x"}
	for i := range a.before {
		a.before[i], a.after[i] = byte(i), byte(255-i)
	}
	for n := range uint64(5) {
		a.entries = append(a.entries, log.Entry{
			N: 100 + n, Key: log.Key{Incarnation: [16]byte{byte(n % 2)}, Seq: n + 7}, Value: bytes.Repeat([]byte{byte(n)}, int(n*3)),
		})
	}
	return a
}

func sameRange(t *testing.T, want, got *archiveRange) {
	t.Helper()
	if got.identity.ID != want.identity.ID || got.identity.Epoch != want.identity.Epoch || got.previous != want.previous ||
		got.before != want.before || got.after != want.after || len(got.entries) != len(want.entries) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for i, e := range want.entries {
		if g := got.entries[i]; g.N != e.N || g.Key != e.Key || !bytes.Equal(g.Value, e.Value) {
			t.Fatalf("entry %d: got %+v, want %+v", i, g, e)
		}
	}
}

func TestArchiveGolden(t *testing.T) {
	path := filepath.Join("testdata", "archive-v1.bin")
	if *rewrite {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, sampleRange().encode(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseArchive(path, body)
	if err != nil {
		t.Fatal(err)
	}
	sameRange(t, sampleRange(), got)
}

// What is compared after a range was read back is all of it.
func TestArchiveRangesDiffer(t *testing.T) {
	if a := sampleRange(); !a.same(sampleRange()) {
		t.Error("a range is not the same as itself")
	}
	for name, change := range map[string]func(*archiveRange){
		"log": func(a *archiveRange) { a.identity.ID[3]++ }, "epoch": func(a *archiveRange) { a.identity.Epoch++ },
		"previous": func(a *archiveRange) { a.previous += "y" }, "before": func(a *archiveRange) { a.before[0]++ }, "after": func(a *archiveRange) { a.after[31]++ },
		"n": func(a *archiveRange) { a.entries[4].N++ }, "seq": func(a *archiveRange) { a.entries[4].Key.Seq++ }, "value": func(a *archiveRange) { a.entries[4].Value[0]++ },
		"fewer": func(a *archiveRange) { a.entries = a.entries[:4] },
	} {
		a := sampleRange()
		change(a)
		if a.same(sampleRange()) || sampleRange().same(a) {
			t.Errorf("another %s goes unnoticed", name)
		}
	}
}

// A range of any size comes back as it was; sealing one takes memory for what is in it, and not for the largest window there is.
func TestArchiveSizes(t *testing.T) {
	for _, size := range []int{0, 100, 1000, 128 << 10, 300 << 10, 1 << 20, 4<<20 + 1, 9 << 20} {
		a := sampleRange()
		random := rand.New(rand.NewPCG(uint64(size), 1))
		for left := size; left > 0; { // ids and varints: half of it compresses
			value := bytes.Repeat([]byte("a topic's id, 16"), 64)
			for i := 0; i < len(value); i += 32 {
				binary.BigEndian.PutUint64(value[i:], random.Uint64())
			}
			value = value[:min(left, len(value))]
			a.entries = append(a.entries, log.Entry{N: a.last() + 1, Key: log.Key{Incarnation: [16]byte{1}, Seq: a.last()}, Value: value})
			left -= len(value)
		}
		var body []byte
		took := allocated(func() { body = a.encode() })
		back, err := parseArchive("k", body)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if !back.same(a) {
			t.Errorf("%d bytes came back as others", size)
		}
		if limit := uint64(4*size + 3<<20); took > limit {
			t.Errorf("sealing %d bytes took %d, %d at most", size, took, limit)
		}
		t.Logf("%d bytes: %d sealed, %d allocated", size, len(body), took)
	}
}

func TestArchiveDamageIsNamed(t *testing.T) {
	body := sampleRange().encode()
	for i := range body {
		for bit := range 8 {
			damaged := bytes.Clone(body)
			damaged[i] ^= 1 << bit
			if _, err := parseArchive("some/key", damaged); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
		if _, err := parseArchive("some/key", body[:i]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
}

func FuzzParseArchive(f *testing.F) {
	f.Add(sampleRange().encode())
	f.Add(binary.BigEndian.AppendUint64(bytes.Clone(sampleRange().encode()[:archiveHeaderSize]), 1<<27)) // 128 MiB, it says
	f.Fuzz(func(t *testing.T, body []byte) {
		// As it is, and under a checksum that holds.
		for _, body := range [][]byte{body, binary.BigEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))} {
			fuzzArchive(t, body)
		}
	})
}

func fuzzArchive(t *testing.T, body []byte) {
	var a *archiveRange
	var err error
	// What the header says of the entries' size counts as input only where the frame says the same.
	raw := 0
	got := allocated(func() { a, err = parseArchive("k", body) })
	if err == nil {
		for _, e := range a.entries {
			raw += len(e.Value) + 32
		}
	}
	if limit := uint64(archiveFuzzBase + 4*(len(body)+raw)); got > limit && (err == nil || declared(body) < got/4) {
		t.Fatalf("allocated %d bytes for %d, %d at most: %v", got, len(body), limit, err)
	}
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
			t.Fatalf("unclassified error: %v", err)
		}
		return
	}
	again, err := parseArchive("k", a.encode())
	if err != nil {
		t.Fatal(err)
	}
	sameRange(t, a, again)
}

// archiveFuzzBase is what a zstd decoder takes, whatever it decodes, and a MiB.
const archiveFuzzBase = 12 << 20

// declared is the size that both header and frame give the entries.
func declared(body []byte) uint64 {
	if len(body) < archiveHeaderSize {
		return 0
	}
	at := archiveHeaderSize + int(binary.BigEndian.Uint16(body[archiveHeaderSize-2:]))
	if len(body) < at+8 {
		return 0
	}
	var frame zstd.Header
	if frame.Decode(body[at+8:]) != nil || !frame.HasFCS {
		return 0
	}
	return frame.FrameContentSize
}

func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// FuzzPointer: the value of the snapshot cell is a pointer, or refused by name.
func FuzzPointer(f *testing.F) {
	f.Add([]byte(`{"format":1,"n":7,"object":"metastore/snapshot/x","sha256":"00","trimmed":3,"deleted":2,"trim_revision":9,"archive":"y"}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"n":-1}`))
	f.Add([]byte(`{"format":1,"n":1e30}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		var p pointer
		var err error
		if got := allocated(func() { p, err = parsePointer(value) }); got > uint64(1<<20+4*len(value)) {
			t.Fatalf("allocated %d bytes for %d", got, len(value))
		}
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
			t.Fatalf("unclassified error: %v", err)
		}
		if err == nil && (p.Format < 1 || p.Format > pointerFormat || p.Object == "" || p.Trimmed > p.N || p.Deleted > p.Trimmed) {
			t.Fatalf("taken: %+v", p)
		}
	})
}

// FuzzMarker: the marker of a bucket is ours, or refused by name; it is never overwritten.
func FuzzMarker(f *testing.F) {
	identity := log.Identity{ID: [16]byte{1}}
	f.Add([]byte(`{"format":1,"log_id":"01000000000000000000000000000000"}`))
	f.Add([]byte(`{"format":2,"log_id":"01000000000000000000000000000000"}`))
	f.Add([]byte(`{"format":1,"log_id":"02"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		bucket := mem.New()
		if err := bucket.Put(t.Context(), MarkerKey, body, objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		var err error
		if got := allocated(func() { _, err = takeMarker(t.Context(), bucket, identity, true) }); got > uint64(1<<20+4*len(body)) {
			t.Fatalf("allocated %d bytes for %d", got, len(body))
		}
		if err != nil && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrNewer) {
			t.Fatalf("unclassified error: %v", err)
		}
		if after, getErr := bucket.Get(t.Context(), MarkerKey); getErr != nil || !bytes.Equal(after, body) {
			t.Fatalf("the marker is now %q, %v", after, getErr)
		}
	})
}
