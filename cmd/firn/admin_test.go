package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var rewrite = flag.Bool("rewrite", false, "write what came out into testdata and docs, for review as a diff")

// golden compares got with a file, after what differs from run to run is masked.
func golden(t *testing.T, path, got string) {
	t.Helper()
	for _, m := range []struct{ what, by string }{
		{`127\.0\.0\.1:\d+`, "127.0.0.1:PORT"},
		{`"port": \d+`, `"port": 1`},
		{`(id |"id": ")[A-Za-z0-9_-]{22}`, "${1}TOPIC-ID"},
		{`ADDRESS +`, "ADDRESS  "},
		{`"timestamp_ms":\d+`, `"timestamp_ms":1`},
		{`in \d+\.\d s, \d+ records/s, [0-9.]+ [KMG]?i?B/s`, "in TIME"},
		{`"seconds": [0-9.]+`, `"seconds": 1`},
	} {
		got = regexp.MustCompile(m.what).ReplaceAllString(got, m.by)
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs, go test ./cmd/firn -run %s -rewrite shows how; got\n%s", path, t.Name(), got)
	}
}

// What the commands print, as text and as JSON: the shapes that scripts rely on.
func TestOutputs(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID("kfake"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s := &shell{t, c, strings.Join(c.ListenAddrs(), ",")}
	var script strings.Builder
	for _, step := range []struct{ stdin, line string }{
		{"", "topic create orders --partitions 2 --replication-factor 1 --config retention.ms=1000 --config cleanup.policy=compact"},
		{"", "topic create audit --partitions 1 --replication-factor 1 -o json"},
		{"a|1\nb|\n", "produce orders --key-separator | --partition 0 --header h=x --timestamp @1700000000000"},
		{"{\"value\":\"hand-written\"}\n", "produce audit --format json -o json"},
		{"no separator\n", "produce orders --key-separator |"},
		{"", "topic list"},
		{"", "topic list -o json"},
		{"", "consume orders --from start --exit-at-end --format %t/%p/%o\\x20%T{rfc3339}\\x20%k=%v\\x20%h\\n"},
		{"", "consume orders --from start --exit-at-end -o json"},
		{"", "topic alter orders --partitions 3 --config retention.ms=2000 --delete-config cleanup.policy"},
		{"", "topic alter orders --partitions 4 --dry-run -o json"},
		{"", "topic alter orders --partitions 2"},
		{"", "topic describe audit"},
		{"", "topic describe orders missing"},
		{"", "topic describe orders -o json"},
		{"", "config set topic orders max.message.bytes=2000000"},
		{"", "config set topic audit retention.bytes=1 -o json"},
		{"", "config describe topic orders"},
		{"", "config describe topic orders -o json"},
		{"", "config list"},
		{"", "config list -o json"},
		{"", "config unset topic orders max.message.bytes retention.ms"},
		{"", "config describe topic orders"},
		{"", "config describe topic missing"},
		{"", "cluster describe"},
		{"", "topic delete-records orders --before -1 --partition 0 --yes"},
		{"", "topic delete-records orders --before end --yes -o json"},
		{"", "topic delete-records orders --before 99 --yes"},
		{"", "topic delete-records orders --before end --partition 9 --yes"},
		{"", "topic delete audit missing --yes"},
		{"", "topic delete orders --yes -o json"},
		{"", "topic list -o json"},
	} {
		r := s.run(step.stdin, strings.Fields(step.line)...)
		script.WriteString("$ firn " + step.line + "\n" + r.out + r.errOut)
		if r.code != exitOK {
			script.WriteString("exit code " + string(rune('0'+r.code)) + "\n")
		}
		script.WriteString("\n")
	}
	golden(t, filepath.Join("testdata", "outputs.txt"), script.String())
}

func TestClusterDescribe(t *testing.T) {
	s := newShell(t)
	var v clusterView
	if err := json.Unmarshal([]byte(s.must("", "cluster", "describe", "-o", "json")), &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Brokers) != 2 || v.ID == "" || v.Brokers[0].Port == 0 || len(v.Brokers[0].APIs) < 20 || v.Brokers[0].APIs[0].Name != "Produce" {
		t.Errorf("%+v", v)
	}
	out := s.must("", "cluster", "describe", "--apis")
	if !regexp.MustCompile(`KEY +API +BROKER 0 +BROKER 1\n0 +Produce +\d+-\d+ +\d+-\d+\n`).MatchString(out) {
		t.Errorf("%s", out)
	}
}

func TestBrokerSettings(t *testing.T) {
	s := newShell(t)
	out := s.must("", "config", "describe", "broker", "0", "--all")
	if !strings.HasPrefix(out, "KEY ") || strings.Count(out, "\n") < 2 {
		t.Errorf("%s", out)
	}
	if r := s.run("", "config", "describe", "broker", "77"); r.code != exitNotFound || !strings.Contains(r.errOut, "broker 77") {
		t.Errorf("missing broker: %+v", r)
	}
	refusal := s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.IncrementalAlterConfigs}, Err: kerr.InvalidConfig, Count: 1})
	if r := s.run("", "config", "set", "cluster", "log.retention.ms=x"); r.code != exitFailure || !strings.Contains(r.errOut, "INVALID_CONFIG") {
		t.Errorf("refused: %+v", r)
	}
	refusal.Remove()
}

