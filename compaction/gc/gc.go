package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// Interval is how often Step is worth a call where it had nothing to do: a request of an operator waits as long.
const Interval = 5 * time.Second

// Config are the tunables; the zero value of each is its default.
type Config struct {
	// EpochInterval is the least time between two moves of the collection epoch. Default 10 min.
	EpochInterval time.Duration
	// SweepInterval is how often the bucket is listed. Default 24 h.
	SweepInterval time.Duration
	// FirstSweep is how long after it took the duty up a collector waits with its first sweep. Default a 24th of SweepInterval.
	FirstSweep time.Duration
	// DeletesPerHour bounds the objects deleted. Default 500 000.
	DeletesPerHour int
	// OrphanPercent is the share of what a sweep listed from which on orphans open the breaker, where they are more than OrphansFree.
	// Defaults 20 and 1000.
	OrphanPercent int
	OrphansFree   int
	// ScrubBytesPerSecond is the fastest that objects are read to check them; below 0 they are not. Default 16 MiB/s.
	ScrubBytesPerSecond int64
	// ScrubPass is how long checking all objects should take. Default 30 days.
	ScrubPass time.Duration
	// RetryInterval is how long a request that failed waits. Default 30 s.
	RetryInterval time.Duration
	// AgainInterval is when to look for the second time whether a missing object is missing. Default 1 h.
	AgainInterval time.Duration
	// AskTimeout bounds one question that a sweep asks of one object. Default 30 s.
	AskTimeout time.Duration
	// LocksKept bounds how many objects that locks keep are remembered, each kind, some 20 MiB; what is not is asked for again.
	// Default 500 000.
	LocksKept int
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	for _, d := range []struct {
		name string
		d    *time.Duration
		def  time.Duration
	}{
		{"collection epoch interval", &c.EpochInterval, 10 * time.Minute}, {"sweep interval", &c.SweepInterval, 24 * time.Hour},
		{"first sweep", &c.FirstSweep, 0}, {"scrub pass", &c.ScrubPass, 30 * 24 * time.Hour}, {"retry interval", &c.RetryInterval, 30 * time.Second},
		{"second look", &c.AgainInterval, time.Hour}, {"time to answer", &c.AskTimeout, 30 * time.Second},
	} {
		if *d.d == 0 {
			*d.d = d.def
		}
		if *d.d < 0 {
			errs = append(errs, fmt.Errorf("gc: %s is negative: %v", d.name, *d.d))
		}
	}
	if c.FirstSweep == 0 {
		c.FirstSweep = c.SweepInterval / 24
	}
	for _, n := range []struct {
		name string
		n    *int
		def  int
	}{{"deletes per hour", &c.DeletesPerHour, 500_000}, {"percent of orphans", &c.OrphanPercent, 20}, {"orphans", &c.OrphansFree, 1000},
		{"locks remembered", &c.LocksKept, 500_000},
	} {
		if *n.n == 0 {
			*n.n = n.def
		}
		if *n.n < 0 {
			errs = append(errs, fmt.Errorf("gc: %s is negative: %d", n.name, *n.n))
		}
	}
	if c.ScrubBytesPerSecond == 0 {
		c.ScrubBytesPerSecond = 16 << 20
	}
	return errors.Join(errs...)
}

// Meta is what of a metastore.Client is used.
type Meta interface {
	View(fn func(*state.State))
	Propose(ctx context.Context, op entry.Op) (state.OpResult, error)
	Incarnation() log.Incarnation
	// ArchivedThrough is the n up to which the bucket alone gives the log.
	ArchivedThrough(ctx context.Context) (uint64, error)
	// OwnsBucket is nil where the bucket is this log's.
	OwnsBucket(ctx context.Context) error
}

var _ Meta = (*metastore.Client)(nil)

// Cells are where operators ask.
type Cells interface {
	Load(ctx context.Context, name string) (log.Cell, error)
	Swap(ctx context.Context, name string, version uint64, value []byte) (log.Cell, error)
}

// Coverage knows the bucket's own rules.
type Coverage interface {
	// Covered reports whether a rule that firn has read deletes such an object at this age.
	Covered(ctx context.Context, id entry.ObjectID, age time.Duration) bool
}

// Deps are the collaborators. Meta, Cells and Bucket are required.
type Deps struct {
	Meta     Meta
	Cells    Cells
	Bucket   objstore.Bucket
	Coverage Coverage // nil: no rule covers anything
	Budget   *duty.Budget
	Logger   *slog.Logger // default: discard
	Metrics  *Metrics     // nil: none
	// Steady is a clock that no setting of the time moves. Default: the process' own.
	Steady func() time.Duration
}

