package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/wal"
)

// flushReason is why a segment was closed.
type flushReason int

const (
	flushIdle     flushReason = iota // nothing was being uploaded
	flushUpload                      // an upload ended
	flushSize                        // the target size was reached
	flushInterval                    // the flush interval passed
	flushDrain                       // the pipeline is draining
	flushLock                        // a topic's lock changed
	flushStale                       // its object was refused: uploaded again under another name
	flushReasons
)

func (r flushReason) String() string {
	return [flushReasons]string{"idle", "upload", "size", "interval", "drain", "lock", "stale"}[r]
}

// Pipeline takes batches to the bucket and the log. Safe for concurrent use.
//
// Three kinds of goroutine share it: callers of Stage, the loop, which alone decides what is uploaded and submitted next
// and so keeps order, and one worker per upload slot. Results come in on the metastore's applier.
type Pipeline struct {
	cfg    Config
	meta   Metastore
	bucket objstore.Bucket
	spill  Spill // may be nil
	sink   Sink

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	wake   chan struct{} // of the loop, capacity 1
	work   chan *flight  // to the workers, capacity UploadSlots: the loop never blocks on it

	objectSeq uint64 // of the last object named; of the loop
	gapWatch  gapWatch

	randMu sync.Mutex // guards cfg.Rand

	mu sync.Mutex // guards the rest, every flight's fields but those of its worker, and every staged part's
	// open take staged parts, one for each lock, in the order in which they were opened; queue is closed and waits for a slot; urgent goes first: parts whose object was refused.
	open   []*flight
	queue  []*flight
	urgent []*flight
	// line is what was given to a worker, in that order: the order of submission.
	line []*flight
	// ahead is the one urgent flight under way, or nil. submitted counts the ops of line and ahead that are not applied;
	// all of them name objects of submittedEpoch. held: submitLocked waits for them. See submitLocked.
	ahead          *flight
	submitted      int
	submittedEpoch uint64
	held           bool

	uploading int  // flights with a worker
	uploaded  bool // a worker ended since the loop last looked
	draining  int  // callers of Drain
	closed    bool
	// resident is the bytes of parts in memory that are not answered. Invariant: the sum of all flights' resident, and of
	// the reservations of callers that are inside Stage.
	resident int64
	// readBack is the part of resident that was spilled once. Bounded by readBackMax: what was uploaded stays in memory until it is
	// answered, so where nothing commits the rest stays in the spill. crowded: the next segment waits for that.
	readBack int64
	crowded  bool
	parts    int // staged and not answered
	// locks are those of topics whose parts came last with one; see noteLockLocked. Bounded by lockedTopicsMax.
	locks map[entry.UUID]Lock
	live  flight // ring of all flights with unanswered parts; the sentinel
	free  []*flight
	gaps  gaps
	// spillDown: the last attempt to spill failed. It is not tried again before spillRest, so that a full disk is not asked by
	// every waiting producer at every change.
	spillDown bool
	spillErr  error // of the last attempt that failed
	spillRest time.Time
	waiters   int           // on change
	change    chan struct{} // closed and replaced when room or parts fell, or the spill works again, and somebody waits
}

// New starts a pipeline. spill may be nil: Stage then blocks where memory is full. sink must not be.
func New(cfg Config, meta Metastore, bucket objstore.Bucket, spill Spill, sink Sink) (*Pipeline, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if meta == nil || bucket == nil || sink == nil {
		return nil, errors.New("ingest: metastore, bucket and sink are required")
	}
	p := &Pipeline{
		cfg: cfg, meta: meta, bucket: bucket, spill: spill, sink: sink,
		wake: make(chan struct{}, 1), work: make(chan *flight, cfg.UploadSlots), change: make(chan struct{}),
	}
	cfg.Metrics.residentLimit.Set(float64(cfg.MemoryBytes))
	p.live.prev, p.live.next = &p.live, &p.live
	p.gaps.init()
	p.gapWatch.init()
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	p.wg.Go(p.loop)
	for range cfg.UploadSlots {
		p.wg.Go(p.uploadLoop)
	}
	return p, nil
}

