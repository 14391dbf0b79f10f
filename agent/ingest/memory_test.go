package ingest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/wal"
)

// disk is a Spill in memory, with a bound.
type disk struct {
	mu    sync.Mutex
	max   int64
	used  int64
	peak  int64
	next  int64
	asked int64 // how often it was to take a batch
	pages map[int64][]byte
	lost  bool // reads fail
	// down: writes fail; refused counts those.
	down    bool
	refused int
}

var errDisk = errors.New("no space or no disk")

func newDisk(most int64) *disk { return &disk{max: most, pages: make(map[int64][]byte)} }

func (d *disk) Append(_ context.Context, payload []byte) (wal.Ref, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	size := int64(len(payload))
	d.asked++
	if d.down {
		d.refused++
		return wal.Ref{}, fmt.Errorf("%w: %w", wal.ErrFailed, errDisk)
	}
	if d.used+size > d.max {
		return wal.Ref{}, errDisk
	}
	d.used += size
	d.peak = max(d.peak, d.used)
	d.next++
	d.pages[d.next] = bytes.Clone(payload)
	return wal.Ref{File: 1, Position: d.next, Size: size}, nil
}

func (d *disk) Read(ref wal.Ref, dst []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost {
		return nil, errDisk
	}
	return append(dst[:0], d.pages[ref.Position]...), nil
}

func (d *disk) Free(ref wal.Ref) {
	d.mu.Lock()
	defer d.mu.Unlock()
	page, ok := d.pages[ref.Position]
	if !ok {
		panic("freed twice")
	}
	d.used -= int64(len(page))
	delete(d.pages, ref.Position)
}

// appended is how many batches it took so far.
func (d *disk) appended() int64 { d.mu.Lock(); defer d.mu.Unlock(); return d.next }

// attempts is how many it was to take.
func (d *disk) attempts() int64 { d.mu.Lock(); defer d.mu.Unlock(); return d.asked }

func (d *disk) inUse() int64 { d.mu.Lock(); defer d.mu.Unlock(); return d.used }

// outage makes every put fail until it is over.
type outage struct {
	mu   sync.Mutex
	over bool
}

func (o *outage) before(context.Context, int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return nil
	}
	return objstore.ErrUnavailable
}

func (o *outage) end() { o.mu.Lock(); o.over = true; o.mu.Unlock() }

// Memory and then the spill fill up, then Stage blocks; when the bucket is back everything is uploaded in order.
func TestAnOutageSpillsThenBlocksThenRecovers(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket, d, out := c.join(1), newStore(), newDisk(40_000), &outage{}
		bucket.before = out.before
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{TargetBytes: 4000, MemoryBytes: 10_000}, m, bucket, d)
		x := producer{topic: topic, id: 3}
		var want []string
		var all []*staged
		released := make([]bool, 200)
		var mu sync.Mutex
		taken := 0
		finished := make(chan struct{})
		go func() { // one connection
			defer close(finished)
			for i := range 200 {
				v := fmt.Sprintf("%0900d", i)
				part := x.part(t, v)
				part.Release = func() {
					mu.Lock()
					defer mu.Unlock()
					if released[i] {
						t.Errorf("part %d released twice", i)
					}
					released[i] = true
				}
				s := stage(t, p, part)
				mu.Lock()
				want, all = append(want, v), append(all, s)
				taken++
				mu.Unlock()
			}
		}()
		time.Sleep(time.Minute)
		faketime.Wait()
		mu.Lock()
		now := taken
		mu.Unlock()
		// A batch is about 980 bytes: about 10 in memory, 40 in the spill, and what the other upload slots have read back.
		if now < 45 || now > 65 {
			t.Fatalf("%d requests taken in", now)
		}
		if d.inUse() < 35_000 {
			t.Fatalf("%d bytes spilled", d.inUse())
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if err := p.Stage(ctx, []*ingest.Part{x.part(t, string(make([]byte, 2000)))}, func() { t.Error("answered") }); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a request that gave up: %v", err)
		}
		cancel()
		x.next-- // nothing was taken in
		out.end()
		<-finished
		for i, s := range all {
			if got := s.offset(t); got != int64(i) {
				t.Fatalf("batch %d at %d", i, got)
			}
		}
		if got := c.values(bucket, topic, 0); !slices.Equal(got, want) {
			t.Fatalf("%d records", len(got))
		}
		if d.inUse() != 0 || slices.Contains(released, false) {
			t.Fatalf("%d bytes of the spill not freed, or buffers not released", d.inUse())
		}
	})
}