// Sizes are shown where brokers serve them; a broker that does not is no reason to show nothing.
func TestDescribeWithoutSizes(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeLogDirs}, Err: kerr.UnsupportedVersion, Count: -1})
	if out := s.must("", "topic", "describe", "t"); !strings.Contains(out, "size -\n") {
		t.Errorf("%s", out)
	}
}

// asking runs a command line on a terminal where somebody types.
func (s *shell) asking(typed string, args ...string) result {
	var out, errOut bytes.Buffer
	code := run(s.t.Context(), env{
		Stdin: strings.NewReader(typed), Stdout: &out, Stderr: &errOut, Args: args,
		Getenv:   func(key string) string { return map[string]string{"FIRN_BROKERS": s.brokers}[key] },
		Log:      slog.New(slog.DiscardHandler),
		Terminal: func(any) (int, bool) { return 80, true },
	})
	return result{code, out.String(), errOut.String()}
}

func TestDestructiveCommandsAsk(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	s.must("x\n", "produce", "t")
	for _, typed := range []string{"", "no\n", "y\n", "YES\n"} {
		if r := s.asking(typed, "topic", "delete", "t"); r.code != exitFailure || !strings.Contains(r.errOut, "nothing was changed") || !strings.Contains(r.errOut, "delete topic t with all records? ") {
			t.Errorf("%q: %+v", typed, r)
		}
	}
	if r := s.asking("yes\n", "topic", "delete-records", "t", "--before", "end"); r.code != exitOK || r.out != "topic t partition 0: starts at offset 1\n" {
		t.Errorf("%+v", r)
	}
	if r := s.asking("yes", "topic", "delete", "t"); r.code != exitOK || r.out != "deleted t\n" {
		t.Errorf("%+v", r)
	}
	if r := s.run("yes\n", "topic", "delete", "t"); r.code != exitUsage { // a pipe is nobody who was asked
		t.Errorf("%+v", r)
	}
}

// A signal at the question ends the command at once, and nothing has happened.
func TestQuestionInterrupted(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := new(lines)
	done := make(chan int)
	go func() {
		done <- run(ctx, env{
			Stdin: r, Stdout: io.Discard, Stderr: asked, Args: []string{"topic", "delete", "t", "--brokers", s.brokers},
			Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
			Terminal: func(any) (int, bool) { return 80, true },
		})
	}()
	<-asked.wrote("Type yes")
	cancel()
	if code := <-done; code != exitInterrupted || !strings.Contains(asked.String(), "interrupted: nothing was changed") {
		t.Errorf("exit code %d, %s", code, asked)
	}
	if out := s.must("", "topic", "list"); !strings.Contains(out, "t ") {
		t.Errorf("%s", out)
	}
}

