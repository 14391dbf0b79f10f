package metastore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// readBytes bounds one read of the log's tail.
const readBytes = 8 << 20

var errGap = errors.New("gap in the watch")

// applier decodes and applies; its buffers are reused from entry to entry.
type applier struct {
	decoder entry.Decoder
	results state.Results
}

// catchUp reads and applies the log up to its head and returns where a watch goes on from.
func (c *Client) catchUp(ctx context.Context) (log.Cursor, error) {
	for {
		var lastSeqs map[log.Incarnation]uint64
		c.View(func(st *state.State) { lastSeqs = sequences(st) })
		asked := c.clockNow()
		entries, cursor, more, err := c.log.Read(ctx, c.applied.Load(), lastSeqs, readBytes)
		if errors.Is(err, log.ErrTrimmed) {
			if err := c.catchUpFromArchive(ctx); err != nil {
				return log.Cursor{}, err
			}
			continue
		}
		if err != nil {
			return log.Cursor{}, err
		}
		c.contact()
		if err := c.apply(entries); err != nil {
			return log.Cursor{}, err
		}
		if !more {
			c.sure.has(asked)
			return cursor, nil
		}
	}
}

// catchUpFromArchive applies what the archive holds, one range at a time: history can be far larger than memory.
func (c *Client) catchUpFromArchive(ctx context.Context) error {
	before := c.applied.Load()
	keys, err := archiveKeys(ctx, c.log, c.bucket, c.identity, before)
	if err != nil {
		return err
	}
	for _, key := range keys {
		a, err := readRange(ctx, c.bucket, c.identity, key)
		if err != nil {
			return err
		}
		if err := c.apply(a.above(c.applied.Load())); err != nil {
			return err
		}
	}
	if c.applied.Load() == before {
		return fmt.Errorf("entries after n=%d are neither in the log nor in the archive", before)
	}
	return nil
}

func sequences(st *state.State) map[log.Incarnation]uint64 {
	last := make(map[log.Incarnation]uint64)
	for inc, seq := range st.LastSeqs() {
		last[log.Incarnation(inc)] = seq
	}
	return last
}

// follow watches and applies until the client ends. Whatever goes wrong with a watch ends it; the log is then read from
// what was applied, so a watch can lose, repeat or delay events without harm.
func (c *Client) follow(cursor log.Cursor) {
	for delay := 10 * time.Millisecond; c.ctx.Err() == nil; {
		before := c.applied.Load()
		err := c.watch(cursor)
		if c.ctx.Err() != nil || c.Err() != nil {
			return
		}
		c.cfg.Metrics.watchesLost.Inc()
		c.cfg.Logger.Debug("metastore watch ended, reading the log", "applied", c.applied.Load(), "error", err)
		for {
			cursor, err = c.catchUp(c.ctx)
			if err == nil {
				break
			}
			if c.ctx.Err() != nil || c.Err() != nil {
				return
			}
			if permanent(err) {
				c.fail(fmt.Errorf("read the log after n=%d: %w", c.applied.Load(), err))
				return
			}
			c.fault(err)
			c.cfg.Logger.Debug("cannot read the metastore log, retrying", "applied", c.applied.Load(), "error", err, "retry_in", delay)
			if !c.pause(delay) {
				return
			}
			delay = min(2*delay, time.Second)
		}
		if c.applied.Load() > before {
			delay = 10 * time.Millisecond
		} else if !c.pause(delay) { // a watch that ends at once must not spin
			return
		} else {
			delay = min(2*delay, time.Second)
		}
	}
}

// permanent says that trying again cannot help. A store that refuses us for want of a right is not among it: somebody took the
// right away and can give it back, and until then nobody is better off without this agent.
func permanent(err error) bool {
	return errors.Is(err, log.ErrReplaced) || errors.Is(err, log.ErrClosed) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrForeign) || errors.Is(err, ErrNewer)
}

// watch runs one watch under a watchdog.
func (c *Client) watch(cursor log.Cursor) error {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	heard := make(chan struct{}, 1)
	ended := make(chan struct{})
	defer func() { <-ended }()
	go func() { defer close(ended); c.watchdog(ctx, cancel, heard) }()
	err := c.log.Watch(ctx, cursor, func(entries []log.Entry) error {
		select {
		case heard <- struct{}{}:
		default:
		}
		c.contact()
		return c.apply(entries)
	})
	cancel(err)
	if cause := context.Cause(ctx); cause != nil && c.ctx.Err() == nil {
		return cause
	}
	return err
}

