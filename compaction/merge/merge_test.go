package merge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/merge"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/compaction/rewrite/rewritetest"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a cluster with one agent that merges, and a clock.
type fixture struct {
	*rewritetest.Kit
	t       *testing.T
	now     time.Time
	log     bytes.Buffer
	metrics *prometheus.Registry
	topics  []entry.UUID
	// parallel is how many requests mergers make at a time; 0: as many as agents.
	parallel int
	plain    bool // nothing is compressed: pooled decoders may not leave a synctest bubble
}

// small are tunables for tests: a window is some hundred KiB.
func small() merge.Config {
	return merge.Config{
		WindowBytesMin: 256 << 10, WindowBytesMax: 256 << 10, ObjectBytes: 200 << 10, OwnBytes: 60 << 10,
		Tiers: merge.TierRules{Full: 200 << 10, Fan: 4, Growth: 3, Crowd: 16},
	}
}

func newFixture(t *testing.T, seed uint64) *fixture {
	return &fixture{Kit: rewritetest.New(t, seed), t: t, now: time.Unix(1_700_000_000, 0), metrics: prometheus.NewRegistry()}
}

// merger makes a Merger of an Env with these parts.
func (f *fixture) merger(cfg merge.Config, change ...func(*rewrite.Deps)) *merge.Merger {
	f.t.Helper()
	f.metrics = prometheus.NewRegistry()
	change = append([]func(*rewrite.Deps){func(d *rewrite.Deps) { d.Metrics = rewrite.NewMetrics(f.metrics) }}, change...)
	m, err := merge.New(cfg, merge.Deps{
		Env: f.Env(rewrite.Config{ChunkBytes: 16 << 10, RunBytes: 64 << 10, Attempts: 2, RetryMin: time.Microsecond, Parallel: f.parallel}, change...),
		Now: func() time.Time { return f.now }, Logger: slog.New(slog.NewTextHandler(&f.log, nil)), Metrics: merge.NewMetrics(f.metrics),
		Busy: &duty.Busy{},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

// metric is the value of a counter or gauge.
func (f *fixture) metric(name string, labels ...string) float64 {
	f.t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, x := range family.GetMetric() {
			if matches(x, labels) {
				return x.GetCounter().GetValue() + x.GetGauge().GetValue()
			}
		}
	}
	f.t.Fatalf("no metric %s", name)
	return 0
}

func matches(x *dto.Metric, labels []string) bool {
	for i := 0; i < len(labels); i += 2 {
		found := false
		for _, l := range x.GetLabel() {
			found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
		}
		if !found {
			return false
		}
	}
	return true
}

// produce flushes so many objects with batches of some of the topics' partitions.
func (f *fixture) produce(objects int, size int) {
	f.t.Helper()
	for range objects {
		var batches []rewritetest.Flushed
		for _, topic := range f.topics {
			for p := range int32(3) {
				for range f.Rand.IntN(3) {
					batches = append(batches, rewritetest.Flushed{Topic: topic, Partition: p, Raw: f.Batch(1 + f.Rand.IntN(size))})
				}
			}
		}
		if len(batches) > 0 {
			f.Flush(segment.Options{Compress: f.Rand.IntN(2) == 0 && !f.plain}, batches...)
		}
	}
}

// settle steps until there is nothing to do for as long as windows are patient at most, and fails on any error.
func (f *fixture) settle(m *merge.Merger) {
	f.t.Helper()
	f.steps(m, true)
}

func (f *fixture) steps(m *merge.Merger, must bool) (failed error) {
	f.t.Helper()
	idle := 0
	for n := 0; idle < 3; n++ {
		worked, err := m.Step(f.t.Context())
		if err != nil && must {
			f.t.Fatalf("step %d: %v\n%s", n, err, f.log.String())
		}
		failed = errors.Join(failed, err)
		if n > 500 {
			f.t.Fatalf("it does not end\n%s", f.log.String())
		}
		if !worked {
			idle++
			f.now = f.now.Add(2 * time.Hour)
		}
	}
	return failed
}

// level0 is how many objects of level 0 there are.
func (f *fixture) level0() (n int) {
	f.Meta.View(func(st *state.State) {
		for o := range st.ObjectTable() {
			if !o.ID.Merged() {
				n++
			}
		}
	})
	return n
}

func (f *fixture) rowCount() (n int) {
	f.Meta.View(func(st *state.State) {
		for t := range st.Topics() {
			for i := range t.Partitions() {
				n += t.Partition(i).RowCount()
			}
		}
	})
	return n
}

func TestWindowsAndTiersKeepAllBatches(t *testing.T) {
	f := newFixture(t, 1)
	f.topics = []entry.UUID{
		f.Topic("a", 3), f.Topic("b", 3, entry.Config{Name: "message.timestamp.type", Value: "LogAppendTime"}),
		f.Topic("c", 3, entry.Config{Name: "retention.ms", Value: "-1"}),
	}
	m := f.merger(small())
	for range 12 {
		f.produce(20, 2000)
		f.settle(m)
		if n := f.level0(); n > 0 {
			t.Fatalf("%d objects of level 0 are left", n)
		}
		f.Verify()
	}
	if n := f.rowCount(); n > 3*3*17 {
		t.Errorf("%d rows", n)
	}
	if f.metric("firn_compaction_merge_parts_total", "outcome", "applied") == 0 || f.metric("firn_compaction_merge_tiers_total") == 0 {
		t.Error("the metrics do not show what was done")
	}
	for _, bad := range []string{"conflict", "stale", "gone", "unknown"} {
		if n := f.metric("firn_compaction_merge_parts_total", "outcome", bad); n > 0 {
			t.Errorf("%v %s, and nobody else was there", n, bad)
		}
	}
	if f.log.Len() > 0 {
		t.Errorf("something was said:\n%s", f.log.String())
	}
}

// TestEachObjectIsReadOnce: one GET for an object of level 0, one PUT for a topic.
func TestEachObjectIsReadOnce(t *testing.T) {
	f := newFixture(t, 2)
	for i := range 5 {
		f.topics = append(f.topics, f.Topic(fmt.Sprint("t", i), 3))
	}
	f.produce(12, 500)
	objects := f.level0()
	m := f.merger(small())
	if worked, err := m.Step(t.Context()); worked || err != nil {
		t.Fatalf("worked %v, %v: nothing is due", worked, err)
	}
	f.now = f.now.Add(2 * time.Minute)
	if worked, err := m.Step(t.Context()); !worked || err != nil {
		t.Fatal(worked, err)
	}
	if gets := f.metric("firn_compaction_rewrite_gets_total"); gets != float64(objects) {
		t.Errorf("%v GETs for %d objects", gets, objects)
	}
	if puts := f.metric("firn_compaction_rewrite_puts_total"); puts != 5 {
		t.Errorf("%v PUTs for 5 topics", puts)
	}
	if n := f.level0(); n != 0 {
		t.Errorf("%d objects left", n)
	}
	f.Verify()
}

func TestAPartitionWithManyBytesHasObjectsOfItsOwn(t *testing.T) {
	f := newFixture(t, 3)
	topic := f.Topic("t", 3)
	for range 20 {
		f.Flush(segment.Options{},
			rewritetest.Flushed{Topic: topic, Partition: 0, Raw: f.Batch(100)},
			rewritetest.Flushed{Topic: topic, Partition: 1, Raw: f.Batch(30 << 10)},
			rewritetest.Flushed{Topic: topic, Partition: 2, Raw: f.Batch(100)})
	}
	cfg := small()
	cfg.WindowBytesMin, cfg.WindowBytesMax = 1<<20, 1<<20
	f.settle(f.merger(cfg))
	objects := make(map[entry.ObjectID][]int32)
	for p := range int32(3) {
		for _, row := range f.Rows(topic, p) {
			objects[row.Object] = append(objects[row.Object], p)
		}
	}
	shared := 0
	for _, partitions := range objects {
		switch fmt.Sprint(partitions) {
		case "[0 2]":
			shared++
		case "[1]":
		default:
			t.Errorf("an object of partitions %v", partitions)
		}
	}
	if shared != 1 || len(objects) < 3 {
		t.Errorf("%d objects, %d of the small partitions", len(objects), shared)
	}
	f.Verify()
}

// cut is a bucket and a metastore that end the agent's life at one of its requests: before it takes effect, or after.
type cut struct {
	objstore.Bucket
	rewrite.Meta
	mu     sync.Mutex
	left   int
	before bool
	cancel context.CancelFunc
}

var errKilled = errors.New("killed")

// step does one request.
func (c *cut) step(ctx context.Context, do func() error) error {
	c.mu.Lock()
	c.left--
	last, dead := c.left == 0, c.left < 0
	c.mu.Unlock()
	if dead || last && c.before {
		c.cancel()
		return errors.Join(errKilled, context.Cause(ctx))
	}
	err := do()
	if last {
		c.cancel()
		return errKilled
	}
	return err
}

func (c *cut) Get(ctx context.Context, key string) (body []byte, err error) {
	err = c.step(ctx, func() (err error) { body, err = c.Bucket.Get(ctx, key); return err })
	return body, err
}

func (c *cut) GetRange(ctx context.Context, key string, position, size int64) (body []byte, err error) {
	err = c.step(ctx, func() (err error) { body, err = c.Bucket.GetRange(ctx, key, position, size); return err })
	return body, err
}

func (c *cut) Propose(ctx context.Context, op entry.Op) (r state.OpResult, err error) {
	err = c.step(ctx, func() (err error) { r, err = c.Meta.Propose(ctx, op); return err })
	return r, err
}

// TestKilledAtEveryStep: after every request that it makes, whether it took effect or not, an agent is stopped for good. Nothing is lost,
// and the next one finishes.
func TestKilledAtEveryStep(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(fmt.Sprint("before ", before), func(t *testing.T) {
			f := newFixture(t, 4)
			f.topics = []entry.UUID{f.Topic("a", 3), f.Topic("b", 3)}
			finished := false
			for step := 1; !finished; step++ {
				f.produce(8, 800)
				ctx, cancel := context.WithCancel(t.Context())
				c := &cut{Bucket: f.Bucket, Meta: f.Meta, left: step, before: before, cancel: cancel}
				m := f.merger(small(), func(d *rewrite.Deps) { d.Bucket, d.Meta = putting{c}, c })
				f.now = f.now.Add(2 * time.Hour)
				_, _ = m.Step(ctx)
				f.now = f.now.Add(2 * time.Hour)
				_, err := m.Step(ctx)
				cancel()
				c.mu.Lock()
				finished = c.left > 0
				c.mu.Unlock()
				if finished && err != nil {
					t.Fatal(err)
				}
				f.Verify()
				f.settle(f.merger(small()))
				f.Verify()
				if n := f.level0(); n > 0 {
					t.Fatalf("killed at request %d: %d objects of level 0 are never merged", step, n)
				}
				if step > 300 {
					t.Fatal("it does not end")
				}
			}
		})
	}
}

// putting counts puts among the requests of a cut.
type putting struct{ *cut }

func (p putting) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	return p.step(ctx, func() error { return p.Bucket.PutFrom(ctx, key, body, size, opts) })
}

