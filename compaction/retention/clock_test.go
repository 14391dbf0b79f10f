package retention_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/retention"
)

// clocks drives a judge: log time, the steady clock and, where there is one, the bucket's.
type clocks struct {
	t     *testing.T
	judge *retention.Judge
	times retention.Times
	word  *retention.Word
}

func newClocks(t *testing.T) *clocks {
	return &clocks{t: t, judge: retention.NewJudge(retention.Bounds{}), times: retention.Times{LogMS: start}}
}

// run lets time pass evenly.
func (c *clocks) run(d time.Duration) {
	c.times.LogMS += d.Milliseconds()
	c.times.Steady += d
	c.times.Bucket = c.times.Bucket.Add(d)
}

// jump moves log time alone: the machine slept, or its clock was set.
func (c *clocks) jump(d time.Duration) { c.times.LogMS += d.Milliseconds() }

// restart makes a judge that has seen nothing.
func (c *clocks) restart() {
	c.judge, c.times.Steady = retention.NewJudge(retention.Bounds{}), 0
}

// look judges, and keeps the word as a T does.
func (c *clocks) look() retention.Verdict {
	c.t.Helper()
	var word *retention.Word
	if c.judge.Wants(c.times) {
		word = c.word
		c.times.FirstLog = word == nil
	}
	v := c.judge.Look(c.times, word)
	if v.Hold == "" {
		if w := c.judge.Keep(c.times, word); w != nil {
			c.word = w
		}
	}
	return v
}

func (c *clocks) goes(when string) {
	c.t.Helper()
	if v := c.look(); v.Hold != "" {
		c.t.Errorf("%s: held: %s", when, v.Hold)
	}
}

func (c *clocks) holds(when, why string) {
	c.t.Helper()
	if v := c.look(); !strings.Contains(v.Hold, why) || v.Hold == "" {
		c.t.Errorf("%s: %q, want %q", when, v.Hold, why)
	}
}

func TestALaptopThatSleptNeedsNobody(t *testing.T) {
	c := newClocks(t)
	c.goes("the first look")
	for range 100 {
		c.run(5 * time.Minute)
		c.goes("running")
	}
	c.jump(60 * time.Hour)
	c.run(5 * time.Minute)
	c.holds("after a week-end", "log time jumped by 60h")
	c.run(30 * time.Minute)
	c.holds("half an hour later", "goes on in 30m")
	c.run(30 * time.Minute)
	c.goes("an hour later")
	c.run(5 * time.Minute)
	c.goes("and after that")

	c.restart()
	c.jump(48 * time.Hour)
	c.holds("it was off for two days", "log time jumped")
	c.run(40 * time.Minute)
	c.jump(3 * time.Hour) // and sleeps again before the hour is over
	c.holds("it slept once more", "goes on in 1h0m0s")
	c.run(time.Hour)
	c.goes("settled")

	c.restart()
	c.jump(10 * time.Minute)
	c.goes("an ordinary restart")
}

func TestAClockIn2038WithoutAWitness(t *testing.T) {
	c := newClocks(t)
	c.goes("the first look")
	c.run(time.Hour)
	c.goes("running")
	c.jump(12 * 365 * 24 * time.Hour)
	for range 5 {
		c.run(30 * time.Hour)
		c.holds("in 2038", "run firn gc approve")
	}
	c.restart()
	for range 5 {
		c.run(30 * time.Hour)
		c.holds("in 2038, started again", "run firn gc approve")
	}
	if v := c.look(); !v.Operator {
		t.Error("nobody is told to act")
	}
	c.word = &retention.Word{Format: 1, TrustedMS: c.times.LogMS}
	c.goes("approved")
	c.run(5 * time.Minute)
	c.goes("and after that")
}

func TestNoWordThatCanBeRead(t *testing.T) {
	j := retention.NewJudge(retention.Bounds{})
	if v := j.Look(retention.Times{LogMS: start}, nil); v.Hold == "" {
		t.Error("it goes on with nothing to hold log time against")
	}
}

func TestTheBucketsClock(t *testing.T) {
	c := newClocks(t)
	c.times.Witness, c.times.Bucket = true, time.UnixMilli(start)
	c.goes("they agree")
	c.jump(59 * time.Minute)
	c.goes("within an hour")
	c.jump(60 * time.Hour)
	c.holds("ahead by days", "ahead of the bucket's clock")
	if v := c.look(); !v.Operator {
		t.Error("nobody is told to act")
	}
	c.run(100 * time.Hour)
	c.holds("it does not come right by waiting", "ahead of the bucket's clock")

	c.word = &retention.Word{Format: 1, TrustedMS: c.times.LogMS, ByBucket: true}
	if v := c.look(); v.Hold != "" || v.NowMS != c.times.Bucket.UnixMilli() {
		t.Errorf("approved: %+v, not the bucket's time", v)
	}
	c.times.Bucket = time.UnixMilli(c.times.LogMS) // the bucket has caught up
	c.restart()
	if v := c.look(); v.Hold != "" || v.NowMS != c.times.LogMS {
		t.Errorf("they agree again: %+v", v)
	}
	if c.word.ByBucket {
		t.Error("what was said of one lead is still said")
	}
	c.jump(3 * time.Hour)
	c.holds("the next lead", "ahead of the bucket's clock")

	c.times.LogMS = c.times.Bucket.Add(-50 * time.Hour).UnixMilli()
	c.goes("behind the bucket: less goes")
	c.times.Unheard = errors.New("no answer")
	c.holds("it does not say", "no answer")
}
