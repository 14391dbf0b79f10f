package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/segment"
)

func TestABatchIsInTheBucketAndOrderedWhenItIsAnswered(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		topic := m.createTopic("t", 2)
		p := open(t, ingest.Config{}, m, bucket, nil)
		x := producer{topic: topic, id: -1}
		if got := stage(t, p, x.part(t, "a", "b")).offset(t); got != 0 {
			t.Fatalf("offset %d", got)
		}
		if got := stage(t, p, x.part(t, "c")).offset(t); got != 2 {
			t.Fatalf("offset %d", got)
		}
		if got := c.values(bucket, topic, 0); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Fatalf("records %q", got)
		}
	})
}

// A lone producer never waits for a timer, and what comes while its upload runs shares the next object.
func TestFlushWhenIdleThenTogether(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		bucket.before = slow(40 * time.Millisecond)
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{FlushInterval: time.Hour}, m, bucket, nil)
		x := producer{topic: topic, id: -1}
		start := time.Now()
		for range 3 {
			stage(t, p, x.part(t, "v")).offset(t)
		}
		if took := time.Since(start); took != 120*time.Millisecond {
			t.Fatalf("three uploads of 40 ms took %v", took)
		}
		first := stage(t, p, x.part(t, "v"))
		faketime.Wait()
		var rest []*staged
		for range 10 {
			rest = append(rest, stage(t, p, x.part(t, "v")))
		}
		first.offset(t)
		for _, s := range rest {
			s.offset(t)
		}
		if n := len(bucket.puts()); n != 5 {
			t.Fatalf("%d objects, want 3 + 1 + 1", n)
		}
	})
}

func TestTheIntervalBoundsWhatASlowUploadDelays(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		stuck := make(chan struct{})
		bucket.before = func(_ context.Context, n int) error {
			if n == 0 {
				<-stuck
			}
			return nil
		}
		topic := m.createTopic("t", 2)
		p := open(t, ingest.Config{FlushInterval: 100 * time.Millisecond}, m, bucket, nil)
		x, y := producer{topic: topic, id: -1}, producer{topic: topic, partition: 1, id: -1}
		first := stage(t, p, x.part(t, "slow"))
		faketime.Wait()
		start := time.Now()
		second := stage(t, p, y.part(t, "fast"))
		for len(bucket.puts()) < 2 {
			time.Sleep(time.Millisecond)
			faketime.Wait()
		}
		if waited := time.Since(start); waited != 100*time.Millisecond {
			t.Fatalf("uploaded after %v", waited)
		}
		faketime.Wait()
		if second.answered() {
			t.Fatal("submitted before what was staged earlier")
		}
		close(stuck)
		first.offset(t)
		second.offset(t)
	})
}

func TestFullSegmentsAreUploadedInParallel(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		bucket.before = slow(100 * time.Millisecond)
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{TargetBytes: 1000, UploadSlots: 4, FlushInterval: time.Hour}, m, bucket, nil)
		x := producer{topic: topic, id: -1}
		start := time.Now()
		var all []*staged
		for range 8 {
			all = append(all, stage(t, p, x.part(t, string(make([]byte, 1000)))))
		}
		for i, s := range all {
			if got := s.offset(t); got != int64(i) {
				t.Fatalf("batch %d at offset %d", i, got)
			}
		}
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Fatalf("8 uploads of 100 ms in 4 slots took %v", took)
		}
		if n := len(bucket.puts()); n != 8 {
			t.Fatalf("%d objects", n)
		}
	})
}

