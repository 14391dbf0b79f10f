package merge_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/merge"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
)

const mib = 1 << 20

// rowsOf makes merged rows of these sizes, a minute apart; 0 is a row of level 0.
func rowsOf(sizes ...int64) []state.Row {
	rows := make([]state.Row, len(sizes))
	for i, size := range sizes {
		rows[i] = state.Row{
			Object: entry.ObjectID{Seq: uint64(i + 1), Topic: entry.UUID{1}}, Base: int64(i * 10), End: int64(i*10 + 10),
			Size: size, MaxTimestamp: int64(i) * 60_000,
		}
		if size == 0 {
			rows[i].Size, rows[i].Object.Topic = 1000, entry.UUID{}
		}
	}
	return rows
}

func repeat(n int, size int64) []int64 { return slices.Repeat([]int64{size}, n) }

func none(*state.Row) bool { return false }

func TestTier(t *testing.T) {
	r := merge.TierRules{}.WithDefaults()
	for name, c := range map[string]struct {
		rows        []state.Row
		span        merge.Span
		first, last int
		due         bool
	}{
		"nothing":                          {rows: nil, last: -1},
		"one":                              {rows: rowsOf(mib), last: -1},
		"too few, but near":                {rows: rowsOf(repeat(7, mib)...), first: 0, last: 6},
		"eight":                            {rows: rowsOf(repeat(8, mib)...), first: 0, last: 7, due: true},
		"small ones behind a large one":    {rows: rowsOf(append([]int64{100 * mib}, repeat(8, mib)...)...), first: 1, last: 8, due: true},
		"one dwarfs the others":            {rows: rowsOf(append([]int64{100 * mib}, repeat(7, mib)...)...), first: 1, last: 7},
		"full ones are left alone":         {rows: rowsOf(repeat(20, 200*mib)...), last: -1},
		"two make a full one":              {rows: rowsOf(127*mib, mib, 127*mib, 2*mib), first: 0, last: 3, due: true},
		"level 0 is a barrier":             {rows: rowsOf(append(repeat(7, mib), 0, mib)...), first: 0, last: 6},
		"behind a barrier":                 {rows: rowsOf(append([]int64{mib, 0}, repeat(8, mib)...)...), first: 2, last: 9, due: true},
		"the cheapest first":               {rows: rowsOf(append(repeat(8, 20*mib), repeat(8, mib)...)...), first: 8, last: 15, due: true},
		"a span of time that is too short": {rows: rowsOf(repeat(8, mib)...), span: merge.Span{Dirty: 3 * time.Minute}, first: 0, last: 3},
		"a span of time that fits":         {rows: rowsOf(repeat(10, mib)...), span: merge.Span{Dirty: 8 * time.Minute}, first: 0, last: 8, due: true},
		"a crowd that never fits":          {rows: rowsOf(repeat(65, mib)...), span: merge.Span{Dirty: time.Second}, first: 0, last: 7, due: true},
	} {
		t.Run(name, func(t *testing.T) {
			run, due := r.Tier(c.rows, c.span, none)
			if due != c.due || run.Last != c.last || run.Last >= 0 && run.First != c.first {
				t.Errorf("%+v, due %v", run, due)
			}
		})
	}
	t.Run("cleaned and dirty never mix", func(t *testing.T) {
		rows := rowsOf(repeat(12, mib)...)
		for i := range 6 {
			rows[i].Cleaned = true
		}
		if run, due := r.Tier(rows, merge.Span{}, none); due {
			t.Errorf("%+v", run)
		}
		for i := range rows {
			rows[i].Cleaned = i < 10
		}
		if run, due := r.Tier(rows, merge.Span{Dirty: 1, Cleaned: 0}, none); !due || run.Last > 9 {
			t.Errorf("%+v, due %v", run, due)
		}
	})
	t.Run("what cannot be read is a barrier", func(t *testing.T) {
		rows := rowsOf(repeat(15, mib)...)
		if run, due := r.Tier(rows, merge.Span{}, func(row *state.Row) bool { return row.Base == 70 }); due {
			t.Errorf("%+v", run)
		}
	})
	t.Run("what is in a WAL is a barrier", func(t *testing.T) {
		rows := rowsOf(repeat(15, mib)...)
		rows[7].InWAL = true
		if run, due := r.Tier(rows, merge.Span{}, none); due {
			t.Errorf("%+v", run)
		}
	})
}

