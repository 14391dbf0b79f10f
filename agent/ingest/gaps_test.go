package ingest_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/state"
)

// A repeat is answered with the offset of the original, here and through another agent.
func TestDuplicatesGetTheOriginalOffset(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, n, bucket := c.join(1), c.join(2), newStore()
		topic := m.createTopic("t", 1)
		p, q := open(t, ingest.Config{}, m, bucket, nil), open(t, ingest.Config{}, n, bucket, nil)
		plain, x := producer{topic: topic, id: -1}, producer{topic: topic, id: 9}
		stage(t, p, plain.part(t, "before")).offset(t)
		if got := stage(t, p, x.part(t, "a", "b")).offset(t); got != 1 {
			t.Fatal(got)
		}
		stage(t, p, plain.part(t, "between")).offset(t)
		again := producer{topic: topic, id: 9}
		if got := stage(t, q, again.part(t, "a", "b")).offset(t); got != 1 {
			t.Fatalf("offset %d through another agent, want the original's 1", got)
		}
		// A repeat in front of new records of the same request: its bytes are dead, what follows is not.
		again.next = 0
		s := stage(t, p, again.part(t, "a", "b"), again.part(t, "c"))
		if got := s.offset(t); got != 1 || s.parts[1].BaseOffset != 4 {
			t.Fatalf("offsets %d and %d", got, s.parts[1].BaseOffset)
		}
		if got := c.values(bucket, topic, 0); !slices.Equal(got, []string{"before", "a", "b", "between", "c"}) {
			t.Fatalf("records %q", got)
		}
		if n := bucketObjects(t, bucket); n != 5 {
			t.Fatalf("%d objects", n)
		}
	})
}

func bucketObjects(t *testing.T, b *store) int {
	t.Helper()
	list, err := b.List(t.Context(), "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// The producer moved to this agent while another one was still carrying what came before: nobody hears of the gap.
func TestAGapThatFillsIsNeverAnswered(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, n, bucket := c.join(1), c.join(2), newStore()
		topic := m.createTopic("t", 1)
		p, q := open(t, ingest.Config{}, m, bucket, nil), open(t, ingest.Config{}, n, bucket, nil)
		x := producer{topic: topic, id: 9, next: math.MaxInt32 - 1} // sequences wrap on the way
		stage(t, p, x.part(t, "0")).offset(t)
		m.hold()
		stuck := stage(t, p, x.part(t, "1"))
		var late []*staged
		for i := 2; i < 6; i++ {
			late = append(late, stage(t, q, x.part(t, fmt.Sprint(i))))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(1300 * time.Millisecond) // since the first: 1.7 s
		for _, s := range late {
			if s.answered() {
				t.Fatalf("answered %v within the wait", s.parts[0].Code)
			}
		}
		puts := len(bucket.puts())
		m.release()
		faketime.Wait()
		if got := stuck.offset(t); got != 1 {
			t.Fatal(got)
		}
		for i, s := range late {
			if got := s.offset(t); got != int64(2+i) {
				t.Fatalf("batch %d at %d", 2+i, got)
			}
		}
		if got := c.values(bucket, topic, 0); !slices.Equal(got, []string{"0", "1", "2", "3", "4", "5"}) {
			t.Fatalf("records %q", got)
		}
		if len(bucket.puts()) != puts {
			t.Fatal("parked batches were uploaded again")
		}
	})
}

// Parked batches of one object are named where they lie.
func TestAParkedBatchBehindOthersInItsBlock(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, n, bucket := c.join(1), c.join(2), newStore()
		topic := m.createTopic("t", 1)
		p, q := open(t, ingest.Config{}, m, bucket, nil), open(t, ingest.Config{}, n, bucket, nil)
		x, plain := producer{topic: topic, id: 9}, producer{topic: topic, id: -1}
		stage(t, p, x.part(t, "0")).offset(t)
		missing := x.part(t, "1")
		s := stage(t, p, plain.part(t, "p"), x.part(t, "2", "3"), plain.part(t, "q"), x.part(t, "4"))
		faketime.Wait()
		if s.answered() {
			t.Fatal("answered with a gap")
		}
		stage(t, q, missing).offset(t)
		<-s.done
		var got []int64
		for _, part := range s.parts {
			got = append(got, part.BaseOffset)
		}
		if !slices.Equal(got, []int64{1, 4, 2, 6}) {
			t.Fatalf("offsets %v", got)
		}
		if got := c.values(bucket, topic, 0); !slices.Equal(got, []string{"0", "p", "q", "1", "2", "3", "4"}) {
			t.Fatalf("records %q", got)
		}
	})
}

