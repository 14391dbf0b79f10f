package clean_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/firnlog/firn/compaction/clean"
	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/compaction/rewrite/rewritetest"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
)

// record is a record of now; a value of "" is null.
func (w *world) record(key, value string) rec {
	r := rec{timestamp: w.clock, value: []byte(value), key: []byte(key)}
	if value == "" {
		r.value = nil
	}
	if key == "" {
		r.key = nil
	}
	return r
}

// held are keys and values of a partition.
func (w *world) held(partition int32) string {
	var words []string
	for _, g := range w.read(partition) {
		value := string(g.value)
		if g.value == nil {
			value = "null"
		}
		words = append(words, fmt.Sprintf("%d:%s=%s", g.offset, g.key, value))
	}
	return strings.Join(words, " ")
}

// value is a counter or gauge of a registry.
func value(t testing.TB, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(labels) == 0 || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == labels[0] }) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no %s %v", name, labels)
	return 0
}

// steps is how many Steps have work to do, until there is none.
func (w *world) steps(c *clean.Cleaner) (n int) {
	w.t.Helper()
	for {
		worked, err := c.Step(context.Background())
		if err != nil {
			w.t.Fatal(err)
		}
		if !worked {
			return n
		}
		if n++; n > 50 {
			w.t.Fatal("it never comes to rest")
		}
	}
}

func TestTombstonesStayForTheirTime(t *testing.T) {
	w := newWorld(t, 1, 1, config("cleanup.policy", "compact", "delete.retention.ms", "60000", "min.cleanable.dirty.ratio", "0")...)
	reg := prometheus.NewRegistry()
	c := w.cleaner(clean.Config{}, func(d *clean.Deps) { d.Metrics = clean.NewMetrics(reg) })
	w.flush(0, 10, w.record("a", "1"), w.record("b", "1"), w.record("", "no key"), w.record("a", ""), w.record("c", "1"))
	w.merge(0, 1, 0)
	w.settle(c)
	if got := w.held(0); got != "1:b=1 3:a=null 4:c=1" {
		t.Error(got)
	}
	for _, g := range w.read(0) {
		if g.key[0] == 'a' && g.horizon != w.st.LogTime()+60_000 {
			t.Errorf("delete horizon %d, log time %d", g.horizon, w.st.LogTime())
		}
	}
	again := func(after time.Duration, want string) {
		t.Helper()
		w.tick(after)
		w.flush(0, 1, w.record("d", fmt.Sprint(w.clock)))
		w.merge(0, 1, 0)
		w.settle(c)
		if got := w.held(0); !strings.HasPrefix(got, want) {
			t.Errorf("after %v: %s, want %s", after, got, want)
		}
	}
	again(59*time.Second, "1:b=1 3:a=null 4:c=1 5:d=")
	again(time.Second, "1:b=1 4:c=1 6:d=")
	for why, want := range map[string]float64{"superseded": 2, "tombstone": 1, "no_key": 1, "deleted": 0} {
		if got := value(t, reg, "firn_compaction_clean_removed_records_total", why); got != want {
			t.Errorf("%v records counted as %s, want %v", got, why, want)
		}
	}
}

