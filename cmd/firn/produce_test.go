package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/cmd/firn/client"
)

// What consume -o json prints, produce --format json makes again: keys, values, headers, nulls, bytes and times.
func TestRecordsSurviveJSON(t *testing.T) {
	raw := rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOfN(rapid.Byte(), 0, 20), rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }))
	rapid.Check(t, func(t *rapid.T) {
		want := &kgo.Record{
			Topic: "t", Partition: rapid.Int32Range(0, 9).Draw(t, "partition"), Offset: 7,
			Timestamp: time.UnixMilli(rapid.Int64Range(0, 4e12).Draw(t, "ms")),
			Key:       raw.Draw(t, "key"), Value: raw.Draw(t, "value"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			want.Headers = append(want.Headers, kgo.RecordHeader{Key: rapid.String().Draw(t, "name"), Value: raw.Draw(t, "header")})
		}
		var line bytes.Buffer
		if err := writeJSONLine(&line, recordViewOf(want)); err != nil {
			t.Fatal(err)
		}
		got, err := parseRecord(line.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		type view struct {
			Key, Value []byte
			Headers    []kgo.RecordHeader
			Partition  int32
			Timestamp  int64
		}
		of := func(r *kgo.Record) view {
			return view{r.Key, r.Value, r.Headers, r.Partition, r.Timestamp.UnixMilli()}
		}
		if diff := cmp.Diff(of(want), of(got)); diff != "" {
			t.Fatalf("%s: %s", line.String(), diff)
		}
	})
}

func TestParseRecord(t *testing.T) {
	r, err := parseRecord([]byte(`{"key":"a","value":"b","headers":[{"key":"h","value":"1"},{"key":"n"}],"note":"passed over"}`))
	if err != nil || string(r.Key) != "a" || string(r.Value) != "b" || len(r.Headers) != 2 || r.Headers[1].Value != nil || !r.Timestamp.IsZero() {
		t.Errorf("%+v, %v", r, err)
	}
	for line, want := range map[string]string{
		``:                                    "not a record in JSON",
		`[]`:                                  "not a record in JSON",
		`{"value":"a"} x`:                     "not a record in JSON",
		`{"key":"a"}`:                         `no "value"`,
		`{"value":1}`:                         "value: neither",
		`{"value":{}}`:                        "value: neither",
		`{"value":{"text":"a","base64":""}}`:  "value: neither",
		`{"value":{"txt":"a"}}`:               "value: neither",
		`{"value":{"base64":"?"}}`:            "value: illegal base64",
		`{"value":null,"key":[]}`:             "key: neither",
		`{"value":null,"timestamp_ms":"now"}`: "timestamp_ms",
		`{"value":null,"headers":[{"key":"h","value":5}]}`: `header "h"`,
	} {
		if _, err := parseRecord([]byte(line)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"key":{"text":"a"},"value":{"base64":"//4="},"headers":[{"key":"h","value":null}],"timestamp_ms":1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRecord(line)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeJSONLine(&again, recordViewOf(r)); err != nil {
			t.Fatal(err)
		}
		if _, err := parseRecord(again.Bytes()); err != nil {
			t.Fatalf("%s: %v", again.String(), err)
		}
	})
}

func TestConsumeIntoProduce(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "from", "to", "--partitions", "3")
	input := `{"partition":2,"timestamp_ms":1700000000000,"key":{"base64":"//4="},"value":null,"headers":[{"key":"h","value":{"text":"x"}},{"key":"n","value":null}]}
{"partition":0,"timestamp_ms":1700000000001,"key":null,"value":{"text":""}}
{"partition":2,"timestamp_ms":1700000000002,"key":"","value":"plain"}
`
	s.must(input, "produce", "from", "--format", "json", "--keep-partitions")
	printed := s.must("", "consume", "from", "--from", "start", "--exit-at-end", "-o", "json")
	s.must(printed, "produce", "to", "--format", "json", "--keep-partitions")
	for _, partition := range []string{"0", "2"} { // across partitions there is no order
		args := []string{"--from", "start", "--exit-at-end", "-o", "json", "--partition", partition}
		from := s.must("", append([]string{"consume", "from"}, args...)...)
		to := s.must("", append([]string{"consume", "to"}, args...)...)
		if want := strings.ReplaceAll(from, `"topic":"from"`, `"topic":"to"`); to != want || from == "" {
			t.Errorf("partition %s:\n%s\nwant\n%s", partition, to, want)
		}
	}
	if out := s.must("", "consume", "to", "--from", "start", "--exit-at-end", "--partition", "2", "--format", `%k{hex}|%v|%V|%H|%h{h}|%T\n`); out != "fffe||-1|2|x|1700000000000\n|plain|5|0||1700000000002\n" {
		t.Errorf("%q", out)
	}
}

