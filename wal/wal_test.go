package wal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const dir = "/wal"

// small are options with files so small that every test rotates them.
func small() wal.Options {
	return wal.Options{Dir: dir, FileBytes: 8 << 10, MaxBytes: 128 << 10, FrameBytesMax: 2 << 10, BatchBytes: 4 << 10}
}

func newFS(seed uint64) *walfs.FS { return walfs.New(rand.New(rand.NewPCG(seed, 1))) }

func open(t testing.TB, fsys wal.FS, opts wal.Options) *wal.Log {
	t.Helper()
	l, err := wal.Open(t.Context(), fsys, opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *wal.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func appendFrame(t testing.TB, l *wal.Log, kind wal.Kind, n uint64, size int) wal.Ref {
	t.Helper()
	ref, err := l.Append(t.Context(), kind, tagOf(n), payloadOf(n, size))
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func tagOf(n uint64) []byte { return fmt.Appendf(nil, "tag-%d", n) }

// payloadOf is the payload of frame n: its number, then bytes that depend on it. size is at least 8.
func payloadOf(n uint64, size int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, n)
	r := rand.New(rand.NewPCG(n, 2))
	for len(b) < size {
		b = append(b, byte(r.Uint32()))
	}
	return b
}

// checkFrame fails unless tag and payload are those of one frame, and returns its number.
func checkFrame(t testing.TB, tag, payload []byte) uint64 {
	t.Helper()
	if len(payload) < 8 {
		t.Fatalf("payload of %d bytes", len(payload))
	}
	n := binary.LittleEndian.Uint64(payload)
	if !bytes.Equal(tag, tagOf(n)) || !bytes.Equal(payload, payloadOf(n, len(payload))) {
		t.Fatalf("frame %d was changed or invented", n)
	}
	return n
}

// recovered are the numbers of the recovered frames, in order, and their places.
func recovered(t testing.TB, l *wal.Log) (ns []uint64, refs map[uint64]wal.Ref) {
	t.Helper()
	refs = map[uint64]wal.Ref{}
	for f, err := range l.Recovered() {
		if err != nil {
			t.Fatal(err)
		}
		n := checkFrame(t, f.Tag, f.Payload)
		if _, ok := refs[n]; ok {
			t.Fatalf("frame %d recovered twice", n)
		}
		ns, refs[n] = append(ns, n), f.Ref
	}
	return ns, refs
}

func TestDurableFramesComeBackInOrder(t *testing.T) {
	fsys := newFS(1)
	l := open(t, fsys, small())
	var want []uint64
	refs := map[uint64]wal.Ref{}
	for n := range uint64(60) {
		refs[n] = appendFrame(t, l, wal.Durable, n, 8+int(n)*13)
		appendFrame(t, l, wal.Spill, 1000+n, 100)
		want = append(want, n)
		// Refs of no frame are ignored.
		l.Free(wal.Ref{File: 1 << 40, Position: refs[n].Position, Size: refs[n].Size})
		l.Free(wal.Ref{File: refs[n].File, Position: refs[n].Position + 4, Size: 64})
	}
	closeLog(t, l)
	closeLog(t, l)
	opts := small()
	opts.ID = l.ID()
	l = open(t, fsys, opts)
	got, gotRefs := recovered(t, l)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("recovered %v, want %v", got, want)
	}
	for n, ref := range gotRefs {
		if ref != refs[n] {
			t.Fatalf("frame %d moved from %v to %v", n, refs[n], ref)
		}
		b, err := l.Read(ref, nil)
		if err != nil || !bytes.Equal(b, payloadOf(n, len(b))) {
			t.Fatalf("read frame %d: %v", n, err)
		}
	}
	if s := l.Stats(); s.DurableFrames != len(want) || s.SpillFrames != 0 {
		t.Fatalf("stats %+v", s)
	}
	closeLog(t, l)
}

func TestFilesGoWhenTheirFramesAreFreed(t *testing.T) {
	for _, kind := range []wal.Kind{wal.Durable, wal.Spill} {
		t.Run(kind.String(), func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				fsys := newFS(1)
				l := open(t, fsys, small())
				defer closeLog(t, l)
				var refs []wal.Ref
				for n := range uint64(40) {
					refs = append(refs, appendFrame(t, l, kind, n, 1000))
				}
				faketime.Wait()
				names, _ := fsys.ReadDir(dir)
				before := l.Stats()
				for i, ref := range refs[:len(refs)-1] {
					if i == 0 {
						l.Free(ref) // twice in all: the second must not count
					}
					l.Free(ref)
				}
				faketime.Wait()
				after := l.Stats()
				if after.DurableFrames+after.SpillFrames != 1 || after.Bytes >= before.Bytes {
					t.Fatalf("%+v after freeing, %+v before", after, before)
				}
				left, _ := fsys.ReadDir(dir)
				if len(names)-len(left) < 8 {
					t.Fatalf("files %v, before %v", left, names)
				}
				if _, err := l.Read(refs[0], nil); !errors.Is(err, wal.ErrNotFound) {
					t.Fatalf("read of a freed frame: %v", err)
				}
				last := refs[len(refs)-1]
				if b, err := l.Read(last, nil); err != nil || !bytes.Equal(b, payloadOf(39, 1000)) {
					t.Fatalf("read of the frame in use: %v", err)
				}
			})
		})
	}
}

