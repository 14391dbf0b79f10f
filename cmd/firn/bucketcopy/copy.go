package bucketcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objstore"
)

var (
	// ErrRefused: source or target are not what a copy can be made of or to; nothing was changed.
	ErrRefused = errors.New("copy refused")
	// ErrDiffers: source and target differ where they should not.
	ErrDiffers = errors.New("the copy differs")
	// ErrMoving: objects appeared in the source during a final run.
	ErrMoving = errors.New("the source is still written to")
)

const (
	// DefaultParallel transfers go on at once.
	DefaultParallel = 8
	// ParallelMax bounds them: each holds a window of an object in memory.
	ParallelMax = 256

	window    = 8 << 20 // bytes of an object in memory, for each transfer
	attempts  = 4       // of one object, beside the drivers' own
	probePart = "probe/"
)

// Options are the tunables of a copy; the zero value is a run while agents work.
type Options struct {
	Parallel int  // transfers at once; 0: DefaultParallel
	Verify   bool // compare the bytes of everything, also of what an earlier run copied
	Final    bool // the source is no longer written to: end with a target that agents start on
	Retire   bool // after a final run, mark the source so that no agent starts on it
	// WithoutLocks copies what a lock keeps to a bucket that has no locks.
	WithoutLocks bool
	// To is what a retired source tells of where its cluster went.
	To string
	// Backoff is the pause before an object is tried again, doubled each time. 0: a second.
	Backoff time.Duration
}

// Progress counts, and may be read while a copy is under way.
type Progress struct {
	Listed, Copied, Compared atomic.Int64 // objects
	Bytes                    atomic.Int64 // copied and compared
}

// Report is what a run did.
type Report struct {
	Cluster  string   `json:"cluster"` // id of its log
	Objects  int64    `json:"objects"` // in the source
	Bytes    int64    `json:"bytes"`
	Copied   int64    `json:"copied"`
	Moved    int64    `json:"copied_bytes"`
	Compared int64    `json:"compared"` // by their bytes
	Final    bool     `json:"final"`    // agents may start on the target
	Retired  bool     `json:"retired"`  // and not on the source
	Notes    []string `json:"notes,omitempty"`
}

// copier is one run.
type copier struct {
	from, to objstore.Bucket
	opts     Options
	progress *Progress
	source   *metastore.Claim

	fresh  bool // the target is ours alone: what differs there is of an earlier run
	tags   objstore.Tagger
	locks  objstore.LockConfig
	mu     sync.Mutex // guards report.Notes
	report Report
}

// Run copies from to to. The report is of what was done, also beside an error.
func Run(ctx context.Context, from, to objstore.Bucket, opts Options, progress *Progress) (Report, error) {
	if opts.Parallel <= 0 {
		opts.Parallel = DefaultParallel
	}
	if opts.Backoff <= 0 {
		opts.Backoff = time.Second
	}
	c := &copier{from: from, to: to, opts: opts, progress: progress}
	err := c.run(ctx)
	c.report.Copied, c.report.Compared = progress.Copied.Load(), progress.Compared.Load()
	return c.report, err
}

func (c *copier) run(ctx context.Context) error {
	if err := c.abilities(ctx); err != nil {
		return err
	}
	if err := c.claim(ctx); err != nil {
		return err
	}
	if _, err := c.pass(ctx, true); err != nil {
		return err
	}
	// What appeared meanwhile, and a check of every size.
	appeared, err := c.pass(ctx, false)
	if err != nil {
		return err
	}
	switch {
	case !c.opts.Final && appeared > 0:
		c.note("%d objects appeared while the copy was made: the cluster is at work; they are copied too", appeared)
	case !c.opts.Final:
	case appeared > 0:
		return fmt.Errorf("%w: %d objects appeared during the copy; stop every agent and run it again", ErrMoving, appeared)
	default:
		return c.finish(ctx)
	}
	return nil
}

