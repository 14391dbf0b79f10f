package wal_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

var testID = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

func built(n uint64, size int, promise int64) wal.BuiltFrame {
	return wal.BuiltFrame{Tag: tagOf(n), Payload: payloadOf(n, size), Promise: promise}
}

// disk is a directory with one file of number 5 and the given content.
func disk(file []byte) *walfs.FS {
	fsys := newFS(1)
	fsys.WriteFile(dir+"/VOLUME", wal.BuildVolume(testID))
	fsys.WriteFile(dir+"/0000000000000005.wal", file)
	return fsys
}

// threeFrames is a file with frames of 128 bytes at positions 4096, 4224 and 4352, ending at 4480.
func threeFrames(promise1, promise2 int64) []byte {
	return wal.BuildFile(testID, 5, 99, 0, 0, built(1, 90, 4096), built(2, 90, promise1), built(3, 90, promise2))
}

// TestGoldenVersion1 reads the bytes that version 1 wrote, and would write today.
func TestGoldenVersion1(t *testing.T) {
	file := wal.BuildFile(testID, 5, 0x1122334455667788, 4, 0x2000,
		wal.BuiltFrame{Tag: []byte("tag"), Payload: []byte("payload"), Promise: 4096},
		wal.BuiltFrame{Promise: 4096},
		wal.BuiltFrame{Kind: wal.Mark, Promise: 4096 + 48 + 32},
	)
	golden := map[string][]byte{"VOLUME": wal.BuildVolume(testID), "0000000000000005.wal": append(file, make([]byte, 512)...)}
	fsys := newFS(1)
	for name, want := range golden {
		path := filepath.Join("testdata", "v1", name)
		if *rewrite {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, want, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s is no longer what this program writes (%v)", path, err)
		}
		fsys.WriteFile(filepath.Join(dir, name), got)
	}
	opts := small()
	opts.ID = testID
	l := open(t, fsys, opts)
	defer closeLog(t, l)
	var got []string
	for f, err := range l.Recovered() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d@%d+%d %q %q", f.Ref.File, f.Ref.Position, f.Ref.Size, f.Tag, f.Payload))
	}
	want := []string{`5@4096+48 "tag" "payload"`, `5@4144+32 "" ""`}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("recovered %q, want %q", got, want)
	}
}

// TestTheWriterWritesTheFormat holds the writer to BuildFile, which the other tests in this file use in its place.
func TestTheWriterWritesTheFormat(t *testing.T) {
	fsys := newFS(1)
	opts := small()
	opts.Rand = bytes.NewReader(append(testID[:], 0, 0, 0, 0, 0, 0, 0, 0x63))
	l := open(t, fsys, opts)
	if l.ID() != testID {
		t.Fatalf("id %x", l.ID())
	}
	appendFrame(t, l, wal.Durable, 1, 90)
	closeLog(t, l)
	got, err := fsys.ReadFile(dir + "/0000000000000001.wal")
	if err != nil {
		t.Fatal(err)
	}
	mark := func(promise int64) wal.BuiltFrame { return wal.BuiltFrame{Kind: wal.Mark, Promise: promise} }
	// Whether the log was idle before it was closed is up to the scheduler.
	for _, frames := range [][]wal.BuiltFrame{
		{built(1, 90, 4096), mark(4224)}, {built(1, 90, 4096), mark(4224), mark(4224)},
	} {
		want := wal.BuildFile(testID, 1, 0x63, 0, 0, frames...)
		if bytes.Equal(got, append(want, make([]byte, len(got)-len(want))...)) {
			return
		}
	}
	t.Fatalf("the writer wrote %x", got[:4500])
}