// Tiny batches cost more memory in bookkeeping than in bytes: their number is bounded too, however much room the spill has.
func TestTinyBatchesAreBoundedByTheirNumber(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket, d, out := c.join(1), newStore(), newDisk(1<<30), &outage{}
		bucket.before = out.before
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{MemoryBytes: 600_000}, m, bucket, d) // room for 1171
		x := producer{topic: topic, id: -1}
		const batches = 3000
		var taken atomic.Int64
		var all []*staged
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			for range batches {
				all = append(all, stage(t, p, x.part(t, "v")))
				taken.Add(1)
			}
		}()
		time.Sleep(time.Minute)
		faketime.Wait()
		if n := taken.Load(); n != 1171 {
			t.Fatalf("%d batches taken in", n)
		}
		out.end()
		<-finished
		for i, s := range all {
			if got := s.offset(t); got != int64(i) {
				t.Fatalf("batch %d at offset %d", i, got)
			}
		}
	})
}

func TestWithoutASpillStageBlocks(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket, out := c.join(1), newStore(), &outage{}
		bucket.before = out.before
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{MemoryBytes: 1000}, m, bucket, nil)
		x := producer{topic: topic, id: -1}
		// One that is larger than all of memory is let in alone.
		first := stage(t, p, x.part(t, string(make([]byte, 5000))))
		entered := make(chan *staged)
		go func() { entered <- stage(t, p, x.part(t, "v")) }()
		time.Sleep(time.Hour)
		select {
		case <-entered:
			t.Fatal("taken in beyond the bound")
		default:
		}
		out.end()
		first.offset(t)
		if got := (<-entered).offset(t); got != 1 {
			t.Fatal(got)
		}
	})
}

// A disk that loses what was spilled costs those batches and no others.
func TestSpilledBatchesThatCannotBeReadBack(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket, d, out := c.join(1), newStore(), newDisk(1<<20), &outage{}
		bucket.before = out.before
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{MemoryBytes: 500}, m, bucket, d)
		x := producer{topic: topic, id: -1}
		kept := stage(t, p, x.part(t, string(make([]byte, 600))))
		faketime.Wait()
		spilled := stage(t, p, x.part(t, "lost"))
		d.mu.Lock()
		d.lost = true
		d.mu.Unlock()
		out.end()
		kept.offset(t)
		<-spilled.done
		if err := spilled.parts[0].Err; !errors.Is(err, errDisk) || !errors.Is(err, ingest.ErrSpillLost) {
			t.Fatal(spilled.parts[0].Err)
		}
		if d.inUse() != 0 {
			t.Fatal("spill not freed")
		}
		if got := stage(t, p, x.part(t, "next")).offset(t); got != 1 {
			t.Fatal(got)
		}
	})
}

func TestDrain(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		bucket.before = slow(time.Second)
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{FlushInterval: time.Hour}, m, bucket, nil)
		if err := p.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		x := producer{topic: topic, id: -1}
		a := stage(t, p, x.part(t, "a"))
		faketime.Wait()
		b := stage(t, p, x.part(t, "b")) // would wait for a's upload
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := p.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
		if err := p.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != time.Second {
			t.Fatalf("drained in %v: not flushed at once", took)
		}
		if !a.answered() || !b.answered() {
			t.Fatal("drained with unanswered batches")
		}
	})
}

