package compaction

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/state"
)

// FeatureLevel is the cluster's level from which on duties work.
const FeatureLevel = 3

// Duty is a kind of work that goes on for as long as the agent does.
type Duty struct {
	Name string // one word: a label of metrics
	// Step does one bounded piece of work and reports whether there was any. It returns soon after ctx ends.
	Step func(ctx context.Context) (worked bool, err error)
	// Interval is how long to wait after a Step without work.
	Interval time.Duration
	// First is how long to wait before the first Step; 0 is half of Interval.
	First time.Duration
}

const (
	// A Step that fails is tried again after RetryMin, and after twice as long each time, up to RetryMax.
	retryMin = time.Second
	retryMax = time.Minute
	// faultAfter is how long a duty must have failed to be the agent's condition: what goes by is nobody's business.
	faultAfter = time.Minute
)

// Meta is the part of a *metastore.Client that the Runner needs.
type Meta interface {
	View(fn func(*state.State))
}

// Runner calls duties. Safe for concurrent use.
type Runner struct {
	meta    Meta
	duties  []Duty
	logger  *slog.Logger
	metrics *Metrics
	int64n  func(n int64) int64

	ctx    context.Context
	cancel context.CancelFunc
	ended  []chan struct{} // of each duty that was started, in their order: closed when it has ended

	mu     sync.Mutex // guards faults, and a seeded source of randomness
	faults map[string]fault
}

// fault is what is wrong with a duty.
type fault struct {
	since time.Time
	err   error
}

// Config is what a Runner works with.
type Config struct {
	Logger  *slog.Logger  // default: discard
	Metrics *Metrics      // may be nil
	Rand    *rand.ChaCha8 // a seeded one makes a simulation repeatable. Default: the system's randomness.
}

// NewRunner returns a Runner that does nothing until Start.
func NewRunner(cfg Config, meta Meta, duties []Duty) (*Runner, error) {
	var errs []error
	for i, d := range duties {
		if d.Name == "" || d.Step == nil || d.Interval <= 0 {
			errs = append(errs, fmt.Errorf("compaction: duty %d (%q) lacks a name, a step or an interval", i, d.Name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	r := &Runner{meta: meta, duties: duties, logger: cfg.Logger, metrics: cfg.Metrics, int64n: rand.Int64N, faults: make(map[string]fault)}
	if cfg.Rand != nil {
		seeded := rand.New(cfg.Rand)
		r.int64n = func(n int64) int64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			return seeded.Int64N(n)
		}
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	for _, d := range duties {
		cfg.Metrics.prepare(d.Name)
	}
	return r, nil
}

// Start starts a goroutine for each duty.
func (r *Runner) Start() {
	for _, d := range r.duties {
		ended := make(chan struct{})
		r.ended = append(r.ended, ended)
		go func() {
			defer close(ended)
			r.run(d)
		}()
	}
}

// Close ends the duties and waits for them. Safe twice.
func (r *Runner) Close() { _ = r.End(context.Background()) }

// End ends the duties and waits for them, until ctx ends. Its error names those whose step goes on: they are left to themselves, and
// what they ask of the metastore and the bucket fails as soon as these are closed.
func (r *Runner) End(ctx context.Context) error {
	r.cancel()
	var left []string
	for i, ended := range r.ended {
		select {
		case <-ended:
			continue
		case <-ctx.Done():
		}
		select {
		case <-ended: // both were so
		default:
			left = append(left, r.duties[i].Name)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("background duties do not end: %s: %w", strings.Join(left, ", "), context.Cause(ctx))
}

func (r *Runner) run(d Duty) {
	retry := retryMin
	wait := cmp.Or(d.First, d.Interval/2) // agents that start together do not list the bucket together
	for r.pause(wait) {
		worked, err := r.step(d)
		switch {
		case err != nil:
			wait, retry = retry, min(2*retry, retryMax)
		case worked:
			wait, retry = 0, retryMin
		default:
			wait, retry = d.Interval, retryMin
		}
	}
}

func (r *Runner) step(d Duty) (worked bool, err error) {
	level := uint32(0)
	r.meta.View(func(st *state.State) { level = st.FeatureLevel() })
	if level < FeatureLevel {
		return false, nil
	}
	start := time.Now()
	worked, err = d.Step(r.ctx)
	if ended := r.ctx.Err(); ended != nil { // what a step says then is no fault of its own
		return false, ended
	}
	r.metrics.stepped(d.Name, time.Since(start), worked, err)
	r.note(d.Name, err)
	return worked, err
}

// note keeps what is wrong with a duty, and tells when that begins and ends.
func (r *Runner) note(name string, err error) {
	now := time.Now()
	r.mu.Lock()
	before, failing := r.faults[name]
	switch {
	case err == nil:
		delete(r.faults, name)
	case failing:
		r.faults[name] = fault{before.since, err}
	default:
		r.faults[name] = fault{now, err}
	}
	r.mu.Unlock()
	switch {
	case err != nil && !failing:
		r.logger.Warn("background duty fails; it is tried again", "duty", name, "error", err)
	case err == nil && failing:
		r.logger.Info("background duty works again", "duty", name, "after", now.Sub(before.since).Round(time.Second))
	}
}

// Faults says which duties have failed for a while, and why, or "".
func (r *Runner) Faults() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for name, f := range r.faults {
		if lasted := time.Since(f.since); lasted >= faultAfter {
			list = append(list, fmt.Sprintf("%s fails for %v: %v", name, lasted.Round(time.Second), f.err))
		}
	}
	slices.Sort(list)
	return strings.Join(list, "; ")
}

// pause waits about d; false where the Runner is closed before.
func (r *Runner) pause(d time.Duration) bool {
	if d <= 0 {
		return r.ctx.Err() == nil
	}
	t := time.NewTimer(d*3/4 + time.Duration(r.int64n(int64(d/2)+1)))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}
