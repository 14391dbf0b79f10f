package lifecycle_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/lifecycle"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
)

var site = lifecycle.Site{Cluster: "c1", Prefix: "logs/firn/"}

// topics are t1, t2, … with these configs each.
func topics(configs ...string) []lifecycle.Topic {
	list := make([]lifecycle.Topic, len(configs))
	for i, c := range configs {
		list[i] = lifecycle.Topic{ID: entry.UUID{0xaa, byte(i + 1)}, Name: fmt.Sprintf("t%d", i+1), Settings: settings(strings.Fields(c)...)}
	}
	return list
}

const (
	mirror  = "firn.bucket.lifecycle=mirror "
	follows = "firn.bucket.lifecycle=authoritative "
	locked  = "firn.object.lock.mode=governance firn.object.lock.days=30 "
)

func TestCheckFindsWhatContradictsTopics(t *testing.T) {
	rule := func(change func(*lifecycle.Rule)) []lifecycle.Rule {
		r := lifecycle.Rule{ID: "theirs", Enabled: true, Prefix: "logs/", ExpireDays: 7}
		change(&r)
		return []lifecycle.Rule{r}
	}
	none := func(*lifecycle.Rule) {}
	merged := func(r *lifecycle.Rule) { r.Prefix = "logs/firn/topics/" }
	tagged := func(key, value string) func(*lifecycle.Rule) {
		return func(r *lifecycle.Rule) { r.Tags = []lifecycle.Tag{{Key: key, Value: value}} }
	}
	both := []lifecycle.Rule{
		{ID: "a", Enabled: true, Prefix: "logs/firn/data/", NoncurrentDays: 3}, {ID: "b", Enabled: true, Prefix: "logs/firn/topics", NoncurrentDays: 3},
	}
	for _, tc := range []struct {
		why    string
		inv    lifecycle.Inventory
		topics []lifecycle.Topic
		want   []string // for each finding: severity and words of it
	}{
		{"nothing", lifecycle.Inventory{}, topics("", mirror), nil},
		{"a rule on everything", lifecycle.Inventory{Rules: rule(none)}, topics("", "retention.ms=-1"), []string{
			"loses|records of every topic", "loses|log archive", "loses|whose bucket", "loses|ledger", "loses|topic t2|age alone",
		}},
		{"a class that the store does not know", lifecycle.Inventory{ClassErr: map[string]error{"COLD": objstore.ErrStorageClass, "COOL": objstore.ErrDenied, "ICY": objstore.ErrInvalid}},
			topics("firn.storage.class=COLD", "", "firn.storage.class=COLD", "firn.storage.class=COOL"), []string{"stops|topic t1 and 1 more|class COLD|such as STANDARD", "unknown|topic t4|s3:PutObject"}},
		{"disabled", lifecycle.Inventory{Rules: rule(func(r *lifecycle.Rule) { r.Enabled = false })}, topics(""), nil},
		{"beside firn's", lifecycle.Inventory{Rules: rule(func(r *lifecycle.Rule) { r.Prefix = "logs/other/" })}, topics(""), nil},
		{"level 0", lifecycle.Inventory{Rules: rule(func(r *lifecycle.Rule) { r.Prefix = "logs/firn/data/3" })}, topics(""), []string{"loses|records of every topic"}},
		{"by size", lifecycle.Inventory{Rules: rule(func(r *lifecycle.Rule) { merged(r); r.SizeAbove = 1 << 20 })}, topics("cleanup.policy=compact"), []string{"loses|topic t1|compacted"}},
		{"long enough", lifecycle.Inventory{Rules: rule(merged)}, topics("retention.ms=604800000"), nil},
		{"too early", lifecycle.Inventory{Rules: rule(merged)}, topics("retention.ms=604800001", "", "retention.ms=9604800001"), []string{"loses|topic t1 and 1 more|safe from 9 days"}},
		{"one topic's", lifecycle.Inventory{Rules: rule(func(r *lifecycle.Rule) { r.Prefix = "logs/firn/topics/aa02" })}, topics("retention.ms=-1", "retention.ms=-1"), []string{"loses|topic t2"}},
		{"by date", lifecycle.Inventory{Rules: rule(func(r *lifecycle.Rule) {
			merged(r)
			r.ExpireDays, r.ExpireDate = 0, time.Date(2027, 1, 2, 0, 0, 0, 0, time.UTC)
		})}, topics(""), []string{"loses|2027-01-02"}},
		{"by a tag that objects do not carry", lifecycle.Inventory{Rules: rule(tagged("team", "x"))}, topics("retention.ms=-1"), nil},
		{"by the topic's tag", lifecycle.Inventory{Rules: rule(tagged("firn-topic", "t1"))}, topics(follows+"retention.ms=-1", follows), []string{"costs|topic t2|for ever"}},
		{"by a class's tag", lifecycle.Inventory{Rules: rule(tagged("firn-class", "kept"))}, topics(mirror + "retention.ms=-1"), []string{"loses|topic t1"}},
		{"firn's own, changed", lifecycle.Inventory{Rules: rule(func(r *lifecycle.Rule) {
			tagged("firn-class", "d8")(r)
			r.ID, r.ExpireDays = "firn/c1/class-d8", 2
		})}, topics(mirror), []string{"loses|somebody changed a rule"}},
		{"another cluster's", lifecycle.Inventory{Rules: rule(func(r *lifecycle.Rule) {
			merged(r)
			r.ID, r.ExpireDays = "firn/c2/class-d8", 2
		})}, topics(""), []string{"loses|another cluster's"}},
		{"asleep", lifecycle.Inventory{Rules: rule(func(r *lifecycle.Rule) {
			r.Prefix, r.ExpireDays, r.Moves = "", 0, []lifecycle.Move{{Days: 3, Class: "GLACIER"}}
		})}, topics(""), []string{"hides|records of every topic", "hides|log archive", "hides|whose bucket", "hides|ledger", "hides|topic t1|GLACIER_IR"}},
		{"reads at once", lifecycle.Inventory{Rules: rule(func(r *lifecycle.Rule) {
			r.Prefix, r.ExpireDays, r.Moves = "", 0, []lifecycle.Move{{Days: 30, Class: "STANDARD_IA"}}
		})}, topics(""), nil},
		{"versions", lifecycle.Inventory{Versioning: lifecycle.VersioningEnabled}, topics(""), []string{`costs|"logs/firn/data/" and "logs/firn/topics/"`}},
		{"versions that end", lifecycle.Inventory{Versioning: lifecycle.VersioningEnabled, Rules: both}, topics(""), nil},
		{"versions of which some are kept", lifecycle.Inventory{Versioning: lifecycle.VersioningSuspended, Rules: rule(func(r *lifecycle.Rule) {
			r.ExpireDays, r.NoncurrentDays, r.NoncurrentKeep = 0, 3, 2
		})}, topics(""), []string{"costs|suspended"}},
		{"lock by default", lifecycle.Inventory{Lock: lifecycle.BucketLock{Enabled: true, Mode: "COMPLIANCE", Days: 8}}, topics("", "retention.ms=-1"), []string{"costs|topic t1|8 days (compliance)"}},
		{"no lock", lifecycle.Inventory{}, topics("", locked), []string{"loses|topic t2|no object lock"}},
		{"locked", lifecycle.Inventory{Lock: lifecycle.BucketLock{Enabled: true}}, topics(locked), nil},
		{"may not look", lifecycle.Inventory{RulesErr: objstore.ErrDenied, VersioningErr: objstore.ErrDenied, LockErr: objstore.ErrDenied}, topics(locked), []string{
			"unknown|s3:GetLifecycleConfiguration", "unknown|s3:GetBucketVersioning", "unknown|s3:GetBucketObjectLockConfiguration",
		}},
		{"no such things", lifecycle.Inventory{RulesErr: objstore.ErrInvalid, VersioningErr: objstore.ErrInvalid, LockErr: objstore.ErrInvalid}, topics("", mirror, locked), []string{
			"loses|topic t3", "unknown|topic t2|no lifecycle rules",
		}},
	} {
		found := lifecycle.Check(site, &tc.inv, tc.topics, nil)
		ok := len(found) == len(tc.want)
		for i, want := range tc.want {
			for word := range strings.SplitSeq(want, "|") {
				ok = ok && strings.Contains(found[i].String(), word)
			}
		}
		if !ok {
			t.Errorf("%s: want %q, found:", tc.why, tc.want)
			for _, f := range found {
				t.Errorf("  %v", f)
			}
		}
	}
}

