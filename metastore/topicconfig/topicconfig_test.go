package topicconfig_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/firnlog/firn/metastore/topicconfig"
)

func of(m map[string]string) topicconfig.Get {
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

// Kafka's own table and what its own checks say of a few dozen values: name, type, default, cluster-wide names by
// precedence, accepted values; the first line has all values that were tried. Written by a small Java program against the
// published jars.
func TestKafkaAgrees(t *testing.T) {
	body, err := os.ReadFile("testdata/kafka-4.4.0.tsv")
	if err != nil {
		t.Fatal(err)
	}
	unquoted := func(fields []string) (list []string) {
		for _, f := range fields {
			v, err := strconv.Unquote(f)
			if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			list = append(list, v)
		}
		return list
	}
	lines := strings.Split(strings.TrimSpace(string(body)), "\n")
	tried := unquoted(strings.Split(lines[0], "\t")[1:])
	seen := make(map[string]bool)
	for _, line := range lines[1:] {
		f := strings.Split(line, "\t")
		name, typ, def, accepted := f[0], f[1], unquoted(f[2:3])[0], unquoted(f[4:])
		seen[name] = true
		s, ok := topicconfig.Lookup(name)
		if !ok {
			t.Errorf("%s is missing", name)
			continue
		}
		if s.Default != def || !strings.EqualFold(s.Type.String(), typ) {
			t.Errorf("%s: %s, default %q; Kafka has %s, %q", name, s.Type, s.Default, typ, def)
		}
		var synonyms []string
		for _, syn := range s.Synonyms {
			synonyms = append(synonyms, syn.Name)
		}
		if got := strings.Join(synonyms, ","); got != f[3] {
			t.Errorf("%s: cluster-wide %q, Kafka's %q", name, got, f[3])
		}
		for _, v := range tried {
			ours, kafkas := s.Check(v) == nil, slices.Contains(accepted, v)
			if ours != kafkas && !differs(name, v) {
				t.Errorf("%s=%q: accepted %v, by Kafka %v", name, v, ours, kafkas)
			}
		}
	}
	for _, s := range topicconfig.All() {
		if !seen[s.Name] && !strings.HasPrefix(s.Name, "firn.") {
			t.Errorf("%s is neither Kafka's nor ours", s.Name)
		}
	}
}

// differs lists where firn refuses on purpose what Kafka takes.
func differs(name, value string) bool {
	switch {
	case strings.HasPrefix(name, "remote.") && strings.EqualFold(strings.TrimSpace(value), "true"):
		return true // there is no tiered storage
	case value == "NaN":
		return true // no ratio
	}
	return value == " gzip " // which the rest of Kafka then does not know
}

func TestWhatKafka4RemovedIsRefusedWithTheReason(t *testing.T) {
	for name, why := range map[string]string{
		"message.format.version": "version 2", "message.downconversion.enable": "old consumers",
		"message.timestamp.difference.max.ms": "message.timestamp.before.max.ms", "log.retention.hours": "cluster-wide form of retention.ms",
	} {
		if err := topicconfig.Validate(name, "1"); !errors.Is(err, topicconfig.ErrUnknown) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := topicconfig.ValidateCluster("segment.ms", "1"); !errors.Is(err, topicconfig.ErrUnknown) || !strings.Contains(err.Error(), "log.roll.ms") {
		t.Errorf("a topic's config for the cluster: %v", err)
	}
}

var rewrite = flag.Bool("rewrite", false, "write docs/topic-configs.md anew")

// docs/topic-configs.md is the table in words.
func TestDocumentation(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Topic configs

Generated from package metastore/topicconfig; a test holds it. After a change: ` + "`go test ./metastore/topicconfig -run Documentation -rewrite`" + `.

Names, types, defaults and accepted values are those of Apache Kafka 4.4, compared by a test with what Kafka's own jars say; what only firn
has starts with ` + "`firn.`" + `. A value comes from the first of: the topic's own config, a cluster-wide config by the name in the fourth column, the
default. Set them with any Kafka tool; an unknown name or a bad value is refused with INVALID_CONFIG and the reason.

`)
	groups := []struct {
		effect topicconfig.Effect
		title  string
	}{
		{topicconfig.InForce, "In force"}, {topicconfig.NotYet, "Kept for later"}, {topicconfig.NoEffect, "Without effect"},
		{topicconfig.DefaultOnly, "Only the default is accepted"},
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n| config | type | default | cluster-wide | accepted | meaning |\n| --- | --- | --- | --- | --- | --- |\n", g.title, g.effect)
		for _, s := range topicconfig.All() {
			if s.Effect != g.effect {
				continue
			}
			var synonyms []string
			for _, syn := range s.Synonyms {
				synonyms = append(synonyms, "`"+syn.Name+"`")
			}
			def := ""
			if s.Default != "" {
				def = "`" + s.Default + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", s.Name, s.Type, def, strings.Join(synonyms, ", "), s.AcceptedValues(), s.Doc)
		}
		b.WriteString("\n")
	}
	b.WriteString("## Configs of Kafka 3\n\nKafka 4 does not know them any more, nor does firn: they are refused.\n\n| config | why |\n| --- | --- |\n")
	for _, name := range slices.Sorted(maps.Keys(topicconfig.Removed())) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, topicconfig.Removed()[name])
	}
	const path = "../../docs/topic-configs.md"
	if *rewrite {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != b.String() {
		t.Errorf("docs/topic-configs.md is not what the table says (%v): run this test with -rewrite", err)
	}
}

