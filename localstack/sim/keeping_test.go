package sim_test

import (
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/firnlog/firn/localstack/check"
)

// keeping is what a topic's policies let go of. The zero value keeps everything.
type keeping struct {
	compact, delete bool
	keys            int           // of compacted topics
	tombstones      time.Duration // delete.retention.ms
	ratio           float64       // min.cleanable.dirty.ratio
	lag             time.Duration // max.compaction.lag.ms; 0: none
	age             time.Duration // retention.ms; 0: none
	bytes           int           // retention.bytes; 0: none
}

// drawKeeping decides what the life's topics with policies let go of.
func (p *plan) drawKeeping(r *rand.Rand) {
	seconds := func(lo, hi int) time.Duration { return time.Duration(lo+r.IntN(hi-lo+1)) * time.Second }
	p.keyed = keeping{
		compact: true, keys: []int{1, 3, 20}[r.IntN(3)], tombstones: seconds(0, 12), ratio: []float64{0, 0.2, 0.5}[r.IntN(3)],
	}
	if r.IntN(2) == 0 {
		p.keyed.lag = seconds(2, 8)
	}
	p.aging = keeping{delete: true}
	if r.IntN(3) > 0 {
		p.aging.age = seconds(2, 15)
	}
	if p.aging.age == 0 || r.IntN(3) == 0 {
		p.aging.bytes = 200 + r.IntN(4000)
	}
	if r.IntN(4) == 0 { // one topic with both
		p.keyed.delete, p.keyed.age, p.keyed.bytes = true, p.aging.age, p.aging.bytes
	}
}

// configs are the topic's.
func (k keeping) configs() map[string]string {
	configs := map[string]string{}
	ms := func(name string, d time.Duration) { configs[name] = strconv.FormatInt(d.Milliseconds(), 10) }
	switch {
	case k.compact && k.delete:
		configs["cleanup.policy"] = "compact,delete"
	case k.compact:
		configs["cleanup.policy"] = "compact"
	}
	if k.compact {
		ms("delete.retention.ms", k.tombstones)
		configs["min.cleanable.dirty.ratio"] = strconv.FormatFloat(k.ratio, 'f', -1, 64)
		if k.lag > 0 {
			ms("max.compaction.lag.ms", k.lag)
		}
	}
	if k.delete {
		configs["retention.ms"] = "-1"
		if k.age > 0 {
			ms("retention.ms", k.age)
		}
		if k.bytes > 0 {
			configs["retention.bytes"] = strconv.Itoa(k.bytes)
		}
	}
	return configs
}

// policy is what clients may miss of the topic. Ages are held to the bubble's clock where no agent's clock is wrong, and to the log's
// time in every life; see audit.
func (k keeping) policy(p *plan) check.Policy {
	c := check.Policy{Compact: k.compact, Delete: k.delete, SlackMS: 1000}
	if p.on[clockSkew] || p.on[clockJump] {
		return c
	}
	c.DeleteRetentionMS = k.tombstones.Milliseconds()
	if k.bytes == 0 {
		c.RetentionMS = k.age.Milliseconds()
	}
	return c
}
