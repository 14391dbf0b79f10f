package kafka

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A client that goes away is seen by whoever reads: that ends the connection and every wait of it. A reader that is held up,
// by slots or a budget, does not read, and one that has stopped (in a drain, or at the end of what the client sends) never
// will again. Such a connection's socket is looked at every now and then, without reading, where the system can tell.
//
// Gone is who can be told nothing any more:
//
//   - the connection was reset or timed out. Nobody is there.
//   - the client sends nothing more (FIN). That alone is no going away: `nc` and others shut down their side once they have
//     asked, and wait for answers. It looks the same as a process that ended, until an answer is sent: then a reset comes
//     back. So what was read is still answered, long polls at once and with what there is; a client that is not there costs an
//     answer, and the rest is dropped. But who sends nothing more and for PressureTimeout got no answer because it waits for
//     memory is not waited for: thousands of such connections would stand in line before those who are there. Neither is one
//     that got none for StallTimeout, whatever it waits for.
//
// What cannot be seen: an orderly end behind more bytes than the system takes in unread. Its reset, at the first answer, can.

// errGone: nobody is there to take an answer.
var errGone = errors.New("the client has gone")

// lookEvery is how often the socket of a connection is looked at whose reader does not read.
const lookEvery = time.Second

// lineState is the state of a socket.
type lineState int8

const (
	lineOpen   lineState = iota // as far as is known
	lineHalf                    // the client sends nothing more
	lineBroken                  // reset or timed out
)

// sendsNoMore notes that the client sends nothing more.
func (c *conn) sendsNoMore() {
	c.hangUp.Do(func() {
		c.sawOff.Store(time.Now().UnixNano())
		close(c.hungUp)
	})
}

// inspect ends the connection if its client has gone.
func (c *conn) inspect(now time.Time) {
	switch look(c.nc) {
	case lineBroken:
		c.fail(errGone)
		return
	case lineHalf:
		c.sendsNoMore()
	}
	sawOff := c.sawOff.Load()
	if sawOff == 0 {
		return
	}
	patience := c.s.cfg.StallTimeout
	if c.short.Load() > 0 {
		patience = min(patience, c.s.cfg.PressureTimeout)
	}
	if since := max(sawOff, c.progress.Load()); now.UnixNano()-since > int64(patience) {
		c.fail(errGone)
	}
}

// slot waits until the connection may have one more request, for the reader.
func (c *conn) slot() error {
	select {
	case c.slots <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case c.slots <- struct{}{}:
			return nil
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		case now := <-t.C:
			c.inspect(now)
		}
	}
}

// finish waits for the executor and the writer once the reader has stopped.
func (c *conn) finish() {
	done := make(chan struct{})
	go func() { c.wg.Wait(); close(done) }()
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-t.C:
			c.inspect(now)
		}
	}
}

// take waits for n bytes of b, for the reader and the executor, and keeps an eye on the client meanwhile.
func (c *conn) take(ctx context.Context, b *budget, v *visitor, n int64) error {
	if b.more(v, n) {
		return nil
	}
	defer c.lookOut()()
	return b.take(ctx, v, n)
}

// lookOut inspects the connection every now and then until the func that it returns is called, and counts it among those
// that wait for a budget. Timers, not goroutines: thousands may wait at once.
func (c *conn) lookOut() (over func()) {
	var (
		mu    sync.Mutex // guards the rest
		timer *time.Timer
		ended bool
	)
	c.short.Add(1)
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(lookEvery, func() {
		c.inspect(time.Now())
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			timer.Reset(lookEvery)
		}
	})
	return func() {
		c.short.Add(-1)
		mu.Lock()
		defer mu.Unlock()
		ended = true
		timer.Stop()
	}
}
