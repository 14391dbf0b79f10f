package kafka

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// kind tells the budgets that connections share apart.
type kind int8

const (
	kindInFlight kind = iota
	kindStrangers
	kindQueued
	kindWork
	kindAnswers
	kindDecompress
	kinds
)

// budget is a number of bytes that are handed out first come, first served. One address gets three quarters of it at most:
// whatever comes from there, others are served.
type budget struct {
	kind  kind
	size  int64
	sem   *semaphore.Weighted
	gauge gauge // what is handed out; may be nil
	// waited, where not nil, adds up the seconds that somebody waited.
	waited gauge
	// pressure, where not nil, is told while somebody waits.
	pressure *pressure
}

type gauge interface{ Add(delta float64) }

// pressedEvery is how often those who hold a budget are looked through while somebody waits for it.
const pressedEvery = time.Second

func newBudget(k kind, size int, out gauge) *budget {
	return &budget{kind: k, size: int64(size), sem: semaphore.NewWeighted(int64(size)), gauge: out}
}

// share is what one address gets at most.
func (b *budget) share() int64 { return b.size - b.size/4 }

// clip is n, or all that can be had where n is larger: who needs more than there is may go on alone.
func (b *budget) clip(n int64) int64 { return min(n, b.share()) }

// most is what a request that takes n may count as its address's: an eighth of the whole stays for others from there. Behind a load
// balancer these are all others.
func (b *budget) most(n int64) int64 { return min(n, b.share()-b.size/8) }

// take waits for n bytes for an address, which may be nil.
func (b *budget) take(ctx context.Context, v *visitor, n int64) error { return b.takeOf(ctx, v, n, n) }

// takeOf is take where only of count as the address's.
func (b *budget) takeOf(ctx context.Context, v *visitor, n, of int64) error {
	if mine := v.share(b); mine != nil {
		// Whoever waits here holds nothing of the whole, and whoever waits for the whole has had its share: no circle.
		if err := b.acquire(ctx, mine, of); err != nil {
			return err
		}
		if err := b.acquire(ctx, b.sem, n); err != nil {
			mine.Release(of)
			return err
		}
	} else if err := b.acquire(ctx, b.sem, n); err != nil {
		return err
	}
	if b.gauge != nil {
		b.gauge.Add(float64(n))
	}
	return nil
}

func (b *budget) acquire(ctx context.Context, sem *semaphore.Weighted, n int64) error {
	if !sem.TryAcquire(n) {
		if b.pressure != nil {
			b.pressure.enter()
			defer b.pressure.leave()
		}
		since := time.Now()
		err := sem.Acquire(ctx, n)
		if b.waited != nil {
			b.waited.Add(time.Since(since).Seconds())
		}
		return err
	}
	return nil
}

// pressure calls relieve every now and then for as long as anybody waits for a budget. One goroutine does, whoever waits; it
// ends with the last who does.
type pressure struct {
	relieve func()

	mu      sync.Mutex // guards the rest
	waiting int
	over    chan struct{} // closed when nobody waits any more
}

func (p *pressure) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting++; p.waiting > 1 {
		return
	}
	over := make(chan struct{})
	p.over = over
	go func() {
		t := time.NewTicker(pressedEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				p.relieve()
			case <-over:
				return
			}
		}
	}()
}

func (p *pressure) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting--; p.waiting == 0 {
		close(p.over)
	}
}

// more takes n bytes if they are there at once. None always are: who waits must not keep one from going on who needs no more.
func (b *budget) more(v *visitor, n int64) bool {
	if n <= 0 {
		return true
	}
	mine := v.share(b)
	if mine != nil && !mine.TryAcquire(n) {
		return false
	}
	if !b.sem.TryAcquire(n) {
		if mine != nil {
			mine.Release(n)
		}
		return false
	}
	if b.gauge != nil {
		b.gauge.Add(float64(n))
	}
	return true
}

func (b *budget) give(v *visitor, n int64) { b.giveOf(v, n, n) }

func (b *budget) giveOf(v *visitor, n, of int64) {
	if n <= 0 {
		return
	}
	b.sem.Release(n)
	if mine := v.share(b); mine != nil {
		mine.Release(of)
	}
	if b.gauge != nil {
		b.gauge.Add(-float64(n))
	}
}

// hold is what one request takes of Server.work while it is served, its answer included. The zero value holds nothing.
type hold struct {
	n    int64
	free bool
}

// take waits for n bytes. Requires: nothing is held, so that nobody waits for what another keeps while waiting too.
func (h *hold) take(ctx context.Context, c *conn, n int64) error {
	if n <= freeBytes && c.freeAnswer.CompareAndSwap(false, true) {
		h.free = true
		return nil
	}
	n = c.s.work.clip(n)
	if err := c.take(ctx, c.s.work, c.visitor, n); err != nil {
		return context.Cause(ctx)
	}
	h.n = n
	return nil
}

// more takes n bytes on top, if they are there at once.
func (h *hold) more(c *conn, n int64) bool {
	if h.free && n <= freeBytes {
		return true
	}
	n = min(n, c.s.work.share()-h.n)
	if !c.s.work.more(c.visitor, n) {
		return false
	}
	h.n += n
	return true
}

// give gives everything back. Safe twice.
func (h *hold) give(c *conn) {
	c.s.work.give(c.visitor, h.n)
	if h.free {
		c.freeAnswer.Store(false)
	}
	*h = hold{}
}
