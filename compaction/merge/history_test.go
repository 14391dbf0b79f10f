package merge_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/merge"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// load is what a cluster is given, evenly.
type load struct {
	name             string
	bytesPerSecond   int64
	flushesPerSecond float64
	topics           int
	perFlush         int // topics in one object
	partitions       int // of each topic
	retention        time.Duration
}

// history plays the planners of a cluster over days, without any bytes: windows are merged when they are due, and rows of territories
// after that. It follows the rows of a few topics, which stand for all.
type history struct {
	load
	rand     *rand.Rand
	now      time.Duration
	rules    merge.TierRules
	patience merge.Patience
	sample   int

	level0 []merge.Flushed
	seen   []time.Duration // when each of level0 was
	seq    uint64
	rows   [][][]state.Row // by topic of the sample and partition
	sizes  map[entry.ObjectID]int64

	flushed, produced             int64 // objects, bytes
	level0Most                    int
	windows                       int64
	windowPuts, windowGets        float64 // of all topics
	tierPuts, tierGets, tierBytes float64
	maxRows                       int
}

func newHistory(l load, sample int) *history {
	h := &history{
		load: l, rand: rand.New(rand.NewPCG(1, 1)), rules: merge.TierRules{}.WithDefaults(), sample: min(sample, l.topics),
		patience: merge.Patience{After: time.Minute, Longer: 10 * time.Minute, Most: time.Hour}, sizes: make(map[entry.ObjectID]int64),
	}
	for range h.sample {
		h.rows = append(h.rows, make([][]state.Row, l.partitions))
	}
	return h
}

func (h *history) id() entry.ObjectID {
	h.seq++
	return entry.ObjectID{Incarnation: [16]byte{1}, Seq: h.seq, Topic: entry.UUID{1}}
}

const mergeEvery = 5 * time.Second

// run plays until an age of the cluster.
func (h *history) run(until time.Duration) {
	credit := 0.0
	for ; h.now < until; h.now += mergeEvery {
		for credit += h.flushesPerSecond * mergeEvery.Seconds(); credit >= 1; credit-- {
			h.seq++
			size := int64(float64(h.bytesPerSecond) / h.flushesPerSecond)
			h.level0 = append(h.level0, merge.Flushed{ID: entry.ObjectID{Incarnation: [16]byte{2}, Seq: h.seq}, Size: size, Born: h.seq})
			h.seen = append(h.seen, h.now)
			h.flushed++
			h.produced += size
		}
		h.level0Most = max(h.level0Most, len(h.level0))
		for {
			windows := merge.Windows(h.level0, merge.BoundsFor(h.topics, 256<<20, 2<<30))
			if len(windows) == 0 || !h.patience.Due(&windows[0], h.now-h.seen[0], func() merge.Contents { return merge.Contents{Topics: h.topicsIn(len(windows[0].Objects))} }) {
				break
			}
			h.merge(&windows[0])
		}
	}
}

// topicsIn is of how many topics objects are: each flush takes the next perFlush.
func (h *history) topicsIn(objects int) int { return min(h.topics, h.perFlush*objects) }

func (h *history) merge(w *merge.Window) {
	n := len(w.Objects)
	h.level0, h.seen = slices.Delete(h.level0, 0, n), slices.Delete(h.seen, 0, n)
	topics := h.topicsIn(n)
	h.windows++
	h.windowGets += float64(n)
	share := w.Bytes / int64(topics)
	own := share/int64(h.partitions) >= 64<<20
	perTopic := float64(max(1, (share+(256<<20)-1)/(256<<20)))
	if own {
		perTopic = float64(h.partitions)
	}
	h.windowPuts += perTopic * float64(topics)
	for t := range h.rows {
		if float64(topics) <= h.rand.Float64()*float64(h.topics) {
			continue
		}
		id := h.id()
		for p := range h.rows[t] {
			size := max(1, int64(float64(share)/float64(h.partitions)*(0.5+h.rand.Float64())))
			if own {
				id = h.id()
			}
			h.push(t, p, id, size)
		}
		h.expire(t)
		h.tiers(t)
	}
}

func (h *history) push(t, p int, id entry.ObjectID, size int64) {
	rows := h.rows[t][p]
	base := int64(0)
	if n := len(rows); n > 0 {
		base = rows[n-1].End
	}
	h.sizes[id] += size
	h.rows[t][p] = append(rows, state.Row{Object: id, Base: base, End: base + 1, Size: size, MaxTimestamp: h.now.Milliseconds()})
}

func (h *history) expire(t int) {
	if h.retention == 0 {
		return
	}
	for p, rows := range h.rows[t] {
		gone := 0
		for gone < len(rows) && rows[gone].MaxTimestamp < (h.now-h.retention).Milliseconds() {
			gone++
		}
		h.rows[t][p] = slices.Delete(rows, 0, gone)
	}
}