func TestProduceFlags(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	offset := 0
	for _, tt := range []struct {
		name, stdin, args, want string
	}{
		{"headers", "a=1,b=|k:v\n|k2:v2\n", "--headers-separator | --key-separator :", "k=v a=1,b= 2\nk2=v2  0\n"},
		{"one key", "x\ny\n", "--key same", "same=x  0\nsame=y  0\n"},
		{"an empty key", "x\n", "--key=", "=x  0\n"},
		{"null", "a:NULL\nb:x\nc:\n", "--key-separator : --null-value NULL", "a=  0\nb=x  0\nc=  0\n"},
		{"no last line end", "a\nb", "", "=a  0\n=b  0\n"},
		{"line ends of Windows", "a\r\nb\r\n", "", "=a  0\n=b  0\n"},
		{"empty lines", "\n\n", "", "=  0\n=  0\n"},
		{"nothing", "", "", ""},
		{"both headers", "a=1|v\n", "--headers-separator | --header b=2", "=v a=1,b=2 2\n"},
		{"several bytes between", "k--v\n", "--key-separator --", "k=v  0\n"},
		{"batches", "a\nb\nc\n", "--linger 0s --batch-bytes 1024 --partitioner round-robin", "=a  0\n=b  0\n=c  0\n"},
		{"sticky", "a\n", "--partitioner sticky", "=a  0\n"},
		{"dash", "a\n", "--file -", "=a  0\n"},
	} {
		s.must(tt.stdin, append([]string{"produce", "t"}, strings.Fields(tt.args)...)...)
		out := s.must("", "consume", "t", "--from", fmt.Sprint(offset), "--exit-at-end", "--format", `%k=%v %h %H\n`)
		if out != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, out, tt.want)
		}
		offset += strings.Count(tt.want, "\n")
	}
	if out := s.must("", "consume", "t", "--from", "start", "--exit-at-end", "--format", `%V.%K `); !strings.Contains(out, "-1.1 1.1 0.1") {
		t.Errorf("null is not empty: %q", out)
	}
	s.must("old\n", "produce", "t", "--timestamp", "2001-02-03T04:05:06.789Z")
	if out := s.must("", "consume", "t", "--from", "-1", "--exit-at-end", "--format", `%T %T{s} %T{rfc3339} %T{2006/01/02}`); out != "981173106789 981173106 2001-02-03T04:05:06.789Z 2001/02/03" {
		t.Errorf("timestamp: %q", out)
	}
	if r := s.run("a=1\n", "produce", "t", "--headers-separator", "|"); r.code != exitFailure || !strings.Contains(r.errOut, `line 1: no headers separator "|"`) {
		t.Errorf("no headers separator: %+v", r)
	}
	if r := s.run("a|v\n", "produce", "t", "--headers-separator", "|"); r.code != exitFailure || !strings.Contains(r.errOut, `line 1: headers: "a" is not key=value`) {
		t.Errorf("bad header: %+v", r)
	}
	if r := s.run("a\n{\n", "produce", "t", "--format", "json"); r.code != exitFailure || !strings.Contains(r.errOut, "standard input line 1: not a record in JSON") {
		t.Errorf("bad JSON: %+v", r)
	}
	if r := s.run("a\n", "produce", "t", "--quiet"); r.code != exitOK || r.out != "" || r.errOut != "" {
		t.Errorf("quiet: %+v", r)
	}
}

