package lifecycle_test

import (
	"strings"
	"testing"

	"github.com/firnlog/firn/compaction/lifecycle"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// settings are those of a topic with these configs, name=value.
func settings(configs ...string) topicconfig.Settings {
	return topicconfig.Parse(func(name string) (string, bool) {
		for _, c := range configs {
			if k, v, _ := strings.Cut(c, "="); k == name {
				return v, true
			}
		}
		return "", false
	}, topicconfig.Unset)
}

func TestClassFollowsWhatTheTopicPromises(t *testing.T) {
	const mirror = "firn.bucket.lifecycle=mirror"
	for _, tc := range []struct {
		configs string
		label   string
		safe    int // 0: never
	}{
		{mirror, "firn-class=d8", 8},
		{mirror + " retention.ms=604800001", "firn-class=d9", 9},
		{mirror + " retention.ms=86400000", "firn-class=d2", 2},
		{mirror + " retention.ms=86399999", "firn-class=kept", 2},
		{mirror + " retention.ms=-1", "firn-class=kept", 0},
		{mirror + " retention.ms=-1 retention.bytes=1000", "firn-class=kept", 0},
		{mirror + " retention.ms=86400000 retention.bytes=1000", "firn-class=d2", 2},
		{mirror + " cleanup.policy=compact", "firn-class=kept", 0},
		{mirror + " cleanup.policy=compact,delete", "firn-class=kept", 0},
		{mirror + " cleanup.policy=", "firn-class=kept", 0},
		{mirror + " retention.ms=86400000 firn.object.lock.mode=governance firn.object.lock.days=30", "firn-class=d31", 31},
		{mirror + " retention.ms=9223372036854775807", "firn-class=kept", 0},
		// A record may be stamped so far ahead that a day does not cover it.
		{mirror + " message.timestamp.after.max.ms=43200000", "firn-class=d8", 8},
		{mirror + " message.timestamp.after.max.ms=43200001", "firn-class=d9", 9},
		{mirror + " message.timestamp.after.max.ms=9223372036854775807", "firn-class=kept", 0},
		{mirror + " message.timestamp.after.max.ms=9223372036854775807 message.timestamp.type=LogAppendTime", "firn-class=d8", 8},
		{mirror + " retention.ms=7776000000 firn.storage.transition.days=30", "firn-class=d91-t30-STANDARD_IA", 91},
		{mirror + " retention.ms=-1 firn.storage.transition.days=0 firn.storage.transition.class=COLD-TIER", "firn-class=kept-t0-COLD-TIER", 0},
		{mirror + " firn.storage.transition.days=30", "firn-class=d8", 8}, // as a cluster-wide change may leave it
		{"", "=", 8},
		{"firn.bucket.lifecycle=authoritative", "firn-topic=orders", 8},
	} {
		s := settings(strings.Fields(tc.configs)...)
		l := lifecycle.LabelOf("orders", &s)
		if got := l.Key + "=" + l.Value; got != tc.label {
			t.Errorf("%s: %s, want %s", tc.configs, got, tc.label)
		}
		safe := lifecycle.SafeDays(&s)
		if want := tc.safe; safe != want && (want != 0 || safe < 1e9) {
			t.Errorf("%s: safe after %d days, want %d", tc.configs, safe, want)
		}
		c, why := lifecycle.ClassOf(&s)
		if back, ok := lifecycle.ParseClass(c.String()); !ok || back != c {
			t.Errorf("%s: class %v comes back as %v", tc.configs, c, back)
		}
		if c.ExpireDays > 0 && c.ExpireDays < safe || (c.ExpireDays == 0) != (why != "") {
			t.Errorf("%s: class %v, where %d days are safe; %q", tc.configs, c, safe, why)
		}
	}
	for _, s := range []string{"", "d", "d0", "d08", "8", "kept-t", "kept-t3-", "d8-tx-A", "d8t30"} {
		if c, ok := lifecycle.ParseClass(s); ok {
			t.Errorf("%q is class %v", s, c)
		}
	}
}
