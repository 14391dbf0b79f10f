package etcdlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/firnlog/firn/metastore/log"
)

// registration keeps a lease alive and looks now and then whether its key is still there.
type registration struct {
	l           *Log
	incarnation log.Incarnation
	lease       clientv3.LeaseID
	every       time.Duration // between looks: a third of the lease

	stop    context.CancelFunc // ends keep
	stopped chan struct{}      // keep has returned
	lost    chan struct{}
	lose    sync.Once
}

var _ log.Registration = (*registration)(nil)

// Register implements log.Log. etcd leases last whole seconds, and at least one and a half of its election timeouts.
func (l *Log) Register(ctx context.Context, incarnation log.Incarnation, info []byte, ttl time.Duration) (log.Registration, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	if ttl <= 0 {
		return nil, fmt.Errorf("registration lasts %v", ttl)
	}
	// Once an attempt is out, it may land at any time, even after somebody has unregistered the incarnation: a second
	// attempt must therefore be of a new one.
	l.mu.Lock()
	_, again := l.registered[incarnation]
	l.registered[incarnation] = struct{}{}
	l.mu.Unlock()
	if again {
		return nil, fmt.Errorf("%w: incarnation %s was registered before", log.ErrConflict, incarnation)
	}
	if err := l.mayWrite(ctx, incarnation); err != nil {
		return nil, err
	}
	grant, err := l.cli.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return nil, l.fail("grant a lease", err)
	}
	agent := l.keys.agent(incarnation)
	resp, err := l.cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(agent), "=", 0)).
		Then(clientv3.OpPut(agent, string(info), clientv3.WithLease(grant.ID))).Commit()
	if err != nil {
		return nil, l.fail("register "+incarnation.String(), err)
	}
	if !resp.Succeeded {
		return nil, fmt.Errorf("%w: incarnation %s is registered", log.ErrConflict, incarnation)
	}
	r := &registration{
		l: l, incarnation: incarnation, lease: grant.ID, every: time.Duration(grant.TTL) * time.Second / 3,
		stopped: make(chan struct{}), lost: make(chan struct{}),
	}
	var kctx context.Context
	kctx, r.stop = context.WithCancel(l.ctx)
	l.tasks.Go(func() { r.keep(kctx) })
	return r, nil
}

// mayWrite asks whether our user may write what an agent writes. A commit cannot tell, for its outcome is unknown whatever
// etcd answers; here nothing is under way. etcd checks the permissions for every op of a transaction, also of a branch that it does
// not take, and this one's condition never holds.
func (l *Log) mayWrite(ctx context.Context, incarnation log.Incarnation) error {
	_, err := l.cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(l.keys.meta()), "<", 0)).Then(
		clientv3.OpPut(l.keys.entry(log.Key{Incarnation: incarnation, Seq: 1}), ""),
		clientv3.OpPut(l.keys.head(), ""),
		clientv3.OpPut(l.keys.agent(incarnation), ""),
		clientv3.OpPut(l.keys.cell("permission"), ""),
		clientv3.OpGet(l.keys.prefix+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(1)),
	).Commit()
	if err != nil {
		return l.fail("ask for permission to write", err)
	}
	return nil
}

// keep runs until the registration is closed or known to be gone. etcd's client renews the lease in the background; when it
// gives up, only a look at the key tells whether the lease is gone or just out of reach for a while.
func (r *registration) keep(ctx context.Context) {
	defer close(r.stopped)
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	renewals, _ := r.l.cli.KeepAlive(ctx, r.lease) // closed on error, and tried again at the next look
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-renewals:
			if ok {
				continue
			}
			renewals = nil // not kept alive: look at once
		case <-tick.C:
		}
		held, err := r.held(ctx)
		switch {
		case err != nil:
			continue
		case !held:
			r.gone()
			// Cells that hang on the lease go with the registration. If this fails they go when the lease lapses.
			rctx, cancel := context.WithTimeout(ctx, r.every)
			_, _ = r.l.cli.Revoke(rctx, r.lease)
			cancel()
			return
		case renewals == nil:
			renewals, _ = r.l.cli.KeepAlive(ctx, r.lease)
		}
	}
}

func (r *registration) held(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, r.every)
	defer cancel()
	resp, err := r.l.cli.Get(ctx, r.l.keys.agent(r.incarnation), clientv3.WithKeysOnly())
	if err != nil {
		return false, err
	}
	return len(resp.Kvs) > 0, nil
}

func (r *registration) gone() { r.lose.Do(func() { close(r.lost) }) }

// Lost implements log.Registration.
func (r *registration) Lost() <-chan struct{} { return r.lost }

// Close implements log.Registration. On an error the registration lapses, and Close may be called again.
func (r *registration) Close(ctx context.Context) error {
	r.stop()
	select {
	case <-r.stopped:
	case <-ctx.Done():
		return r.l.fail("close the registration", ctx.Err())
	}
	select {
	case <-r.lost:
		return nil
	default:
	}
	if err := r.l.open(); err != nil {
		return err
	}
	if err := r.l.revoke(ctx, r.lease); err != nil {
		return err
	}
	r.gone()
	return nil
}

// revoke ends a lease; its registration and cells are deleted in the same revision.
func (l *Log) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	if _, err := l.cli.Revoke(ctx, lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return l.fail("revoke a lease", err)
	}
	return nil
}

// Unregister implements log.Log.
func (l *Log) Unregister(ctx context.Context, incarnation log.Incarnation) error {
	if err := l.open(); err != nil {
		return err
	}
	agent := l.keys.agent(incarnation)
	get, err := l.cli.Get(ctx, agent) // with its value: etcd 3.7 leaves the lease out of a keys-only answer
	if err != nil {
		return l.fail("read the registration", err)
	}
	if len(get.Kvs) == 0 {
		return nil
	}
	if lease := get.Kvs[0].Lease; lease != 0 {
		if err := l.revoke(ctx, clientv3.LeaseID(lease)); err != nil {
			return err
		}
	}
	// The lease took the key along. This is for a key without one, and costs little against trusting a lease.
	if _, err := l.cli.Delete(ctx, agent); err != nil {
		return l.fail("unregister "+incarnation.String(), err)
	}
	return nil
}

// Members implements log.Log.
func (l *Log) Members(ctx context.Context) ([]log.Member, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	resp, err := l.cli.Get(ctx, l.keys.agents(), clientv3.WithPrefix())
	if err != nil {
		return nil, l.fail("list registrations", err)
	}
	members := make([]log.Member, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		i, err := parseIncarnation(string(kv.Key[len(l.keys.agents()):]))
		if err != nil {
			l.foreign.Do(func() { // members are listed every few seconds
				l.opts.Logger.Warn("foreign key among registrations", "key", string(kv.Key))
			})
			continue
		}
		members = append(members, log.Member{Incarnation: i, Info: kv.Value})
	}
	return members, nil
}
