package sim_test

import (
	"context"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/objstoretest"
)

// plant is a bug put on a seam of a life, to show that the judgement sees it.
type plant struct {
	name   string
	want   []string // kinds of findings; one is enough
	also   []string // what clients see of it; one is enough, too, and both are required
	log    func(log.Log, *rand.Rand) log.Log
	bucket func(objstore.Bucket) objstore.Bucket
	tamper func(*rand.Rand) *tamper
	rogue  func(context.Context, *rogue, *metastore.Client)
	plan   func(*plan) // what the bug needs to show
}

// tamper is a proxy between a client and an agent that does wrong.
type tamper struct {
	// copies is how often a request is sent. At 0 it is not sent, and the answer is made up: success.
	copies func(kmsg.Request) int
	answer func(kmsg.Request, kmsg.Response)
}

// plants are the bugs; the package comment says what each is like.
func plants() []plant {
	return []plant{
		{name: "lost-commit", want: []string{"entry"}, log: func(l log.Log, r *rand.Rand) log.Log { return &lostCommit{Log: l, rng: r} }},
		{name: "swapped-watch", want: []string{"digest_mismatch", "diverged"}, log: func(l log.Log, r *rand.Rand) log.Log {
			return &swappedWatch{Log: l, rng: r}
		}},
		{name: "altered-entry", want: []string{"digest_mismatch", "diverged"}, log: func(l log.Log, r *rand.Rand) log.Log {
			return &alteredEntry{Log: l, rng: r}
		}},
		{name: "early-trim", want: []string{"replay", "agent_failed", "stuck"}, log: func(l log.Log, r *rand.Rand) log.Log {
			return &earlyTrim{Log: l, rng: r}
		}},
		{name: "forgetful-bucket", want: []string{"objects"}, bucket: func(b objstore.Bucket) objstore.Bucket { return &forgetful{Bucket: b} }},
		{name: "mixed-up-bucket", want: []string{"objects"}, bucket: func(b objstore.Bucket) objstore.Bucket { return &mixedUp{Bucket: b} }},
		{name: "doubled-produce", want: []string{"duplicates"}, tamper: doubledProduce},
		{name: "ack-before-commit", want: []string{"acked_lost", "wrong_acks"}, tamper: ackBeforeCommit},
		{name: "commit-thrown-away", want: []string{"commit_lost"}, tamper: commitThrownAway},
		{name: "commit-ahead", want: []string{"commit_invented"}, tamper: commitAhead},
		{name: "zero-offset", want: []string{"wrong_acks"}, tamper: zeroOffset},
		{name: "stale-listing", want: []string{"watermark_regressions"}, tamper: staleListing},
		{name: "watermark-back", want: []string{"watermark_regressions", "beyond_watermark"}, tamper: watermarkBack},
		{name: "flipped-byte", want: []string{"invented"}, tamper: flippedByte},
		{name: "skipped-batch", want: []string{"gaps"}, tamper: skippedBatch},
		{name: "out-of-range", want: []string{"refused_fetches"}, tamper: outOfRange},
		{name: "stale-head", want: []string{"usurped"}, log: func(l log.Log, _ *rand.Rand) log.Log { return &staleHead{Log: l} },
			plan: (*plan).cutsCoordinator},
		{name: "merge-drops-batch", want: []string{"rewrite"}, also: []string{"gaps", "acked_lost"}, rogue: mergeDropsBatch},
		{name: "merge-swaps-offsets", want: []string{"rewrite"}, also: []string{"inconsistent_offsets", "wrong_acks", "reorderings"}, rogue: mergeSwapsOffsets},
		{name: "cleaner-keeps-older", want: []string{"cleaned"}, also: []string{"compacted_away"}, rogue: cleanerKeepsOlder},
		{name: "cleaner-drops-tombstones", want: []string{"cleaned"}, also: []string{"compacted_away"}, rogue: cleanerDropsTombstones},
		{name: "rewrite-unguarded", want: []string{"rewrite"}, rogue: rewritesUnguarded},
		{name: "wall-clock-retention", want: []string{"expired"}, also: []string{"expired_early"}, rogue: expiresByWallClock},
		{name: "collects-named", want: []string{"deleted_alive"}, also: []string{"objects"}, rogue: collectsNamed},
		{name: "collects-without-epoch", want: []string{"deleted_alive"}, also: []string{"objects"}, rogue: collectsWithoutEpoch},
	}
}

// plantSeeds is within how many lives each planted bug must be seen.
const plantSeeds = 8

