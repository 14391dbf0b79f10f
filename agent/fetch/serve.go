package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/firnlog/firn/metastore/entry"
)

// serving bounds what is done for peers. Tail reads and replays have bounds of their own, so that these do not shut those out.
type serving struct {
	requests [2]chan struct{}       // hold one for each ask under way
	room     [2]*semaphore.Weighted // bytes of answers that have not gone out
	each     int64                  // of room
	wait     time.Duration
	buffers  sync.Pool // *[]byte
}

// pooledMax is up to which size a buffer is kept: slices, but for those with a large batch.
const pooledMax = 4 << 20

func (s *serving) init(cfg *Config) {
	s.each = max(cfg.ServeBytes/2, 1)
	s.wait = cfg.PeerTimeout * 3 / 4 // so that the peer hears of it
	s.buffers.New = func() any { return new([]byte) }
	for i := range s.requests {
		s.requests[i] = make(chan struct{}, cfg.ServeRequests)
		s.room[i] = semaphore.NewWeighted(s.each)
	}
}

// Serve answers a peer's Ask: the bytes, which the caller only reads, until it calls done. It asks no other agent: one GET of the bucket
// is the most that comes of it, and not even that of an Ask with Held.
//
// Errors: *NotHeld; ErrBusy, where as much is served as may be, or the bucket takes too long; else what the bucket has against it. They
// go back to the peer as they are, and the last kind as ErrRefused.
func (c *Cache) Serve(ctx context.Context, ask Ask) (body []byte, done func(), err error) {
	m := c.cfg.Metrics
	fromMemory := true
	defer func() {
		var none *NotHeld
		switch {
		case err == nil && fromMemory:
			m.serves[servedHit].Inc()
		case err == nil:
			m.serves[servedMiss].Inc()
		case errors.As(err, &none):
			m.serves[servedNotHeld].Inc()
		case errors.Is(err, ErrBusy):
			m.serves[servedBusy].Inc()
		default:
			m.serves[servedFailed].Inc()
		}
	}()
	if ask.Position < 0 || ask.Size <= 0 || ask.ObjectSize <= 0 || ask.Size > ask.ObjectSize-ask.Position {
		return nil, nil, fmt.Errorf("%w: [%d, %d) of an object of %d bytes", ErrRefused, ask.Position, ask.Position+ask.Size, ask.ObjectSize)
	}
	kind := 0
	if ask.Cold {
		kind = 1
	}
	select {
	case c.serves.requests[kind] <- struct{}{}:
		defer func() { <-c.serves.requests[kind] }()
	default:
		return nil, nil, fmt.Errorf("%w: %d asks under way", ErrBusy, cap(c.serves.requests[kind]))
	}
	wait := c.serves.wait
	if ask.Cold {
		wait *= coldPatience
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	o := object{id: ask.Object, size: ask.ObjectSize, cold: ask.Cold}
	it := c.held(o, ask)
	if it == nil {
		fromMemory = false
		if ask.Held {
			return nil, nil, &NotHeld{Below: c.heldFrom(ask.Object)}
		}
		if it, err = c.fetchFor(waiting, o, ask); err != nil {
			if waiting.Err() != nil && ctx.Err() == nil {
				return nil, nil, fmt.Errorf("%w: %w", ErrBusy, err)
			}
			return nil, nil, err
		}
	}
	charge := min(ask.Size, c.serves.each)
	if err := c.serves.room[kind].Acquire(waiting, charge); err != nil {
		return nil, nil, fmt.Errorf("%w: %d bytes are on their way to peers", ErrBusy, c.serves.each)
	}
	m.servedPeers.Add(float64(ask.Size))
	if ask.Cold {
		c.pace.charge(serves, ask.Size)
	}
	// A copy: else a peer that is slow to take 1 MiB would hold a whole object in memory that the cache has let go.
	at := ask.Position - it.start
	buffer := c.serves.buffers.Get().(*[]byte)
	*buffer = append((*buffer)[:0], it.bytes[at:at+ask.Size]...)
	return *buffer, func() {
		if cap(*buffer) <= pooledMax {
			c.serves.buffers.Put(buffer)
		}
		c.serves.room[kind].Release(charge)
	}, nil
}

// held returns an item with what is asked for, nil where none is in memory.
func (c *Cache) held(o object, ask Ask) *item {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range []itemKey{{id: o.id, kind: kindObject}, {id: o.id, kind: kindRun, position: ask.Position / c.cfg.RunBytes}} {
		if it := c.lookLocked(key); it != nil && it.covers(ask) {
			return it
		}
	}
	return nil
}

func (it *item) covers(ask Ask) bool {
	return it.bytes != nil && ask.Position >= it.start && ask.Position+ask.Size <= it.start+int64(len(it.bytes))
}

// heldFrom is the sequence below which nothing of what this agent uploaded is hot any more, if id is one of those.
func (c *Cache) heldFrom(id entry.ObjectID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.put.Incarnation != id.Incarnation || id.Merged() {
		return 0
	}
	for e := c.lists[hot].Back(); e != nil; e = e.Prev() { // the oldest
		if it := e.Value.(*item); it.key.kind == kindObject && it.key.id.Incarnation == id.Incarnation {
			return it.key.id.Seq
		}
	}
	return c.put.Seq + 1
}

// fetchFor gets from the bucket what a peer asks for.
func (c *Cache) fetchFor(ctx context.Context, o object, ask Ask) (*item, error) {
	var it *item
	var err error
	if c.whole(o) {
		it, err = c.await(ctx, itemKey{id: o.id, kind: kindObject}, o.cold, c.wholeRead(o, getForPeer))
	} else {
		// The footer of a large object is small, and each agent that fetches runs of it has it.
		var table *item
		table, err = c.get(ctx, itemKey{id: o.id, kind: kindFooter}, o.cold, func(ctx context.Context, l *load) (*item, error) {
			return c.readFooter(ctx, l, o, getForPeer)
		})
		if err == nil {
			run := ask.Position / c.cfg.RunBytes
			it, err = c.await(ctx, itemKey{id: o.id, kind: kindRun, position: run}, o.cold, c.runRead(o, table.footer, run, getForPeer))
		}
	}
	if err != nil {
		return nil, err
	}
	if !it.covers(ask) || len(it.damaged) > 0 {
		return nil, fmt.Errorf("%w: [%d, %d) of %s", ErrRefused, ask.Position, ask.Position+ask.Size, o.id.Key())
	}
	return it, nil
}