// tiers does what Merger.planTiers and mergeTiers do for a topic's only territory.
func (h *history) tiers(t int) {
	span := merge.Span{}
	if h.retention > 0 {
		span.Dirty = min(h.retention/8, 7*24*time.Hour)
	}
	scale := float64(h.topics) / float64(h.sample)
	for {
		runs := make([]merge.Run, h.partitions)
		anyDue := false
		for p, rows := range h.rows[t] {
			var due bool
			runs[p], due = h.rules.Tier(rows, span, none)
			anyDue = anyDue || due
			h.maxRows = max(h.maxRows, len(rows))
		}
		if !anyDue {
			return
		}
		shared, sharedBytes := h.id(), int64(0)
		inputs := make(map[entry.ObjectID]int64)
		for p, run := range runs {
			if run.Rows() < 2 {
				continue
			}
			id := shared
			switch {
			case run.Bytes >= 64<<20:
				id = h.id()
				h.tierPuts += scale
			case sharedBytes == 0 || sharedBytes+run.Bytes > 256<<20:
				shared, sharedBytes = h.id(), 0
				id = shared
				h.tierPuts += scale
				fallthrough
			default:
				sharedBytes += run.Bytes
			}
			row := h.rows[t][p][run.Last]
			row.Base = h.rows[t][p][run.First].Base
			row.Object, row.Size = id, run.Bytes
			h.sizes[id] += run.Bytes
			for _, in := range h.rows[t][p][run.First : run.Last+1] {
				inputs[in.Object] += in.Size
			}
			h.rows[t][p] = slices.Replace(h.rows[t][p], run.First, run.Last+1, row)
			h.tierBytes += float64(run.Bytes) * scale
		}
		for id, bytes := range inputs {
			gets := float64((bytes + (8 << 20) - 1) / (8 << 20))
			if h.sizes[id] > 8<<20 {
				gets++ // the footer
			}
			h.tierGets += gets * scale
		}
	}
}

// figures are the cluster's, by now.
func (h *history) figures() (rows, objects float64, rowsOfPartition int) {
	named := make(map[entry.ObjectID]struct{})
	for _, topic := range h.rows {
		for _, p := range topic {
			rows += float64(len(p))
			rowsOfPartition = max(rowsOfPartition, len(p))
			for i := range p {
				named[p[i].Object] = struct{}{}
			}
		}
	}
	for id := range h.sizes {
		if _, ok := named[id]; !ok {
			delete(h.sizes, id)
		}
	}
	scale := float64(h.topics) / float64(h.sample)
	return rows * scale, float64(len(named)) * scale, rowsOfPartition
}

func (h *history) line() string {
	rows, objects, most := h.figures()
	gib := float64(h.produced) / (1 << 30)
	return fmt.Sprintf("%-28s day %4.1f: %9.1f GiB in %8d objects; level 0 at most %5d; rows %7.0f (most of a partition %3d); merged objects %6.0f; "+
		"bytes copied for each produced %.2f; PUT/GiB produce %8.1f merge %7.1f+%6.1f; GET/GiB merge %8.1f+%7.1f",
		h.name, h.now.Hours()/24, gib, h.flushed, h.level0Most, rows, most, objects, 1+h.tierBytes/float64(h.produced),
		float64(h.flushed)/gib, h.windowPuts/gib, h.tierPuts/gib, h.windowGets/gib, h.tierGets/gib)
}

// loads are 200 topics, and a few.
var loads = []load{
	{name: "trickle, 200 topics", bytesPerSecond: 20 << 10, flushesPerSecond: 1, topics: 200, perFlush: 20, partitions: 4, retention: 7 * 24 * time.Hour},
	{name: "trickle, kept for ever", bytesPerSecond: 20 << 10, flushesPerSecond: 1, topics: 200, perFlush: 20, partitions: 4},
	{name: "10 MB/s, 200 topics", bytesPerSecond: 10e6, flushesPerSecond: 4, topics: 200, perFlush: 200, partitions: 4, retention: 7 * 24 * time.Hour},
	{name: "10 MB/s, kept for ever", bytesPerSecond: 10e6, flushesPerSecond: 4, topics: 200, perFlush: 200, partitions: 4},
	{name: "80 MB/s, 200 topics", bytesPerSecond: 80e6, flushesPerSecond: 9.6, topics: 200, perFlush: 200, partitions: 4, retention: 7 * 24 * time.Hour},
	{name: "80 MB/s, 10 topics", bytesPerSecond: 80e6, flushesPerSecond: 9.6, topics: 10, perFlush: 10, partitions: 8, retention: 7 * 24 * time.Hour},
	{name: "one topic, a byte a second", bytesPerSecond: 1, flushesPerSecond: 0.1, topics: 1, perFlush: 1, partitions: 1, retention: 7 * 24 * time.Hour},
}

// TestHistoryStaysSmall plays a day of each load: rows and objects are few, and merging makes fewer requests than producing.
func TestHistoryStaysSmall(t *testing.T) {
	for _, l := range loads {
		t.Run(l.name, func(t *testing.T) {
			if l.flushesPerSecond > 5 {
				l.bytesPerSecond, l.flushesPerSecond = l.bytesPerSecond/4, l.flushesPerSecond/4 // a test takes a second
			}
			h := newHistory(l, 1)
			h.run(24 * time.Hour)
			t.Log(h.line())
			rows, objects, most := h.figures()
			full := float64(h.produced) / (128 << 20)
			if most > 80+int(full) || rows > float64(l.topics*l.partitions)*80+full || objects > rows {
				t.Errorf("%v rows, %d of a partition, %v objects", rows, most, objects)
			}
			if puts := h.windowPuts + h.tierPuts; puts > 1.5*float64(h.flushed) {
				t.Errorf("%.0f PUTs for %d of producers", puts, h.flushed)
			}
			if copied := h.tierBytes / float64(h.produced); copied > 6 {
				t.Errorf("%.1f bytes copied again for each produced", copied)
			}
		})
	}
}

// BenchmarkMonth plays a month of each load and prints the curve: go test ./compaction/merge -run '^$' -bench Month -benchtime 1x
func BenchmarkMonth(b *testing.B) {
	for _, l := range loads {
		b.Run(l.name, func(b *testing.B) {
			for range b.N {
				h := newHistory(l, 2)
				for _, day := range []time.Duration{1, 2, 4, 8, 15, 30} {
					h.run(day * 24 * time.Hour)
					b.Log(h.line())
				}
			}
		})
	}
}
