package gc_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/gc"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

// noScrub is for tests whose objects are no segments.
var noScrub = gc.Config{ScrubBytesPerSecond: -1}

func TestWhatRetiredGoes(t *testing.T) {
	w := newWorld(t)
	first, second := w.named(topicA, 0), w.named(topicA, 1)
	w.archiveAll()
	w.still = true
	c := w.collector(noScrub)
	c.pass(30 * time.Minute)
	if got := w.head.CollectionEpoch(); got != 1 {
		t.Fatalf("nothing waits, and the collection epoch moved to %d", got)
	}
	w.empty(topicA, 0)
	c.pass(time.Hour)
	if w.has(first) == false {
		t.Fatal("deleted before the log says in the bucket that it retired")
	}
	if got := w.head.CollectionEpoch(); got != 3 {
		t.Errorf("it waits for the archive at collection epoch %d", got)
	}
	w.archiveAll()
	c.pass(10 * time.Minute)
	if w.has(first) || !w.has(second) {
		t.Errorf("first there: %v, second there: %v", w.has(first), w.has(second))
	}
	w.archiveAll()
	before, deletes := w.head.CollectionEpoch(), w.bucket.calls["delete"]
	c.pass(3 * time.Hour)
	if got := w.head.CollectionEpoch(); got != before || w.bucket.calls["delete"] != deletes {
		t.Errorf("with nothing left to do the epoch moved from %d to %d, and %d deletes were asked for", before, got, w.bucket.calls["delete"]-deletes)
	}
}

// A restore gives the state at the archive's end, in which the object could be named anew if its collection epoch were young there.
func TestTheMoveOfTheEpochIsArchivedFirst(t *testing.T) {
	w := newWorld(t)
	w.still = true
	id := w.named(topicA, 0)
	w.empty(topicA, 0)
	w.archiveAll()
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	c := w.collector(noScrub)
	c.pass(3 * time.Hour)
	if !w.has(id) {
		t.Error("deleted while the archive ends in a collection epoch in which the object may be named")
	}
	w.archiveNews()
	c.pass(5 * time.Minute)
	if w.has(id) {
		t.Error("it is there still")
	}
}

func TestATopicThatIsDeletedGoesFromTheBucket(t *testing.T) {
	w := newWorld(t)
	shared := w.upload(entry.UUID{}) // with a topic that stays
	w.ok(appendOf(shared, topicA, 0), appendOf(shared, topicB, 0))
	own := w.named(topicB, 0)
	w.archiveAll()
	c := w.collector(noScrub)
	w.ok(&entry.DeleteTopic{ID: topicB})
	w.archiveAll()
	c.pass(30 * time.Minute)
	if !w.has(shared) || w.has(own) {
		t.Errorf("the shared object is there: %v, its own: %v", w.has(shared), w.has(own))
	}
	w.ok(&entry.DeleteTopic{ID: topicA})
	w.archiveAll()
	c.pass(30 * time.Minute)
	if n := len(w.keys()); n != 0 {
		t.Errorf("%d objects left", n)
	}
}

func TestWhatRetiredIsNotReadOverAndOver(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		w.named(topicA, 0)
	}
	w.empty(topicA, 0)
	w.archiveAll()
	c := w.collector(noScrub)
	c.pass(30 * time.Minute)
	w.archiveAll()
	c.pass(30 * time.Minute)
	if n := len(w.keys()); n != 0 || w.head.RetiredCount() != 10 {
		t.Fatalf("%d objects, %d of them known as retired", n, w.head.RetiredCount())
	}
	asked := c.asked
	c.pass(3 * time.Hour)
	if c.asked != asked {
		t.Errorf("the archive was asked for %d times with nothing to do", c.asked-asked)
	}
}

func TestTheEpochMovesAtMostEveryTenMinutes(t *testing.T) {
	w := newWorld(t)
	c := w.collector(noScrub)
	c.settle()
	for range 60 { // an hour in which something retires every minute
		w.named(topicA, 0)
		w.empty(topicA, 0)
		w.archiveAll()
		c.pass(time.Minute)
	}
	if got := w.head.CollectionEpoch(); got < 6 || got > 7 {
		t.Errorf("collection epoch %d after an hour", got)
	}
	w.archiveAll()
	c.pass(20 * time.Minute)
	w.archiveAll()
	c.pass(20 * time.Minute)
	if n := len(w.keys()); n != 0 {
		t.Errorf("%d objects left", n)
	}
}