// quiet says that of the objects that retired none is left that may go, for as long as the state stays as it was: the table of these
// may be large, and is not read over and over.
type quiet struct {
	is              bool
	count           int // of retired objects
	epoch, archived uint64
	young           int           // of them, those that wait for the collection epoch
	until           time.Duration // when what a lock keeps is to be tried again; 0: there is none
}

// T is one agent's collector. Step is for one goroutine; Fault and Damaged are safe for all.
type T struct {
	cfg  Config
	deps Deps

	// Of the collection epoch, on every agent.
	seen     epochView
	epochAt  time.Duration // when it was seen first
	mine     bool          // this agent collected at its last step
	busy     bool          // and had something to do
	archived uint64        // as last read
	nudged   uint64        // the epoch in which the archive was made to go on

	// Of the collector; forgotten when another one takes over.
	limiter  *rate.Limiter
	done     map[uint64]struct{} // fingerprints of retired objects that are deleted
	quiet    quiet
	reapAt   time.Duration            // when to look again for what may go,
	full     bool                     // unless there was more than a request takes
	retained map[uint64]time.Duration // of objects that a lock keeps, and when to try again
	locked   map[uint64]time.Duration // of orphans that a lock keeps, as the bucket says, and when it ends; not tried before
	retry    map[string]time.Duration // when to try again what failed
	// waitEpoch is the collection epoch of the youngest orphan that a sweep found too young; 0: none.
	waitEpoch uint64
	tripped   string // why the breaker is open
	broken    bool   // and no sweep closes it without an operator's word
	sweep     *sweep // nil: none under way
	sweepAt   time.Duration
	orphans   []entry.ObjectID // that a sweep found, and that are to be deleted
	scrub     scrub
	damaged   damaged
	ages      ages
	desk      desk

	faults map[string]string // by what is done
	fault  atomic.Pointer[string]
}

// What is done, in metrics and faults.
const (
	doingDelete  = "delete"
	doingList    = "list"
	doingRead    = "read"
	doingArchive = "archive"
	doingBreaker = "breaker"
	doingDamage  = "damage"
)