// TestTiersSettle: whatever comes, merging ends, each row that it makes keeps the rules, and rows stay few.
func TestTiersSettle(t *testing.T) {
	rules := merge.TierRules{}.WithDefaults()
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 0))
		span := merge.Span{}
		if seed%3 == 0 {
			span = merge.Span{Dirty: time.Duration(1+r.IntN(300)) * time.Minute}
			span.Cleaned = span.Dirty
		}
		var rows []state.Row
		var copied, produced int64
		at := int64(0)
		for step := range 900 {
			size := int64(1 + r.IntN(mib))
			switch seed % 4 {
			case 1: // bursts
				if r.IntN(20) == 0 {
					size *= 100
				}
			case 2: // every size
				size = int64(1) << r.IntN(28)
			}
			row := state.Row{
				Object: entry.ObjectID{Seq: uint64(step + 1), Topic: entry.UUID{1}}, Base: at, End: at + 1, Size: size,
				MaxTimestamp: int64(step) * 60_000, Cleaned: step < int(seed)*20,
			}
			if seed%5 == 4 {
				row.MaxTimestamp = r.Int64N(1 << 40) // producers write what they like
			}
			at++
			produced += size
			rows = append(rows, row)
			for n := 0; ; n++ {
				run, due := rules.Tier(rows, span, none)
				if !due {
					break
				}
				if n > len(rows)+100 {
					t.Fatalf("seed %d: it does not end", seed)
				}
				merged := rows[run.First : run.Last+1]
				row := merged[0]
				row.Size, row.End, row.Position = 0, merged[len(merged)-1].End, 0
				for i := range merged {
					if merged[i].Cleaned != row.Cleaned || merged[i].Size >= rules.Full/2 {
						t.Fatalf("seed %d: %+v among those that are merged", seed, merged[i])
					}
					row.Size += merged[i].Size
					row.MaxTimestamp = max(row.MaxTimestamp, merged[i].MaxTimestamp)
				}
				if row.Size != run.Bytes || row.Size > rules.Full*3/2 || len(merged) < 2 {
					t.Fatalf("seed %d: %d rows of %d bytes, said to be %+v", seed, len(merged), row.Size, run)
				}
				copied += row.Size
				rows = slices.Replace(rows, run.First, run.Last+1, row)
			}
			full, small := 0, 0
			for i := range rows {
				if rows[i].Size >= rules.Full/2 {
					full++
				} else {
					small++
				}
			}
			// Full rows may part the others into stretches, but each is bounded, and full ones are few by their bytes.
			if most := (full + 2) * (rules.Crowd + 1); small > most {
				t.Fatalf("seed %d: %d rows that are not full, beside %d full ones", seed, small, full)
			}
			if seed%4 == 0 && seed%3 != 0 && seed%5 != 4 && len(rows) > 60+int(produced/(rules.Full/2)) {
				t.Fatalf("seed %d: %d rows for %d MiB that came evenly", seed, len(rows), produced>>20)
			}
		}
		if seed%3 != 0 && seed%5 != 4 && copied > 8*produced {
			t.Errorf("seed %d: %.1f bytes copied for each that was produced", seed, float64(copied)/float64(produced))
		}
	}
}

func TestSpanFollowsRetention(t *testing.T) {
	const day = 24 * time.Hour
	of := func(change func(*topicconfig.Settings)) topicconfig.Settings {
		s := topicconfig.Parse(topicconfig.Unset, topicconfig.Unset)
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		s    topicconfig.Settings
		want merge.Span
	}{
		"a week":       {of(func(*topicconfig.Settings) {}), merge.Span{Dirty: 21 * time.Hour, Cleaned: 21 * time.Hour}},
		"a year":       {of(func(s *topicconfig.Settings) { s.RetentionMS = 365 * day.Milliseconds() }), merge.Span{Dirty: 7 * day, Cleaned: 7 * day}},
		"an hour":      {of(func(s *topicconfig.Settings) { s.RetentionMS = time.Hour.Milliseconds() }), merge.Span{Dirty: 450 * time.Second, Cleaned: 450 * time.Second}},
		"for ever":     {of(func(s *topicconfig.Settings) { s.RetentionMS = -1 }), merge.Span{}},
		"compact":      {of(func(s *topicconfig.Settings) { s.Compact, s.Delete = true, false }), merge.Span{Dirty: 7 * day}},
		"nothing":      {of(func(s *topicconfig.Settings) { s.RetentionMS = 0 }), merge.Span{Dirty: time.Millisecond, Cleaned: time.Millisecond}},
		"huge numbers": {of(func(s *topicconfig.Settings) { s.RetentionMS, s.SegmentMS = 1<<62, 1<<62 }), merge.Span{Dirty: time.Duration((1<<63-1)/1_000_000) * time.Millisecond, Cleaned: time.Duration((1<<63-1)/1_000_000) * time.Millisecond}},
	} {
		if got := merge.SpanFor(c.s); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