// A class that objects may still carry counts in a check too.
func TestCheckKnowsWhatObjectsMayCarry(t *testing.T) {
	list := topics(mirror + "retention.ms=8640000000")
	l := lifecycle.NewLedger(1)
	l.Observe(topics(mirror))
	l.Observe(list)
	rules := site.Rules(topics(mirror), nil, false)
	found := lifecycle.Check(site, &lifecycle.Inventory{Rules: rules}, list, l)
	if len(found) != 1 || found[0].Rule != "firn/c1/class-d8" || found[0].Topic != "t1" || !found[0].Fails() {
		t.Errorf("found %v", found)
	}
	if found := lifecycle.Check(site, &lifecycle.Inventory{Rules: rules}, list, nil); len(found) != 0 {
		t.Errorf("without a ledger: %v", found)
	}
}

func TestPlanMergesWithForeignRules(t *testing.T) {
	foreign := []lifecycle.Rule{
		{ID: "theirs", Enabled: true, Prefix: "other/", ExpireDays: 3}, {ID: "", Enabled: false, Prefix: "x"},
		{ID: "firn/c2/class-d8", Enabled: true, Prefix: "logs/two/topics/", ExpireDays: 8, Tags: []lifecycle.Tag{{Key: "firn-class", Value: "d8"}}},
	}
	want := topics(mirror, mirror+"retention.ms=86400000", "retention.ms=172800000", mirror+"cleanup.policy=compact")
	p, err := lifecycle.NewPlan(site, foreign, want, nil, false)
	if err != nil || !p.Changed() || len(p.Add) != 4 || len(p.Foreign) != 3 {
		t.Fatalf("first: %+v, %v", p, err)
	}
	rules := p.Rules()
	if !slices.EqualFunc(rules[:3], foreign, func(a, b lifecycle.Rule) bool { return a.String() == b.String() && a.ID == b.ID }) {
		t.Errorf("foreign rules changed: %v", rules[:3])
	}
	for _, r := range rules[3:] {
		if !strings.HasPrefix(r.ID, "firn/c1/") || r.ExpireDays > 0 && (r.Prefix != "logs/firn/topics/" || len(r.Tags) != 1) || len(r.Tags) > 0 && r.AbortDays > 0 {
			t.Errorf("rule %s: %v", r.ID, r)
		}
		if r.AbortDays > 0 && r.NoncurrentDays == 0 {
			t.Errorf("a rule of uploads alone: %v", r)
		}
	}
	if found := lifecycle.Check(site, &lifecycle.Inventory{Rules: rules, Versioning: lifecycle.VersioningEnabled}, want, nil); len(found) != 0 {
		t.Errorf("what is planned contradicts topics: %v", found)
	}
	for i := range rules { // a store that ends uploads by itself
		rules[i].AbortDays = 0
	}
	if p, err = lifecycle.NewPlan(site, rules, want, nil, false); err != nil || p.Changed() || len(p.Keep) != 4 {
		t.Errorf("again: %+v, %v", p, err)
	}
	rules[3].ExpireDays = 1
	if p, err = lifecycle.NewPlan(site, rules, want[1:2], nil, false); err != nil || len(p.Change)+len(p.Remove) != 2 || len(p.Keep) != 2 {
		t.Errorf("one topic left: %+v, %v", p, err)
	}
	var text bytes.Buffer
	if err := p.Write(&text); err != nil || !strings.Contains(text.String(), "- firn/c1/class-d8") || !strings.Contains(text.String(), "3 foreign left as they are") {
		t.Errorf("in words: %s, %v", text.String(), err)
	}
	if _, err := json.Marshal(p); err != nil {
		t.Error(err)
	}
	// Housekeeping stays where it was asked for, the rest goes with the last mirrored topic.
	if p, err = lifecycle.NewPlan(site, p.Rules(), topics(""), nil, false); err != nil || len(p.Rules()) != 5 || len(p.Foreign) != 3 {
		t.Errorf("none mirrored: %+v, %v", p.Rules(), err)
	}
	if p, err = lifecycle.NewPlan(site, nil, topics(""), nil, true); err != nil || len(p.Add) != 2 {
		t.Errorf("versions alone: %+v, %v", p, err)
	}
}