func TestTornTailIsCopiedAndCut(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"body":    func(b []byte) []byte { b[4352+40] ^= 1; return b },
		"header":  func(b []byte) []byte { b[4352+9] ^= 1; return b },
		"zeros":   func(b []byte) []byte { clear(b[4352+64:]); return b },
		"end":     func(b []byte) []byte { return b[:4352+64] },
		"garbage": func(b []byte) []byte { copy(b[4352:], bytes.Repeat([]byte{0xa5}, 128)); return b },
		"a frame that followed another": func(b []byte) []byte {
			other := wal.BuildFile(testID, 5, 99, 0, 0, built(1, 90, 4096), built(7, 90, 4096), built(3, 90, 4096))
			return append(b[:4352], other[4352:]...)
		},
		"oversize": func(b []byte) []byte { return b[:4352+33] },
	} {
		t.Run(name, func(t *testing.T) {
			b := damage(threeFrames(4096, 4224)) // promises the first frame, which is whole
			fsys := disk(append(bytes.Clone(b), make([]byte, 1000)...))
			for range 2 {
				l := open(t, fsys, small())
				if ns, _ := recovered(t, l); fmt.Sprint(ns) != "[1 2]" {
					t.Fatalf("recovered %v", ns)
				}
				for _, cut := range l.Cuts() {
					if cut.Position != 4352 || cut.File != dir+"/0000000000000005.wal" || cut.Size != int64(len(bytes.TrimRight(b[4352:], "\x00"))) {
						t.Fatalf("cut %+v", cut)
					}
				}
				closeLog(t, l)
			}
			got, err := fsys.ReadFile(dir + "/0000000000000005.wal.000000001100.broken")
			if want := bytes.TrimRight(b[4352:], "\x00"); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("copy of the torn tail is %x, want %x (%v)", got, want, err)
			}
			if b, _ := fsys.ReadFile(dir + "/0000000000000005.wal"); len(b) != 4352 {
				t.Fatalf("file is %d bytes after the cut", len(b))
			}
		})
	}
}

func TestZeroTailIsNotTorn(t *testing.T) {
	l := open(t, disk(append(threeFrames(4096, 4096), make([]byte, 300<<10)...)), small())
	defer closeLog(t, l)
	if ns, _ := recovered(t, l); len(ns) != 3 || len(l.Cuts()) != 0 {
		t.Fatalf("recovered %v, cut %v", ns, l.Cuts())
	}
}

func TestCopiesOfTornTailsAreBounded(t *testing.T) {
	fsys := disk(threeFrames(4096, 4096)[:4400])
	for n := range 12 {
		fsys.WriteFile(fmt.Sprintf("%s/%016x.wal.000000001000.broken", dir, n), nil)
	}
	l := open(t, fsys, small())
	closeLog(t, l)
	names, err := fsys.ReadDir(dir)
	if n := strings.Count(strings.Join(names, " "), ".broken"); err != nil || n != 8 {
		t.Fatalf("%d copies: %v %v", n, names, err)
	}
}