// Every part has its answer, whatever stage it was in when the pipeline closed.
func TestClose(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket, d := c.join(1), newStore(), newDisk(1<<20)
		topic := m.createTopic("t", 3)
		p := open(t, ingest.Config{UploadSlots: 1, MemoryBytes: 1500, TargetBytes: 400}, m, bucket, d)
		x, y := producer{topic: topic, id: 4}, producer{topic: topic, partition: 1, id: -1}
		done := stage(t, p, x.part(t, "0"))
		done.offset(t)
		x.next++
		parked := stage(t, p, x.part(t, "2"))
		faketime.Wait()
		m.hold()
		submitted := stage(t, p, y.part(t, "submitted"))
		faketime.Wait()
		bucket.interpose(func(ctx context.Context, _ int) error { <-ctx.Done(); return context.Cause(ctx) })
		uploading := stage(t, p, y.part(t, "uploading"))
		faketime.Wait()
		queued := stage(t, p, y.part(t, string(make([]byte, 500))))
		spilled := stage(t, p, y.part(t, string(make([]byte, 2000))))
		blocked := make(chan error)
		d.mu.Lock()
		d.max = 0
		d.mu.Unlock()
		go func() {
			blocked <- p.Stage(context.Background(), []*ingest.Part{y.part(t, string(make([]byte, 2000)))}, func() { t.Error("answered") })
		}()
		faketime.Wait()
		p.Close()
		p.Close()
		for _, s := range []*staged{parked, submitted, uploading, queued, spilled} {
			if !s.answered() || !errors.Is(s.parts[0].Err, ingest.ErrClosed) || s.parts[0].BaseOffset != -1 {
				t.Fatalf("%q: %v", s.parts[0].Records, s.parts[0].Err)
			}
		}
		if err := <-blocked; !errors.Is(err, ingest.ErrClosed) {
			t.Fatal(err)
		}
		if err := p.Stage(t.Context(), []*ingest.Part{y.part(t, "late")}, func() {}); !errors.Is(err, ingest.ErrClosed) {
			t.Fatal(err)
		}
		if d.inUse() != 0 {
			t.Fatal("spill not freed")
		}
		// A result that comes after Close touches nothing.
		submitted.parts[0].Code, submitted.parts[0].BaseOffset = 77, 77
		m.release()
		faketime.Wait()
		if submitted.parts[0].Code != state.Code(77) || submitted.parts[0].BaseOffset != 77 {
			t.Fatal("a part was written after its answer")
		}
	})
}

// Once a buffer is released nobody reads it: the owner may overwrite it at once.
func TestBuffersAreTheCallersAfterRelease(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, n, bucket, d := c.join(1), c.join(2), newStore(), newDisk(1<<20)
		m.latency(5 * time.Millisecond)
		bucket.before = slow(10 * time.Millisecond)
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{MemoryBytes: 2000, TargetBytes: 800}, m, bucket, d)
		x := producer{topic: topic, id: 3}
		var want []string
		var all []*staged
		for i := range 60 {
			v := fmt.Sprintf("%0100d", i)
			part := x.part(t, v)
			raw := part.Records
			part.Release = func() {
				for k := range raw {
					raw[k] = 0xdb
				}
			}
			want = append(want, v)
			all = append(all, stage(t, p, part))
			if i == 30 {
				bump(n, 1)
				bump(n, 2)
			}
		}
		for _, s := range all {
			s.offset(t)
		}
		if got := c.values(bucket, topic, 0); !slices.Equal(got, want) {
			t.Fatalf("%q", got)
		}
	})
}

// A buffer that its owner changes before it is released must not become a record.
func TestABufferChangedTooEarlyIsRefused(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		gate := make(chan struct{})
		bucket.before = func(context.Context, int) error { <-gate; return nil }
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{}, m, bucket, nil)
		x := producer{topic: topic, id: -1}
		first := stage(t, p, x.part(t, "first"))
		faketime.Wait()
		bad, good := x.part(t, "bad"), x.part(t, "good")
		raw := bad.Records
		s := stage(t, p, bad, good)
		raw[len(raw)-1] ^= 1
		close(gate)
		first.offset(t)
		<-s.done
		if bad.Err == nil || good.Err != nil || good.BaseOffset != 1 {
			t.Fatalf("%v, %v at %d", bad.Err, good.Err, good.BaseOffset)
		}
		if got := c.values(bucket, topic, 0); !slices.Equal(got, []string{"first", "good"}) {
			t.Fatalf("records %q", got)
		}
	})
}

func TestAMetastoreThatEnds(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{}, m, bucket, nil)
		m.hold()
		x := producer{topic: topic, id: -1}
		s := stage(t, p, x.part(t, "v"))
		faketime.Wait()
		m.stop()
		<-s.done
		if !errors.Is(s.parts[0].Err, errStopped) {
			t.Fatal(s.parts[0].Err)
		}
		if err := p.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// The same over the write-ahead log, on a real disk.
