package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/faulty"
	"github.com/firnlog/firn/objstore/segment"
)

// fill commits n segments of one batch of about size bytes each and returns their ops and bodies.
func fill(t testing.TB, x *index, bucket objstore.Bucket, topic entry.UUID, n, size int) (ops []*entry.Append, bodies [][]byte) {
	t.Helper()
	for i := range n {
		op, body := x.write(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, fmt.Sprintf("%0*d", size, i)))
		x.commit(op)
		ops, bodies = append(ops, op), append(bodies, body)
	}
	return ops, bodies
}

func put(t testing.TB, c *fetch.Cache, op *entry.Append, body []byte) {
	t.Helper()
	footer, err := segment.Open(body)
	if err != nil {
		t.Fatal(err)
	}
	c.Put(op.Object, body, footer)
}

func TestTailReadsCostNoGet(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, cache := open(t, fetch.Config{}, x, bucket)
	ops, bodies := fill(t, x, bucket, topic, 5, 1000)
	for i := range ops {
		put(t, cache, ops[i], bodies[i])
	}
	if got := readAll(t, r, topic, 0, 0, 2500); len(got) != 5 || bucket.count() != 0 {
		t.Fatalf("%d records with %d GETs", len(got), bucket.count())
	}
}

// A replay of everything, however large, leaves the tail where it is.
func TestAReplayDoesNotEvictTheTail(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, cache := open(t, fetch.Config{Bytes: 30_000, HotBytes: 12_000}, x, bucket)
	ops, bodies := fill(t, x, bucket, topic, 100, 1000)
	for i := 80; i < 100; i++ { // 20 KB: the older half does not fit
		put(t, cache, ops[i], bodies[i])
	}
	if got := readAll(t, r, topic, 0, 0, 1); len(got) != 100 {
		t.Fatalf("%d records", len(got))
	}
	if n := bucket.count(); n < 88 || n > 95 {
		t.Fatalf("%d GETs: 9 to 11 of 100 objects should be hot", n)
	}
	before := bucket.count()
	if got := readAll(t, r, topic, 0, 92, 1<<20); len(got) != 8 || bucket.count() != before {
		t.Fatalf("the tail cost %d GETs", bucket.count()-before)
	}
	// What was read last is kept, what was read first is not.
	readAll(t, r, topic, 0, 85, 1<<20)
	if bucket.count() != before {
		t.Fatalf("recent cold objects cost %d GETs", bucket.count()-before)
	}
	if _, _, err := r.Read(t.Context(), topic, 0, 0, 1, nil, true); err != nil || bucket.count() != before+1 {
		t.Fatalf("%d GETs for the oldest object, %v", bucket.count()-before, err)
	}
}

func TestEqualReadsShareOneGet(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, _ := open(t, fetch.Config{}, x, bucket)
		fill(t, x, bucket, topic, 1, 1000)
		var cancelled error
		bucket.before = func(ctx context.Context, _ string) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				cancelled = context.Cause(ctx)
				return fmt.Errorf("%w: %w", objstore.ErrUnavailable, cancelled)
			}
		}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if i < 10 { // half of them give up
					time.AfterFunc(time.Duration(i+1)*50*time.Millisecond, cancel)
				}
				_, _, err := r.Read(ctx, topic, 0, 0, 1<<20, nil, true)
				if i < 10 && (!errors.Is(err, fetch.ErrUnavailable) || !errors.Is(err, context.Canceled)) || i >= 10 && err != nil {
					t.Errorf("reader %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if bucket.count() != 1 || cancelled != nil {
			t.Fatalf("%d GETs, cancelled: %v", bucket.count(), cancelled)
		}
		// With the last waiter the GET ends.
		x2, bucket2 := newIndex(t), newStore()
		topic = x2.topic("t")
		r, _ = open(t, fetch.Config{}, x2, bucket2)
		fill(t, x2, bucket2, topic, 1, 1000)
		bucket2.before = bucket.before
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, _, err := r.Read(ctx, topic, 0, 0, 1<<20, nil, true)
		wantErr(t, err, fetch.ErrUnavailable)
		faketime.Wait()
		if cancelled == nil {
			t.Fatal("a GET that nobody waits for goes on")
		}
	})
}