// meddling does something else right before an op is proposed.
type meddling struct {
	rewrite.Meta
	mu     sync.Mutex // guards before
	before func()
}

// take returns what is to be done, once.
func (m *meddling) take() func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.before
	m.before = nil
	return before
}

func (m *meddling) Propose(ctx context.Context, op entry.Op) (state.OpResult, error) {
	if _, ok := op.(*entry.Rewrite); ok {
		if before := m.take(); before != nil {
			before()
		}
	}
	return m.Meta.Propose(ctx, op)
}

func TestWhatOthersDoInBetween(t *testing.T) {
	for name, meddle := range map[string]func(f *fixture){
		"another agent merges the same window": func(f *fixture) { f.settle(f.merger(small())) },
		"a topic is deleted":                   func(f *fixture) { f.Propose(&entry.DeleteTopic{ID: f.topics[0]}) },
		"records are deleted":                  func(f *fixture) { f.Propose(&entry.DeleteRecords{Topic: f.topics[0], BeforeOffset: 3}) },
		"all records are deleted":              func(f *fixture) { f.Propose(&entry.DeleteRecords{Topic: f.topics[0], BeforeOffset: -1}) },
		"more is flushed":                      func(f *fixture) { f.produce(3, 500) },
		"the epoch moves once":                 func(f *fixture) { f.Propose(&entry.BumpCollectionEpoch{From: 1}) },
		"the epoch moves twice": func(f *fixture) {
			f.Propose(&entry.BumpCollectionEpoch{From: 1})
			f.Propose(&entry.BumpCollectionEpoch{From: 2})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 5)
			f.parallel = 1 // so that nothing else goes on meanwhile
			f.topics = []entry.UUID{f.Topic("a", 3), f.Topic("b", 3)}
			f.produce(10, 800)
			other := &meddling{Meta: f.Meta}
			m := f.merger(small(), func(d *rewrite.Deps) { d.Meta = other })
			if _, err := m.Step(t.Context()); err != nil { // it has seen the objects
				t.Fatal(err)
			}
			other.before = func() { meddle(f) }
			f.now = f.now.Add(2 * time.Hour)
			if worked, err := m.Step(t.Context()); !worked || err != nil || other.take() != nil {
				t.Fatalf("worked %v, %v", worked, err)
			}
			f.Verify()
			f.settle(m)
			f.Verify()
			if n := f.level0(); n > 0 {
				t.Errorf("%d objects of level 0 are never merged", n)
			}
		})
	}
}

