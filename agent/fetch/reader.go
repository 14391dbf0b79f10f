package fetch

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/agent/sparse"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
)

// What a caller does next decides the class of an error.
var (
	// ErrUnknownTopic: no such topic or partition, after a barrier.
	ErrUnknownTopic = errors.New("unknown topic or partition")
	// ErrOffsetOutOfRange: the offset is not in [log start offset, high watermark], after a barrier.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrStorage: the log names an object that the bucket does not have. An alarm; nothing is skipped.
	ErrStorage = errors.New("object missing")
	// ErrCorrupt: the bytes in the bucket are not those that were written. An alarm; nothing is skipped.
	ErrCorrupt = errors.New("corrupt object")
	// ErrUnavailable: the bucket, the metastore or the agent that holds the bytes does not answer. Retry.
	ErrUnavailable = errors.New("data unavailable")
)

// missingError is an ErrStorage, unless the log has meanwhile moved the data elsewhere.
type missingError struct {
	object entry.ObjectID
	err    error
}

func (e *missingError) Error() string {
	return fmt.Sprintf("%v: not in the bucket: %v", ErrStorage, e.err)
}
func (e *missingError) Unwrap() []error { return []error{ErrStorage, e.err} }

// missing are the objects that one call did not find in the bucket.
type missing []entry.ObjectID

// first reports whether err says that an object is missing, and for the first time: the rows may name what a merge replaced, and the
// collector deleted, since this agent last applied. Where a barrier does not help, it is missing.
func (m *missing) first(err error) bool {
	var gone *missingError
	if !errors.As(err, &gone) || slices.Contains(*m, gone.object) {
		return false
	}
	*m = append(*m, gone.object)
	return true
}

// Metastore is what reading needs of metastore.Client.
type Metastore interface {
	// View runs fn under the state's read lock.
	View(fn func(*state.State))
	// Barrier returns when View shows everything committed before the call.
	Barrier(ctx context.Context) error
}

// WALReader reads rows whose bytes are not in the bucket yet. It returns the row's raw bytes: whole batches, as appended.
// An error is answered as ErrUnavailable.
type WALReader interface {
	ReadRow(ctx context.Context, topic entry.UUID, partition int32, row state.Row) ([]byte, error)
}

// Reader serves records of any partition. Safe for concurrent use.
type Reader struct {
	meta       Metastore
	cache      *Cache
	wal        WALReader // may be nil
	metrics    *Metrics
	validators sync.Pool // *batch.Validator
	plans      sync.Pool // *plan
	walks      chan struct{}
	recent     trails
	ends       trails // where reads that came to the end of the log ended
	lines      sparse.Lines
}

// walksMax is how many batches are decompressed at a time to look a time up. Each can take as much as its largest record.
const walksMax = 4

// NewReader makes a Reader over cache. Rows that are not in the bucket yet are ErrUnavailable; see WithWAL.
func NewReader(meta Metastore, cache *Cache) *Reader {
	r := &Reader{meta: meta, cache: cache, metrics: cache.cfg.Metrics, walks: make(chan struct{}, walksMax)}
	r.plans.New = func() any { return new(plan) }
	r.recent.seed, r.ends.seed = maphash.MakeSeed(), maphash.MakeSeed()
	r.validators.New = func() any { return batch.NewValidator() }
	return r
}

// WithWAL makes r read rows that are not in the bucket yet from w. Requires: before the first read.
func (r *Reader) WithWAL(w WALReader) *Reader {
	r.wal = w
	return r
}

// Result says where a partition stood when it was read.
type Result struct {
	HighWatermark int64 // one past the last readable offset
	LastStable    int64 // last stable offset; <= HighWatermark
	LogStart      int64 // lowest offset that is served
	// Later: it was not a replay's turn, and nothing was read though records are there.
	Later      bool
	NextOffset int64 // where the next read goes on: behind what was read, and behind offsets that hold no records
	Records    int64 // how many were read
}

