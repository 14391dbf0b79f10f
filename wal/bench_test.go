package wal_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/firnlog/firn/wal"
)

// BenchmarkAppend appends frames of 16 KiB to a log on the file system of the temporary directory, and frees each.
func BenchmarkAppend(b *testing.B) {
	payload := payloadOf(1, 16<<10)
	for _, kind := range []wal.Kind{wal.Spill, wal.Durable} {
		for _, appenders := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%v/appenders=%d", kind, appenders), func(b *testing.B) {
				l := open(b, wal.OS(), wal.Options{Dir: b.TempDir()})
				defer closeLog(b, l)
				b.SetBytes(int64(len(payload)))
				b.ReportAllocs()
				var left atomic.Int64
				left.Store(int64(b.N))
				var group sync.WaitGroup
				b.ResetTimer()
				for range appenders {
					group.Go(func() {
						for left.Add(-1) >= 0 {
							if err := appendAndFree(l, kind, payload); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				group.Wait()
				b.StopTimer()
				if s := l.Stats(); kind == wal.Durable {
					b.ReportMetric(float64(s.DurableAppends)/float64(syncs(s)), "frames/sync")
				}
			})
		}
	}
}

func appendAndFree(l *wal.Log, kind wal.Kind, payload []byte) error {
	for {
		ref, err := l.Append(context.Background(), kind, payload[:16], payload)
		if !errors.Is(err, wal.ErrFull) {
			l.Free(ref)
			return err
		}
		if err := l.WaitSpace(context.Background(), kind, int64(len(payload))); err != nil {
			return err
		}
	}
}

func BenchmarkRead(b *testing.B) {
	payload := payloadOf(1, 16<<10)
	l := open(b, wal.OS(), wal.Options{Dir: b.TempDir()})
	defer closeLog(b, l)
	ref, err := l.Append(context.Background(), wal.Spill, nil, payload)
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, ref.Size)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Read(ref, dst); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen recovers a log of four files.
func BenchmarkOpen(b *testing.B) {
	opts := wal.Options{Dir: b.TempDir(), FileBytes: 16 << 20}
	l := open(b, wal.OS(), opts)
	payload := payloadOf(1, 16<<10)
	for range 3000 {
		if _, err := l.Append(context.Background(), wal.Durable, nil, payload); err != nil {
			b.Fatal(err)
		}
	}
	closeLog(b, l)
	b.SetBytes(3000 * int64(len(payload)))
	for b.Loop() {
		closeLog(b, open(b, wal.OS(), opts))
	}
}

// TestAppendAllocatesNothing: neither kind allocates per frame once the buffers have grown.
func TestAppendAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops items at random under the race detector")
	}
	payload := payloadOf(1, 16<<10)
	for _, kind := range []wal.Kind{wal.Spill, wal.Durable} {
		l := open(t, wal.OS(), wal.Options{Dir: t.TempDir()})
		var err error
		run := func() { err = errors.Join(err, appendAndFree(l, kind, payload)) }
		run()
		for l.Stats().Bytes < 128<<20 && kind == wal.Durable { // until the keeper has charged and filled the spare
			run()
		}
		if n := testing.AllocsPerRun(200, run); n > 0 || err != nil {
			t.Errorf("%v: %v allocations a frame (%v)", kind, n, err)
		}
		closeLog(t, l)
	}
}
