package metastore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
)

// bent is a log that answers as its fields say.
type bent struct {
	log.Log
	refuse atomic.Bool   // whatever is asked
	full   atomic.Bool   // no commit gets in
	back   atomic.Uint64 // how far the head has gone back
}

func (b *bent) refused() error {
	if b.refuse.Load() {
		return fmt.Errorf("%w: etcdserver: permission denied", log.ErrRefused)
	}
	return nil
}

func (b *bent) Head(ctx context.Context) (uint64, error) {
	if err := b.refused(); err != nil {
		return 0, err
	}
	n, err := b.Log.Head(ctx)
	return n - b.back.Load(), err
}

func (b *bent) Commit(ctx context.Context, i log.Identity, key log.Key, value []byte) (log.Outcome, error) {
	if err := b.refused(); err != nil {
		return 0, fmt.Errorf("%w: %w", log.ErrUnavailable, err)
	}
	if b.full.Load() {
		return 0, fmt.Errorf("%w: %w: database space exceeded", log.ErrUnavailable, log.ErrFull)
	}
	return b.Log.Commit(ctx, i, key, value)
}

func (b *bent) Read(ctx context.Context, after uint64, last map[log.Incarnation]uint64, maxBytes int) ([]log.Entry, log.Cursor, bool, error) {
	if err := b.refused(); err != nil {
		return nil, log.Cursor{}, false, err
	}
	return b.Log.Read(ctx, after, last, maxBytes)
}

func (b *bent) Register(ctx context.Context, i log.Incarnation, info []byte, ttl time.Duration) (log.Registration, error) {
	if err := b.refused(); err != nil {
		return nil, err
	}
	return b.Log.Register(ctx, i, info, ttl)
}

// openBent starts a client over a bent log.
func (c *cluster) openBent() (*metastore.Client, *bent) {
	c.t.Helper()
	l := c.store.Open("a")
	b := &bent{Log: l}
	cl, err := metastore.Open(c.t.Context(), c.config("a"), b, c.bucket)
	if err != nil {
		c.t.Fatal(err)
	}
	c.logs[cl] = l
	return cl, b
}

func createTopic(name string) *entry.CreateTopic {
	var id entry.UUID
	copy(id[4:], name)
	id[0] = 1
	return &entry.CreateTopic{Name: name, ID: id, Partitions: 1}
}

func topics(c *metastore.Client) (names []string) {
	c.View(func(st *state.State) {
		for t := range st.Topics() {
			names = append(names, t.Name)
		}
	})
	return names
}

// etcd brought back from an older copy has a shorter log: whoever has applied more leaves service within moments, lest it apply
// what others write under numbers that were taken.
func TestALogThatWentBackEndsTheClient(t *testing.T) {
	bubble(t, 70, func(t *testing.T, c *cluster) {
		a, l := c.openBent()
		if _, err := a.Propose(t.Context(), createTopic("t")); err != nil {
			t.Fatal(err)
		}
		l.back.Store(1)
		select {
		case <-a.Failed():
		case <-time.After(5 * time.Second):
			t.Fatal("it goes on")
		}
		err := a.Err()
		if !errors.Is(err, metastore.ErrForeign) || !strings.Contains(err.Error(), "went back") || !strings.Contains(err.Error(), "restore") {
			t.Errorf("ended with %v", err)
		}
		if got := topics(a); len(got) != 1 {
			t.Errorf("what was applied can no longer be read: %v", got)
		}
		c.close(a)
	})
}

// A right that is taken away while agents run is an outage, not their end: when it is back, what was waiting is committed.
func TestARightThatIsTakenAwayIsAnOutage(t *testing.T) {
	bubble(t, 71, func(t *testing.T, c *cluster) {
		a, l := c.openBent()
		if _, err := a.Propose(t.Context(), createTopic("before")); err != nil {
			t.Fatal(err)
		}
		l.refuse.Store(true)
		done := make(chan error, 1)
		a.Submit(createTopic("during"), func(_ state.OpResult, err error) { done <- err })
		time.Sleep(time.Minute)
		if err := a.Err(); err != nil {
			t.Fatalf("ended with %v", err)
		}
		if why := a.Degraded(); !strings.Contains(why, "permission denied") {
			t.Errorf("degraded: %q", why)
		}
		if err := a.Barrier(t.Context()); err == nil {
			t.Error("a barrier without an answer of etcd's")
		}
		l.refuse.Store(false)
		if err := <-done; err != nil {
			t.Errorf("what was waiting: %v", err)
		}
		time.Sleep(5 * time.Second)
		if why := a.Degraded(); why != "" {
			t.Errorf("degraded after the end of it: %q", why)
		}
		if got := topics(a); len(got) != 2 {
			t.Errorf("topics: %v", got)
		}
		c.close(a)
	})
}