// TestPlantedBugsAreSeen shows that the judgement can fail: every planted bug is found within a few lives, and the same
// lives without it are clean. Nothing else goes wrong in them, so that nothing excuses or hides the bug.
func TestPlantedBugsAreSeen(t *testing.T) {
	quiet := func(seed uint64, bug *plant) *plan {
		p := newPlan(seed)
		p.on = map[fault]bool{snapshots: true, trims: true, groupReads: true}
		if bug == nil || bug.rogue != nil {
			p.on[keyedTopic], p.on[agingTopic] = true, true
		}
		p.snapshotEntries, p.trimMargin = 5, 1
		p.agents, p.plain, p.partitions = 2+int(seed%2), 1, 1+int(seed%2)
		p.storm /= 2
		if bug != nil && bug.plan != nil {
			bug.plan(p)
		}
		return p
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		for seed := uint64(1); seed <= plantSeeds; seed++ {
			if v := guarded(t, quiet(seed, nil), nil).verdict(); v != "" {
				t.Errorf("seed %d without a planted bug:\n%s", seed, v)
			}
		}
	})
	t.Run("coordinator-cut", func(t *testing.T) { // the lives that stale-head is planted in
		t.Parallel()
		followed := 0
		for seed := uint64(1); seed <= plantSeeds; seed++ {
			p := quiet(seed, nil)
			p.cutsCoordinator()
			out := guarded(t, p, nil)
			if v := out.verdict(); v != "" {
				t.Errorf("seed %d without a planted bug:\n%s", seed, v)
			}
			followed += out.tally.Sometimes["cut_coordinators_followed"]
		}
		if followed == 0 {
			t.Error("nobody took over from a coordinator that was cut off")
		}
	})
	for name, honest := range map[string]func(context.Context, *rogue, *metastore.Client){"merges-well": mergesWell, "cleans-well": cleansWell} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := 0
			for seed := uint64(1); seed <= plantSeeds; seed++ {
				bug := &plant{name: name, rogue: honest}
				out := guarded(t, quiet(seed, bug), bug)
				if v := out.verdict(); v != "" {
					t.Errorf("seed %d:\n%s", seed, v)
				}
				done += out.tally.Sometimes["parts_merged"] + out.tally.Sometimes["pieces_cleaned"]
			}
			if done == 0 {
				t.Error("nothing was rewritten")
			}
		})
	}
	for _, bug := range plants() {
		t.Run(bug.name, func(t *testing.T) {
			t.Parallel()
			var seen []string
			wanted := [][]string{bug.want}
			if bug.also != nil {
				wanted = append(wanted, bug.also)
			}
			for seed := uint64(1); seed <= plantSeeds; seed++ {
				out := guarded(t, quiet(seed, &bug), &bug)
				for _, f := range out.findings {
					seen = append(seen, f.String())
					if i := slices.IndexFunc(wanted, func(kinds []string) bool { return slices.Contains(kinds, f.kind) }); i >= 0 {
						t.Logf("seen in life %d: %s", seed, f)
						wanted = slices.Delete(wanted, i, i+1)
					}
				}
				if len(wanted) == 0 {
					return
				}
			}
			t.Errorf("not seen as %v in %d lives; findings:\n%s", wanted, plantSeeds, strings.Join(seen, "\n"))
		})
	}
}

// lostCommit answers Committed for commits that it throws away.
type lostCommit struct {
	log.Log
	mu  sync.Mutex // guards rng
	rng *rand.Rand
}

func (l *lostCommit) Commit(ctx context.Context, identity log.Identity, key log.Key, value []byte) (log.Outcome, error) {
	l.mu.Lock()
	lose := key.Seq > 1 && l.rng.IntN(20) == 0
	l.mu.Unlock()
	if lose {
		return log.Committed, nil
	}
	return l.Log.Commit(ctx, identity, key, value)
}

// swappedWatch delivers neighbours in the wrong order, under each other's numbers.
type swappedWatch struct {
	log.Log
	rng *rand.Rand // of the one watch at a time
}

func (l *swappedWatch) Watch(ctx context.Context, from log.Cursor, fn func([]log.Entry) error) error {
	var held []log.Entry // at most one
	return l.Log.Watch(ctx, from, func(entries []log.Entry) error {
		entries = append(held, entries...)
		held = nil
		switch n := len(entries); {
		case n == 1 && l.rng.IntN(4) == 0:
			held = slices.Clone(entries)
			return nil
		case n > 1 && entries[n-2].N+1 == entries[n-1].N:
			entries = slices.Clone(entries)
			a, b := &entries[n-2], &entries[n-1]
			*a, *b = *b, *a
			a.N, b.N = b.N, a.N
		}
		return fn(entries)
	})
}

// alteredEntry shows one agent other bytes than the rest: the proposer's clock, a second on.
type alteredEntry struct {
	log.Log
	rng *rand.Rand
}

func (l *alteredEntry) Watch(ctx context.Context, from log.Cursor, fn func([]log.Entry) error) error {
	return l.Log.Watch(ctx, from, func(entries []log.Entry) error {
		entries = slices.Clone(entries)
		for i := range entries {
			if l.rng.IntN(30) == 0 {
				entries[i].Value = laterClock(entries[i].Value)
			}
		}
		return fn(entries)
	})
}