func TestPlanLeavesRoomForForeignRules(t *testing.T) {
	foreign := make([]lifecycle.Rule, lifecycle.MaxRules-3)
	for i := range foreign {
		foreign[i] = lifecycle.Rule{ID: fmt.Sprint(i), Enabled: true, Prefix: "x/", ExpireDays: 1}
	}
	if _, err := lifecycle.NewPlan(site, foreign, topics(mirror), nil, false); err != nil {
		t.Error(err)
	}
	_, err := lifecycle.NewPlan(site, append(foreign, lifecycle.Rule{ID: "one more"}), topics(mirror), nil, false)
	if !errors.Is(err, lifecycle.ErrTooManyRules) || !strings.Contains(err.Error(), "3 of firn's and 998 of others are 1001") {
		t.Errorf("too many: %v", err)
	}
}

func TestFollowTakesTheShortestRule(t *testing.T) {
	topic := topics(follows)[0]
	all := []lifecycle.Rule{
		{ID: "whole", Enabled: true, ExpireDays: 30},
		{ID: "merged", Enabled: true, Prefix: "logs/firn/topics/", ExpireDays: 20},
		{ID: "tagged", Enabled: true, Tags: []lifecycle.Tag{{Key: "firn-topic", Value: "t1"}}, ExpireDays: 10},
		{ID: "disabled", ExpireDays: 1},
		{ID: "another's", Enabled: true, Tags: []lifecycle.Tag{{Key: "firn-topic", Value: "t2"}}, ExpireDays: 2},
		{ID: "small", Enabled: true, SizeBelow: 10, ExpireDays: 3},
		{ID: "on a condition that firn does not know", Enabled: true, ExpireDays: 5, Unknown: []string{"Filter/LastReadBefore"}},
		{ID: "part", Enabled: true, Prefix: fmt.Sprintf("logs/firn/topics/%x/00", topic.ID[:]), ExpireDays: 4},
	}
	for n, want := range map[int]string{0: "0 ", 1: "30 whole", 2: "20 merged", 3: "10 tagged", len(all): "10 tagged"} {
		if days, rule := lifecycle.Follow(site, all[:n], &topic); fmt.Sprint(days, " ", rule) != want {
			t.Errorf("%d rules: %d %s, want %s", n, days, rule, want)
		}
	}
	day := 24 * time.Hour
	for age, want := range map[time.Duration]string{day: "", 3 * day: "", 10*day - 1: "", 10 * day: "tagged"} {
		if got := lifecycle.Covered(site, all[2:], &topic, age); got != want {
			t.Errorf("at %v: %q, want %q", age, got, want)
		}
	}
	if got := lifecycle.Covered(site, all, nil, 40*day); got != "whole" {
		t.Errorf("level 0: %q", got)
	}
}
