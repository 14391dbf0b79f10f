package etcdlog_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
)

// patience bounds every wait: reaching it is a failure.
const patience = 30 * time.Second

// agent commits contiguous seqs of one incarnation.
type agent struct {
	*etcdlog.Log
	identity log.Identity
	reg      log.Registration
	key      log.Key // of the last commit
}

func join(t testing.TB, l *etcdlog.Log, incarnation byte) *agent {
	t.Helper()
	a := &agent{Log: l, key: log.Key{Incarnation: log.Incarnation{incarnation}}}
	var err error
	if a.identity, err = l.Identity(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.reg, err = l.Register(t.Context(), a.key.Incarnation, nil, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *agent) commit(ctx context.Context, value []byte) (log.Outcome, error) {
	a.key.Seq++
	return a.Commit(ctx, a.identity, a.key, value)
}

func (a *agent) mustCommit(t testing.TB, n int) {
	t.Helper()
	for range n {
		if got, err := a.commit(t.Context(), []byte("v")); err != nil || got != log.Committed {
			t.Fatalf("commit %s: outcome %d, %v", a.key, got, err)
		}
	}
}

func readAll(t testing.TB, l *etcdlog.Log, after uint64) ([]log.Entry, log.Cursor) {
	t.Helper()
	entries, cursor, more, err := l.Read(t.Context(), after, nil, 1<<30)
	if err != nil || more {
		t.Fatalf("read after %d: more=%v, %v", after, more, err)
	}
	return entries, cursor
}

var errEnough = errors.New("enough")

// watchTo watches until it has seen n, and checks that all from after+1 come in order.
func watchTo(ctx context.Context, l *etcdlog.Log, from log.Cursor, after, n uint64) error {
	err := l.Watch(ctx, from, func(entries []log.Entry) error {
		for _, e := range entries {
			if e.N != after+1 {
				return fmt.Errorf("n=%d after %d", e.N, after)
			}
			after = e.N
		}
		if after >= n {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func TestCompactionUnderAWatchLosesItAndReadRecovers(t *testing.T) {
	s := server(t, etcdembed.Options{Dir: t.TempDir()})
	a := join(t, open(t, etcdlog.Options{Endpoints: s.Endpoints()}), 1)
	a.mustCommit(t, 3)
	_, old := readAll(t, a.Log, 0)
	a.mustCommit(t, 3)
	_, now := readAll(t, a.Log, 0)
	if _, err := client(t, s).Compact(t.Context(), now.Revision); err != nil {
		t.Fatal(err)
	}
	if err := watchTo(t.Context(), a.Log, old, 3, 6); !errors.Is(err, log.ErrWatchLost) {
		t.Fatalf("watch of compacted history: %v", err)
	}
	entries, cursor, more, err := a.Read(t.Context(), 3, map[log.Incarnation]uint64{a.key.Incarnation: 3}, 1<<20)
	if err != nil || more || len(entries) != 3 || entries[0].N != 4 {
		t.Fatalf("read %d entries, more=%v, %v", len(entries), more, err)
	}
	// Without hints the numbers would have to be proven from history that is gone.
	if _, _, _, err := a.Read(t.Context(), 3, nil, 1<<20); !errors.Is(err, log.ErrTrimmed) {
		t.Errorf("read of what cannot be proven: %v", err)
	}
	a.mustCommit(t, 2)
	if err := watchTo(t.Context(), a.Log, cursor, 6, 8); err != nil {
		t.Fatal(err)
	}
}

func TestTrimCompactsAndWhatRemainsCanStillBeWatched(t *testing.T) {
	s := server(t, etcdembed.Options{Dir: t.TempDir()})
	a := join(t, open(t, etcdlog.Options{Endpoints: s.Endpoints(), CompactInterval: time.Nanosecond}), 1)
	_, start := readAll(t, a.Log, 0)
	a.mustCommit(t, 4)
	_, between := readAll(t, a.Log, 0)
	a.mustCommit(t, 4)
	var keys []log.Key
	for seq := range uint64(4) {
		keys = append(keys, log.Key{Incarnation: a.key.Incarnation, Seq: seq + 1})
	}
	if err := a.Trim(t.Context(), keys, log.Cursor{Revision: math.MaxInt64}); err != nil {
		t.Fatal(err)
	}
	if err := watchTo(t.Context(), a.Log, start, 0, 8); !errors.Is(err, log.ErrWatchLost) {
		t.Errorf("nothing was compacted: %v", err)
	}
	if err := watchTo(t.Context(), a.Log, between, 4, 8); err != nil {
		t.Errorf("more was compacted than was trimmed: %v", err)
	}
	// Without hints Read has to prove the numbers, from the head's history.
	if entries, _ := readAll(t, a.Log, 4); len(entries) != 4 {
		t.Errorf("read %d entries", len(entries))
	}
}

// counter counts log messages with a given text.
type counter struct {
	slog.Handler
	text  string
	count atomic.Int64
}

func (c *counter) Enabled(context.Context, slog.Level) bool { return true }

func (c *counter) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, c.text) {
		c.count.Add(1)
	}
	return nil
}

// A foreign compaction may pass the revision that a read is pinned to: the read starts over.
func TestReadsSurviveCompactions(t *testing.T) {
	s := server(t, etcdembed.Options{Dir: t.TempDir()})
	passed := &counter{Handler: slog.DiscardHandler, text: "compaction passed"}
	a := join(t, open(t, etcdlog.Options{Endpoints: s.Endpoints(), Logger: slog.New(passed)}), 1)
	a.mustCommit(t, 100)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := client(t, s)
	turns := make(chan struct{})
	var compacting sync.WaitGroup
	defer compacting.Wait()
	defer close(turns)
	compacting.Go(func() {
		for range turns { // one compaction a read: it falls somewhere inside
			put, err := c.Put(ctx, "any", "")
			if err == nil {
				_, err = c.Compact(ctx, put.Header.GetRevision())
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	for reads := 0; reads < 10 || passed.count.Load() == 0; reads++ {
		turns <- struct{}{}
		entries, _, more, err := a.Read(ctx, 0, nil, 1<<20)
		if err != nil || more || len(entries) != 100 {
			t.Fatalf("%d entries, more=%v, %v", len(entries), more, err)
		}
	}
}

func TestRestartOfTheServer(t *testing.T) {
	o := etcdembed.Options{Dir: t.TempDir()}
	s := server(t, o)
	o.Listen = strings.TrimPrefix(s.Endpoints()[0], "http://")
	a := join(t, open(t, etcdlog.Options{Endpoints: s.Endpoints()}), 1)
	b := open(t, etcdlog.Options{Endpoints: s.Endpoints()})
	a.mustCommit(t, 5)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	applied, cursor := uint64(0), log.Cursor{}
	started, done := make(chan struct{}), make(chan error, 1)
	go func() { // what an agent does: watch, and after a loss read and watch anew
		var once sync.Once
		for {
			err := b.Watch(ctx, cursor, func(entries []log.Entry) error {
				for _, e := range entries {
					if e.N == applied+1 {
						applied = e.N
					} else if e.N > applied {
						return fmt.Errorf("n=%d after %d", e.N, applied)
					}
				}
				if once.Do(func() { close(started) }); applied == 10 {
					return errEnough
				}
				return nil
			})
			if !errors.Is(err, log.ErrWatchLost) {
				done <- err
				return
			}
			for {
				entries, c, _, err := b.Read(ctx, applied, nil, 1<<20)
				if err == nil {
					applied, cursor = applied+uint64(len(entries)), c
					break
				}
				if !errors.Is(err, log.ErrUnavailable) || ctx.Err() != nil {
					done <- err
					return
				}
			}
		}
	}()
	<-started
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	a.key.Seq++
	short, cancelShort := context.WithTimeout(ctx, 100*time.Millisecond)
	_, err := a.Commit(short, a.identity, a.key, []byte("v"))
	cancelShort()
	if !errors.Is(err, log.ErrUnavailable) {
		t.Fatalf("commit without a server: %v", err)
	}
	server(t, o)
	// The same key until the outcome is definite. The registration has outlived the server.
	for {
		outcome, err := a.Commit(ctx, a.identity, a.key, []byte("v"))
		if err == nil {
			if outcome != log.Committed && outcome != log.Exists {
				t.Fatalf("outcome %d", outcome)
			}
			break
		}
		if !errors.Is(err, log.ErrUnavailable) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-a.reg.Lost():
		t.Fatal("the registration was given up though etcd has it")
	default:
	}
	a.mustCommit(t, 4)
	if err := <-done; !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
}

func TestSlowConsumerLosesTheWatchAfterWhatItWasGiven(t *testing.T) {
	o := far()
	o.WatchBufferBytes = 4 << 10
	a := join(t, open(t, o), 1)
	_, cursor := readAll(t, a.Log, 0)
	a.mustCommit(t, 1)
	const burst, burstsMax = 20, 100
	var got uint64
	committed := uint64(1)
	err := a.Watch(t.Context(), cursor, func(entries []log.Entry) error {
		got += uint64(len(entries))
		if got < committed {
			return nil
		}
		// All of it came so far: where etcd's answers trail the commits, this consumer is not slow enough yet.
		if committed > burst*burstsMax {
			return errors.New("the watch was never lost")
		}
		for range burst {
			if _, err := a.commit(t.Context(), make([]byte, 1<<10)); err != nil {
				return err
			}
			committed++
		}
		return nil
	})
	if !errors.Is(err, log.ErrWatchLost) || !strings.Contains(err.Error(), "slow") {
		t.Fatalf("got %v", err)
	}
	if got < 2 || got >= committed {
		t.Errorf("%d of %d entries were delivered", got, committed)
	}
	if entries, _ := readAll(t, a.Log, got); got+uint64(len(entries)) != committed {
		t.Errorf("read %d entries after %d", len(entries), got)
	}
}

// gate is a TCP proxy that can stop carrying what the server says, without closing anything.
type gate struct {
	net.Listener
	target string

	mu    sync.Mutex // guards shut and conns
	shut  chan struct{}
	conns []net.Conn
	tasks sync.WaitGroup
}

func newGate(t *testing.T, endpoint string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: l, target: strings.TrimPrefix(endpoint, "http://")}
	g.tasks.Go(g.accept)
	t.Cleanup(func() {
		g.open()
		_ = l.Close()
		g.mu.Lock()
		for _, c := range g.conns {
			_ = c.Close()
		}
		g.mu.Unlock()
		g.tasks.Wait()
	})
	return g
}

func (g *gate) endpoint() string { return "http://" + g.Addr().String() }

func (g *gate) accept() {
	for {
		near, err := g.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", g.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		g.mu.Lock()
		g.conns = append(g.conns, near, far)
		g.mu.Unlock()
		g.tasks.Go(func() {
			_, _ = io.Copy(far, near)
			_ = far.Close()
		})
		g.tasks.Go(func() {
			defer near.Close()
			buf := make([]byte, 32<<10)
			for {
				n, err := far.Read(buf)
				if err != nil {
					return
				}
				g.mu.Lock()
				shut := g.shut
				g.mu.Unlock()
				if shut != nil {
					<-shut
				}
				if _, err := near.Write(buf[:n]); err != nil {
					return
				}
			}
		})
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

func TestLostAnswerIsUnknownAndTheRetryFindsItsEntry(t *testing.T) {
	g := newGate(t, shared.server.Endpoints()[0])
	o := far()
	witness := open(t, o)
	o.Endpoints = []string{g.endpoint()}
	a := join(t, open(t, o), 1)
	a.mustCommit(t, 1)

	g.close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan error, 1)
	_, cursor := readAll(t, witness, 0)
	go func() {
		seen <- watchTo(t.Context(), witness, cursor, 1, 2)
		cancel() // the entry is there; its proposer waits in vain
	}()
	if _, err := a.commit(ctx, []byte("v")); !errors.Is(err, log.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	if err := <-seen; err != nil {
		t.Fatal(err)
	}
	g.open()
	if got, err := a.Commit(t.Context(), a.identity, a.key, []byte("v")); err != nil || got != log.Exists {
		t.Fatalf("retry: outcome %d, %v", got, err)
	}
	if n, err := a.Head(t.Context()); err != nil || n != 2 {
		t.Fatalf("head %d, %v", n, err)
	}
}

func TestSilentConnectionLosesTheWatchAndTheNextTakesAnotherEndpoint(t *testing.T) {
	g := newGate(t, shared.server.Endpoints()[0])
	o := far()
	a := join(t, open(t, o), 1)
	_, cursor := readAll(t, a.Log, 0)
	o.Endpoints = []string{shared.server.Endpoints()[0], g.endpoint()}
	o.WatchSilence = time.Second
	l := open(t, o)
	var once sync.Once
	err := l.Watch(t.Context(), cursor, func([]log.Entry) error { // the first watch is of the second endpoint
		once.Do(g.close)
		return nil
	})
	if !errors.Is(err, log.ErrWatchLost) {
		t.Fatalf("got %v", err)
	}
	a.mustCommit(t, 1)
	if err := watchTo(t.Context(), l, cursor, 0, 1); err != nil {
		t.Fatalf("with one endpoint silent: %v", err)
	}
}

func TestFullStoreIsUnknown(t *testing.T) {
	s := server(t, etcdembed.Options{Dir: t.TempDir(), QuotaBytes: 4 << 20})
	a := join(t, open(t, etcdlog.Options{Endpoints: s.Endpoints()}), 1)
	for range 32 {
		outcome, err := a.commit(t.Context(), make([]byte, log.MaxValueBytes))
		if err == nil && outcome == log.Committed {
			continue
		}
		if !errors.Is(err, log.ErrUnavailable) || !strings.Contains(err.Error(), "space") {
			t.Fatalf("outcome %d, %v", outcome, err)
		}
		st, err := a.Status(t.Context())
		if err != nil || !strings.Contains(st[s.Endpoints()[0]+" alarms"], "NOSPACE") {
			t.Errorf("status %v, %v", st, err)
		}
		// The way out is open.
		if err := a.Trim(t.Context(), []log.Key{{Incarnation: a.key.Incarnation, Seq: 1}}, log.Cursor{Revision: math.MaxInt64}); err != nil {
			t.Errorf("trim: %v", err)
		}
		if err := a.reg.Close(t.Context()); err != nil {
			t.Errorf("close the registration: %v", err)
		}
		return
	}
	t.Fatal("32 MiB fit in 4")
}

func TestDeletedRegistrationIsNoticedAndTakesItsCells(t *testing.T) {
	s := server(t, etcdembed.Options{Dir: t.TempDir()})
	l := open(t, etcdlog.Options{Endpoints: s.Endpoints(), Prefix: "/p"})
	reg, err := l.Register(t.Context(), log.Incarnation{1}, nil, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Swap(t.Context(), "held", 0, nil, reg); err != nil {
		t.Fatal(err)
	}
	// An operator's hand, which leaves the lease as it is.
	if _, err := client(t, s).Delete(t.Context(), "/p/agents/"+log.Incarnation{1}.String()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-reg.Lost():
	case <-time.After(patience):
		t.Fatal("not noticed")
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		c, err := l.Load(t.Context(), "held")
		if err != nil || time.Now().After(end) {
			t.Fatalf("the cell is still %+v, %v", c, err)
		}
		if c.Version == 0 {
			return
		}
	}
}
