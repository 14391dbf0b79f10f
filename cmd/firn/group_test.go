package main

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

func unmarshal[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// member joins a group and returns once it has partitions.
func (s *shell) member(group string, topics ...string) *kgo.Client {
	s.t.Helper()
	assigned := make(chan struct{}, 1)
	cl, err := kgo.NewClient(append(client.Options(strings.Split(s.brokers, ",")),
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topics...), kgo.InstanceID("first"), kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) {
			select {
			case assigned <- struct{}{}:
			default:
			}
		}))...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cl.Close)
	select {
	case <-assigned:
	case <-time.After(2 * time.Minute):
		s.t.Fatal("no partitions after two minutes")
	}
	return cl
}

// What the group commands print, as text and as JSON.
func TestGroupOutputs(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s := &shell{t, c, strings.Join(c.ListenAddrs(), ",")}
	s.must("", "topic", "create", "orders", "--partitions", "3", "--replication-factor", "1")
	s.must("", "topic", "create", "clicks", "--partitions", "1", "--replication-factor", "1")
	s.must("a\nb\nc\n", "produce", "orders", "--partition", "0", "--timestamp", "@1700000000000")
	s.must("d\ne\n", "produce", "orders", "--partition", "1", "--timestamp", "@1700000001000")
	s.must("f\n", "produce", "clicks", "--timestamp", "@1700000001000")
	var script strings.Builder
	for _, line := range []string{
		"group list",
		"group reset billing --topic orders:0,1 --topic clicks --to-offset 1 --dry-run",
		"group list -o json",
		"group reset billing --topic orders:0,1 --topic clicks --to-offset 1",
		"group list",
		"group list --state stable",
		"group list --state empty --type Classic -o json",
		"group describe billing --seconds=false",
		"group describe billing --seconds=false -o json",
		"group describe billing missing --seconds=false",
		"group lag --seconds=false",
		"group lag billing --partitions --seconds=false",
		"group lag billing -o json --seconds=false",
		"group reset billing --all-topics --to-latest -o json",
		"group reset billing --all-topics --shift-by -2",
		"group reset billing --all-topics --shift-by 9223372036854775807",
		"group reset billing --topic orders --shift-by 1",
		"group reset billing --topic orders --to-offset 99",
		"group reset billing --topic orders --to-earliest",
		"group reset billing --topic orders:0 --topic orders:1 --to-datetime 2023-11-14T22:13:21Z",
		"group reset billing --topic orders --by-duration 1h",
		"group reset other --all-topics --to-earliest",
		"group reset billing --topic orders:7 --to-earliest",
		"group reset billing --topic nowhere --to-earliest",
		"group delete billing --topic clicks --topic orders:0 --yes",
		"group delete billing --topic orders:2 --yes -o json",
		"group describe billing --seconds=false",
		"group delete billing missing --yes",
		"group list -o json",
	} {
		r := s.run("", strings.Fields(line)...)
		script.WriteString("$ firn " + line + "\n" + r.out + r.errOut)
		if r.code != exitOK {
			script.WriteString("exit code " + string(rune('0'+r.code)) + "\n")
		}
		script.WriteString("\n")
	}
	golden(t, filepath.Join("testdata", "group-outputs.txt"), script.String())
}

// A group with members is described with them, and is neither reset nor deleted.
func TestGroupWithMembers(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "orders", "--partitions", "3")
	s.must("a\nb\n", "produce", "orders", "--partition", "1")
	cl := s.member("billing", "orders")
	if err := kadm.NewClient(cl).CommitAllOffsets(t.Context(), "none", nil); err != nil {
		t.Fatal(err)
	}
	v := unmarshal[[]describedGroupView](t, s.must("", "group", "describe", "billing", "-o", "json"))[0]
	if v.Lag != nil {
		t.Errorf("a lag of %d although nothing is committed", *v.Lag)
	}
	if l := unmarshal[[]lagView](t, s.must("", "group", "lag", "billing", "-o", "json"))[0]; l.Lag != nil || len(l.Partitions) != 3 || l.Partitions[1].Lag != nil {
		t.Errorf("lag: %+v", l)
	}
	if out := s.must("", "group", "lag", "billing"); !strings.Contains(out, "3           -    -") {
		t.Errorf("%s", out)
	}
	if len(v.Members) != 1 || *v.Members[0].InstanceID != "first" || v.State != "Stable" || assignedText(v.Members[0].Assigned) != "orders:0-2" {
		t.Errorf("%+v", v)
	}
	if len(v.Partitions) != 3 || v.Partitions[1].Committed != nil || v.Partitions[1].Lag != nil || *v.Partitions[1].LogEnd != 2 || v.Partitions[1].Member != v.Members[0].ID {
		t.Errorf("%+v", v.Partitions)
	}
	if r := s.run("", "group", "reset", "billing", "--topic", "orders", "--to-latest"); r.code != exitFailure || !strings.Contains(r.errOut, "it is Stable and has 1 members") || r.out != "" {
		t.Errorf("reset: %+v", r)
	}
	if r := s.run("", "group", "delete", "billing", "--yes"); r.code != exitFailure || !strings.Contains(r.errOut, "it has members, stop them first") {
		t.Errorf("delete: %+v", r)
	}
	if r := s.run("", "group", "delete", "billing", "--topic", "orders", "--yes"); r.code != exitFailure || !strings.Contains(r.errOut, "a member reads the topic") {
		t.Errorf("delete offsets: %+v", r)
	}
	if out := s.must("", "group", "describe", "billing"); !strings.Contains(out, "ASSIGNED") || !strings.Contains(out, "1 members, lag - records, - seconds") || !strings.Contains(out, "orders:0-2") {
		t.Errorf("%s", out)
	}
}