// Read appends whole batches to dst, from the one that contains offset on, in order, as long as they fit into maxBytes
// (with atLeastOne, the first one always) and lie below the high watermark. Base offsets, leader epochs and log
// append times are filled in. A replay waits a little for its turn where atLeastOne says that there is nothing else to answer; see
// Result.Later and Impatient. Reading at the high watermark gives no bytes and no error. dst is returned as it was where err is
// not nil.
//
// Errors: ErrUnknownTopic, ErrOffsetOutOfRange, ErrStorage, ErrCorrupt, ErrUnavailable. One that is met behind the first
// batch is left to the next Read, which starts there.
func (r *Reader) Read(
	ctx context.Context, topic entry.UUID, partition int32, offset int64, maxBytes int, dst []byte, atLeastOne bool,
) ([]byte, Result, error) {
	out := Out{Own: dst}
	res, err := r.ReadTo(ctx, topic, partition, offset, maxBytes, &out, atLeastOne)
	return out.Own, res, err
}

// ReadTo is Read for who sends what it read without looking at it: where out allows, batches that are stored just as they are served are lent
// from the cache. That is those of merged objects.
func (r *Reader) ReadTo(
	ctx context.Context, topic entry.UUID, partition int32, offset int64, maxBytes int, out *Out, atLeastOne bool,
) (Result, error) {
	w := walk{offset: offset, limit: maxBytes, start: out.Len(), out: out, cache: r.cache, whole: atLeastOne, patient: atLeastOne && ctx.Value(impatience{}) == nil}
	lent := out.Lent()
	w.steps = r.recent.follows(topic, partition, offset)
	p := r.plans.Get().(*plan)
	defer r.plans.Put(p)
	var res Result
	for gone := (missing)(nil); ; {
		if err := r.plan(ctx, topic, partition, w.offset, p); err != nil {
			if w.size() > 0 {
				break
			}
			return Result{}, err
		}
		res = p.Result
		w.cold = r.replay(p, w.offset) && !r.cache.written(p.rows[0].Object)
		if w.cold && !r.admit(ctx, &w) {
			res.Later = w.size() == 0
			break
		}
		err := r.readRows(ctx, topic, partition, p, &w)
		if errors.Is(err, errLater) {
			res.Later = w.size() == 0
			break
		}
		if err == nil && p.more && !w.full {
			continue
		}
		if w.size() == 0 && gone.first(err) {
			if err := r.barrier(ctx); err != nil {
				return Result{}, err
			}
			continue
		}
		if err != nil && w.size() == 0 {
			r.note(topic, partition, err)
			return Result{}, err
		}
		break
	}
	res.NextOffset, res.Records = w.offset, w.records
	switch {
	case w.cold:
		r.cache.pace.charge(serves, int64(w.size()))
	case w.batches > 0 && r.ends.follows(topic, partition, offset) > 0: // who waited for this, and not a replay that comes to its end
		r.cache.pace.busy()
	}
	if w.offset >= res.HighWatermark {
		r.ends.leave(topic, partition, w.offset, 1)
	}
	if w.offset > offset {
		w.steps++
	}
	r.recent.leave(topic, partition, w.offset, w.steps)
	r.metrics.servedBytes.Add(float64(w.size()))
	r.metrics.servedBatches.Add(float64(w.batches))
	r.metrics.lentBytes.Add(float64(out.Lent() - lent))
	return res, nil
}

type impatience struct{}

// Impatient makes reads of replays under the context wait for nothing: what is not in memory, or not their turn, they leave for later.
// A request's first replay may wait; its other partitions should not wait as long again, each.
func Impatient(ctx context.Context) context.Context {
	return context.WithValue(ctx, impatience{}, true)
}

// coldWait is how long a replay waits for its turn before it is told to come again.
const coldWait = 100 * time.Millisecond

// admit waits until a replay may go on, where the answer has nothing else to give.
func (r *Reader) admit(ctx context.Context, w *walk) bool {
	r.cache.probe()
	if !w.patient || w.size() > 0 {
		return !r.cache.pace.ahead()
	}
	ctx, cancel := context.WithTimeout(ctx, coldWait)
	defer cancel()
	return r.cache.pace.wait(ctx, serves, nil)
}

// note tells the operator of what only an operator can mend.
func (r *Reader) note(topic entry.UUID, partition int32, err error) {
	switch {
	case errors.Is(err, ErrStorage):
		r.metrics.missing.Inc()
	case errors.Is(err, ErrCorrupt):
		r.metrics.corrupt.Inc()
	default:
		return
	}
	// Consumers come back for what they cannot have: a line a minute for each partition.
	if leftOut, write := r.lines.Take(fmt.Sprintf("%s-%d", topic, partition)); write {
		name := topic.String()
		r.meta.View(func(st *state.State) {
			if t := st.TopicByID(topic); t != nil {
				name = t.Name
			}
		})
		r.cache.cfg.Logger.Error("records cannot be read", "topic", name, "partition", partition, "error", err, "left_out", leftOut)
	}
}

