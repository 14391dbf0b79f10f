package fetch

import (
	"context"
	"time"
)

// Pace is the pace of replays, without a probe.
type Pace struct{ *pace }

// NewPace makes one with a floor, in bytes a second.
func NewPace(floor int64) Pace {
	return Pace{&pace{floor: float64(floor), rate: max(paceStart, float64(floor)), metrics: NewMetrics(nil)}}
}

// Work does bytes of a replay's work, and returns how long it had to wait for its turn.
func (p Pace) Work(bytes int64) time.Duration {
	start := time.Now()
	for !p.wait(context.Background(), serves, nil) {
	}
	p.charge(serves, bytes)
	return time.Since(start)
}

// Busy says that a producer is active.
func (p Pace) Busy() { p.busy() }

// Woken tells how sleeps of the probe ended, as often as it takes for the rate to follow.
func (p Pace) Woken(late bool) {
	for i := range adjustEvery {
		p.woken(time.Now(), late, i == 0)
	}
}

// Strain makes the cache take the machine for busy, with a producer at work, until ctx ends.
func (c *Cache) Strain(ctx context.Context) {
	for ctx.Err() == nil {
		c.pace.busy()
		c.pace.woken(time.Now(), true, true)
		time.Sleep(probeEvery)
	}
}

// Produce says that a producer is active.
func (c *Cache) Produce() { c.pace.busy() }

// LendAll lends what would be copied since it is small, too.
func (o *Out) LendAll() { o.Lend, o.small = true, true }

// Watched says whether there is a producer or a tail reader whom replays could slow down.
func (c *Cache) Watched() bool { return c.pace.disturbs(time.Now()) }

// Memory is what the cache keeps, how much of what it lent is not in there, and how much may be lent.
func (c *Cache) Memory() (kept, loose, lendable int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes[hot] + c.bytes[cold] + c.bytes[borrowed], c.loose, c.lendable()
}
