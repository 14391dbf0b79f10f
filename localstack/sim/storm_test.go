package sim_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/firnlog/firn/localstack/sim/memnet"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/faulty"
	"github.com/firnlog/firn/wal/walfs"
)

// weather is what goes wrong by chance, everywhere at once, until it changes.
type weather struct {
	log    memlog.Faults
	bucket faulty.Config
	net    memnet.Faults
}

func calmWeather() weather { return weather{} }

// newWeather draws a random part of the life's faults, with random strength. Often that is none: a cluster that never gets a
// chance to do something has nothing to lose.
func newWeather(p *plan, r *rand.Rand) weather {
	var w weather
	chance := func(f fault, most float64) float64 {
		strength := r.Float64()
		if !p.on[f] || r.IntN(2) == 0 {
			return 0
		}
		return most * strength
	}
	upTo := func(f fault, most time.Duration) time.Duration {
		d := time.Duration(r.Int64N(int64(most)))
		if !p.on[f] {
			return 0
		}
		return d
	}
	w.log = memlog.Faults{
		Ambiguous: chance(commitAmbiguous, 0.4), Dropped: chance(commitDropped, 0.4),
		Late: chance(commitLate, 0.3), LateMax: 1 + upTo(commitLate, 10*time.Second), NoSpace: chance(commitNoSpace, 0.2),
		LatencyMax: upTo(logLatency, 50*time.Millisecond),
		WatchLose:  chance(watchLose, 0.2), WatchRepeat: chance(watchRepeat, 0.3),
		WatchLate: chance(watchLate, 0.1), WatchLateMax: 1 + upTo(watchLate, 3*time.Second),
		WatchStall: chance(watchStall, 0.05), WatchEnd: chance(watchEnd, 0.1), WatchCompact: chance(watchCompact, 0.1),
		LeaseExpire: chance(leaseExpire, 0.2), LostHidden: p.on[leaseHidden] && r.IntN(2) == 0, MembersStale: chance(membersStale, 0.5),
	}
	w.bucket = faulty.Config{
		Slow: chance(bucketSlow, 0.5), SlowMax: 1 + upTo(bucketSlow, 2*time.Second),
		Unavailable: chance(bucketFails, 0.4), Burst: chance(bucketBurst, 0.1), BurstCalls: 8,
		Ambiguous: chance(bucketAmbiguous, 0.3), Late: chance(bucketLate, 0.2), LateMax: 1 + upTo(bucketLate, 8*time.Second),
		BitFlip: chance(bucketBitFlip, 0.1),
	}
	w.net = memnet.Faults{LatencyMax: upTo(netLatency, 40*time.Millisecond), Reset: chance(netReset, 0.03)}
	return w
}

func (l *life) weather(w weather) {
	for _, n := range l.nodes {
		n.setFaults(w.log)
	}
	l.mu.Lock()
	l.bucketFaults = w.bucket
	l.mu.Unlock()
	l.setBucket()
	l.net.SetFaults(w.net)
}

// setBucket makes the bucket what weather and outages want it to be.
func (l *life) setBucket() {
	l.mu.Lock()
	c := l.bucketFaults
	if l.outages > 0 {
		c.Unavailable = 1
	}
	l.mu.Unlock()
	if err := l.flaky.SetConfig(c); err != nil {
		panic(fmt.Sprintf("weather: %v", err))
	}
}

// blowsMax is how many blows last at a time.
const blowsMax = 3

// storm changes the weather and strikes agents until its time is over. Blows overlap and end in any order.
func (l *life) storm(ctx context.Context) {
	p, r := l.plan, stream(l.plan.seed, "storm")
	blows := l.blows(r)
	var lasting []func()
	for end := time.Now().Add(p.storm); time.Now().Before(end); {
		if r.IntN(3) == 0 {
			w := newWeather(p, r)
			l.weather(w)
			l.logf("weather %+v", w)
		}
		switch i := r.IntN(blowsMax + 1); {
		case i < len(lasting):
			lasting[i]()
			lasting = slices.Delete(lasting, i, i+1)
		case len(blows) > 0:
			lasting = append(lasting, blows[r.IntN(len(blows))](ctx, l.nodes[r.IntN(len(l.nodes))]))
		}
		lull := 2 * time.Second
		if r.IntN(10) == 0 {
			lull = 12 * time.Second // beyond leases and requests
		}
		pause(ctx, time.Duration(r.Int64N(int64(lull))))
	}
	for _, undo := range lasting {
		undo()
	}
}

