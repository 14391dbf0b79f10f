package wal

import (
	"math/bits"
	"time"
)

// Stats is a snapshot of a log. Counters start at Open and only rise.
type Stats struct {
	Bytes, MaxBytes              int64 // disk space in use, and its bound
	DurableFiles, SpillFiles     int
	DurableFrames, SpillFrames   int    // not freed
	DurableAppends, DurableBytes uint64 // acknowledged; bytes with headers
	SpillAppends, SpillBytes     uint64
	Full                         uint64 // appends refused with ErrFull
	CleanupErrors                uint64 // files that could not be removed yet, or a spare that could not be made

	// Syncs counts fsyncs by duration: element i those below 128 µs << i, the last one the rest.
	Syncs        [SyncBuckets]uint64
	SyncLongest  time.Duration
	SyncTotal    time.Duration
	SyncingSince time.Time // when the fsync under way began; zero if none is. A late one is a stalled disk.

	// Failed is the last failure of a durable file, or nil. It stays.
	Failed error
}

// SyncBuckets is the number of elements of Stats.Syncs: the last but one ends at 8.4 s.
const SyncBuckets = 18

func (s *Stats) countSync(took time.Duration) {
	s.SyncingSince = time.Time{}
	s.SyncTotal += took
	s.SyncLongest = max(s.SyncLongest, took)
	i := bits.Len64(uint64(max(took, 0)/time.Microsecond) >> 7) //nolint:gosec // not negative
	s.Syncs[min(i, SyncBuckets-1)]++
}

// Stats returns a snapshot.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Bytes, s.MaxBytes = l.charged, l.opts.MaxBytes
	for _, f := range l.files {
		if f.kind == Durable {
			s.DurableFiles++
			s.DurableFrames += f.live
		} else {
			s.SpillFiles++
			s.SpillFrames += f.live
		}
	}
	return s
}
