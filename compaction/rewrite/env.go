package rewrite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// FeatureLevel is the level from which the metastore takes rewrites. Below it nothing of compaction proposes anything.
const FeatureLevel = 3

var (
	// ErrCorrupt: an input's bytes are not what was written. It comes in an *InputError.
	ErrCorrupt = errors.New("corrupt input of compaction")
	// ErrMissing: rows name an object that the bucket does not have. It comes in an *InputError.
	ErrMissing = errors.New("missing input of compaction")
	// ErrChanged: the rows are not there any more; somebody else rewrote or deleted them. Look again.
	ErrChanged = errors.New("rows changed meanwhile")
	// ErrUnavailable: the bucket gave no answer in several attempts. Try later.
	ErrUnavailable = errors.New("bucket unavailable to compaction")
)

// InputError says what cannot be read. It wraps ErrCorrupt, ErrMissing or segment.ErrVersion.
type InputError struct {
	Object     entry.ObjectID
	Topic      entry.UUID // zero where the whole object cannot be read
	Partition  int32
	Start, End int64 // offsets that are in question, where Topic is set
	Err        error
}

func (e *InputError) Error() string {
	if e.Topic == (entry.UUID{}) {
		return fmt.Sprintf("%s: %v", e.Object.Key(), e.Err)
	}
	return fmt.Sprintf("%s, topic %s partition %d, offsets [%d, %d): %v", e.Object.Key(), e.Topic, e.Partition, e.Start, e.End, e.Err)
}

func (e *InputError) Unwrap() error { return e.Err }

// Meta is what rewriting needs of the metastore; *metastore.Client has it.
type Meta interface {
	View(fn func(*state.State))
	Barrier(ctx context.Context) error
	Propose(ctx context.Context, op entry.Op) (state.OpResult, error)
	Incarnation() log.Incarnation
}

