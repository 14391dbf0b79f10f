//go:build interop

package clients

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

// programs are what the tests run, by the variable that says where it is.
var programs = map[string]string{
	"FIRN_BIN":        filepath.Join("..", "..", "bin", "firn"),
	"INTEROP_ETCD":    filepath.Join("..", "..", ".cache", "etcd", "etcd"),
	"INTEROP_MINIO":   filepath.Join("..", "..", ".cache", "minio", "minio"),
	"INTEROP_PYTHON":  filepath.Join("..", "..", ".cache", "interop-venv", "bin", "python"),
	"INTEROP_KAFKAJS": filepath.Join("..", "..", ".cache", "kafkajs", "member.js"),
	"INTEROP_SARAMA":  filepath.Join("..", "..", ".cache", "sarama", "sarama"),
	"INTEROP_JAVA":    filepath.Join("..", "..", ".cache", "java"), // where Member.class lies
	"KAFKA_TOOLS":     filepath.Join("..", "..", ".cache", "kafka-tools-4.4.0", "libs"),
	"HAPROXY":         "haproxy",
}

// TestMain refuses to run without what the tests need: a suite that skips proves nothing.
func TestMain(m *testing.M) {
	for name := range programs {
		if p := os.Getenv(name); p != "" {
			programs[name] = p
		}
	}
	if _, err := exec.LookPath(programs["HAPROXY"]); err != nil {
		programs["HAPROXY"] = "/usr/sbin/haproxy" // not on everybody's path
	}
	for name, p := range programs { // members run elsewhere
		if filepath.Base(p) != p {
			if abs, err := filepath.Abs(p); err == nil {
				programs[name] = abs
			}
		}
	}
	for _, need := range [][]string{
		{programs["FIRN_BIN"], "version"}, {programs["INTEROP_ETCD"], "--version"}, {programs["INTEROP_MINIO"], "--version"}, {programs["HAPROXY"], "-v"},
		{programs["INTEROP_PYTHON"], "-c", "import kafka, confluent_kafka"}, {"kcat", "-V"}, {"java", "-version"},
		{"node", "-e", "require.resolve(process.argv[1])", programs["INTEROP_KAFKAJS"]},
		{"test", "-x", programs["INTEROP_SARAMA"]}, {"test", "-f", filepath.Join(programs["INTEROP_JAVA"], "Member.class")}, {"test", "-d", programs["KAFKA_TOOLS"]},
	} {
		if out, err := exec.Command(need[0], need[1:]...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %v\n%s\nrun `make interop`, which installs what these tests need\n", need, err, out)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// start starts a cluster with everything: three members of etcd, MinIO, HAProxy, three agents.
func start(t *testing.T, proxy bool) *localstack.Stack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	o := localstack.Options{Dir: t.TempDir(), Agents: 3, Members: 3, HAProxy: programs["HAPROXY"], Proxy: proxy,
		Firn: programs["FIRN_BIN"], EtcdBinary: programs["INTEROP_ETCD"], MinIO: programs["INTEROP_MINIO"]}
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wait lets a fault last: its length is the scenario, and nothing is concluded from it.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// until waits for a condition.
func until(ctx context.Context, t *testing.T, what string, f func() bool) {
	t.Helper()
	for !f() {
		if ctx.Err() != nil {
			t.Fatalf("%s: %v", what, context.Cause(ctx))
		}
		wait(ctx, 10*time.Millisecond)
	}
}