func TestATrueGapIsAnsweredAfterTheWait(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		topic := m.createTopic("t", 2)
		p := open(t, ingest.Config{}, m, bucket, nil)
		x := producer{topic: topic, id: 9}
		stage(t, p, x.part(t, "0")).offset(t)
		x.next++ // lost
		start := time.Now()
		first, second := stage(t, p, x.part(t, "2")), stage(t, p, x.part(t, "3"))
		<-first.done
		if took := time.Since(start); first.parts[0].Code != state.OutOfOrderSequence || took != 2*time.Second {
			t.Fatalf("%v after %v", first.parts[0].Code, took)
		}
		<-second.done
		if took := time.Since(start); second.parts[0].Code != state.OutOfOrderSequence || took > 2200*time.Millisecond {
			t.Fatalf("%v after %v", second.parts[0].Code, took)
		}
		// The wait of one producer is nobody else's.
		other := producer{topic: topic, partition: 1, id: 9}
		stage(t, p, other.part(t, "x")).offset(t)
		// The producer gives up and starts over.
		x.epoch, x.next = 1, 0
		if got := stage(t, p, x.part(t, "again")).offset(t); got != 1 {
			t.Fatal(got)
		}
	})
}

// What comes before is in this very pipeline, behind an upload that takes longer than the wait.
func TestAGapIsNotAnsweredWhileItsBatchIsInThisPipeline(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{}, m, bucket, nil)
		x := producer{topic: topic, id: 9}
		stage(t, p, x.part(t, "0")).offset(t)
		earlier := x.part(t, "1")
		late := stage(t, p, x.part(t, "2"))
		time.Sleep(10 * time.Millisecond) // it is parked
		bucket.interpose(slow(10 * time.Second))
		first := stage(t, p, earlier)
		if got := first.offset(t); got != 1 {
			t.Fatal(got)
		}
		if got := late.offset(t); got != 2 {
			t.Fatal(got)
		}
	})
}

// Parked batches whose object grows stale are uploaded again and keep waiting.
func TestParkedAndStale(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, n, bucket := c.join(1), c.join(2), newStore()
		topic := m.createTopic("t", 1)
		p, q := open(t, ingest.Config{}, m, bucket, nil), open(t, ingest.Config{}, n, bucket, nil)
		x := producer{topic: topic, id: 9}
		stage(t, p, x.part(t, "0")).offset(t)
		missing := x.part(t, "1")
		late := stage(t, p, x.part(t, "2"))
		later := stage(t, p, x.part(t, "3"))
		faketime.Wait()
		bump(n, 1)
		bump(n, 2)
		stage(t, q, missing).offset(t)
		if a, b := late.offset(t), later.offset(t); a != 2 || b != 3 {
			t.Fatal(a, b)
		}
		if got := c.values(bucket, topic, 0); !slices.Equal(got, []string{"0", "1", "2", "3"}) {
			t.Fatalf("records %q", got)
		}
	})
}

// Old sequences that are certainly in the log are duplicates, not gaps, and answered at once.
func TestOldDuplicates(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newStore()
		topic := m.createTopic("t", 1)
		p := open(t, ingest.Config{}, m, bucket, nil)
		x := producer{topic: topic, id: 9}
		for range 10 {
			stage(t, p, x.part(t, "v")).offset(t)
		}
		x.next = 0
		start := time.Now()
		s := stage(t, p, x.part(t, "v"))
		<-s.done
		if s.parts[0].Code != state.DuplicateSequence || time.Since(start) != 0 {
			t.Fatalf("%v after %v", s.parts[0].Code, time.Since(start))
		}
	})
}
