package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/gc"
)

// Everything that operators ask of the collection, of a firn dev: what goes, what is missing, and what to do then.
func TestGC(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	f := dev(t, "--data-dir", dir, "--collection-interval", "1s", "--retention-interval", "1s")
	addr := f.ready()
	of := []string{"--etcd", field(t, f, "etcd"), "--bucket", "file://" + filepath.Join(dir, "bucket")}
	gcRun := func(args ...string) (int, string, string) {
		t.Helper()
		return once(t, "", append(append([]string{"gc"}, args...), of...)...)
	}
	gcMust := func(args ...string) string {
		t.Helper()
		return must(t, "", append(append([]string{"gc"}, args...), of...)...)
	}
	must(t, "", "topic", "create", "kept", "--brokers", addr)
	must(t, "", "topic", "create", "short", "--brokers", addr, "--config", "retention.bytes=0", "--config", "retention.ms=3600000")
	must(t, "one\n", "produce", "kept", "--brokers", addr)
	must(t, "two\n", "produce", "short", "--brokers", addr)

	if code, _, errs := once(t, "", "gc", "plan", "--dev", dir); code != exitFailure || !strings.Contains(errs, "end it, or leave it running and name its etcd with --etcd") {
		t.Errorf("--dev of one that runs: exit code %d: %s", code, errs)
	}

	// What a topic does not promise to keep goes, and then the object that held it.
	objects := func() (keys []string) {
		t.Helper()
		for _, root := range []string{"data", "topics"} {
			err := filepath.WalkDir(filepath.Join(dir, "bucket", root), func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					key, _ := filepath.Rel(filepath.Join(dir, "bucket"), path)
					keys = append(keys, filepath.ToSlash(key))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		return keys
	}
	for deadline := time.Now().Add(150 * time.Second); len(objects()) > 1; {
		if time.Now().After(deadline) {
			t.Fatalf("%v are there still; the plan: %s", objects(), gcMust("plan"))
		}
		time.Sleep(50 * time.Millisecond)
	}
	var plan gc.Plan
	if err := json.Unmarshal([]byte(gcMust("plan", "-o", "json")), &plan); err != nil {
		t.Fatal(err)
	}
	if plan.Objects["named"].Objects != 1 || len(plan.Retention) != 0 || plan.CollectionEpoch < 3 {
		t.Errorf("plan: %+v", plan)
	}
	if got := gcMust("verify", "--deep"); !strings.Contains(got, "nothing is missing or damaged") {
		t.Errorf("verify: %s", got)
	}
	if got := gcMust("run"); !strings.Contains(got, "1 objects, 1 of them named") {
		t.Errorf("run: %s", got)
	}

	// The object that is left goes missing.
	key := objects()[0]
	if code, _, stderr := gcRun("forget", key, "--yes"); code != exitFailure || !strings.Contains(stderr, "is in the bucket") {
		t.Errorf("forget what is there: exit code %d: %s", code, stderr)
	}
	if err := os.Remove(filepath.Join(dir, "bucket", filepath.FromSlash(key))); err != nil {
		t.Fatal(err)
	}
	if code, out, stderr := gcRun("verify"); code != exitCheck || !strings.Contains(out, key) || !strings.Contains(stderr, "missing") {
		t.Errorf("verify what is missing: exit code %d: %s %s", code, out, stderr)
	}
	if code, out, _ := gcRun("run", "-o", "json"); code != exitCheck || !strings.Contains(out, `"missing":1`) {
		t.Errorf("run with what is missing: exit code %d: %s", code, out)
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"forget", key}, exitUsage, "kept-0, offsets 0 to 0"},
		{[]string{"forget", "data/nonsense", "--yes"}, exitUsage, "not of the form"},
		{[]string{"forget", strings.Replace(key, "0000000000000001/", "0000000000000009/", 1), "--yes"}, exitFailure, "there is nothing to give up"},
		{[]string{"forget"}, exitUsage, "requires at least 1 arg"},
		{[]string{"plan", "-o", "xml"}, exitUsage, "text or json"},
	} {
		if code, _, stderr := gcRun(tt.args...); code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("gc %v: exit code %d, want %d: %s", tt.args, code, tt.code, stderr)
		}
	}
	if got := gcMust("forget", key, "--yes", "-o", "json"); !strings.Contains(got, `"moves_log_start":true`) || !regexp.MustCompile(`"topic_id":"[0-9a-f]{32}"`).MatchString(got) {
		t.Errorf("forget: %s", got)
	}
	must(t, "three\n", "produce", "kept", "--brokers", addr)
	if got := must(t, "", "consume", "kept", "--from", "start", "--exit-at-end", "--brokers", addr); got != "three\n" {
		t.Errorf("consumed %q", got)
	}
	if got := gcMust("approve", "--yes"); !strings.Contains(got, "log time is right") {
		t.Errorf("approve: %s", got)
	}
	if code := f.stop(); code != 0 {
		t.Fatalf("exit code %d: %s", code, f.errs)
	}
	if got := must(t, "", "gc", "approve", "--dev", dir, "--yes"); !strings.Contains(got, "log time is right") {
		t.Errorf("approve of a firn dev that is stopped: %s", got)
	}
	if got := must(t, "", "gc", "plan", "--dev", dir, "-o", "json"); !strings.Contains(got, `"objects":`) {
		t.Errorf("plan of a firn dev that is stopped: %s", got)
	}
	if got := must(t, "", "gc", "verify", "--dev", dir, "-o", "json"); !strings.Contains(got, `"objects":`) {
		t.Errorf("verify of a firn dev that is stopped: %s", got)
	}
}

// A request waits for an agent, and the command says so.
func TestGCWithoutAnAgent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	f := dev(t, "--data-dir", dir)
	f.ready()
	if code := f.stop(); code != 0 {
		t.Fatalf("exit code %d: %s", code, f.errs)
	}
	if code, _, stderr := once(t, "", "gc", "run", "--etcd", "127.0.0.1:1", "--bucket", "file://"+filepath.Join(dir, "bucket")); code == exitOK {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