func TestARightThatIsMissingAtTheStartIsRefused(t *testing.T) {
	bubble(t, 72, func(t *testing.T, c *cluster) {
		l := c.store.Open("a")
		b := &bent{Log: l}
		b.refuse.Store(true)
		_, err := metastore.Open(t.Context(), c.config("a"), b, c.bucket)
		if !errors.Is(err, log.ErrRefused) {
			t.Errorf("open: %v", err)
		}
		_ = l.Close()
	})
}

// A store that is full answers reads and takes no writes: the client says so, and goes on by itself once there is room.
func TestAFullStoreIsNamedAndRecovers(t *testing.T) {
	bubble(t, 73, func(t *testing.T, c *cluster) {
		a, l := c.openBent()
		l.full.Store(true)
		done := make(chan error, 1)
		a.Submit(createTopic("t"), func(_ state.OpResult, err error) { done <- err })
		time.Sleep(10 * time.Second)
		if why := a.Degraded(); !strings.Contains(why, "space exceeded") {
			t.Errorf("degraded: %q", why)
		}
		if err := a.Barrier(t.Context()); err != nil {
			t.Errorf("a read: %v", err)
		}
		l.full.Store(false)
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		if why := a.Degraded(); why != "" {
			t.Errorf("degraded after the end of it: %q", why)
		}
		c.close(a)
	})
}

// Callers that give up during an outage take their ops back: there wait as many as there are callers, and none is carried out
// long after anybody cared. The one in the entry under way is the exception: its outcome is unknown.
func TestWhoGivesUpTakesItsOpBack(t *testing.T) {
	bubble(t, 74, func(t *testing.T, c *cluster) {
		a := c.open("a")
		c.logs[a].SetFaults(memlog.Faults{Partitioned: true})
		for i := range 200 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := a.Propose(ctx, createTopic(fmt.Sprintf("t%d", i))); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("op %d: %v", i, err)
			}
			cancel()
			withdraw := a.Offer(createTopic(fmt.Sprintf("offered%d", i)), func(state.OpResult, error) { t.Errorf("offer %d was answered after it was taken back", i) })
			withdraw()
		}
		c.logs[a].SetFaults(memlog.Faults{})
		if _, err := a.Propose(t.Context(), createTopic("after")); err != nil {
			t.Fatal(err)
		}
		faketime.Wait()
		if got := topics(a); len(got) > 2 {
			t.Errorf("%d topics were made, of which nobody waited for %v", len(got), got)
		}
		c.close(a)
	})
}

