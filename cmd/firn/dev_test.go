package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines collects output and says when a line with a word was written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
	on  map[string]chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.buf.Write(p)
	for word, ch := range l.on {
		if strings.Contains(l.buf.String(), word) {
			close(ch)
			delete(l.on, word)
		}
	}
	return n, err
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// wrote returns a channel that is closed once word was written.
func (l *lines) wrote(word string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := make(chan struct{})
	if strings.Contains(l.buf.String(), word) {
		close(ch)
		return ch
	}
	if l.on == nil {
		l.on = make(map[string]chan struct{})
	}
	l.on[word] = ch
	return ch
}

// firn is a command line running in this process.
type firn struct {
	t      *testing.T
	out    *lines
	errs   *lines
	cancel context.CancelFunc
	code   chan int
}

func start(t *testing.T, args ...string) *firn {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &firn{t: t, out: new(lines), errs: new(lines), cancel: cancel, code: make(chan int, 1)}
	go func() {
		f.code <- run(ctx, env{
			Stdin: strings.NewReader(""), Stdout: f.out, Stderr: f.errs, Args: args,
			Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
		})
	}()
	t.Cleanup(cancel)
	return f
}

// ready waits for the banner and returns the kafka address in it.
func (f *firn) ready() string {
	f.t.Helper()
	select {
	case <-f.out.wrote("is ready"):
	case code := <-f.code:
		f.t.Fatalf("ended with %d: %s", code, f.errs)
	case <-time.After(2 * time.Minute):
		f.t.Fatalf("not ready: %s", f.errs)
	}
	<-f.out.wrote("try")
	for line := range strings.Lines(f.out.String()) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == "kafka" {
			return strings.TrimSpace(rest)
		}
	}
	f.t.Fatalf("no address in %q", f.out)
	return ""
}

// stop interrupts and returns the exit code.
func (f *firn) stop() int {
	f.t.Helper()
	f.cancel()
	select {
	case code := <-f.code:
		return code
	case <-time.After(2 * time.Minute):
		f.t.Fatal("did not end")
		return -1
	}
}

// once runs a command to its end.
func once(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs, Args: args,
		Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
	})
	return code, out.String(), errs.String()
}

func must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	code, out, errs := once(t, stdin, args...)
	if code != 0 {
		t.Fatalf("firn %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

var anyPort = []string{"--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0"}

func dev(t *testing.T, args ...string) *firn {
	t.Helper()
	return start(t, append(append([]string{"dev"}, anyPort...), args...)...)
}

// The whole product in one process: what was acknowledged is there after an orderly stop and a new start, and the
// metastore's history holds up.
func TestDevKeepsWhatItAcknowledged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for round, want := range []string{"one\n", "one\ntwo\n"} {
		f := dev(t, "--data-dir", dir)
		addr := f.ready()
		if round == 0 {
			must(t, "", "topic", "create", "events", "--brokers", addr)
		}
		must(t, strings.Split(want, "\n")[round]+"\n", "produce", "events", "--brokers", addr)
		if got := must(t, "", "consume", "events", "--from", "start", "--exit-at-end", "--brokers", addr); got != want {
			t.Fatalf("round %d: consumed %q, want %q", round, got, want)
		}
		etcd := field(t, f, "etcd")
		for _, verb := range []string{"status", "verify"} {
			got := must(t, "", "metastore", verb, "--etcd", etcd, "--bucket", "file://"+filepath.Join(dir, "bucket"))
			if !strings.Contains(got, "1 topics, 1 partitions") {
				t.Fatalf("metastore %s: %s", verb, got)
			}
		}
		if got := must(t, "", "metastore", "snapshot", "-o", "json", "--etcd", etcd, "--bucket", "file://"+filepath.Join(dir, "bucket")); !strings.Contains(got, `"object":"metastore/snapshot/`) {
			t.Fatalf("metastore snapshot: %s", got)
		}
		if code := f.stop(); code != 0 {
			t.Fatalf("exit code %d: %s", code, f.errs)
		}
	}
}

// The etcd inside is lost, the bucket is not.
func TestDevIsRestoredFromItsBucket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	f := dev(t, "--data-dir", dir)
	must(t, "", "topic", "create", "events", "--brokers", f.ready())
	must(t, "one\n", "produce", "events", "--brokers", f.ready())
	must(t, "", "metastore", "snapshot", "--etcd", field(t, f, "etcd"), "--bucket", "file://"+filepath.Join(dir, "bucket"))
	must(t, "two\n", "produce", "events", "--brokers", f.ready())
	f.stop()
	if err := os.RemoveAll(filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{append([]string{"dev", "--data-dir", dir}, anyPort...), "firn metastore restore"},
		{[]string{"metastore", "restore", "--dev", dir}, "--etcd-is-lost"},
		{[]string{"metastore", "restore", "--dev", t.TempDir(), "--etcd-is-lost"}, "holds no firn cluster"},
	} {
		if code, _, stderr := once(t, "", tt.args...); code != exitFailure || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: exit code %d: %s", tt.args, code, stderr)
		}
	}
	if got := must(t, "", "metastore", "restore", "--dev", dir, "--dry-run"); !strings.Contains(got, "nothing was changed") {
		t.Errorf("dry run: %s", got)
	}
	if got := must(t, "", "metastore", "restore", "--dev", dir, "--etcd-is-lost", "-o", "json"); !strings.Contains(got, `"epoch":2`) {
		t.Errorf("restore: %s", got)
	}
	if code, _, stderr := once(t, "", "metastore", "restore", "--dev", dir, "--etcd-is-lost"); code != exitFailure || !strings.Contains(stderr, "nothing to restore") {
		t.Errorf("twice: exit code %d: %s", code, stderr)
	}
	f = dev(t, "--data-dir", dir)
	if got := must(t, "", "consume", "events", "--from", "start", "--exit-at-end", "--brokers", f.ready()); got != "one\ntwo\n" {
		t.Errorf("consumed %q", got)
	}
	if code := f.stop(); code != 0 {
		t.Fatalf("exit code %d: %s", code, f.errs)
	}
}

