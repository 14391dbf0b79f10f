package retention_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/retention"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

const day = 24 * 60 * 60 * 1000

func configs(pairs ...string) (list []entry.Config) {
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, entry.Config{Name: pairs[i], Value: pairs[i+1]})
	}
	return list
}

// keeper is a T on an agent's metastore, with the clocks of a test.
type keeper struct {
	*retention.T
	steady time.Duration
}

func newKeeper(t *testing.T, a agent, clock retention.Clock) *keeper {
	t.Helper()
	k := &keeper{}
	var err error
	k.T, err = retention.New(retention.Config{}, retention.Deps{
		Meta: a, Cells: a.cluster, Clock: clock, Steady: func() time.Duration { return k.steady },
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// pass runs Step until it has nothing to do, and returns how often.
func (k *keeper) pass(t *testing.T) (steps int) {
	t.Helper()
	for steps = 1; ; steps++ {
		worked, err := k.Step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !worked {
			return steps
		}
		if steps > 1000 {
			t.Fatal("it never ends")
		}
	}
}

// run lets time pass on all clocks.
func (k *keeper) run(c *cluster, ms int64) {
	c.now += ms
	k.steady += time.Duration(ms) * time.Millisecond
	c.ok(1, &entry.Tick{})
}

func TestWhatTopicsPromise(t *testing.T) {
	c := newCluster(t, 1)
	week := c.topic(0, 2)
	hour := c.topic(1, 1, configs("retention.ms", "3600000")...)
	bytes := c.topic(2, 1, configs("retention.bytes", "1000", "retention.ms", "-1")...)
	compact := c.topic(3, 1, configs("cleanup.policy", "compact", "retention.ms", "1")...)
	both := c.topic(4, 1, configs("cleanup.policy", "compact,delete", "retention.ms", "3600000")...)
	forever := c.topic(5, 1, configs("retention.ms", "-1")...)
	locked := c.topic(6, 1, configs("retention.ms", "1", "firn.object.lock.mode", "governance", "firn.object.lock.days", "1")...)
	nothing := c.topic(7, 1, configs("cleanup.policy", "", "retention.ms", "1", "retention.bytes", "0")...)
	for _, topic := range []entry.UUID{week, hour, bytes, compact, both, forever, locked, nothing} {
		c.append(topic, 0, start, 600)
		c.append(topic, 0, start+1000, 600)
		c.append(topic, 0, start+day, 600) // in the future, until tomorrow
	}
	k := newKeeper(t, agent{c, 1}, nil)
	check := func(when string, want map[entry.UUID]int64) {
		t.Helper()
		k.pass(t)
		if k.Fault() != "" {
			t.Fatalf("%s: %s", when, k.Fault())
		}
		for topic, offset := range want {
			if got := c.logStart(topic, 0); got != offset {
				t.Errorf("%s: topic %v starts at %d, want %d", when, topic[:1], got, offset)
			}
		}
	}
	check("at once", map[entry.UUID]int64{week: 0, hour: 0, bytes: 10, compact: 0, both: 0, forever: 0, locked: 0, nothing: 0})
	for range 13 { // evenly
		k.run(c, 300_000)
		k.pass(t)
	}
	check("after an hour", map[entry.UUID]int64{week: 0, hour: 20, bytes: 10, compact: 0, both: 20, forever: 0, locked: 0, nothing: 0})
	for range 7*24 + 12 {
		k.run(c, 3_600_000)
		k.pass(t)
	}
	check("after seven days and a half", map[entry.UUID]int64{week: 20, hour: 30, bytes: 10, compact: 0, both: 30, forever: 0, locked: 30, nothing: 0})
	k.run(c, 3_000_000)
	before := c.st.N()
	check("and then", map[entry.UUID]int64{week: 20})
	if c.st.N() != before {
		t.Error("a pass with nothing to do wrote to the log")
	}
	c.ok(1, &entry.AlterConfigs{ResourceType: entry.ResourceTopic, ResourceName: "a-topic", Changes: []entry.ConfigChange{{Name: "retention.ms", Value: "1000"}}})
	check("a config that changed", map[entry.UUID]int64{week: 30})
	if c.st.TopicByID(week).Partition(0).RowCount() != 0 || c.st.TopicByID(week).Partition(0).Next() != 30 {
		t.Error("an idle topic keeps rows")
	}
}

func TestWhatRetentionRetiresIsThereToCollect(t *testing.T) {
	c := newCluster(t, 1)
	topic := c.topic(0, 1, configs("retention.ms", "1000")...)
	c.append(topic, 0, start, 600)
	k := newKeeper(t, agent{c, 1}, nil)
	k.pass(t)
	k.run(c, 2000)
	k.pass(t)
	if got := c.st.Retired(); len(got) != 1 || got[0].Object.Seq != 1 || c.st.Named(got[0].Object) {
		t.Errorf("retired: %+v", got)
	}
}

func TestOneAgentsClockIn2038(t *testing.T) {
	const in2038 = int64(2_160_000_000_000)
	setup := func(t *testing.T, agents int) (*cluster, entry.UUID) {
		c := newCluster(t, agents)
		topic := c.topic(0, 1)
		c.append(topic, 0, start, 600)
		for i := range agents {
			c.ok(byte(i+1), &entry.Tick{})
		}
		return c, topic
	}
	t.Run("of three", func(t *testing.T) {
		c, topic := setup(t, 3)
		k := newKeeper(t, agent{c, 1}, nil)
		for range 10 {
			k.pass(t)
			k.run(c, 300_000)
			c.ok(2, &entry.Tick{})
			real := c.now
			c.now = in2038
			c.ok(3, &entry.Tick{})
			c.now = real
		}
		if k.pass(t); c.logStart(topic, 0) != 0 || k.Fault() != "" {
			t.Errorf("log start %d, fault %q", c.logStart(topic, 0), k.Fault())
		}
		if c.st.LogTime() > c.now+60_000 {
			t.Errorf("log time is %d", c.st.LogTime())
		}
	})
	t.Run("alone, and the bucket knows better", func(t *testing.T) {
		c, topic := setup(t, 1)
		bucket := clock{ms: new(int64)}
		*bucket.ms = start
		k := newKeeper(t, agent{c, 1}, &bucket)
		k.pass(t)
		c.now = in2038
		k.run(c, 1000)
		k.pass(t)
		if c.logStart(topic, 0) != 0 || !strings.Contains(k.Fault(), "ahead of the bucket's clock") {
			t.Fatalf("log start %d, fault %q", c.logStart(topic, 0), k.Fault())
		}
		// The clock is set right; log time cannot go back. An operator says that the bucket is right.
		c.now = start + 8*day
		*bucket.ms = c.now
		c.append(topic, 0, c.now, 600)
		k.pass(t)
		if k.Fault() == "" {
			t.Fatal("it came right by itself")
		}
		if err := retention.Approve(t.Context(), c, retention.Word{TrustedMS: c.st.LogTime(), ByBucket: true}); err != nil {
			t.Fatal(err)
		}
		k.pass(t)
		if c.logStart(topic, 0) != 10 || k.Fault() != "" {
			t.Errorf("approved: log start %d, fault %q", c.logStart(topic, 0), k.Fault())
		}
	})
	t.Run("alone, and the bucket has no clock", func(t *testing.T) {
		c, topic := setup(t, 1)
		k := newKeeper(t, agent{c, 1}, nil)
		k.pass(t)
		c.now = in2038
		for range 100 {
			k.run(c, 3_600_000/2)
			k.pass(t)
		}
		if c.logStart(topic, 0) != 0 || !strings.Contains(k.Fault(), "firn gc approve") {
			t.Fatalf("log start %d, fault %q", c.logStart(topic, 0), k.Fault())
		}
		k = newKeeper(t, agent{c, 1}, nil) // and started again
		k.run(c, 1000)
		k.pass(t)
		if c.logStart(topic, 0) != 0 || k.Fault() == "" {
			t.Fatalf("started again: log start %d, fault %q", c.logStart(topic, 0), k.Fault())
		}
		if err := retention.Approve(t.Context(), c, retention.Word{TrustedMS: c.st.LogTime()}); err != nil {
			t.Fatal(err)
		}
		k.pass(t)
		if c.logStart(topic, 0) != 10 || k.Fault() != "" {
			t.Errorf("approved: log start %d, fault %q", c.logStart(topic, 0), k.Fault())
		}
	})
	t.Run("the bucket does not say", func(t *testing.T) {
		c, topic := setup(t, 1)
		bucket := clock{ms: new(int64), err: errors.New("access denied")}
		k := newKeeper(t, agent{c, 1}, &bucket)
		k.run(c, 8*day)
		k.pass(t)
		if c.logStart(topic, 0) != 0 || !strings.Contains(k.Fault(), "access denied") {
			t.Errorf("log start %d, fault %q", c.logStart(topic, 0), k.Fault())
		}
	})
}

func TestBucketsWithoutAClock(t *testing.T) {
	b := mem.New()
	defer b.Close()
	if _, is := objstore.As[objstore.Clock](b); !is {
		t.Fatal("memory is asked for its time")
	}
	c := newCluster(t, 1)
	topic := c.topic(0, 1, configs("retention.ms", "1000")...)
	c.append(topic, 0, start, 600)
	k := newKeeper(t, agent{c, 1}, b)
	k.pass(t)
	k.run(c, 2000)
	if k.pass(t); c.logStart(topic, 0) != 10 || k.Fault() != "" {
		t.Errorf("log start %d, fault %q", c.logStart(topic, 0), k.Fault())
	}
	b.SetClock(func() time.Time { return time.UnixMilli(start - day) })
	c.append(topic, 0, start, 600)
	k.run(c, 2000)
	if k.pass(t); c.logStart(topic, 0) != 10 || !strings.Contains(k.Fault(), "ahead of the bucket's clock") {
		t.Errorf("with a clock: log start %d, fault %q", c.logStart(topic, 0), k.Fault())
	}
}

// TestBound: what others may take for the time at most, which a clock that runs ahead does not move.
func TestBound(t *testing.T) {
	const lead = 3_600_000
	for _, witness := range []bool{false, true} {
		c := newCluster(t, 1) // no topic lets anything go: the clocks are looked at all the same
		var source retention.Clock
		honest := c.now
		if witness {
			source = &clock{ms: &honest}
		}
		k := newKeeper(t, agent{c, 1}, source)
		if k.Bound() != 0 {
			t.Errorf("bound %d before anything was looked at", k.Bound())
		}
		k.pass(t)
		if got := k.Bound() - c.st.LogTime(); got != lead {
			t.Errorf("witness %v: the bound is %d ms ahead of log time", witness, got)
		}
		k.run(c, 600_000)
		honest += 600_000
		if got := k.Bound() - c.st.LogTime(); got != lead {
			t.Errorf("witness %v: between looks the bound is %d ms ahead of log time", witness, got)
		}
		trusted := k.Bound()
		c.now += 60 * day
		c.ok(1, &entry.Tick{})
		k.steady += time.Hour + time.Minute // it looks again
		honest += lead + 60_000
		k.pass(t)
		if got := k.Bound() - trusted; got != lead+60_000 || k.Fault() == "" {
			t.Errorf("witness %v: a clock 60 days ahead moved the bound by %d ms, fault %q", witness, got, k.Fault())
		}
	}
}

func TestTheBucketIsAskedForItsTimeOnlyWhereItMatters(t *testing.T) {
	c := newCluster(t, 1)
	topic := c.topic(0, 1)
	c.append(topic, 0, start, 600)
	bucket := clock{ms: &c.now}
	k := newKeeper(t, agent{c, 1}, &bucket)
	for range 12 {
		k.pass(t)
		k.run(c, 300_000)
	}
	if bucket.asked != 1 {
		t.Errorf("asked %d times in an hour with nothing to delete", bucket.asked)
	}
	k.run(c, 8*day)
	k.pass(t)
	if c.logStart(topic, 0) != 10 {
		t.Errorf("log start %d", c.logStart(topic, 0))
	}
}

func TestManyPartitionsInBoundedSlices(t *testing.T) {
	c := newCluster(t, 2)
	topics := make([]entry.UUID, 20)
	for i := range topics {
		topics[i] = c.topic(byte(i), 2500, configs("retention.ms", "1000")...)
		for p := 0; p < 2500; p += 500 {
			for range 3 {
				c.append(topics[i], uint32(p), start, 10)
			}
		}
	}
	first, second := newKeeper(t, agent{c, 1}, nil), newKeeper(t, agent{c, 2}, nil)
	first.pass(t)
	second.pass(t)
	first.run(c, 5000)
	c.ok(2, &entry.Tick{})
	second.steady += 5 * time.Second
	c.views, c.ops = 0, 0
	if steps := first.pass(t); steps < 2 {
		t.Errorf("%d steps", steps)
	}
	mine := c.ops
	if mine == 0 || mine == 100 {
		t.Errorf("one of two agents did %d of 100", mine)
	}
	if c.views < 5 {
		t.Errorf("50 000 partitions under the lock %d times", c.views)
	}
	second.pass(t)
	if c.ops != 100 {
		t.Errorf("%d ops for 100 partitions", c.ops)
	}
	for i := range topics {
		for p := 0; p < 2500; p += 500 {
			if got := c.logStart(topics[i], p); got != 30 {
				t.Fatalf("topic %d, partition %d starts at %d", i, p, got)
			}
		}
	}
}

func TestALongHistoryGoesAtOnce(t *testing.T) {
	c := newCluster(t, 1)
	topic := c.topic(0, 1, configs("retention.bytes", "100")...)
	undated := c.topic(1, 1)
	for range 3000 {
		c.append(topic, 0, start, 10)
	}
	for range 300 {
		c.append(undated, 0, -1, 10)
	}
	c.append(undated, 0, start-8*day, 10)
	c.append(undated, 0, start, 10)
	k := newKeeper(t, agent{c, 1}, nil)
	k.pass(t)
	if got := c.logStart(topic, 0); got != 30_000-100 {
		t.Errorf("log start %d", got)
	}
	if got := c.logStart(undated, 0); got != 3010 {
		t.Errorf("log start %d where timestamps are missing", got)
	}
}

func TestBelowItsFeatureLevelNothingHappens(t *testing.T) {
	c := newCluster(t, 1)
	c.st = state.New(state.Identity{ID: [16]byte{1}, Epoch: 1})
	clear(c.seqs)
	c.ok(1, &entry.Join{Name: "a", MaxFeatureLevel: state.MaxFeatureLevel, Listeners: []entry.Listener{{Host: "h", Port: 1}}})
	topic := c.topic(0, 1, configs("retention.bytes", strconv.Itoa(0))...)
	c.append(topic, 0, start, 10)
	k := newKeeper(t, agent{c, 1}, nil)
	if k.pass(t); c.logStart(topic, 0) != 0 {
		t.Error("retention acted on a cluster with older agents")
	}
}

func TestConfigsThatCannotBe(t *testing.T) {
	if _, err := retention.New(retention.Config{AskInterval: -1}, retention.Deps{}); err == nil || !strings.Contains(err.Error(), "negative") {
		t.Error(err)
	}
	if _, err := retention.New(retention.Config{}, retention.Deps{}); err == nil {
		t.Error("without a metastore")
	}
}

func TestAPromiseThatGrowsCountsAtOnce(t *testing.T) {
	c := newCluster(t, 1)
	alter := func(id byte, ms string) {
		t.Helper()
		c.ok(1, &entry.AlterConfigs{
			ResourceType: 2, ResourceName: string(rune('a'+id)) + "-topic",
			Changes: []entry.ConfigChange{{Name: "retention.ms", Kind: entry.ConfigSet, Value: ms}},
		})
	}
	grows := c.topic(1, 1, configs("retention.ms", strconv.Itoa(day))...)
	ever := c.topic(2, 1, configs("retention.ms", strconv.Itoa(day))...)
	stays := c.topic(3, 1, configs("retention.ms", strconv.Itoa(day))...)
	k := newKeeper(t, agent{c, 1}, &clock{ms: &c.now})
	for _, topic := range []entry.UUID{grows, ever, stays} {
		c.append(topic, 0, start, 100)
	}
	k.run(c, day)
	k.pass(t)
	for range 50 { // sooner than the bucket is asked for its time again
		k.run(c, day/24/60)
		if worked, err := k.Step(t.Context()); err != nil {
			t.Fatal(err)
		} else if worked {
			break // in the midst of a pass that has found what is due
		}
	}
	if c.ops != 0 {
		t.Fatalf("%d cuts already", c.ops)
	}
	alter(1, strconv.Itoa(7*day))
	alter(2, "-1")
	k.pass(t)
	for topic, want := range map[entry.UUID]int64{grows: 0, ever: 0, stays: 10} {
		if got := c.logStart(topic, 0); got != want {
			t.Errorf("topic %x begins at %d, want %d", topic[:2], got, want)
		}
	}
}
