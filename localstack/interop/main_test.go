//go:build interop

package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack"
)

var (
	firnBin   = filepath.Join("..", "..", "bin", "firn")
	pythonBin = "python3"
	minioBin  = filepath.Join("..", "..", ".cache", "minio", "minio")
)

// TestMain refuses to run without what the tests need: a suite that skips proves nothing.
func TestMain(m *testing.M) {
	if p := os.Getenv("FIRN_BIN"); p != "" {
		firnBin = p
	}
	if p := os.Getenv("INTEROP_PYTHON"); p != "" {
		pythonBin = p
	}
	if p := os.Getenv("INTEROP_MINIO"); p != "" {
		minioBin = p
	}
	for _, need := range [][]string{{firnBin, "version"}, {minioBin, "--version"}, {"kcat", "-V"}, {pythonBin, "-c", "import kafka, snappy, lz4, zstandard, confluent_kafka"}} {
		if out, err := exec.Command(need[0], need[1:]...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %v\n%s\nrun `make interop`, which installs what these tests need\n", need, err, out)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func start(t *testing.T, agents int, args ...string) *localstack.Stack {
	t.Helper()
	return startOn(t, localstack.Options{Dir: t.TempDir(), Agents: agents, Args: args})
}

// startOn starts a cluster; Firn is filled in.
func startOn(t *testing.T, o localstack.Options) *localstack.Stack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var err error
	if o.Firn, err = filepath.Abs(firnBin); err != nil {
		t.Fatal(err)
	}
	s, err := localstack.Start(ctx, o)
	if err != nil {
		dumpLogs(t, o.Dir)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if t.Failed() {
			dumpLogs(t, o.Dir)
		}
	})
	return s
}

// dumpLogs prints the end of each part's output.
func dumpLogs(t *testing.T, dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, path := range logs {
		body, _ := os.ReadFile(path)
		t.Logf("== %s\n%s", filepath.Base(path), body[max(0, len(body)-8<<10):])
	}
}

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}