func TestReadTrustsNoRef(t *testing.T) {
	fsys := newFS(1)
	l := open(t, fsys, small())
	defer closeLog(t, l)
	ref := appendFrame(t, l, wal.Durable, 1, 100)
	for _, bad := range []wal.Ref{
		{},
		{File: ref.File + 9, Position: ref.Position, Size: ref.Size},
		{File: ref.File, Position: ref.Position + 8, Size: ref.Size},
		{File: ref.File, Position: -8, Size: ref.Size},
		{File: ref.File, Position: 1 << 62, Size: ref.Size},
		{File: ref.File, Position: ref.Position, Size: ref.Size + 1<<40},
		{File: ref.File, Position: ref.Position, Size: ref.Size - 8},
		{File: ref.File, Position: ref.Position, Size: -1},
	} {
		if b, err := l.Read(bad, nil); !errors.Is(err, wal.ErrNotFound) && !errors.Is(err, wal.ErrCorrupt) {
			t.Errorf("read of %+v: %q, %v", bad, b, err)
		}
	}
	dst := make([]byte, 0, ref.Size)
	b, err := l.Read(ref, dst)
	if err != nil || &b[0] != &dst[:1][0] {
		t.Fatalf("read did not use dst: %v", err)
	}
}

func TestReadFindsDamage(t *testing.T) {
	for _, kind := range []wal.Kind{wal.Durable, wal.Spill} {
		fsys := newFS(1)
		l := open(t, fsys, small())
		ref := appendFrame(t, l, kind, 1, 1000)
		if err := fsys.Flip(fmt.Sprintf("%s/%016x.%s", dir, ref.File, map[wal.Kind]string{1: "spill", 2: "wal"}[kind]),
			ref.Position+600, 3); err != nil {
			t.Fatal(err)
		}
		var damage *wal.CorruptError
		if _, err := l.Read(ref, nil); !errors.As(err, &damage) || damage.Position != ref.Position ||
			!strings.Contains(damage.File, fmt.Sprintf("%016x", ref.File)) {
			t.Fatalf("%v: %v", kind, err)
		}
		closeLog(t, l)
	}
}

func TestLargeAndEmptyFrames(t *testing.T) {
	fsys := newFS(1)
	opts := wal.Options{Dir: dir, FileBytes: 1 << 20, BatchBytes: 4 << 10}
	l := open(t, fsys, opts)
	maxPayload := 1<<20 - 4200
	for _, kind := range []wal.Kind{wal.Spill, wal.Durable} {
		for _, size := range []int{0, 1, 7, 63, 64 << 10, 100_001, maxPayload} {
			want := bytes.Repeat([]byte{byte(size)}, size)
			ref, err := l.Append(t.Context(), kind, nil, want[:size/3], nil, want[size/3:])
			if err != nil {
				t.Fatal(err)
			}
			if got, err := l.Read(ref, nil); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v of %d bytes: %v", kind, size, err)
			}
			l.Free(ref)
		}
		if _, err := l.Append(t.Context(), kind, nil, make([]byte, maxPayload+1)); !errors.Is(err, wal.ErrTooLarge) {
			t.Fatalf("too large: %v", err)
		}
		if _, err := l.Append(t.Context(), kind, make([]byte, 65), nil); !errors.Is(err, wal.ErrTooLarge) {
			t.Fatalf("tag too large: %v", err)
		}
	}
	if err := l.WaitSpace(t.Context(), wal.Spill, int64(maxPayload)+1); !errors.Is(err, wal.ErrTooLarge) {
		t.Fatalf("wait for the impossible: %v", err)
	}
	closeLog(t, l)
}