// earlyTrim deletes entries that nobody has archived.
type earlyTrim struct {
	log.Log
	mu  sync.Mutex // guards rng
	rng *rand.Rand
}

func (l *earlyTrim) Commit(ctx context.Context, identity log.Identity, key log.Key, value []byte) (log.Outcome, error) {
	outcome, err := l.Log.Commit(ctx, identity, key, value)
	l.mu.Lock()
	trim := l.rng.IntN(20) == 0
	l.mu.Unlock()
	if err == nil && trim {
		err = l.Trim(ctx, []log.Key{key}, log.Cursor{Revision: math.MaxInt64})
	}
	return outcome, err
}

// staleHead answers for the log's head with the newest that was heard of where the log does not answer, as a member of etcd would that is cut off
// from the others and does not ask them. Its agent never comes to be unsure.
type staleHead struct {
	log.Log
	newest atomic.Uint64
}

func (l *staleHead) heard(n uint64) {
	for {
		have := l.newest.Load()
		if n <= have || l.newest.CompareAndSwap(have, n) {
			return
		}
	}
}

func (l *staleHead) Head(ctx context.Context) (uint64, error) {
	asked, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	n, err := l.Log.Head(asked)
	if err == nil {
		l.heard(n)
	} else if ctx.Err() == nil {
		n, err = l.newest.Load(), nil
	}
	return n, err
}

func (l *staleHead) Read(ctx context.Context, after uint64, last map[log.Incarnation]uint64, maxBytes int) ([]log.Entry, log.Cursor, bool, error) {
	entries, cursor, more, err := l.Log.Read(ctx, after, last, maxBytes)
	for i := range entries {
		l.heard(entries[i].N)
	}
	return entries, cursor, more, err
}

func (l *staleHead) Watch(ctx context.Context, from log.Cursor, fn func([]log.Entry) error) error {
	return l.Log.Watch(ctx, from, func(entries []log.Entry) error {
		for i := range entries {
			l.heard(entries[i].N)
		}
		return fn(entries)
	})
}

// forgetful loses every tenth segment that it said it stored.
type forgetful struct {
	objstore.Bucket
	mu   sync.Mutex // guards puts
	puts int
}

func (b *forgetful) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	if strings.HasPrefix(key, "data/") {
		b.mu.Lock()
		b.puts++
		lose := b.puts%10 == 0
		b.mu.Unlock()
		if lose {
			return nil
		}
	}
	return b.Bucket.Put(ctx, key, body, opts)
}

func (b *forgetful) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	return objstoretest.PutFrom(ctx, b, key, body, size, opts)
}

// mixedUp stores the segment before under the name of every tenth.
type mixedUp struct {
	objstore.Bucket
	mu     sync.Mutex // guards the rest
	puts   int
	before []byte
}

func (b *mixedUp) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	if strings.HasPrefix(key, "data/") {
		b.mu.Lock()
		b.puts++
		before := b.before
		b.before = slices.Clone(body)
		if b.puts%10 == 0 {
			body = before
		}
		b.mu.Unlock()
	}
	return b.Bucket.Put(ctx, key, body, opts)
}

func (b *mixedUp) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	return objstoretest.PutFrom(ctx, b, key, body, size, opts)
}

// doubledProduce sends requests of producers without idempotence twice.
func doubledProduce(r *rand.Rand) *tamper {
	return &tamper{copies: func(request kmsg.Request) int {
		p, ok := request.(*kmsg.ProduceRequest)
		if !ok || r.IntN(5) > 0 {
			return 1
		}
		h, err := batch.ParseHeader(p.Topics[0].Partitions[0].Records)
		if err != nil || h.Idempotent() {
			return 1
		}
		return 2
	}}
}

// ackBeforeCommit acknowledges without waiting whether the records come into the log; here they do not.
func ackBeforeCommit(r *rand.Rand) *tamper {
	return &tamper{copies: func(request kmsg.Request) int {
		if _, ok := request.(*kmsg.ProduceRequest); ok && r.IntN(20) == 0 {
			return 0
		}
		return 1
	}}
}

// madeUp fills an answer that no agent gave.
func madeUp(request kmsg.Request, response kmsg.Response) {
	if c, ok := request.(*kmsg.OffsetCommitRequest); ok {
		answer := response.(*kmsg.OffsetCommitResponse)
		for _, t := range c.Topics {
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic = t.Topic
			for _, part := range t.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition = part.Partition
				rt.Partitions = append(rt.Partitions, rp)
			}
			answer.Topics = append(answer.Topics, rt)
		}
		return
	}
	p, ok := request.(*kmsg.ProduceRequest)
	if !ok {
		return
	}
	answer := response.(*kmsg.ProduceResponse)
	for _, t := range p.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = t.Topic
		for _, part := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition = part.Partition
			rt.Partitions = append(rt.Partitions, rp)
		}
		answer.Topics = append(answer.Topics, rt)
	}
}

