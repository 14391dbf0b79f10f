package walfs_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

const name = "/d/f"

// newFile is a disk with one durable, empty file.
func newFile(t *testing.T, seed uint64) (*walfs.FS, wal.File) {
	t.Helper()
	d := walfs.New(rand.New(rand.NewPCG(seed, 0)))
	_, err := d.Create(name)
	if err == nil {
		t.Fatal("created a file in no directory")
	}
	if err := d.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	f, err := d.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), d.SyncDir("/d")); err != nil {
		t.Fatal(err)
	}
	return d, f
}

func write(t *testing.T, f wal.File, s string, position int64) {
	t.Helper()
	if _, err := f.WriteAt([]byte(s), position); err != nil {
		t.Fatal(err)
	}
}

// content is the file after a restart, without trailing zeros.
func content(t *testing.T, d *walfs.FS, loss walfs.Loss) string {
	t.Helper()
	b, err := d.Restart(loss).ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimRight(b, "\x00"))
}

func TestOnlySyncedBytesSurvive(t *testing.T) {
	d, f := newFile(t, 1)
	write(t, f, "synced", 0)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	write(t, f, "SYN", 0)
	write(t, f, "later", 9000)
	if got := content(t, d, walfs.LoseAll); got != "synced" {
		t.Errorf("lose all: %q", got)
	}
	if got := content(t, d, walfs.LoseNothing); !strings.HasPrefix(got, "SYNced") || !strings.HasSuffix(got, "later") {
		t.Errorf("lose nothing: %q", got)
	}
}

// Every subset of two unsynced sectors shows up, and no sector is torn.
func TestSectorsSurviveOnTheirOwn(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(64) {
		d, f := newFile(t, seed)
		if err := errors.Join(f.Truncate(1024), f.Sync()); err != nil {
			t.Fatal(err)
		}
		write(t, f, strings.Repeat("a", 512)+strings.Repeat("b", 512), 0)
		seen[content(t, d, walfs.LoseSome)]++
	}
	a, b, zeros := strings.Repeat("a", 512), strings.Repeat("b", 512), strings.Repeat("\x00", 512)
	for _, want := range []string{"", a, zeros + b, a + b} {
		if seen[want] == 0 {
			t.Errorf("%.8q… never came", want)
		}
		delete(seen, want)
	}
	if len(seen) != 0 {
		t.Errorf("torn: %v", seen)
	}
}

// After a failed Sync the bytes are seen, and a second Sync says nil and writes nothing.
func TestFailedSyncMarksClean(t *testing.T) {
	lost := 0
	for seed := range uint64(16) {
		d, f := newFile(t, seed)
		if err := errors.Join(f.Truncate(10), f.Sync()); err != nil {
			t.Fatal(err)
		}
		write(t, f, "gone", 0)
		d.SetFault(func(op walfs.Op) error {
			if op.Kind == walfs.OpSync {
				return syscall.EIO
			}
			return nil
		})
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		d.SetFault(nil)
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		if _, err := f.ReadAt(b, 0); err != nil || string(b) != "gone" {
			t.Fatalf("%q %v", b, err)
		}
		if content(t, d, walfs.LoseAll) == "" {
			lost++
		}
	}
	if lost == 0 || lost == 16 {
		t.Errorf("lost %d times of 16", lost)
	}
}

func TestNamesNeedSyncDir(t *testing.T) {
	d, f := newFile(t, 1)
	write(t, f, "x", 0)
	if err := errors.Join(f.Sync(), d.Rename(name, "/d/g")); err != nil {
		t.Fatal(err)
	}
	if got := content(t, d, walfs.LoseAll); got != "x" {
		t.Errorf("renamed without SyncDir: %q", got)
	}
	for seed := range uint64(16) { // a rename is never half done
		d, _ := newFile(t, seed)
		if err := d.Rename(name, "/d/g"); err != nil {
			t.Fatal(err)
		}
		if names, err := d.Restart(walfs.LoseSome).ReadDir("/d"); err != nil || len(names) != 1 {
			t.Errorf("names %v, %v", names, err)
		}
	}
	d, _ = newFile(t, 1)
	if err := errors.Join(d.Remove(name), d.SyncDir("/d")); err != nil {
		t.Fatal(err)
	}
	if names, _ := d.Restart(walfs.LoseAll).ReadDir("/d"); len(names) != 0 {
		t.Errorf("removed, yet there: %v", names)
	}
}

func TestPowerOffAndCapacity(t *testing.T) {
	d, f := newFile(t, 1)
	d.SetCapacity(8192)
	if err := f.Preallocate(8192); err != nil {
		t.Fatal(err)
	}
	write(t, f, "x", 8191)
	if _, err := f.WriteAt([]byte("xy"), 8191); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("beyond capacity: %v", err)
	}
	if err := f.Preallocate(8193); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("beyond capacity: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 2), 8191); !errors.Is(err, io.EOF) {
		t.Errorf("read beyond the end: %v", err)
	}
	d.PowerOff()
	_, err := d.Open(name)
	_, write := f.WriteAt([]byte("x"), 0)
	for _, err := range []error{err, write, f.Sync(), f.Truncate(1), d.SyncDir("/d"), d.Remove(name)} {
		if !errors.Is(err, walfs.ErrPowerOff) {
			t.Errorf("without power: %v", err)
		}
	}
}

func TestTruncateClears(t *testing.T) {
	d, f := newFile(t, 1)
	write(t, f, strings.Repeat("x", 5000), 0)
	if err := errors.Join(f.Sync(), f.Truncate(3), f.Truncate(5000), f.Sync()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, d, walfs.LoseAll); got != "xxx" {
		t.Errorf("%q", got)
	}
}
