package etcdlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/firnlog/firn/metastore/log"
)

const (
	readAttempts  = 4         // a compaction may pass the revision that a read is pinned to
	pageFirst     = 16        // entries of the first page of an incarnation, before sizes are known
	pageBytes     = 512 << 10 // aimed at in later pages
	pageMax       = 1024      // entries
	scanChunk     = 32        // values fetched at once after a scan; etcd allows 128 ops
	entryOverhead = 128       // bytes counted for an entry beside its value
)

const readPassed = "a compaction passed the revision of a read"

// errUnordered: the incarnations' ranges do not add up to the log. A late duplicate of a trimmed entry does that: its seq is
// at or below the last applied one, so the range after that misses it.
var errUnordered = errors.New("ranges do not add up to the log")

// Read implements log.Log. It pins one revision, finds the incarnations that have entries by skipping from one to the next,
// reads each one's entries after its last applied seq in pages, and merges by revision.
func (l *Log) Read(ctx context.Context, after uint64, lastSeq map[log.Incarnation]uint64, maxBytes int) ([]log.Entry, log.Cursor, bool, error) {
	none := func(err error) ([]log.Entry, log.Cursor, bool, error) { return nil, log.Cursor{}, false, err }
	if err := l.open(); err != nil {
		return none(err)
	}
	for attempt := 1; ; attempt++ {
		p, err := l.look(ctx)
		if err != nil {
			return none(err)
		}
		switch {
		case after > p.head:
			// Nothing that was ever applied can be ahead of a linearizable head.
			return none(fmt.Errorf("%w: %w: the log went back: its head is %d, applied is %d", log.ErrRefused, log.ErrReplaced, p.head, after))
		case after < p.base:
			return none(fmt.Errorf("%w: %d is of an earlier epoch, which ended at %d", log.ErrTrimmed, after+1, p.base))
		case after == p.head:
			return nil, log.Cursor{Revision: p.revision}, false, nil
		}
		kvs, err := l.readRanges(ctx, p, after, lastSeq, maxBytes)
		if errors.Is(err, errUnordered) {
			level := slog.LevelDebug
			l.scanned.Do(func() { level = slog.LevelWarn }) // what makes it necessary does not go away
			l.opts.Logger.Log(ctx, level, "reading the metastore's log by a scan", "after", after, "head", p.head)
			kvs, err = l.readScan(ctx, p, after, maxBytes)
		}
		switch {
		case errors.Is(err, rpctypes.ErrCompacted) && attempt < readAttempts:
			l.opts.Logger.Debug(readPassed, "revision", p.revision)
			continue
		case errors.Is(err, log.ErrTrimmed):
			return none(err)
		case err != nil:
			return none(l.fail("read the log", err))
		}
		return l.number(p, after, kvs)
	}
}

// number turns keys and values that follow `after` into entries.
func (l *Log) number(p place, after uint64, kvs []*mvccpb.KeyValue) ([]log.Entry, log.Cursor, bool, error) {
	entries := make([]log.Entry, len(kvs))
	for i, kv := range kvs {
		key, err := l.keys.parseEntry(kv.Key)
		if err != nil {
			return nil, log.Cursor{}, false, fmt.Errorf("%w: foreign key in the log: %w", log.ErrUnavailable, err)
		}
		entries[i] = log.Entry{N: after + 1 + uint64(i), Key: key, Value: kv.Value}
	}
	if after+uint64(len(kvs)) < p.head {
		return entries, log.Cursor{Revision: kvs[len(kvs)-1].ModRevision}, true, nil
	}
	return entries, log.Cursor{Revision: p.revision}, false, nil
}

// headAt is the number of the newest entry at a revision; false where etcd has forgotten it.
func (l *Log) headAt(ctx context.Context, p place, revision int64) (uint64, bool, error) {
	resp, err := l.cli.Get(ctx, l.keys.head(), clientv3.WithRev(revision))
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case len(resp.Kvs) == 0:
		return p.base, true, nil
	}
	return p.base + uint64(resp.Kvs[0].Version), true, nil
}

// span is what is left to read of one incarnation.
type span struct {
	next, end string
	limit     int64
	page      []*mvccpb.KeyValue
	more      bool
}

func (l *Log) fill(ctx context.Context, s *span, revision int64) (count int64, err error) {
	resp, err := l.cli.Get(ctx, s.next, clientv3.WithRange(s.end), clientv3.WithRev(revision), clientv3.WithLimit(s.limit))
	if err != nil {
		return 0, err
	}
	s.page, s.more = resp.Kvs, resp.More
	if len(s.page) > 0 {
		s.next = string(s.page[len(s.page)-1].Key) + "\x00"
		total := 0
		for _, kv := range s.page {
			total += len(kv.Value) + entryOverhead
		}
		s.limit = min(max(pageBytes/int64(total/len(s.page)), 1), pageMax)
	}
	return resp.Count, nil
}