func TestTwoMergersOnOneWindow(t *testing.T) {
	f := newFixture(t, 6)
	f.topics = []entry.UUID{f.Topic("a", 3), f.Topic("b", 3)}
	for range 5 {
		f.produce(15, 1500)
		var mergers []*merge.Merger
		for range 2 { // both say that they are the first agent, whose windows they all are
			m := f.merger(small())
			if _, err := m.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
			mergers = append(mergers, m)
		}
		f.now = f.now.Add(2 * time.Hour)
		var wg sync.WaitGroup
		errs := make([]error, len(mergers))
		for i, m := range mergers {
			wg.Go(func() {
				for range 20 {
					if _, err := m.Step(t.Context()); err != nil {
						errs[i] = err
					}
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		f.Verify()
		if n := f.level0(); n > 0 {
			t.Fatalf("%d objects of level 0 are left", n)
		}
	}
}

// spoilt damages what it hands out of some objects.
type spoilt struct {
	objstore.Bucket
	mu    sync.Mutex
	flips map[string]int64
}

func (s *spoilt) spoil(key string, position int64, body []byte, err error) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if flip, ok := s.flips[key]; ok && flip >= position && flip-position < int64(len(body)) {
		body[flip-position] ^= 0x10
	}
	return body, err
}

func (s *spoilt) Get(ctx context.Context, key string) ([]byte, error) {
	body, err := s.Bucket.Get(ctx, key)
	return s.spoil(key, 0, body, err)
}

func (s *spoilt) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	body, err := s.Bucket.GetRange(ctx, key, position, size)
	return s.spoil(key, position, body, err)
}

// TestACorruptInputStopsWhatIsInItAndNothingElse: the rows of the damaged block stay, with the object they are in; the alarm is raised
// once, and is over once the object can be read.
func TestACorruptInputStopsWhatIsInItAndNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		flip                func(size int64) int64
		partitions, objects float64
	}{
		"a chunk":    {func(int64) int64 { return 16 + 100 }, 1, 0}, // of the first topic's partition 0
		"the footer": {func(size int64) int64 { return size - 40 }, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 7)
			topic, other := f.Topic("a", 3), f.Topic("b", 3)
			f.topics = []entry.UUID{topic, other}
			f.produce(3, 500)
			id := f.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: f.Batch(300)}, rewritetest.Flushed{Topic: other, Raw: f.Batch(300)})
			f.produce(3, 500)
			info, err := f.Bucket.Head(t.Context(), id.Key())
			if err != nil {
				t.Fatal(err)
			}
			bucket := &spoilt{Bucket: f.Bucket, flips: map[string]int64{id.Key(): c.flip(info.Size)}}
			m := f.merger(small(), func(d *rewrite.Deps) { d.Bucket = bucket })
			f.settle(m)
			f.Verify()
			if n := f.level0(); n != 1 {
				t.Errorf("%d objects of level 0, want the damaged one", n)
			}
			for p := range int32(3) {
				for _, row := range f.Rows(topic, p) {
					if !row.Object.Merged() && (row.Object != id || p != 0) {
						t.Errorf("partition %d: %+v was not merged", p, row)
					}
				}
			}
			if got := f.metric("firn_compaction_merge_unreadable_partitions"); got != c.partitions {
				t.Errorf("%v partitions are said to be unreadable", got)
			}
			if got := f.metric("firn_compaction_merge_unreadable_objects"); got != c.objects {
				t.Errorf("%v objects are said to be unreadable", got)
			}
			if n := strings.Count(f.log.String(), "level=ERROR"); n != 1 || !strings.Contains(f.log.String(), id.Key()) {
				t.Errorf("%d lines of it:\n%s", n, f.log.String())
			}
			bucket.mu.Lock()
			bucket.flips = nil
			bucket.mu.Unlock()
			f.settle(m)
			f.Verify()
			if n := f.level0(); n != 0 {
				t.Errorf("mended, and %d objects of level 0 stay", n)
			}
			if f.metric("firn_compaction_merge_unreadable_partitions")+f.metric("firn_compaction_merge_unreadable_objects") != 0 ||
				strings.Count(f.log.String(), "can be read again") != 1 {
				t.Errorf("the alarm is not over:\n%s", f.log.String())
			}
		})
	}
}