// claim decides whether this source may be copied to this target, and takes the target.
func (c *copier) claim(ctx context.Context) error {
	var err error
	if c.source, err = metastore.ReadClaim(ctx, c.from); err != nil {
		if errors.Is(err, objstore.ErrNotFound) {
			return fmt.Errorf("%w: the source holds no firn cluster (no object %s); name the bucket and prefix of one", ErrRefused, metastore.MarkerKey)
		}
		return fmt.Errorf("source: %w", err)
	}
	c.report.Cluster = c.source.LogID
	switch {
	case c.source.Copying:
		return fmt.Errorf("%w: a copy into the source has not been finished; finish that first", ErrRefused)
	case c.source.MovedTo != "":
		return fmt.Errorf("%w: the cluster of the source was moved to %s; copy from there", ErrRefused, c.source.MovedTo)
	}
	target, err := metastore.ReadClaim(ctx, c.to)
	none := errors.Is(err, objstore.ErrNotFound)
	// The cluster that left the target may come back.
	if left := err == nil && target.LogID == c.source.LogID && target.MovedTo != ""; none || left {
		if none {
			if err := c.empty(ctx); err != nil {
				return err
			}
		}
		if err := c.source.ClaimCopy(ctx, c.to, left); err != nil {
			return fmt.Errorf("target: %w", err)
		}
		target, err = metastore.ReadClaim(ctx, c.to)
	}
	switch {
	case err != nil:
		return fmt.Errorf("target: %w", err)
	case target.LogID != c.source.LogID:
		return fmt.Errorf("%w: the target belongs to cluster %s, the source is of %s; give an empty bucket or prefix", ErrRefused, target.LogID, c.source.LogID)
	case !target.Copying && !target.Same(c.source):
		return fmt.Errorf("%w: the target is in use: its log was restored into epoch %d, the source's is %d", ErrRefused, target.Epoch, c.source.Epoch)
	}
	c.fresh = target.Copying
	return nil
}

// empty holds a target without a marker to having nothing else either.
func (c *copier) empty(ctx context.Context) error {
	infos, err := c.to.List(ctx, "", "", 100)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	for _, info := range infos {
		if info.Key != metastore.MarkerKey && !strings.HasPrefix(info.Key, probePart) {
			return fmt.Errorf("%w: the target holds %s and is no firn cluster's; give an empty bucket or prefix", ErrRefused, info.Key)
		}
	}
	return nil
}

// abilities finds out what beside bytes there is to copy.
func (c *copier) abilities(ctx context.Context) error {
	if tagger, ok := objstore.As[objstore.Tagger](c.from); ok {
		c.tags = tagger
	}
	locks, ok := objstore.As[objstore.LockConfig](c.from)
	if !ok {
		return nil
	}
	settings, err := locks.LockSettings(ctx)
	if errors.Is(err, objstore.ErrInvalid) || err == nil && !settings.Enabled {
		return nil // no locks there
	}
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if c.opts.WithoutLocks {
		c.note("object locks are not copied")
		return nil
	}
	there, ok := objstore.As[objstore.LockConfig](c.to)
	if ok {
		settings, err = there.LockSettings(ctx)
	}
	switch {
	case err != nil && !errors.Is(err, objstore.ErrInvalid):
		return fmt.Errorf("target: %w", err)
	case !ok || err != nil || !settings.Enabled:
		return fmt.Errorf("%w: the source has object lock and the target has not; make a bucket with object lock, or give --without-locks", ErrRefused)
	}
	c.locks = locks
	return nil
}

// immutable reports whether an object under key never changes.
func immutable(key string) bool {
	for _, prefix := range []string{"data/", "topics/", "metastore/"} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// pass walks both listings and copies what the target lacks; it returns how many objects that were. The first pass also
// compares bytes, the one after it judges sizes and what has appeared.
func (c *copier) pass(ctx context.Context, first bool) (int64, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.opts.Parallel)
	source, target := newLister(c.from), newLister(c.to)
	var missing, objects, size int64
	walk := func() error {
		for {
			info, ok, err := source.next(ctx)
			if err != nil {
				return fmt.Errorf("source: %w", err)
			}
			if !ok {
				return nil
			}
			if info.Key == metastore.MarkerKey || strings.HasPrefix(info.Key, probePart) {
				continue
			}
			objects++
			size += info.Size
			if first {
				c.progress.Listed.Add(1)
			}
			there, err := target.seek(ctx, info.Key)
			if err != nil {
				return fmt.Errorf("target: %w", err)
			}
			job, err := c.judge(info, there, first)
			if err != nil {
				return err
			}
			if job == nil {
				continue
			}
			if there == nil {
				missing++
			}
			group.Go(func() error { return job(ctx) })
		}
	}
	err := walk()
	if waited := group.Wait(); waited != nil {
		err = waited // the cause, where walk saw only its end
	}
	c.report.Objects, c.report.Bytes = objects, size
	return missing, err
}

// judge says what is to be done about an object; nil for nothing.
func (c *copier) judge(info objstore.Info, there *objstore.Info, first bool) (func(context.Context) error, error) {
	switch {
	case there == nil:
		return func(ctx context.Context) error { return c.copyOne(ctx, info) }, nil
	case !immutable(info.Key):
		return func(ctx context.Context) error { return c.renew(ctx, info) }, nil
	case info.Size != there.Size && c.fresh && first:
		return func(ctx context.Context) error { return c.copyOne(ctx, info) }, nil
	case info.Size != there.Size:
		return nil, fmt.Errorf("%w: %s has %d bytes in the source and %d in the target", ErrDiffers, info.Key, info.Size, there.Size)
	case c.opts.Verify && first:
		return func(ctx context.Context) error { return c.again(ctx, func() error { return c.compare(ctx, info) }) }, nil
	}
	return nil, nil
}