// blow befalls one agent; undo ends what lasts.
type blow func(ctx context.Context, n *node) (undo func())

func nothing() {}

// blows are those that the life's plan has on.
func (l *life) blows(r *rand.Rand) []blow {
	var on []blow
	add := func(f fault, b blow) {
		if l.plan.on[f] {
			on = append(on, func(ctx context.Context, n *node) func() {
				l.logf("%s befalls %s", f, n.name)
				return b(ctx, n)
			})
		}
	}
	downTime := func() time.Duration { return time.Duration(r.Int64N(int64(6 * time.Second))) }
	add(agentKill, func(_ context.Context, n *node) func() {
		o := order{down: downTime()}
		if l.plan.on[powerCut] && r.IntN(2) == 0 {
			o.loss = walfs.LoseSome
			l.count(powerCut, 1)
		}
		l.count(agentKill, 1)
		n.order(o)
		return nothing
	})
	add(agentDrain, func(_ context.Context, n *node) func() {
		l.count(agentDrain, 1)
		n.order(order{drain: true, down: downTime()})
		return nothing
	})
	partition := func(refuses bool) blow {
		return func(_ context.Context, n *node) func() {
			cut := []*node{n}
			if r.IntN(3) == 0 {
				cut = l.nodes // an outage
			}
			for _, n := range cut {
				n.cut(1, refuses)
			}
			return func() {
				for _, n := range cut {
					n.cut(-1, refuses)
				}
			}
		}
	}
	add(logPartition, partition(false))
	add(logRefuses, partition(true))
	add(leaseExpire, func(_ context.Context, n *node) func() {
		if a := n.running(); a != nil {
			l.store.Expire(a.Metastore().Incarnation())
			l.count(leaseExpire, 1)
		}
		return nothing
	})
	add(clockJump, func(_ context.Context, n *node) func() {
		// Within an hour, so that no record's timestamp is refused: Kafka's limit for the future.
		n.skew.Store(r.Int64N(int64(50*time.Minute)) - int64(25*time.Minute))
		l.count(clockJump, 1)
		return nothing
	})
	add(bucketOutage, func(context.Context, *node) func() {
		outage := func(by int) {
			l.mu.Lock()
			l.outages += by
			l.mu.Unlock()
			l.setBucket()
		}
		outage(1)
		l.count(bucketOutage, 1)
		return func() { outage(-1) }
	})
	add(netCut, func(_ context.Context, n *node) func() { l.net.Cut(n.address); return nothing })
	add(netStall, func(_ context.Context, n *node) func() {
		l.net.Stall(n.address, true)
		return func() { l.net.Stall(n.address, false) }
	})
	add(watchCompact, func(context.Context, *node) func() { l.store.Compact(); return nothing })
	disk := func(f fault, errno syscall.Errno) blow {
		return func(_ context.Context, n *node) func() {
			n.setDisk(badDisk(rand.New(rand.NewPCG(r.Uint64(), 0)), 0.5, errno, func() { l.count(f, 1) }))
			return func() { n.setDisk(nil) }
		}
	}
	add(diskFails, disk(diskFails, syscall.EIO))
	add(diskFull, disk(diskFull, syscall.ENOSPC))
	add(epochBump, func(ctx context.Context, n *node) func() {
		l.bumpEpoch(ctx, n)
		return nothing
	})
	return on
}

// bumpEpoch moves the collection epoch on, so that an agent that is slow with an upload finds its object too old.
func (l *life) bumpEpoch(ctx context.Context, n *node) {
	a := n.running()
	if a == nil {
		return
	}
	meta := a.Metastore()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var epoch uint64
	meta.View(func(st *state.State) { epoch = st.CollectionEpoch() })
	for range 2 { // an object of the epoch before is still taken
		if _, err := meta.Propose(ctx, &entry.BumpCollectionEpoch{From: epoch}); err != nil {
			return
		}
		epoch++
		l.count(epochBump, 1)
	}
}

// heal ends all faults.
func (l *life) heal() {
	l.weather(calmWeather())
	for _, n := range l.nodes {
		n.setDisk(nil)
		l.net.Stall(n.address, false)
	}
	l.logf("the faults are over")
	l.mu.Lock()
	l.over = time.Now()
	l.mu.Unlock()
	close(l.healed)
}

func (l *life) healedAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

func (l *life) endedNow() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}
