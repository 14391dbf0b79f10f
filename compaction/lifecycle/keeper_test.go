package lifecycle_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/firnlog/firn/compaction/lifecycle"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

const hour, day = time.Hour, 24 * time.Hour

// cluster is a state machine of one agent, whose clock is now.
type cluster struct {
	t    *testing.T
	st   *state.State
	r    state.Results
	seq  uint64
	now  time.Time
	made uint64 // objects
	// views counts looks at the state.
	views int
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, st: state.New(state.Identity{ID: [16]byte{1}, Epoch: 1}), now: time.UnixMilli(1_700_000_000_000)}
	c.ok(&entry.Join{Name: "a", MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: "h", Port: 1}}})
	c.ok(&entry.SetFeatureLevel{Level: state.MaxFeatureLevel})
	return c
}

func (c *cluster) apply(op entry.Op) state.OpResult {
	c.t.Helper()
	c.seq++
	e := &entry.Entry{Incarnation: [16]byte{1}, Seq: c.seq, FeatureLevel: c.st.FeatureLevel(), ClockMs: c.now.UnixMilli(), Ops: []entry.Op{op}}
	if err := c.st.Apply(c.st.N()+1, e.AppendTo(nil), e, &c.r); err != nil || c.r.EntryCode != state.OK {
		c.t.Fatal(err, c.r.EntryCode)
	}
	return c.r.Ops[0]
}

func (c *cluster) ok(op entry.Op) {
	c.t.Helper()
	if r := c.apply(op); r.Code != state.OK {
		c.t.Fatalf("%T: %v", op, r.Code)
	}
}

func (c *cluster) View(fn func(*state.State)) {
	c.views++
	fn(c.st)
}

func (c *cluster) Barrier(context.Context) error    { return nil }
func (c *cluster) Incarnation() log.Incarnation     { return log.Incarnation{1} }
func (c *cluster) ClusterID() string                { return "c1" }
func (c *cluster) OwnsBucket(context.Context) error { return nil }
func (c *cluster) Propose(_ context.Context, op entry.Op) (state.OpResult, error) {
	return c.apply(op), nil
}

// topic makes a topic, or alters one that is there.
func (c *cluster) topic(name, configs string) entry.UUID {
	c.t.Helper()
	id := entry.UUID{0xbb}
	copy(id[1:], name)
	if c.st.TopicByID(id) == nil {
		c.ok(&entry.CreateTopic{Name: name, ID: id, Partitions: 1})
	}
	op := &entry.AlterConfigs{ResourceType: 2, ResourceName: name, ReplaceAll: true}
	for _, kv := range strings.Fields(configs) {
		k, v, _ := strings.Cut(kv, "=")
		op.Changes = append(op.Changes, entry.ConfigChange{Name: k, Value: v, Kind: entry.ConfigSet})
	}
	c.ok(op)
	return id
}

func (c *cluster) settings(id entry.UUID) topicconfig.Settings {
	return topicconfig.Parse(c.st.TopicByID(id).Config, topicconfig.Unset)
}

// merged appends a record to a topic and rewrites it into a merged object, whose key it returns.
func (c *cluster) merged(topic entry.UUID) string {
	c.t.Helper()
	c.made += 2
	id := entry.ObjectID{Incarnation: [16]byte{1}, Seq: c.made, CollectionEpoch: c.st.CollectionEpoch()}
	c.ok(&entry.Append{Object: id, ObjectSize: 100, Blocks: []entry.Block{{Topic: topic, Sizes: []uint64{50}, Spans: []uint64{1}, Timestamps: []int64{c.now.UnixMilli()}}}})
	rows := c.st.TopicByID(topic).Partition(0).LastRows(nil)
	row := rows[len(rows)-1]
	id.Seq, id.Topic = c.made+1, topic
	c.ok(&entry.Rewrite{Topic: topic, Objects: []entry.RewrittenObject{{ID: id, Size: 100}}, Parts: []entry.RewrittenPart{{
		Start: row.Base, End: row.End, Rows: 1, Digest: state.RowsDigest([]state.Row{row}),
		Replacement: []entry.RewrittenRow{{Base: row.Base, End: row.End, MaxTimestamp: row.MaxTimestamp, Size: uint64(row.Size)}},
	}}})
	return id.Key()
}

// shelf is a bucket's other side: rules, versions, locks and tags. What is in deny is refused, by name of the method.
type shelf struct {
	rules []lifecycle.Rule
	inv   lifecycle.Inventory
	tags  map[string][]lifecycle.Tag
	deny  map[string]error
	wrote int
	read  int
	// unknown are storage classes that rules may not move to; asked counts sets of rules, with those that were refused.
	unknown map[string]bool
	asked   int
}