// Whatever the uploads do, each partition's order is that of staging.
func TestOrderUnderParallelUnreliableUploads(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		rng, faults := rand.New(rand.NewPCG(7, 7)), rand.New(rand.NewPCG(8, 8)) // the latter under the store's lock
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		m.latency(3 * time.Millisecond)
		bucket.before = func(ctx context.Context, n int) error {
			bucket.mu.Lock()
			d, fail := time.Duration(faults.IntN(80))*time.Millisecond, faults.IntN(4) == 0
			bucket.mu.Unlock()
			if err := sleep(ctx, d); err != nil || fail {
				return errors.Join(err, objstore.ErrUnavailable)
			}
			return nil
		}
		topic := m.createTopic("t", 5)
		p := open(t, ingest.Config{TargetBytes: 700, FlushInterval: 10 * time.Millisecond, OpBytes: 300}, m, bucket, nil)
		plain, idempotent := make([]producer, 5), make([]producer, 5)
		want := make([][]string, 5)
		var all []*staged
		for i := range 5 {
			plain[i] = producer{topic: topic, partition: int32(i), id: -1}
			idempotent[i] = producer{topic: topic, partition: int32(i), id: 100}
		}
		for i := range 300 {
			var parts []*ingest.Part
			for k := range 5 {
				if rng.IntN(2) == 0 {
					continue
				}
				v := fmt.Sprint(k, "-", i)
				want[k] = append(want[k], v)
				from := &plain[k]
				if rng.IntN(2) == 0 {
					from = &idempotent[k]
				}
				parts = append(parts, from.part(t, v))
			}
			all = append(all, stage(t, p, parts...))
			time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond)
		}
		for _, s := range all {
			<-s.done
			for _, part := range s.parts {
				if part.Code != state.OK || part.Err != nil || part.BaseOffset < 0 {
					t.Fatalf("%v %v %d", part.Code, part.Err, part.BaseOffset)
				}
			}
		}
		for k := range 5 {
			if got := c.values(bucket, topic, int32(k)); !slices.Equal(got, want[k]) {
				t.Fatalf("partition %d: %q, want %q", k, got, want[k])
			}
		}
		split := 0
		for _, op := range m.submitted() {
			if a, ok := op.(*entry.Append); ok && len(a.Blocks) > 0 && a.Blocks[0].FirstPosition > 0 {
				split++
			}
		}
		if split == 0 {
			t.Fatal("no block was split over ops: the test no longer covers it")
		}
	})
}

// A put whose answer is lost is repeated under its own key, and meeting its own object is success.
func TestUnknownUploadOutcome(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		bucket.after = func(n int, err error) error {
			if n < 2 {
				return fmt.Errorf("answer lost: %w", objstore.ErrUnavailable)
			}
			return err
		}
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{}, m, bucket, nil)
		x := producer{topic: topic, id: -1}
		stage(t, p, x.part(t, "v")).offset(t)
		if keys := bucket.puts(); len(keys) != 3 || keys[0] != keys[2] || keys[1] != keys[2] {
			t.Fatalf("puts %q", keys)
		}
		if got := c.values(bucket, topic, 0); !slices.Equal(got, []string{"v"}) {
			t.Fatalf("records %q", got)
		}
	})
}

func TestAnInvalidPutIsADefiniteAnswer(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		bucket.before = func(_ context.Context, n int) error {
			if n == 0 {
				return objstore.ErrInvalid
			}
			return nil
		}
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{}, m, bucket, nil)
		x := producer{topic: topic, id: -1}
		s := stage(t, p, x.part(t, "refused"))
		<-s.done
		if !errors.Is(s.parts[0].Err, objstore.ErrInvalid) {
			t.Fatal(s.parts[0].Err)
		}
		stage(t, p, x.part(t, "v")).offset(t)
		if got := c.values(bucket, topic, 0); !slices.Equal(got, []string{"v"}) {
			t.Fatalf("records %q", got)
		}
	})
}

// Two bumps of the collection epoch while an op is on its way: the object may be collected, so its bytes are uploaded again.
func TestStaleCollectionEpoch(t *testing.T) {
	for _, when := range []string{"while uploading", "while committing"} {
		t.Run(when, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				c := newCluster(t)
				m, other, bucket := c.join(1), c.join(2), newStore()
				topic := m.createTopic("t", 2)
				bump := func() {
					other.propose(&entry.BumpCollectionEpoch{From: 1})
					other.propose(&entry.BumpCollectionEpoch{From: 2})
				}
				bucket.before = func(ctx context.Context, n int) error {
					if n == 0 && when == "while uploading" {
						bump()
					}
					return nil
				}
				p := open(t, ingest.Config{Compress: when == "while uploading"}, m, bucket, nil)
				x, y := producer{topic: topic, id: 5}, producer{topic: topic, partition: 1, id: 5}
				if when == "while committing" {
					m.hold()
				}
				released := 0
				parts := []*ingest.Part{x.part(t, "a", string(make([]byte, 5000))), y.part(t, "b"), x.part(t, "c")}
				for _, part := range parts {
					part.Release = func() { released++ }
				}
				s := stage(t, p, parts...)
				faketime.Wait()
				if when == "while committing" {
					bump()
					for _, part := range s.parts { // the buffers are the caller's again
						if part.Records != nil {
							t.Fatal("buffers kept after the upload")
						}
					}
					m.release()
				}
				if got := s.offset(t); got != 0 || s.parts[2].BaseOffset != 2 || s.parts[1].BaseOffset != 0 {
					t.Fatalf("offsets %d %d %d", got, s.parts[1].BaseOffset, s.parts[2].BaseOffset)
				}
				if released != 3 {
					t.Fatalf("released %d of 3", released)
				}
				keys := bucket.puts()
				if len(keys) != 2 || keys[0] == keys[1] {
					t.Fatalf("puts %q", keys)
				}
				if got := c.values(bucket, topic, 0); len(got) != 3 || got[0] != "a" || got[2] != "c" {
					t.Fatalf("%d records", len(got))
				}
				if got := c.values(bucket, topic, 1); !slices.Equal(got, []string{"b"}) {
					t.Fatalf("records %q", got)
				}
			})
		})
	}
}