func TestProduceFiles(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one, two := write("one", "a\nb\n"), write("two", "c\n\xff")
	s.must("", "produce", "t", "--file", one, "--file", two)
	s.must("", "produce", "t", "--file", one, "--file", two, "--whole-file", "--key", "k")
	if out := s.must("", "consume", "t", "--from", "start", "--exit-at-end", "--format", `%k=%v{hex} `); out != "=61 =62 =63 =ff k=610a620a k=630aff " {
		t.Errorf("%q", out)
	}
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"missing":   {[]string{"--file", one, "--file", filepath.Join(dir, "missing")}, "missing: no such file"},
		"directory": {[]string{"--file", dir}, "is a directory"},
	} {
		if r := s.run("", append([]string{"produce", "t"}, tt.args...)...); r.code != exitFailure || !strings.Contains(r.errOut, tt.want) || strings.Contains(r.errOut, "acknowledged") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	bad := write("bad", "k:v\nno\n")
	if r := s.run("", "produce", "t", "--file", bad, "--key-separator", ":"); r.code != exitFailure || !strings.Contains(r.errOut, bad+` line 2: no key separator ":"`) {
		t.Errorf("bad line: %+v", r)
	}
	large := write("large", strings.Repeat("x", lineBytesMax+1))
	if r := s.run("", "produce", "t", "--file", large, "--whole-file"); r.code != exitFailure || !strings.Contains(r.errOut, large) {
		t.Errorf("large file: %.200s", r.errOut)
	}
	if r := s.run("small\n"+strings.Repeat("x", 2<<20)+"\n", "produce", "t"); r.code != exitFailure ||
		!strings.Contains(r.errOut, "1 records acknowledged, 1 failed") || !strings.Contains(r.errOut, "standard input line 2: ") || !strings.Contains(r.errOut, "--batch-bytes") {
		t.Errorf("large record: %.400s", r.errOut)
	}
	s.must("", "topic", "alter", "t", "--config", "max.message.bytes=4000000")
	s.must(strings.Repeat("x", 2<<20)+"\n", "produce", "t", "--batch-bytes", "3000000")
}

// Failures are named one by one up to a bound, and reading stops where the next record would fare no better.
func TestProduceStopsWhereItIsHopeless(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	endless := endlessLines{}
	done := make(chan result)
	go func() {
		var out, errOut bytes.Buffer
		code := run(t.Context(), env{
			Stdin: endless, Stdout: &out, Stderr: &errOut, Args: []string{"produce", "missing", "--brokers", s.brokers},
			Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
		})
		done <- result{code, out.String(), errOut.String()}
	}()
	r := <-done
	if r.code != exitNotFound || strings.Count(r.errOut, "UNKNOWN_TOPIC") != failuresNamed || !strings.Contains(r.errOut, "more records failed") {
		t.Errorf("exit code %d, %.500s", r.code, r.errOut)
	}
}

// endlessLines is an input without an end.
type endlessLines struct{}

func (endlessLines) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "x\n"[i%2]
	}
	return len(p) &^ 1, nil
}

// An interrupted produce sends what it has read, says so, and is not done.
func TestProduceInterrupted(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	produced := s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, Count: -1})
	var errOut bytes.Buffer
	done := make(chan int)
	go func() {
		done <- run(ctx, env{
			Stdin: r, Stdout: io.Discard, Stderr: &errOut, Args: []string{"produce", "t", "--brokers", s.brokers},
			Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
		})
	}()
	if _, err := io.WriteString(w, "one\ntwo\n"); err != nil {
		t.Fatal(err)
	}
	patience, giveUp := context.WithTimeout(t.Context(), 2*time.Minute)
	defer giveUp()
	if err := produced.Wait(patience, 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	if code := <-done; code != exitInterrupted || !strings.Contains(errOut.String(), "stopped after line 2") || !strings.Contains(errOut.String(), " 0 failed; ") {
		t.Errorf("exit code %d, %s", code, errOut.String())
	}
}