// watchdog drops a watch that says nothing, or that leaves a committed entry undelivered for too long.
func (c *Client) watchdog(ctx context.Context, drop context.CancelCauseFunc, heard <-chan struct{}) {
	ticker := time.NewTicker(c.cfg.HeadLag / 2)
	defer ticker.Stop()
	last := time.Now()
	var behindSince time.Time
	var behindAt uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-heard:
			last = time.Now()
		case <-ticker.C:
			if silence := time.Since(last); silence > c.cfg.WatchSilence {
				drop(fmt.Errorf("%w: silent for %v", log.ErrWatchLost, silence.Round(time.Millisecond)))
				return
			}
			applied := c.applied.Load()
			switch {
			case c.head.Load() <= applied:
				behindSince = time.Time{}
			case behindSince.IsZero() || applied != behindAt:
				behindSince, behindAt = time.Now(), applied
			case time.Since(behindSince) > c.cfg.HeadLag:
				drop(fmt.Errorf("%w: n=%d is committed, n=%d applied", log.ErrWatchLost, c.head.Load(), applied))
				return
			}
		}
	}
}

// watchHead reads the head every second, so that the watchdog has something to compare with, and an idle agent knows whether
// the log is there and how new its state is. A read that gets no answer is tried again before that counts.
func (c *Client) watchHead() {
	every := min(time.Second, c.sureFor()/4)
	for pause := every; c.pause(pause); {
		pause = every
		if _, err := c.readHead(min(barrierRead, c.sureFor()/3)); err != nil && c.ctx.Err() == nil {
			c.cfg.Logger.Debug("cannot read the metastore's head", "error", err)
			pause = every / 4
		}
		c.gauge()
	}
}

// apply applies entries that follow what was applied. Repeats are dropped; a gap ends the watch. Called by one goroutine
// at a time: first Open, then follow.
func (c *Client) apply(entries []log.Entry) error {
	defer c.progress.pulse()
	for i := range entries {
		e := &entries[i]
		switch applied := c.applied.Load(); {
		case e.N <= applied:
			c.cfg.Metrics.repeats.Inc()
			continue
		case e.N != applied+1:
			c.cfg.Metrics.gaps.Inc()
			return fmt.Errorf("%w: n=%d after n=%d", errGap, e.N, applied)
		}
		if err := c.applyOne(e); err != nil {
			err = fmt.Errorf("entry n=%d %v: %w", e.N, e.Key, err)
			if errors.Is(err, entry.ErrCorrupt) {
				err = fmt.Errorf("%w; no agent can go on past it: firn inspect entry --etcd … --bucket … --n %d shows it, and what lies before it is in the bucket", err, e.N)
			}
			c.fail(err)
			return err
		}
	}
	return nil
}

func (c *Client) applyOne(e *log.Entry) error {
	decoded, err := c.applier.decoder.Decode(e.Value)
	if err != nil {
		if errors.Is(err, entry.ErrUnknownOp) || errors.Is(err, entry.ErrNewerFormat) {
			return fmt.Errorf("%w: %w; run a newer firn", ErrNewer, err)
		}
		return err
	}
	r := &c.applier.results
	c.stateMu.Lock()
	err = c.st.Apply(e.N, e.Value, decoded, r)
	var seen [32]byte
	var seenOK bool
	if err == nil && decoded.SeenN > 0 {
		seen, seenOK = c.st.HashAt(decoded.SeenN)
	}
	var own ownEntry
	if err == nil {
		own = c.settle(e.Key, r)
		c.level.Store(c.st.FeatureLevel())
		c.applied.Store(e.N)
	}
	c.stateMu.Unlock()
	if err != nil {
		if errors.Is(err, state.ErrFeatureLevel) {
			return fmt.Errorf("%w: %w", ErrNewer, err)
		}
		return err
	}
	c.raiseHead(e.N)
	if awaited := c.sure.awaited.Load(); awaited != 0 && e.N >= awaited {
		c.sure.reached(e.N)
	}
	c.cfg.Metrics.entriesApplied.Inc()
	if seenOK && e.Key.Incarnation != c.Incarnation() {
		if err := c.peers.compare(c, decoded, seen); err != nil {
			return err
		}
	}
	own.answer(c, r)
	if r.AgentsChanged {
		c.noticeRemoval()
	}
	c.hub.notify(r)
	return nil
}

