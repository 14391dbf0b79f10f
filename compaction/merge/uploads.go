package merge

import (
	"context"
	"errors"
	"sync"

	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/entry"
)

// uploads are the objects of one piece of work that are on their way into the bucket and the index, a few at a time, while the next ones
// are copied: one upload is slow beside what copying makes. With one at a time each is waited for, so that requests come in one order.
type uploads struct {
	m    *Merger
	room chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex // guards the rest
	errs    []error
	final   bool // one of errs is not about its topic alone
	applied int  // parts that the index took
}

func (m *Merger) newUploads() *uploads {
	return &uploads{m: m, room: make(chan struct{}, m.env.Parallel())}
}

// send takes an object with its parts, once there is room for it. Its error is ctx's; others show in wait.
func (u *uploads) send(ctx context.Context, topic entry.UUID, o *output) error {
	if len(o.parts) == 0 {
		o.Close()
		return nil
	}
	select {
	case u.room <- struct{}{}:
	case <-ctx.Done():
		o.Close()
		return context.Cause(ctx)
	}
	u.wg.Go(func() {
		defer func() { <-u.room }()
		defer o.Close()
		u.done(u.carry(ctx, topic, o))
	})
	if cap(u.room) == 1 {
		u.wg.Wait()
	}
	return nil
}

// carry uploads an object and swaps the rows. Rows that were not swapped are somebody else's now, or come again.
func (u *uploads) carry(ctx context.Context, topic entry.UUID, o *output) (applied int, err error) {
	object, err := o.Upload(ctx)
	if err != nil {
		return 0, err
	}
	outcomes, err := u.m.env.Commit(ctx, topic, []rewrite.Object{object}, o.parts)
	metrics := u.m.deps.Metrics
	metrics.objects.Inc()
	for _, what := range outcomes {
		metrics.parts[what].Inc()
		if what == rewrite.Applied {
			applied++
		}
	}
	return applied, err
}

// done notes what became of an object.
func (u *uploads) done(applied int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.applied += applied
	if err == nil {
		return
	}
	const kept = 8
	final := errors.Is(err, rewrite.ErrUnavailable)
	if len(u.errs) < kept && !(final && u.final) { // uploads that were under way at once say the same
		u.errs = append(u.errs, err)
	}
	u.final = u.final || final
}

// hopeless reports whether more objects would fare no better.
func (u *uploads) hopeless() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.final
}

// wait waits for all objects that were sent, and takes what became of them.
func (u *uploads) wait() (applied int, err error) {
	u.wg.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	applied, err = u.applied, errors.Join(u.errs...)
	u.applied, u.errs, u.final = 0, nil, false
	return applied, err
}
