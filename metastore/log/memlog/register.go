package memlog

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/log"
)

// registration renews its lease three times per ttl, while its agent can reach the store.
type registration struct {
	l           *Log
	incarnation log.Incarnation
	ttl         time.Duration

	stop    context.CancelFunc
	stopped chan struct{} // keep has returned
	lost    chan struct{}
	lose    sync.Once
}

var _ log.Registration = (*registration)(nil)

// Register implements log.Log.
func (l *Log) Register(ctx context.Context, incarnation log.Incarnation, info []byte, ttl time.Duration) (log.Registration, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("registration lasts %v", ttl)
	}
	info = slices.Clone(info)
	err := l.call(ctx, "register", func(s *Store) error {
		if _, again := s.attempted[incarnation]; again {
			return fmt.Errorf("%w: incarnation %s was registered before", log.ErrConflict, incarnation)
		}
		s.attempted[incarnation] = struct{}{}
		s.revision++
		s.registrations[incarnation] = &lease{info: info, ttl: ttl, expires: time.Now().Add(ttl)}
		s.rememberLocked()
		return nil
	})
	if err != nil {
		return nil, err
	}
	r := &registration{l: l, incarnation: incarnation, ttl: ttl, stopped: make(chan struct{}), lost: make(chan struct{})}
	var kctx context.Context
	kctx, r.stop = context.WithCancel(l.ctx)
	l.tasks.Go(func() { r.keep(kctx) })
	return r, nil
}

func (r *registration) keep(ctx context.Context) {
	defer close(r.stopped)
	tick := time.NewTicker(max(r.ttl/3, 1))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !r.renew() {
			r.gone()
			return
		}
	}
}

// renew is false once the agent can know that its registration is gone.
func (r *registration) renew() bool {
	s := r.l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	f := r.l.faults
	switch {
	case f.Partitioned:
		return true
	case !s.liveLocked(r.incarnation):
		if f.LostHidden {
			s.counts.LostHidden++
		}
		return f.LostHidden
	}
	s.registrations[r.incarnation].expires = time.Now().Add(r.ttl)
	if s.drawLocked(f.LeaseExpire) {
		s.counts.LeaseExpired++
		s.dropLocked(r.incarnation) // the renewal looks fine: the agent learns of it at the next, at the earliest
	}
	return true
}

func (r *registration) gone() { r.lose.Do(func() { close(r.lost) }) }

// Lost implements log.Registration.
func (r *registration) Lost() <-chan struct{} { return r.lost }

// Close implements log.Registration.
func (r *registration) Close(ctx context.Context) error {
	r.stop()
	<-r.stopped
	select {
	case <-r.lost:
		return nil
	default:
	}
	if err := r.l.Unregister(ctx, r.incarnation); err != nil {
		return err
	}
	r.gone()
	return nil
}

// Unregister implements log.Log.
func (l *Log) Unregister(ctx context.Context, incarnation log.Incarnation) error {
	return l.call(ctx, "unregister", func(s *Store) error { s.dropLocked(incarnation); return nil })
}

// Members implements log.Log.
func (l *Log) Members(ctx context.Context) (out []log.Member, err error) {
	err = l.call(ctx, "members", func(s *Store) error {
		out = s.membersLocked()
		if len(s.former) > 1 && s.drawLocked(l.faults.MembersStale) {
			s.counts.MembersStale++
			out = slices.Clone(s.former[s.rand.IntN(len(s.former)-1)])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