// A caller whose time is up asks again: a GET that takes longer than each of its attempts must still arrive.
func TestAGetOutlivesAReadThatRanOutOfTime(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		fill(t, x, bucket, topic, 1, 100)
		r, _ := open(t, fetch.Config{ReadAhead: 1}, x, bucket)
		bucket.before = func(ctx context.Context, _ string) error {
			select {
			case <-time.After(25 * time.Second):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		attempt := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, _, err := r.Read(ctx, topic, 0, 0, 1, nil, true)
			return err
		}
		wantErr(t, attempt(), fetch.ErrUnavailable)
		wantErr(t, attempt(), fetch.ErrUnavailable)
		if err := attempt(); err != nil {
			t.Fatal(err)
		}
		if n := bucket.count(); n != 1 {
			t.Errorf("%d GETs", n)
		}
	})
}

func TestUnavailableIsTriedAgain(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, _ := open(t, fetch.Config{}, x, bucket)
		fill(t, x, bucket, topic, 1, 100)
		failures := 5
		bucket.before = func(context.Context, string) error {
			if failures--; failures >= 0 {
				return objstore.ErrUnavailable
			}
			return nil
		}
		if got := readAll(t, r, topic, 0, 0, 1000); len(got) != 1 || bucket.count() != 6 {
			t.Fatalf("%d records, %d GETs", len(got), bucket.count())
		}
	})
}