// An object that the bucket does not let us have keeps no others from being merged: it comes again later.
func TestAnObjectThatIsNotToBeHadKeepsNoOthersUp(t *testing.T) {
	f := newFixture(t, 7)
	topic := f.Topic("a", 3)
	f.topics = []entry.UUID{topic}
	f.produce(3, 500)
	id := f.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: f.Batch(300)})
	f.produce(3, 500)
	bucket := &rewritetest.Withheld{Bucket: f.Bucket, Key: id.Key()}
	m := f.merger(small(), func(d *rewrite.Deps) { d.Bucket = bucket })
	f.now = f.now.Add(2 * time.Hour)
	if err := f.steps(m, false); !errors.Is(err, rewrite.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	f.Verify()
	if n := f.level0(); n != 1 {
		t.Errorf("%d objects of level 0, want the one that is not to be had", n)
	}
	bucket.Key = ""
	f.now = f.now.Add(2 * time.Hour)
	f.settle(m)
	f.Verify()
	if n := f.level0(); n != 0 {
		t.Errorf("%d objects of level 0 stay", n)
	}
}

// untiered is a topic with many merged objects that no tier has made fewer.
func untiered(t *testing.T) (*fixture, entry.UUID) {
	t.Helper()
	f := newFixture(t, 8)
	topic := f.Topic("a", 3)
	f.topics = []entry.UUID{topic}
	cfg := small()
	cfg.Tiers = merge.TierRules{Fan: 1000, Crowd: 1000} // none yet
	m := f.merger(cfg)
	for range 9 {
		f.produce(3, 2000)
		f.settle(m)
	}
	return f, topic
}