func field(t *testing.T, f *firn, name string) string {
	t.Helper()
	for line := range strings.Lines(f.out.String()) {
		if key, rest, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key == name {
			return strings.Fields(rest)[0]
		}
	}
	t.Fatalf("no %s in %q", name, f.out)
	return ""
}

func TestDevInMemoryAndItsHTTP(t *testing.T) {
	f := dev(t, "--memory")
	addr := f.ready()
	must(t, "k:v\n", "produce", "events", "--key-separator", ":", "--brokers", addr)
	if got := must(t, "", "consume", "events", "--from", "start", "--exit-at-end", "--format", "%k=%v@%p/%o\\n", "--brokers", addr); got != "k=v@0/0\n" {
		t.Fatalf("consumed %q", got)
	}
	admin := field(t, f, "http")
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": `"ready":true`, "/metrics": "firn_ingest_staged_records_total 1", "/debug/pprof/cmdline": "",
	} {
		resp, err := http.Get(admin + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s %v, want %q in %.300s", path, resp.Status, err, want, body)
		}
	}
	if code := f.stop(); code != 0 {
		t.Fatalf("exit code %d: %s", code, f.errs)
	}
}

// What cannot work is said in one line, with what to do, and an exit code.
func TestDevRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	write := func(content string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "firn.json"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"taken kafka port", []string{"--kafka", taken.Addr().String(), "--http", "127.0.0.1:0", "--memory"}, exitFailure, "is taken by another program"},
		{"taken http port", []string{"--kafka", "127.0.0.1:0", "--http", taken.Addr().String(), "--memory"}, exitFailure, "--http"},
		{"directory is a file", append(anyPort, "--data-dir", file), exitFailure, "choose another with --data-dir"},
		{"newer format", append(anyPort, "--data-dir", write(`{"format":9,"agent":"a"}`)), exitFailure, "newer firn"},
		{"another cluster's", append(anyPort, "--data-dir", write(`{"format":1,"agent":"a","log_id":"00"}`)), exitFailure, "belongs to the cluster"},
		{"unknown bucket", append(anyPort, "--memory", "--bucket", "ftp://x"), exitUsage, "--bucket"},
		{"every address", []string{"--kafka", "0.0.0.0:0", "--http", "127.0.0.1:0", "--memory"}, exitUsage, "--advertise"},
		{"bad number", append(anyPort, "--memory", "--segment-bytes", "1"), exitUsage, "--segment-bytes: \"1\" must lie between 64KiB and 64MiB"},
		{"bad level", append(anyPort, "--memory", "--log-level", "loud"), exitUsage, "--log-level"},
		{"memory and directory", append(anyPort, "--memory", "--data-dir", "x"), exitUsage, "memory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, _, stderr := once(t, "", append([]string{"dev"}, tt.args...)...)
			said := 0
			for line := range strings.Lines(stderr) {
				if strings.HasPrefix(line, "firn: ") {
					said++
				}
			}
			if code != tt.code || said != 1 || !strings.Contains(stderr, tt.want) {
				t.Fatalf("exit code %d (want %d), want one line with %q, got: %s", code, tt.code, tt.want, stderr)
			}
		})
	}
}

// Two clusters must not share a bucket.
func TestDevRefusesAnotherClustersBucket(t *testing.T) {
	bucket := "file://" + t.TempDir()
	f := dev(t, "--data-dir", t.TempDir(), "--bucket", bucket)
	f.ready()
	if code := f.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	code, _, stderr := once(t, "", append([]string{"dev", "--data-dir", t.TempDir(), "--bucket", bucket}, anyPort...)...)
	if code != exitFailure || !strings.Contains(stderr, "the bucket belongs to log") {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
}
