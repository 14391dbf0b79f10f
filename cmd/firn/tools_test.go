package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// The tools against firn itself: a topic's whole life.
func TestToolsAgainstFirn(t *testing.T) {
	f := dev(t, "--memory")
	addr := f.ready()
	do := func(stdin string, args ...string) string {
		t.Helper()
		return must(t, stdin, append(args, "--brokers", addr)...)
	}
	do("", "topic", "create", "orders", "--partitions", "2", "--config", "retention.ms=86400000")
	do("a|1\nb|NULL\nc|\n", "produce", "orders", "--key-separator", "|", "--null-value", "NULL", "--partition", "1", "--header", "h=x", "--codec", "zstd", "--timestamp", "@1700000000000")
	printed := do("", "consume", "orders", "--from", "start", "--exit-at-end", "-o", "json")
	do(printed, "produce", "copy", "--format", "json", "--keep-partitions=false", "--partition", "0")
	copied := do("", "consume", "copy", "--from", "start", "--exit-at-end", "-o", "json")
	if want := strings.NewReplacer(`"topic":"orders","partition":1`, `"topic":"copy","partition":0`).Replace(printed); copied != want || strings.Count(copied, "\n") != 3 {
		t.Errorf("copied\n%s\nwant\n%s", copied, want)
	}
	do("", "topic", "alter", "orders", "--partitions", "3", "--config", "cleanup.policy+=compact", "--delete-config", "retention.ms")
	var described []describedView
	if err := json.Unmarshal([]byte(do("", "topic", "describe", "orders", "-o", "json")), &described); err != nil {
		t.Fatal(err)
	}
	d := described[0]
	if len(d.Partitions) != 3 || *d.Partitions[1].HighWatermark != 3 || d.SizeBytes == nil || *d.Partitions[1].SizeBytes == 0 ||
		len(d.Configs) != 1 || *d.Configs[0].Value != "delete,compact" || *d.Configs[0].Default != "delete" {
		t.Errorf("%+v", d)
	}
	do("", "config", "set", "topic", "orders", "max.message.bytes=2000000")
	if out := do("", "config", "list"); !strings.Contains(out, "topic orders  max.message.bytes  2000000") {
		t.Errorf("%s", out)
	}
	for _, args := range [][]string{{"config", "unset", "topic", "orders", "retnetion.ms"}, {"topic", "alter", "orders", "--delete-config", "retnetion.ms"}} {
		if code, _, stderr := once(t, "", append(args, "--brokers", addr)...); code != exitNotFound || !strings.Contains(stderr, "topic orders has no setting retnetion.ms") {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	}
	do("", "config", "unset", "topic", "orders", "max.message.bytes", "cleanup.policy")
	if out := do("", "config", "describe", "topic", "orders"); out != "KEY  VALUE  SOURCE  DEFAULT\n" {
		t.Errorf("%s", out)
	}
	if out := do("", "topic", "delete-records", "orders", "--before", "-1", "--partition", "1", "--yes"); out != "topic orders partition 1: starts at offset 2\n" {
		t.Errorf("%s", out)
	}
	if out := do("", "consume", "orders", "--from", "start", "--exit-at-end", "--format", "%o%k "); out != "2c " {
		t.Errorf("%q", out)
	}
	if out := do("", "consume", "orders", "--from", "@1700000000000", "--to", "end", "--isolation", "committed", "--format", "%k"); out != "c" {
		t.Errorf("%q", out)
	}
	if out := do("", "cluster", "describe", "--apis"); !strings.Contains(out, "1 brokers") || !strings.Contains(out, "Produce") {
		t.Errorf("%s", out)
	}
	for _, tt := range []struct {
		line string
		code int
		want string
	}{
		{"config set topic orders max.message.bytes=many", exitFailure, "max.message.bytes"},
		{"topic create orders", exitFailure, "choose another name"},
		{"topic alter orders --partitions 1", exitFailure, "only gains more"},
		{"topic describe missing", exitNotFound, "firn topic list"},
		{"consume missing", exitNotFound, "firn topic list"},
		{"config describe broker 99", exitNotFound, "firn cluster describe"},
		{"topic delete-records orders --before 9 --yes", exitFailure, "9 lies outside"},
	} {
		code, _, errs := once(t, "", append(strings.Fields(tt.line), "--brokers", addr)...)
		if code != tt.code || !strings.Contains(errs, tt.want) {
			t.Errorf("%s: exit code %d, want %d: %s", tt.line, code, tt.code, errs)
		}
	}
	if out := do("", "topic", "delete", "orders", "copy", "--yes"); out != "deleted copy\ndeleted orders\n" {
		t.Errorf("%s", out)
	}
	if code := f.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, f.errs)
	}
}