// again does a step until it works, where trying may help.
func (c *copier) again(ctx context.Context, step func() error) error {
	for n := 1; ; n++ {
		err := step()
		if !errors.Is(err, objstore.ErrUnavailable) || n == attempts {
			return err
		}
		pause := c.opts.Backoff << (n - 1)
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

func (c *copier) copyOne(ctx context.Context, info objstore.Info) error {
	err := c.again(ctx, func() error { return c.transfer(ctx, info) })
	if errors.Is(err, objstore.ErrNotFound) && ctx.Err() == nil {
		return nil // it went while we were at it, as the cluster at work lets old objects go
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", info.Key, err)
	}
	c.progress.Copied.Add(1)
	c.progress.Bytes.Add(info.Size)
	if c.opts.Verify {
		return c.again(ctx, func() error { return c.compare(ctx, info) })
	}
	return nil
}

func (c *copier) transfer(ctx context.Context, info objstore.Info) error {
	var opts objstore.PutOptions
	var err error
	if opts.Tags, err = c.tagsOf(ctx, info.Key); err != nil {
		return err
	}
	if c.locks != nil {
		lock, err := c.locks.ObjectLock(ctx, info.Key)
		if err != nil {
			return err
		}
		if lock.Until.After(time.Now()) {
			opts.Lock = lock
		}
	}
	if info.Size <= window {
		body, err := c.from.Get(ctx, info.Key)
		if err != nil {
			return err
		}
		return c.to.Put(ctx, info.Key, body, opts)
	}
	return c.to.PutFrom(ctx, info.Key, &windowed{ctx: ctx, bucket: c.from, key: info.Key, size: info.Size}, info.Size, opts)
}

func (c *copier) tagsOf(ctx context.Context, key string) ([]objstore.Tag, error) {
	if c.tags == nil || strings.HasPrefix(key, "metastore/") {
		return nil, nil
	}
	tags, err := c.tags.Tags(ctx, key)
	if errors.Is(err, objstore.ErrUnsupported) {
		return nil, nil
	}
	return tags, err
}

// renew copies a small object that may have changed.
func (c *copier) renew(ctx context.Context, info objstore.Info) error {
	return c.again(ctx, func() error {
		here, err := c.from.Get(ctx, info.Key)
		if errors.Is(err, objstore.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		there, err := c.to.Get(ctx, info.Key)
		if err == nil && bytes.Equal(here, there) {
			return nil
		}
		if err != nil && !errors.Is(err, objstore.ErrNotFound) {
			return err
		}
		if err := c.to.Put(ctx, info.Key, here, objstore.PutOptions{}); err != nil {
			return err
		}
		c.progress.Copied.Add(1)
		c.progress.Bytes.Add(int64(len(here)))
		return nil
	})
}

// compare holds the bytes of both sides against each other.
func (c *copier) compare(ctx context.Context, info objstore.Info) error {
	for at := int64(0); at < info.Size; at += window {
		size := min(window, info.Size-at)
		here, err := c.from.GetRange(ctx, info.Key, at, size)
		if errors.Is(err, objstore.ErrNotFound) {
			return nil // it went meanwhile
		}
		if err != nil {
			return fmt.Errorf("compare %s: source: %w", info.Key, err)
		}
		there, err := c.to.GetRange(ctx, info.Key, at, size)
		if err != nil {
			return fmt.Errorf("compare %s: target: %w", info.Key, err)
		}
		if !bytes.Equal(here, there) {
			return fmt.Errorf("%w: %s, in the %d bytes from %d", ErrDiffers, info.Key, size, at)
		}
	}
	c.progress.Compared.Add(1)
	c.progress.Bytes.Add(info.Size)
	return nil
}

// finish hands the target over to agents.
func (c *copier) finish(ctx context.Context) error {
	now, err := metastore.ReadClaim(ctx, c.from)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if !now.Same(c.source) {
		return fmt.Errorf("%w: its marker changed during the copy", ErrMoving)
	}
	if err := c.source.FinishCopy(ctx, c.to); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	c.report.Final = true
	if !c.opts.Retire {
		return nil
	}
	if err := c.source.Leave(ctx, c.from, c.opts.To); err != nil {
		return fmt.Errorf("the copy is complete and the target ready, but the source could not be marked as left: %w", err)
	}
	c.report.Retired = true
	return nil
}

func (c *copier) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Notes = append(c.report.Notes, fmt.Sprintf(format, args...))
}