// spans finds every incarnation with entries after its last applied one, and counts those entries.
func (l *Log) spans(ctx context.Context, revision int64, lastSeq map[log.Incarnation]uint64) (out []*span, count uint64, err error) {
	for from := l.keys.log(); ; {
		resp, err := l.cli.Get(ctx, from, clientv3.WithRange(l.keys.logEnd()), clientv3.WithRev(revision),
			clientv3.WithLimit(1), clientv3.WithKeysOnly())
		if err != nil {
			return nil, 0, err
		}
		if len(resp.Kvs) == 0 {
			return out, count, nil
		}
		first, err := l.keys.parseEntry(resp.Kvs[0].Key)
		if err != nil {
			return nil, 0, err
		}
		from = l.keys.entryEnd(first.Incarnation)
		s := &span{next: string(resp.Kvs[0].Key), end: from, limit: pageFirst}
		if last, ok := lastSeq[first.Incarnation]; ok && last >= first.Seq {
			s.next = l.keys.entry(log.Key{Incarnation: first.Incarnation, Seq: last}) + "\x00"
		}
		n, err := l.fill(ctx, s, revision)
		if err != nil {
			return nil, 0, err
		}
		if n > 0 {
			out, count = append(out, s), count+uint64(n)
		}
	}
}

// readRanges merges the incarnations' ranges. Within one, revisions rise with seq, for a seq is committed only once the one
// before it is known to be.
func (l *Log) readRanges(ctx context.Context, p place, after uint64, lastSeq map[log.Incarnation]uint64, maxBytes int) ([]*mvccpb.KeyValue, error) {
	spans, count, err := l.spans(ctx, p.revision, lastSeq)
	if err != nil {
		return nil, err
	}
	if count != p.head-after {
		return nil, errUnordered
	}
	var out []*mvccpb.KeyValue
	revision := func(s *span) int64 { return s.page[0].ModRevision }
	for size := 0; len(spans) > 0 && (len(out) == 0 || size < maxBytes); {
		s := slices.MinFunc(spans, func(a, b *span) int { return cmp.Compare(revision(a), revision(b)) })
		kv := s.page[0]
		if len(out) > 0 && kv.ModRevision <= out[len(out)-1].ModRevision {
			return nil, errUnordered
		}
		out, size = append(out, kv), size+len(kv.Value)+entryOverhead
		if s.page = s.page[1:]; len(s.page) > 0 {
			continue
		}
		if s.more {
			if _, err := l.fill(ctx, s, p.revision); err != nil {
				return nil, err
			}
		}
		if len(s.page) == 0 {
			spans = slices.DeleteFunc(spans, func(o *span) bool { return o == s })
		}
	}
	// The count matches; the numbers of both ends prove that these are the entries counted.
	for _, i := range []int{0, len(out) - 1} {
		n, known, err := l.headAt(ctx, p, out[i].ModRevision)
		if err != nil {
			return nil, err
		}
		if known && n != after+1+uint64(i) {
			return nil, errUnordered
		}
	}
	return out, nil
}

// readScan takes the newest entries of the whole log, as many as there are after `after`. Without a proof that the first of
// them is after+1, something is missing.
func (l *Log) readScan(ctx context.Context, p place, after uint64, maxBytes int) ([]*mvccpb.KeyValue, error) {
	missing := fmt.Errorf("%w: after %d up to %d", log.ErrTrimmed, after, p.head)
	all := []clientv3.OpOption{clientv3.WithRange(l.keys.logEnd()), clientv3.WithRev(p.revision)}
	resp, err := l.cli.Get(ctx, l.keys.log(), append(all, clientv3.WithCountOnly())...)
	if err != nil {
		return nil, err
	}
	want := p.head - after
	if uint64(resp.Count) < want {
		return nil, missing
	}
	resp, err = l.cli.Get(ctx, l.keys.log(), append(all, clientv3.WithKeysOnly(), clientv3.WithLimit(int64(want)),
		clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend))...)
	if err != nil {
		return nil, err
	}
	slices.Reverse(resp.Kvs)
	n, known, err := l.headAt(ctx, p, resp.Kvs[0].ModRevision)
	if err != nil {
		return nil, err
	}
	if !known || n != after+1 {
		return nil, missing
	}
	var out []*mvccpb.KeyValue
	size := 0
	for chunk := range slices.Chunk(resp.Kvs, scanChunk) {
		gets := make([]clientv3.Op, len(chunk))
		for i, kv := range chunk {
			gets[i] = clientv3.OpGet(string(kv.Key), clientv3.WithRev(p.revision))
		}
		values, err := l.cli.Txn(ctx).Then(gets...).Commit()
		if err != nil {
			return nil, err
		}
		for _, r := range values.Responses {
			kv := r.GetResponseRange().GetKvs()[0] // it was there at this revision
			out, size = append(out, kv), size+len(kv.Value)+entryOverhead
			if size >= maxBytes {
				return out, nil
			}
		}
	}
	return out, nil
}