func newShelf() *shelf {
	return &shelf{tags: make(map[string][]lifecycle.Tag), deny: make(map[string]error)}
}

func (s *shelf) KeyPrefix() string { return "p/" }

func (s *shelf) Rules(context.Context) ([]lifecycle.Rule, error) { return s.rules, s.deny["Rules"] }

func (s *shelf) SetRules(_ context.Context, rules []lifecycle.Rule) error {
	s.asked++
	if err := s.deny["SetRules"]; err != nil {
		return err
	}
	for _, r := range rules {
		for _, m := range r.Moves {
			if s.unknown[m.Class] {
				return fmt.Errorf("put rules: %w: request %d", objstore.ErrStorageClass, s.asked) // which it is, no store says
			}
		}
	}
	s.rules = slices.Clone(rules)
	s.wrote++
	return nil
}

func (s *shelf) Versioning(context.Context) (lifecycle.Versioning, error) {
	return s.inv.Versioning, s.deny["Versioning"]
}
func (s *shelf) Lock(context.Context) (lifecycle.BucketLock, error) {
	return s.inv.Lock, s.deny["Lock"]
}

func (s *shelf) Tags(_ context.Context, key string) ([]lifecycle.Tag, error) {
	s.read++
	if err := s.deny["Tags"]; err != nil {
		return nil, err
	}
	return slices.Clone(s.tags[key]), nil
}

func (s *shelf) SetTags(_ context.Context, key string, tags []lifecycle.Tag) error {
	if err := s.deny["SetTags"]; err != nil {
		return err
	}
	s.tags[key] = slices.Clone(tags)
	return nil
}