func TestTableIsSound(t *testing.T) {
	all := topicconfig.All()
	if !slices.IsSortedFunc(all, func(a, b topicconfig.Spec) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("not sorted by name")
	}
	seen := make(map[string]string)
	for _, s := range all {
		if err := s.Check(s.Default); err != nil {
			t.Errorf("default: %v", err)
		}
		if s.Doc == "" || s.AcceptedValues() == "" || strings.HasPrefix(s.Type.String(), "Type(") {
			t.Errorf("%s is not described", s.Name)
		}
		for _, syn := range s.Synonyms {
			if syn.Scale < 1 {
				t.Errorf("%s: synonym %s has scale %d", s.Name, syn.Name, syn.Scale)
			}
			if other, ok := seen[syn.Name]; ok {
				t.Errorf("%s stands for both %s and %s", syn.Name, other, s.Name)
			}
			seen[syn.Name] = s.Name
			if got, _, ok := topicconfig.LookupCluster(syn.Name); !ok || got.Name != s.Name {
				t.Errorf("LookupCluster(%s) misses %s", syn.Name, s.Name)
			}
		}
	}
}

func TestValidate(t *testing.T) {
	const ok = ""
	for _, tc := range []struct{ name, value, why string }{
		{"cleanup.policy", "compact, delete", ok},
		{"cleanup.policy", "", ok},
		{"cleanup.policy", "compact,compact", ok},
		{"cleanup.policy", "compact,", "empty"},
		{"leader.replication.throttled.replicas", "0:1:2", "partition:broker pairs"},
		{"max.decompressed.message.bytes", "0", "1 to 2147483639"},
		{"retention.bytes", "-77", ok},
		{"cleanup.policy", "shrink", "accepted are lists of compact, delete"},
		{"retention.ms", "-1", ok},
		{"retention.ms", "-2", "at least -1"},
		{"retention.ms", "a week", "not a number"},
		{"retention.ms", "9223372036854775807", ok},
		{"retention.ms", "9223372036854775808", "not a number"},
		{"max.message.bytes", "2147483648", "not a number of type int"},
		{"segment.bytes", "1048576", ok},
		{"segment.bytes", "1048575", "at least 1048576"},
		{"compression.type", "zstd", ok},
		{"compression.type", "brotli", "accepted are"},
		{"compression.gzip.level", "0", "accepted are -1 and 1 to 9"},
		{"compression.zstd.level", "23", "-131072 to 22"},
		{"min.cleanable.dirty.ratio", "0.25", ok},
		{"min.cleanable.dirty.ratio", "1.1", "0 to 1"},
		{"min.cleanable.dirty.ratio", "NaN", "not a number"},
		{"preallocate", "TRUE", ok},
		{"preallocate", "yes", "true and false"},
		{"remote.storage.enable", "false", ok},
		{"remote.storage.enable", "True", "no tiered storage"},
		{"firn.durability", "bucket", ok},
		{"firn.durability", "wal", "from the bucket only"},
		{"firn.durability", "memory", "bucket, wal"},
		{"leader.replication.throttled.replicas", "*", ok},
		{"firn.storage.class", "GLACIER_IR", ok},
		{"firn.storage.class", "ARCHIVE-TIER_1", ok},
		{"firn.storage.class", "GLACIER", "cannot be read before they are restored"},
		{"firn.storage.transition.class", "DEEP_ARCHIVE", "cannot be read before they are restored"},
		{"firn.storage.class", "standard ia", "1 to 64 of A-Z"},
		{"firn.storage.class", "", "1 to 64 of A-Z"},
		{"firn.storage.transition.days", "-2", "-1 to 36500"},
		{"firn.object.lock.days", "40000", "0 to 36500"},
		{"firn.object.lock.mode", "COMPLIANCE", "none, governance, compliance"},
		{"firn.bucket.lifecycle", "on", "off, mirror, authoritative"},
	} {
		err := topicconfig.Validate(tc.name, tc.value)
		switch {
		case tc.why == ok && err != nil:
			t.Errorf("%s=%q: %v", tc.name, tc.value, err)
		case tc.why != ok && (!errors.Is(err, topicconfig.ErrInvalid) || !strings.Contains(err.Error(), tc.why)):
			t.Errorf("%s=%q: %v, want %q", tc.name, tc.value, err, tc.why)
		}
	}
	if err := topicconfig.Validate("retention.secs", "1"); !errors.Is(err, topicconfig.ErrUnknown) {
		t.Errorf("unknown name: %v", err)
	}
}