func TestACorruptMergedObjectIsLeftOutOfTiers(t *testing.T) {
	f, topic := untiered(t)
	rows := f.Rows(topic, 0)
	victim := rows[len(rows)/2]
	bucket := &spoilt{Bucket: f.Bucket, flips: map[string]int64{victim.Object.Key(): 16 + 50}}
	m := f.merger(small(), func(d *rewrite.Deps) { d.Bucket = bucket })
	before := f.rowCount()
	f.settle(m)
	f.Verify()
	if after := f.rowCount(); after >= before {
		t.Errorf("%d rows became %d", before, after)
	}
	stays := false
	for _, row := range f.Rows(topic, 0) {
		stays = stays || row.Object == victim.Object && row.Base == victim.Base && row.End == victim.End
	}
	if !stays {
		t.Error("the damaged row is gone")
	}
	if got := f.metric("firn_compaction_merge_unreadable_partitions"); got != 1 {
		t.Errorf("%v partitions are said to be unreadable\n%s", got, f.log.String())
	}
}

// A rule of the bucket may have put one object into an archive: rows in others go on becoming fewer.
func TestAMergedObjectThatIsNotToBeHadIsLeftOutOfTiers(t *testing.T) {
	f, topic := untiered(t)
	rows := f.Rows(topic, 0)
	bucket := &rewritetest.Withheld{Bucket: f.Bucket, Key: rows[len(rows)/2].Object.Key()}
	cfg := small()
	cfg.Rescan, cfg.BackoffMin = time.Second, 24*time.Hour
	m := f.merger(cfg, func(d *rewrite.Deps) { d.Bucket = bucket })
	before := f.rowCount()
	if err := f.steps(m, false); !errors.Is(err, rewrite.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	f.Verify()
	if after := f.rowCount(); after >= before {
		t.Errorf("%d rows became %d", before, after)
	}
	if f.log.Len() > 0 {
		t.Errorf("something was said:\n%s", f.log.String())
	}
}

// TestRowsOfAWALAreABarrier: what is only in a WAL cannot be read from the bucket.
func TestRowsOfAWALAreABarrier(t *testing.T) {
	f := newFixture(t, 9)
	topic := f.Topic("a", 1)
	flush := func() { f.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: f.Batch(300)}) }
	flush()
	flush()
	batches := []rewritetest.Flushed{{Topic: topic, Raw: f.Batch(300)}}
	op := f.Upload(segment.Options{}, batches...)
	op.Location = entry.InWAL
	f.Commit(op, batches)
	flush()
	m := f.merger(small())
	f.settle(m)
	rows := f.Rows(topic, 0)
	pending := 0
	for _, row := range rows {
		if row.InWAL {
			pending++
		}
	}
	if pending != 1 {
		t.Fatalf("%+v", rows)
	}
	f.Propose(&entry.Relocate{Bind: op.Object, ObjectSize: op.ObjectSize})
	f.settle(m)
	f.Verify()
	if n := f.level0(); n > 0 {
		t.Errorf("%d objects of level 0 are left", n)
	}
}