func TestOrphansGoWithASweep(t *testing.T) {
	w := newWorld(t)
	kept := w.named(topicA, 0)
	level0, merged := w.upload(entry.UUID{}), w.upload(topicB)
	w.archiveAll()
	for _, key := range []string{"data/notes.txt", "topics/" + strings.Repeat("0", 32) + "/x"} {
		if err := w.bucket.Put(t.Context(), key, []byte("x"), objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c := w.collector(noScrub)
	for range 50 {
		c.pass(time.Hour)
		w.archiveAll()
	}
	if w.has(level0) || w.has(merged) || !w.has(kept) {
		t.Errorf("orphans there: %v and %v; named there: %v", w.has(level0), w.has(merged), w.has(kept))
	}
	if got := len(w.keys()); got != 3 {
		t.Errorf("%d keys, what is not firn's is gone: %v", got, w.keys())
	}
	if got := w.head.CollectionEpoch(); got != 3 {
		t.Errorf("collection epoch %d", got)
	}
	if got := w.bucket.calls["list"]; got > 3*4 {
		t.Errorf("%d listings in two days of a small bucket", got)
	}
	if c.Fault() != "" {
		t.Error(c.Fault())
	}
}

func TestAnUploadThatSleptIsRefusedAndCollected(t *testing.T) {
	w := newWorld(t)
	slept := w.upload(entry.UUID{})
	w.archiveAll()
	c := w.collector(noScrub)
	for range 30 {
		c.pass(time.Hour)
		w.archiveAll()
	}
	if got := w.apply(appendOf(slept, topicA, 0))[0].Code; got != state.StaleCollectionEpoch {
		t.Errorf("an object of a collected epoch: %v", got)
	}
	for range 30 {
		c.pass(time.Hour)
		w.archiveAll()
	}
	if w.has(slept) {
		t.Error("it is there still")
	}
}

func TestTheBreaker(t *testing.T) {
	w := newWorld(t)
	cfg := noScrub
	cfg.OrphansFree, cfg.SweepInterval = 10, time.Hour
	w.named(topicA, 0)
	for range 40 {
		w.upload(entry.UUID{})
	}
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	c := w.collector(cfg)
	c.pass(2 * time.Hour)
	if n := len(w.keys()); n != 41 || !strings.Contains(c.Fault(), "40 objects that nothing names, of 41 listed") {
		t.Fatalf("%d objects left, fault %q", n, c.Fault())
	}
	w.named(topicA, 1)
	w.empty(topicA, 1)
	w.archiveAll()
	c.pass(2 * time.Hour)
	if n := len(w.keys()); n != 42 {
		t.Fatalf("%d objects: something was deleted with the breaker open", n)
	}
	if got := strings.Count(c.logged.String(), "nothing is deleted from the bucket any more"); got != 1 {
		t.Errorf("told %d times", got)
	}
	if err := gc.Ask(t.Context(), w, gc.Request{ID: "r1", Kind: gc.AskRun}, false); err != nil {
		t.Fatal(err)
	}
	c.settle()
	answer, err := gc.Answered(t.Context(), w, "r1")
	if err != nil || answer == nil || answer.Sweep == nil || answer.Sweep.Breaker == "" || answer.Sweep.Orphans != 40 {
		t.Fatalf("%+v, %v", answer, err)
	}
	if n := len(w.keys()); n != 42 {
		t.Fatalf("%d objects after a run that was not to accept", n)
	}
	if err := gc.Ask(t.Context(), w, gc.Request{ID: "r2", Kind: gc.AskRun, Accept: true}, false); err != nil {
		t.Fatal(err)
	}
	c.pass(time.Minute)
	if n := len(w.keys()); n > 2 || c.Fault() != "" {
		t.Errorf("accepted: %d objects left, fault %q", n, c.Fault())
	}
}

func TestFewOrphansOpenNoBreaker(t *testing.T) {
	w := newWorld(t)
	cfg := noScrub
	cfg.SweepInterval = time.Hour
	w.still = true
	for range 40 {
		w.upload(entry.UUID{})
	}
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	c := w.collector(cfg)
	c.pass(2 * time.Hour)
	if n := len(w.keys()); n != 40 {
		t.Errorf("%d objects left: some went before the archive had come as far as the collection epoch", n)
	}
	w.archiveNews() // what the collector wrote to make it go on: of ticks alone nothing is archived
	c.pass(10 * time.Minute)
	if n := len(w.keys()); n != 0 || c.Fault() != "" {
		t.Errorf("%d objects left, fault %q", n, c.Fault())
	}
}

// However short the interval: an epoch that moves on before what is old enough was deleted makes the state forget it.
func TestEpochsThatMoveEverySecond(t *testing.T) {
	w := newWorld(t)
	w.still = true
	id := w.named(topicA, 0)
	w.empty(topicA, 0)
	w.archiveAll()
	cfg := noScrub
	cfg.EpochInterval = time.Second
	c := w.collector(cfg)
	for range 60 {
		c.pass(time.Second)
	}
	if got := w.head.CollectionEpoch(); got != 3 || !w.has(id) {
		t.Fatalf("collection epoch %d, there: %v", got, w.has(id))
	}
	w.archiveNews()
	for range 70 {
		c.pass(time.Second)
	}
	w.archiveNews()
	for range 10 {
		c.pass(time.Second)
	}
	if w.has(id) {
		t.Error("it is there still")
	}
}

// What retires one by one is deleted together, and other work goes on beside it.
func TestDeletesShareRequests(t *testing.T) {
	w := newWorld(t)
	for range 5000 {
		w.named(topicA, 0)
	}
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	c := w.collector(noScrub)
	for i := range int64(2500) { // a hundred a second
		w.ok(&entry.DeleteRecords{Topic: topicA, BeforeOffset: 20 * (i + 1)})
		w.archiveAll()
		w.steady += 20 * time.Millisecond
		c.follow(10)
		if _, err := c.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.pass(5 * time.Minute)
	if n := len(w.keys()); n != 0 {
		t.Errorf("%d objects left", n)
	}
	if got := w.bucket.calls["delete"]; got > 15 {
		t.Errorf("%d requests for 5000 deletes in 50 s", got)
	}
}

func TestTheBudget(t *testing.T) {
	w := newWorld(t)
	cfg := noScrub
	cfg.DeletesPerHour = 60
	for range 200 {
		w.named(topicA, 0)
	}
	w.empty(topicA, 0)
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	c := w.collector(cfg)
	for range 60 {
		c.pass(time.Minute)
	}
	if n := len(w.keys()); n < 200-62 || n > 200-58 {
		t.Errorf("%d of 200 objects left after an hour with a budget of 60", n)
	}
	if got := w.head.CollectionEpoch(); got != 3 {
		t.Errorf("the epoch moved to %d, and what retired will be forgotten", got)
	}
	for range 4 * 60 {
		c.pass(time.Minute)
	}
	if n := len(w.keys()); n != 0 {
		t.Errorf("%d objects left", n)
	}
}

func TestWhatALockKeepsIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	cfg := noScrub
	cfg.OrphansFree = 3
	ids := make([]entry.ObjectID, 20)
	for i := range ids {
		ids[i] = w.named(topicA, 0)
		w.bucket.kept[ids[i].Key()] = i%2 == 0
	}
	w.empty(topicA, 0)
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	c := w.collector(cfg)
	c.pass(time.Hour)
	for i, id := range ids {
		if w.has(id) != (i%2 == 0) {
			t.Errorf("object %d there: %v", i, w.has(id))
		}
	}
	if c.Fault() != "" {
		t.Errorf("a lock is no fault: %s", c.Fault())
	}
	calls := w.bucket.calls["delete"]
	c.pass(time.Hour)
	if w.bucket.calls["delete"] != calls {
		t.Error("tried again at once")
	}
	for range 50 { // they are forgotten as retired, and come back as orphans that are kept
		w.named(topicB, 0)
		w.empty(topicB, 0)
		w.archiveAll()
		c.pass(time.Hour)
	}
	if c.Fault() != "" {
		t.Errorf("what a lock keeps opened the breaker: %s", c.Fault())
	}
	clear(w.bucket.kept)
	for range 32 {
		w.archiveAll()
		c.pass(time.Hour)
	}
	if n := len(w.keys()); n > 2 {
		t.Errorf("%d objects left after the lock ran out", n)
	}
}

// locking makes the world's bucket one that locks, and keeps its time; put puts an orphan that is locked for so long.
func (w *world) locking(t *testing.T) (put func(d time.Duration)) {
	t.Helper()
	m := w.bucket.Bucket.(*mem.Bucket)
	m.SetClock(func() time.Time { return time.UnixMilli(w.now) })
	if err := m.SetLockSettings(t.Context(), objstore.LockSettings{Enabled: true}); err != nil {
		t.Fatal(err)
	}
	return func(d time.Duration) {
		t.Helper()
		w.made++
		id := entry.ObjectID{Incarnation: w.agent, Seq: w.made, CollectionEpoch: w.head.CollectionEpoch()}
		lock := objstore.Lock{Mode: objstore.LockCompliance, Until: time.UnixMilli(w.now).Add(d)}
		if err := m.Put(t.Context(), id.Key(), make([]byte, objectSize), objstore.PutOptions{Lock: lock}); err != nil {
			t.Fatal(err)
		}
	}
}

// A collector that takes over does not know what was refused to the one before it.
func TestANewCollectorTellsWhatALockKeepsFromOrphans(t *testing.T) {
	w := newWorld(t)
	put := w.locking(t)
	w.named(topicA, 0)
	for i := range 150 {
		put(10*time.Hour + time.Duration(i)*20*time.Minute)
	}
	for range 5 {
		w.upload(entry.UUID{})
	}
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	cfg := noScrub
	cfg.OrphansFree, cfg.SweepInterval = 10, time.Hour
	c := w.collector(cfg)
	c.pass(2 * time.Hour)
	if n := len(w.keys()); n != 151 || c.Fault() != "" {
		t.Fatalf("%d objects left, want the locked ones and the one that is named; fault %q", n, c.Fault())
	}
	if got := w.bucket.calls["delete"]; got > 100 { // of as many as may go whatever they are, one by one
		t.Errorf("%d requests to delete: what a lock keeps was tried", got)
	}
	if err := gc.Ask(t.Context(), w, gc.Request{ID: "r", Kind: gc.AskRun}, false); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if a, err := gc.Answered(t.Context(), w, "r"); err != nil || a == nil || a.Sweep == nil || a.Sweep.Breaker != "" || a.Sweep.Retained+a.Sweep.Orphans != 150 || a.Sweep.Orphans > 30 {
		t.Errorf("%+v, %v", a, err)
	}
	c.pass(62 * time.Hour) // locks end one by one
	if n := len(w.keys()); n != 1 || c.Fault() != "" {
		t.Errorf("%d objects left after all locks have ended, fault %q", n, c.Fault())
	}
}

// Locks explain what they keep, and nothing else.
func TestLocksDoNotCloseTheBreaker(t *testing.T) {
	for _, tc := range []struct {
		name          string
		plain, locked int
		ended         int // of locked ones, that are so no more
		fail          error
		want          string // in the fault
	}{
		{name: "too many that none keeps", plain: 60, locked: 60, want: "objects that nothing names"},
		{name: "too many whose lock has ended", locked: 60, ended: 60, want: "60 objects that nothing names, of 61 listed"},
		{name: "locks that may not be read", locked: 60, fail: objstore.ErrDenied, want: "60 objects that nothing names, of 61 listed"},
		{name: "a bucket that does not answer", locked: 60, fail: objstore.ErrUnavailable, want: "object store unavailable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			put := w.locking(t)
			w.named(topicA, 0)
			for i := range tc.locked {
				d := 100 * time.Hour
				if i < tc.ended {
					d = time.Minute
				}
				put(d)
			}
			for range tc.plain {
				w.upload(entry.UUID{})
			}
			w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
			w.archiveAll()
			cfg := noScrub
			cfg.OrphansFree, cfg.SweepInterval, cfg.FirstSweep = 10, time.Hour, 10*time.Minute
			bucket := &sealed{hooked: w.bucket, LockConfig: w.bucket.Bucket.(*mem.Bucket), fail: tc.fail}
			c := w.collector(cfg, func(d *gc.Deps) { d.Bucket = bucket })
			c.pass(30 * time.Minute)
			if !strings.Contains(c.Fault(), tc.want) {
				t.Errorf("fault %q, want %q", c.Fault(), tc.want)
			}
			if n := len(w.keys()); n != 1+tc.plain+tc.locked {
				t.Errorf("%d objects left of %d", n, 1+tc.plain+tc.locked)
			}
			if errors.Is(tc.fail, objstore.ErrUnavailable) {
				bucket.fail = nil
				if c.pass(10 * time.Minute); c.Fault() != "" {
					t.Errorf("fault %q after it answered", c.Fault())
				}
			}
		})
	}
}

// sealed is a bucket that may refuse to say what is locked.
type sealed struct {
	*hooked
	objstore.LockConfig
	fail error
}

func (b *sealed) ObjectLock(ctx context.Context, key string) (objstore.Lock, error) {
	if b.fail != nil {
		return objstore.Lock{}, b.fail
	}
	return b.LockConfig.ObjectLock(ctx, key)
}

func TestDeletesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	id := w.named(topicA, 0)
	w.empty(topicA, 0)
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	w.bucket.fail["delete"] = objstore.ErrDenied
	c := w.collector(noScrub)
	c.pass(2 * time.Hour)
	if !strings.Contains(c.Fault(), "s3:DeleteObject") || !w.has(id) {
		t.Fatalf("fault %q, there: %v", c.Fault(), w.has(id))
	}
	if got := w.head.CollectionEpoch(); got != 3 {
		t.Errorf("the epoch moved to %d, though nothing can be deleted", got)
	}
	if w.bucket.calls["list"] == 0 {
		t.Error("the bucket is not swept because nothing can be deleted")
	}
	clear(w.bucket.fail)
	c.pass(5 * time.Minute)
	if c.Fault() != "" || w.has(id) {
		t.Errorf("allowed again: fault %q, there: %v", c.Fault(), w.has(id))
	}
}

func TestABucketThatDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	id := w.named(topicA, 0)
	w.empty(topicA, 0)
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	orphan := w.upload(entry.UUID{})
	w.archiveAll()
	down := fmt.Errorf("no route: %w", objstore.ErrUnavailable)
	w.bucket.fail["delete"], w.bucket.fail["list"] = down, down
	c := w.collector(noScrub)
	c.pass(3 * time.Hour)
	if !strings.Contains(c.Fault(), "no route") {
		t.Fatalf("fault %q", c.Fault())
	}
	if got := w.bucket.calls["list"] + w.bucket.calls["delete"]; got > 80 {
		t.Errorf("asked %d times in three hours", got)
	}
	clear(w.bucket.fail)
	for range 50 {
		w.archiveAll()
		c.pass(time.Hour)
	}
	if c.Fault() != "" || w.has(id) || w.has(orphan) {
		t.Errorf("it answers again: fault %q, there: %v and %v", c.Fault(), w.has(id), w.has(orphan))
	}
}

func TestAnotherClustersBucketIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	id := w.named(topicA, 0)
	w.empty(topicA, 0)
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	c := w.collector(noScrub)
	c.epoch = 0 // the marker names a later one
	for range 10 {
		w.steady += time.Minute
		if _, err := c.Step(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if !w.has(id) || !strings.Contains(c.Fault(), "restored since") || w.bucket.calls["delete"] != 0 {
		t.Errorf("there: %v, fault %q", w.has(id), c.Fault())
	}
}

func TestMissingObjects(t *testing.T) {
	w := newWorld(t)
	var ids []entry.ObjectID
	for range 3 {
		ids = append(ids, w.named(topicA, 0))
	}
	other := w.named(topicB, 0)
	w.archiveAll()
	cfg := noScrub
	cfg.SweepInterval = 2 * time.Hour
	c := w.collector(cfg)
	for _, id := range []entry.ObjectID{ids[0], ids[2]} {
		if err := w.bucket.Bucket.Delete(t.Context(), id.Key()); err != nil {
			t.Fatal(err)
		}
	}
	w.put(other, make([]byte, objectSize-1))
	c.pass(5 * time.Hour)
	damaged := c.Damaged()
	if len(damaged) != 3 || damaged[0].Kind != gc.KindMissing || damaged[2].Kind != gc.KindSize {
		t.Fatalf("%+v", damaged)
	}
	if !strings.Contains(c.Fault(), ids[0].Key()) || strings.Count(c.logged.String(), "is damaged") != 3 {
		t.Errorf("fault %q, log %s", c.Fault(), c.logged)
	}
	if w.head.TopicByID(topicA).Partition(0).LogStart() != 0 {
		t.Fatal("the log start moved by itself")
	}

	// What is there is not given up; what is not, is: the log start moves, and what lies behind records becomes a gap.
	ask := func(id string, keys ...string) *gc.Answer {
		t.Helper()
		if err := gc.Ask(t.Context(), w, gc.Request{ID: id, Kind: gc.AskForget, Objects: keys}, false); err != nil {
			t.Fatal(err)
		}
		c.settle()
		a, err := gc.Answered(t.Context(), w, id)
		if err != nil || a == nil {
			t.Fatal(a, err)
		}
		return a
	}
	if a := ask("f1", ids[0].Key(), ids[1].Key()); !strings.Contains(a.Error, "is there") || len(a.Lost) != 0 {
		t.Errorf("%+v", a)
	}
	if a := ask("f2", "data/nonsense"); a.Error == "" {
		t.Errorf("%+v", a)
	}
	a := ask("f3", ids[0].Key(), ids[2].Key())
	if a.Error != "" || len(a.Lost) != 2 || !a.Lost[0].LogStart || a.Lost[0].End != 10 || a.Lost[1].LogStart || a.Lost[1].Start != 20 {
		t.Errorf("%+v", a)
	}
	p := w.head.TopicByID(topicA).Partition(0)
	if p.LogStart() != 10 || p.RowCount() != 1 || w.head.TopicByID(topicA).GivenUp() != 10 {
		t.Errorf("log start %d, %d rows, %d given up", p.LogStart(), p.RowCount(), w.head.TopicByID(topicA).GivenUp())
	}
	w.put(other, make([]byte, objectSize)) // from a copy
	c.pass(3 * time.Hour)
	if c.Fault() != "" {
		t.Errorf("all is well again: %s", c.Fault())
	}
}

// rule covers objects from an age on.
type rule time.Duration

func (r rule) Covered(_ context.Context, _ entry.ObjectID, age time.Duration) bool {
	return age >= time.Duration(r)
}

func TestARuleOfTheBucketMovesTheLogStart(t *testing.T) {
	for _, tc := range []struct {
		name    string
		rule    rule
		comes   bool // the object is back before the second listing
		gone    int  // of three objects, oldest first
		want    int64
		faulted bool
	}{
		{"it covers the age", rule(24 * time.Hour), false, 1, 10, false},
		{"not at this age", rule(24 * 365 * time.Hour), false, 1, 0, true},
		{"the second listing has it", rule(24 * time.Hour), true, 1, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			cfg := noScrub
			cfg.SweepInterval = 2 * time.Hour
			c := w.collector(cfg, func(d *gc.Deps) { d.Coverage = tc.rule })
			c.settle()
			ids := []entry.ObjectID{w.named(topicA, 0), w.named(topicA, 0), w.named(topicA, 0)}
			c.pass(30 * time.Hour)
			if err := w.bucket.Bucket.Delete(t.Context(), ids[0].Key()); err != nil {
				t.Fatal(err)
			}
			for len(c.Damaged()) == 0 {
				c.pass(5 * time.Minute)
			}
			if got := w.head.TopicByID(topicA).Partition(0).LogStart(); got != 0 {
				t.Fatalf("one listing moved the log start to %d", got)
			}
			c.pass(50 * time.Minute)
			if got := w.head.TopicByID(topicA).Partition(0).LogStart(); got != 0 {
				t.Fatalf("two listings less than an hour apart moved the log start to %d", got)
			}
			if tc.comes {
				w.put(ids[0], make([]byte, objectSize))
			}
			c.pass(15 * time.Minute)
			if got := w.head.TopicByID(topicA).Partition(0).LogStart(); got != tc.want {
				t.Errorf("log start %d, want %d", got, tc.want)
			}
			if (c.Fault() != "") != tc.faulted {
				t.Errorf("fault %q", c.Fault())
			}
		})
	}
}

