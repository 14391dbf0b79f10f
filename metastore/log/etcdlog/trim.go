package etcdlog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/firnlog/firn/metastore/log"
)

const (
	trimKeysMax = 1000
	trimRunsMax = 60 // runs a transaction: two ops each, of the 128 that etcd allows
)

// run is contiguous seqs of one incarnation: one delete.
type run struct {
	incarnation log.Incarnation
	first, last uint64
}

// runs groups keys, in the order of their first appearance after sorting.
func runs(trim []log.Key) []run {
	sorted := slices.Clone(trim)
	slices.SortFunc(sorted, func(a, b log.Key) int {
		return cmp.Or(bytes.Compare(a.Incarnation[:], b.Incarnation[:]), cmp.Compare(a.Seq, b.Seq))
	})
	var out []run
	for _, k := range sorted {
		if n := len(out); n > 0 && out[n-1].incarnation == k.Incarnation && k.Seq-out[n-1].last <= 1 {
			out[n-1].last = k.Seq
			continue
		}
		out = append(out, run{k.Incarnation, k.Seq, k.Seq})
	}
	return out
}

// Trim implements log.Log. Requires: calls go up in n, so that what is compacted away is older than what remains. An error
// may leave part of the keys deleted; the same call again, with the same cursor, is harmless.
func (l *Log) Trim(ctx context.Context, trim []log.Key, upTo log.Cursor) error {
	if err := l.open(); err != nil {
		return err
	}
	if len(trim) > trimKeysMax {
		return fmt.Errorf("trim of %d keys, at most %d", len(trim), trimKeysMax)
	}
	for chunk := range slices.Chunk(runs(trim), trimRunsMax) {
		if err := l.deleteRuns(ctx, chunk, upTo.Revision); err != nil {
			return l.fail("trim", err)
		}
	}
	l.compact(ctx)
	return nil
}

// deleteRuns deletes the runs' entries of revisions up to upTo. Where a run holds a later one, a late copy under a key that
// was deleted before, it is bisected: everything else goes, the copy stays.
func (l *Log) deleteRuns(ctx context.Context, chunk []run, upTo int64) error {
	ifs := make([]clientv3.Cmp, 0, len(chunk))
	// Each run's newest entry is looked at before it goes, for the revision to compact at.
	ops := make([]clientv3.Op, 0, 2*len(chunk))
	for _, r := range chunk {
		first := l.keys.entry(log.Key{Incarnation: r.incarnation, Seq: r.first})
		last := l.keys.entry(log.Key{Incarnation: r.incarnation, Seq: r.last})
		ifs = append(ifs, clientv3.Compare(clientv3.ModRevision(first).WithRange(last+"\x00"), "<", min(upTo, math.MaxInt64-1)+1))
		ops = append(ops, clientv3.OpGet(last, clientv3.WithKeysOnly()),
			clientv3.OpDelete(first, clientv3.WithRange(last+"\x00")))
	}
	resp, err := l.cli.Txn(ctx).If(ifs...).Then(ops...).Commit()
	switch r := chunk[0]; {
	case err != nil:
		return err
	case resp.Succeeded:
		l.mu.Lock()
		defer l.mu.Unlock()
		for i := range chunk {
			for _, kv := range resp.Responses[2*i].GetResponseRange().GetKvs() {
				l.trimmed = max(l.trimmed, kv.ModRevision)
			}
		}
		return nil
	case len(chunk) > 1:
		half := len(chunk) / 2
		if err := l.deleteRuns(ctx, chunk[:half], upTo); err != nil {
			return err
		}
		return l.deleteRuns(ctx, chunk[half:], upTo)
	case r.first < r.last:
		middle := r.first + (r.last-r.first)/2
		if err := l.deleteRuns(ctx, []run{{r.incarnation, r.first, middle}}, upTo); err != nil {
			return err
		}
		return l.deleteRuns(ctx, []run{{r.incarnation, middle + 1, r.last}}, upTo)
	default:
		return nil
	}
}

// compact lets etcd forget history up to the newest entry trimmed, if that is due. Deleted values go one tail later, when
// trimming has come as far as their deletion; in return every entry that remains can be watched from and its number read.
func (l *Log) compact(ctx context.Context) {
	l.mu.Lock()
	revision := l.trimmed
	due := revision > 0 && time.Since(l.compactedAt) >= l.opts.CompactInterval
	if due {
		l.compactedAt, l.trimmed = time.Now(), 0
	}
	l.mu.Unlock()
	if !due {
		return
	}
	if _, err := l.cli.Compact(ctx, revision); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		l.opts.Logger.Warn("etcd was not compacted; it grows until it is", "revision", revision, "error", err)
		l.mu.Lock()
		l.trimmed = max(l.trimmed, revision)
		l.mu.Unlock()
	}
}