func TestSpillingToTheWriteAheadLog(t *testing.T) {
	l, err := wal.Open(t.Context(), wal.OS(), wal.Options{Dir: t.TempDir(), FileBytes: 64 << 10, MaxBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	c := newCluster(t)
	m, bucket := c.join(1), newStore()
	gate := make(chan struct{})
	bucket.before = func(context.Context, int) error { <-gate; return nil }
	topic := m.createTopic("t", 1)
	p := open(t, ingest.Config{TargetBytes: 20_000, MemoryBytes: 30_000, UploadSlots: 1}, m, bucket, ingest.SpillTo(l))
	x := producer{topic: topic, id: 3}
	var want []string
	var all []*staged
	for i := range 400 { // 400 KB: more than memory and log together hold
		v := fmt.Sprintf("%0900d", i)
		want = append(want, v)
		if i == 150 {
			close(gate)
		}
		all = append(all, stage(t, p, x.part(t, v)))
	}
	for i, s := range all {
		if got := s.offset(t); got != int64(i) {
			t.Fatalf("batch %d at %d", i, got)
		}
	}
	if got := c.values(bucket, topic, 0); !slices.Equal(got, want) {
		t.Fatalf("%d records", len(got))
	}
	if stats := l.Stats(); stats.SpillAppends == 0 {
		t.Fatal("nothing was spilled")
	}
}

// While the bucket is out and the disk refuses, nothing changes by itself: the disk is asked about once a second for all who
// wait, and when it is well again they get in.
func TestProducersThatWaitFindTheDiskWellAgain(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket, d := c.join(1), newStore(), newDisk(1<<20)
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{TargetBytes: 4000, MemoryBytes: 10_000}, m, bucket, d)
		m.hold()
		d.mu.Lock()
		d.down = true
		d.mu.Unlock()
		const producers = 40
		var mu sync.Mutex
		var taken []*staged
		var wg sync.WaitGroup
		for i := range producers {
			wg.Go(func() {
				x := producer{topic: topic, id: int64(i)}
				s := stage(t, p, x.part(t, strings.Repeat("x", 900)))
				mu.Lock()
				defer mu.Unlock()
				taken = append(taken, s)
			})
		}
		time.Sleep(20 * time.Second)
		faketime.Wait()
		d.mu.Lock()
		refused := d.refused
		d.down = false
		d.mu.Unlock()
		if refused < 15 || refused > producers+25 {
			t.Errorf("the disk was asked %d times in 20 s by %d producers", refused, producers)
		}
		if p.SpillFault() == "" {
			t.Error("the fault is not told")
		}
		time.Sleep(2 * time.Second)
		faketime.Wait()
		mu.Lock()
		n := len(taken)
		mu.Unlock()
		if n != producers {
			t.Errorf("%d of %d producers are in", n, producers)
		}
		m.release()
		wg.Wait()
		for _, s := range taken {
			s.offset(t)
		}
	})
}