func (s *shelf) ids() string {
	var ids []string
	for _, r := range s.rules {
		if r.ExpireDays > 0 || len(r.Moves) > 0 {
			ids = append(ids, strings.TrimPrefix(r.ID, "firn/c1/class-"))
		}
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

type harness struct {
	*cluster
	*shelf
	keeper *lifecycle.Keeper
	bucket objstore.Bucket
	logged bytes.Buffer
	gauges *prometheus.Registry
}

func newHarness(t *testing.T) *harness {
	h := &harness{cluster: newCluster(t), shelf: newShelf(), bucket: mem.New(), gauges: prometheus.NewRegistry()}
	h.restart()
	return h
}

// restart forgets what the keeper remembers.
func (h *harness) restart() {
	var err error
	h.gauges = prometheus.NewRegistry()
	h.keeper, err = lifecycle.New(lifecycle.Config{ObjectsPerStep: 3, ObjectsPerLook: 7}, lifecycle.Deps{
		Meta: h.cluster, Bucket: h.bucket, Store: h.shelf, Logger: slog.New(slog.NewTextHandler(&h.logged, nil)), Metrics: lifecycle.NewMetrics(h.gauges),
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// run steps until there is nothing left to do.
func (h *harness) run() error {
	h.t.Helper()
	h.ok(&entry.Tick{})
	for range 1000 {
		if worked, err := h.keeper.Step(h.t.Context()); err != nil || !worked {
			return err
		}
	}
	h.t.Fatal("there is always more to do")
	return nil
}

func (h *harness) must() {
	h.t.Helper()
	if err := h.run(); err != nil {
		h.t.Fatal(err)
	}
}

func TestRulesFollowTopicsAndLeaveForeignOnesAlone(t *testing.T) {
	h := newHarness(t)
	foreign := lifecycle.Rule{ID: "theirs", Enabled: true, Prefix: "other/", ExpireDays: 1}
	h.rules = []lifecycle.Rule{foreign}
	h.topic("off", "retention.ms=86400000")
	h.must()
	if h.wrote != 0 || h.read != 0 {
		t.Fatalf("nothing is mirrored, and %d rule sets were written, %d tags read", h.wrote, h.read)
	}
	a := h.topic("a", mirror)
	h.topic("b", mirror+"cleanup.policy=compact")
	key := h.merged(a)
	h.tags[key] = []lifecycle.Tag{{Key: "team", Value: "x"}}
	h.must()
	if h.ids() != "d8 theirs" {
		t.Errorf("rules %s", h.ids())
	}
	if got := fmt.Sprint(h.tags[key]); got != "[{firn-class d8} {team x}]" {
		t.Errorf("tags %s", got)
	}
	wrote := h.wrote
	for range 3 {
		h.now = h.now.Add(time.Hour)
		h.must()
	}
	if h.wrote != wrote {
		t.Errorf("rules written %d times though nothing changed", h.wrote-wrote)
	}
	h.topic("a", "")
	h.topic("b", "")
	h.must()
	if h.ids() != "theirs" || fmt.Sprint(h.tags[key]) != "[{team x}]" {
		t.Errorf("none mirrored: rules %s, tags %v", h.ids(), h.tags[key])
	}
}

// The class that a topic leaves for a longer one is held until its objects carry the new one, though another topic uses it.
func TestAClassIsHeldUntilObjectsLeaveIt(t *testing.T) {
	h := newHarness(t)
	a := h.topic("a", mirror)
	h.topic("b", mirror)
	var keys []string
	for range 7 {
		keys = append(keys, h.merged(a))
	}
	h.must()
	h.now = h.now.Add(hour)
	h.must()
	if h.ids() != "d8" || fmt.Sprint(h.tags[keys[6]]) != "[{firn-class d8}]" {
		t.Fatalf("rules %s, tags %v", h.ids(), h.tags)
	}
	h.topic("a", mirror+"retention.ms=2592000000")
	steps := 0
	for {
		worked, err := h.keeper.Step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		old := 0
		for _, k := range keys {
			if fmt.Sprint(h.tags[k]) == "[{firn-class d8}]" {
				old++
			}
		}
		if old > 0 && h.ids() != "d31" {
			t.Errorf("rules %s while %d objects carry d8", h.ids(), old)
		}
		if steps++; !worked {
			break
		}
		if steps == 2 { // whoever takes over knows what is held
			h.restart()
		}
	}
	if h.ids() != "d31 d8" || steps < 3 {
		t.Errorf("rules %s after %d steps", h.ids(), steps)
	}
	// A shorter one holds nothing.
	h.topic("a", mirror+"retention.ms=86400000")
	if _, err := h.keeper.Step(t.Context()); err != nil || h.ids() != "d2 d8" {
		t.Errorf("rules %s, %v", h.ids(), err)
	}
}

func TestALostLedgerHoldsEverything(t *testing.T) {
	h := newHarness(t)
	a := h.topic("a", mirror)
	for range 5 {
		h.merged(a)
	}
	h.must()
	for name, lose := range map[string]func(){
		"gone":     func() { _ = h.bucket.Delete(t.Context(), lifecycle.LedgerKey) },
		"nonsense": func() { _ = h.bucket.Put(t.Context(), lifecycle.LedgerKey, []byte("{}"), objstore.PutOptions{}) },
		"old":      func() { h.now = h.now.Add(13 * hour); h.ok(&entry.Tick{}) },
	} {
		lose()
		worked, err := h.keeper.Step(t.Context())
		if err != nil || !worked || h.ids() != "" {
			t.Errorf("%s: %v, %v, rules %q while nothing is known of the tags", name, worked, err, h.ids())
		}
		if h.must(); h.ids() != "d8" {
			t.Errorf("%s: rules %s in the end", name, h.ids())
		}
	}
}

// What lies in which class is told by age, which is known to about a day.
func TestStoredBytesByClass(t *testing.T) {
	h := newHarness(t)
	h.merged(h.topic("cold", mirror+"retention.ms=-1 firn.storage.transition.days=30"))
	h.merged(h.topic("cool", "firn.storage.class=GLACIER_IR"))
	h.merged(h.topic("plain", ""))
	stored := func() string {
		t.Helper()
		families, err := h.gauges.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, f := range families {
			for _, m := range f.Metric {
				switch f.GetName() {
				case "firn_bucket_stored_bytes":
					list = append(list, fmt.Sprintf("%s=%v", m.Label[0].GetValue(), m.Gauge.GetValue()))
				case "firn_bucket_topic_stored_bytes":
					list = append(list, fmt.Sprintf("%s/%s=%v", m.Label[1].GetValue(), m.Label[0].GetValue(), m.Gauge.GetValue()))
				}
			}
		}
		return strings.Join(list, " ")
	}
	for range 29 {
		h.must()
		h.now = h.now.Add(day)
		h.ok(&entry.Tick{})
	}
	h.must()
	if got := stored(); got != "GLACIER_IR=100 STANDARD=200 cool/GLACIER_IR=100" {
		t.Errorf("young: %s", got)
	}
	h.now = h.now.Add(2 * day)
	if h.must(); stored() != "GLACIER_IR=100 STANDARD=100 STANDARD_IA=100 cool/GLACIER_IR=100 cold/STANDARD_IA=100" {
		t.Errorf("old: %s", stored())
	}
}

func TestRetentionFollowsTheBucket(t *testing.T) {
	h := newHarness(t)
	id := h.topic("t", follows+"retention.ms=5")
	key := h.merged(id)
	rule := lifecycle.Rule{ID: "keep-10", Enabled: true, Tags: []lifecycle.Tag{{Key: "firn-topic", Value: "t"}}, ExpireDays: 10}
	for _, tc := range []struct {
		rules []lifecycle.Rule
		want  int64
	}{
		{nil, -1},
		{[]lifecycle.Rule{rule}, 10 * topicconfig.MSPerDay},
		{[]lifecycle.Rule{rule, {ID: "all", Enabled: true, Prefix: "p/topics/", ExpireDays: 4}}, 4 * topicconfig.MSPerDay},
		{[]lifecycle.Rule{rule}, 10 * topicconfig.MSPerDay},
	} {
		h.rules = tc.rules
		h.must()
		if s := h.settings(id); s.RetentionMS != tc.want {
			t.Errorf("%v: retention.ms %d, want %d", tc.rules, s.RetentionMS, tc.want)
		}
	}
	if h.wrote != 0 || fmt.Sprint(h.tags[key]) != "[{firn-topic t}]" {
		t.Errorf("rules written %d times; tags %v", h.wrote, h.tags[key])
	}
	if n := strings.Count(h.logged.String(), "retention follows the bucket's rule"); n != 4 {
		t.Errorf("%d lines for 4 changes: %s", n, h.logged.String())
	}
	h.deny["Rules"] = objstore.ErrDenied
	if err := h.run(); err == nil || !strings.Contains(err.Error(), "s3:GetLifecycleConfiguration") || h.settings(id).RetentionMS != 10*topicconfig.MSPerDay {
		t.Errorf("denied: %v, retention.ms %d", err, h.settings(id).RetentionMS)
	}
}

// What is not allowed is named, and the rest goes on.
func TestMissingPermissionsAreNamed(t *testing.T) {
	for method, tc := range map[string]struct {
		action string
		rules  string
	}{
		"SetRules": {"s3:PutLifecycleConfiguration", ""},
		"Tags":     {"s3:GetObjectTagging", ""},
		"SetTags":  {"s3:PutObjectTagging", ""},
		"Rules":    {"s3:GetLifecycleConfiguration", ""},
	} {
		h := newHarness(t)
		key := h.merged(h.topic("t", mirror))
		h.deny[method] = fmt.Errorf("store says no: %w", objstore.ErrDenied)
		if err := h.run(); !errors.Is(err, objstore.ErrDenied) || !strings.Contains(err.Error(), tc.action) {
			t.Errorf("%s: %v", method, err)
		}
		if h.ids() != tc.rules {
			t.Errorf("%s: rules %q", method, h.ids())
		}
		if method == "SetRules" && len(h.tags[key]) != 1 {
			t.Errorf("objects are not tagged for whoever writes the rules")
		}
		delete(h.deny, method)
		if h.must(); h.ids() != "d8" {
			t.Errorf("%s: rules %q once it is allowed", method, h.ids())
		}
	}
	h := newHarness(t)
	h.topic("t", "")
	h.deny["Rules"], h.deny["Versioning"], h.deny["Lock"] = objstore.ErrInvalid, objstore.ErrInvalid, objstore.ErrInvalid
	if h.must(); h.logged.Len() > 0 {
		t.Errorf("a store without rules, and nobody who wants any: %s", h.logged.String())
	}
	h.topic("t", mirror)
	if err := h.run(); !errors.Is(err, objstore.ErrInvalid) || !strings.Contains(h.logged.String(), "has no lifecycle rules") {
		t.Errorf("a store without rules: %v; %s", err, h.logged.String())
	}
	delete(h.deny, "Rules")
	h.topic("t", mirror+"retention.ms=-1 firn.storage.transition.days=30 firn.storage.transition.class=ATTIC")
	h.deny["SetRules"] = objstore.ErrStorageClass
	if err := h.run(); !errors.Is(err, objstore.ErrInvalid) || !strings.Contains(err.Error(), "set firn.storage.transition.class") || !strings.Contains(err.Error(), "topic t asks for ATTIC") {
		t.Errorf("a store without the class: %v", err)
	}
	h.deny["Rules"] = objstore.ErrUnavailable
	if err := h.run(); !errors.Is(err, objstore.ErrUnavailable) {
		t.Errorf("a store that is away: %v", err)
	}
}

func TestFindingsAreToldOnceAndWhenTheyAreGone(t *testing.T) {
	h := newHarness(t)
	h.topic("t", "retention.ms=-1")
	h.rules = []lifecycle.Rule{{ID: "all", Enabled: true, Prefix: "p/topics", ExpireDays: 3}}
	gauge := func(severity string) float64 {
		t.Helper()
		families, err := h.gauges.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.Metric {
				if f.GetName() == "firn_bucket_findings" && m.Label[0].GetValue() == severity {
					return m.Gauge.GetValue()
				}
			}
		}
		t.Fatal("no such gauge")
		return 0
	}
	h.must()
	h.must()
	if n := strings.Count(h.logged.String(), "level=ERROR"); n != 1 || gauge("loses") != 1 || !strings.Contains(h.logged.String(), "rule=all topic=t") {
		t.Errorf("%d lines, gauge %v: %s", n, gauge("loses"), h.logged.String())
	}
	h.rules = nil
	h.must()
	if gauge("loses") != 0 || !strings.Contains(h.logged.String(), "no longer") {
		t.Errorf("gauge %v: %s", gauge("loses"), h.logged.String())
	}
	if problems, err := testutil.GatherAndLint(h.gauges); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// An agent that does not have the duty tells what it finds at its start, and leaves the rest to the other.
func TestOnlyOneAgentActs(t *testing.T) {
	acts := 0
	for self := range byte(3) {
		h := newHarness(t)
		for i := range byte(2) {
			name := string('b' + rune(i))
			e := &entry.Entry{
				Incarnation: [16]byte{i + 2}, Seq: 1, FeatureLevel: h.st.FeatureLevel(), ClockMs: h.now.UnixMilli(),
				Ops: []entry.Op{&entry.Join{Name: name, MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: name, Port: 1}}}},
			}
			if err := h.st.Apply(h.st.N()+1, e.AppendTo(nil), e, &h.r); err != nil || h.r.Ops[0].Code != state.OK {
				t.Fatal(err, h.r.Ops[0].Code)
			}
		}
		h.topic("t", mirror+"retention.ms=-1")
		h.rules = []lifecycle.Rule{{ID: "all", Enabled: true, Prefix: "p/topics", ExpireDays: 3}}
		keeper, err := lifecycle.New(lifecycle.Config{}, lifecycle.Deps{
			Meta: another{h.cluster, self + 1}, Bucket: h.bucket, Store: h.shelf, Logger: slog.New(slog.NewTextHandler(&h.logged, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if _, err := keeper.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := strings.Count(h.logged.String(), "level=ERROR"); n != 1 {
			t.Errorf("agent %d: %d lines", self, n)
		}
		acts += min(h.wrote, 1)
	}
	if acts != 1 {
		t.Errorf("%d agents wrote rules", acts)
	}
}

// another is the cluster as another agent sees it.
type another struct {
	*cluster
	self byte
}

func (a another) Incarnation() log.Incarnation { return log.Incarnation{a.self} }

// For weeks topics change their minds, objects are put by agents that know old settings, two hold the duty by turns, and the
// store acts on its rules every midnight: it never deletes what a topic keeps.
func TestNoRuleReachesWhatATopicKeeps(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { aMonth(t, rand.New(rand.NewPCG(seed, 5)), false) })
	}
}

// The same without holding any class finds what holding prevents: the test can tell.
func TestWithoutHoldingARuleWouldReachIt(t *testing.T) {
	for seed := range uint64(12) {
		if aMonth(t, rand.New(rand.NewPCG(seed, 5)), true) > 0 {
			return
		}
	}
	t.Error("no rule reached anything")
}

func aMonth(t *testing.T, rng *rand.Rand, careless bool) (lost int) {
	h := newHarness(t)
	configs := []string{
		mirror + "retention.ms=86400000", mirror + "retention.ms=172800000", mirror + "retention.ms=432000000", mirror + "retention.ms=2592000000",
		mirror + "retention.ms=-1", mirror + "cleanup.policy=compact", "retention.ms=432000000", follows + "retention.ms=-1",
	}
	type born struct {
		topic   entry.UUID
		at      time.Time
		deleted bool
	}
	objects := make(map[string]*born)
	names := []string{"a", "b", "c"}
	past := make(map[string][]topicconfig.Settings) // by topic, hour by hour
	for _, name := range names {
		h.topic(name, configs[rng.IntN(len(configs))])
	}
	sinceRun := 0
	for range 40 * 24 {
		h.now = h.now.Add(hour)
		h.ok(&entry.Tick{})
		for _, name := range names {
			if rng.IntN(40) == 0 {
				h.topic(name, configs[rng.IntN(len(configs))])
			}
			id := h.st.TopicByName(name).ID
			past[name] = append(past[name], h.settings(id))
			if rng.IntN(3) == 0 { // by settings of up to ten hours ago
				known := past[name][max(0, len(past[name])-1-rng.IntN(10))]
				key := h.merged(id)
				o := &born{topic: id, at: h.now.Add(-time.Duration(rng.IntN(5)) * hour)}
				if l := lifecycle.LabelOf(name, &known); l != (lifecycle.Label{}) {
					h.tags[key] = []lifecycle.Tag{l}
				}
				objects[key] = o
			}
		}
		// Retention takes what is past it now, every hour. Rows are in order of age.
		for _, name := range names {
			topic := h.st.TopicByName(name)
			s := h.settings(topic.ID)
			kept := s.EffectiveRetentionMS()
			if kept < 0 {
				continue
			}
			before := int64(0)
			for _, row := range topic.Partition(0).Rows(0, 10_000, nil) {
				if h.now.UnixMilli()-row.MaxTimestamp > kept {
					before = row.End
				}
			}
			if before > topic.Partition(0).LogStart() {
				h.ok(&entry.DeleteRecords{Topic: topic.ID, BeforeOffset: before})
			}
		}
		if sinceRun++; sinceRun >= 11 || rng.IntN(6) == 0 {
			if careless {
				h.rules = site2Rules(h)
			} else if err := h.run(); err != nil {
				t.Fatal(err)
			}
			sinceRun = 0
		}
		if h.now.Hour() == 0 {
			live := make(map[string]bool)
			for o := range h.st.ObjectTable() {
				live[o.ID.Key()] = true
			}
			for _, key := range slices.Sorted(maps.Keys(objects)) {
				o := objects[key]
				for _, r := range h.rules {
					if o.deleted || r.ExpireDays == 0 || h.now.Sub(o.at) < time.Duration(r.ExpireDays)*day || !slices.Contains(h.tags[key], r.Tags[0]) {
						continue
					}
					o.deleted = true
					if live[key] {
						if lost++; !careless {
							t.Fatalf("%v: %s, %v old, is deleted by rule %s", h.now, key, h.now.Sub(o.at), r.ID)
						}
					}
				}
			}
		}
	}
	return lost
}

// site2Rules are the rules for topics as they are, nothing held.
func site2Rules(h *harness) []lifecycle.Rule {
	return lifecycle.Site{Cluster: "c1", Prefix: "p/"}.Rules(lifecycle.Topics(h.st), nil, false)
}

func TestConfigThatMakesNoSense(t *testing.T) {
	bad := lifecycle.Config{ObjectsPerStep: -1}
	if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), "negative") {
		t.Error(err)
	}
	if _, err := lifecycle.New(lifecycle.Config{}, lifecycle.Deps{}); err == nil {
		t.Error("made of nothing")
	}
}

func FuzzLedger(f *testing.F) {
	l := lifecycle.NewLedger(3)
	l.Observe(topics(mirror, ""))
	b, err := l.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"topics":{"00":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := lifecycle.ParseLedger(b)
		if err != nil {
			if !errors.Is(err, lifecycle.ErrLedger) {
				t.Errorf("error %v", err)
			}
			return
		}
		l.Observe(topics(mirror))
		l.Held(topics(mirror), 1)
		again, err := l.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lifecycle.ParseLedger(again); err != nil {
			t.Errorf("does not come back: %v", err)
		}
	})
}

// picky does not know a storage class.
type picky struct {
	objstore.Bucket
	class string
	err   error          // what it says to that; nil: that it does not know it
	puts  map[string]int // below probe/, by class
}

func (p *picky) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	if strings.HasPrefix(key, "probe/") {
		p.puts[opts.StorageClass]++
	}
	if opts.StorageClass == p.class {
		return fmt.Errorf("put %s: %w: request %d", key, cmp.Or(p.err, objstore.ErrStorageClass), p.puts[p.class]) // as the AWS SDK words it
	}
	return p.Bucket.Put(ctx, key, body, opts)
}

// A storage class that the store does not know is told at the start, once, and so is its end; one that it knows is asked about once.
func TestAStorageClassThatTheStoreDoesNotKnowIsTold(t *testing.T) {
	h := newHarness(t)
	store := &picky{Bucket: h.bucket, class: "COLD", puts: make(map[string]int)}
	h.bucket = store
	h.restart()
	h.topic("plain", "")
	h.topic("cold", "firn.storage.class=COLD")
	h.topic("cool", "firn.storage.class=COOL")
	for range 3 {
		h.must()
	}
	told := h.logged.String()
	if strings.Count(told, "takes no object in storage class COLD") != 1 || !strings.Contains(told, "level=ERROR") || !strings.Contains(told, "topic=cold") || strings.Contains(told, "COOL") {
		t.Errorf("told:\n%s", told)
	}
	if store.puts["COOL"] != 1 || store.puts["COLD"] < 3 || store.puts[""] != 0 {
		t.Errorf("asked %v", store.puts)
	}
	if left, err := store.List(t.Context(), "probe/", "", 10); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	h.topic("cold", "")
	h.must()
	if !strings.Contains(h.logged.String(), "no longer") {
		t.Errorf("told:\n%s", &h.logged)
	}
}

// Steps that tag many objects go on where the last one stopped: the table of objects is looked at every few Steps, not in each.
func TestTaggingGoesOnWhereItStopped(t *testing.T) {
	h := newHarness(t)
	a, b := h.topic("a", mirror), h.topic("b", mirror+"retention.ms=86400000")
	var keys []string
	for range 30 {
		keys = append(keys, h.merged(a), h.merged(b))
	}
	steps := 0
	h.views = 0
	for worked := true; worked; steps++ {
		var err error
		if worked, err = h.keeper.Step(t.Context()); err != nil || steps > 100 {
			t.Fatal(err, steps)
		}
		if steps == 5 {
			h.topic("b", mirror+"retention.ms=172800000") // what was looked at of it is looked at again
		}
	}
	for i, key := range keys {
		if want := []string{"[{firn-class d8}]", "[{firn-class d3}]"}[i%2]; fmt.Sprint(h.tags[key]) != want {
			t.Errorf("%s carries %v, want %s", key, h.tags[key], want)
		}
	}
	// Each Step looks at topics; for 60 objects and some twice, taken down 7 at a time, some 12 looks at the table are to be added.
	if steps < 20 || h.views > steps+20 {
		t.Errorf("%d looks at the state in %d steps", h.views, steps)
	}
}

// A store that does not answer for one storage class keeps nothing else up.
func TestAStorageClassThatTheStoreDoesNotAnswerForHoldsNothingElseUp(t *testing.T) {
	h := newHarness(t)
	h.bucket = &picky{Bucket: h.bucket, class: "COLD", err: objstore.ErrUnavailable, puts: make(map[string]int)}
	h.restart()
	h.topic("cold", "firn.storage.class=COLD")
	key := h.merged(h.topic("a", mirror))
	for range 3 {
		if _, err := h.keeper.Step(t.Context()); !errors.Is(err, objstore.ErrUnavailable) || !strings.Contains(err.Error(), "COLD") {
			t.Errorf("nothing is said of it: %v", err)
		}
	}
	if h.ids() != "d8" || fmt.Sprint(h.tags[key]) != "[{firn-class d8}]" {
		t.Errorf("rules %s, tags %v", h.ids(), h.tags[key])
	}
}

// One class that the store's rules do not know keeps no other rule from being written: it is left out, named, and tried again when topics
// ask for others, and once an hour.
func TestAClassThatRulesDoNotKnowIsLeftOut(t *testing.T) {
	const moves = mirror + "firn.storage.transition.days=30 firn.storage.transition.class="
	h := newHarness(t)
	h.unknown = map[string]bool{"ATTIC": true, "CELLAR": true}
	h.topic("plain", mirror+"retention.ms=86400000")
	h.topic("cool", moves+"COOL retention.ms=-1")
	h.topic("attic", moves+"ATTIC retention.ms=4320000000")
	h.topic("cellar", moves+"CELLAR retention.ms=-1")
	h.must()
	if got, want := h.ids(), "d2 d51-t30-ATTIC kept-t30-COOL"; got != want {
		t.Errorf("rules %s, want %s", got, want)
	}
	for _, r := range h.rules {
		if strings.HasSuffix(r.ID, "ATTIC") && (len(r.Moves) > 0 || r.ExpireDays != 51) {
			t.Errorf("what is left of a rule: %v", &r)
		}
	}
	told := h.logged.String()
	for _, class := range []string{"ATTIC", "CELLAR"} {
		if n := strings.Count(told, "rules do not know storage class "+class); n != 1 {
			t.Errorf("%s is told %d times:\n%s", class, n, told)
		}
	}
	if !strings.Contains(told, "topic=attic") || !strings.Contains(told, "topic=cellar") || strings.Contains(told, "class COOL") {
		t.Errorf("told:\n%s", told)
	}
	asked := h.asked
	for range 3 {
		h.must()
	}
	if h.asked != asked {
		t.Errorf("%d sets of rules were written again", h.asked-asked)
	}
	check := func(configs, want string) {
		t.Helper()
		s := h.settings(h.topic("new", configs))
		h.topic("new", "")
		if got := h.keeper.ClassFault(&s); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q", configs, got)
		}
	}
	check(moves+"ATTIC retention.ms=-1", "ATTIC")
	check(moves+"COOL retention.ms=-1", "")
	check(moves+"NEVER-ASKED retention.ms=-1", "")
	check("firn.storage.transition.days=30 firn.storage.transition.class=ATTIC", "") // nothing is mirrored

	h.unknown["ATTIC"] = false // an operator adds it to the store
	h.now = h.now.Add(30 * time.Minute)
	h.ok(&entry.Tick{})
	if h.must(); h.asked != asked {
		t.Errorf("%d sets of rules were written within the hour", h.asked-asked)
	}
	for range 5 { // log time follows clocks in steps
		h.now = h.now.Add(30 * time.Minute)
		h.ok(&entry.Tick{})
	}
	h.must()
	moved := func() (classes []string) {
		for _, r := range h.rules {
			for _, m := range r.Moves {
				classes = append(classes, m.Class)
			}
		}
		slices.Sort(classes)
		return classes
	}
	if got := moved(); !slices.Equal(got, []string{"ATTIC", "COOL"}) {
		t.Errorf("an hour later rules move to %v", got)
	}
	check(moves+"ATTIC retention.ms=-1", "")

	h.unknown["CELLAR"] = false
	h.topic("cool", mirror)
	h.must()
	if got := moved(); !slices.Equal(got, []string{"ATTIC", "CELLAR"}) {
		t.Errorf("when topics ask for other classes rules move to %v", got)
	}
	h.unknown["ATTIC"] = true // the store forgets it: rules that are there are written again with the next change
	h.topic("plain", mirror+"retention.ms=172800000")
	h.must()
	if got := moved(); !slices.Equal(got, []string{"CELLAR"}) || !strings.Contains(h.ids(), "d3 ") {
		t.Errorf("rules %s move to %v", h.ids(), got)
	}
}