// Ops of Offer share entries where there are many; one alone is not made to wait, and no other op waits for them.
func TestOffersShareEntries(t *testing.T) {
	bubble(t, 75, func(t *testing.T, c *cluster) {
		a := c.open("a")
		answered := make(chan struct{}, 3000)
		offer := func(i int) {
			a.Offer(createTopic(fmt.Sprintf("t%d", i)), func(r state.OpResult, err error) {
				if err != nil || r.Code != state.OK {
					t.Errorf("op %d: %v, %v", i, r.Code, err)
				}
				answered <- struct{}{}
			})
		}
		before := a.Applied()
		began := time.Now()
		for i := range 1000 {
			offer(i)
			time.Sleep(time.Millisecond)
		}
		for range 1000 {
			<-answered
		}
		if n := a.Applied() - before; n > 250 {
			t.Errorf("1000 ops in %s made %d entries", time.Since(began), n)
		}
		time.Sleep(time.Second)
		began = time.Now()
		offer(1000)
		<-answered
		alone := time.Since(began)
		began = time.Now()
		offer(1001) // soon after an entry: it waits, unless another op comes
		if _, err := a.Propose(t.Context(), createTopic("other")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > alone+4*time.Millisecond {
			t.Errorf("an op took %s beside an offer, an offer alone %s", took, alone)
		}
		<-answered
		c.close(a)
	})
}

// Where others propose too, ops of Offer go along with them and make no entries of their own.
func TestOffersGoAlongWithOthers(t *testing.T) {
	bubble(t, 76, func(t *testing.T, c *cluster) {
		a := c.open("a")
		const others, each = 100, 40
		answered := make(chan struct{}, others*(each+1))
		done := func(r state.OpResult, err error) {
			if err != nil || r.Code != state.OK {
				t.Errorf("%v, %v", r.Code, err)
			}
			answered <- struct{}{}
		}
		before := a.Applied()
		for i := range others {
			for k := range each {
				a.Offer(createTopic(fmt.Sprintf("o%d-%d", i, k)), done)
				time.Sleep(8 * time.Millisecond / each)
			}
			a.Submit(createTopic(fmt.Sprintf("s%d", i)), done)
		}
		for range cap(answered) {
			<-answered
		}
		if n := a.Applied() - before; n > others+2 {
			t.Errorf("%d ops of Submit, and %d of Offer between them, made %d entries", others, others*each, n)
		}
		c.close(a)
	})
}

// hold has an entry under way for as long as the test does not wait: what is proposed meanwhile shares the next one.
func (c *cluster) hold(cl *metastore.Client) {
	c.logs[cl].SetFaults(memlog.Faults{LatencyMax: time.Second})
	cl.Submit(createTopic("held"), func(state.OpResult, error) {})
	faketime.Wait()
	c.logs[cl].SetFaults(memlog.Faults{})
}

// Ops of Submit are answered before those of Offer in the same entry, behind each of which stands somebody who wakes up.
func TestOffersAreAnsweredLast(t *testing.T) {
	bubble(t, 79, func(t *testing.T, c *cluster) {
		a := c.open("a")
		before := a.Applied()
		c.hold(a)
		answered := make(chan string, 22)
		done := func(who string) func(state.OpResult, error) {
			return func(r state.OpResult, err error) {
				if err != nil || r.Code != state.OK {
					t.Errorf("%s: %v, %v", who, r.Code, err)
				}
				answered <- who
			}
		}
		for i := range 20 {
			a.Offer(createTopic(fmt.Sprintf("o%d", i)), done("offered"))
		}
		a.Submit(createTopic("s1"), done("first"))
		a.Submit(createTopic("s2"), done("second"))
		for _, want := range append([]string{"first", "second"}, slices.Repeat([]string{"offered"}, 20)...) {
			if got := <-answered; got != want {
				t.Fatalf("%s was answered, want %s", got, want)
			}
		}
		if n := a.Applied() - before; n != 2 { // and the one that was under way
			t.Errorf("%d entries, want 2: the test proves nothing", n)
		}
		c.close(a)
	})
}

// They are answered last, and applied in their turn: what a group commits before it changes is judged by what it was.
func TestOffersAreAppliedInOrder(t *testing.T) {
	bubble(t, 80, func(t *testing.T, c *cluster) {
		a := c.open("a")
		before := a.Applied()
		c.hold(a)
		answered := make(chan string, 3)
		done := func(who string, want state.Code) func(state.OpResult, error) {
			return func(r state.OpResult, err error) {
				if err != nil || r.Code != want {
					t.Errorf("%s: %v, %v, want %v", who, r.Code, err, want)
				}
				answered <- who
			}
		}
		a.Offer(createTopic("same"), done("offered", state.OK))
		a.Submit(createTopic("same"), done("submitted", state.TopicExists))
		a.Offer(createTopic("same"), done("offered after it", state.TopicExists))
		for _, want := range []string{"submitted", "offered", "offered after it"} {
			if got := <-answered; got != want {
				t.Errorf("%s was answered, want %s", got, want)
			}
		}
		if n := a.Applied() - before; n != 2 { // and the one that was under way
			t.Errorf("%d entries, want 2: the test proves nothing", n)
		}
		c.close(a)
	})
}

// Many commits a second make a hundred entries, which is what producers beside them may have to wait for.
func TestManyOffersMakeAHundredEntriesASecond(t *testing.T) {
	bubble(t, 77, func(t *testing.T, c *cluster) {
		a := c.open("a")
		before := a.Applied()
		answered := make(chan struct{}, 5000)
		for i := range 5000 {
			a.Offer(createTopic(fmt.Sprintf("t%d", i)), func(r state.OpResult, err error) {
				if err != nil || r.Code != state.OK {
					t.Errorf("op %d: %v, %v", i, r.Code, err)
				}
				answered <- struct{}{}
			})
			time.Sleep(200 * time.Microsecond)
		}
		for range 5000 {
			<-answered
		}
		if n := a.Applied() - before; n > 105 {
			t.Errorf("5000 ops in a second made %d entries", n)
		}
		c.close(a)
	})
}

// Ops of Offer that fill an entry do not wait for more.
func TestOffersThatFillEntriesDoNotWait(t *testing.T) {
	bubble(t, 78, func(t *testing.T, c *cluster) {
		a := c.open("a", func(cfg *metastore.Config) { cfg.EntryBytes = 1 << 10 })
		answered := make(chan struct{}, 4000)
		began := time.Now()
		for i := range cap(answered) {
			a.Offer(createTopic(fmt.Sprintf("t%d", i)), func(r state.OpResult, err error) {
				if err != nil || r.Code != state.OK {
					t.Errorf("op %d: %v, %v", i, r.Code, err)
				}
				answered <- struct{}{}
			})
		}
		for range cap(answered) {
			<-answered
		}
		if took := time.Since(began); took > 100*time.Millisecond { // the log takes no time here, and these are some 200 entries
			t.Errorf("what filled entries many times over took %s", took)
		}
		c.close(a)
	})
}
