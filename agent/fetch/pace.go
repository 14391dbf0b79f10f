package fetch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// pace slows replays down to what the machine has to spare. Bytes are what it counts: getting them from the bucket, checking and serving
// them is most of what a replay costs. The two are held to the same rate, apart: what is read ahead should not hold up who waits.
//
// While producers or tail readers are active and replays work, a probe sleeps for probeEvery over and over. Where it is woken late,
// somebody else had the processors, and producers and tail readers come late as well: the rate goes down; else it goes up. It never goes
// below Config.ColdBytes, so that a consumer that has fallen behind a busy agent gets on. With nobody to disturb there is no rate.
// Safe for concurrent use.
type pace struct {
	floor   float64 // bytes a second
	metrics *Metrics

	// active is when producers or tail readers were last heard of, in nanoseconds since 1970.
	active atomic.Int64

	mu      sync.Mutex     // guards the rest
	rate    float64        // bytes a second; >= floor
	debt    [works]float64 // bytes that were worked on ahead of the rate
	settled time.Time      // up to when debt was paid
	worked  time.Time      // when replays last worked or wanted to
	held    bool           // a replay had to wait since the last adjustment
	probing bool
	late    float64 // share of the probe's sleeps that ended late, the last ones counting most
}

// work is what is slowed down: what replays do, and what goes on in the background (Cache.Background).
type work uint8

const (
	getting work = iota
	serves
	background
	works
)

const (
	probeEvery = 5 * time.Millisecond
	// lateAfter is more than timers of an idle machine are late by.
	lateAfter = time.Millisecond
	// lateMost is the share of late sleeps that is still taken for an idle machine: one that works for others is late now and then.
	lateMost = 0.1
	// lateWeight is the weight of one sleep in pace.late.
	lateWeight = 1.0 / 32
	// adjustEvery is after how many sleeps the rate is adjusted.
	adjustEvery = 8
	// paceStart is the rate that replays begin with beside others, paceMost where it counts as none.
	paceStart = 16 << 20
	paceMost  = 8 << 30
	// activeFor is how long producers and tail readers count as active, replays as working.
	activeFor = time.Second
	// aloneAfter is how long nobody was active before replays count as alone: on a machine that is too busy to upload anything for a second, producers
	// are only late.
	aloneAfter = 5 * time.Second
	// paceLook bounds a sleep: the rate may have changed.
	paceLook = 20 * time.Millisecond
)

// busy notes that a producer or tail reader was served.
func (p *pace) busy() { p.active.Store(time.Now().UnixNano()) }

// disturbs reports whether there is anybody whom replays could slow down.
func (p *pace) disturbs(now time.Time) bool { return now.UnixNano()-p.active.Load() < int64(activeFor) }

// alone reports whether there has not been anybody for a while.
func (p *pace) alone(now time.Time) bool {
	return now.UnixNano()-p.active.Load() >= int64(aloneAfter)
}

// settleLocked pays debt for the time that has passed, and returns for how long there is some.
func (p *pace) settleLocked(now time.Time, w work) time.Duration {
	paid := p.rate * now.Sub(p.settled).Seconds()
	p.settled = now
	for i := range p.debt {
		p.debt[i] = max(p.debt[i]-paid, 0)
	}
	if !p.disturbs(now) {
		p.debt, p.rate = [works]float64{}, max(paceStart, p.floor)
	}
	owed := time.Duration(p.debt[w] / p.rate * float64(time.Second))
	p.held = p.held || owed > 0
	return owed
}

// ahead reports whether a replay would have to wait to be served.
func (p *pace) ahead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.settleLocked(time.Now(), serves) > 0
}

// charge counts bytes that a replay works on. No more than a second's worth is owed.
func (p *pace) charge(w work, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.settleLocked(now, w)
	p.worked = now
	if p.disturbs(now) {
		p.debt[w] = min(p.debt[w]+float64(bytes), max(p.rate, float64(bytes)))
	}
}

// wait returns when a replay may go on, false where ctx ends or hurry is closed before.
func (p *pace) wait(ctx context.Context, w work, hurry <-chan struct{}) bool {
	var t *time.Timer
	for {
		p.mu.Lock()
		now := time.Now()
		p.worked = now
		owed := p.settleLocked(now, w)
		p.mu.Unlock()
		if owed <= 0 {
			return true
		}
		if t == nil {
			t = time.NewTimer(min(owed, paceLook))
			defer t.Stop()
		} else {
			t.Reset(min(owed, paceLook))
		}
		select {
		case <-t.C:
		case <-hurry:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// begin reports whether the caller is to run probe.
func (p *pace) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.probing {
		return false
	}
	p.probing, p.late, p.rate, p.worked = true, 0, max(paceStart, p.floor), time.Now()
	return true
}

// probe watches the machine until ctx ends or replays no longer work.
func (p *pace) probe(ctx context.Context) {
	t := time.NewTimer(probeEvery)
	defer t.Stop()
	for i := 1; ; i++ {
		start := time.Now()
		select {
		case <-t.C:
		case <-ctx.Done():
			p.mu.Lock()
			p.probing = false
			p.mu.Unlock()
			return
		}
		now := time.Now()
		t.Reset(probeEvery)
		if !p.woken(now, now.Sub(start) > probeEvery+lateAfter, i%adjustEvery == 0) {
			return
		}
	}
}

// woken takes note of how a sleep ended, and adjusts the rate now and then. False: nobody needs the probe any more.
func (p *pace) woken(now time.Time, late, adjust bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late *= 1 - lateWeight
	if late {
		p.late += lateWeight
	}
	if adjust {
		p.adjustLocked()
	}
	p.probing = now.Sub(p.worked) <= activeFor
	return p.probing
}

func (p *pace) adjustLocked() {
	switch {
	case p.late > lateMost:
		p.rate = max(p.rate*0.75, p.floor)
	case p.held:
		p.rate = min(p.rate*1.05+1<<18, paceMost)
	}
	p.held = false
	p.metrics.coldRate.Set(p.rate)
}
