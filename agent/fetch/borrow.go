package fetch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/objstore/segment"
)

// borrow gets a piece of an object from the first of the peers that has it, else from the bucket. A peer that is slow is overtaken by
// a GET, if hedging has not cost too much already; one that refuses or is gone is passed over at once.
func (c *Cache) borrow(
	ctx context.Context, o object, steps []step, ask func(context.Context, step) (*item, error),
	fromBucket func(context.Context, reason) (*item, error), own bool,
) (*item, error) {
	for _, s := range steps {
		if it, err := c.askHedged(ctx, o, s, ask, fromBucket); err == nil || ctx.Err() != nil {
			return it, err
		}
	}
	if own {
		return fromBucket(ctx, getOwn)
	}
	return fromBucket(ctx, getFallback)
}

// coldPatience is by how much longer a replay waits for a peer.
const coldPatience = 5

// answer is what one of two sources gave.
type answer struct {
	item *item
	err  error
}

// askHedged asks one peer, and overtakes it with a GET where it takes longer than such asks do.
func (c *Cache) askHedged(
	ctx context.Context, o object, s step, ask func(context.Context, step) (*item, error), fromBucket func(context.Context, reason) (*item, error),
) (*item, error) {
	both, cancel := context.WithCancel(ctx)
	defer cancel() // whoever is still at it
	timeout, least, most := c.cfg.PeerTimeout, c.cfg.HedgeMin, c.cfg.HedgeMax
	if o.cold { // the peer has it wait for its turn, as we would: one that is slow is not overtaken, one that hangs is
		timeout, least, most = coldPatience*timeout, timeout, timeout
	}
	asking, stop := context.WithTimeout(both, timeout)
	defer stop()
	took := &c.share.fetched
	if s.held {
		took = &c.share.held
	}
	start := time.Now()
	peer := make(chan answer, 1)
	c.wg.Go(func() {
		it, err := ask(asking, s)
		peer <- answer{it, err}
	})
	overtake := time.NewTimer(took.percentile(least, most))
	defer overtake.Stop()
	var bucket chan answer
	for {
		select {
		case a := <-peer:
			if a.err == nil {
				took.add(time.Since(start))
				c.cfg.Metrics.asks[askHit].Inc()
				c.cfg.Metrics.askSeconds.Observe(time.Since(start).Seconds())
				return a.item, nil
			}
			c.refusedBy(ctx, o, s, a.err)
			if bucket != nil {
				b := <-bucket
				return b.item, b.err
			}
			return nil, a.err
		case <-overtake.C:
			if !c.share.hedge() {
				continue
			}
			c.cfg.Metrics.hedges.Inc()
			bucket = make(chan answer, 1)
			getting := bucket
			c.wg.Go(func() {
				it, err := fromBucket(both, getHedge)
				getting <- answer{it, err}
			})
		case b := <-bucket:
			if b.err != nil { // the peer may still have it
				bucket = nil
				continue
			}
			took.add(time.Since(start))
			c.cfg.Metrics.asks[askOvertaken].Inc()
			return b.item, nil
		}
	}
}

// errDamaged: what a peer gave is not what the object holds.
var errDamaged = errors.New("damaged on the way from a peer")

// refusedBy takes note of why a peer gave nothing.
func (c *Cache) refusedBy(ctx context.Context, o object, s step, err error) {
	m := c.cfg.Metrics
	var none *NotHeld
	switch {
	case errors.As(err, &none):
		m.asks[askNotHeld].Inc()
		c.share.forgotten(o.id.Incarnation, max(none.Below, o.id.Seq+1))
	case errors.Is(err, ErrBusy):
		m.asks[askBusy].Inc()
	case errors.Is(err, ErrRefused):
		m.asks[askRefused].Inc()
	case errors.Is(err, errDamaged):
		m.asks[askDamaged].Inc()
		if leftOut, write := c.lines.Take(fmt.Sprint("peer ", s.node)); write {
			c.cfg.Logger.Warn("a peer gave damaged bytes, they are read from the bucket", "node", s.node, "segment", o.id.Key(), "error", err, "left_out", leftOut)
		}
	case ctx.Err() != nil: // nobody waits any more: no fault of the peer's
		return
	default:
		m.asks[askUnreachable].Inc()
		c.share.failed(s.node, errors.Is(err, context.DeadlineExceeded))
		return
	}
	c.share.answered(s.node)
}

// ask asks a peer for bytes of an object.
func (c *Cache) ask(ctx context.Context, o object, s step, position, size int64) ([]byte, error) {
	body, err := c.share.Peers.Read(ctx, s.node, Ask{Object: o.id, ObjectSize: o.size, Position: position, Size: size, Held: s.held, Cold: o.cold})
	if err != nil {
		return nil, err
	}
	if int64(len(body)) != size {
		return nil, fmt.Errorf("%w: %d bytes where %d belong", errDamaged, len(body), size)
	}
	c.cfg.Metrics.askedBytes.Add(float64(size))
	c.share.earn(float64(size) / float64(min(o.size, c.cfg.RunBytes)))
	return body, nil
}

// borrowTable gets the footer of a small object, and with it all of one that is no larger than a slice.
func (c *Cache) borrowTable(ctx context.Context, o object, s step) (*item, error) {
	it := &item{share: borrowed}
	if o.size > c.cfg.SliceBytes {
		footer, err := segment.ReadFooter(readerAt(func(position, size int64) ([]byte, error) { return c.ask(ctx, o, s, position, size) }), o.size)
		if err != nil {
			return nil, damagedFooter(err)
		}
		it.footer = footer
	} else {
		body, err := c.ask(ctx, o, s, 0, o.size)
		if err != nil {
			return nil, err
		}
		if it.footer, err = c.open(o, body); err != nil {
			return nil, damagedFooter(err)
		}
		it.bytes = body
		for i := range it.footer.Blocks {
			it.check(it.footer.Blocks[i].Chunks)
		}
	}
	it.size = int64(len(it.bytes)) + footerBytes(it.footer)
	if it.bytes == nil { // they would keep what was read
		it.footer.ObjectID, it.footer.IntendedOps = nil, nil
	}
	return it, it.undamaged()
}

func damagedFooter(err error) error {
	if errors.Is(err, segment.ErrCorrupt) || errors.Is(err, segment.ErrVersion) { // the bucket's copy says what is the matter
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return err
}

// borrowSlice gets neighbouring chunks.
func (c *Cache) borrowSlice(ctx context.Context, o object, chunks []segment.Chunk, s step) (*item, error) {
	if len(chunks) == 0 {
		return nil, fmt.Errorf("%w: a slice without chunks in %s", ErrCorrupt, o.id.Key())
	}
	start, last := chunks[0].Position, chunks[len(chunks)-1]
	body, err := c.ask(ctx, o, s, start, last.Position+last.StoredSize-start)
	if err != nil {
		return nil, err
	}
	it := &item{start: start, bytes: body, size: int64(len(body)), share: borrowed}
	it.check(chunks)
	return it, it.undamaged()
}

// undamaged is an error where a chunk's checksum does not hold.
func (it *item) undamaged() error {
	if len(it.damaged) > 0 {
		return fmt.Errorf("%w: %d chunks", errDamaged, len(it.damaged))
	}
	return nil
}