// What the store did not know when it was asked is remembered for a while, and given no topic.
func TestARejectedStorageClassIsRemembered(t *testing.T) {
	h := newHarness(t)
	store := &picky{Bucket: h.bucket, class: "COLD", puts: make(map[string]int)}
	h.bucket = store
	h.restart()
	cold := h.settings(h.topic("cold", "firn.storage.class=COLD"))
	cool := h.settings(h.topic("cool", "firn.storage.class=COOL"))
	if why := h.keeper.ClassFault(&cold); why != "" {
		t.Errorf("nobody asked: %s", why)
	}
	h.must()
	h.topic("cold", "")
	h.must()
	if why := h.keeper.ClassFault(&cold); !strings.Contains(why, "COLD") {
		t.Errorf("%q", why)
	}
	if why := h.keeper.ClassFault(&cool); why != "" {
		t.Errorf("%q", why)
	}
	for range 4 {
		h.now = h.now.Add(20 * time.Minute)
		h.ok(&entry.Tick{})
	}
	if h.must(); h.keeper.ClassFault(&cold) != "" {
		t.Error("it is remembered for ever")
	}
	store.err = objstore.ErrDenied // which is no answer
	h.topic("cold", "firn.storage.class=COLD")
	if h.must(); h.keeper.ClassFault(&cold) != "" {
		t.Error("what the credentials may not is taken for what the store does not know")
	}
}