func TestValueComesFromTopicThenClusterThenDefault(t *testing.T) {
	s, _ := topicconfig.Lookup("retention.ms")
	cluster := map[string]string{"log.retention.hours": "2"}
	topic := map[string]string{}
	check := func(value string, source topicconfig.Source) {
		t.Helper()
		if v, src := s.Resolve(of(topic), of(cluster)); v != value || src != source {
			t.Errorf("got %s from %d, want %s from %d", v, src, value, source)
		}
	}
	check("7200000", topicconfig.FromCluster)
	cluster["log.retention.ms"] = "5000"
	check("5000", topicconfig.FromCluster)
	topic["retention.ms"] = "7"
	check("7", topicconfig.FromTopic)
	topic["retention.ms"] = "a value of the future"
	check("5000", topicconfig.FromCluster)
	clear(cluster)
	cluster["log.retention.hours"] = "-1"
	check("-1", topicconfig.FromCluster)
	clear(cluster)
	check("604800000", topicconfig.FromDefault)
}

func TestValidateCluster(t *testing.T) {
	for name, value := range map[string]string{"log.retention.hours": "12", "message.max.bytes": "100", "log.cleanup.policy": "compact"} {
		if err := topicconfig.ValidateCluster(name, value); err != nil {
			t.Error(err)
		}
	}
	for name, value := range map[string]string{"log.retention.hours": "9223372036854775807", "message.max.bytes": "-5"} {
		if err := topicconfig.ValidateCluster(name, value); !errors.Is(err, topicconfig.ErrInvalid) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	if err := topicconfig.ValidateCluster("retention.ms", "1"); !errors.Is(err, topicconfig.ErrUnknown) {
		t.Errorf("a topic's config set for the cluster: %v", err)
	}
}

func TestSettings(t *testing.T) {
	got := topicconfig.Parse(topicconfig.Unset, topicconfig.Unset)
	want := topicconfig.Settings{
		Delete: true, MaxMessageBytes: 1048588, MaxRecordBytes: 2147483639, TimestampBeforeMax: math.MaxInt64, TimestampAfterMax: 3600000,
		RetentionMS: 604800000, RetentionBytes: -1, SegmentMS: 604800000, DeleteRetentionMS: 86400000, MaxCompactionLagMS: math.MaxInt64,
		MinCleanableDirtyRatio: 0.5, WALReplicas: 2, WALAbandonMS: -1, TransitionDays: -1, TransitionClass: "STANDARD_IA",
	}
	if got != want {
		t.Errorf("defaults: %+v", got)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
	got = topicconfig.Parse(of(map[string]string{
		"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime", "max.message.bytes": " 10 ",
		"firn.wal.abandon.ms": "60000", "min.compaction.lag.ms": "5", "max.compaction.lag.ms": "4",
	}), topicconfig.Unset)
	if !got.Compact || got.Delete || !got.LogAppendTime || got.MaxMessageBytes != 10 {
		t.Errorf("set: %+v", got)
	}
	err := got.Check()
	if !errors.Is(err, topicconfig.ErrInvalid) || !strings.Contains(err.Error(), "min.compaction.lag.ms") ||
		!strings.Contains(err.Error(), "firn.wal.abandon.ms") {
		t.Errorf("contradictions: %v", err)
	}
}

func TestContradictionsBetweenTopicAndBucket(t *testing.T) {
	const ok = ""
	day := "86400000"
	for _, tc := range []struct {
		why     string
		configs map[string]string
	}{
		{ok, map[string]string{"firn.bucket.lifecycle": "mirror", "cleanup.policy": "compact"}},
		{ok, map[string]string{"firn.bucket.lifecycle": "authoritative"}},
		{"the last record of a key", map[string]string{"firn.bucket.lifecycle": "authoritative", "cleanup.policy": "compact,delete"}},
		{"needs cleanup.policy=delete", map[string]string{"firn.bucket.lifecycle": "authoritative", "cleanup.policy": ""}},
		{ok, map[string]string{"firn.object.lock.mode": "governance", "firn.object.lock.days": "30"}},
		{ok, map[string]string{"firn.object.lock.mode": "compliance", "firn.object.lock.days": "30", "retention.ms": day}},
		{"locks for no time", map[string]string{"firn.object.lock.mode": "compliance"}},
		{"locks nothing", map[string]string{"firn.object.lock.days": "3"}},
		{"on a compacted topic", map[string]string{"firn.object.lock.mode": "governance", "firn.object.lock.days": "1", "cleanup.policy": "compact"}},
		{"set retention.bytes=-1", map[string]string{"firn.object.lock.mode": "governance", "firn.object.lock.days": "1", "retention.bytes": "5"}},
		{ok, map[string]string{"firn.bucket.lifecycle": "mirror", "firn.storage.transition.days": "30", "retention.ms": "-1"}},
		{"needs firn.bucket.lifecycle mirror", map[string]string{"firn.storage.transition.days": "30", "retention.ms": "-1"}},
		{"before it is 30 days old", map[string]string{"firn.bucket.lifecycle": "mirror", "firn.storage.transition.days": "29", "retention.ms": "-1"}},
		{ok, map[string]string{"firn.bucket.lifecycle": "mirror", "firn.storage.transition.days": "1", "firn.storage.transition.class": "GLACIER_IR"}},
		{"not below the retention", map[string]string{"firn.bucket.lifecycle": "mirror", "firn.storage.transition.days": "30"}},
		{ok, map[string]string{ // the lock makes it longer
			"firn.bucket.lifecycle": "mirror", "firn.storage.transition.days": "30", "firn.object.lock.mode": "governance", "firn.object.lock.days": "31",
		}},
		{"put in already", map[string]string{
			"firn.bucket.lifecycle": "mirror", "firn.storage.transition.days": "30", "retention.ms": "-1", "firn.storage.class": "STANDARD_IA",
		}},
		{"put in already", map[string]string{
			"firn.bucket.lifecycle": "mirror", "firn.storage.transition.days": "30", "retention.ms": "-1", "firn.storage.transition.class": "STANDARD",
		}},
	} {
		err := topicconfig.Parse(of(tc.configs), topicconfig.Unset).Check()
		switch {
		case tc.why == ok && err != nil:
			t.Errorf("%v: %v", tc.configs, err)
		case tc.why != ok && (!errors.Is(err, topicconfig.ErrInvalid) || !strings.Contains(err.Error(), tc.why)):
			t.Errorf("%v: %v, want %q", tc.configs, err, tc.why)
		}
	}
}

func TestEffectiveRetentionIsTheLongerOfRetentionAndLock(t *testing.T) {
	parse := func(pairs ...string) topicconfig.Settings {
		m := make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return topicconfig.Parse(of(m), topicconfig.Unset)
	}
	for _, tc := range []struct {
		s     topicconfig.Settings
		ms    int64
		bytes int64
	}{
		{parse(), 604800000, -1},
		{parse("retention.ms", "-1", "retention.bytes", "7"), -1, 7},
		{parse("cleanup.policy", "compact", "retention.bytes", "7"), -1, -1},
		{parse("retention.ms", "5", "firn.object.lock.mode", "governance", "firn.object.lock.days", "2"), 2 * topicconfig.MSPerDay, -1},
		{parse("retention.bytes", "5", "firn.object.lock.mode", "governance", "firn.object.lock.days", "2"), 604800000, -1}, // as a cluster-wide change may leave it
		{parse("retention.ms", "-1", "firn.object.lock.mode", "governance", "firn.object.lock.days", "2"), -1, -1},
	} {
		if ms, bytes := tc.s.EffectiveRetentionMS(), tc.s.EffectiveRetentionBytes(); ms != tc.ms || bytes != tc.bytes {
			t.Errorf("%+v: %d ms, %d bytes, want %d, %d", tc.s, ms, bytes, tc.ms, tc.bytes)
		}
	}
}

func TestAComplianceLockOnlyGrows(t *testing.T) {
	lock := func(mode topicconfig.LockMode, days int32) topicconfig.Settings {
		return topicconfig.Settings{LockMode: mode, LockDays: days}
	}
	have := lock(topicconfig.LockCompliance, 10)
	for after, why := range map[topicconfig.Settings]string{
		lock(topicconfig.LockCompliance, 10): "", lock(topicconfig.LockCompliance, 11): "", lock(topicconfig.LockCompliance, 9): "only grows",
		lock(topicconfig.LockGovernance, 10): "cannot become governance", lock(topicconfig.LockNone, 0): "cannot become none",
	} {
		if got := have.Loosens(after); (got == "") != (why == "") || !strings.Contains(got, why) {
			t.Errorf("to %v for %d: %q, want %q", after.LockMode, after.LockDays, got, why)
		}
	}
	if got := lock(topicconfig.LockGovernance, 10).Loosens(lock(topicconfig.LockNone, 0)); got != "" {
		t.Error(got)
	}
}