// A record that is not acknowledged in time is a failure, and the exit code says that nobody answered.
func TestProduceTimeout(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition, Count: -1})
	r := s.run("x\n", "produce", "t", "--timeout", "3s")
	if r.code != exitNoAnswer || !strings.Contains(r.errOut, "0 records acknowledged, 1 failed") {
		t.Errorf("%+v", r)
	}
}

// On a terminal a bar is drawn on standard error, and taken away before the counts; elsewhere there is none.
func TestProgressBar(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	path := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(path, []byte("a\nb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	produce := func(terminal bool, args ...string) string {
		var errOut bytes.Buffer
		code := run(t.Context(), env{
			Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &errOut, Args: append([]string{"produce", "t", "--file", path, "--brokers", s.brokers}, args...),
			Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
			Terminal: func(stream any) (int, bool) { return 60, terminal && stream == io.Writer(&errOut) },
		})
		if code != exitOK {
			t.Fatalf("exit code %d, %s", code, errOut.String())
		}
		return errOut.String()
	}
	if out := produce(true); !strings.Contains(out, "\r\x1b[K2 records acknowledged, 0 failed; ") {
		t.Errorf("%q", out)
	}
	if out := produce(false); strings.Contains(out, "\r") || !strings.HasPrefix(out, "2 records acknowledged") {
		t.Errorf("%q", out)
	}
	if r := s.asking("typed\n", "produce", "t"); r.code != exitOK || !strings.HasPrefix(r.errOut, "each line is a record; end with Ctrl-D") || strings.Contains(r.errOut, "\r") {
		t.Errorf("%+v", r)
	}
	if out := produce(true, "--quiet"); out != "" {
		t.Errorf("%q", out)
	}
}

func TestProgressLine(t *testing.T) {
	p := &progress{label: "orders", columns: 200, total: 1000}
	p.read.Store(450)
	p.records.Store(1200)
	p.bytes.Store(3 << 20)
	if got, want := p.line(2*time.Second), "orders  [=========           ]  45%  1200 records  3.0 MiB  600 records/s  1.5 MiB/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.total, p.columns = -1, 30
	p.failed.Store(2)
	if got, want := p.line(2*time.Second), "orders  1200 records  3.0 MiB"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.columns = 200
	if got := p.line(0); !strings.HasSuffix(got, "2 FAILED") {
		t.Errorf("%q", got)
	}
}

// brokenPipe is a standard output whose reader goes after some bytes.
type brokenPipe struct {
	left int
	err  error
}

func (b *brokenPipe) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: b.err}
	}
	return len(p), nil
}

func TestBrokenPipeIsQuiet(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	s.must("a\nb\n", "produce", "t")
	for _, tt := range []struct {
		err  error
		code int
	}{{syscall.EPIPE, exitOK}, {syscall.ENOSPC, exitFailure}} {
		var errOut bytes.Buffer
		code := run(t.Context(), env{
			Stdin: strings.NewReader(""), Stdout: &brokenPipe{err: tt.err}, Stderr: &errOut,
			Args:   []string{"consume", "t", "--from", "start", "--brokers", s.brokers},
			Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
		})
		if code != tt.code || (errOut.Len() == 0) != (code == exitOK) {
			t.Errorf("%v: exit code %d, %q", tt.err, code, errOut.String())
		}
	}
}

// A reader that has gone does not hide what the exit code has to say.
func TestBrokenPipeHidesNothing(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	for _, tt := range []struct {
		args []string
		code int
	}{
		{[]string{"topic", "delete", "missing", "--yes"}, exitNotFound},
		{[]string{"produce", "t", "--batch-bytes", "2048"}, exitFailure}, // the record is too large
	} {
		var errOut bytes.Buffer
		code := run(t.Context(), env{
			Stdin: strings.NewReader(strings.Repeat("x", 8<<10)), Stdout: &brokenPipe{err: syscall.EPIPE}, Stderr: &errOut,
			Args:   append(tt.args, "-o", "json", "--brokers", s.brokers),
			Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
		})
		if code != tt.code || errOut.Len() == 0 {
			t.Errorf("%v: exit code %d, %q", tt.args, code, errOut.String())
		}
	}
}

