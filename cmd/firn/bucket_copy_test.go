package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBucketCopy(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(from, "firn-cluster.json"), `{"format":1,"log_id":"0101"}`)
	write(filepath.Join(from, "data/00/1/a-1"), "segment")
	copyTo := func(to string, args ...string) result {
		return execute(t.Context(), "", "", append([]string{"bucket", "copy", "--from", "file://" + from, "--to", "file://" + to}, args...)...)
	}
	r := copyTo(to)
	if r.code != exitOK || !strings.Contains(r.out, "1 copied") || !strings.Contains(r.out, "Next: stop every agent") {
		t.Fatalf("%d\n%s%s", r.code, r.out, r.errOut)
	}
	write(filepath.Join(from, "topics/aa/1/b-1"), "merged")
	r = copyTo(to, "--agents-are-stopped", "--retire-source", "--verify", "-o", "json")
	var v copyView
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || r.code != exitOK || v.Copied != 1 || v.Compared != 2 || !v.Final || !v.Retired {
		t.Fatalf("%d %v\n%s%s", r.code, err, r.out, r.errOut)
	}
	if got, err := os.ReadFile(filepath.Join(to, "topics/aa/1/b-1")); err != nil || string(got) != "merged" {
		t.Errorf("%q, %v", got, err)
	}
	r = copyTo(to)
	if r.code != exitUsage || !strings.Contains(r.errOut, "was moved to file://"+to) {
		t.Errorf("a source that was left: %d %s", r.code, r.errOut)
	}
	write(filepath.Join(from, "firn-cluster.json"), `{"format":1,"log_id":"0202"}`)
	r = copyTo(to)
	if r.code != exitUsage || !strings.Contains(r.errOut, "belongs to cluster 0101") {
		t.Errorf("a target of another cluster: %d %s", r.code, r.errOut)
	}
	write(filepath.Join(from, "firn-cluster.json"), `{"format":1,"log_id":"0101"}`)
	write(filepath.Join(to, "topics/aa/1/b-1"), "longer than merged")
	r = copyTo(to)
	if r.code != exitCheck || !strings.Contains(r.errOut, "topics/aa/1/b-1 has 6 bytes in the source and 18 in the target") {
		t.Errorf("another object: %d %s", r.code, r.errOut)
	}
}

func TestBucketCopyUsage(t *testing.T) {
	for line, want := range map[string]string{
		"":                                   "--from: needs the URL",
		"--from file:///a":                   "--to: needs the URL",
		"--from file:///a --to nonsense://b": "--to:",
		"--from file:///a --to file:///a/b":  "would copy itself",
		"--from file:///a/b --to file:///a":  "would copy itself",
		"--from minio://a/p?endpoint=http://x:1 --to minio://a/p/?endpoint=http://x:1": "would copy itself",
		"--from minio://a?endpoint=http://x:1 --to s3://a/p?endpoint=http://x:1":       "would copy itself",
		"--from file:///a --to file:///b --parallel 0":                                 "--parallel: 0",
		"--from file:///a --to file:///b --retire-source":                              "--agents-are-stopped only",
	} {
		r := execute(t.Context(), "", "", append([]string{"bucket", "copy"}, strings.Fields(line)...)...)
		if r.code != exitUsage || !strings.Contains(r.errOut, want) {
			t.Errorf("%s: %d %s", line, r.code, r.errOut)
		}
	}
	for a, b := range map[string]string{
		"s3://a/p?endpoint=http://x:1": "s3://a/p?endpoint=http://y:1", "s3://a/p": "s3://a/q", "s3://a/p1": "s3://a/p", "file:///a": "file:///ab",
	} {
		if overlap(a, b) {
			t.Errorf("%s and %s are told to overlap", a, b)
		}
	}
}