// What a store did not know once is not held against it for ever by an agent that does not ask it any more, since another has the duty.
func TestWhatWasRejectedIsForgottenWithoutTheDuty(t *testing.T) {
	h := newHarness(t)
	h.bucket = &picky{Bucket: h.bucket, class: "COLD", puts: make(map[string]int)}
	h.restart()
	h.unknown = map[string]bool{"ATTIC": true}
	other, err := lifecycle.New(lifecycle.Config{}, lifecycle.Deps{Meta: another{h.cluster, 9}, Bucket: h.bucket, Store: h.shelf})
	if err != nil {
		t.Fatal(err)
	}
	cold := h.settings(h.topic("cold", "firn.storage.class=COLD"))
	attic := h.settings(h.topic("attic", mirror+"retention.ms=-1 firn.storage.transition.days=30 firn.storage.transition.class=ATTIC"))
	h.must()
	if _, err := other.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if other.ClassFault(&cold) == "" || h.keeper.ClassFault(&attic) == "" {
		t.Fatal("nothing was rejected: this shows nothing")
	}
	for range 6 { // in which the one that had the duty has it no more
		h.now = h.now.Add(20 * time.Minute)
		h.ok(&entry.Tick{})
	}
	if _, err := other.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if why := other.ClassFault(&cold); why != "" {
		t.Errorf("two hours later: %s", why)
	}
	if why := h.keeper.ClassFault(&attic); why != "" {
		t.Errorf("two hours later: %s", why)
	}
}