// commitThrownAway acknowledges commits of offsets that are never sent.
func commitThrownAway(r *rand.Rand) *tamper {
	return &tamper{copies: func(request kmsg.Request) int {
		if _, ok := request.(*kmsg.OffsetCommitRequest); ok && r.IntN(2) == 0 {
			return 0
		}
		return 1
	}}
}

// commitAhead tells members that more was committed than the group has read.
func commitAhead(*rand.Rand) *tamper {
	return &tamper{answer: func(_ kmsg.Request, response kmsg.Response) {
		f, ok := response.(*kmsg.OffsetFetchResponse)
		if !ok {
			return
		}
		for i := range f.Topics {
			for j := range f.Topics[i].Partitions {
				f.Topics[i].Partitions[j].Offset += 100
			}
		}
		for i := range f.Groups {
			for j := range f.Groups[i].Topics {
				for k := range f.Groups[i].Topics[j].Partitions {
					f.Groups[i].Topics[j].Partitions[k].Offset += 100
				}
			}
		}
	}}
}

// zeroOffset acknowledges now and then at offset 0.
func zeroOffset(r *rand.Rand) *tamper {
	return &tamper{answer: func(_ kmsg.Request, response kmsg.Response) {
		p, ok := response.(*kmsg.ProduceResponse)
		if !ok || r.IntN(10) > 0 {
			return
		}
		for i := range p.Topics {
			for j := range p.Topics[i].Partitions {
				p.Topics[i].Partitions[j].BaseOffset = 0
			}
		}
	}}
}

// staleListing answers every question for an end as the first one.
func staleListing(*rand.Rand) *tamper {
	first := map[int32]int64{}
	return &tamper{answer: func(request kmsg.Request, response kmsg.Response) {
		p, ok := response.(*kmsg.ListOffsetsResponse)
		if !ok || request.(*kmsg.ListOffsetsRequest).Topics[0].Partitions[0].Timestamp != -1 {
			return
		}
		for i := range p.Topics {
			for j := range p.Topics[i].Partitions {
				part := &p.Topics[i].Partitions[j]
				if before, known := first[part.Partition]; known {
					part.Offset = before
				} else {
					first[part.Partition] = part.Offset
				}
			}
		}
	}}
}

// onFetched changes partitions of answers to Fetch, one in so many.
func onFetched(r *rand.Rand, oneIn int, change func(*kmsg.FetchResponseTopicPartition)) *tamper {
	return &tamper{answer: func(_ kmsg.Request, response kmsg.Response) {
		p, ok := response.(*kmsg.FetchResponse)
		if !ok {
			return
		}
		for i := range p.Topics {
			for j := range p.Topics[i].Partitions {
				if part := &p.Topics[i].Partitions[j]; part.ErrorCode == errNone && r.IntN(oneIn) == 0 {
					change(part)
				}
			}
		}
	}}
}

// watermarkBack shows a lower high watermark than before.
func watermarkBack(r *rand.Rand) *tamper {
	return onFetched(r, 10, func(p *kmsg.FetchResponseTopicPartition) {
		p.HighWatermark = max(0, p.HighWatermark-2)
		p.LastStableOffset = p.HighWatermark
	})
}

// flippedByte damages a record.
func flippedByte(r *rand.Rand) *tamper {
	return onFetched(r, 10, func(p *kmsg.FetchResponseTopicPartition) {
		if n := len(p.RecordBatches); n > batch.HeaderSize {
			p.RecordBatches[batch.HeaderSize+r.IntN(n-batch.HeaderSize)] ^= 0x40
		}
	})
}

// skippedBatch leaves a batch out.
func skippedBatch(r *rand.Rand) *tamper {
	return onFetched(r, 2, func(p *kmsg.FetchResponseTopicPartition) {
		if s := batch.Split(p.RecordBatches); s.Next() {
			p.RecordBatches = p.RecordBatches[s.Position():]
		}
	})
}

// outOfRange denies an offset that exists.
func outOfRange(r *rand.Rand) *tamper {
	return onFetched(r, 40, func(p *kmsg.FetchResponseTopicPartition) {
		p.ErrorCode, p.RecordBatches = errOffsetOutOfRange, nil
	})
}

// laterClock moves the proposer's clock of an entry, or leaves the entry alone where it cannot be read.
func laterClock(value []byte) []byte {
	e, err := entry.Parse(value)
	if err != nil {
		return value
	}
	e.ClockMs += 1000
	return e.AppendTo(nil)
}