// Stage takes one request's batches in. Calls for one connection, made one after the other, keep their order in every
// partition. It blocks only while memory and spill are full. done is called once, when every part has its outputs, from
// the applier's or one of the pipeline's goroutines; it must not block. It is not called where Stage returns an error:
// then nothing was taken in.
//
// Requires: no Part is staged twice at a time.
// Errors: ErrClosed; ctx's own.
func (p *Pipeline) Stage(ctx context.Context, parts []*Part, done func()) error {
	if len(parts) == 0 {
		done()
		return nil
	}
	var size, records int64
	for _, part := range parts {
		part.reset()
		size += part.size
		records += int64(part.Header.RecordCount)
	}
	c := calls.Get().(*call)
	*c = call{open: len(parts), done: done}
	spilled, err := p.admit(ctx, parts, size)
	if err == nil {
		err = p.place(parts, c, spilled)
	}
	if err != nil {
		*c = call{}
		calls.Put(c)
		return err
	}
	p.cfg.Metrics.stagedBytes.Add(float64(size))
	p.cfg.Metrics.stagedBatches.Add(float64(len(parts)))
	p.cfg.Metrics.stagedRecords.Add(float64(records))
	return nil
}

func (p *Part) reset() {
	p.Code, p.Err = state.OK, nil
	p.BaseOffset, p.Timestamp, p.LogStartOffset = -1, -1, -1
	p.call, p.seg, p.ref, p.spilled, p.waiting = nil, nil, wal.Ref{}, false, waiting{}
	p.released = false
	p.size = int64(len(p.Records))
}

// admit reserves memory for size bytes, or spills the parts. A request larger than half of memory is let in where half is free: where small
// ones come all the time there is never room for all of it. Its bytes are in memory in any case.
func (p *Pipeline) admit(ctx context.Context, parts []*Part, size int64) (spilled bool, err error) {
	var rest time.Time // until when the spill, which took some of the parts and not all, is left alone
	for first := true; ; first = false {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return false, ErrClosed
		}
		crowded := p.parts > 0 && p.parts+len(parts) > p.partsMax()
		half := p.cfg.MemoryBytes / 2
		if !crowded && (p.resident == 0 || p.resident+size <= p.cfg.MemoryBytes || size > half && p.resident <= half) {
			p.addResidentLocked(size)
			p.mu.Unlock()
			return false, nil
		}
		now := time.Now()
		if !now.Before(rest) {
			rest = time.Time{}
		}
		try := p.spill != nil && ctx.Err() == nil && !crowded && !now.Before(p.spillRest) && rest.IsZero()
		if try && p.spillDown { // one asks for all
			p.spillRest = now.Add(spillPause)
		}
		change := p.change // before Append, so that no change is missed after it
		p.waiters++
		p.mu.Unlock()
		if try {
			var some bool
			if spilled, some, err = p.spillParts(ctx, parts); some {
				rest = time.Now().Add(spillPause)
			}
		}
		if !spilled && err == nil {
			if first {
				p.cfg.Metrics.blockedStages.Inc()
			}
			since := time.Now()
			var again <-chan time.Time
			if !crowded { // else the spill is no way out
				again = p.spillAgain(rest)
			}
			select {
			case <-change:
			case <-again:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
			p.cfg.Metrics.blockedTime.Add(time.Since(since).Seconds())
		}
		p.mu.Lock()
		p.waiters--
		p.mu.Unlock()
		if spilled || err != nil {
			return spilled, err
		}
	}
}

// partBytes is about what a part takes in memory beside its records, its share of its request included. Spilling does not help
// against that, so where batches are tiny their number is what is bounded.
const partBytes = 512

func (p *Pipeline) partsMax() int { return max(int(p.cfg.MemoryBytes/partBytes), 1024) }

// spillParts writes all parts to the spill or none; some says that there was room for some of them. An error is ctx's.
func (p *Pipeline) spillParts(ctx context.Context, parts []*Part) (all, some bool, err error) {
	for i, part := range parts {
		ref, err := p.spill.Append(ctx, part.Records)
		if err != nil {
			p.freeSpilled(parts[:i])
			if ctx.Err() == nil && errors.Is(err, wal.ErrFailed) {
				p.spillFailed(err)
			}
			return false, i > 0, context.Cause(ctx)
		}
		part.ref, part.spilled = ref, true
	}
	p.spillWorks()
	return true, false, nil
}

