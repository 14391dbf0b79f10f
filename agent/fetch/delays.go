package fetch

import (
	"slices"
	"sync"
	"time"
)

// delays remembers how long the last answers took. Safe for concurrent use.
type delays struct {
	mu     sync.Mutex // guards the rest
	last   [128]time.Duration
	count  int
	sorted [128]time.Duration // scratch
	high   time.Duration      // the 95th percentile, as of the last time it was worked out
}

// delaysEvery is after how many answers the percentile is worked out anew.
const delaysEvery = 16

func (d *delays) add(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last[d.count%len(d.last)] = took
	d.count++
	if d.count%delaysEvery != 0 {
		return
	}
	n := copy(d.sorted[:], d.last[:min(d.count, len(d.last))])
	slices.Sort(d.sorted[:n])
	d.high = d.sorted[n*95/100]
}

// percentile returns the 95th percentile of the last answers, within bounds; most while there were too few.
func (d *delays) percentile(least, most time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count < delaysEvery {
		return most
	}
	return min(max(d.high, least), most)
}
