package wal_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

// failOnce makes the next operation of the kind on the durable file of ref fail. The keeper makes the next file meanwhile,
// and must not be the one that it strikes.
func failOnce(fsys *walfs.FS, ref wal.Ref, kind walfs.OpKind, err error) {
	name := walName(ref)
	fsys.SetFault(func(op walfs.Op) error {
		if op.Kind == kind && op.Name == name {
			fsys.SetFault(nil)
			return err
		}
		return nil
	})
}

// walName is the path of the durable file that ref lies in.
func walName(ref wal.Ref) string { return fmt.Sprintf("%s/%016x.wal", dir, ref.File) }

// A failed write or fsync is final for its file, whatever the error: the appender learns that the outcome is unknown,
// the file is never synced again, and the policy decides about later appends.
func TestFailureIsFinalForTheFile(t *testing.T) {
	for _, kind := range []walfs.OpKind{walfs.OpWrite, walfs.OpSync} {
		for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
			for _, policy := range []wal.FailurePolicy{wal.StopDurable, wal.NewFile} {
				t.Run(fmt.Sprint(kind, cause, policy), func(t *testing.T) {
					fsys, opts := newFS(1), small()
					opts.AfterFailure = policy
					l := open(t, fsys, opts)
					first := appendFrame(t, l, wal.Durable, 1, 100)
					failOnce(fsys, first, kind, cause)
					_, err := l.Append(t.Context(), wal.Durable, tagOf(2), payloadOf(2, 100))
					if !errors.Is(err, wal.ErrFailed) || !errors.Is(err, wal.ErrUnknown) || !errors.Is(err, cause) {
						t.Fatalf("append: %v", err)
					}
					if s := l.Stats(); !errors.Is(s.Failed, cause) {
						t.Fatalf("stats: %v", s.Failed)
					}
					failed := walName(first)
					fsys.SetFault(func(op walfs.Op) error {
						if op.Name == failed && op.Kind != walfs.OpRemove {
							t.Errorf("%s of the failed file", op.Kind)
						}
						return nil
					})
					ref, err := l.Append(t.Context(), wal.Durable, tagOf(3), payloadOf(3, 100))
					switch policy {
					case wal.StopDurable:
						if !errors.Is(err, wal.ErrFailed) || errors.Is(err, wal.ErrUnknown) || !errors.Is(err, cause) {
							t.Fatalf("append after failure: %v", err)
						}
					case wal.NewFile:
						if err != nil || ref.File == first.File {
							t.Fatalf("append after failure: %+v, %v", ref, err)
						}
					}
					if _, err := l.Read(first, nil); err != nil {
						t.Fatalf("acknowledged frame of the failed file: %v", err)
					}
					appendFrame(t, l, wal.Spill, 4, 100)
					closeLog(t, l)

					l = open(t, fsys.Restart(walfs.LoseAll), opts)
					defer closeLog(t, l)
					want := map[wal.FailurePolicy]string{wal.StopDurable: "[1]", wal.NewFile: "[1 3]"}[policy]
					ns, _ := recovered(t, l)
					ns = slices.DeleteFunc(ns, func(n uint64) bool { return n == 2 }) // unknown is unknown
					if fmt.Sprint(ns) != want {
						t.Fatalf("recovered %v, want %s", ns, want)
					}
				})
			}
		}
	}
}

// The kernel shows pages of a failed fsync as clean though the disk never got them. A process that starts anew reads
// them, and must not take a second fsync's word.
func TestRecoveryDoesNotTrustCleanPages(t *testing.T) {
	for seed := range uint64(20) {
		fsys := newFS(seed)
		l := open(t, fsys, small())
		first := appendFrame(t, l, wal.Durable, 1, 100)
		failOnce(fsys, first, walfs.OpSync, syscall.EIO)
		if _, err := l.Append(t.Context(), wal.Durable, tagOf(2), payloadOf(2, 2000)); !errors.Is(err, wal.ErrUnknown) {
			t.Fatal(err)
		}
		closeLog(t, l)
		fsys = fsys.Restart(walfs.LoseNothing)
		l = open(t, fsys, small())
		if ns, _ := recovered(t, l); len(ns) != 2 {
			t.Fatalf("recovered %v", ns)
		}
		closeLog(t, l)
		l = open(t, fsys.Restart(walfs.LoseAll), small())
		if ns, _ := recovered(t, l); len(ns) != 2 {
			t.Fatalf("seed %d: after the power cut only %v is left", seed, ns)
		}
		closeLog(t, l)
	}
}