// Lag in seconds is the age of the first record that was not committed, not of the last one that was.
func TestGroupLagInSeconds(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "orders", "--partitions", "2")
	now := time.Now()
	for _, ago := range []time.Duration{3 * time.Hour, 2 * time.Hour, time.Hour} {
		s.must("x\n", "produce", "orders", "--partition", "0", "--timestamp", now.Add(-ago).Format(time.RFC3339))
	}
	s.must("x\n", "produce", "orders", "--partition", "1", "--timestamp", now.Add(-9*time.Hour).Format(time.RFC3339))
	s.must("", "group", "reset", "g", "--topic", "orders:0", "--to-offset", "1")
	s.must("", "group", "reset", "g", "--topic", "orders:1", "--to-latest")
	v := unmarshal[[]lagView](t, s.must("", "group", "lag", "-o", "json"))[0]
	if *v.Lag != 2 || v.LagSeconds == nil || *v.LagSeconds < 7200 || *v.LagSeconds > 7500 || *v.Partitions[1].LagSeconds != 0 {
		t.Errorf("%+v", v)
	}
	s.must("", "topic", "delete-records", "orders", "--before", "2", "--partition", "0", "--yes")
	if v := unmarshal[[]lagView](t, s.must("", "group", "lag", "g", "-o", "json"))[0]; *v.LagSeconds < 3600 || *v.LagSeconds > 3900 {
		t.Errorf("what was committed is deleted: %+v", v)
	}
}

func TestGroupUsage(t *testing.T) {
	s := newShell(t)
	for line, want := range map[string]string{
		"group list --state asleep":                         "choose from Empty",
		"group list --type kafka":                           "choose from Classic",
		"group reset g --topic t":                           "say where to",
		"group reset g --topic t --to-latest --to-earliest": "say where to",
		"group reset g --to-latest":                         "say which topics",
		"group reset g --to-latest --topic t --all-topics":  "say which topics",
		"group reset g --topic t --to-offset -1":            "-1 is below 0",
		"group reset g --topic t:x --to-latest":             `"x" in "t:x" is not a partition`,
		"group reset g --topic t: --to-latest":              "is not a partition",
		"group reset g --topic :1 --to-latest":              "names no topic",
		"group reset g --topic t --to-datetime yesterday":   "is no time",
		"group reset g --topic t --by-duration -1h":         "is no duration",
		"group reset g --topic t --by-duration soon":        "is no duration",
		"group reset --topic t --to-latest":                 "accepts 1 arg",
		"group describe":                                    "requires at least 1 arg",
		"group delete":                                      "requires at least 1 arg",
		"group delete g":                                    "add --yes",
		"consume t --group g --exit-at-end":                 "--exit-at-end",
		"consume t --group g --partition 1":                 "--partition",
	} {
		if r := s.run("", strings.Fields(line)...); r.code != exitUsage || !strings.Contains(r.errOut, want) {
			t.Errorf("%s: %+v, want %q", line, r, want)
		}
	}
	if r := s.run("", "consume", "t", "--group", ""); r.code != exitUsage {
		t.Errorf("empty group: %+v", r)
	}
}

func TestParseTopicPartitions(t *testing.T) {
	got, err := parseTopicPartitions([]string{"b:2,0", "a", "b:1,2", "c:1", "c"})
	want := []topicPartitions{{"b", []int{2, 0, 1}}, {"a", nil}, {"c", nil}}
	if err != nil || !slices.EqualFunc(got, want, func(a, b topicPartitions) bool {
		return a.topic == b.topic && slices.Equal(a.partitions, b.partitions)
	}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseTopicPartitions([]string{"a:-1"}); !errors.Is(err, client.ErrUsage) {
		t.Errorf("%v", err)
	}
}

func TestGroupCompletion(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "orders", "--partitions", "1")
	s.must("", "group", "reset", "billing", "--topic", "orders", "--to-latest")
	for line, want := range map[string]string{
		"group describe ":                  "billing\n",
		"group describe billing ":          ":",
		"group reset billing --topic ":     "orders\n",
		"group list --state ":              "Empty\nStable\n",
		"consume orders --group ":          "billing\n",
		"group delete billing --topic ":    "orders\n",
		"group reset billing --to-offset ": ":",
	} {
		if out := s.must("", append([]string{"__complete"}, strings.Split(line, " ")...)...); !strings.HasPrefix(out, want) || !strings.Contains(out, ":4\n") {
			t.Errorf("%q: %q, want %q", line, out, want)
		}
	}
}

// Each record is printed once to a group that comes and goes, and what was not printed was not committed.
func TestConsumeInGroup(t *testing.T) {
	s := newShell(t)
	s.must("", "topic", "create", "orders", "--partitions", "1")
	s.must("a\nb\nc\nd\n", "produce", "orders")
	if out := s.must("", "consume", "orders", "--group", "g", "--from", "start", "--count", "3"); out != "a\nb\nc\n" {
		t.Errorf("%q", out)
	}
	v := unmarshal[[]describedGroupView](t, s.must("", "group", "describe", "g", "-o", "json"))[0]
	if len(v.Members) != 0 || *v.Partitions[0].Committed != 3 || *v.Lag != 1 {
		t.Errorf("%+v", v)
	}
	if out := s.must("", "consume", "orders", "--group", "g", "--from", "start", "--count", "1"); out != "d\n" {
		t.Errorf("%q", out)
	}
	if r := s.run("", "consume", "missing", "--group", "g"); r.code != exitNotFound {
		t.Errorf("missing topic: %+v", r)
	}
}