func TestFullLogIsBackPressure(t *testing.T) {
	for _, kind := range []wal.Kind{wal.Durable, wal.Spill} {
		t.Run(kind.String(), func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				l := open(t, newFS(1), small())
				var refs []wal.Ref
				for n, full := uint64(0), 0; full < 2; n++ {
					ref, err := l.Append(t.Context(), kind, tagOf(n), payloadOf(n, 1000))
					if errors.Is(err, wal.ErrFull) {
						full++
						faketime.Wait() // a spare that was in the making may give room for more
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					refs = append(refs, ref)
				}
				if s := l.Stats(); s.Bytes > s.MaxBytes || s.Full != 2 {
					t.Fatalf("stats %+v", s)
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := l.WaitSpace(ctx, kind, 1000); !errors.Is(err, context.Canceled) {
					t.Fatalf("full, yet WaitSpace said %v", err)
				}
				waited := make(chan error, 2)
				for range 2 {
					go func() { waited <- l.WaitSpace(t.Context(), kind, 1000) }()
				}
				faketime.Wait()
				if len(waited) != 0 {
					t.Fatal("WaitSpace did not wait")
				}
				for _, ref := range refs[:20] {
					l.Free(ref)
				}
				for range 2 {
					if err := <-waited; err != nil {
						t.Fatal(err)
					}
				}
				appendFrame(t, l, kind, 9999, 1000)

				for full := 0; full < 2; {
					if _, err := l.Append(t.Context(), kind, nil, make([]byte, 1000)); err != nil {
						full++
						faketime.Wait()
					}
				}
				go func() { waited <- l.WaitSpace(t.Context(), kind, 1000) }()
				faketime.Wait()
				closeLog(t, l)
				if err := <-waited; !errors.Is(err, wal.ErrClosed) {
					t.Fatalf("waiting over Close: %v", err)
				}
			})
		})
	}
}

// A spare takes its space before it can be used: whoever meets that moment is woken when it is over.
func TestSpareInTheMaking(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		fsys := newFS(1)
		l := open(t, fsys, small())
		gate := make(chan struct{})
		fsys.SetFault(func(op walfs.Op) error {
			if strings.HasSuffix(op.Name, "spare.tmp") && op.Kind == walfs.OpSync {
				<-gate
			}
			return nil
		})
		var err error
		for err == nil {
			_, err = l.Append(t.Context(), wal.Durable, nil, make([]byte, 1000))
			faketime.Wait()
		}
		if !errors.Is(err, wal.ErrFull) {
			t.Fatal(err)
		}
		waited := make(chan error, 1)
		go func() { waited <- l.WaitSpace(t.Context(), wal.Durable, 1000) }()
		faketime.Wait()
		if len(waited) != 0 {
			t.Fatal("WaitSpace did not wait")
		}
		close(gate)
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		appendFrame(t, l, wal.Durable, 1, 1000)
		closeLog(t, l)
	})
}

func TestOneSyncServesAllWaiters(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		fsys := newFS(1)
		opts := small()
		opts.FileBytes, opts.MaxBytes, opts.BatchBytes = 64<<10, 256<<10, 64<<10
		l := open(t, fsys, opts)
		gate, stalled := make(chan struct{}), false
		fsys.SetFault(func(op walfs.Op) error {
			if op.Kind == walfs.OpSync && strings.HasSuffix(op.Name, ".wal") && !stalled {
				stalled = true
				<-gate
			}
			return nil
		})
		acked := make(chan wal.Ref, 65)
		for n := range uint64(65) {
			go func() { acked <- appendFrame(t, l, wal.Durable, n, 100) }()
			faketime.Wait() // the first is being synced, the others queue
		}
		if s := l.Stats(); len(acked) != 0 || s.SyncingSince.IsZero() || s.DurableAppends != 0 {
			t.Fatalf("%d acknowledged before the fsync: %+v", len(acked), s)
		}
		before := syncs(l.Stats())
		close(gate)
		faketime.Wait()
		if n := syncs(l.Stats()) - before; len(acked) != 65 || n != 2 {
			t.Fatalf("%d acknowledged with %d fsyncs, want 65 with 2", len(acked), n)
		}
		closeLog(t, l)
		l = open(t, fsys, opts)
		if ns, _ := recovered(t, l); len(ns) != 65 {
			t.Fatalf("recovered %d", len(ns))
		}
		closeLog(t, l)
	})
}

func syncs(s wal.Stats) (n uint64) {
	for _, c := range s.Syncs {
		n += c
	}
	return n
}

