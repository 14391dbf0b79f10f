package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/cmd/firn/client"
)

func TestProduceAndConsume(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "2")
	for i, codec := range strings.Split(client.CodecNames, "|") {
		r := s.run("a:1\nb:\n:3:4\n", "produce", "t", "--key-separator", ":", "--codec", codec, "--partition", "1", "--header", "h=x", "--header", "i=")
		if r.code != exitOK || r.out != "" || !strings.HasPrefix(r.errOut, "3 records acknowledged, 0 failed; ") || strings.Count(r.errOut, "\n") != 1 {
			t.Fatalf("codec %s: %+v", codec, r)
		}
		from := []string{"0", "3", "6", "9", "12"}[i]
		out := s.must("", "consume", "t", "--from", from, "--exit-at-end", "--partition", "1", "--format", `%t/%p/%o %k=%v %h%%\n`)
		want := ""
		for j, record := range []string{"a=1", "b=", "=3:4"} {
			want += "t/1/" + []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14"}[3*i+j] + " " + record + " h=x,i=%\n"
		}
		if out != want {
			t.Errorf("codec %s: %q, want %q", codec, out, want)
		}
	}
	if out := s.must("", "consume", "t", "--from", "start", "--count", "4"); out != "1\n\n3:4\n1\n" {
		t.Errorf("count: %q", out)
	}
	if out := s.must("", "consume", "t", "--from", "end", "--exit-at-end"); out != "" {
		t.Errorf("from the end: %q", out)
	}
	if out := s.must("", "consume", "t", "--from", "2000-01-01T00:00:00Z", "--exit-at-end", "--format", "."); out != strings.Repeat(".", 15) {
		t.Errorf("from an old time: %q", out)
	}
	if out := s.must("", "consume", "t", "--from", "2100-01-01T00:00:00Z", "--exit-at-end", "--format", "."); out != "" {
		t.Errorf("from a time to come: %q", out)
	}
	if r := s.run("", "consume", "t", "--from", "16", "--partition", "1"); r.code != exitFailure || !strings.Contains(r.errOut, "0 up to, not including, 15") {
		t.Errorf("from beyond the end: %+v", r)
	}
	if r := s.run("", "consume", "t", "--partition", "7"); r.code != exitNotFound || !strings.Contains(r.errOut, "no partition 7, it has 2") {
		t.Errorf("missing partition: %+v", r)
	}
	if r := s.run("", "consume", "missing"); r.code != exitNotFound || !strings.Contains(r.errOut, "firn topic list") {
		t.Errorf("missing topic: %+v", r)
	}
}

func TestConsumeJSON(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	s.must("plain\n\xff\xfe\n", "produce", "t", "--idempotent=false", "--acks", "1")
	lines := strings.Split(strings.TrimSpace(s.must("", "consume", "t", "--from", "start", "--exit-at-end", "-o", "json")), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", lines)
	}
	var first, second recordView
	if err := errors.Join(json.Unmarshal([]byte(lines[0]), &first), json.Unmarshal([]byte(lines[1]), &second)); err != nil {
		t.Fatal(err)
	}
	if first.Key != nil || *first.Value.Text != "plain" || first.Offset != 0 || first.Timestamp == 0 {
		t.Errorf("%+v", first)
	}
	if second.Value.Text != nil || *second.Value.Base64 != "//4=" {
		t.Errorf("%+v", second)
	}
}

func TestProduceFailures(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	r := s.run("a:1\nno separator\nb:2\n", "produce", "t", "--key-separator", ":")
	if r.code != exitFailure || !strings.Contains(r.errOut, "1 records acknowledged, 0 failed; ") || !strings.Contains(r.errOut, "line 2") {
		t.Errorf("line without separator: %+v", r)
	}
	s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord, Count: 1})
	if r := s.run("x\n", "produce", "t"); r.code != exitFailure || !strings.Contains(r.errOut, "0 records acknowledged, 1 failed; ") || !strings.Contains(r.errOut, "INVALID_RECORD") {
		t.Errorf("refused record: %+v", r)
	}
	if r := s.run("x\n", "produce", "t", "--partition", "5"); r.code != exitNotFound || !strings.Contains(r.errOut, "no partition 5") {
		t.Errorf("missing partition: %+v", r)
	}
	if r := s.run("x\n", "produce", "missing"); r.code != exitNotFound || !strings.Contains(r.errOut, "UNKNOWN_TOPIC_OR_PARTITION") {
		t.Errorf("missing topic: %+v", r)
	}
	if r := s.run(strings.Repeat("x", lineBytesMax+1), "produce", "t"); r.code != exitFailure || !strings.Contains(r.errOut, "line 1") {
		t.Errorf("endless line: exit code %d, %.200q", r.code, r.errOut)
	}
}

// A signal during a read that blocks ends the command, and what was read before is sent.
func TestEachLineEndsWithItsContext(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var got []string
	go func() { _, _ = io.WriteString(w, "one\ntwo\n") }()
	err := eachLine(ctx, "input", r, func(number int, line []byte) error {
		got = append(got, string(line))
		if number == 2 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("%v, %q", err, got)
	}
}

// What was read of a line when reading failed is no record.
func TestEachLineSendsNoHalfOfOne(t *testing.T) {
	broken := errors.New("the disk is gone")
	var got []string
	err := eachLine(t.Context(), "input", io.MultiReader(strings.NewReader("one\ntwo\nhal"), iotest.ErrReader(broken)), func(_ int, line []byte) error {
		got = append(got, string(line))
		return nil
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "line 3") || !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("%v, %q", err, got)
	}
}

// Without --exit-at-end the command waits for more, and an interruption is its ordinary end.
func TestConsumeUntilInterrupted(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "t", "--partitions", "1")
	s.must("one\n", "produce", "t")
	ctx, cancel := context.WithCancel(t.Context())
	reads := s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Observe: true, Count: -1})
	done := make(chan result)
	go func() { done <- execute(ctx, s.brokers, "", "consume", "t", "--from", "start") }()
	if err := reads.Wait(t.Context(), 2); err != nil { // the second fetch waits at the end
		t.Fatal(err)
	}
	cancel()
	if r := <-done; r.code != exitOK || r.out != "one\n" {
		t.Errorf("%+v", r)
	}
}

