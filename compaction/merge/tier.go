package merge

import (
	"math"
	"time"

	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// TierRules bound what merging merged rows makes of them.
type TierRules struct {
	// Fan is how many neighbouring rows make one, and Growth how many times the largest of them it has to be. The first keeps the
	// number of rows logarithmic, the second how often a byte is copied.
	Fan    int
	Growth int64
	// Full is the size (raw bytes) at which a row is left alone; a row half as large is, too, where its neighbours would make it larger
	// than that.
	Full int64
	// Crowd is how many neighbouring rows that are not full a partition may have, whatever their sizes and times.
	Crowd int
}

// Defaults of TierRules.
func (r TierRules) withDefaults() TierRules {
	set(&r.Fan, 8)
	set(&r.Growth, 6)
	set(&r.Full, 256<<20)
	set(&r.Crowd, 64)
	return r
}

// forTopic are the rules for a topic. Under an object lock every copy is kept, and paid for, until the lock has run out: rows become one
// when they make a full one, or are very many.
func (r TierRules) forTopic(s topicconfig.Settings) TierRules {
	if s.Locked() {
		const patient = 32
		r.Fan *= patient
		r.Crowd = max(r.Crowd, 2*r.Fan)
	}
	return r
}

// within are the rules where no more than so many bytes can be merged at once: what no run could take up is left alone.
func (r TierRules) within(bytes int64) TierRules {
	r.Full = max(1, min(r.Full, bytes/3*2)) // runs have up to half as much again
	return r
}

// Run is a range of a partition's rows, [First, Last], that are to become one row.
type Run struct {
	First, Last int
	Bytes       int64 // raw
}

// Rows is how many rows the run has.
func (r *Run) Rows() int { return r.Last - r.First + 1 }

// Tier looks for rows of a partition that are to become one. rows ascend; those of level 0, of a WAL and full ones are in nobody's
// run, nor are those that are barred, and cleaned rows are in none with others. span bounds the log time that a row may cover, so that
// retention, which drops whole rows, keeps none much longer than it must.
//
// Where nothing is due the run that is nearest to it, if it is at least half as long, comes with due false: it may be merged along
// with others, so that the partitions of an object move together and do not end in objects of their own.
func (r TierRules) Tier(rows []state.Row, span Span, barred func(*state.Row) bool) (run Run, due bool) {
	mergeable := func(row *state.Row) bool { return r.mergeable(row) && !barred(row) }
	best := Run{Last: -1}
	for first := 0; first < len(rows); {
		if !mergeable(&rows[first]) {
			first++
			continue
		}
		end := first + 1
		for end < min(len(rows), first+stretchMax) && mergeable(&rows[end]) && rows[end].Cleaned == rows[first].Cleaned {
			end++
		}
		bound := span.Dirty
		if rows[first].Cleaned {
			bound = span.Cleaned
		}
		found, isDue := r.stretch(rows, first, end, bound)
		if isDue && (!due || found.cheaper(&best)) || !due && found.Rows() > best.Rows() {
			best, due = found, isDue
		}
		first = end
	}
	return best, due
}

// stretchMax bounds the work of one look. What lies behind is looked at when this is merged.
const stretchMax = 1024

// mergeable tells rows that may become part of another.
func (r TierRules) mergeable(row *state.Row) bool {
	return row.Object.Merged() && !row.InWAL && row.Size < r.Full/2
}

// cheaper orders runs by what a row less costs.
func (r *Run) cheaper(than *Run) bool {
	return float64(r.Bytes)*float64(than.Rows()-1) < float64(than.Bytes)*float64(r.Rows()-1)
}

// stretch looks at an unbroken stretch of rows [first, end) that may be merged.
func (r TierRules) stretch(rows []state.Row, first, end int, span time.Duration) (best Run, due bool) {
	best = Run{Last: -1}
	for i := first; i < end; i++ {
		var bytes, largest int64
		earliest, latest := int64(math.MaxInt64), int64(math.MinInt64)
		if i > 0 { // a row begins where the one before it ended
			earliest = rows[i-1].MaxTimestamp
		}
		for j := i; j < end; j++ {
			if bytes += rows[j].Size; bytes > r.Full+r.Full/2 {
				break
			}
			largest = max(largest, rows[j].Size)
			earliest, latest = min(earliest, rows[j].MaxTimestamp), max(latest, rows[j].MaxTimestamp)
			if span > 0 && latest-earliest > span.Milliseconds() && j > i {
				break
			}
			found := Run{First: i, Last: j, Bytes: bytes}
			isDue := found.Rows() >= r.Fan && bytes >= r.Growth*largest || found.Rows() > 1 && bytes >= r.Full
			isNear := 2*found.Rows() >= r.Fan && 2*bytes >= r.Growth*largest
			if isDue && (!due || found.cheaper(&best)) || isNear && !due && found.Rows() > best.Rows() {
				best, due = found, isDue
			}
		}
	}
	if due || end-first <= r.Crowd {
		return best, due
	}
	return r.cheapest(rows, first, end), true
}

// cheapest is the run of up to Fan rows with the fewest bytes for a row less: where sizes or times of rows never fit, their number is
// bounded all the same.
func (r TierRules) cheapest(rows []state.Row, first, end int) Run {
	best := Run{Last: -1}
	for i := first; i < end; i++ {
		run := Run{First: i, Last: i - 1}
		for j := i; j < min(end, i+r.Fan) && run.Bytes+rows[j].Size <= r.Full+r.Full/2; j++ {
			run.Last, run.Bytes = j, run.Bytes+rows[j].Size
		}
		if run.Rows() > 1 && (best.Last < 0 || run.cheaper(&best)) {
			best = run
		}
	}
	return best
}

// Span is the log time that a merged row may cover; 0: any.
type Span struct {
	Dirty   time.Duration // rows that key compaction has not been over
	Cleaned time.Duration
}

// SpanFor is the span for a topic. Retention by time may keep a row by this much too long: an eighth of retention.ms. segment.ms bounds
// it as it bounds a file of Kafka's, which is deleted as a whole, too, and which key compaction leaves alone while it is written.
func SpanFor(s topicconfig.Settings) Span {
	var span Span
	if kept := s.EffectiveRetentionMS(); kept >= 0 {
		span.Cleaned = milliseconds(min(kept/8, s.SegmentMS))
		span.Dirty = span.Cleaned
	} else if s.Compact {
		span.Dirty = milliseconds(s.SegmentMS)
	}
	return span
}

func milliseconds(ms int64) time.Duration {
	return time.Duration(max(1, min(ms, math.MaxInt64/int64(time.Millisecond)))) * time.Millisecond
}