// spillPause is how long the spill is left alone after the disk refused it, and by a request that it had room for a part of.
const spillPause = time.Second

// spillFailed notes that the disk refused to take what does not fit into memory: producers wait for the bucket until it does.
func (p *Pipeline) spillFailed(err error) {
	p.mu.Lock()
	down := p.spillDown
	p.spillDown, p.spillRest, p.spillErr = true, time.Now().Add(spillPause), err
	p.mu.Unlock()
	if !down {
		p.cfg.Logger.Warn("the disk takes no batches, producers wait for the bucket", "error", err, "retry_every", spillPause)
	}
}

// spillAgain is told when the disk that refused a batch, or a part of this request until rest, is to be asked again; nil where it did not.
// Nothing else might ever change while the bucket is out too.
func (p *Pipeline) spillAgain(rest time.Time) <-chan time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spillDown && p.spillRest.After(rest) {
		rest = p.spillRest
	}
	if rest.IsZero() {
		return nil
	}
	return time.After(time.Until(rest))
}

// spillFresh is for how long a disk that refused a batch counts as refusing: it is asked again only when memory is full.
const spillFresh = 30 * time.Second

// SpillFault says why batches that do not fit into memory cannot be spilled, or "".
func (p *Pipeline) SpillFault() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.spillDown || time.Now().After(p.spillRest.Add(spillFresh)) {
		return ""
	}
	return fmt.Sprintf("what does not fit into memory waits for the bucket, the disk does not take it: %v", p.spillErr)
}

func (p *Pipeline) spillWorks() {
	p.mu.Lock()
	down := p.spillDown
	if down {
		p.spillDown, p.spillRest = false, time.Time{}
		p.changedLocked()
	}
	p.mu.Unlock()
	if down {
		p.cfg.Logger.Info("the disk takes batches again")
	}
}

// freeSpilled gives back what parts hold in the spill.
func (p *Pipeline) freeSpilled(parts []*Part) {
	for _, part := range parts {
		if part.spilled {
			p.spill.Free(part.ref)
			part.ref, part.spilled = wal.Ref{}, false
		}
	}
}

// place puts admitted parts into the open segment.
func (p *Pipeline) place(parts []*Part, c *call, spilled bool) error {
	var size int64
	for _, part := range parts {
		size += part.size
		part.call = c
	}
	p.mu.Lock()
	if p.closed {
		if !spilled {
			p.addResidentLocked(-size)
		}
		p.mu.Unlock()
		p.freeSpilled(parts)
		return ErrClosed
	}
	wake := len(p.open) == 0 || p.uploading == 0
	if spilled {
		c.open++ // held until Records are released below
	}
	for _, part := range parts {
		if spilled {
			part.Records, part.released = nil, true
		}
		wake = p.placeLocked(part) || wake
	}
	p.parts += len(parts)
	p.mu.Unlock()
	if wake {
		p.poke()
	}
	if !spilled {
		return nil
	}
	p.cfg.Metrics.spilledBytes.Add(float64(size))
	p.cfg.Metrics.spillBytes.Add(float64(size))
	for _, part := range parts {
		if part.Release != nil {
			part.Release()
		}
	}
	var tell answered
	p.mu.Lock()
	p.countDownLocked(c, &tell)
	p.mu.Unlock()
	tell.tell()
	return nil
}

// placeLocked adds a part to the open segment of its lock and reports whether that closed one.
func (p *Pipeline) placeLocked(part *Part) (closed bool) {
	if len(p.locks) > 0 || part.Lock != (Lock{}) {
		closed = p.noteLockLocked(part)
	}
	var f *flight
	for _, open := range p.open {
		if open.lock == part.Lock {
			f = open
			break
		}
	}
	if f == nil {
		f = p.newFlightLocked()
		f.since, f.lock = time.Now(), part.Lock
		p.open = append(p.open, f)
	}
	f.add(part)
	if !part.spilled {
		f.resident += part.size
	}
	if f.raw < int64(p.cfg.TargetBytes) {
		return closed
	}
	p.queue = append(p.queue, f)
	p.open = slices.DeleteFunc(p.open, func(open *flight) bool { return open == f })
	f.reason = flushSize
	return true
}