func TestWhatARuleTookOutOfTheMiddleStaysAnAlarm(t *testing.T) {
	w := newWorld(t)
	cfg := noScrub
	cfg.SweepInterval = 2 * time.Hour
	c := w.collector(cfg, func(d *gc.Deps) { d.Coverage = rule(0) })
	w.named(topicA, 0)
	middle := w.named(topicA, 0)
	w.named(topicA, 0)
	if err := w.bucket.Bucket.Delete(t.Context(), middle.Key()); err != nil {
		t.Fatal(err)
	}
	c.pass(10 * time.Hour)
	if p := w.head.TopicByID(topicA).Partition(0); p.LogStart() != 0 || p.RowCount() != 3 || c.Fault() == "" {
		t.Errorf("log start %d, %d rows, fault %q", p.LogStart(), p.RowCount(), c.Fault())
	}
}

func TestOnlyOneAgentCollects(t *testing.T) {
	w := newWorld(t)
	id := w.named(topicA, 0)
	w.empty(topicA, 0)
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	c := w.collector(noScrub)
	first := w.agent
	w.agent = [16]byte{7}
	c.settle()
	w.agent = first
	if !w.has(id) {
		t.Error("an agent that has not joined collected")
	}
	c.settle()
	if w.has(id) {
		t.Error("the one that has did not")
	}
}

