package metastore

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/firnlog/firn/metastore/log"
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
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := parseArchive("k", body)
		if err != nil {
			return
		}
		again, err := parseArchive("k", a.encode())
		if err != nil {
			t.Fatal(err)
		}
		sameRange(t, a, again)
	})
}
