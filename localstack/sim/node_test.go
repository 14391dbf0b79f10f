package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

const walDir = "/wal"

// node is the place where one agent lives, dies and is started again.
type node struct {
	life    *life
	index   int
	name    string
	address string
	rng     *rand.Rand   // of run
	skew    atomic.Int64 // nanoseconds that its clock is ahead

	orders chan order

	mu       sync.Mutex // guards the rest
	agent    *agent.Agent
	log      *memlog.Log
	disk     *walfs.FS
	faults   memlog.Faults // of the weather
	cutEnd   time.Time     // when the last partition from the log ended
	cuts     [2]int        // partitions from the log that last now: silent ones, and refusing ones
	cutsMade int           // how often it was cut off so far
	cutSince time.Time     // when the first of those that last now began
	diskBad  func(walfs.Op) error
	starts   int
}

// order is what the storm wants of a node. down is how long the node then stays down.
type order struct {
	drain bool
	loss  walfs.Loss
	down  time.Duration
}

func newNode(l *life, index int) *node {
	n := &node{
		life: l, index: index, name: fmt.Sprintf("agent-%d", index), address: fmt.Sprintf("agent-%d:9092", index),
		rng: stream(l.plan.seed, fmt.Sprintf("node %d", index)), orders: make(chan order, 1),
	}
	n.disk = walfs.New(stream(l.plan.seed, fmt.Sprintf("disk %d", index)))
	if l.plan.on[clockSkew] {
		n.skew.Store(n.rng.Int64N(int64(30*time.Second)) - int64(15*time.Second))
		l.count(clockSkew, 1)
	}
	return n
}

func (n *node) now() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) }

// running is the agent that serves now, or nil.
func (n *node) running() *agent.Agent {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.agent
}

// setFaults changes what the node meets on its way to the log, now and after its next start.
func (n *node) setFaults(f memlog.Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = f
	n.wayLocked()
}

// cut begins (1) or ends (-1) a partition from the log.
func (n *node) cut(by int, refuses bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if refuses {
		n.cuts[1] += by
	} else {
		n.cuts[0] += by
	}
	if by > 0 {
		if n.cutsMade++; n.cuts[0]+n.cuts[1] == by {
			n.cutSince = time.Now()
		}
	} else {
		n.cutEnd = time.Now()
	}
	n.wayLocked()
}

// unawares is for how long the node may answer members while another coordinates in its place. A lease outlasts what an agent that is
// cut off is sure of, so that is none; but one that was not renewed in an earlier cut, or was ended by somebody, may be over sooner, and
// then the agent finds out when it has heard nothing for two thirds of a lease.
func (n *node) unawares() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	on := n.life.plan.on
	lately := n.cuts[0]+n.cuts[1] > 0 || !n.cutEnd.IsZero() && time.Since(n.cutEnd) < 5*time.Second
	if !lately || n.cutsMade == 1 && !on[leaseExpire] && !on[membersStale] {
		return 0
	}
	return n.life.plan.ttl / 3 * 2
}

// firstCutSince is since when the node is cut off from the log, where that is the first time; else zero.
func (n *node) firstCutSince() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cutsMade != 1 || n.cuts[0]+n.cuts[1] == 0 {
		return time.Time{}
	}
	return n.cutSince
}

func (n *node) wayLocked() {
	f := n.faults
	f.Partitioned, f.PartitionRefuses = n.cuts[0]+n.cuts[1] > 0, n.cuts[1] > 0
	if n.log != nil {
		n.log.SetFaults(f)
	}
}

// setDisk makes the node's disk fail, or with nil work again.
func (n *node) setDisk(bad func(walfs.Op) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.diskBad = bad
	n.disk.SetFault(bad)
}

// order tells the node what to do, unless it is already about to do something.
func (n *node) order(o order) {
	select {
	case n.orders <- o:
	default:
	}
}

// run keeps an agent alive until the life ends.
func (n *node) run() {
	failures := 0 // to start, since the last start
	for {
		a, err := n.begin()
		if err != nil {
			n.life.logf("%s does not start: %v", n.name, err)
			n.life.sometimes("failed_starts")
			n.judgeFailure("start", err)
			failures++
			select {
			case <-time.After(time.Duration(min(failures, 6)) * 300 * time.Millisecond):
				continue
			case <-n.life.ended:
				return
			}
		}
		failures = 0
		select {
		case o := <-n.orders:
			n.end(a, o)
			n.rest(o.down)
		case <-a.Failed():
			n.life.logf("%s failed: %v", n.name, a.Err())
			n.judgeFailure("service", a.Err())
			n.end(a, order{})
		case <-n.life.ended:
			n.end(a, order{drain: true})
			return
		}
	}
}

// rest is the time between two agents. It ends early when the faults do.
func (n *node) rest(d time.Duration) {
	select {
	case <-time.After(d):
	case <-n.life.healed:
	}
}

// judgeFailure says whether an agent had a reason to give up.
func (n *node) judgeFailure(what string, err error) {
	l := n.life
	switch {
	case errors.Is(err, metastore.ErrDiverged):
		l.find("diverged", "%s: %v", n.name, err)
	case what == "service" && !(errors.Is(err, metastore.ErrCorrupt) && l.damaged()):
		l.find("agent_failed", "%s left service: %v", n.name, err)
	case l.isHealed() && l.endedNow():
	case l.isHealed() && time.Since(l.healedAt()) > time.Minute:
		l.find("agent_failed", "%s cannot be started without faults: %v", n.name, err)
	}
}