func TestAMissingObject(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, _ := open(t, fetch.Config{}, x, bucket)
	ops, _ := fill(t, x, bucket, topic, 3, 100)
	gone := ops[1]
	body, err := bucket.Bucket.Get(t.Context(), gone.Object.Key())
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.Delete(t.Context(), gone.Object.Key()); err != nil {
		t.Fatal(err)
	}
	// What lies before it is served; nothing behind it is, until somebody starts there.
	dst, res, err := r.Read(t.Context(), topic, 0, 0, 1<<20, nil, true)
	if err != nil || len(decode(t, dst)) != 1 || res.NextOffset != 1 {
		t.Fatalf("%+v %v", res, err)
	}
	before := x.barriers
	_, _, err = r.Read(t.Context(), topic, 0, 1, 1<<20, nil, true)
	wantErr(t, err, fetch.ErrStorage)
	if x.barriers == before {
		t.Fatal("no barrier before saying that data is lost")
	}
	if _, _, err := r.OffsetForTimestamp(t.Context(), topic, 0, now); err != nil { // in the first object
		t.Fatal(err)
	}
	if got := readAll(t, r, topic, 0, 2, 1<<20); len(got) != 1 {
		t.Fatal(got)
	}
	// A merge had moved it: this agent had not applied that yet.
	b := segment.NewBuilder(segment.Options{})
	s := batch.Split(body[segment.HeaderSize:])
	if !s.Next() {
		t.Fatal(s.Err())
	}
	h := s.Header()
	b.Add(topic, 0, s.Raw(), h.Span(), h.MaxTimestamp)
	merged, _, err := b.Finish(nil, []byte("another"), nil)
	if err != nil {
		t.Fatal(err)
	}
	id := entry.ObjectID{Incarnation: incarnation, Seq: 900, CollectionEpoch: 1}
	if err := bucket.Put(t.Context(), id.Key(), merged, objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	row := entry.Row{Object: gone.Object, ObjectSize: gone.ObjectSize, BaseOffset: 1, EndOffset: 2, MaxTimestamp: now, Size: uint64(len(s.Raw()))}
	moved := row
	moved.Object, moved.ObjectSize = id, uint64(len(merged))
	x.lagging = []entry.Op{&entry.Relocate{Topic: topic, StartOffset: 1, EndOffset: 2, Expected: []entry.Row{row}, Rows: []entry.Row{moved}}}
	if got := readAll(t, r, topic, 0, 1, 1<<20); len(got) != 2 {
		t.Fatal(got)
	}
}

// Damage is read once more, costs only what lies in it, and is not remembered.
func TestCorruptObjects(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  fetch.Config
		gets int // to get over damage on the way
	}{{"whole", fetch.Config{}, 2}, {"runs", fetch.Config{WholeBytes: 1}, 3}} {
		t.Run(c.name, func(t *testing.T) {
			x, bucket := newIndex(t), newStore()
			topic := x.topic("t")
			r, cache := open(t, c.cfg, x, bucket)
			op := x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "first"), of(t, batch.BuildOptions{}, topic, 1, now, "second"))
			hurt := 1
			bucket.damage = func(_ string, position int64, body []byte) []byte {
				if c.cfg.WholeBytes == 1 && position == 0 {
					return body // the read of the footer, which is of all of so small an object
				}
				at := int64(segment.HeaderSize+batch.HeaderSize) - position
				if at >= 0 && at < int64(len(body)) && hurt > 0 {
					hurt--
					body[at] ^= 4
				}
				return body
			}
			if got := readAll(t, r, topic, 0, 0, 1<<20); len(got) != 1 || bucket.count() != c.gets {
				t.Fatalf("%v with %d GETs", got, bucket.count())
			}
			cache.Close()
			r, _ = open(t, c.cfg, x, bucket)
			hurt = 1 << 30
			_, _, err := r.Read(t.Context(), topic, 0, 0, 1<<20, nil, true)
			wantErr(t, err, fetch.ErrCorrupt)
			if got := readAll(t, r, topic, 1, 0, 1<<20); len(got) != 1 || got[0].value != "second" {
				t.Fatalf("the other partition: %v", got)
			}
			_, _, err = r.MaxTimestamp(t.Context(), topic, 0)
			wantErr(t, err, fetch.ErrCorrupt)
			hurt = 0
			if got := readAll(t, r, topic, 0, 0, 1<<20); len(got) != 1 || got[0].value != "first" {
				t.Fatalf("after it was mended: %v", got)
			}
			_ = op
		})
	}
	t.Run("truncated", func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		for _, whole := range []int64{0, 1} {
			r, _ := open(t, fetch.Config{WholeBytes: whole}, x, bucket)
			x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "v"))
			bucket.damage = func(_ string, _ int64, body []byte) []byte { return body[:len(body)-1] }
			_, _, err := r.Read(t.Context(), topic, 0, 0, 1<<20, nil, true)
			wantErr(t, err, fetch.ErrCorrupt)
			bucket.damage = nil
		}
	})
	t.Run("another object's bytes", func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, _ := open(t, fetch.Config{}, x, bucket)
		op := x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "v"))
		_, other := x.write(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 1, now, "v"))
		if err := bucket.Put(t.Context(), op.Object.Key(), other, objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		_, _, err := r.Read(t.Context(), topic, 0, 0, 1<<20, nil, true)
		wantErr(t, err, fetch.ErrCorrupt)
	})
	t.Run("a row that is not the block's", func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, _ := open(t, fetch.Config{}, x, bucket)
		op, _ := x.write(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, "v"))
		op.Blocks[0].Spans[0] = 2
		x.commit(op)
		_, _, err := r.Read(t.Context(), topic, 0, 0, 1<<20, nil, true)
		if err == nil {
			_, _, err = r.Read(t.Context(), topic, 0, 1, 1<<20, nil, true)
		}
		wantErr(t, err, fetch.ErrCorrupt)
	})
}