// Open refuses these and changes nothing.
func TestOpenRefuses(t *testing.T) {
	flip := func(b []byte, position int) []byte { b[position] ^= 4; return b }
	far := wal.BuildFile(testID, 5, 99, 0, 0, built(1, 90, 4096), built(2, 300_000, 4096), built(3, 90, 4224+300_000))
	edge := wal.BuildFile(testID, 5, 99, 0, 0, built(1, 256<<10-16-37, 4096), built(2, 90, 4096+256<<10-16))
	for name, c := range map[string]struct {
		file     []byte
		more     map[string][]byte
		opts     func(*wal.Options)
		want     error
		position int64
	}{
		"damage below a promise": {file: flip(threeFrames(4096, 4352), 4224+50), want: wal.ErrCorrupt, position: 4224},
		"damage in a header":     {file: flip(threeFrames(4096, 4352), 4224+2), want: wal.ErrCorrupt, position: 4224},
		"damage in a first frame": {
			file: flip(threeFrames(4224, 4224), 4096+16), want: wal.ErrCorrupt, position: 4096,
		},
		"zeros below a promise": {
			file: append(threeFrames(4096, 4096)[:4224], append(make([]byte, 128), threeFrames(4096, 4352)[4352:]...)...),
			want: wal.ErrCorrupt, position: 4224,
		},
		"damage far below a promise":                      {file: flip(far, 4224+1000), want: wal.ErrCorrupt, position: 4224},
		"promise across the edge of the scanner's window": {file: flip(edge, 4200), want: wal.ErrCorrupt, position: 4096},
		"damage below the next header's promise": {
			file: flip(threeFrames(4096, 4096), 4352+50),
			more: map[string][]byte{"0000000000000006.wal": wal.BuildFile(testID, 6, 1, 5, 4480)},
			want: wal.ErrCorrupt, position: 4352,
		},
		"end missing below the next header's promise": {
			file: threeFrames(4096, 4096)[:4352],
			more: map[string][]byte{"0000000000000006.wal": wal.BuildFile(testID, 6, 1, 5, 4480)},
			want: wal.ErrCorrupt, position: 4352,
		},
		"kind of a frame": {
			file: wal.BuildFile(testID, 5, 99, 0, 0, wal.BuiltFrame{Kind: 4, Payload: []byte("x"), Promise: 4096}),
			want: wal.ErrCorrupt, position: 4096,
		},
		"spill in a durable file": {
			file: wal.BuildFile(testID, 5, 99, 0, 0, wal.BuiltFrame{Kind: wal.Spill, Payload: []byte("x"), Promise: 4096}),
			want: wal.ErrCorrupt, position: 4096,
		},
		"promise of the future": {
			file: wal.BuildFile(testID, 5, 99, 0, 0, built(1, 10, 4104)), want: wal.ErrCorrupt, position: 4096,
		},
		"magic":          {file: flip(threeFrames(4096, 4096), 3), want: wal.ErrCorrupt},
		"file checksum":  {file: flip(threeFrames(4096, 4096), 33), want: wal.ErrCorrupt, position: 64},
		"padding":        {file: flip(threeFrames(4096, 4096), 4000), want: wal.ErrCorrupt, position: 68},
		"short header":   {file: threeFrames(4096, 4096)[:4095], want: wal.ErrCorrupt, position: 4095},
		"empty":          {file: nil, want: wal.ErrCorrupt},
		"number":         {file: wal.BuildFile(testID, 6, 1, 0, 0), want: wal.ErrCorrupt, position: 32},
		"newer version":  {file: flip(threeFrames(4096, 4096), 9), want: wal.ErrVersion},
		"file of others": {file: wal.BuildFile([16]byte{9}, 5, 1, 0, 0), want: wal.ErrVolume},
		"other volume": {
			file: threeFrames(4096, 4096), opts: func(o *wal.Options) { o.ID = [16]byte{9} }, want: wal.ErrVolume,
		},
		"newer volume": {
			file: threeFrames(4096, 4096), want: wal.ErrVersion,
			more: map[string][]byte{"VOLUME": bytes.Replace(wal.BuildVolume(testID), []byte(" 1\n"), []byte(" 2\nmore"), 1)},
		},
		"damaged volume": {
			file: threeFrames(4096, 4096), want: wal.ErrCorrupt, position: 18,
			more: map[string][]byte{"VOLUME": flip(wal.BuildVolume(testID), 30)},
		},
		"short volume": {
			file: threeFrames(4096, 4096), want: wal.ErrCorrupt, position: 18,
			more: map[string][]byte{"VOLUME": wal.BuildVolume(testID)[:30]},
		},
		"long volume": {
			file: threeFrames(4096, 4096), want: wal.ErrCorrupt, position: 18,
			more: map[string][]byte{"VOLUME": append(wal.BuildVolume(testID), 'x')},
		},
		"number out of range": {
			file: threeFrames(4096, 4096), want: wal.ErrCorrupt,
			more: map[string][]byte{"ffffffffffffffff.wal": threeFrames(4096, 4096)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := disk(c.file)
			for n, b := range c.more {
				fsys.WriteFile(filepath.Join(dir, n), b)
			}
			opts := small()
			if c.opts != nil {
				c.opts(&opts)
			}
			for range 2 { // the second finds the lock free and the disk as it was
				before := fsys.Ops()
				_, err := wal.Open(t.Context(), fsys, opts)
				if !errors.Is(err, c.want) {
					t.Fatalf("open: %v, want %v", err, c.want)
				}
				var damage *wal.CorruptError
				if errors.As(err, &damage) && damage.Position != c.position {
					t.Fatalf("%v, want position %d", err, c.position)
				}
				if !strings.Contains(err.Error(), dir+"/") && !strings.Contains(err.Error(), dir+" ") {
					t.Fatalf("%v names no file", err)
				}
				if fsys.Ops() != before {
					t.Fatal("the disk was changed")
				}
			}
		})
	}
}