func TestParsePosition(t *testing.T) {
	now := time.Date(2024, 3, 10, 12, 0, 0, 0, time.UTC)
	at := time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC)
	good := map[string]position{
		"start": {kind: "start"}, "end": {kind: "end"}, "0": {kind: "offset"}, "42": {kind: "offset", offset: 42},
		"-1": {kind: "back", offset: 1}, "-10": {kind: "back", offset: 10},
		"2024-03-01T12:00:00Z": {kind: "time", time: at}, "2024-03-01T13:00:00+01:00": {kind: "time", time: at},
		"@1709294400000": {kind: "time", time: at}, "-1h": {kind: "time", time: now.Add(-time.Hour)}, "-9d": {kind: "time", time: at},
		"-1h30m": {kind: "time", time: now.Add(-90 * time.Minute)},
	}
	for in, want := range good {
		if got, err := parsePosition("from", in, now); err != nil || got.kind != want.kind || got.offset != want.offset || !got.time.Equal(want.time) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "-0", "+5", "1.5", "2024-03-01", "begin", "99999999999999999999", "@", "@-1", "@x", "1h", "--1h", "-d", "-1w", "-99999999d"} {
		if got, err := parsePosition("from", in, now); !errors.Is(err, client.ErrUsage) || !strings.Contains(err.Error(), "--from") {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

func TestPositionIn(t *testing.T) {
	tests := []struct {
		position string
		atTime   int64
		want     int64
		fails    bool
	}{
		{position: "start", want: 10},
		{position: "end", want: 20},
		{position: "10", want: 10},
		{position: "20", want: 20},
		{position: "9", fails: true},
		{position: "21", fails: true},
		{position: "-1", want: 19},
		{position: "-100", want: 10},
		{position: "2024-03-01T12:00:00Z", atTime: 15, want: 15},
		{position: "2024-03-01T12:00:00Z", atTime: 25, want: 20}, // written since the end was listed
		{position: "2024-03-01T12:00:00Z", atTime: -1, want: 20},
	}
	for _, tt := range tests {
		p, err := parsePosition("from", tt.position, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.in(10, 20, tt.atTime); got != tt.want || (err != nil) != tt.fails {
			t.Errorf("%s: %d, %v", tt.position, got, err)
		}
	}
}

func TestFormat(t *testing.T) {
	r := &kgo.Record{
		Topic: "t", Partition: 3, Offset: 42, LeaderEpoch: 5, Timestamp: time.UnixMilli(1700000000123), Key: []byte("k"), Value: []byte("v"),
		Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "b"}},
	}
	good := map[string]string{
		"":                                    "",
		"plain":                               "plain",
		`%k %v %o %p %t %T %h`:                "k v 42 3 t 1700000000123 a=1,b=",
		`%%k\\n\n\t\r\x00\x7e%v`:              "%k\\n\n\t\r\x00~v",
		`%v%v`:                                "vv",
		`é%k`:                                 "ék",
		`%K %V %H %e`:                         "1 1 2 5",
		`%k{hex}%v{base64}`:                   "6bdg==",
		`%v{json} `:                           `"v" `,
		`%h{a} %h{b} %h{c} %h{a:hex} %h{x:y}`: "1   31 ",
		`%T{s} %T{rfc3339} %T{15:04}`:         "1700000000 2023-11-14T22:13:20.123Z 22:13",
		`%o{x} %%{}`:                          "42{x} %{}",
	}
	for layout, want := range good {
		f, err := parseFormat(layout)
		if err != nil {
			t.Errorf("%q: %v", layout, err)
			continue
		}
		if got := string(f.append(nil, r)); got != want {
			t.Errorf("%q: %q, want %q", layout, got, want)
		}
	}
	if f, err := parseFormat("[%k]"); err != nil || string(f.append(nil, &kgo.Record{})) != "[]" {
		t.Errorf("null key: %v", err)
	}
	bad := map[string]string{
		"%": "byte 1", "a%": "byte 2", "%z": "byte 2", `\`: "byte 1", `\q`: "byte 2", `\x`: "byte 2", `\x1`: "byte 2", `\xzz`: "byte 2",
		"%k{": "without a }", "%k{}": "nothing between", "%v{rot13}": "does not take {rot13}", "%T{now}": "does not take {now}", "%T{}": "nothing between",
	}
	for layout, want := range bad {
		if _, err := parseFormat(layout); !errors.Is(err, client.ErrUsage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", layout, err)
		}
	}
	// The help of the command documents every verb there is.
	for c := byte(1); c < 127; c++ {
		if (verb(c) != nil) != strings.Contains(formatHelp, "%"+string(c)+"  ") {
			t.Errorf("verb %q: known %t, but the help says otherwise", c, verb(c) != nil)
		}
	}
}

func FuzzParseFormat(f *testing.F) {
	f.Add(`%k\t%v\x0a%%`)
	f.Fuzz(func(t *testing.T, layout string) {
		compiled, err := parseFormat(layout)
		if err == nil {
			compiled.append(nil, &kgo.Record{})
		} else if !errors.Is(err, client.ErrUsage) {
			t.Fatal(err)
		}
	})
}