// New makes a T.
func New(cfg Config, deps Deps) (*T, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Meta == nil || deps.Cells == nil || deps.Bucket == nil {
		return nil, errors.New("gc: no metastore or no bucket")
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Metrics == nil {
		deps.Metrics = NewMetrics(nil)
	}
	if deps.Steady == nil {
		start := time.Now()
		deps.Steady = func() time.Duration { return time.Since(start) }
	}
	t := &T{cfg: cfg, deps: deps, faults: make(map[string]string)}
	t.forget()
	return t, nil
}

// level is the feature level from which compaction acts.
const level = 3

// Step does one thing that waits, and reports whether there was one.
func (t *T) Step(ctx context.Context) (worked bool, err error) {
	defer t.tell()
	if !t.look() {
		return false, nil
	}
	for _, do := range []func(context.Context) (bool, error){t.serve, t.reap, t.bump, t.list, t.again, t.check} {
		if worked, err := do(ctx); worked || err != nil {
			t.busy = worked
			return worked, err
		}
	}
	t.busy = false
	return false, nil
}

// look reports whether this agent collects, and follows the epoch in any case: it is only moved when it has stood for long.
func (t *T) look() bool {
	var epoch, n uint64
	var logMS int64
	mine := false
	t.deps.Meta.View(func(st *state.State) {
		epoch, n, logMS = st.CollectionEpoch(), st.N(), st.LogTime()
		mine = st.FeatureLevel() >= level && duty.Mine(st, t.deps.Meta.Incarnation(), duty.Name("gc"))
	})
	if t.seen.epoch != epoch {
		t.seen, t.epochAt = epochView{epoch, n}, t.deps.Steady()
		t.forgetDone()
		t.reapAt = t.epochAt
	}
	t.ages.note(n, logMS)
	t.deps.Metrics.epoch.Set(float64(epoch))
	if mine != t.mine {
		t.forget()
		t.mine = mine
	}
	return mine
}

// forget makes this agent know nothing that a collector finds out.
func (t *T) forget() {
	now := t.deps.Steady()
	t.limiter = rate.NewLimiter(rate.Limit(float64(t.cfg.DeletesPerHour)/3600), max(t.cfg.DeletesPerHour/60, 1))
	t.done, t.retained, t.locked = make(map[uint64]struct{}), make(map[uint64]time.Duration), make(map[uint64]time.Duration)
	t.retry = make(map[string]time.Duration)
	t.quiet, t.waitEpoch, t.tripped, t.broken, t.sweep, t.orphans = quiet{}, 0, "", false, nil, nil
	t.sweepAt, t.reapAt, t.full = now+t.cfg.FirstSweep, now, false
	t.scrub, t.desk = scrub{at: now}, desk{}
	t.damaged.reset()
	clear(t.faults)
}

// forgetDone drops what the state has forgotten too: of what was deleted all, of what a lock keeps what is too much.
func (t *T) forgetDone() {
	over := len(t.retained) > t.cfg.LocksKept
	if len(t.done) == 0 && !over {
		return
	}
	still, kept := make(map[uint64]struct{}, len(t.done)), make(map[uint64]time.Duration)
	t.deps.Meta.View(func(st *state.State) {
		for r := range st.RetiredTable() {
			fp := fingerprint(r.Object)
			if has(t.done, fp) {
				still[fp] = struct{}{}
			}
			if until, is := t.retained[fp]; over && is {
				kept[fp] = until
			}
		}
	})
	t.done = still
	if over { // the rest are orphans by now: the next sweep finds them
		t.retained = kept
	}
}

func has[V any](m map[uint64]V, key uint64) bool {
	_, ok := m[key]
	return ok
}

// failed records a request that is tried again later.
func (t *T) failed(what string, err error) {
	t.deps.Metrics.errors.WithLabelValues(what).Inc()
	t.retry[what] = t.deps.Steady() + t.cfg.RetryInterval
	t.faults[what] = err.Error()
}

// resting reports whether what failed is not to be tried yet.
func (t *T) resting(what string) bool {
	at, failing := t.retry[what]
	return failing && t.deps.Steady() < at
}

// fine records that a request went through.
func (t *T) fine(what string) {
	delete(t.retry, what)
	delete(t.faults, what)
}

// tell makes the faults known to others.
func (t *T) tell() {
	m := t.deps.Metrics
	set := func(g interface{ Set(float64) }, on bool) {
		v := 0.0
		if on {
			v = 1
		}
		g.Set(v)
	}
	set(m.collecting, t.mine)
	set(m.breaker, t.tripped != "")
	m.retained.Set(float64(len(t.retained) + len(t.locked)))
	t.damaged.gauge(m)
	delete(t.faults, doingBreaker)
	if t.tripped != "" {
		t.faults[doingBreaker] = t.tripped
	}
	delete(t.faults, doingDamage)
	if why := t.damaged.String(); why != "" {
		t.faults[doingDamage] = why
	}
	lines := make([]string, 0, len(t.faults))
	for _, what := range slices.Sorted(maps.Keys(t.faults)) {
		lines = append(lines, t.faults[what])
	}
	all := strings.Join(lines, "; ")
	t.fault.Store(&all)
}

// Fault says in one phrase what is wrong with the bucket's objects or with deleting them, or "".
func (t *T) Fault() string {
	if why := t.fault.Load(); why != nil {
		return *why
	}
	return ""
}

// trip opens the breaker.
func (t *T) trip(why string) {
	if t.tripped == "" {
		t.deps.Logger.Error("nothing is deleted from the bucket any more", "cause", why)
	}
	t.tripped = why
}

// bump moves the collection epoch on where something waits for it, and nothing that is old enough waits to be deleted.
func (t *T) bump(ctx context.Context) (bool, error) {
	if t.tripped != "" || t.deps.Steady()-t.epochAt < t.cfg.EpochInterval || len(t.orphans) > 0 {
		return false, nil
	}
	waits := t.quiet.young > 0 || t.waitEpoch != 0 && t.waitEpoch+1 >= t.seen.epoch
	if !waits || !t.quiet.is || t.quiet.epoch != t.seen.epoch { // not looked at since the epoch moved: some may be old enough now
		return false, nil
	}
	r, err := t.deps.Meta.Propose(ctx, &entry.BumpCollectionEpoch{From: t.seen.epoch})
	if err != nil {
		return false, fmt.Errorf("move the collection epoch: %w", err)
	}
	if r.Code == state.OK {
		t.deps.Metrics.bumps.Inc()
	}
	return true, nil
}
