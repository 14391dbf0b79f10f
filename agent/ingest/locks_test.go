package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/segment"
)

// vault notes the lock of every put. refuse, where set, is its answer to those that have one.
type vault struct {
	*store
	refuse error

	lockMu sync.Mutex
	locks  map[string]objstore.Lock // by key
}

func newVault() *vault { return &vault{store: newStore(), locks: make(map[string]objstore.Lock)} }

func (v *vault) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	if opts.Lock != (objstore.Lock{}) && v.refuse != nil {
		return v.refuse
	}
	v.lockMu.Lock()
	v.locks[key] = opts.Lock
	v.lockMu.Unlock()
	opts.Lock = objstore.Lock{}
	return v.store.Put(ctx, key, body, opts)
}

var (
	governed = ingest.Lock{Mode: objstore.LockGovernance, Days: 3}
	longer   = ingest.Lock{Mode: objstore.LockGovernance, Days: 4}
	complied = ingest.Lock{Mode: objstore.LockCompliance, Days: 3}
)

func under(lock ingest.Lock, part *ingest.Part) *ingest.Part {
	part.Lock = lock
	return part
}

// No object holds topics of different locks, and each is put with its own, also where it has to be put again.
func TestAnObjectHoldsPartsOfOneLock(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, other, bucket := c.join(1), c.join(2), newVault()
		locks := []ingest.Lock{{}, governed, longer, complied, governed}
		lockOf := make(map[entry.UUID]ingest.Lock)
		producers := make([]*producer, len(locks))
		for i, lock := range locks {
			topic := m.createTopic(fmt.Sprint("t", i), 1)
			lockOf[topic], producers[i] = lock, &producer{topic: topic, id: 7}
		}
		bucket.before = func(ctx context.Context, n int) error {
			if n == 3 { // everything under way is refused and put anew
				other.propose(&entry.BumpCollectionEpoch{From: 1})
				other.propose(&entry.BumpCollectionEpoch{From: 2})
			}
			return sleep(ctx, 30*time.Millisecond)
		}
		start := time.Now()
		p := open(t, ingest.Config{}, m, bucket, nil)
		var all []*staged
		want := make([][]string, len(locks))
		for round := range 20 {
			for i, x := range producers {
				v := fmt.Sprint(round)
				want[i] = append(want[i], v)
				all = append(all, stage(t, p, under(locks[i], x.part(t, v))))
			}
			time.Sleep(7 * time.Millisecond)
		}
		for _, s := range all {
			s.offset(t)
		}
		for i, x := range producers {
			if got := c.values(bucket, x.topic, 0); !slices.Equal(got, want[i]) {
				t.Errorf("topic %d: %q", i, got)
			}
		}
		seen := make(map[ingest.Lock]int)
		for key, lock := range bucket.locks {
			body, err := bucket.Get(context.Background(), key)
			if err != nil {
				t.Fatal(err)
			}
			footer, err := segment.Open(body)
			if err != nil {
				t.Fatal(err)
			}
			of := lockOf[footer.Blocks[0].Topic]
			seen[of]++
			for _, b := range footer.Blocks {
				if lockOf[b.Topic] != of {
					t.Errorf("%s holds %v and %v", key, of, lockOf[b.Topic])
				}
			}
			until := objstore.Lock{}
			if of != (ingest.Lock{}) {
				until = objstore.Lock{Mode: of.Mode, Until: start.AddDate(0, 0, int(of.Days))}
			}
			if late := lock.Until.Sub(until.Until); lock.Mode != until.Mode || late < 0 || late > time.Minute {
				t.Errorf("%s of %v is put with %v", key, of, lock)
			}
		}
		if len(seen) != 4 {
			t.Errorf("objects by lock: %v", seen)
		}
	})
}

// A topic whose lock changes goes on in order, though its parts lie in different segments.
func TestOrderWhereALockChanges(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newVault()
		topic := m.createTopic("t", 1)
		others := m.createTopic("u", 1)
		bucket.before = slow(20 * time.Millisecond)
		p := open(t, ingest.Config{}, m, bucket, nil)
		x, y := producer{topic: topic, id: -1}, producer{topic: others, id: -1} // nothing else keeps their order
		var last *staged
		var want []string
		for i := range 40 {
			lock := []ingest.Lock{{}, governed, complied}[i/3%3]
			stage(t, p, under(governed, y.part(t, "other"))) // keeps the segment of that lock open from before
			v := fmt.Sprint(i)
			want = append(want, v)
			last = stage(t, p, under(lock, x.part(t, v)))
			time.Sleep(time.Millisecond)
		}
		last.offset(t)
		if got := c.values(bucket, topic, 0); !slices.Equal(got, want) {
			t.Errorf("records %q", got)
		}
	})
}

// What cannot be locked as promised is not stored, and nothing waits behind it.
func TestALockThatTheBucketRefuses(t *testing.T) {
	for _, refuse := range []error{objstore.ErrInvalid, objstore.ErrDenied} {
		faketime.Test(t, func(t *testing.T) {
			c := newCluster(t)
			m, bucket := c.join(1), newVault()
			bucket.refuse = fmt.Errorf("put: %w", refuse)
			topic, plain := m.createTopic("t", 1), m.createTopic("plain", 1)
			p := open(t, ingest.Config{}, m, bucket, nil)
			x, y := producer{topic: topic, id: -1}, producer{topic: plain, id: -1}
			s := stage(t, p, under(complied, x.part(t, "refused")))
			stage(t, p, y.part(t, "v")).offset(t)
			<-s.done
			if err := s.parts[0].Err; !errors.Is(err, ingest.ErrLock) || !errors.Is(err, refuse) {
				t.Errorf("answer: %v", err)
			}
			if got := c.values(bucket, plain, 0); !slices.Equal(got, []string{"v"}) {
				t.Errorf("records %q", got)
			}
		})
	}
}

func TestALockCountsFromTheUploadThatWentThrough(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		c := newCluster(t)
		m, bucket := c.join(1), newVault()
		topic := m.createTopic("t", 1)
		back := time.Now().Add(2 * time.Hour)
		bucket.before = func(context.Context, int) error {
			if time.Now().Before(back) {
				return fmt.Errorf("the bucket is away: %w", objstore.ErrUnavailable)
			}
			return nil
		}
		p := open(t, ingest.Config{}, m, bucket, nil)
		x := producer{topic: topic, id: -1}
		stage(t, p, under(governed, x.part(t, "v"))).offset(t)
		for key, lock := range bucket.locks {
			if least := back.AddDate(0, 0, int(governed.Days)); lock.Until.Before(least) {
				t.Errorf("%s is locked until %v, and was uploaded after %v", key, lock.Until, back)
			}
		}
	})
}