// Under every fault that the bucket's contract allows, reads give the right bytes or an error to retry.
func TestReadsUnderFaults(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		fill(t, x, bucket, topic, 30, 500)
		bad, err := faulty.New(bucket, rand.New(rand.NewPCG(3, 4)), faulty.Config{
			Slow: 0.3, SlowMax: 500 * time.Millisecond, Unavailable: 0.2, Burst: 0.05, BurstCalls: 4, BitFlip: 0.05,
		})
		if err != nil {
			t.Fatal(err)
		}
		r, _ := open(t, fetch.Config{Bytes: 2000, ReadAhead: 2}, x, bad)
		got := 0
		for offset := int64(0); offset < 30; {
			dst, res, err := r.Read(t.Context(), topic, 0, offset, 1500, nil, true)
			if errors.Is(err, fetch.ErrCorrupt) { // hit twice in a row
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range decode(t, dst) {
				if rec.offset != int64(got) || rec.value != fmt.Sprintf("%0500d", got) {
					t.Fatalf("record %d at %d", got, rec.offset)
				}
				got++
			}
			offset = res.NextOffset
		}
		if counts := bad.Counts(); counts[faulty.Unavailable] == 0 || counts[faulty.BitFlip] == 0 {
			t.Fatalf("faults %v", counts)
		}
	})
}

// A reader that goes through the log finds the next object in memory; one that jumps about costs nothing extra.
func TestReadAhead(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, _ := open(t, fetch.Config{ReadAhead: 1}, x, bucket)
		fill(t, x, bucket, topic, 20, 1000)
		read := func(offset int64) {
			t.Helper()
			if _, _, err := r.Read(t.Context(), topic, 0, offset, 1, nil, true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond) // what is read ahead may have to wait for its turn
		}
		for _, offset := range []int64{3, 9, 15} {
			read(offset)
		}
		if n := bucket.count(); n != 3 {
			t.Fatalf("%d GETs for 3 jumps", n)
		}
		read(4) // goes on where one ended
		if n := bucket.count(); n != 5 {
			t.Fatalf("%d GETs: the next object was not read ahead", n)
		}
		read(5)
		if n := bucket.count(); n != 6 { // that of offset 6
			t.Fatalf("%d GETs", n)
		}
	})
}

// Readers far from each other, more of them than can all be read far ahead of, get each object once: what is read ahead of one does not push out
// what was read ahead of another.
func TestReadAheadOfManyReaders(t *testing.T) {
	for _, merged := range []bool{false, true} {
		t.Run(fmt.Sprint("merged=", merged), func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				x, bucket := newIndex(t), newStore()
				topic := x.topic("t")
				const readers, each, size = 6, 40, 20_000
				fill(t, x, bucket, topic, readers*each+20, size)
				cfg := fetch.Config{Bytes: 16 * (size + 500), RunBytes: size + 500, WholeBytes: 2 * size, ReadAhead: 16, ColdReads: 16}
				if merged {
					op, _ := x.rewrite(bucket, segment.Options{ChunkBytes: 1}, topic, nil, span{0, 0, readers*each + 20})
					x.commit(op)
				}
				r, _ := open(t, cfg, x, bucket)
				before := bucket.count()
				bucket.before = func(context.Context, string) error { time.Sleep(time.Millisecond); return nil }
				for i := range int64(each) {
					for k := range int64(readers) {
						if _, _, err := r.Read(t.Context(), topic, 0, k*each+i, 1, nil, true); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(10 * time.Millisecond)
				}
				n := bucket.count() - before
				if n > readers*(each+5) {
					t.Errorf("%d GETs, %d readers of %d objects or runs each", n, readers, each)
				}
			})
		})
	}
}