func TestRejectionsAreAnsweredPerPart(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		topic := m.createTopic("t", 1)
		stamped := m.createTopic("stamped", 1, entry.Config{Name: "message.timestamp.type", Value: "LogAppendTime"})
		p := open(t, ingest.Config{}, m, bucket, nil)
		good := producer{topic: topic, id: -1}
		gone := producer{topic: entry.UUID{9}, id: -1}
		missing := producer{topic: topic, partition: 7, id: -1}
		late := producer{topic: stamped, id: -1}
		part := late.part(t, "z")
		part.LogAppendTime = true
		s := stage(t, p, gone.part(t, "x"), good.part(t, "y"), missing.part(t, "x"), part)
		<-s.done
		if s.parts[0].Code != state.UnknownTopic || s.parts[1].Code != state.OK || s.parts[2].Code != state.UnknownPartition {
			t.Fatalf("%v %v %v", s.parts[0].Code, s.parts[1].Code, s.parts[2].Code)
		}
		var logTime int64
		m.View(func(st *state.State) { logTime = st.LogTime() })
		if s.parts[1].Timestamp != -1 || part.Timestamp != logTime || part.LogStartOffset != 0 {
			t.Fatalf("timestamps %d %d, log time %d", s.parts[1].Timestamp, part.Timestamp, logTime)
		}
	})
}

// The footer carries what the writer meant to commit, for restore.
func TestIntendedOps(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		topic := m.createTopic("t", 3)
		p := open(t, ingest.Config{OpBytes: 256}, m, bucket, nil)
		var parts []*ingest.Part
		for i := range 30 {
			x := producer{topic: topic, partition: int32(i % 3), id: int64(i)}
			parts = append(parts, x.part(t, "v"))
		}
		<-stage(t, p, parts...).done
		body, err := bucket.Get(t.Context(), bucket.puts()[0])
		if err != nil {
			t.Fatal(err)
		}
		footer, err := segment.Open(body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ingest.ParseIntended(footer.IntendedOps, uint64(len(body)))
		if err != nil {
			t.Fatal(err)
		}
		var want []*entry.Append
		for _, op := range m.submitted() {
			if a, ok := op.(*entry.Append); ok {
				want = append(want, a)
			}
		}
		encode := func(ops []*entry.Append) (b []byte) {
			for _, op := range ops {
				e := entry.Entry{Ops: []entry.Op{op}}
				b = e.AppendTo(b)
			}
			return b
		}
		if len(got) < 2 || len(got) != len(want) || string(encode(got)) != string(encode(want)) {
			t.Fatalf("%d ops intended, %d submitted", len(got), len(want))
		}
		if len(footer.ObjectID) != 32 || footer.ObjectID[0] != 1 || footer.ObjectID[23] != 1 {
			t.Fatalf("object id %x", footer.ObjectID)
		}
		for i := range footer.IntendedOps {
			if _, err := ingest.ParseIntended(footer.IntendedOps[:i], 1); err == nil && !isBoundary(footer.IntendedOps, i) {
				t.Fatalf("cut at %d: accepted", i)
			}
		}
	})
}

func isBoundary(b []byte, at int) bool {
	for i := 0; i <= at; {
		if i == at {
			return true
		}
		i += 4 + int(b[i])<<24 + int(b[i+1])<<16 + int(b[i+2])<<8 + int(b[i+3])
	}
	return false
}

func TestConfigThatMakesNoSense(t *testing.T) {
	_, err := ingest.New(ingest.Config{TargetBytes: -1, MemoryBytes: -1, RetryMin: time.Hour, OpBytes: 1 << 30}, nil, nil, nil, nil)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"target bytes", "memory bytes", "retry max", "op bytes"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in %v", want, err)
		}
	}
}
