package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// programs are stand-ins that are there.
func programs(t *testing.T) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{"--firn", path, "--etcd", path, "--minio", path}
}

func TestBadFlagsAreAllNamed(t *testing.T) {
	_, err := parse([]string{"--agents", "0", "--members", "9", "--offset", "-1", "--advertise", "both", "--firn", "no/such/firn", "extra"}, io.Discard)
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{"--agents 0: want 1 to 9", "--members 9: want 1 to 5", "--offset -1", `--advertise "both": want direct or proxy`, "no/such/firn", "`make localstack` builds it", `"extra"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

func TestEveryPartHasAPortOfItsOwn(t *testing.T) {
	c, err := parse(append(programs(t), "--agents", "9", "--members", "5", "--offset", "100"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]string)
	for name, addr := range c.addrs() {
		if seen[addr] != "" {
			t.Errorf("%s and %s are both at %s", name, seen[addr], addr)
		}
		seen[addr] = name
	}
	if c.addrs()["haproxy.kafka"] != "127.0.0.1:9192" {
		t.Error(c.addrs())
	}
}

func TestADirectoryHoldsOneCluster(t *testing.T) {
	dir := t.TempDir()
	config := func(more ...string) *config {
		t.Helper()
		c, err := parse(append(append(programs(t), "--dir", dir), more...), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	release, err := config().claim()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config().claim(); err == nil || !strings.Contains(err.Error(), "is in use by another localstack") {
		t.Error(err)
	}
	release()
	if _, err := config("--members", "1").claim(); err == nil || !strings.Contains(err.Error(), "made with other settings") || !strings.Contains(err.Error(), "members=3 offset=0") {
		t.Error(err)
	}
	release, err = config("--agents", "5").claim() // agents may come and go
	if err != nil {
		t.Fatal(err)
	}
	release()
}