// barrier makes View current, within its time. What ends it is ErrUnavailable.
func (r *Reader) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cache.cfg.BarrierTimeout)
	defer cancel()
	if err := r.meta.Barrier(ctx); err != nil {
		return fmt.Errorf("%w: read barrier: %w", ErrUnavailable, err)
	}
	return nil
}

// readRows walks the rows of a plan.
func (r *Reader) readRows(ctx context.Context, topic entry.UUID, partition int32, p *plan, w *walk) error {
	w.epochs = p.epochs
	w.ahead = r.depth(w)
	for i := range p.rows {
		row := &p.rows[i]
		if w.offset < row.Base { // offsets that hold no records any more
			w.offset = row.Base
		}
		if err := r.readRow(ctx, place{topic, partition}, row, w); err != nil {
			return err
		}
		r.aheadOfRow(p.rows[i:], w)
		if w.full {
			return nil
		}
	}
	if !p.more {
		w.fill(p.HighWatermark)
	}
	return nil
}

// aheadMost is how many runs are read ahead of a reader at most; it is as many only after a while.
const (
	aheadMost  = 4
	aheadAfter = 3 // reads for one more
)

// depth is how many runs or objects are read ahead: none of a reader that is not sequential, one of one that has begun to be, and more the longer
// a replay goes on. A connection to a store gives some 100 MB/s at best, after some 30 ms: one GET at a time is not what a consumer can take.
// Beside producers and tail readers, where replays have to keep to a pace, it is one.
func (r *Reader) depth(w *walk) int {
	switch {
	case w.steps == 0:
		return 0
	case !w.cold || !r.cache.pace.alone(time.Now()):
		return 1
	}
	return min(1+w.steps/aheadAfter, aheadMost)
}

// aheadOfRow reads what comes behind the first of some rows, where the walk is near its end.
func (r *Reader) aheadOfRow(rows []state.Row, w *walk) {
	run := r.cache.cfg.RunBytes
	left := remaining(&rows[0], w.offset)
	for n := 1; n <= w.ahead && n < len(rows) && left <= int64(w.ahead+1)*run; n++ {
		r.ahead(&rows[n], w, n > 1 || left > 2*run)
		left += max(rows[n].Size, min(rows[n].ObjectSize, run)) // what it costs to get
	}
}

// ahead reads what will be asked for first of a row that comes next: its object, of a large one the footer and then the run.
func (r *Reader) ahead(row *state.Row, w *walk, deep bool) {
	if row.InWAL {
		return
	}
	o := r.objectOf(row, w)
	keys := tableKeys(o)
	table := r.cache.kept(keys)
	switch {
	case table == nil:
		r.cache.readAhead(keys, deep, func() (itemKey, reading) { return r.cache.tableRead(o) })
	case !r.cache.whole(o):
		if block, ok := table.footer.Block(int(row.Block)); ok {
			r.cache.aheadOf(o, table.footer, block.Chunks[0].Position, deep)
		}
	}
}

// readRow appends the batches of row from w.offset on.
func (r *Reader) readRow(ctx context.Context, in place, row *state.Row, w *walk) error {
	w.row = row
	if row.InWAL {
		raw, err := r.pending(ctx, in, row)
		if err != nil {
			return err
		}
		return w.take(in.in(row, raw, row.Base), true)
	}
	c, err := r.open(ctx, in, row, r.objectOf(row, w))
	if err != nil {
		return err
	}
	c.ahead = w.ahead
	for c.seek(w.offset); ; {
		batches, last, err := c.next(ctx)
		if err != nil {
			return err
		}
		if err := w.take(batches, last); err != nil || w.full {
			return err
		}
		if c.passed(); last {
			return nil
		}
	}
}

// pending reads a row whose bytes are in a WAL.
func (r *Reader) pending(ctx context.Context, in place, row *state.Row) ([]byte, error) {
	if r.wal == nil {
		return nil, fmt.Errorf("%w: the records are not in the bucket yet", ErrUnavailable)
	}
	raw, err := r.wal.ReadRow(ctx, in.topic, in.partition, *row)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return raw, nil
}