// TestAgentsShareTheWork: every window is merged by the agent whose it is.
func TestAgentsShareTheWork(t *testing.T) {
	f := newFixture(t, 10)
	f.topics = []entry.UUID{f.Topic("a", 3), f.Topic("b", 3)}
	f.produce(100, 3000)
	second := f.Join()
	if err := f.Meta.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg := small()
	cfg.Tiers = merge.TierRules{Fan: 1000, Crowd: 1000}
	var puts [2]float64
	mergers := []*merge.Merger{f.merger(cfg)}
	first := f.metrics
	mergers = append(mergers, f.merger(cfg, func(d *rewrite.Deps) { d.Meta = second }))
	for range 4 {
		for _, m := range mergers {
			for worked := true; worked; {
				var err error
				if worked, err = m.Step(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range []interface{ Barrier(context.Context) error }{f.Meta, second} {
				if err := c.Barrier(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		f.now = f.now.Add(2 * time.Hour)
	}
	puts[1] = f.metric("firn_compaction_merge_windows_total")
	f.metrics = first
	puts[0] = f.metric("firn_compaction_merge_windows_total")
	if puts[0] == 0 || puts[1] == 0 {
		t.Errorf("windows merged: %v", puts)
	}
	if n := f.level0(); n > 0 {
		t.Errorf("%d objects of level 0 are left", n)
	}
	f.Verify()
}

func TestConfig(t *testing.T) {
	f := newFixture(t, 11)
	env := f.Env(rewrite.Config{})
	for _, cfg := range []merge.Config{
		{WindowBytesMin: -1}, {WindowBytesMin: 2, WindowBytesMax: 1}, {Patience: merge.Patience{After: time.Hour, Longer: time.Minute}},
		{ObjectBytes: 1, OwnBytes: 2}, {Tiers: merge.TierRules{Fan: 1}}, {TierBytes: -1}, {Rescan: -1}, {BackoffMin: time.Hour, BackoffMax: time.Minute},
	} {
		if _, err := merge.New(cfg, merge.Deps{Env: env}); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	if _, err := merge.New(merge.Config{}, merge.Deps{}); err == nil {
		t.Error("no Env, and no complaint")
	}
}

// TestScratchSpaceThatIsTooSmallForAWindow: it is merged in pieces.
func TestScratchSpaceThatIsTooSmallForAWindow(t *testing.T) {
	f := newFixture(t, 12)
	f.topics = []entry.UUID{f.Topic("a", 3), f.Topic("b", 3)}
	f.produce(30, 3000)
	f.settle(f.merger(small(), func(d *rewrite.Deps) { d.Scratch = duty.InMemory(200 << 10) }))
	if n := f.level0(); n > 0 {
		t.Errorf("%d objects of level 0 are left", n)
	}
	f.Verify()
}

// TestALockedTopicIsCopiedSeldom: every copy is kept, and paid for, as long as its lock.
func TestALockedTopicIsCopiedSeldom(t *testing.T) {
	f := newFixture(t, 13)
	locked := f.Topic("locked", 1, entry.Config{Name: "firn.object.lock.mode", Value: "governance"}, entry.Config{Name: "firn.object.lock.days", Value: "7"})
	other := f.Topic("other", 1)
	m := f.merger(small())
	for range 20 {
		f.Flush(segment.Options{}, rewritetest.Flushed{Topic: locked, Raw: f.Batch(500)}, rewritetest.Flushed{Topic: other, Raw: f.Batch(500)})
		f.settle(m)
	}
	if n := len(f.Rows(locked, 0)); n != 20 {
		t.Errorf("%d rows of 20 that were merged once", n)
	}
	if n := len(f.Rows(other, 0)); n > 8 {
		t.Errorf("%d rows of the topic without a lock", n)
	}
	f.Verify()
}

// TestTiersAreNotStarvedByWindows: an agent that has a window to merge whenever it looks still merges rows.
func TestTiersAreNotStarvedByWindows(t *testing.T) {
	f := newFixture(t, 14)
	topic := f.Topic("a", 1)
	cfg := small()
	cfg.WindowBytesMin, cfg.WindowBytesMax = 1, 1 // every object is one
	m := f.merger(cfg)
	for range 60 {
		for range 2 { // two windows come while one step is made
			f.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: f.Batch(500)})
		}
		for range 3 {
			if _, err := m.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		f.now = f.now.Add(time.Minute)
	}
	if n := len(f.Rows(topic, 0)) - f.level0(); n > 16 {
		t.Errorf("%d merged rows, and %d objects of level 0", n, f.level0())
	}
	f.Verify()
}

// disk is scratch space whose size changes, and that counts what it refuses.
type disk struct{ size, used, refused atomic.Int64 }

func (d *disk) Create() (duty.File, error) {
	f, err := duty.InMemory(1 << 30).Create()
	return &diskFile{File: f, disk: d}, err
}

type diskFile struct {
	duty.File
	disk *disk
	once sync.Once
}

func (f *diskFile) Write(b []byte) (int, error) {
	if f.disk.used.Add(int64(len(b))) > f.disk.size.Load() {
		f.disk.used.Add(-int64(len(b)))
		f.disk.refused.Add(1)
		return 0, fmt.Errorf("%w: no space left on device", duty.ErrScratchFull)
	}
	return f.File.Write(b)
}

func (f *diskFile) Close() error {
	f.once.Do(func() { f.disk.used.Add(-f.Size()) })
	return f.File.Close()
}

// idle steps without moving the clock until there is nothing to do.
func (f *fixture) idle(m *merge.Merger) {
	f.t.Helper()
	for n := 0; ; n++ {
		worked, err := m.Step(f.t.Context())
		if err != nil {
			f.t.Fatalf("step %d: %v\n%s", n, err, f.log.String())
		}
		if !worked {
			return
		}
		if n > 500 {
			f.t.Fatalf("it does not end\n%s", f.log.String())
		}
	}
}

// TestADiskThatIsTooSmallIsRemembered: the first window finds out how much fits, the next ones begin with that. It is told once, and so is
// that the disk has become larger.
func TestADiskThatIsTooSmallIsRemembered(t *testing.T) {
	f := newFixture(t, 15)
	f.plain, f.parallel = true, 1
	f.topics = []entry.UUID{f.Topic("a", 3), f.Topic("b", 3, entry.Config{Name: "retention.ms", Value: "-1"})}
	const bound = "firn_compaction_merge_scratch_bound_bytes"
	var d disk
	d.size.Store(100 << 10)
	m := f.merger(small(), func(deps *rewrite.Deps) { deps.Scratch = &d })
	f.produce(80, 3000)
	for range 2 {
		if _, err := m.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if d.refused.Load() == 0 || f.metric(bound) == 0 || f.metric(bound) > 100<<10 {
		t.Fatalf("refused %d times, a bound of %v", d.refused.Load(), f.metric(bound))
	}
	d.refused.Store(0)
	f.idle(m)
	if n := d.refused.Load(); n > 3 { // tiers have their own shape
		t.Errorf("refused %d times more", n)
	}
	for range 10 {
		f.produce(20, 3000)
		f.settle(m)
		if n := f.level0(); n > 0 {
			t.Errorf("%d objects of level 0 are left", n)
		}
	}
	if n := strings.Count(f.log.String(), "scratch space is short"); n != 1 || strings.Count(f.log.String(), "\n") != 1 {
		t.Errorf("told %d times:\n%s", n, f.log.String())
	}
	rows := f.rowCount()
	d.size.Store(1 << 30)
	for range 10 {
		f.produce(20, 3000)
		f.settle(m)
	}
	if n := strings.Count(f.log.String(), "not short any more"); n != 1 || f.metric(bound) != 0 {
		t.Errorf("a bound of %v is left, and told %d times that it is over:\n%s", f.metric(bound), n, f.log.String())
	}
	if f.rowCount() > 2*rows {
		t.Errorf("%d rows, %d while the disk was small", f.rowCount(), rows)
	}
	if n := d.used.Load(); n != 0 {
		t.Errorf("%d bytes are still in scratch space", n)
	}
	f.Verify()
}

// TestAnObjectThatScratchSpaceCannotHold keeps no other from being merged.
func TestAnObjectThatScratchSpaceCannotHold(t *testing.T) {
	f := newFixture(t, 16)
	f.plain, f.parallel = true, 1
	topic := f.Topic("a", 1)
	f.topics = []entry.UUID{topic}
	f.Flush(segment.Options{}, rewritetest.Flushed{Topic: topic, Raw: f.Batch(120 << 10)})
	f.produce(30, 1000)
	var d disk
	d.size.Store(100 << 10)
	m := f.merger(small(), func(deps *rewrite.Deps) { deps.Scratch = &d })
	if err := f.steps(m, false); !errors.Is(err, duty.ErrScratchFull) {
		t.Errorf("it is nobody's fault: %v", err)
	}
	if n := f.level0(); n != 1 {
		t.Errorf("%d objects of level 0 are left", n)
	}
	d.size.Store(1 << 30)
	f.settle(m)
	if n := f.level0(); n != 0 {
		t.Errorf("%d objects of level 0 are left on a large disk", n)
	}
	f.Verify()
}

// TestMaxCompactionLagHurriesMerges: a quiet window is merged in half of the time after which superseded records should be gone, where one of its
// topics promises that and is compacted.
func TestMaxCompactionLagHurriesMerges(t *testing.T) {
	compact := entry.Config{Name: "cleanup.policy", Value: "compact"}
	lag := entry.Config{Name: "max.compaction.lag.ms", Value: "600000"}
	for _, c := range []struct {
		what    string
		configs []entry.Config
		minutes int // until it is merged
	}{
		{"compacted, within ten minutes", []entry.Config{compact, lag}, 5},
		{"compacted", []entry.Config{compact}, 60},
		{"not compacted", []entry.Config{lag}, 60},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := newFixture(t, 17)
			topic := f.Topic("table", 2, c.configs...)
			other, third := f.Topic("other", 1), f.Topic("third", 1)
			f.Flush(segment.Options{},
				rewritetest.Flushed{Topic: topic, Partition: 1, Raw: f.Batch(100)}, rewritetest.Flushed{Topic: other, Raw: f.Batch(100)},
				rewritetest.Flushed{Topic: third, Raw: f.Batch(100)})
			m := f.merger(small())
			minutes := 0
			for ; f.level0() > 0 && minutes < 100; minutes++ {
				if minutes > 0 {
					f.now = f.now.Add(time.Minute)
				}
				f.idle(m)
			}
			if got := minutes - 1; got != c.minutes {
				t.Errorf("merged after %d minutes, not %d", got, c.minutes)
			}
		})
	}
}

// choosy takes no merged object of a topic.
type choosy struct {
	objstore.Bucket
	topic entry.UUID
}

func (c choosy) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	if id, err := entry.ParseObjectKey(key); err == nil && id.Topic == c.topic {
		return fmt.Errorf("put %s: %w", key, objstore.ErrInvalid)
	}
	return c.Bucket.PutFrom(ctx, key, body, size, opts)
}

// TestATopicThatFailsForEverKeepsNoOthersUp: what is left of it is more than can be tried again until the first of it is due again.
func TestATopicThatFailsForEverKeepsNoOthersUp(t *testing.T) {
	f := newFixture(t, 18)
	f.plain, f.parallel = true, 1
	bad, good := f.Topic("bad", 1), f.Topic("good", 1)
	flush := func(objects int) {
		for range objects {
			f.Flush(segment.Options{}, rewritetest.Flushed{Topic: bad, Raw: f.Batch(100 << 10)}, rewritetest.Flushed{Topic: good, Raw: f.Batch(50 << 10)})
		}
	}
	cfg := small()
	cfg.BackoffMin, cfg.BackoffMax = 10*time.Minute, 10*time.Minute
	m := f.merger(cfg, func(d *rewrite.Deps) { d.Bucket = choosy{f.Bucket, bad} })
	var failed error
	steps := func(n int) {
		for range n { // each takes five minutes
			_, err := m.Step(t.Context())
			failed = errors.Join(failed, err)
			f.now = f.now.Add(5 * time.Minute)
		}
	}
	for range 3 {
		flush(20)
		steps(150)
		for _, row := range f.Rows(good, 0) {
			if !row.Object.Merged() {
				t.Fatalf("offsets %d to %d are not merged", row.Base, row.End)
			}
		}
	}
	if !errors.Is(failed, objstore.ErrInvalid) || f.level0() != 60 {
		t.Errorf("%d objects of level 0, %v", f.level0(), failed)
	}
	f.Verify()
	m = f.merger(cfg)
	f.settle(m)
	if n := f.level0(); n != 0 {
		t.Errorf("%d objects of level 0 stay", n)
	}
	f.Verify()
}

// expired is a bucket whose credentials may read and no longer put.
type expired struct {
	objstore.Bucket
	puts int
}

func (b *expired) Put(context.Context, string, []byte, objstore.PutOptions) error {
	return objstore.ErrDenied
}

func (b *expired) PutFrom(context.Context, string, io.ReaderAt, int64, objstore.PutOptions) error {
	b.puts++
	return objstore.ErrDenied
}

// Credentials that are refused whatever is asked for end a step with the first topic: the others would wait as long, one after the other.
func TestCredentialsThatMayPutNothingEndAStep(t *testing.T) {
	f := newFixture(t, 61)
	f.parallel = 1
	for i := range 6 {
		f.topics = append(f.topics, f.Topic(fmt.Sprint("t", i), 3))
	}
	f.produce(20, 20<<10)
	bucket := &expired{Bucket: f.Bucket}
	m := f.merger(small(), func(d *rewrite.Deps) {
		d.Bucket = bucket
		d.PutOptions = func(entry.UUID) objstore.PutOptions {
			return objstore.PutOptions{Tags: []objstore.Tag{{Key: "firn-class", Value: "d8"}}}
		}
	})
	f.now = f.now.Add(2 * time.Hour)
	_, err := m.Step(t.Context())
	if !errors.Is(err, objstore.ErrDenied) || strings.Count(err.Error(), "s3:PutObject") != 1 || bucket.puts != 1 {
		t.Errorf("%d puts: %v", bucket.puts, err)
	}
	f.settle(f.merger(small()))
	f.Verify()
}