func TestMissingVolumeFile(t *testing.T) {
	fsys := newFS(1)
	fsys.WriteFile(dir+"/0000000000000005.wal", threeFrames(4096, 4096))
	if _, err := wal.Open(t.Context(), fsys, small()); !errors.Is(err, wal.ErrVolume) {
		t.Fatal(err)
	}
	opts := small()
	opts.ID = testID // the disk is not mounted: the directory is missing, or the empty mount point
	for _, fsys := range []*walfs.FS{newFS(1), func() *walfs.FS { d := newFS(1); _ = d.MkdirAll(dir); return d }()} {
		ops := fsys.Ops()
		if _, err := wal.Open(t.Context(), fsys, opts); !errors.Is(err, wal.ErrVolume) || fsys.Ops() != ops {
			t.Fatal(err)
		}
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	for name, fsys := range map[string]wal.FS{"walfs": newFS(1), "os": wal.OS()} {
		t.Run(name, func(t *testing.T) {
			opts := small()
			if name == "os" {
				opts.Dir = filepath.Join(t.TempDir(), "a", "wal")
			}
			l := open(t, fsys, opts)
			if _, err := wal.Open(t.Context(), fsys, opts); !errors.Is(err, wal.ErrLocked) {
				t.Fatal(err)
			}
			appendFrame(t, l, wal.Durable, 1, 100)
			closeLog(t, l)
			l = open(t, fsys, opts)
			if ns, _ := recovered(t, l); len(ns) != 1 {
				t.Fatalf("recovered %v", ns)
			}
			closeLog(t, l)
		})
	}
}

func TestOpenStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := wal.Open(ctx, disk(threeFrames(4096, 4096)), small()); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// What was acknowledged is covered by a promise as soon as the log is idle, and what a file held when the log went on
// to the next one by that one's header: damage is never taken for a torn tail.
func TestDamageAfterAcknowledgeIsFound(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		fsys := newFS(1)
		l := open(t, fsys, small())
		var refs []wal.Ref
		for n := range uint64(7) {
			refs = append(refs, appendFrame(t, l, wal.Durable, n, 1000))
		}
		faketime.Wait()
		fsys.PowerOff()
		_ = l.Close() // the power is off
		first, last := refs[0], refs[6]
		var end int64 // of the last frame in the first file
		for _, ref := range refs {
			if ref.File == first.File {
				end = ref.Position + ref.Size
			}
		}
		if first.File == last.File {
			t.Fatal("one file only")
		}
		for name, damage := range map[string]func(d *walfs.FS) int64{
			"last frame of an idle log": func(d *walfs.FS) int64 {
				name := fmt.Sprintf("%s/%016x.wal", dir, last.File)
				if err := d.Flip(name, last.Position+100, 1); err != nil {
					t.Fatal(err)
				}
				return last.Position
			},
			"marks of a file that was left": func(d *walfs.FS) int64 {
				name := fmt.Sprintf("%s/%016x.wal", dir, first.File)
				b, err := d.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				clear(b[end:])
				d.WriteFile(name, b)
				return end
			},
		} {
			d := fsys.Restart(walfs.LoseNothing)
			position := damage(d)
			_, err := wal.Open(t.Context(), d, small())
			if found := new(wal.CorruptError); !errors.As(err, &found) || found.Position != position {
				t.Errorf("%s at position %d: %v", name, position, err)
			}
		}
	})
}

// While the caller works through what was recovered, it frees, and files go.
func TestFreeWhileRecovering(t *testing.T) {
	fsys := newFS(1)
	l := open(t, fsys, small())
	for n := range uint64(30) {
		appendFrame(t, l, wal.Durable, n, 1000)
	}
	closeLog(t, l)
	l = open(t, fsys, small())
	seen := 0
	for f, err := range l.Recovered() {
		if err != nil {
			t.Fatal(err)
		}
		checkFrame(t, f.Tag, f.Payload)
		l.Free(f.Ref)
		seen++
	}
	if ns, _ := recovered(t, l); seen != 30 || len(ns) != 0 {
		t.Fatalf("recovered %d, then %v", seen, ns)
	}
	closeLog(t, l)
	l = open(t, fsys, small())
	if ns, _ := recovered(t, l); len(ns) != 0 {
		t.Fatalf("freed files came back: %v", ns)
	}
	closeLog(t, l)
}

// A power cut in an earlier Open can leave several files without frames. None outlives the next.
func TestOpenRemovesFilesWithoutFrames(t *testing.T) {
	fsys := disk(wal.BuildFile(testID, 5, 99, 4, 4096))
	fsys.WriteFile(dir+"/0000000000000004.wal", wal.BuildFile(testID, 4, 98, 0, 0))
	fsys.WriteFile(dir+"/0000000000000009.spill", []byte("whatever"))
	fsys.WriteFile(dir+"/spare.tmp", []byte("whatever"))
	l := open(t, fsys, small())
	names, err := fsys.ReadDir(dir)
	if want := "[000000000000000a.wal VOLUME]"; err != nil || fmt.Sprint(names) != want {
		t.Errorf("files %v, want %s (%v)", names, want, err)
	}
	closeLog(t, l)
}
