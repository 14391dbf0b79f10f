package wal_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/firnlog/firn/wal"
)

// forge reads a script of frames with valid checksums and whatever fields the fuzzer likes.
func forge(script []byte) (frames []wal.BuiltFrame) {
	for len(script) >= 8 && len(frames) < 64 {
		f := wal.BuiltFrame{Kind: wal.Kind(script[0] % 6), Tag: make([]byte, script[1]%80)}
		switch script[2] % 3 {
		case 0:
			f.Promise = 4096
		case 1:
			f.Promise = int64(binary.LittleEndian.Uint16(script[2:]))
		case 2:
			f.Promise = int64(binary.LittleEndian.Uint32(script[2:])) << 32
		}
		if script[6]%8 == 0 {
			f.Size = binary.LittleEndian.Uint32(script[4:])
		}
		n := min(int(script[7]), len(script)-8)
		f.Payload, script = script[8:8+n], script[8+n:]
		frames = append(frames, f)
	}
	return frames
}

// FuzzRecover opens a log whose durable file has arbitrary bytes. Mode 0: the whole file; 1: all behind a good header;
// 2: frames with good checksums and arbitrary fields; 3: frames that version 1 writes, with the bytes xored into them.
// Open must refuse by name or succeed; then Recovered must read without an error, and a second Open must agree. Memory
// stays below a bound that does not depend on what the file claims.
func FuzzRecover(f *testing.F) {
	for mode := range byte(4) {
		f.Add(mode, threeFrames(4096, 4352), uint16(0))
		f.Add(mode, []byte{0, 3, 0, 0, 0, 0, 1, 20, 'h', 'e', 'l', 'l', 'o'}, uint16(300))
		f.Add(mode, []byte{2, 0, 0, 255, 255, 255, 0, 0, 3, 0, 1, 0, 17, 0, 9, 0}, uint16(4500))
	}
	f.Fuzz(func(t *testing.T, mode byte, b []byte, at uint16) {
		if len(b) > 1<<16 {
			return
		}
		var file []byte
		switch mode % 4 {
		case 0:
			file = b
		case 1:
			file = append(wal.BuildFile(testID, 5, 99, 0, 0), b...)
		case 2:
			file = append(wal.BuildFile(testID, 5, 99, 0, 0, forge(b)...), make([]byte, at)...)
		case 3:
			file = threeFrames(4096, 4224)
			for i := range min(len(b), len(file)-min(int(at), len(file))) {
				file[int(at)+i] ^= b[i]
			}
		}
		fsys := disk(file)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		seen, inspectErr := wal.InspectDir(t.Context(), mapDir(map[string][]byte{"0000000000000005.wal": file}), nil)
		runtime.ReadMemStats(&after)
		if got, bound := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+4*len(file)); got > bound || inspectErr != nil {
			t.Fatalf("allocated %d bytes to inspect a file of %d: %v", got, len(file), inspectErr)
		}
		runtime.ReadMemStats(&before)
		l, err := wal.Open(t.Context(), fsys, small())
		runtime.ReadMemStats(&after)
		// The disk is in memory too, and allocates what the log writes to it.
		if got, bound := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+32*len(file)); got > bound {
			t.Fatalf("allocated %d bytes for a file of %d", got, len(file))
		}
		if (seen.Err == nil) != (err == nil) {
			t.Fatalf("inspected: %v; opened: %v", seen.Err, err)
		}
		if err != nil {
			if !errors.Is(err, wal.ErrCorrupt) && !errors.Is(err, wal.ErrVersion) && !errors.Is(err, wal.ErrVolume) {
				t.Fatal(err)
			}
			return
		}
		first := list(t, l)
		closeLog(t, l)
		l = open(t, fsys, small())
		if second := list(t, l); first != second || len(l.Cuts()) != 0 {
			t.Fatalf("recovered %s, then %s; cut %v", first, second, l.Cuts())
		}
		closeLog(t, l)
	})
}

func list(t *testing.T, l *wal.Log) (s string) {
	for f, err := range l.Recovered() {
		if err != nil {
			t.Fatal(err)
		}
		s += fmt.Sprintf("%+v %x %x\n", f.Ref, f.Tag, f.Payload)
	}
	return s
}

// FuzzVolume: the file VOLUME is one of ours or refused by name.
func FuzzVolume(f *testing.F) {
	f.Add(wal.BuildVolume(testID))
	f.Add([]byte("firn wal volume 2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fsys := newFS(1)
		fsys.WriteFile(dir+"/VOLUME", b)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		id, ok, err := wal.VolumeID(fsys, dir)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(1<<20+4*len(b)) {
			t.Fatalf("allocated %d bytes for a file of %d", got, len(b))
		}
		switch {
		case err == nil && (!ok || string(wal.BuildVolume(id)) != string(b)):
			t.Fatalf("%q is taken for %x", b, id)
		case err != nil && !errors.Is(err, wal.ErrCorrupt) && !errors.Is(err, wal.ErrVersion):
			t.Fatal(err)
		}
	})
}