// lockedTopicsMax bounds the topics whose locks are remembered; past it all open segments are closed and it starts anew.
const lockedTopicsMax = 10_000

// noteLockLocked keeps the order of a topic whose lock was changed: what was staged under the old one lies in another open segment, which
// must go first. It reports whether segments were closed for it.
func (p *Pipeline) noteLockLocked(part *Part) (closed bool) {
	if p.locks[part.Topic] == part.Lock {
		return false
	}
	for _, f := range p.open {
		f.reason, closed = flushLock, true
	}
	p.queue = append(p.queue, p.open...)
	clear(p.open)
	p.open = p.open[:0]
	switch {
	case part.Lock == Lock{}:
		delete(p.locks, part.Topic)
		return closed
	case p.locks == nil, len(p.locks) >= lockedTopicsMax:
		p.locks = make(map[entry.UUID]Lock)
	}
	p.locks[part.Topic] = part.Lock
	return closed
}

// poke makes the loop look again.
func (p *Pipeline) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Pipeline) addResidentLocked(n int64) {
	p.resident += n
	p.cfg.Metrics.residentBytes.Add(float64(n))
	if n < 0 {
		p.changedLocked()
	}
}

// changedLocked tells those who wait for room or for the end of everything staged.
func (p *Pipeline) changedLocked() {
	if p.waiters > 0 {
		close(p.change)
		p.change = make(chan struct{})
	}
}

func (p *Pipeline) countDownLocked(c *call, tell *answered) {
	if c.open--; c.open == 0 {
		tell.add(c)
	}
}

// answerLocked ends a part, whose outputs are set, and its segment with the last of them.
func (p *Pipeline) answerLocked(part *Part, tell *answered) {
	c := part.call
	part.call = nil
	p.parts--
	p.leaveLocked(part)
	if p.parts == 0 {
		p.changedLocked()
	}
	p.countDownLocked(c, tell)
}

// leaveLocked takes a part out of its segment, which ends with its last part.
func (p *Pipeline) leaveLocked(part *Part) {
	f := part.seg
	f.parts[part.slot] = nil
	part.seg = nil
	if f.open--; f.open > 0 {
		return
	}
	p.addResidentLocked(-f.resident)
	p.readBack -= f.readBack
	f.readBack = 0
	p.recycleLocked(f)
}

// Drain flushes everything at once, also what is staged meanwhile, and returns when all of it is answered or ctx ends.
func (p *Pipeline) Drain(ctx context.Context) error {
	p.mu.Lock()
	p.draining++
	p.waiters++
	defer func() {
		p.draining--
		p.waiters--
		p.mu.Unlock()
	}()
	p.poke()
	for p.parts > 0 && !p.closed {
		change := p.change
		p.mu.Unlock()
		var err error
		select {
		case <-change:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		p.mu.Lock()
		if err != nil {
			return err
		}
	}
	if p.parts > 0 {
		return ErrClosed
	}
	return nil
}

// Close ends the pipeline and joins its goroutines. Parts that are not answered get ErrClosed: what became of those that
// were submitted is unknown to the caller. Safe twice.
func (p *Pipeline) Close() {
	p.mu.Lock()
	p.closed = true
	p.waiters++
	p.changedLocked()
	p.waiters--
	p.mu.Unlock()
	p.cancel(ErrClosed)
	p.wg.Wait()

	var tell answered
	var last []*Part
	p.mu.Lock()
	for f := p.live.next; f != &p.live; f = f.next {
		for _, part := range f.parts {
			if part != nil {
				last = append(last, part)
			}
		}
	}
	p.mu.Unlock()
	for _, part := range last { // nobody else touches them: the goroutines have ended and results are dropped
		p.releaseRecords(part)
		p.freeSpilled([]*Part{part})
	}
	p.mu.Lock()
	for _, part := range last {
		if part.seg != nil {
			part.Err = ErrClosed
			p.answerLocked(part, &tell)
		}
	}
	p.mu.Unlock()
	tell.tell()
}

// releaseRecords tells the caller that the pipeline no longer reads Records.
func (p *Pipeline) releaseRecords(part *Part) {
	if part.Records == nil {
		return
	}
	part.Records = nil
	if part.Release != nil && !part.released {
		part.released = true
		part.Release()
	}
}
