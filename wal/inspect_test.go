package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/firnlog/firn/wal"
)

// mapDir is a directory with VOLUME and the given files, for InspectDir.
func mapDir(files map[string][]byte) fstest.MapFS {
	m := fstest.MapFS{"VOLUME": {Data: wal.BuildVolume(testID)}}
	for name, b := range files {
		m[name] = &fstest.MapFile{Data: b}
	}
	return m
}

func TestInspectGolden(t *testing.T) {
	var frames []string
	d, err := wal.InspectDir(t.Context(), os.DirFS(filepath.Join("testdata", "v1")), func(file string, f wal.FrameInfo) error {
		frames = append(frames, fmt.Sprintf("%s %d+%d %s %q %d promise %d", file, f.Position, f.Size, f.Kind, f.Tag, f.PayloadBytes, f.Promise))
		return nil
	})
	if err != nil || d.Err != nil || d.ID != testID || len(d.Files) != 1 {
		t.Fatalf("%v: %+v", err, d)
	}
	f := d.Files[0]
	if f.Frames != 2 || f.Marks != 1 || f.PayloadBytes != 7 || f.End != 4208 || f.TornEnd != 4208 || f.Promise != 4176 ||
		f.Header.Number != 5 || f.Header.Salt != 0x1122334455667788 || f.Header.PrevNumber != 4 || f.Header.PrevSynced != 0x2000 {
		t.Errorf("%+v, header %+v", f, f.Header)
	}
	want := []string{
		`0000000000000005.wal 4096+48 durable "tag" 7 promise 4096`,
		`0000000000000005.wal 4144+32 durable "" 0 promise 4096`,
		`0000000000000005.wal 4176+32 mark "" 0 promise 4176`,
	}
	if fmt.Sprint(frames) != fmt.Sprint(want) {
		t.Errorf("frames %q", frames)
	}
}

// Inspect names the damage that Open stops at, in the same words, and changes nothing.
func TestInspectAgreesWithOpen(t *testing.T) {
	flip := func(at int) []byte { b := threeFrames(4224, 4352); b[at] ^= 1; return b }
	for name, tt := range map[string]struct {
		file []byte
		want error
		torn bool
	}{
		"sound":              {file: threeFrames(4224, 4352)},
		"torn tail":          {file: flip(4352 + 40), torn: true},
		"damage before it":   {file: flip(4224 + 40), want: wal.ErrCorrupt},
		"first frame":        {file: flip(4096 + 40), want: wal.ErrCorrupt},
		"header":             {file: flip(33), want: wal.ErrCorrupt},
		"newer version":      {file: flip(8), want: wal.ErrVersion},
		"of another log":     {file: wal.BuildFile([16]byte{9}, 5, 99, 0, 0, built(1, 90, 4096)), want: wal.ErrVolume},
		"of another number":  {file: wal.BuildFile(testID, 6, 99, 0, 0, built(1, 90, 4096)), want: wal.ErrCorrupt},
		"empty":              {file: nil, want: wal.ErrCorrupt},
		"cut in its header":  {file: threeFrames(4096, 4096)[:100], want: wal.ErrCorrupt},
		"preallocated zeros": {file: append(threeFrames(4224, 4352), make([]byte, 8192)...)},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := wal.InspectDir(t.Context(), mapDir(map[string][]byte{"0000000000000005.wal": bytes.Clone(tt.file)}), nil)
			if err != nil {
				t.Fatal(err)
			}
			l, openErr := wal.Open(t.Context(), disk(tt.file), small())
			if openErr == nil {
				closeLog(t, l)
			}
			if !errors.Is(d.Err, tt.want) || !errors.Is(openErr, tt.want) || (d.Err == nil) != (openErr == nil) {
				t.Fatalf("inspect %v, open %v, want %v", d.Err, openErr, tt.want)
			}
			if tt.want != nil {
				got, want := d.Err.Error(), strings.ReplaceAll(openErr.Error(), dir+"/", "")
				if got != want {
					t.Errorf("inspect says %q, open %q", got, want)
				}
				return
			}
			if f := d.Files[0]; (f.TornEnd > f.End) != tt.torn || tt.torn && f.End != 4352 {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestInspectSpill(t *testing.T) {
	fsys := newFS(1)
	l := open(t, fsys, small())
	appendFrame(t, l, wal.Spill, 1, 90)
	appendFrame(t, l, wal.Spill, 2, 300)
	appendFrame(t, l, wal.Durable, 3, 90)
	names, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := fstest.MapFS{"notes.txt": {}, "spare.tmp": {}, "LOCK": {}, "0000000000000001.wal.000000001000.broken": {}}
	for _, name := range names { // of the log at work
		if b, err := fsys.ReadFile(dir + "/" + name); err == nil {
			m[name] = &fstest.MapFile{Data: b}
		}
	}
	defer closeLog(t, l)
	d, err := wal.InspectDir(t.Context(), m, nil)
	if err != nil || d.Err != nil || d.ID != l.ID() {
		t.Fatalf("%v: %+v", err, d)
	}
	kinds := map[wal.Kind]int{}
	for _, f := range d.Files {
		if f.Err != nil {
			t.Error(f.Err)
		}
		kinds[f.Header.Kind] += f.Frames
	}
	if kinds[wal.Spill] != 2 || kinds[wal.Durable] != 1 || len(d.Broken) != 1 || fmt.Sprint(d.Unknown) != "[notes.txt]" || len(d.Temporary) == 0 {
		t.Errorf("frames %v, %+v", kinds, d)
	}
}

// growing is a file at work: its first read sees a frame half written, later ones see it whole and one that promises it.
type growing struct {
	reads *int
	file  []byte
	torn  int
}

func (g growing) ReadAt(b []byte, at int64) (int, error) {
	*g.reads++
	n := copy(b, g.file[at:])
	if *g.reads <= 2 { // the header and the first look
		for i := max(g.torn-int(at), 0); i < min(g.torn+20-int(at), n); i++ {
			b[i] = 0
		}
	}
	return n, nil
}

func TestInspectBesideAWriter(t *testing.T) {
	reads := 0
	file := threeFrames(4224, 4352)
	info, err := wal.InspectFile(t.Context(), "f", growing{reads: &reads, file: file, torn: 4224}, int64(len(file)), nil)
	if err != nil || info.Err != nil || info.Frames != 3 || reads < 3 {
		t.Fatalf("%v after %d reads: %+v", err, reads, info)
	}
}
