package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// find returns the files below dir, relative to it and sorted, whose path holds part.
func find(t *testing.T, dir, part string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(dir, path)
		if err == nil && relErr == nil && !d.IsDir() && strings.Contains(filepath.ToSlash(rel), part) {
			found = append(found, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

// Everything that a firn leaves behind can be looked into, beside the agent at work, and is sound.
func TestInspectWhatFirnWrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	f := dev(t, "--data-dir", dir)
	addr := f.ready()
	must(t, "", "topic", "create", "events", "--brokers", addr)
	must(t, "one\ntwo\n", "produce", "events", "--brokers", addr)
	bucket := "file://" + filepath.Join(dir, "bucket")

	if got := must(t, "", "inspect", "wal", filepath.Join(dir, "wal")); !strings.Contains(got, "recovery the log opens") {
		t.Errorf("wal: %s", got)
	}
	objects := find(t, filepath.Join(dir, "bucket"), "data/")
	if len(objects) == 0 {
		t.Fatal("no segment objects")
	}
	key := objects[0]
	file := filepath.Join(dir, "bucket", filepath.FromSlash(key))
	got := must(t, "", "inspect", "segment", "--bucket", bucket, key, "--records")
	for _, want := range []string{key, "intended append", `null "one"`, "sound"} {
		if !strings.Contains(got, want) {
			t.Errorf("segment: %q is not in %s", want, got)
		}
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if fromFile, fromStdin := must(t, "", "inspect", "segment", file, "-o", "json"), must(t, string(body), "inspect", "segment", "-", "-o", "json"); strings.ReplaceAll(fromFile, file, "standard input") != fromStdin {
		t.Errorf("file: %s\nstandard input: %s", fromFile, fromStdin)
	}

	// The entry that made the topic, by number, from the log at work.
	etcd := field(t, f, "etcd")
	var ops []string
	for n := 1; n <= 3; n++ {
		var e struct {
			Type string `json:"type"`
			N    int    `json:"n"`
			Ops  []struct {
				Op string `json:"op"`
			} `json:"ops"`
		}
		line, _, _ := strings.Cut(must(t, "", "inspect", "entry", "--etcd", etcd, "--bucket", bucket, "--n", string(rune('0'+n)), "-o", "json"), "\n")
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.N != n || e.Type != "entry" {
			t.Fatalf("n=%d: %v, %s", n, err, line)
		}
		for _, op := range e.Ops {
			ops = append(ops, op.Op)
		}
	}
	if len(ops) == 0 || ops[0] != "join" || !slices.Contains(ops, "create_topic") {
		t.Errorf("ops %v", ops)
	}
	if code, _, errs := once(t, "", "inspect", "entry", "--etcd", etcd, "--bucket", bucket, "--n", "999999"); code != exitFailure || !strings.Contains(errs, "no such entry") {
		t.Errorf("an entry beyond the head: %d, %s", code, errs)
	}
	if code := f.stop(); code != 0 {
		t.Fatalf("exit code %d: %s", code, f.errs)
	}

	// Damage is exit code 3, and says where.
	body[len(body)/3] ^= 1
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := once(t, "", "inspect", "segment", "--bucket", bucket, key)
	if code != exitCheck || !strings.Contains(out, "DAMAGE ") || !strings.Contains(errs, key) || !strings.Contains(errs, "position") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
}

func TestInspectExitCodes(t *testing.T) {
	golden := filepath.FromSlash("../../metastore/state/testdata/snapshot.v1")
	for _, tt := range []struct {
		line string
		code int
		want string // in standard error
	}{
		{"inspect snapshot " + golden, exitOK, ""},
		{"inspect snapshot " + golden + " --sha256 00", exitCheck, "SHA-256"},
		{"inspect segment " + golden, exitFailure, "use firn inspect snapshot"},
		{"inspect segment /does/not/exist", exitFailure, "/does/not/exist"},
		{"inspect segment .", exitFailure, "a directory"},
		{"inspect segment key --bucket mem://", exitFailure, "key"},
		{"inspect segment key --bucket gopher://x", exitUsage, "--bucket"},
		{"inspect segment", exitUsage, "1 arg"},
		{"inspect snapshot " + golden + " --rows", exitUsage, "--topic"},
		{"inspect snapshot " + golden + " --topic missing", exitFailure, `"missing"`},
		{"inspect entry", exitUsage, "--n"},
		{"inspect entry --etcd 127.0.0.1:1", exitUsage, "--n"},
		{"inspect wal .", exitFailure, "no WAL directory"},
		{"inspect everything", exitUsage, `"everything"`},
	} {
		code, out, errs := once(t, "", strings.Fields(tt.line)...)
		if code != tt.code || !strings.Contains(errs, tt.want) || code == exitUsage && out != "" {
			t.Errorf("firn %s: exit code %d, %q, %q", tt.line, code, errs, out)
		}
	}
}