// walk goes through batches and keeps those that are asked for.
type walk struct {
	offset int64 // of the next record wanted; moves behind each batch that is passed
	limit  int   // bytes beyond start
	start  int   // out.Len() before
	whole  bool  // the first batch is taken whatever its size
	// steps is how many reads of the partition ended where the next one started, up to this one; 0: it starts where none ended.
	steps int
	ahead int // how much is read ahead, see Reader.depth
	// patient: the answer has nothing else to give, so that a replay may wait.
	patient bool
	// cold: a replay reads.
	cold  bool
	out   *Out
	cache *Cache

	epochs  []state.EpochStart // of the partition
	row     *state.Row
	full    bool
	batches int
	records int64
	// asIs are the bytes of the item in hand that were taken as they are and are not in out yet: neighbouring batches go there together.
	asIs struct{ from, to int }
}

// settle puts into out what was taken of an item as it is.
func (w *walk) settle(it *item) {
	if w.asIs.to > w.asIs.from {
		from, to := w.asIs.from, w.asIs.to
		w.asIs.from, w.asIs.to = 0, 0
		w.out.add(w.cache, it, from, to)
	}
}

// objectOf returns the row's object as the walk asks for it. A replay that would hold others up answers what it has before it gets more.
func (r *Reader) objectOf(row *state.Row, w *walk) object {
	o := objectOf(row)
	o.cold = w.cold
	o.now = w.cold && (!w.patient || w.size() > 0 && r.cache.pace.disturbs(time.Now()))
	return o
}

// size is how many bytes were taken.
func (w *walk) size() int { return w.out.Len() - w.start + w.asIs.to - w.asIs.from }

// take appends what is wanted of a row's batches. last says that the row ends with them.
func (w *walk) take(in placed, last bool) error {
	defer w.settle(in.item)
	for in.Next() {
		if in.end <= w.offset {
			continue
		}
		raw, size := in.Raw(), w.size()
		if size+len(raw) > w.limit && (size > 0 || !w.whole) {
			w.full = true
			return nil
		}
		epoch := state.EpochAt(w.epochs, in.base)
		switch start := in.to - len(raw); {
		case w.out.Lend && in.item != nil && w.row.Object.Merged() && in.header.LeaderEpoch == epoch && !w.row.LogAppendTime:
			if w.asIs.to != start { // the first
				w.settle(in.item)
				w.asIs.from = start
			}
			w.asIs.to = in.to
		default:
			w.settle(in.item)
			w.out.grow(len(raw))
			at := len(w.out.Own)
			w.out.Own = append(w.out.Own, raw...)
			batch.StampBase(w.out.Own[at:], in.base, epoch)
			if w.row.LogAppendTime {
				batch.StampLogAppendTime(w.out.Own[at:], w.row.MaxTimestamp)
			}
		}
		w.offset = in.end
		w.batches++
		w.records += int64(in.header.RecordCount)
		if w.size()+batch.HeaderSize > w.limit { // no batch fits any more: open nothing else
			w.full = true
			return nil
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	if last && in.end != w.row.End {
		return in.corrupt("batches end at offset %d, their row at %d", in.end, w.row.End)
	}
	return nil
}

// fill appends a batch without records over the offsets up to the high watermark that nothing follows: compacted away, or given up.
// Kafka's log always ends in a batch, if an empty one, and who reads a topic to its end (Connect's workers, Streams' tables) waits until
// its position is there: without one it would wait for ever.
func (w *walk) fill(highWatermark int64) {
	for w.offset < highWatermark {
		if size := w.size(); size+batch.HeaderSize > w.limit && (size > 0 || !w.whole) {
			w.full = true
			return
		}
		span := min(highWatermark-w.offset, math.MaxInt32)
		w.out.grow(batch.HeaderSize)
		w.out.Own = batch.AppendEmpty(w.out.Own, batch.Header{
			BaseOffset: w.offset, LastOffsetDelta: int32(span - 1), LeaderEpoch: state.EpochAt(w.epochs, w.offset),
			BaseTimestamp: batch.NoTimestamp, MaxTimestamp: batch.NoTimestamp, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1,
		})
		w.offset += span
	}
}