func TestConsumeRanges(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "u", "empty", "--partitions", "1")
	var input strings.Builder
	for i := range 10 {
		fmt.Fprintf(&input, `{"value":"%d","timestamp_ms":%d}`+"\n", i, 1700000000000+1000*int64(i))
	}
	s.must(input.String(), "produce", "t", "--format", "json")
	s.must("x\n", "produce", "u")
	for args, want := range map[string]string{
		"--from start --exit-at-end":                         "0123456789",
		"--from -3 --exit-at-end":                            "789",
		"--from -30 --to end":                                "0123456789",
		"--from 2 --to 5":                                    "234",
		"--from start --to -8":                               "01",
		"--from @1700000005000 --to end":                     "56789",
		"--from @1700000004001 --to 2023-11-14T22:13:27Z":    "56",
		"--from -1h --exit-at-end":                           "",
		"--from 5 --to 5":                                    "",
		"--from 7 --to 3":                                    "",
		"--from start --to -1h --count 2":                    "01",
		"--offset 0:8 --exit-at-end":                         "89",
		"--offset 0:-1 --from start --to 100 --exit-at-end":  "9",
		"--from 2 --count 1":                                 "2",
		"--from start --exit-at-end --isolation committed":   "0123456789",
		"--from -1 --exit-at-end --partition 0 --format %e.": "0.",
	} {
		format := []string{}
		if !strings.Contains(args, "--format") {
			format = []string{"--format", "%v"}
		}
		if out := s.must("", append(append([]string{"consume", "t"}, strings.Fields(args)...), format...)...); out != want {
			t.Errorf("%s: %q, want %q", args, out, want)
		}
	}
	if out := s.must("", "consume", "empty", "--exit-at-end"); out != "" {
		t.Errorf("empty: %q", out)
	}
	out := s.must("", "consume", "t", "empty", "u", "--from", "-2", "--exit-at-end", "--format", "%t:%v ")
	if strings.Count(out, " ") != 3 || !strings.Contains(out, "t:8 t:9 ") && !strings.Contains(out, "t:8 u:x t:9") || !strings.Contains(out, "u:x") {
		t.Errorf("several topics: %q", out)
	}
	if r := s.run("", "consume", "t", "missing", "--exit-at-end"); r.code != exitNotFound || !strings.Contains(r.errOut, `"missing"`) {
		t.Errorf("one of two missing: %+v", r)
	}
	if r := s.run("", "consume", "t", "--offset", "3:0", "--exit-at-end"); r.code != exitNotFound || !strings.Contains(r.errOut, "--offset: partition 3") {
		t.Errorf("offset of a missing partition: %+v", r)
	}
}

// The last offset before an end may never be delivered: an aborted record below the last stable offset. The command ends
// all the same.
func TestConsumeEndsAtWhatIsNeverDelivered(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	begin := func(id string) *kgo.Client {
		cl, err := kgo.NewClient(append(client.Options(strings.Split(s.brokers, ",")), kgo.TransactionalID(id), kgo.DefaultProduceTopic("t"))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), kgo.StringRecord(id)).FirstErr(); err != nil {
			t.Fatal(err)
		}
		return cl
	}
	aborted, open := begin("aborted"), begin("open")
	if err := aborted.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	if out := s.must("", "consume", "t", "--from", "start", "--exit-at-end", "--isolation", "committed"); out != "" {
		t.Errorf("%q", out)
	}
	if out := s.must("", "consume", "t", "--from", "start", "--exit-at-end"); out != "aborted\nopen\n" {
		t.Errorf("%q", out)
	}
	if err := open.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if out := s.must("", "consume", "t", "--from", "start", "--exit-at-end", "--isolation", "committed"); out != "open\n" {
		t.Errorf("%q", out)
	}
}

// With -o json the counts go to standard output, and the reasons to standard error as ever.
func TestProducedJSONCountsFailures(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord, Count: 1})
	r := s.run("x\n", "produce", "t", "-o", "json")
	var v producedView
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || r.code != exitFailure || v.Failed != 1 || v.Acknowledged != 0 || !strings.Contains(r.errOut, "INVALID_RECORD") {
		t.Errorf("%+v, %v", r, err)
	}
}