// A stalled disk: the queue is bounded, spill goes on, contexts end, and Close acknowledges what was queued.
func TestStalledDisk(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		fsys := newFS(1)
		l := open(t, fsys, small())
		gate := make(chan struct{})
		fsys.SetFault(func(op walfs.Op) error {
			if op.Kind == walfs.OpSync {
				<-gate
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp, acked := make(chan error, 10), make(chan error, 10)
		for n := range uint64(10) {
			go func() {
				_, err := l.Append(ctx, wal.Durable, tagOf(n), payloadOf(n, 1500))
				gaveUp <- err
			}()
			faketime.Wait()
		}
		cancel()
		unknown := 0
		for range 10 {
			err := <-gaveUp
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if errors.Is(err, wal.ErrUnknown) {
				unknown++
			}
		}
		if unknown != 3 { // one being synced, two in a batch of 4 KiB, the others were not queued
			t.Fatalf("%d outcomes unknown, want 3", unknown)
		}
		appendFrame(t, l, wal.Spill, 100, 1000)
		go func() {
			_, err := l.Append(t.Context(), wal.Durable, tagOf(50), payloadOf(50, 100))
			acked <- err
		}()
		faketime.Wait()
		closed := make(chan error, 1)
		go func() { closed <- l.Close() }()
		faketime.Wait()
		if len(acked)+len(closed) != 0 {
			t.Fatal("acknowledged before the fsync")
		}
		if _, err := l.Append(t.Context(), wal.Spill, nil, nil); !errors.Is(err, wal.ErrClosed) {
			t.Fatalf("append while closing: %v", err)
		}
		close(gate)
		if err := errors.Join(<-closed, <-acked); err != nil {
			t.Fatal(err)
		}
		l = open(t, fsys, small())
		if _, refs := recovered(t, l); refs[50] == (wal.Ref{}) {
			t.Fatal("acknowledged frame is gone")
		}
		closeLog(t, l)
	})
}

// A frame whose appender went away is freed by the log, so it does not pin its file.
func TestAbandonedFrameIsFreed(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		fsys := newFS(1)
		l := open(t, fsys, small())
		defer closeLog(t, l)
		gate := make(chan struct{})
		fsys.SetFault(func(op walfs.Op) error {
			if op.Kind == walfs.OpSync {
				<-gate
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { _, err := l.Append(ctx, wal.Durable, nil, make([]byte, 100)); done <- err }()
		faketime.Wait()
		cancel()
		if err := <-done; !errors.Is(err, wal.ErrUnknown) || !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		close(gate)
		faketime.Wait()
		if s := l.Stats(); s.DurableAppends != 1 || s.DurableFrames != 0 {
			t.Fatalf("stats %+v", s)
		}
	})
}

func TestUseAfterClose(t *testing.T) {
	fsys := newFS(1)
	l := open(t, fsys, small())
	ref := appendFrame(t, l, wal.Durable, 1, 100)
	closeLog(t, l)
	l = open(t, fsys, small())
	closeLog(t, l)
	var err error
	for _, err = range l.Recovered() {
		break
	}
	if !errors.Is(err, wal.ErrClosed) {
		t.Errorf("recovered: %v", err)
	}
	for _, kind := range []wal.Kind{wal.Durable, wal.Spill} {
		if _, err := l.Append(t.Context(), kind, nil, nil); !errors.Is(err, wal.ErrClosed) {
			t.Errorf("append: %v", err)
		}
		if err := l.WaitSpace(t.Context(), kind, 1); !errors.Is(err, wal.ErrClosed) {
			t.Errorf("wait: %v", err)
		}
	}
	if _, err := l.Read(ref, nil); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	l.Free(ref)
}

func TestConcurrentUse(t *testing.T) {
	fsys := newFS(1)
	opts := small()
	opts.MaxBytes = 256 << 10
	l := open(t, fsys, opts)
	errs := make(chan error, 8)
	for g := range uint64(8) {
		go func() {
			errs <- func() error {
				for i := range uint64(300) {
					n, kind := g*1000+i, wal.Kind(1+i%2)
					ref, err := l.Append(context.Background(), kind, tagOf(n), payloadOf(n, 8+int(i)))
					if errors.Is(err, wal.ErrFull) {
						if err := l.WaitSpace(context.Background(), kind, 400); err != nil {
							return err
						}
						continue
					}
					if err != nil {
						return err
					}
					if b, err := l.Read(ref, nil); err != nil || !bytes.Equal(b, payloadOf(n, 8+int(i))) {
						return fmt.Errorf("read: %w", err)
					}
					l.Free(ref)
				}
				return nil
			}()
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if s := l.Stats(); s.DurableFrames+s.SpillFrames != 0 || s.Failed != nil {
		t.Errorf("stats %+v", s)
	}
	closeLog(t, l)
}

func TestOptionsReportEveryProblem(t *testing.T) {
	err := wal.Options{FileBytes: 5001, MaxBytes: 1, FrameBytesMax: 1, BatchBytes: -1, AfterFailure: 7}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"Dir", "FileBytes", "MaxBytes", "FrameBytesMax", "BatchBytes", "AfterFailure"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing from %q", want, err)
		}
	}
	if err := (wal.Options{Dir: dir}).Validate(); err != nil {
		t.Error(err)
	}
	if _, err := wal.Open(t.Context(), newFS(1), wal.Options{}); err == nil {
		t.Error("opened without a directory")
	}
}