// noticeRemoval ends a session that was removed from the cluster: it need not wait for its next entry to learn of it. Only the
// applier calls it.
func (c *Client) noticeRemoval() {
	s := c.session.Load()
	if s == nil || !s.joined.Load() || c.leaving.Load() {
		return
	}
	if _, joined := c.st.AgentByIncarnation(s.incarnation); !joined {
		s.deadOnce.Do(func() { close(s.dead) })
	}
}

// ownEntry is an entry of ours that was just applied, taken out of its session.
type ownEntry struct {
	proposals []proposal
	err       error // answers them where set
}

// settle takes an entry out of our session, if it is ours and its results are not known yet. Requires: stateMu is held.
func (c *Client) settle(key log.Key, r *state.Results) (own ownEntry) {
	s := c.session.Load()
	if s == nil || s.incarnation != key.Incarnation || r.EntryCode == state.SeqRepeated {
		return own // SeqRepeated: a late copy of an entry that was answered when it was applied
	}
	switch r.EntryCode {
	case state.OK:
		own.proposals, _ = s.settle(key.Seq, false)
	case state.NotJoined, state.SeqGap:
		c.cfg.Logger.Warn("the cluster removed this incarnation", "incarnation", s.incarnation, "code", r.EntryCode)
		own.proposals, own.err = s.settle(key.Seq, true)
	default: // the join that opens the session was refused, and would be again
		own.proposals, _ = s.settle(key.Seq, false)
		own.err = fmt.Errorf("%w: %v", ErrJoinRefused, r.EntryCode)
	}
	return own
}

// answer tells the proposers what became of their ops, those of Offer last: there may be many, and behind each stands somebody who
// wakes up and answers a client.
func (o *ownEntry) answer(c *Client, r *state.Results) {
	for _, patient := range []bool{false, true} {
		for i := range o.proposals {
			p := &o.proposals[i]
			switch {
			case p.patient != patient:
			case o.err != nil:
				p.done(state.OpResult{}, o.err)
			default:
				c.cfg.Metrics.proposalSeconds.Observe(time.Since(p.at).Seconds())
				p.done(r.Ops[i], nil)
			}
		}
	}
}

// peers remembers, per other incarnation, whether its last reported chain hash was ours.
type peers struct{ differs map[[16]byte]bool }

// compare holds a peer's chain hash against ours. The one who differs from the majority is wrong; between two, the one who
// joined later stops, so that the cluster keeps serving.
func (p *peers) compare(c *Client, e *entry.Entry, ours [32]byte) error {
	if p.differs == nil {
		p.differs = make(map[[16]byte]bool)
	}
	differs := binary.BigEndian.Uint64(ours[:8]) != e.SeenHash
	if differs {
		c.cfg.Metrics.hashMismatches.Inc()
		if !p.differs[e.Incarnation] { // every entry of it will differ from here on
			c.cfg.Logger.Error("chain hash differs from a peer's", "n", e.SeenN, "peer", log.Incarnation(e.Incarnation))
		}
	}
	p.differs[e.Incarnation] = differs
	if !differs {
		return nil
	}
	agree, disagree := 1, 0
	mine := c.Incarnation()
	var myJoin, peerJoin uint64
	live := make(map[[16]byte]bool)
	c.View(func(st *state.State) {
		for _, a := range st.Agents() {
			live[a.Incarnation] = true
			switch a.Incarnation {
			case [16]byte(mine):
				myJoin = a.JoinedN
			case e.Incarnation:
				peerJoin = a.JoinedN
			}
		}
	})
	for inc, d := range p.differs {
		switch {
		case !live[inc]:
			delete(p.differs, inc)
		case d:
			disagree++
		default:
			agree++
		}
	}
	if disagree > agree || disagree == agree && myJoin > peerJoin {
		return fmt.Errorf("%w: at n=%d, %d agents differ and %d agree", ErrDiverged, e.SeenN, disagree, agree)
	}
	return nil
}