// TestAClockThatRanAheadExpiresNothing: log time may have been set ahead by clocks that are wrong. What goes by its age goes by the
// lesser of it and of what can be trusted.
func TestAClockThatRanAheadExpiresNothing(t *testing.T) {
	w := newWorld(t, 1, 2, config("cleanup.policy", "compact", "delete.retention.ms", "60000", "min.compaction.lag.ms", "1000", "min.cleanable.dirty.ratio", "0")...)
	bound := int64(0) // nothing was trusted yet
	c := w.cleaner(clean.Config{}, func(d *clean.Deps) { d.Bound = func() int64 { return bound } })
	w.flush(0, 10, w.record("a", "1"), w.record("a", ""), w.record("b", "1"))
	w.merge(0, 1, 0)
	w.tick(time.Hour)
	w.settle(c)
	if got := w.held(0); got != "0:a=1 1:a=null 2:b=1" {
		t.Errorf("cleaned before its lag, by a time that nobody vouches for: %s", got)
	}
	bound = w.st.LogTime()
	w.settle(c)
	if got := w.held(0); got != "1:a=null 2:b=1" {
		t.Error(got)
	}
	again := func(want string) {
		t.Helper()
		w.flush(0, 1, w.record("c", fmt.Sprint(w.clock)))
		w.merge(0, 1, 0)
		w.tick(2 * time.Second)
		w.settle(c)
		if got := w.held(0); !strings.HasPrefix(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	w.tick(24 * time.Hour) // ahead; what is trusted has gone on by ten seconds
	bound += 10_000
	again("1:a=null 2:b=1 3:c=")
	bound = w.st.LogTime()
	again("2:b=1 ")
}

func TestWhatMayBeCleaned(t *testing.T) {
	w := newWorld(t, 1, 1, config("cleanup.policy", "compact", "min.compaction.lag.ms", "60000", "min.cleanable.dirty.ratio", "0")...)
	c := w.cleaner(clean.Config{})
	w.flush(0, 10, w.record("a", "1"), w.record("a", "2"))
	w.tick(time.Hour)
	if n := w.steps(c); n != 0 {
		t.Error("rows of level 0 were cleaned")
	}
	w.merge(0, 1, 0)
	w.flush(0, 10, w.record("a", "3"), w.record("a", "4"))
	w.merge(0, 1, 0)
	w.settle(c)
	if got := w.held(0); got != "1:a=2 2:a=3 3:a=4" {
		t.Errorf("%s: the lag counts from the newest record of a row", got)
	}
	w.tick(time.Minute)
	w.settle(c)
	if got := w.held(0); got != "3:a=4" {
		t.Error(got)
	}
}

func TestWhenACleaningIsDue(t *testing.T) {
	value := strings.Repeat("v", 400)
	w := newWorld(t, 1, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0.5", "max.compaction.lag.ms", "600000")...)
	w.plain = true
	c := w.cleaner(clean.Config{})
	write := func(keys ...string) {
		t.Helper()
		for _, k := range keys {
			w.flush(0, 1, w.record(k, value))
		}
		w.merge(0, 100, 0)
	}
	expect := func(what string, want int) {
		t.Helper()
		if n := w.steps(c); n != want {
			t.Errorf("%s: %d cleanings, want %d", what, n, want)
		}
	}
	write("a", "b", "c", "d")
	expect("all is dirty", 1)
	write("a", "b")
	expect("a third is dirty", 0)
	write("c", "d", "a", "b")
	expect("more than half is dirty", 1)
	write("a")
	expect("a fifth is dirty", 0)
	w.tick(5 * time.Minute)
	w.tick(5 * time.Minute)
	write("b") // newer, in a row of its own
	expect("a fifth is ten minutes old", 0)
	w.tick(time.Second)
	expect("a fifth is older than max.compaction.lag.ms", 1)
	expect("nothing is dirty", 0)
	if w.rows(0)[0].Base != 6 || !w.rows(0)[0].Cleaned {
		t.Errorf("%+v", w.rows(0))
	}
}

// The index knows the last timestamp of a row only; the first one, which max.compaction.lag.ms is about, is read.
func TestMaxCompactionLagCountsFromTheFirstRecord(t *testing.T) {
	w := newWorld(t, 1, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "1", "max.compaction.lag.ms", "600000")...)
	c := w.cleaner(clean.Config{})
	w.flush(0, 1, w.record("a", "1"))
	w.tick(11 * time.Minute)
	w.flush(0, 1, w.record("a", "2"))
	w.merge(0, 2, 0)
	w.settle(c)
	if got := w.held(0); got != "1:a=2" {
		t.Error(got)
	}
	w.flush(0, 1, w.record("a", "3"))
	w.tick(9 * time.Minute)
	w.flush(0, 1, w.record("a", "4"))
	w.merge(0, 2, 0)
	if n := w.steps(c); n != 0 {
		t.Error("cleaned before its time")
	}
}

func TestNotCompacted(t *testing.T) {
	w := newWorld(t, 1, 1, config("cleanup.policy", "delete")...)
	c := w.cleaner(clean.Config{})
	w.flush(0, 10, w.record("a", "1"), w.record("a", "2"), w.record("", "3"))
	w.merge(0, 1, 0)
	if n := w.steps(c); n != 0 {
		t.Error("a topic that is not compacted was")
	}
	w.alter("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")
	// It is delete again while the cleaner works: from the first commit on it leaves the topic alone.
	w.bucket.Bucket = &noticing{Bucket: w.bucket.Bucket, at: func() {
		w.alter("cleanup.policy", "delete")
	}}
	w.steps(c)
	if got := w.held(0); got != "0:a=1 1:a=2 2:=3" {
		t.Error(got)
	}
}

func (w *world) alter(pairs ...string) {
	w.t.Helper()
	op := &entry.AlterConfigs{ResourceType: entry.ResourceTopic, ResourceName: "t"}
	for i := 0; i < len(pairs); i += 2 {
		op.Changes = append(op.Changes, entry.ConfigChange{Name: pairs[i], Kind: entry.ConfigSet, Value: pairs[i+1]})
	}
	w.must(op)
}

// noticing calls at before an upload.
type noticing struct {
	objstore.Bucket
	at func()
}

func (b *noticing) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	b.at()
	return b.Bucket.PutFrom(ctx, key, body, size, opts)
}

// A row of which nothing goes is not written anew, and small rows are brought together.
func TestRowsThatStay(t *testing.T) {
	w := newWorld(t, 1, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	w.plain = true
	large := strings.Repeat("v", 1000)
	c := w.cleaner(clean.Config{ObjectBytes: 4000})
	for i := range 6 {
		w.flush(0, 1, w.record(fmt.Sprint("a", i), large+large+large))
		w.merge(0, 1, 0)
	}
	before := w.rows(0)
	w.settle(c)
	for i, row := range w.rows(0) {
		if row.Object != before[i].Object || !row.Cleaned {
			t.Errorf("row %d was %+v, is %+v", i, before[i], row)
		}
	}
	w.flush(0, 1, w.record("a0", "small"), w.record("a2", "small"))
	w.merge(0, 1, 0)
	w.settle(c)
	after := w.rows(0)
	if len(after) != 5 || after[0].Object != before[1].Object || after[1].Object != before[3].Object {
		t.Errorf("%d rows: %+v", len(after), after)
	}
	for i := range 4 {
		w.flush(0, 1, w.record(fmt.Sprint("b", i), "small"))
		w.merge(0, 1, 0)
		w.settle(c)
	}
	if n := len(w.rows(0)); n != 5 {
		t.Errorf("%d rows: small ones were not brought together", n)
	}
}

// Several small partitions of a territory share an object.
func TestSmallPartitionsShareAnObject(t *testing.T) {
	w := newWorld(t, 1, 5, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	c := w.cleaner(clean.Config{})
	for p := range int32(5) {
		w.flush(p, 10, w.random(100, 10)...)
		w.merge(p, 1, 0)
	}
	w.settle(c)
	for p := range int32(5) {
		if rows := w.rows(p); len(rows) != 1 || !rows[0].Cleaned || rows[0].Object != w.rows(0)[0].Object {
			t.Errorf("partition %d: %+v", p, rows)
		}
		w.judge(p, w.partition(p).Next(), map[int64]int64{})
	}
}

// damaged is a bucket that gives wrong bytes of one object.
type damaged struct {
	objstore.Bucket
	key string
}

func (b *damaged) Get(ctx context.Context, key string) ([]byte, error) {
	body, err := b.Bucket.Get(ctx, key)
	if key == b.key && err == nil {
		body = bytes.Clone(body)
		body[20] ^= 1
	}
	return body, err
}

func (b *damaged) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	body, err := b.Bucket.GetRange(ctx, key, position, size)
	if key == b.key && err == nil && position <= 20 {
		body = bytes.Clone(body)
		body[20-position] ^= 1
	}
	return body, err
}

func TestDamagedInputStopsItsPartition(t *testing.T) {
	for _, missing := range []bool{false, true} {
		w := newWorld(t, 1, 3, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
		for p := range int32(3) {
			for range 4 {
				w.flush(p, 10, w.random(100, 10)...)
			}
			w.merge(p, 1, 0)
		}
		reg := prometheus.NewRegistry()
		var logged bytes.Buffer
		c := w.cleaner(clean.Config{ObjectBytes: 1000}, func(d *clean.Deps) {
			d.Metrics, d.Logger = clean.NewMetrics(reg), slog.New(slog.NewTextHandler(&logged, nil))
		})
		before, honest := w.rows(1), w.bucket.Bucket
		bad := before[2].Object.Key()
		w.bucket.Bucket = &damaged{honest, bad}
		if missing {
			body, err := honest.Get(context.Background(), bad)
			if err != nil {
				t.Fatal(err)
			}
			if err := honest.Delete(context.Background(), bad); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = body }()
			w.bucket.Bucket = honest
			defer func(w *world) {
				if err := honest.Put(context.Background(), bad, body, objstore.PutOptions{}); err != nil {
					t.Fatal(err)
				}
				w.tick(time.Minute)
				w.settle(c)
				w.judge(1, w.partition(1).Next(), map[int64]int64{})
			}(w)
		}
		w.settle(c)
		for p := range int32(3) {
			rows := w.rows(p)
			if p == 1 {
				if !slices.Equal(rows, before) {
					t.Errorf("rows of the partition that cannot be read were %+v, are %+v", before, rows)
				}
				continue
			}
			w.judge(p, w.partition(p).Next(), map[int64]int64{})
		}
		if n := value(t, reg, "firn_compaction_clean_stopped_partitions"); n != 1 {
			t.Errorf("%v partitions are said to have stopped", n)
		}
		if !strings.Contains(c.Fault(), bad) || strings.Count(logged.String(), "level=ERROR") != 1 || !strings.Contains(logged.String(), bad) {
			t.Errorf("%q; log:\n%s", c.Fault(), logged.String())
		}
		if missing {
			continue
		}
		w.bucket.Bucket = honest // an operator mends it
		w.tick(30 * time.Second)
		w.settle(c)
		if !slices.Equal(w.rows(1), before) {
			t.Error("it was tried again at once")
		}
		w.tick(30 * time.Second)
		w.settle(c)
		w.judge(1, w.partition(1).Next(), map[int64]int64{})
		if c.Fault() != "" || value(t, reg, "firn_compaction_clean_stopped_partitions") != 0 {
			t.Errorf("%q", c.Fault())
		}
	}
}

// What retention or a user deletes is nobody's trouble any more.
func TestDamagedInputThatIsDeletedIsForgotten(t *testing.T) {
	w := newWorld(t, 1, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	for range 4 {
		w.flush(0, 10, w.random(100, 10)...)
	}
	w.merge(0, 1, 0)
	rows := w.rows(0)
	w.bucket.Bucket = &damaged{w.bucket.Bucket, rows[1].Object.Key()}
	c := w.cleaner(clean.Config{})
	w.settle(c)
	if !strings.Contains(c.Fault(), rows[1].Object.Key()) {
		t.Fatalf("%q", c.Fault())
	}
	w.must(&entry.DeleteRecords{Topic: w.topic, BeforeOffset: rows[1].End})
	w.settle(c)
	if c.Fault() != "" {
		t.Errorf("%q", c.Fault())
	}
	w.judge(0, w.partition(0).Next(), map[int64]int64{})
}

// An object that the bucket does not let us have (a foreign rule put it into an archive, say) keeps nobody else's partition from being
// cleaned.
func TestAnObjectThatIsNotToBeHadKeepsNoOtherPartitionUp(t *testing.T) {
	for _, lag := range []bool{false, true} {
		configs := config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")
		if lag { // the first dirty record has to be looked at
			configs = config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0.99", "max.compaction.lag.ms", "60000")
		}
		w := newWorld(t, 1, 3, configs...)
		for p := range int32(3) {
			w.flush(p, 10, w.random(100, 10)...)
			w.merge(p, 1, 0)
		}
		c := w.cleaner(clean.Config{})
		if lag {
			w.settle(c)
			for p := range int32(3) {
				records := w.random(100, 10)
				records[0].timestamp = w.clock - 50_000
				w.flush(p, 1, records...)
				w.merge(p, 1, 0)
			}
			w.tick(20 * time.Second)
			c = w.cleaner(clean.Config{})
		}
		before, honest := w.rows(0), w.bucket.Bucket
		w.bucket.Bucket = &rewritetest.Withheld{Bucket: honest, Key: before[len(before)-1].Object.Key()}
		failed := 0
		for range 5 {
			if _, err := c.Step(context.Background()); err != nil {
				failed++
			}
		}
		if failed != 1 || !slices.Equal(w.rows(0), before) {
			t.Errorf("%d steps failed; rows were %+v, are %+v", failed, before, w.rows(0))
		}
		w.judge(1, w.partition(1).Next(), map[int64]int64{})
		w.judge(2, w.partition(2).Next(), map[int64]int64{})
		w.bucket.Bucket = honest
		w.tick(time.Minute)
		w.settle(c)
		w.judge(0, w.partition(0).Next(), map[int64]int64{})
	}
}

func TestTransactionsAreLeftAlone(t *testing.T) {
	w := newWorld(t, 1, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	c := w.cleaner(clean.Config{})
	w.flush(0, 10, w.record("a", "1"), w.record("a", "2"))
	w.transactional = true
	w.flush(0, 10, w.record("a", "3"), w.record("b", "4"))
	w.merge(0, 1, 0)
	before := w.rows(0)
	w.settle(c)
	if !slices.Equal(w.rows(0), before) || !strings.Contains(c.Fault(), "transaction") {
		t.Errorf("%+v, %s", w.rows(0), c.Fault())
	}
}

// Two agents at one partition: the second one's work is in vain, and nothing else.
func TestTwoCleaners(t *testing.T) {
	w := newWorld(t, 3, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	for range 8 {
		w.flush(0, 10, w.random(100, 60)...)
	}
	w.merge(0, 2, 0)
	reg := prometheus.NewRegistry()
	first := w.cleaner(clean.Config{ObjectBytes: 1500}, func(d *clean.Deps) { d.Metrics = clean.NewMetrics(reg) })
	second := w.cleaner(clean.Config{ObjectBytes: 1500})
	at := 0
	w.before = func(entry.Op) error {
		if at++; at == 2 {
			w.before = nil
			w.settle(second)
		}
		return nil
	}
	w.settle(first)
	if value(t, reg, "firn_compaction_clean_abandoned_total") == 0 {
		t.Error("the first one did not notice")
	}
	w.judge(0, w.partition(0).Next(), map[int64]int64{})
}

func TestBusyTerritoriesAreLeftAlone(t *testing.T) {
	w := newWorld(t, 3, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	w.flush(0, 10, w.random(100, 60)...)
	w.merge(0, 1, 0)
	busy := &duty.Busy{}
	c := w.cleaner(clean.Config{}, func(d *clean.Deps) { d.Busy = busy })
	done, _ := busy.Try(duty.Territory(w.topic, 0))
	if n := w.steps(c); n != 0 {
		t.Errorf("%d steps", n)
	}
	done()
	if n := w.steps(c); n != 1 {
		t.Errorf("%d steps", n)
	}
}

// Where scratch space is too small for all keys, a cleaning takes fewer rows.
func TestLittleScratchSpace(t *testing.T) {
	w := newWorld(t, 3, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	for i := range 16 {
		var list []rec
		for j := range 200 {
			list = append(list, w.record(fmt.Sprint(i*100+j), fmt.Sprint(i)))
		}
		w.flush(0, 50, list...)
	}
	w.merge(0, 1, 0)
	c := w.cleaner(clean.Config{MemoryBytes: 1}, func(d *clean.Deps) { d.Scratch = duty.InMemory(45_000) })
	if n := w.steps(c); n < 2 {
		t.Errorf("%d steps", n)
	}
	w.judge(0, w.partition(0).Next(), map[int64]int64{})
}

// Where scratch space cannot hold an output, the next ones are smaller, and that is told once.
func TestScratchSpaceThatIsTooSmallForAnOutput(t *testing.T) {
	w := newWorld(t, 3, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	w.plain = true
	for i := range 16 {
		var list []rec
		for j := range 100 {
			list = append(list, w.record(fmt.Sprint(i*50+j), fmt.Sprint(i)))
		}
		w.flush(0, 50, list...)
	}
	w.merge(0, 1, 0)
	var log bytes.Buffer
	small, err := rewrite.New(rewrite.Config{ChunkBytes: 512, RunBytes: 2048, Attempts: 1}, rewrite.Deps{Meta: w, Bucket: w.bucket, Scratch: duty.InMemory(12_000)})
	if err != nil {
		t.Fatal(err)
	}
	c := w.cleaner(clean.Config{}, func(d *clean.Deps) {
		d.Env, d.Logger = small, slog.New(slog.NewTextHandler(&log, nil))
	})
	for range 10 {
		w.steps(c)
		w.clock += 2 * time.Hour.Milliseconds()
	}
	for i, row := range w.rows(0) {
		if !row.Cleaned {
			t.Fatalf("row %d is not cleaned\n%s", i, log.String())
		}
	}
	w.judge(0, w.partition(0).Next(), map[int64]int64{})
	if n := strings.Count(log.String(), "scratch space is short"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
}

func TestStepEndsWithItsContext(t *testing.T) {
	w := newWorld(t, 3, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	w.flush(0, 10, w.random(100, 60)...)
	w.merge(0, 1, 0)
	before := w.rows(0)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errStop)
	if _, err := w.cleaner(clean.Config{}).Step(ctx); !errors.Is(err, errStop) {
		t.Error(err)
	}
	if !slices.Equal(w.rows(0), before) {
		t.Error("it went on")
	}
}

// ending is scratch space that ends a context with the first read, and counts those.
type ending struct {
	duty.Scratch
	end   context.CancelFunc
	reads int
}

type endingFile struct {
	duty.File
	s *ending
}

func (s *ending) Create() (duty.File, error) {
	f, err := s.Scratch.Create()
	return endingFile{f, s}, err
}

func (f endingFile) ReadAt(b []byte, position int64) (int, error) {
	f.s.end()
	f.s.reads++
	return f.File.ReadAt(b, position)
}

// An agent that drains does not wait until all keys of a large partition were sorted.
func TestSortingKeysEndsWithItsContext(t *testing.T) {
	w := newWorld(t, 1, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	for range 8 {
		w.flush(0, 1000, w.random(4000, 1<<30)...)
	}
	w.merge(0, 8, 0)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := &ending{Scratch: w.scratch, end: cancel}
	c := w.cleaner(clean.Config{MemoryBytes: 256 << 10}, func(d *clean.Deps) { d.Scratch = s })
	if _, err := c.Step(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// 64 shards of some runs each.
	if s.reads == 0 || s.reads > 64 {
		t.Errorf("%d reads of keys", s.reads)
	}
}

func TestConfig(t *testing.T) {
	if err := (&clean.Config{MemoryBytes: -1, ObjectBytes: -1, RetryMin: 2, RetryMax: 1}).Validate(); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Error(err)
	}
	if _, err := clean.New(clean.Config{}, clean.Deps{}); err == nil {
		t.Error("nothing to work with")
	}
	var c clean.Config
	if err := c.Validate(); err != nil || c.MemoryBytes != 64<<20 || c.ObjectBytes != 256<<20 {
		t.Error(c, err)
	}
}