// A request that is larger than all of memory, while the disk takes nothing and small ones come all the time, gets in, and holds none of them
// up while it waits.
func TestALargeRequestGetsInBesideSmallOnes(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket, d := c.join(1), newStore(), newDisk(1<<20)
		bucket.before = slow(50 * time.Millisecond)
		topic := m.createTopic("t", 1)
		d.mu.Lock()
		d.down = true
		d.mu.Unlock()
		p := open(t, ingest.Config{TargetBytes: 4000, MemoryBytes: 10_000}, m, bucket, d)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var mu sync.Mutex
		longest := time.Duration(0)
		for i := range 4 { // memory is never empty
			wg.Go(func() {
				x := producer{topic: topic, id: int64(i)}
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				for {
					select {
					case <-stop:
						return
					default:
					}
					start := time.Now()
					s := stage(t, p, x.part(t, strings.Repeat("x", 900)))
					mu.Lock()
					longest = max(longest, time.Since(start))
					mu.Unlock()
					s.offset(t)
				}
			})
		}
		defer wg.Wait()
		defer close(stop)
		time.Sleep(time.Second)
		x := producer{topic: topic, id: 100}
		var parts []*ingest.Part
		for range 20 {
			parts = append(parts, x.part(t, strings.Repeat("y", 900)))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		done := make(chan struct{})
		if err := p.Stage(ctx, parts, func() { close(done) }); err != nil {
			t.Fatal(err)
		}
		<-done
		for _, part := range parts {
			if part.Err != nil || part.Code != state.OK {
				t.Fatalf("answer: %v, %v", part.Code, part.Err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if longest > 2*time.Second {
			t.Errorf("a small one waited %v", longest)
		}
	})
}

// While bucket and disk are out a request that is larger than all of memory waits no longer than its client, and small ones for which there is
// room pass it by.
func TestALargeRequestHoldsNobodyUpInAnOutage(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket, d, out := c.join(1), newStore(), newDisk(1<<20), &outage{}
		bucket.before = out.before
		topic := m.createTopic("t", 1)
		d.mu.Lock()
		d.down = true
		d.mu.Unlock()
		p := open(t, ingest.Config{MemoryBytes: 10_000}, m, bucket, d)
		x, y := producer{topic: topic, id: 1}, producer{topic: topic, id: -1}
		all := []*staged{stage(t, p, x.part(t, strings.Repeat("x", 6000)))}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		ended := make(chan time.Duration)
		go func() {
			err := p.Stage(ctx, []*ingest.Part{y.part(t, strings.Repeat("y", 11_000))}, func() { t.Error("answered") })
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a request that does not fit: %v", err)
			}
			ended <- time.Since(start)
		}()
		faketime.Wait()
		for range 3 {
			all = append(all, stage(t, p, x.part(t, strings.Repeat("x", 900))))
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("small ones waited %v", took)
		}
		if took := <-ended; took != 30*time.Second {
			t.Errorf("it was given up after %v", took)
		}
		out.end()
		for _, s := range all {
			s.offset(t)
		}
	})
}

// A request that fits into the spill in part only is not written there again each time something is answered.
func TestARequestThatFitsInPartIsNotSpilledOverAndOver(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket, d := c.join(1), newStore(), newDisk(10_000)
		bucket.before = slow(10 * time.Millisecond)
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{TargetBytes: 900, MemoryBytes: 10_000, UploadSlots: 2}, m, bucket, d)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 8 { // more than half of memory is taken at any time
			wg.Go(func() {
				x := producer{topic: topic, id: int64(i)}
				for {
					select {
					case <-stop:
						return
					default:
						stage(t, p, x.part(t, strings.Repeat("x", 900))).offset(t)
					}
				}
			})
		}
		defer wg.Wait()
		defer close(stop)
		time.Sleep(time.Second)
		before := d.appended()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		x := producer{topic: topic, id: -1}
		var parts []*ingest.Part
		for range 20 {
			parts = append(parts, x.part(t, strings.Repeat("y", 900)))
		}
		if err := p.Stage(ctx, parts, func() {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("staged (%v): this shows nothing", err)
		}
		if n := d.appended() - before; n > 12*10 {
			t.Errorf("%d batches were spilled in ten seconds", n)
		}
	})
}

// A request that fitted into the spill in part, and then not at all, waits for room, and does nothing else meanwhile.
func TestARequestWaitsForAFullSpillInPeace(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket, d, out := c.join(1), newStore(), newDisk(10_000), &outage{}
		bucket.before = out.before
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{MemoryBytes: 10_000}, m, bucket, d)
		x, y := producer{topic: topic, id: 1}, producer{topic: topic, id: 2}
		first := stage(t, p, x.part(t, strings.Repeat("x", 9000)))
		var parts []*ingest.Part
		for range 20 {
			parts = append(parts, y.part(t, strings.Repeat("y", 900)))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := p.Stage(ctx, parts, func() {}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("staged (%v): this shows nothing", err)
			}
		}()
		faketime.Wait()
		took := d.appended()
		d.mu.Lock()
		d.max = d.used // others have filled it
		d.mu.Unlock()
		before := d.attempts()
		<-ended // never, where it never rests: fake time stands still then
		if n := d.attempts() - before; took == 0 || n > 1 {
			t.Errorf("%d batches were taken at first, and it tried %d more while the spill was full", took, n)
		}
		out.end()
		first.offset(t)
	})
}
