package wal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

// history is what the appenders know: what a crash must leave.
type history struct {
	mu    sync.Mutex
	id    [16]byte
	next  uint64
	acked map[uint64]wal.Ref
	freed map[uint64]bool
	spill []wal.Ref
}

func newHistory() *history { return &history{acked: map[uint64]wal.Ref{}, freed: map[uint64]bool{}} }

func (h *history) number() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	return h.next
}

func (h *history) append(t *testing.T, l *wal.Log, size int) {
	n := h.number()
	ref, err := l.Append(t.Context(), wal.Durable, tagOf(n), payloadOf(n, size))
	if err == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.acked[n] = ref
	}
}

func (h *history) free(l *wal.Log, keep func(n uint64) bool) {
	for n, ref := range h.acked {
		if !keep(n) {
			l.Free(ref)
			h.freed[n] = true
		}
	}
}

// run is the workload: it goes on whatever fails, as a caller under load would, and ends with the log closed.
func (h *history) run(t *testing.T, fsys wal.FS, opts wal.Options, rng *rand.Rand) {
	opts.ID = h.id
	l, err := wal.Open(t.Context(), fsys, opts)
	if err != nil {
		return
	}
	h.id = l.ID()
	for range 6 {
		h.append(t, l, 8+rng.IntN(1500))
		if ref, err := l.Append(t.Context(), wal.Spill, nil, make([]byte, rng.IntN(2000))); err == nil {
			h.spill = append(h.spill, ref)
		}
	}
	h.free(l, func(n uint64) bool { return n%5 == 0 })
	var group sync.WaitGroup
	for range 3 {
		sizes := []int{8 + rng.IntN(700), 8 + rng.IntN(700)}
		group.Go(func() {
			for _, size := range sizes {
				h.append(t, l, size)
			}
		})
	}
	group.Wait()
	h.free(l, func(n uint64) bool { return n%3 == 0 })
	for _, ref := range h.spill {
		l.Free(ref)
	}
	h.append(t, l, 8)
	_ = l.Close() // its errors are the crash's
}

// check opens the disk and compares what is recovered with the history: every acknowledged frame that was not freed is
// there, at its place and in order, and nothing is that was not appended.
func (h *history) check(t *testing.T, fsys wal.FS, opts wal.Options) *wal.Log {
	t.Helper()
	opts.ID = h.id
	l, err := wal.Open(t.Context(), fsys, opts)
	if err != nil {
		t.Fatalf("open after crash: %v", err)
	}
	ns, refs := recovered(t, l)
	for n, want := range h.acked {
		if got, ok := refs[n]; (!ok && !h.freed[n]) || ok && got != want {
			t.Fatalf("acknowledged frame %d at %+v (freed %v) was recovered at %+v (%v)", n, want, h.freed[n], got, ok)
		}
	}
	if !slices.IsSortedFunc(ns, func(a, b uint64) int { return comparePlaces(refs[a], refs[b]) }) {
		t.Fatalf("recovered out of order: %v", ns)
	}
	for _, n := range ns {
		if n > h.next {
			t.Fatalf("frame %d was invented", n)
		}
		// What was recovered once is acknowledged by that: the caller may act on it.
		h.acked[n] = refs[n]
		delete(h.freed, n)
	}
	return l
}

func comparePlaces(a, b wal.Ref) int {
	if a.File != b.File {
		return int(a.File) - int(b.File)
	}
	return int(a.Position - b.Position)
}

// cutAt turns the power off when operation n is about to happen, and reports in hit whether there was one.
func cutAt(fsys *walfs.FS, n int, hit *atomic.Bool) {
	fsys.SetFault(func(op walfs.Op) error {
		if op.N >= n {
			hit.Store(true)
			fsys.PowerOff()
			return walfs.ErrPowerOff
		}
		return nil
	})
}

var losses = []walfs.Loss{walfs.LoseNothing, walfs.LoseAll, walfs.LoseSome, walfs.LoseSome, walfs.LoseSome}

