package check_test

import (
	"slices"
	"testing"

	"github.com/firnlog/firn/localstack/check"
)

// kept is a partition of a topic with a policy, as one reader is shown it.
type kept struct {
	t       *testing.T
	history *check.History
	log     []check.Record
}

func newKept(t *testing.T, p check.Policy) *kept {
	t.Helper()
	h, err := check.New(check.Config{Run: simRun, Partitions: 1, RecordsMax: 100, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	return &kept{t: t, history: h}
}

// add sends and acknowledges one record.
func (k *kept) add(key string, tombstone bool, at int64) {
	k.t.Helper()
	number, ok := k.history.Assign()
	if !ok {
		k.t.Fatal("no number left")
	}
	r := check.Record{Offset: int64(len(k.log)), Timestamp: at, Key: []byte(key)}
	identity := check.AppendValue(nil, check.Value{Run: simRun, Number: number}, 40)
	if tombstone {
		r.Headers = []check.Header{{Key: check.IdentityHeader, Value: identity}}
	} else {
		r.Value = identity
	}
	k.history.SendKept(number, 1, 0, check.BodyDigest(r.Key, r.Value), check.Kept{Key: r.Key, Tombstone: tombstone, SentMS: at})
	k.history.Ack(number, r.Offset)
	k.log = append(k.log, r)
}

// show is a reader from the start that does not see the offsets in missing.
func (k *kept) show(at int64, missing ...int64) *check.Reader {
	r := k.history.Reader()
	r.NowMS = at
	records := slices.DeleteFunc(slices.Clone(k.log), func(r check.Record) bool { return slices.Contains(missing, r.Offset) })
	r.Read(1, 0, records)
	return r
}

func TestCompactedTopics(t *testing.T) {
	policy := check.Policy{Compact: true, DeleteRetentionMS: 1000}
	tests := []struct {
		name string
		do   func(k *kept)
		want check.Kind
		ok   bool
	}{
		{"the older of two values is gone", func(k *kept) { k.show(20, 0) }, 0, true},
		{"the newer of two values is gone", func(k *kept) { k.show(20, 2) }, check.CompactedAway, false},
		{"the only value is gone", func(k *kept) { k.show(20, 4) }, check.Lost, false},
		{"an old tombstone and its value are gone", func(k *kept) { k.show(1014, 1, 3) }, 0, true},
		{"a fresh tombstone is gone", func(k *kept) { k.show(900, 1, 3) }, check.CompactedAway, false},
		{"gone before its successor was sent", func(k *kept) { k.show(11, 0) }, check.CompactedAway, false},
		{"the end of a batch is empty", func(k *kept) {
			r := k.show(2000, 3, 4)
			r.Skip(1, 0, 5)
		}, check.CompactedAway, false},
		{"the log start moves though nothing may be deleted", func(k *kept) {
			k.show(20)
			r := k.history.Reader()
			r.Expire(1, 0, 2)
		}, check.Gap, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newKept(t, policy)
			k.add("a", false, 10)
			k.add("b", false, 11)
			k.add("a", false, 12)
			k.add("b", true, 13)
			k.add("c", false, 14)
			tt.do(k)
			got := k.history.Finish([]int64{5})
			if tt.ok != (got.Verdict() == "") || !tt.ok && got.Counts.Of(tt.want) == 0 {
				t.Errorf("verdict %q: %v", got.Verdict(), got.Findings)
			}
		})
	}
}

// A record of unknown outcome may have been the last of its key, and then it is what took the place of one that is gone.
func TestUnknownOutcomesExcuseWhatTheyMayHaveReplaced(t *testing.T) {
	k := newKept(t, check.Policy{Compact: true})
	k.add("a", false, 10)
	k.add("b", false, 11)
	number, _ := k.history.Assign()
	k.history.SendKept(number, 1, 0, 0, check.Kept{Key: []byte("a"), SentMS: 12})
	k.history.Unknown(number)
	k.show(20, 0)
	if got := k.history.Finish([]int64{2}); got.Verdict() != "" {
		t.Errorf("verdict %q: %v", got.Verdict(), got.Findings)
	}
}

func TestExpiredRecords(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   int64
		want string
	}{
		{"old enough", 1012, ""},
		{"within what clocks are apart", 1007, ""},
		{"too young", 1005, "expired_early=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newKept(t, check.Policy{Delete: true, RetentionMS: 1000, SlackMS: 5})
			k.add("a", false, 10)
			k.add("b", false, 11)
			k.add("c", false, 20)
			r := k.history.Reader()
			r.NowMS = tt.at
			r.Expire(1, 0, 2)
			r.Read(1, 0, k.log[2:])
			if got := k.history.Finish([]int64{3}).Verdict(); got != tt.want {
				t.Errorf("verdict %q, want %q", got, tt.want)
			}
		})
	}
}
