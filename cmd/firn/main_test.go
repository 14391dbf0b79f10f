package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell runs command lines against brokers.
type shell struct {
	t       *testing.T
	cluster *kfake.Cluster
	brokers string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &shell{t, c, strings.Join(c.ListenAddrs(), ",")}
}

// result is what a command line did.
type result struct {
	code        int
	out, errOut string
}

func (s *shell) run(stdin string, args ...string) result {
	s.t.Helper()
	return execute(s.t.Context(), s.brokers, stdin, args...)
}

// must runs a command line that has to succeed and returns its output.
func (s *shell) must(stdin string, args ...string) string {
	s.t.Helper()
	r := s.run(stdin, args...)
	if r.code != exitOK {
		s.t.Fatalf("firn %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.errOut)
	}
	return r.out
}

func execute(ctx context.Context, brokers, stdin string, args ...string) result {
	var out, errOut bytes.Buffer
	code := run(ctx, env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errOut, Args: args,
		Getenv: func(key string) string { return map[string]string{"FIRN_BROKERS": brokers}[key] },
		Log:    slog.New(slog.DiscardHandler),
	})
	return result{code, out.String(), errOut.String()}
}

// Every bad command line ends with code 2 and one line that names what is wrong; none of them reaches a broker.
func TestUsageErrors(t *testing.T) {
	tests := []struct {
		line string
		want string // in the message
	}{
		{"topik", "did you mean topic?"},
		{"topic creat", `"creat" is not a command of firn topic, did you mean create?; see firn topic --help`},
		{"--nonsense", "--nonsense"},
		{"version extra", `"extra"`},
		{"version -o yaml", "text, json"},
		{"topic create", "at least 1 arg"},
		{"topic create", "it goes as firn topic create TOPIC...; see"},
		{"topic create t --partitions x", `--partitions: "x" is not a whole number; see`},
		{"topic create t --partitions 99999999999999999999", "is not a whole number that this can be"},
		{"topic create t --config a=b --timeout 30", `--timeout: "30" is not a duration: write a number with its unit`},
		{"topic delete-records t --before end --partition x", `--partition: "x" is not whole numbers`},
		{"topic list --internal=maybe", `--internal: "maybe" is not true or false`},
		{"topic create t --partitions 0", "--partitions: 0"},
		{"topic create t --replication-factor 40000", "--replication-factor: 40000"},
		{"topic create t --config a", `--config: "a"`},
		{"topic list --timeout 0s", "--timeout: 0s"},
		{"topic list --timeout soon", "--timeout"},
		{"topic list --brokers nowhere", `"nowhere" is not host:port`},
		{"topic list extra", `"extra"`},
		{"topic delete", "at least 1 arg"},
		{"topic describe", "at least 1 arg"},
		{"produce", "accepts 1 arg(s)"},
		{"produce t --codec brotli", "none, gzip"},
		{"produce t --acks 2", "all, 1, 0"},
		{"produce t --acks 1", "--idempotent=false"},
		{"produce t --partition -2", "--partition: -2"},
		{"produce t --header x", `--header: "x"`},
		{"produce t --timeout 1ms", "--timeout: 1ms"},
		{"produce t --batch-bytes 1", "--batch-bytes: 1"},
		{"produce t --linger -1s", "--linger: -1s"},
		{"produce t --key-separator=", "--key-separator: it is empty"},
		{"produce t --headers-separator=", "--headers-separator: it is empty"},
		{"produce t --key k --key-separator :", "--key and --key-separator"},
		{"produce t --format json --key-separator :", "--key-separator: with --format json"},
		{"produce t --whole-file", "--whole-file: name the files"},
		{"produce t --keep-partitions", "--keep-partitions"},
		{"produce t --timestamp noon", `--timestamp: "noon"`},
		{"produce t --timestamp 5", `--timestamp: "5"`},
		{"produce t --partitioner random", "key, round-robin, sticky"},
		{"produce t --format csv", "lines, json"},
		{"consume", "at least 1 arg"},
		{"consume t --from yesterday", `--from: "yesterday"`},
		{"consume t --to tomorrow", `--to: "tomorrow"`},
		{"consume t --offset 3", `--offset: "3" is not partition:position`},
		{"consume t --offset x:3", `--offset: "x:3"`},
		{"consume t --offset 0:x", `--offset: "x"`},
		{"consume t --offset 0:1 --offset 0:2", "partition 0 is given twice"},
		{"consume t u --offset 0:1", "it is for one topic"},
		{"consume t --isolation serializable", "uncommitted, committed"},
		{"consume t --format %k{rot13}", "does not take {rot13}"},
		{"topic alter t", "nothing to alter"},
		{"topic alter t --partitions 0", "--partitions: 0"},
		{"topic alter t --config a", `--config: "a"`},
		{"topic alter t --config +=b", `--config: "+=b"`},
		{"topic alter t --config a=1 --delete-config a", "a is given twice"},
		{"topic delete t", "add --yes"},
		{"topic delete-records t", "--before: say up to where"},
		{"topic delete-records t --before x --yes", `--before: "x"`},
		{"topic delete-records t --before end", "add --yes"},
		{"config describe", "between 1 and 2 arg"},
		{"config describe orders", `"orders" has no settings`},
		{"config describe topic", "topic which?"},
		{"config describe broker one", `"one" is not the id of a broker`},
		{"config describe cluster x", `"x" is more than a cluster takes`},
		{"config set topic t", "nothing to set"},
		{"config set topic t a", `setting: "a"`},
		{"config unset topic t", "nothing to unset"},
		{"config unset topic t a=1", `"a=1" is not the key`},
		{"context set a/b --brokers x:1", `context name "a/b"`},
		{"context set a", "--brokers: a new context needs them"},
		{"context set a --brokers x:1", "set HOME"},
		{"context set a --brokers nowhere", `"nowhere" is not host:port`},
		{"context set a --brokers x:1 --sasl-user me", "name one place of the password"},
		{"context set a --brokers x:1 --tls-cert c.pem", "go together"},
		{"context set a --brokers x:1 --no-sasl --sasl-user me", "no-sasl"},
		{"consume t --count -1", "--count: -1"},
		{"consume t --format %q", "byte 2"},
		{"consume t --format %v -o json", "exclude each other"},
		{"verify --topics 0", "--topics: 0"},
		{"verify --codec brotli", "none, gzip"},
		{"verify --plant weeds", "--plant"},
		{"verify --config a=1 --config a=2", "twice"},
		{"completion bash extra", `"extra"`}, // cobra's own check
		{"bench --rate fast", "--rate"},
		{"bench --rate 5/s --max", "exclude each other"},
		{"bench --mode both", "produce, e2e"},
		{"bench --record-size 1", "--record-size: 1"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			r := execute(t.Context(), "127.0.0.1:1", "", strings.Fields(tt.line)...)
			if r.code != exitUsage || r.out != "" {
				t.Errorf("exit code %d, output %q", r.code, r.out)
			}
			if !strings.Contains(r.errOut, tt.want) || strings.Count(r.errOut, "\n") != 1 || !strings.HasPrefix(r.errOut, "firn: ") {
				t.Errorf("message %q, want one line with %q", r.errOut, tt.want)
			}
		})
	}
}