// begin starts an agent on what is left of the node's disk.
func (n *node) begin() (*agent.Agent, error) {
	l, p := n.life, n.life.plan
	n.mu.Lock()
	n.log = l.store.Open(n.name)
	n.wayLocked()
	n.disk.SetFault(n.diskBad)
	disk, way := n.disk, n.log
	n.starts++
	number := n.starts
	n.mu.Unlock()
	listener, err := l.net.Listen(n.address)
	if err != nil {
		return nil, err
	}
	var metalog log.Log = way
	if l.observer != nil {
		metalog = patientTrim{way, l.observer}
	}
	if l.metalog != nil {
		metalog = l.metalog(metalog)
	}
	if l.plant != nil && l.plant.log != nil {
		metalog = l.plant.log(metalog, stream(p.seed, fmt.Sprintf("plant %d %d", n.index, number)))
	}
	var seed [32]byte
	copy(seed[:], fmt.Sprintf("%x %d %d", p.seed, n.index, number))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() {
		select {
		case <-l.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	cfg := agent.Config{
		Name: n.name, Advertise: n.address, SegmentBytes: p.segmentBytes, FlushInterval: p.flushInterval,
		UploadSlots: p.uploadSlots, StageBytes: 1 << 20, CacheBytes: 1 << 20, WALBytes: 64 << 20, RequestBytes: 1 << 20,
	}
	parts := agent.Components{
		Log: metalog, Bucket: l.bucket, FS: disk, WALDir: walDir, Kafka: listener,
		Logger: n.logger(), Now: n.now, Rand: rand.NewChaCha8(seed),
		Tune: func(c *metastore.Config) {
			c.RegistrationTTL, c.EntryBytes, c.TickInterval = p.ttl, p.entryBytes, p.tickInterval
			c.ArchiveInterval, c.SnapshotEntries, c.TrimMargin = p.archiveInterval, p.snapshotEntries, p.trimMargin
		},
	}
	p.duties.configure(p, &cfg, &parts)
	if l.configure != nil {
		l.configure(&cfg, &parts)
	}
	a, err := agent.Start(ctx, cfg, parts)
	if err != nil {
		_ = listener.Close()
		_ = way.Close()
		if errors.Is(err, wal.ErrCorrupt) || errors.Is(err, wal.ErrVolume) {
			l.find("wal_unusable", "%s: %v", n.name, err)
		}
		return nil, err
	}
	n.mu.Lock()
	n.agent = a
	n.mu.Unlock()
	l.logf("%s serves as node %d, incarnation %s", n.name, a.Metastore().NodeID(), a.Metastore().Incarnation())
	if number > 1 {
		l.sometimes("restarts")
	}
	return a, nil
}

// end stops the agent as ordered and leaves the disk for the next one.
func (n *node) end(a *agent.Agent, o order) {
	n.mu.Lock()
	n.agent = nil
	way, disk := n.log, n.disk
	n.mu.Unlock()
	if o.drain {
		n.life.logf("%s drains", n.name)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := a.Drain(ctx); err != nil {
			n.life.logf("%s: %v", n.name, err)
			n.life.sometimes("drains_cut_off")
		}
		cancel()
		disk = n.nextDisk(disk, walfs.LoseNothing)
	} else {
		n.life.logf("%s is killed, loss %d", n.name, o.loss)
		disk = n.nextDisk(disk, o.loss)
		a.Kill()
	}
	_ = way.Close()
	n.mu.Lock()
	n.disk = disk
	n.mu.Unlock()
}

// nextDisk is what the next agent finds; the agent that runs loses its own now.
func (n *node) nextDisk(disk *walfs.FS, loss walfs.Loss) *walfs.FS {
	if !n.life.plan.on[walKept] {
		disk.PowerOff()
		return walfs.New(n.rng)
	}
	n.life.count(walKept, 1)
	return disk.Restart(loss)
}

func (n *node) logger() *slog.Logger {
	if !*verboseFlag {
		return nil
	}
	return slog.New(slog.NewTextHandler(lines{n}, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// lines puts an agent's log into the life's trace.
type lines struct{ n *node }

func (w lines) Write(b []byte) (int, error) {
	w.n.life.logf("%s: %s", w.n.name, strings.TrimSpace(string(bytes.TrimPrefix(b, []byte("level=")))))
	return len(b), nil
}

// badDisk fails a part of all operations, as a disk that is dying or full does.
func badDisk(rng *rand.Rand, share float64, errno syscall.Errno, struck func()) func(walfs.Op) error {
	var mu sync.Mutex // guards rng
	return func(op walfs.Op) error {
		mu.Lock()
		hit := rng.Float64() < share
		mu.Unlock()
		if errno == syscall.ENOSPC && op.Kind != walfs.OpWrite && op.Kind != walfs.OpPreallocate && op.Kind != walfs.OpCreate {
			hit = false
		}
		if !hit {
			return nil
		}
		struck()
		return fmt.Errorf("sim: %s %s: %w", op.Kind, op.Name, errno)
	}
}