// A large object is read in runs that all its readers share.
func TestLargeObjectsAreReadInRuns(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	var parts []part
	for i := range 40 {
		parts = append(parts, of(t, batch.BuildOptions{}, topic, int32(i%4), now, fmt.Sprintf("%01000d", i)))
	}
	x.add(bucket, segment.Options{ChunkBytes: 1}, parts...)
	r, cache := open(t, fetch.Config{WholeBytes: 1, RunBytes: 11_000}, x, bucket)
	for k := range int32(4) {
		if got := readAll(t, r, topic, k, 0, 3000); len(got) != 10 {
			t.Fatalf("%d records", len(got))
		}
	}
	if n := bucket.count(); n != 1+4 { // the footer and 43 KB in runs of 11
		t.Fatalf("%d GETs", n)
	}
	cache.Close()
	r, _ = open(t, fetch.Config{WholeBytes: 1, RunBytes: 11_000}, x, bucket)
	before := bucket.count()
	if _, _, err := r.Read(t.Context(), topic, 3, 9, 1, nil, true); err != nil || bucket.count() != before+2 {
		t.Fatalf("%d GETs for one batch at the end, %v", bucket.count()-before, err)
	}
}

// A chunk may cover whole runs, in which none starts. What follows is read ahead all the same.
func TestReadAheadPassesRunsInsideAChunk(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		var parts []part
		for i := range 4 {
			parts = append(parts, of(t, batch.BuildOptions{}, topic, 0, now, fmt.Sprintf("%05000d", i)))
		}
		x.add(bucket, segment.Options{ChunkBytes: 1}, parts...)
		r, _ := open(t, fetch.Config{WholeBytes: 1, RunBytes: 1000, ReadAhead: 1}, x, bucket)
		for offset, gets := range []int{2, 4, 5, 5} { // footer and chunk; chunk and the next; the next; nothing is left
			dst, _, err := r.Read(t.Context(), topic, 0, int64(offset), 1, nil, true)
			if err != nil {
				t.Fatal(err)
			}
			if got := decode(t, dst); len(got) != 1 || got[0].offset != int64(offset) {
				t.Fatalf("at %d: %v", offset, got)
			}
			faketime.Wait()
			if n := bucket.count(); n != gets {
				t.Fatalf("%d GETs up to offset %d, want %d", n, offset, gets)
			}
		}
	})
}

func TestClose(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		x, bucket := newIndex(t), newStore()
		topic := x.topic("t")
		r, cache := open(t, fetch.Config{}, x, bucket)
		fill(t, x, bucket, topic, 2, 100)
		bucket.before = func(ctx context.Context, _ string) error { <-ctx.Done(); return context.Cause(ctx) }
		result := make(chan error)
		go func() {
			_, _, err := r.Read(context.Background(), topic, 0, 0, 1, nil, true)
			result <- err
		}()
		faketime.Wait()
		go cache.Close()
		wantErr(t, <-result, fetch.ErrUnavailable)
		cache.Close()
		_, _, err := r.Read(t.Context(), topic, 0, 1, 1, nil, true)
		wantErr(t, err, fetch.ErrUnavailable)
	})
}

func TestConfigThatMakesNoSense(t *testing.T) {
	if _, err := fetch.NewCache(fetch.Config{Bytes: -1, HotBytes: 5, RunBytes: -3}, newStore()); err == nil {
		t.Fatal("accepted")
	}
}

// Concurrent readers, writers and evictions; the race detector looks on.
func TestConcurrentReaders(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic := x.topic("t")
	r, cache := open(t, fetch.Config{Bytes: 20_000, HotBytes: 5000, ReadAhead: 3}, x, bucket)
	ops, bodies := fill(t, x, bucket, topic, 50, 1000)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				if got := readAll(t, r, topic, 0, 0, 3000); len(got) != 50 || !slices.IsSortedFunc(got, func(a, b record) int { return int(a.offset - b.offset) }) {
					t.Errorf("%d records", len(got))
				}
			}
		})
	}
	wg.Go(func() {
		for i := range ops {
			footer, err := segment.Open(bytes.Clone(bodies[i]))
			if err != nil {
				t.Error(err)
			}
			cache.Put(ops[i].Object, bodies[i], footer)
		}
	})
	wg.Wait()
}
