package sim_test

import (
	"math/rand/v2"
	"time"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/compaction/duty"
)

// duties are the settings of what agents do in the background: all tiny, so that it happens within a life. Nothing is compressed: idle
// decoders are the process', have a channel, and may not come from another bubble.
type duties struct {
	mergeAfter   time.Duration
	windowBytes  int64
	objectBytes  int64
	ownBytes     int64
	rescan       time.Duration
	retention    time.Duration
	epoch, sweep time.Duration
	scratch      int64
	quiet        time.Duration // at the end
}

// drawDuties decides how the life's agents do what they do in the background.
func (p *plan) drawDuties(r *rand.Rand) {
	seconds := func(of ...int) time.Duration { return time.Duration(of[r.IntN(len(of))]) * time.Second }
	p.duties = duties{
		mergeAfter: seconds(1, 1, 2), windowBytes: []int64{64 << 10, 1 << 20}[r.IntN(2)], objectBytes: []int64{64 << 10, 1 << 20}[r.IntN(2)],
		ownBytes: []int64{1 << 10, 64 << 10}[r.IntN(2)], rescan: []time.Duration{200 * time.Millisecond, time.Second}[r.IntN(2)],
		retention: seconds(1, 2, 5), epoch: seconds(1, 2, 5), sweep: seconds(2, 5, 15), scratch: []int64{8 << 20, 64 << 20}[r.IntN(2)],
	}
	p.duties.quiet = 4 * time.Minute
}

// configure gives an agent its duties, where the life has them.
func (d duties) configure(p *plan, c *agent.Config, parts *agent.Components) {
	if !p.on[compacts] {
		return
	}
	parts.Scratch = duty.InMemory(d.scratch)
	c.ScratchBytes = d.scratch
	c.MergeAfter, c.MergeRescan, c.RetentionInterval = d.mergeAfter, d.rescan, d.retention
	c.MergeWindowMin, c.MergeWindowMax, c.MergeObjectBytes, c.MergeOwnBytes = d.windowBytes, 4*d.windowBytes, d.objectBytes, d.ownBytes
	c.CollectionInterval, c.SweepInterval = d.epoch, d.sweep
	c.KeyInterval, c.KeyBytes = d.rescan, 1<<20
}