func TestRequestsThatCannotBe(t *testing.T) {
	w := newWorld(t)
	c := w.collector(noScrub)
	ask := func(id, kind string, replace bool) error {
		return gc.Ask(t.Context(), w, gc.Request{ID: id, Kind: kind}, replace)
	}
	if err := ask("1", "dance", false); err != nil {
		t.Fatal(err)
	}
	if err := ask("2", gc.AskRun, false); !errors.Is(err, gc.ErrBusy) {
		t.Errorf("two requests at once: %v", err)
	}
	c.settle()
	if a, err := gc.Answered(t.Context(), w, "1"); err != nil || a == nil || !strings.Contains(a.Error, "dance") {
		t.Errorf("%+v, %v", a, err)
	}
	if err := ask("3", gc.AskRun, false); err != nil {
		t.Fatal(err)
	}
	if err := ask("4", gc.AskRun, true); err != nil {
		t.Errorf("in the place of one that nobody answers: %v", err)
	}
	if _, err := gc.Answered(t.Context(), w, "3"); !errors.Is(err, gc.ErrBusy) {
		t.Errorf("an answer that will not come: %v", err)
	}
	if _, err := w.Swap(t.Context(), gc.DeskCell, w.cells[gc.DeskCell].Version, []byte(`{"format":9}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Step(t.Context()); err == nil || !strings.Contains(err.Error(), "run a newer firn") {
		t.Errorf("a cell of a newer format: %v", err)
	}
}

func TestConfigsThatCannotBe(t *testing.T) {
	_, err := gc.New(gc.Config{EpochInterval: -1, DeletesPerHour: -1}, gc.Deps{})
	if err == nil || !strings.Contains(err.Error(), "epoch interval") || !strings.Contains(err.Error(), "deletes per hour") {
		t.Error(err)
	}
	if _, err := gc.New(gc.Config{}, gc.Deps{}); err == nil {
		t.Error("without a bucket")
	}
}

// turned is a metastore whose state, by what must not be, names again what was to be deleted.
type turned struct {
	*replica
	to *state.State
}

func (m *turned) OwnsBucket(ctx context.Context) error {
	if m.to != nil {
		m.st, m.to = m.to, nil
	}
	return m.replica.OwnsBucket(ctx)
}

func TestNoSweepClosesABreakerThatANamedObjectOpened(t *testing.T) {
	w := newWorld(t)
	id := w.named(topicA, 0)
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	before := w.copy(w.head.N())
	w.empty(topicA, 0)
	w.archiveAll()
	cfg := noScrub
	cfg.SweepInterval, cfg.FirstSweep = time.Hour, time.Hour
	m := &turned{w.replica(), before}
	c := w.collector(cfg, func(d *gc.Deps) { d.Meta = m })
	c.replica = m.replica
	c.settle()
	const fault = "was about to be deleted and rows name it"
	if !w.has(id) || !strings.Contains(c.Fault(), fault) {
		t.Fatalf("fault %q", c.Fault())
	}
	c.pass(3 * time.Hour) // sweeps that find nothing
	if !w.has(id) || !strings.Contains(c.Fault(), fault) {
		t.Fatalf("the breaker is closed again, fault %q", c.Fault())
	}
	if err := gc.Ask(t.Context(), w, gc.Request{ID: "r", Kind: gc.AskRun, Accept: true}, false); err != nil {
		t.Fatal(err)
	}
	c.pass(time.Hour)
	if w.has(id) || c.Fault() != "" {
		t.Errorf("accepted: fault %q", c.Fault())
	}
}

// mute are cells of which a write fails at times.
type mute struct {
	*world
	fail bool
}

func (m *mute) Swap(ctx context.Context, name string, version uint64, value []byte) (log.Cell, error) {
	if m.fail {
		return log.Cell{}, errors.New("etcd does not answer")
	}
	return m.world.Swap(ctx, name, version, value)
}

func TestAnAnswerThatCannotBeWrittenIsWrittenLater(t *testing.T) {
	w := newWorld(t)
	id := w.named(topicA, 0)
	if err := w.bucket.Bucket.Delete(t.Context(), id.Key()); err != nil {
		t.Fatal(err)
	}
	cells := &mute{world: w}
	c := w.collector(noScrub, func(d *gc.Deps) { d.Cells = cells })
	if err := gc.Ask(t.Context(), w, gc.Request{ID: "r", Kind: gc.AskForget, Objects: []string{id.Key()}}, false); err != nil {
		t.Fatal(err)
	}
	cells.fail = true
	if _, err := c.Step(t.Context()); err == nil {
		t.Fatal("the answer was written")
	}
	cells.fail = false
	c.settle()
	if a, err := gc.Answered(t.Context(), w, "r"); err != nil || a == nil || len(a.Lost) != 1 || a.Lost[0].End != 10 {
		t.Errorf("%+v, %v", a, err)
	}
}

// silent is a bucket that never answers what is asked of some objects, and counts what it is asked of locks.
type silent struct {
	*hooked
	objstore.LockConfig
	mute  func(key string) bool
	asked map[string]int
}

func (b *silent) ObjectLock(ctx context.Context, key string) (objstore.Lock, error) {
	b.asked[key]++
	if b.mute(key) {
		<-ctx.Done()
		return objstore.Lock{}, fmt.Errorf("%w: %w", objstore.ErrUnavailable, ctx.Err())
	}
	return b.LockConfig.ObjectLock(ctx, key)
}

func (b *silent) Head(ctx context.Context, key string) (objstore.Info, error) {
	b.asked[key]++
	if b.mute(key) {
		<-ctx.Done()
		return objstore.Info{}, fmt.Errorf("%w: %w", objstore.ErrUnavailable, ctx.Err())
	}
	return b.hooked.Head(ctx, key)
}

// A sweep ends whatever the bucket never answers, and what it does not know it keeps.
func TestASweepEndsWhereTheBucketDoesNotSay(t *testing.T) {
	for _, tc := range []struct {
		name    string
		mute    int // of 60 locked orphans
		unknown int
		breaker bool
		asked   int // at most, of all objects
	}{
		{name: "one object", mute: 1, unknown: 1, asked: 62},
		{name: "as many as are suspicious", mute: 11, unknown: 10, breaker: true, asked: 100},
		{name: "all", mute: 60, unknown: 10, breaker: true, asked: 30},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			put := w.locking(t)
			w.named(topicA, 0)
			for range 60 {
				put(100 * time.Hour)
			}
			for range 4 {
				w.upload(entry.UUID{})
			}
			w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
			w.archiveAll()
			cfg := noScrub
			cfg.OrphansFree, cfg.SweepInterval, cfg.FirstSweep, cfg.AskTimeout = 10, 100*time.Hour, time.Minute, time.Millisecond
			mute := make(map[string]bool)
			locks := w.bucket.Bucket.(*mem.Bucket)
			for _, key := range w.keys() {
				if lock, err := locks.ObjectLock(t.Context(), key); err == nil && lock.Mode != objstore.LockNone && len(mute) < tc.mute {
					mute[key] = true
				}
			}
			bucket := &silent{hooked: w.bucket, LockConfig: locks, asked: make(map[string]int), mute: func(key string) bool { return mute[key] }}
			c := w.collector(cfg, func(d *gc.Deps) { d.Bucket = bucket })
			if err := gc.Ask(t.Context(), w, gc.Request{ID: "r", Kind: gc.AskRun}, false); err != nil {
				t.Fatal(err)
			}
			c.pass(4 * time.Hour) // in pieces of five minutes, which is when it asks again
			a, err := gc.Answered(t.Context(), w, "r")
			if err != nil || a == nil || a.Sweep == nil {
				t.Fatalf("the sweep has not ended: %+v, %v, fault %q", a, err, c.Fault())
			}
			if s := a.Sweep; s.Unknown != tc.unknown || (s.Breaker != "") != tc.breaker {
				t.Errorf("%+v", s)
			}
			left := 65
			if !tc.breaker {
				left -= 4 // what no lock keeps
			}
			if n := len(w.keys()); n != left {
				t.Errorf("%d objects left, want %d", n, left)
			}
			all := 0
			for _, n := range bucket.asked {
				all += n
			}
			if all > tc.asked+4 {
				t.Errorf("%d questions", all)
			}
			if n := strings.Count(c.logged.String(), "does not say what a sweep asks"); n != 1 {
				t.Errorf("told %d times: %s", n, c.logged)
			}
		})
	}
}

// So does one that asks whether what was not listed is there: no object is missing because the bucket did not answer.
func TestASweepEndsWhereAnObjectIsNeitherListedNorThere(t *testing.T) {
	w := newWorld(t)
	id, gone := w.named(topicA, 0), w.named(topicA, 1)
	for _, id := range []entry.ObjectID{id, gone} {
		if err := w.bucket.Bucket.Delete(t.Context(), id.Key()); err != nil {
			t.Fatal(err)
		}
	}
	cfg := noScrub
	cfg.FirstSweep, cfg.AskTimeout = time.Minute, time.Millisecond
	bucket := &silent{hooked: w.bucket, LockConfig: w.bucket.Bucket.(*mem.Bucket), asked: make(map[string]int), mute: func(key string) bool { return key == id.Key() }}
	c := w.collector(cfg, func(d *gc.Deps) { d.Bucket = bucket })
	if err := gc.Ask(t.Context(), w, gc.Request{ID: "r", Kind: gc.AskRun}, false); err != nil {
		t.Fatal(err)
	}
	c.pass(20 * time.Minute)
	a, err := gc.Answered(t.Context(), w, "r")
	if err != nil || a == nil || a.Sweep == nil || a.Sweep.Unknown != 1 || a.Sweep.Missing != 1 {
		t.Fatalf("%+v, %v", a, err)
	}
	if !strings.Contains(c.Fault(), gone.Key()) || strings.Contains(c.Fault(), id.Key()) {
		t.Errorf("fault %q", c.Fault())
	}
}

// So does one of very many objects that are neither listed nor answered for.
func TestASweepEndsWhereNothingIsListedOrAnsweredFor(t *testing.T) {
	w := newWorld(t)
	const objects = 1010
	for range objects {
		id := w.named(topicA, 0)
		if err := w.bucket.Bucket.Delete(t.Context(), id.Key()); err != nil {
			t.Fatal(err)
		}
	}
	cfg := noScrub
	cfg.FirstSweep, cfg.AskTimeout = time.Minute, time.Microsecond
	bucket := &silent{hooked: w.bucket, LockConfig: w.bucket.Bucket.(*mem.Bucket), asked: make(map[string]int), mute: func(string) bool { return true }}
	c := w.collector(cfg, func(d *gc.Deps) { d.Bucket = bucket })
	if err := gc.Ask(t.Context(), w, gc.Request{ID: "r", Kind: gc.AskRun}, false); err != nil {
		t.Fatal(err)
	}
	c.pass(3 * time.Hour)
	a, err := gc.Answered(t.Context(), w, "r")
	if err != nil || a == nil || a.Sweep == nil {
		t.Fatalf("the sweep has not ended: %+v, %v, fault %q", a, err, c.Fault())
	}
	if s := a.Sweep; s.Unknown != 1000 || s.Missing != objects-1000 || c.Fault() == "" {
		t.Errorf("%+v, fault %q", s, c.Fault())
	}
}

// What locks keep is remembered up to a bound; beyond it the bucket is asked again, and nothing is deleted or takes the breaker for it.
func TestWhatLocksKeepIsRememberedUpToABound(t *testing.T) {
	w := newWorld(t)
	put := w.locking(t)
	w.named(topicA, 0)
	for range 60 {
		put(100 * time.Hour)
	}
	w.ok(&entry.BumpCollectionEpoch{From: 1}, &entry.BumpCollectionEpoch{From: 2})
	w.archiveAll()
	cfg := noScrub
	cfg.OrphansFree, cfg.SweepInterval, cfg.LocksKept = 10, time.Hour, 20
	bucket := &silent{hooked: w.bucket, LockConfig: w.bucket.Bucket.(*mem.Bucket), asked: make(map[string]int), mute: func(string) bool { return false }}
	c := w.collector(cfg, func(d *gc.Deps) { d.Bucket = bucket })
	c.pass(4 * time.Hour)
	if n := len(w.keys()); n != 61 || c.Fault() != "" {
		t.Errorf("%d objects left, fault %q", n, c.Fault())
	}
	once, again := 0, 0
	for _, n := range bucket.asked {
		if n == 1 {
			once++
		} else {
			again++
		}
	}
	if once < 20 || again < 10 {
		t.Errorf("%d were asked for once, %d again: want 20 remembered and others not", once, again)
	}
}
