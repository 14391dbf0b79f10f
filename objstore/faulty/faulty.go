package faulty

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/objstore"
)

// Bucket is another bucket with faults.
type Bucket struct {
	inner objstore.Bucket

	ending context.Context // ends with Close; what late effects wait under
	end    context.CancelFunc
	late   sync.WaitGroup // late effects that have not happened yet

	mu        sync.Mutex // guards the fields below, and late.Add against late.Wait
	closed    bool
	config    Config
	rng       *rand.Rand
	burstLeft int            // calls that the burst under way still fails
	hidden    map[string]int // key: reads that still miss the object; Invariant: values are positive
	counts    map[Fault]uint64
}

var _ objstore.Bucket = (*Bucket)(nil)

// New decorates inner; Close closes inner. The bucket takes rng over: nobody else may use it. An error is config's.
func New(inner objstore.Bucket, rng *rand.Rand, config Config) (*Bucket, error) {
	b := &Bucket{inner: inner, rng: rng, hidden: make(map[string]int), counts: make(map[Fault]uint64)}
	if err := b.SetConfig(config); err != nil {
		return nil, err
	}
	b.ending, b.end = context.WithCancel(context.Background())
	return b, nil
}

// Unwrap implements objstore.Unwrapper; abilities have no faults.
func (b *Bucket) Unwrap() objstore.Bucket { return b.inner }

// SetConfig changes the faults from the next call on; Config{} heals the bucket, which also ends a burst and shows hidden
// objects, while late effects stay under way.
func (b *Bucket) SetConfig(config Config) error {
	if err := config.Validate(); err != nil {
		return fmt.Errorf("faulty bucket: %w", err)
	}
	if config.Sleep == nil {
		config.Sleep = sleep
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.config = config
	if config.Burst == 0 {
		b.burstLeft = 0
	}
	if config.Hidden == 0 {
		clear(b.hidden)
	}
	return nil
}

// Counts returns how often each fault has struck; one that has not is absent.
func (b *Bucket) Counts() map[Fault]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.counts)
}

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	p, err := b.begin(ctx)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if p.late > 0 {
		kept := bytes.Clone(body) // the caller may reuse its own
		return b.later(p.late, "put "+key, func() {
			_ = b.inner.Put(context.WithoutCancel(ctx), key, kept, opts) // nobody waits for the answer any more
		})
	}
	if err := b.inner.Put(ctx, key, body, opts); err != nil {
		return err
	}
	if p.hidden > 0 {
		b.hide(key, p.hidden)
	}
	if p.ambiguous {
		return b.ambiguous("put " + key)
	}
	return nil
}

// PutFrom implements objstore.Bucket, with the faults of a Put.
func (b *Bucket) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	p, err := b.begin(ctx)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if p.late > 0 {
		kept := make([]byte, max(size, 0)) // the caller may close its own
		if _, err := io.ReadFull(objstore.NewBody(body, size), kept); err != nil {
			return fmt.Errorf("put %s: %w", key, err)
		}
		return b.later(p.late, "put "+key, func() {
			_ = b.inner.Put(context.WithoutCancel(ctx), key, kept, opts) // as in Put
		})
	}
	if err := b.inner.PutFrom(ctx, key, body, size, opts); err != nil {
		return err
	}
	if p.hidden > 0 {
		b.hide(key, p.hidden)
	}
	if p.ambiguous {
		return b.ambiguous("put " + key)
	}
	return nil
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	p, err := b.begin(ctx)
	if err != nil {
		return fmt.Errorf("delete %d keys: %w", len(keys), err)
	}
	if p.late > 0 {
		kept := slices.Clone(keys)
		return b.later(p.late, "delete", func() {
			_ = b.inner.Delete(context.WithoutCancel(ctx), kept...) // as in Put
		})
	}
	if err := b.inner.Delete(ctx, keys...); err != nil {
		return err
	}
	if p.ambiguous {
		return b.ambiguous("delete")
	}
	return nil
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	p, err := b.beginRead(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	body, err := b.inner.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return b.damage(p, body), nil
}

