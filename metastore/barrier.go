package metastore

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// barriers shares one linearizable read of the head among all callers that wait for one.
//
// Why sharing is correct: a caller joins a round only before that round's read starts, so the read happens after the call
// and sees everything committed before it.
type barriers struct {
	mu      sync.Mutex // guards next
	next    *round     // joined by callers; nil where nobody waits
	trigger chan struct{}
}

type round struct {
	done chan struct{} // closed when head and err are set
	head uint64
	err  error
}

func (b *barriers) init() { b.trigger = make(chan struct{}, 1) }

func (b *barriers) join() *round {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = &round{done: make(chan struct{})}
		select {
		case b.trigger <- struct{}{}:
		default:
		}
	}
	return b.next
}

func (b *barriers) take() *round {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.next
	b.next = nil
	return r
}

// Barrier returns when this agent's state contains everything committed before the call. On error the caller may only answer
// with something retriable.
func (c *Client) Barrier(ctx context.Context) error {
	r := c.barriers.join()
	select {
	case <-r.done:
	case <-c.failed:
		return c.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if r.err != nil {
		return r.err
	}
	return c.awaitApplied(ctx, r.head)
}

func (c *Client) awaitApplied(ctx context.Context, n uint64) error {
	for c.applied.Load() < n {
		pulse := c.progress.wait()
		if c.applied.Load() >= n {
			return nil
		}
		select {
		case <-pulse:
		case <-c.failed:
			return c.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// barrierLoop serves one round after the other; callers that come during a read share the next one.
func (c *Client) barrierLoop() {
	for {
		select {
		case <-c.barriers.trigger:
		case <-c.ctx.Done():
			if r := c.barriers.take(); r != nil {
				r.err = c.Err()
				close(r.done)
			}
			return
		}
		r := c.barriers.take()
		if r == nil {
			continue
		}
		r.head, r.err = c.readHead(barrierRead)
		close(r.done)
	}
}

// barrierRead bounds a round's read.
const barrierRead = 5 * time.Second

// readHead is one linearizable read, bounded in time.
func (c *Client) readHead(limit time.Duration) (uint64, error) {
	ctx, cancel := context.WithTimeout(c.ctx, limit)
	defer cancel()
	applied, asked := c.applied.Load(), c.clockNow()
	n, err := c.log.Head(ctx)
	switch {
	case err != nil && c.ctx.Err() != nil:
		return 0, err
	case err != nil:
		c.fault(err)
		if permanent(err) {
			c.fail(fmt.Errorf("read the log's head: %w", err))
		}
		return 0, err
	case n < applied:
		// Nothing that was applied can be ahead of a linearizable head. What was acknowledged after n is not in this log, and
		// others may already be writing different entries under the same numbers.
		err := fmt.Errorf("%w: the log went back: its head is n=%d and this agent has applied n=%d; etcd was restored to an older state or lost writes: "+
			"restore the metastore from the bucket", ErrForeign, n, applied)
		c.fail(err)
		return 0, err
	}
	c.contact()
	c.raiseHead(n)
	c.heardHead(n, asked)
	return n, nil
}