// TestPowerCutAtEveryOperation cuts the power before each operation of the workload on the disk, with several outcomes
// for what was not synced, and once more before a random operation of the recovery.
func TestPowerCutAtEveryOperation(t *testing.T) {
	for i, loss := range losses {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			cuts := 0
			for n, more := 0, true; more; n++ {
				var hit, again atomic.Bool
				rng := rand.New(rand.NewPCG(uint64(n), uint64(i)))
				h, disk := newHistory(), walfs.New(rng)
				work := rand.New(rand.NewPCG(uint64(n), 77))
				cutAt(disk, n, &hit)
				h.run(t, disk, small(), work)
				disk = disk.Restart(loss)

				cutAt(disk, work.IntN(30), &again)
				if l, err := wal.Open(t.Context(), disk, small()); err == nil {
					for range 3 {
						h.append(t, l, 100)
					}
					_ = l.Close() // the power may be off
				}
				disk = disk.Restart(loss)
				l := h.check(t, disk, small())
				h.append(t, l, 1000)
				closeLog(t, l)
				closeLog(t, h.check(t, disk, small()))
				cuts++
				more = hit.Load()
			}
			if cuts < 60 {
				t.Fatalf("the workload has only %d operations", cuts)
			}
		})
	}
}

// TestCrashesWithoutEnd crashes one log again and again, so that damage that one recovery leaves meets the next.
func TestCrashesWithoutEnd(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		work := rand.New(rand.NewPCG(seed, 4))
		h, disk := newHistory(), walfs.New(rng)
		for range 25 {
			var hit atomic.Bool
			cutAt(disk, work.IntN(120), &hit)
			h.run(t, disk, small(), work)
			disk = disk.Restart(losses[work.IntN(len(losses))])
			l := h.check(t, disk, small())
			h.free(l, func(n uint64) bool { return n+20 > h.next })
			closeLog(t, l)
			h.spill = nil
		}
	}
}

// TestFaultAtEveryOperation lets each operation fail once, then continues, then cuts the power.
func TestFaultAtEveryOperation(t *testing.T) {
	for _, policy := range []wal.FailurePolicy{wal.StopDurable, wal.NewFile} {
		for i, loss := range losses {
			t.Run(fmt.Sprint(policy, i), func(t *testing.T) {
				t.Parallel()
				opts := small()
				opts.AfterFailure = policy
				for n, more := 0, true; more; n++ {
					var hit atomic.Bool
					work := rand.New(rand.NewPCG(uint64(n), 78))
					h, disk := newHistory(), walfs.New(rand.New(rand.NewPCG(uint64(n), uint64(i))))
					disk.SetFault(func(op walfs.Op) error {
						if op.N == n {
							hit.Store(true)
							return errDisk
						}
						return nil
					})
					h.run(t, disk, opts, work)
					disk = disk.Restart(loss)
					closeLog(t, h.check(t, disk, opts))
					more = hit.Load()
					disk = disk.Restart(walfs.LoseAll) // what was recovered must have been on the disk by then
					closeLog(t, h.check(t, disk, opts))
				}
			})
		}
	}
}

var errDisk = errors.New("the disk says no")

// TestCrashLoopStaysBounded restarts a full log without end: each start needs a file, and none may add to the sum.
func TestCrashLoopStaysBounded(t *testing.T) {
	disk := newFS(1)
	for range 30 {
		l := open(t, disk, small())
		var err error
		for err == nil {
			_, err = l.Append(t.Context(), wal.Durable, nil, make([]byte, 1000))
		}
		if s := l.Stats(); !errors.Is(err, wal.ErrFull) || s.Bytes > s.MaxBytes+small().FileBytes {
			t.Fatalf("%v, stats %+v", err, s)
		}
		disk.PowerOff()
		_ = l.Close() // the power is off
		disk = disk.Restart(walfs.LoseSome)
	}
	names, err := disk.ReadDir(dir)
	sum := 0
	for _, n := range names {
		b, _ := disk.ReadFile(dir + "/" + n)
		sum += len(b)
	}
	if most := int(small().MaxBytes + 2*small().FileBytes); err != nil || sum > most {
		t.Fatalf("%d bytes in %v, want at most %d", sum, names, most)
	}
}
