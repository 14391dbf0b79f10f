//go:build interop && linux

package interop

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/firnlog/firn/localstack"
)

// A real disk that is full under the write-ahead log: `firn verify` finds nothing lost while it is, and when it has room again
// the agent uses it. Mounting needs root; where that is missing the test says so and proves nothing.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: no file system of a small size can be mounted, nothing was tested")
		return
	}
	dir := t.TempDir()
	wal := filepath.Join(dir, "dev", "wal")
	if err := os.MkdirAll(wal, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", wal, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatalf("mount a tmpfs at %s: %v", wal, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(wal, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	stack := startOn(t, localstack.Options{Dir: dir, Args: []string{"--wal-bytes", "64MiB", "--stage-bytes", "1MiB", "--segment-bytes", "512KiB", "--upload-slots", "2"}})
	ballast := filepath.Join(wal, "ballast") // a name that the log leaves alone
	fill(t, ballast)
	log := filepath.Join(dir, "dev.log")
	count := func(line string) int {
		body, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(body, []byte(line))
	}
	verify := func() {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), firnBin, "verify", "--brokers", stack.Brokers(), "--duration", "8s", "--producers", "8",
			"--partitions", "8", "--rate", "0", "--record-size", "16384", "--records-max", "40000", "--in-flight", "100", "--json").CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatalf("verify: %v", err)
		}
	}
	verify()
	if down := count("the disk takes no batches"); down != 1 || count("no space left on device") == 0 {
		t.Errorf("%d lines say that the disk is full, want 1", down)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	verify()
	if count("the disk takes batches again") == 0 {
		t.Error("the agent did not use the disk again")
	}
	if n := count("level=ERROR"); n > 0 {
		t.Errorf("%d errors", n)
	}
}

// fill writes a file until the disk is full.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); ; {
		if _, err := f.Write(block); err != nil {
			if len(block) > 4096 { // the last pages too
				block = block[:4096]
				continue
			}
			return
		}
	}
}