// GetRange implements objstore.Bucket.
func (b *Bucket) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	p, err := b.beginRead(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("get range of %s: %w", key, err)
	}
	body, err := b.inner.GetRange(ctx, key, position, size)
	if err != nil {
		return nil, err
	}
	if p.shortRange {
		b.count(ShortRange)
		body = body[:p.where%uint64(len(body))]
	}
	return b.damage(p, body), nil
}

// Head implements objstore.Bucket.
func (b *Bucket) Head(ctx context.Context, key string) (objstore.Info, error) {
	if _, err := b.beginRead(ctx, key); err != nil {
		return objstore.Info{}, fmt.Errorf("head %s: %w", key, err)
	}
	return b.inner.Head(ctx, key)
}

// List implements objstore.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if _, err := b.begin(ctx); err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	for {
		infos, err := b.inner.List(ctx, prefix, after, limit)
		if err != nil || len(infos) == 0 {
			return nil, err
		}
		after = infos[len(infos)-1].Key
		infos = slices.DeleteFunc(infos, func(info objstore.Info) bool { return b.isHidden(info.Key) })
		if len(infos) > 0 {
			return infos, nil
		}
	}
}

// Close implements objstore.Bucket. Late effects happen now, before inner closes.
func (b *Bucket) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.end()
	b.late.Wait()
	return b.inner.Close()
}

// begin draws the call's plan and lives through what comes before its effect: delay and failure.
func (b *Bucket) begin(ctx context.Context) (plan, error) {
	if err := ctx.Err(); err != nil {
		return plan{}, err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return plan{}, objstore.ErrClosed
	}
	p := draw(b.rng, b.config)
	wait := b.config.Sleep
	b.burstLeft = max(b.burstLeft, p.burst)
	inBurst := b.burstLeft > 0
	if inBurst {
		b.burstLeft--
		b.counts[Burst]++
	} else if p.unavailable {
		b.counts[Unavailable]++
	}
	if p.slow > 0 {
		b.counts[Slow]++
	}
	b.mu.Unlock()

	if p.slow > 0 {
		if err := wait(ctx, p.slow); err != nil {
			return plan{}, err
		}
	}
	switch {
	case inBurst:
		return plan{}, fmt.Errorf("%w: injected: slow down", objstore.ErrUnavailable)
	case p.unavailable:
		return plan{}, fmt.Errorf("%w: injected before the effect", objstore.ErrUnavailable)
	}
	return p, nil
}

// beginRead is begin for a call that reads the object under key.
func (b *Bucket) beginRead(ctx context.Context, key string) (plan, error) {
	p, err := b.begin(ctx)
	if err != nil {
		return plan{}, err
	}
	if b.isHidden(key) {
		return plan{}, fmt.Errorf("%w: injected: hidden", objstore.ErrNotFound)
	}
	return p, nil
}

// later reports a failure now and lets effect happen after d, or at Close.
func (b *Bucket) later(d time.Duration, step string, effect func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("%s: %w", step, objstore.ErrClosed)
	}
	b.counts[Late]++
	wait := b.config.Sleep
	b.late.Go(func() {
		_ = wait(b.ending, d) // an error says that Close wants it now
		effect()
	})
	return fmt.Errorf("%s: %w: injected, the effect comes later", step, objstore.ErrUnavailable)
}

func (b *Bucket) ambiguous(step string) error {
	b.count(Ambiguous)
	return fmt.Errorf("%s: %w: injected after the effect", step, objstore.ErrUnavailable)
}

// damage inverts a bit of body where the plan says so. The caller of a get owns its slice, so it happens in place.
func (b *Bucket) damage(p plan, body []byte) []byte {
	if p.bitFlip && len(body) > 0 {
		b.count(BitFlip)
		bit := p.where % (8 * uint64(len(body)))
		body[bit/8] ^= 1 << (bit % 8)
	}
	return body
}

func (b *Bucket) hide(key string, reads int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hidden[key] = reads
	b.counts[Hidden]++
}

// isHidden reports whether a read of key misses the object, and takes that read off its account.
func (b *Bucket) isHidden(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	left, hidden := b.hidden[key]
	if left > 1 {
		b.hidden[key] = left - 1
	} else {
		delete(b.hidden, key)
	}
	return hidden
}

func (b *Bucket) count(fault Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts[fault]++
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
