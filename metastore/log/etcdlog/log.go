package etcdlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/firnlog/firn/metastore/log"
)

// Log is a log.Log on etcd. Calls share one connection; every watch has its own, because a stream that carries much else
// has starved and lost events (etcd#17529).
type Log struct {
	opts    Options
	keys    keys
	cli     *clientv3.Client
	cluster string // etcd's cluster id, as hex

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // keepalives
	closed  sync.Once
	foreign sync.Once // a foreign key was told of
	scanned sync.Once // a scan was told of

	identity atomic.Pointer[log.Identity] // as first read; another one later is refused
	watches  atomic.Uint64                // counts watches, to rotate endpoints

	mu          sync.Mutex                   // guards what follows
	registered  map[log.Incarnation]struct{} // every incarnation that Register was called for
	compactedAt time.Time                    // of the last compaction by this Log, or its start
	trimmed     int64                        // newest mod revision of an entry that Trim deleted
}

var _ log.Log = (*Log)(nil)

// Open connects and checks that every endpoint is an etcd that firn runs on (ErrRefused) or at least one that answers
// (ErrUnavailable). It writes nothing.
func Open(ctx context.Context, opts Options) (*Log, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	cli, err := opts.connect(opts.Endpoints)
	if err != nil {
		return nil, opts.explain(ctx, opts.fail("connect", err))
	}
	l := &Log{opts: opts, keys: keys{opts.Prefix}, cli: cli, registered: map[log.Incarnation]struct{}{}, compactedAt: time.Now()}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if err := l.checkEndpoints(ctx); err != nil {
		return nil, errors.Join(opts.explain(ctx, err), l.Close())
	}
	return l, nil
}

// explain replaces an error that no endpoint answers by why, where that can be found out.
func (o Options) explain(ctx context.Context, err error) error {
	if !errors.Is(err, log.ErrUnavailable) {
		return err
	}
	if found := o.diagnose(ctx); found != nil {
		return found
	}
	return err
}

// Close ends watches, keepalives and connections. Calls under way return ErrUnavailable, later ones ErrClosed.
func (l *Log) Close() error {
	l.closed.Do(func() {
		l.cancel()
		l.tasks.Wait()
		_ = l.cli.Close() // says only that its context was cancelled
	})
	return nil
}

// open is the entry check of every method.
func (l *Log) open() error {
	if l.ctx.Err() != nil {
		return log.ErrClosed
	}
	return nil
}

func (l *Log) fail(what string, err error) error { return l.opts.fail(what, err) }

// fail sorts an error of etcd by what the caller can do. Whatever is not known to be permanent is unavailable, and what was
// asked may still happen: etcd reports even NOSPACE for proposals that it then applies.
func (o Options) fail(what string, err error) error {
	var mend string
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: %w: etcd: %s: %w; make room: etcdctl compact, defrag, then alarm disarm, or raise --quota-backend-bytes (docs/operations.md)",
			log.ErrUnavailable, log.ErrFull, what, err)
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		mend = fmt.Sprintf("; grant the role of user %q readwrite on every key below %s/", o.Username, o.Prefix)
		if o.Username == "" {
			mend = fmt.Sprintf("; grant the role of this certificate's user readwrite on every key below %s/", o.Prefix)
		}
	case errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserNotFound):
		mend = fmt.Sprintf("; check user %q and its password: --etcd-username, --etcd-password-file or FIRN_ETCD_PASSWORD", o.Username)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		mend = "; this etcd asks for a user: give --etcd-username and its password, or a client certificate whose common name is a user"
	default:
		return fmt.Errorf("%w: etcd: %s: %w", log.ErrUnavailable, what, err)
	}
	return fmt.Errorf("%w: etcd: %s: %w%s", log.ErrDenied, what, err, mend)
}

// place is a linearizable look at the log.
type place struct {
	head     uint64
	revision int64
	base     uint64
}

// look reads the head, and checks that the log is still the one known.
func (l *Log) look(ctx context.Context) (place, error) {
	if _, err := l.known(ctx); err != nil {
		return place{}, err
	}
	// A transaction of reads alone costs one linearizable read.
	resp, err := l.cli.Txn(ctx).Then(clientv3.OpGet(l.keys.head()), clientv3.OpGet(l.keys.meta())).Commit()
	if err != nil {
		return place{}, l.fail("read the head", err)
	}
	identity, err := l.meet(resp.Responses[1].GetResponseRange().GetKvs())
	if err != nil {
		return place{}, err
	}
	p := place{head: identity.Base, base: identity.Base, revision: resp.Header.GetRevision()}
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		p.head += uint64(kvs[0].Version)
	}
	return p, nil
}

// Head implements log.Log.
func (l *Log) Head(ctx context.Context) (uint64, error) {
	if err := l.open(); err != nil {
		return 0, err
	}
	p, err := l.look(ctx)
	return p.head, err
}

// Commit implements log.Log.
func (l *Log) Commit(ctx context.Context, identity log.Identity, key log.Key, value []byte) (log.Outcome, error) {
	if err := l.open(); err != nil {
		return 0, err
	}
	if len(value) > log.MaxValueBytes {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", log.ErrTooLarge, len(value), log.MaxValueBytes)
	}
	meta, err := encodeIdentity(identity)
	if err != nil {
		return 0, err
	}
	entry, agent := l.keys.entry(key), l.keys.agent(key.Incarnation)
	resp, err := l.cli.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(entry), "=", 0),
		clientv3.Compare(clientv3.CreateRevision(agent), ">", 0),
		clientv3.Compare(clientv3.Value(l.keys.meta()), "=", meta),
	).Then(
		clientv3.OpPut(entry, string(value)),
		clientv3.OpPut(l.keys.head(), ""),
	).Else(
		clientv3.OpGet(entry, clientv3.WithKeysOnly()),
		clientv3.OpGet(agent, clientv3.WithKeysOnly()),
		clientv3.OpGet(l.keys.meta()),
	).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrRequestTooLarge): // judged before it is proposed
		return 0, fmt.Errorf("%w: %w", log.ErrTooLarge, err)
	case err != nil:
		// Refused or not, an attempt like this one may be under way already: the outcome is unknown.
		err = l.fail("commit "+key.String(), err)
		if !errors.Is(err, log.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", log.ErrUnavailable, err)
		}
		return 0, err
	case resp.Succeeded:
		return log.Committed, nil
	}
	found := func(i int) bool { return len(resp.Responses[i].GetResponseRange().GetKvs()) > 0 }
	metas := resp.Responses[2].GetResponseRange().GetKvs()
	switch {
	case len(metas) == 0 || string(metas[0].Value) != meta:
		return log.WrongLog, nil
	case found(0):
		return log.Exists, nil
	case !found(1):
		return log.Fenced, nil
	default:
		return 0, fmt.Errorf("%w: etcd: commit %s: refused without a reason", log.ErrUnavailable, key)
	}
}