func TestDiskFullWhenAFileIsMade(t *testing.T) {
	for _, kind := range []wal.Kind{wal.Durable, wal.Spill} {
		t.Run(kind.String(), func(t *testing.T) {
			fsys := newFS(1)
			l := open(t, fsys, small())
			fsys.SetCapacity(40 << 10)
			var refs []wal.Ref
			var err error
			for n := uint64(0); err == nil; n++ {
				var ref wal.Ref
				if ref, err = l.Append(t.Context(), kind, tagOf(n), payloadOf(n, 1000)); err == nil {
					refs = append(refs, ref)
				}
			}
			if !errors.Is(err, wal.ErrFailed) || !errors.Is(err, syscall.ENOSPC) || errors.Is(err, wal.ErrUnknown) {
				t.Fatal(err)
			}
			fsys.SetCapacity(0)
			appendFrame(t, l, kind, 1000, 1000)
			for i, ref := range refs {
				if b, err := l.Read(ref, nil); err != nil || checkFrame(t, tagOf(uint64(i)), b) != uint64(i) {
					t.Fatalf("read: %v", err)
				}
			}
			if s := l.Stats(); s.Bytes > s.MaxBytes || s.Failed != nil {
				t.Fatalf("stats %+v", s)
			}
			closeLog(t, l)
		})
	}
}

func TestFailedSpillWriteLosesOneFrame(t *testing.T) {
	for _, size := range []int{100, 100_000} {
		fsys := newFS(1)
		l := open(t, fsys, wal.Options{Dir: dir, FileBytes: 1 << 20})
		before := appendFrame(t, l, wal.Spill, 1, 100)
		fsys.SetFault(func(op walfs.Op) error {
			if op.Kind == walfs.OpWrite {
				fsys.SetFault(nil)
				return syscall.EIO
			}
			return nil
		})
		if _, err := l.Append(t.Context(), wal.Spill, nil, make([]byte, size)); !errors.Is(err, wal.ErrFailed) {
			t.Fatal(err)
		}
		after := appendFrame(t, l, wal.Spill, 2, 100)
		if after.File == before.File {
			t.Fatal("the failed file is still in use")
		}
		for n, ref := range map[uint64]wal.Ref{1: before, 2: after} {
			if b, err := l.Read(ref, nil); err != nil || checkFrame(t, tagOf(n), b) != n {
				t.Fatalf("read: %v", err)
			}
		}
		if s := l.Stats(); s.SpillFrames != 2 {
			t.Fatalf("stats %+v", s)
		}
		closeLog(t, l)
	}
}

// A file that cannot be removed still counts, and is tried again.
func TestRemoveIsTriedAgain(t *testing.T) {
	fsys := newFS(1)
	l := open(t, fsys, small())
	fsys.SetFault(func(op walfs.Op) error {
		if op.Kind == walfs.OpRemove {
			return syscall.EIO
		}
		return nil
	})
	var refs []wal.Ref
	for n := uint64(0); ; n++ {
		ref, err := l.Append(t.Context(), wal.Spill, tagOf(n), payloadOf(n, 1000))
		if errors.Is(err, wal.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	for _, ref := range refs[:12] {
		l.Free(ref)
	}
	fsys.SetFault(nil)
	for _, ref := range refs[12:] {
		l.Free(ref)
	}
	if err := l.WaitSpace(t.Context(), wal.Spill, 1000); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	names, err := fsys.ReadDir(dir)
	if err != nil || strings.Contains(strings.Join(names, " "), "spill") {
		t.Fatalf("left over: %v %v", names, err)
	}
}