func TestEveryProblemHasALineOfItsOwn(t *testing.T) {
	r := execute(t.Context(), "", "", "verify", "--topics", "0", "--keys", "0")
	if r.code != exitUsage || strings.Count(r.errOut, "firn: --") != 2 {
		t.Errorf("exit code %d, %q", r.code, r.errOut)
	}
}

func TestUnreachableBrokers(t *testing.T) {
	for _, line := range []string{"topic list", "produce t", "consume t", "bench --mode produce", "config list", "cluster describe", "topic delete t --yes"} {
		r := execute(t.Context(), "127.0.0.1:1", "", strings.Fields(line)...)
		if r.code != exitNoAnswer || !strings.Contains(r.errOut, "127.0.0.1:1") {
			t.Errorf("firn %s: exit code %d, %q", line, r.code, r.errOut)
		}
	}
}

// Every command documents itself: a short text, and help for every flag.
func TestCommandsAreDocumented(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short help %q", cmd.CommandPath(), cmd.Short)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	root := newRoot(env{Getenv: func(string) string { return "" }})
	walk(root)
	r := execute(t.Context(), "", "")
	if r.code != exitOK || !strings.Contains(r.out, "Exit codes") {
		t.Errorf("exit code %d\n%s", r.code, r.out)
	}
	for _, sub := range root.Commands() {
		if r := execute(t.Context(), "", "", sub.Name(), "--help"); r.code != exitOK || !strings.Contains(r.out, "Usage:") {
			t.Errorf("help of %s: exit code %d\n%s", sub.Name(), r.code, r.out)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r := execute(t.Context(), "", "", "completion", shell); r.code != exitOK || !strings.Contains(r.out, "firn") {
			t.Errorf("%s: exit code %d", shell, r.code)
		}
	}
	if r := execute(t.Context(), "", "", "__complete", "produce", "t", "--codec", ""); !strings.Contains(r.out, "zstd") {
		t.Errorf("codecs are not completed: %q", r.out)
	}
}

func TestVersion(t *testing.T) {
	r := execute(t.Context(), "", "", "version")
	if r.code != exitOK || !strings.HasPrefix(r.out, "firn ") {
		t.Errorf("exit code %d, %q", r.code, r.out)
	}
	var b build
	r = execute(t.Context(), "", "", "version", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &b); err != nil || b.Version == "" || b.Commit == "" || !strings.HasPrefix(b.Go, "go") {
		t.Errorf("%v, %+v", err, b)
	}
}

func TestTopics(t *testing.T) {
	s := newShell(t)
	if out := s.must("", "topic", "create", "b", "a", "--partitions", "3", "--config", "retention.ms=1000"); out != "created b\ncreated a\n" {
		t.Errorf("create: %q", out)
	}
	if r := s.run("", "topic", "create", "a"); r.code != exitFailure || !strings.Contains(r.errOut, `topic "a"`) || !strings.Contains(r.errOut, "choose another name") {
		t.Errorf("create twice: %+v", r)
	}
	if out := s.must("", "topic", "list"); !regexp.MustCompile(`^TOPIC +PARTITIONS +REPLICAS\na +3 +\d\nb +3 +\d\n$`).MatchString(out) {
		t.Errorf("list: %q", out)
	}
	var list []topicView
	if err := json.Unmarshal([]byte(s.must("", "topic", "list", "-o", "json")), &list); err != nil || len(list) != 2 || list[1].Name != "b" || list[1].PartitionCount != 3 {
		t.Errorf("list: %v, %+v", err, list)
	}
	s.must("one\ntwo\n", "produce", "a", "--partition", "1")
	var described []describedView
	if err := json.Unmarshal([]byte(s.must("", "topic", "describe", "a", "-o", "json")), &described); err != nil || len(described) != 1 {
		t.Fatalf("describe: %v, %+v", err, described)
	}
	a := described[0]
	if len(a.Partitions) != 3 || *a.Partitions[1].HighWatermark != 2 || *a.Partitions[0].HighWatermark != 0 || len(a.ID) == 0 {
		t.Errorf("describe: %+v", a)
	}
	if len(a.Configs) != 1 || a.Configs[0].Key != "retention.ms" || *a.Configs[0].Value != "1000" {
		t.Errorf("settings: %+v", a.Configs)
	}
	if out := s.must("", "topic", "describe", "a", "--all"); !regexp.MustCompile(`retention.ms +1000 +DYNAMIC_TOPIC_CONFIG`).MatchString(out) || strings.Count(out, "\n") < 8 {
		t.Errorf("describe: %q", out)
	}
	if r := s.run("", "topic", "describe", "missing"); r.code != exitNotFound || !strings.Contains(r.errOut, `"missing"`) {
		t.Errorf("describe a missing topic: %+v", r)
	}
	if r := s.run("", "topic", "delete", "a", "missing", "--yes"); r.code != exitNotFound || r.out != "deleted a\n" || !strings.Contains(r.errOut, `"missing"`) {
		t.Errorf("delete: %+v", r)
	}
	if out := s.must("", "topic", "delete", "b", "--yes", "-o", "json"); !strings.Contains(out, `"deleted"`) {
		t.Errorf("delete: %q", out)
	}
	if out := s.must("", "topic", "list", "-o", "json"); out != "[]\n" {
		t.Errorf("list of nothing: %q", out)
	}
}

func TestVerifyCommand(t *testing.T) {
	s := newShell(t)
	args := []string{"verify", "--duration", "1s", "--rate", "1000", "--drain-timeout", "2m", "--json"}
	var fields map[string]any
	out := s.must("", args...)
	if err := json.Unmarshal([]byte(out), &fields); err != nil || fields["ok"] != true || strings.Count(out, "\n") != 1 {
		t.Errorf("%v, %q", err, out)
	}
	r := s.run("", append(args, "--plant", "flip-byte")...)
	if r.code != exitCheck || !strings.Contains(r.errOut, "check failed: ") || !strings.Contains(r.out, `"ok":false`) {
		t.Errorf("planted bug: %+v", r)
	}
}

func TestBenchCommand(t *testing.T) {
	s := newShell(t)
	// An acknowledgement has to come within the time that is measured: long enough for a machine that is busy.
	args := []string{"bench", "--duration", "3s", "--warmup", "0s", "--rate", "50/s", "--producers", "1"}
	if out := s.must("", args...); !strings.Contains(out, "replay") {
		t.Errorf("output %q", out)
	}
	var fields map[string]any
	if err := json.Unmarshal([]byte(s.must("", append(args, "--json", "--mode", "produce")...)), &fields); err != nil || fields["test"] != "bench" {
		t.Errorf("%v, %v", err, fields)
	}
	if r := s.run("", append(args, "--topic", "missing")...); r.code != exitNotFound || !strings.Contains(r.errOut, `"missing"`) {
		t.Errorf("missing topic: %+v", r)
	}
}