func TestDynamicCompletion(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "orders", "audit", "--partitions", "1")
	for line, want := range map[string]string{
		"topic describe ":                     "audit\norders\n",
		"topic describe orders ":              "audit\n",
		"topic delete-records orders ":        ":",
		"produce ":                            "audit\norders\n",
		"produce orders ":                     ":",
		"consume ":                            "audit\norders\n",
		"config describe ":                    "topic\nbroker\ncluster\n",
		"config describe topic ":              "audit\norders\n",
		"config describe broker ":             "0\n1\n",
		"config set topic orders ":            "retention.ms=\n",
		"config unset topic orders ":          "retention.ms\n",
		"topic create new --config ":          "retention.ms=\n",
		"topic alter orders --delete-config ": "retention.ms\n",
		"consume orders --from ":              "start\nend\n",
	} {
		words := append([]string{"__complete"}, strings.Split(line, " ")...)
		out := s.must("", words...)
		if !strings.Contains("\n"+out, "\n"+want) {
			t.Errorf("%q: %q, want %q", line, out, want)
		}
		if strings.HasSuffix(want, "=\n") && !strings.Contains(out, ":6\n") || !strings.HasSuffix(want, "=\n") && !strings.Contains(out, ":4\n") {
			t.Errorf("%q: another directive: %q", line, out)
		}
	}
	if r := execute(t.Context(), "127.0.0.1:1", "", "__complete", "topic", "describe", ""); r.code != exitOK || !strings.HasPrefix(r.out, ":4") {
		t.Errorf("without brokers: %+v", r)
	}
}

// Every class of error has its exit code, and a signal has its own.
func TestExitCodes(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "u", "--partitions", "1")
	for name, tt := range map[string]struct {
		fault kfake.Fault
		args  string
		code  int
	}{
		"refused":     {kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.InvalidTopicException, Count: 1}, "topic create x", exitFailure},
		"not allowed": {kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.ClusterAuthorizationFailed, Count: 1}, "topic create x", exitDenied},
		"not found":   {kfake.Fault{Keys: []kmsg.Key{kmsg.DeleteTopics}, Err: kerr.UnknownTopicOrPartition, Count: 1}, "topic delete t --yes", exitNotFound},
		"timeout":     {kfake.Fault{Keys: []kmsg.Key{kmsg.DeleteTopics}, Err: kerr.RequestTimedOut, Count: -1}, "topic delete t --yes --timeout 1s", exitNoAnswer},
	} {
		fault := s.cluster.Fault(tt.fault)
		if r := s.run("", strings.Fields(tt.args)...); r.code != tt.code {
			t.Errorf("%s: %+v, want exit code %d", name, r, tt.code)
		}
		fault.Remove()
	}
	ctx, cancel := context.WithCancel(t.Context())
	reads := s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Observe: true, Count: -1})
	done := make(chan result)
	go func() { done <- execute(ctx, s.brokers, "", "consume", "u", "--from", "start", "--count", "1") }()
	patience, giveUp := context.WithTimeout(t.Context(), 2*time.Minute)
	defer giveUp()
	if err := reads.Wait(patience, 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	if r := <-done; r.code != exitInterrupted || !strings.Contains(r.errOut, "interrupted: stopped after 0 records") {
		t.Errorf("interrupted: %+v", r)
	}
	help := execute(t.Context(), "", "", "--help").out
	for _, code := range []int{exitOK, exitFailure, exitUsage, exitCheck, exitNotFound, exitNoAnswer, exitDenied, exitInterrupted} {
		if !regexp.MustCompile(`(?m)^ +` + regexp.QuoteMeta(jsonNumber(code)) + `  `).MatchString(help) {
			t.Errorf("exit code %d is not in the help", code)
		}
	}
}

func jsonNumber(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}
