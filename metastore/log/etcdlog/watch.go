package etcdlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/firnlog/firn/metastore/log"
)

// progressInterval is how often a watch asks for a sign of life. etcd answers once all that happened before was delivered.
const progressInterval = 500 * time.Millisecond

// Watch implements log.Log. Each watch has a connection to one endpoint, the next in turn, so that whoever gives up a
// watch that has gone silent gets another member.
func (l *Log) Watch(ctx context.Context, from log.Cursor, fn func([]log.Entry) error) error {
	if err := l.open(); err != nil {
		return err
	}
	identity, err := l.known(ctx)
	if err != nil {
		return err
	}
	endpoints := l.opts.Endpoints
	if n := uint64(len(endpoints)); n > 0 {
		i := l.watches.Add(1) % n
		endpoints = endpoints[i : i+1]
	}
	cli, err := l.opts.connect(endpoints)
	if err != nil {
		return lost("connect", err)
	}
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	unhook := context.AfterFunc(l.ctx, cancel)
	w := &watch{keys: l.keys, base: identity.Base, cluster: l.cluster, seen: from.Revision, ring: ring{bytesMax: l.opts.WatchBufferBytes, ready: make(chan struct{}, 1)}}
	var tasks sync.WaitGroup
	tasks.Go(func() { w.ring.end(w.pump(wctx, cli, from)) })
	tasks.Go(func() { prod(wctx, cli) })
	defer func() {
		unhook()
		cancel()
		_ = cli.Close()
		tasks.Wait()
	}()
	for {
		entries, err := w.ring.take(wctx, l.opts.WatchSilence)
		switch {
		case l.ctx.Err() != nil:
			return log.ErrClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		}
		if err := fn(entries); err != nil {
			return err
		}
	}
}

func lost(why string, err error) error {
	return fmt.Errorf("%w: etcd: %s: %w", log.ErrWatchLost, why, err)
}

// prod asks for progress until ctx ends. An answer or its absence shows in the watch.
func prod(ctx context.Context, cli *clientv3.Client) {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c, cancel := context.WithTimeout(ctx, progressInterval)
			_ = cli.RequestProgress(c)
			cancel()
		}
	}
}

// watch turns etcd's events into entries.
type watch struct {
	keys    keys
	base    uint64
	cluster string // of etcd, in hex: what another one says is not of this log
	ring    ring

	// seen is the newest revision that was delivered, or the cursor's. It only rises.
	seen int64
	// The entry whose head has not come yet. Invariant: both are of one revision, and of one response.
	pending  log.Entry
	revision int64
}

// pump only copies, for etcd's client holds whatever is not taken from it, without bound. It returns why the watch ended.
func (w *watch) pump(ctx context.Context, cli *clientv3.Client, from log.Cursor) error {
	responses := cli.Watch(ctx, w.keys.log(), clientv3.WithPrefix(), clientv3.WithRev(from.Revision+1),
		clientv3.WithFilterDelete(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	for resp := range responses {
		if err := resp.Err(); err != nil {
			return lost("watch", err)
		}
		if err := w.sameStore(&resp); err != nil {
			return err
		}
		entries, err := w.entries(resp.Events)
		if err != nil {
			return err
		}
		if !w.ring.put(entries) {
			return lost("watch", errSlow)
		}
	}
	return lost("watch", errEnded)
}

// sameStore looks at who answers. The client goes on with a watch by itself when a connection broke, at whatever answers then:
// an etcd that was set up anew, or brought back from an old copy, would be watched from a revision that it may reach much later.
// A member that only trails looks the same; in both cases the watch is lost, and the log read, which tells them apart.
func (w *watch) sameStore(resp *clientv3.WatchResponse) error {
	if got := fmt.Sprintf("%016x", resp.Header.GetClusterId()); got != w.cluster {
		return lost("watch", fmt.Errorf("etcd cluster %s answers, not %s", got, w.cluster))
	}
	revision := resp.Header.GetRevision()
	if revision < w.seen && !resp.Created {
		return lost("watch", fmt.Errorf("etcd is at revision %d, was at %d", revision, w.seen))
	}
	for _, ev := range resp.Events {
		w.seen = max(w.seen, ev.Kv.ModRevision)
	}
	return nil
}

var (
	errSlow   = errors.New("the consumer is too slow")
	errEnded  = errors.New("it ended")
	errSilent = errors.New("no event and no progress")
)

func (w *watch) entries(events []*clientv3.Event) ([]log.Entry, error) {
	out := make([]log.Entry, 0, len(events)/2)
	for _, ev := range events {
		if string(ev.Kv.Key) != w.keys.head() {
			key, err := w.keys.parseEntry(ev.Kv.Key)
			if err != nil {
				continue // foreign, and without a number not of the log
			}
			w.pending, w.revision = log.Entry{Key: key, Value: ev.Kv.Value}, ev.Kv.ModRevision
			continue
		}
		if w.revision != ev.Kv.ModRevision {
			return nil, lost("watch", fmt.Errorf("the head moved without an entry at revision %d", ev.Kv.ModRevision))
		}
		w.pending.N = w.base + uint64(ev.Kv.Version)
		out = append(out, w.pending)
		w.pending, w.revision = log.Entry{}, 0
	}
	return out, nil
}

// ring holds entries between pump and the consumer, within bytesMax (a single entry may be larger).
type ring struct {
	bytesMax int
	ready    chan struct{} // capacity 1: something to take

	mu      sync.Mutex // guards what follows
	entries []log.Entry
	bytes   int
	err     error // why no more will come
}

// put adds entries, or a sign of life where there are none; false when full.
func (r *ring) put(entries []log.Entry) bool {
	size := 0
	for _, e := range entries {
		size += len(e.Value) + entryOverhead
	}
	r.mu.Lock()
	fits := r.bytes == 0 || r.bytes+size <= r.bytesMax
	if fits {
		r.entries, r.bytes = append(r.entries, entries...), r.bytes+size
	}
	r.mu.Unlock()
	r.signal()
	return fits
}

func (r *ring) end(err error) {
	r.mu.Lock()
	r.err = err
	r.mu.Unlock()
	r.signal()
}

func (r *ring) signal() {
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

// take waits for entries, for a sign of life (nil), or for the end once all entries are taken.
func (r *ring) take(ctx context.Context, silence time.Duration) ([]log.Entry, error) {
	timer := time.NewTimer(silence)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, lost("watch", errSilent)
	case <-r.ready:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	entries := r.entries
	r.entries, r.bytes = nil, 0
	if r.err != nil {
		if len(entries) == 0 {
			return nil, r.err
		}
		r.signal() // the end is still to be told
	}
	if len(entries) == 0 {
		return nil, nil
	}
	return entries, nil
}