// Config holds the tunables; the zero value of each is its default.
type Config struct {
	// RunBytes is how much of an object one GET reads. Default 8 MiB.
	RunBytes int64
	// ChunkBytes is where the chunks of merged objects close. Default 1 MiB.
	ChunkBytes int
	// Compress compresses the chunks of which a sample shrinks.
	Compress bool
	// Parallel is how many inputs are read, and outputs uploaded, at a time. Default 4: one stream from or to a bucket is slow beside what
	// an agent takes in. 1 makes requests come in one order.
	Parallel int
	// Attempts is how often a request of the bucket is made before the work is given up for now. Default 6.
	Attempts int
	// RetryMin and RetryMax bound the pause between them. Defaults 200 ms and 10 s.
	RetryMin, RetryMax time.Duration
	// OpBytes bounds an op that swaps rows. Default 32 KiB, at most entry.RewriteBytesMax.
	OpBytes int
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	set(&c.RunBytes, 8<<20)
	set(&c.ChunkBytes, 1<<20)
	set(&c.Parallel, 4)
	set(&c.Attempts, 6)
	set(&c.RetryMin, 200*time.Millisecond)
	set(&c.RetryMax, 10*time.Second)
	set(&c.OpBytes, 32<<10)
	bad(c.RunBytes > 0, "RunBytes %d is not positive", c.RunBytes)
	bad(c.ChunkBytes > 0, "ChunkBytes %d is not positive", c.ChunkBytes)
	bad(c.Parallel > 0, "Parallel %d is not positive", c.Parallel)
	bad(c.Attempts > 0, "Attempts %d is not positive", c.Attempts)
	bad(c.RetryMin > 0 && c.RetryMax >= c.RetryMin, "retries between %v and %v", c.RetryMin, c.RetryMax)
	bad(c.OpBytes > 0 && c.OpBytes <= entry.RewriteBytesMax, "OpBytes %d is not in 1..%d", c.OpBytes, entry.RewriteBytesMax)
	return errors.Join(errs...)
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Deps are what rewriting works with.
type Deps struct {
	Meta    Meta
	Bucket  objstore.Bucket
	Scratch duty.Scratch
	// Budget may be nil: no bound.
	Budget *duty.Budget
	// Sequence numbers the merged objects of the process. It is required where a process has more than one Env: they upload under one
	// incarnation. nil: one of this Env's own.
	Sequence *Sequence
	// PutOptions says with which tags, class and lock a topic's merged objects are put; nil: none.
	PutOptions func(topic entry.UUID) objstore.PutOptions
	// Logger may be nil.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Env is what the rewriting of one agent shares. Safe for concurrent use.
type Env struct {
	cfg  Config
	deps Deps
}

// Sequence counts the merged objects of a process. Incarnations change under a process; the sequence goes on. Safe for concurrent use.
type Sequence struct{ last atomic.Uint64 }

func (s *Sequence) next() uint64 { return s.last.Add(1) }

// New checks the config. An Env has no goroutines and needs no Close.
func New(cfg Config, deps Deps) (*Env, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("compaction/rewrite: %w", err)
	}
	if deps.Meta == nil || deps.Bucket == nil || deps.Scratch == nil {
		return nil, errors.New("compaction/rewrite: metastore, bucket and scratch space are required")
	}
	if deps.Sequence == nil {
		deps.Sequence = new(Sequence)
	}
	if deps.PutOptions == nil {
		deps.PutOptions = func(entry.UUID) objstore.PutOptions { return objstore.PutOptions{} }
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Metrics == nil {
		deps.Metrics = NewMetrics(nil)
	}
	return &Env{cfg: cfg, deps: deps}, nil
}

// Parallel is how many requests of the bucket a piece of work makes at a time.
func (e *Env) Parallel() int { return e.cfg.Parallel }

// Meta is the metastore that Env works with.
func (e *Env) Meta() Meta { return e.deps.Meta }

// Ready reports whether the cluster takes rewrites.
func (e *Env) Ready() bool {
	ready := false
	e.deps.Meta.View(func(st *state.State) { ready = st.FeatureLevel() >= FeatureLevel })
	return ready
}

// final is an answer of the bucket that asking again does not change.
type final struct{ error }

// Unwrap returns the answer.
func (f final) Unwrap() error { return f.error }

// attempts makes a request of the bucket until it has a definite answer, a few times.
func (e *Env) attempts(ctx context.Context, what string, id entry.ObjectID, do func() error) error {
	delay := e.cfg.RetryMin
	for n := 1; ; n++ {
		err := do()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, new(final)):
			return err
		case errors.Is(err, objstore.ErrNotFound), errors.Is(err, objstore.ErrRange), errors.Is(err, objstore.ErrInvalid), errors.Is(err, objstore.ErrExists):
			return err
		case n >= e.cfg.Attempts:
			return fmt.Errorf("%w: %s %s: %w", ErrUnavailable, what, id.Key(), err)
		}
		e.deps.Metrics.retries.Inc()
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		delay = min(2*delay, e.cfg.RetryMax)
	}
}

// get reads bytes of an object. Errors: ErrMissing and ErrCorrupt in an *InputError, ErrChanged, ErrUnavailable, ctx's.
func (e *Env) get(ctx context.Context, id entry.ObjectID, objectSize, position, size int64) ([]byte, error) {
	if err := e.deps.Budget.Take(ctx, int(size)); err != nil {
		return nil, err
	}
	var body []byte
	err := e.attempts(ctx, "get", id, func() (err error) {
		e.deps.Metrics.gets.Inc()
		if position == 0 && size == objectSize {
			body, err = e.deps.Bucket.Get(ctx, id.Key())
		} else {
			body, err = e.deps.Bucket.GetRange(ctx, id.Key(), position, size)
		}
		return err
	})
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return nil, e.missing(ctx, id, err)
	case errors.Is(err, objstore.ErrRange), err == nil && int64(len(body)) != size:
		return nil, &InputError{Object: id, Err: fmt.Errorf("%w: not %d bytes long", ErrCorrupt, objectSize)}
	case err != nil:
		return nil, err
	}
	e.deps.Metrics.getBytes.Add(float64(size))
	return body, nil
}

// missing tells an object that was collected, once somebody else had rewritten what was in it, from one that should be there.
func (e *Env) missing(ctx context.Context, id entry.ObjectID, why error) error {
	if err := e.deps.Meta.Barrier(ctx); err != nil {
		return err
	}
	named := false
	e.deps.Meta.View(func(st *state.State) { named = st.Named(id) })
	if !named {
		return fmt.Errorf("%w: %s: %w", ErrChanged, id.Key(), why)
	}
	return &InputError{Object: id, Err: fmt.Errorf("%w: %w", ErrMissing, why)}
}
