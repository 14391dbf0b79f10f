package sim_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/localstack/sim/memnet"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/faulty"
	"github.com/firnlog/firn/objstore/mem"
)

// life is one simulated cluster, from its first agent to the judgement.
type life struct {
	plan  *plan
	plant *plant // nil: no planted bug
	start time.Time

	store    *memlog.Store
	raw      *mem.Bucket
	ledger   *ledger // of raw
	flaky    *faulty.Bucket
	bucket   objstore.Bucket // what agents see
	net      *memnet.Network
	nodes    []*node
	observer *observer
	watching *watching
	// metalog and configure, where set, change what agents get.
	metalog   func(log.Log) log.Log
	configure func(*agent.Config, *agent.Components)

	healed chan struct{} // closed when faults are over
	ended  chan struct{} // closed when agents are to stop
	actors sync.WaitGroup
	still  atomic.Bool // members of groups neither come nor go, nor commit: see cutCoordinator

	mu           sync.Mutex // guards the rest
	trace        []string
	findings     []finding
	topics       []*topic
	tally        tally
	ids          map[int64]string // producer ids handed out, to whom
	bucketFaults faulty.Config    // of the weather
	outages      int              // of the bucket, that last now
	over         time.Time        // when the faults ended
	lateN        uint64           // what retired after it may still wait for the collector
	words        []word           // what members were told by coordinators
	quietSince   time.Time        // when everybody had finished; zero where there was no time for duties then
}

// finding is something that must not be.
type finding struct {
	kind   string
	detail string
}

func (f finding) String() string { return f.kind + ": " + f.detail }

// findingsMax bounds what is kept of one life.
const findingsMax = 50

func (l *life) find(kind, format string, args ...any) {
	f := finding{kind, fmt.Sprintf(format, args...)}
	l.logf("FINDING %s", f)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.findings) < findingsMax {
		l.findings = append(l.findings, f)
	}
}

// traceMax bounds the lines kept where nobody asked for them.
const traceMax = 20_000

func (l *life) logf(format string, args ...any) {
	line := fmt.Sprintf("%9.3fs ", time.Since(l.start).Seconds()) + fmt.Sprintf(format, args...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if *verboseFlag && len(l.trace) < traceMax {
		l.trace = append(l.trace, line)
	}
}

func (l *life) count(f fault, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.struck(f, n)
}

func (l *life) sometimes(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.hit(what, 1)
}

func (l *life) isHealed() bool {
	select {
	case <-l.healed:
		return true
	default:
		return false
	}
}

// damaged says whether reads of the bucket may be answered with damaged bytes now: then alarms are to be expected.
func (l *life) damaged() bool {
	return !l.isHealed() && l.plan.on[bucketBitFlip]
}

// outcome is what is left of a life.
type outcome struct {
	findings []finding
	tally    tally
	trace    []string
}

func (o *outcome) verdict() string {
	lines := make([]string, len(o.findings))
	for i, f := range o.findings {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// convergeWithin is how long clients have after the last fault to finish, in the life's time.
const convergeWithin = 3 * time.Minute

// live runs one life in a bubble of its own. Goroutines that are left behind fail the bubble.
func live(t *testing.T, p *plan, bug *plant) *outcome {
	t.Helper()
	out := new(outcome)
	faketime.Test(t, func(t *testing.T) {
		l := &life{
			plan: p, plant: bug, start: time.Now(), tally: newTally(), ids: map[int64]string{},
			raw: mem.New(), net: memnet.New(stream(p.seed, "net")), watching: newWatching(),
			healed: make(chan struct{}), ended: make(chan struct{}),
		}
		l.store = memlog.NewStore(memlog.Config{Rand: stream(p.seed, "log")})
		var err error
		l.ledger = newLedger(l.raw, l.store)
		if l.flaky, err = faulty.New(l.ledger, stream(p.seed, "bucket"), faulty.Config{}); err != nil {
			t.Fatal(err)
		}
		l.bucket = l.flaky
		if bug != nil && bug.bucket != nil {
			l.bucket = bug.bucket(l.flaky)
		}
		l.run(t.Context())
		for f := range p.on {
			l.tally.enable(f)
		}
		out.findings, out.tally, out.trace = l.findings, l.tally, l.trace
	})
	return out
}

// collectWithin is how long, in a quiet cluster, an object waits at most once nothing names it.
const collectWithin = 90 * time.Second

// run is the life: it begins with agents and clients, goes through the storm, heals, lets everybody finish, and judges.
func (l *life) run(ctx context.Context) {
	l.observer = observe(l.store)
	for i := range l.plan.agents {
		l.nodes = append(l.nodes, newNode(l, i))
	}
	for _, n := range l.nodes {
		l.actors.Go(n.run)
	}
	l.weather(calmWeather())
	l.still.Store(l.plan.on[coordinatorCut])
	clients, cancel := context.WithCancel(ctx)
	var busy sync.WaitGroup
	busy.Go(func() { l.runTopics(clients) })
	busy.Go(func() { l.runRogue(clients) })
	if l.plan.on[coordinatorCut] {
		l.actors.Go(func() { l.cutCoordinator(clients) })
	}
	l.storm(ctx)
	l.heal()
	done := make(chan struct{})
	go func() { busy.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(convergeWithin):
		l.find("stuck", "%v after the last fault there is still %s", convergeWithin, l.watching)
	}
	cancel()
	<-done
	if l.plan.on[settles] {
		l.quietSince = time.Now()
		pause(ctx, l.plan.duties.quiet-collectWithin)
		l.lateN = l.observer.head()
		pause(ctx, collectWithin)
		l.count(settles, 1)
	}
	l.judge(ctx)
	close(l.ended)
	l.actors.Wait()
	l.tallyUp()
	l.observer.stop()
	if err := l.store.Close(); err != nil {
		l.find("close", "the log: %v", err)
	}
	if err := l.flaky.Close(); err != nil {
		l.find("close", "the bucket: %v", err)
	}
}

// watching knows what every client waits for, to name it where one is stuck.
type watching struct {
	mu  sync.Mutex // guards now
	now map[string]string
}

func newWatching() *watching { return &watching{now: map[string]string{}} }

// does notes what an actor is about; "" ends it.
func (w *watching) does(actor, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if format == "" {
		delete(w.now, actor)
		return
	}
	w.now[actor] = fmt.Sprintf(format, args...)
}

func (w *watching) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for actor, what := range w.now {
		fmt.Fprintf(&b, "[%s: %s] ", actor, what)
	}
	return b.String()
}

// pause waits d, or less where ctx ends; then it is false.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
