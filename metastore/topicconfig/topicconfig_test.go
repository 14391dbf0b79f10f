package topicconfig_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/firnlog/firn/metastore/topicconfig"
)

func of(m map[string]string) topicconfig.Get {
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

// kafka42 lists the topic configs of Apache Kafka 4.2 with their defaults.
var kafka42 = map[string]string{
	"cleanup.policy": "delete", "compression.gzip.level": "-1", "compression.lz4.level": "9", "compression.type": "producer",
	"compression.zstd.level": "3", "delete.retention.ms": "86400000", "file.delete.delay.ms": "60000",
	"flush.messages": "9223372036854775807", "flush.ms": "9223372036854775807",
	"follower.replication.throttled.replicas": "", "index.interval.bytes": "4096",
	"leader.replication.throttled.replicas": "", "local.retention.bytes": "-2", "local.retention.ms": "-2",
	"max.compaction.lag.ms": "9223372036854775807", "max.message.bytes": "1048588",
	"message.timestamp.after.max.ms": "3600000", "message.timestamp.before.max.ms": "9223372036854775807",
	"message.timestamp.type": "CreateTime", "min.cleanable.dirty.ratio": "0.5", "min.compaction.lag.ms": "0",
	"min.insync.replicas": "1", "preallocate": "false", "remote.log.copy.disable": "false",
	"remote.log.delete.on.disable": "false", "remote.storage.enable": "false", "retention.bytes": "-1",
	"retention.ms": "604800000", "segment.bytes": "1073741824", "segment.index.bytes": "10485760", "segment.jitter.ms": "0",
	"segment.ms": "604800000", "unclean.leader.election.enable": "false",
}

func TestEveryKafkaConfigIsKnownWithItsDefault(t *testing.T) {
	for name, def := range kafka42 {
		s, ok := topicconfig.Lookup(name)
		if !ok {
			t.Errorf("%s is missing", name)
			continue
		}
		if s.Default != def {
			t.Errorf("%s defaults to %q, Kafka's to %q", name, s.Default, def)
		}
	}
	for _, s := range topicconfig.All() {
		if _, ok := kafka42[s.Name]; !ok && !strings.HasPrefix(s.Name, "firn.") {
			t.Errorf("%s is neither Kafka's nor ours", s.Name)
		}
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
		{"cleanup.policy", "compact,compact", "twice"},
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
		Delete: true, MaxMessageBytes: 1048588, TimestampBeforeMax: math.MaxInt64, TimestampAfterMax: 3600000,
		RetentionMS: 604800000, RetentionBytes: -1, DeleteRetentionMS: 86400000, MaxCompactionLagMS: math.MaxInt64,
		MinCleanableDirtyRatio: 0.5, WALReplicas: 2, WALAbandonMS: -1,
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
