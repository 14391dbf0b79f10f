package retention_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/firnlog/firn/compaction/retention"
	"github.com/firnlog/firn/metastore/state"
)

const never = -1

func TestPlan(t *testing.T) {
	const now = 1_000_000
	row := func(age, size int64) state.Row { return state.Row{MaxTimestamp: now - age, Size: size} }
	undated := func(size int64) state.Row { return state.Row{MaxTimestamp: -1, Size: size} }
	inWAL := func(r state.Row) state.Row { r.InWAL = true; return r }
	for _, tc := range []struct {
		name       string
		age, bytes int64
		rows       []state.Row
		want       int // rows that go
	}{
		{"nothing promised to go", never, never, []state.Row{row(1e9, 5)}, 0},
		{"the only row of an idle topic", 100, never, []state.Row{row(101, 5)}, 1},
		{"just old enough to stay", 100, never, []state.Row{row(100, 5)}, 0},
		{"oldest first, up to one that stays", 100, never, []state.Row{row(300, 1), row(200, 1), row(50, 1), row(400, 1)}, 2},
		{"a timestamp in the future keeps its row and those behind it", 100, never, []state.Row{row(300, 1), row(-1e9, 1), row(300, 1)}, 1},
		{"no age at all", 0, never, []state.Row{row(1, 1), row(0, 1)}, 1},
		{"the longest age there is", math.MaxInt64, never, []state.Row{{MaxTimestamp: 0, Size: 1}}, 0},
		{"over the size", never, 10, []state.Row{row(0, 4), row(0, 4), row(0, 10)}, 2},
		{"what is left is not below the size", never, 10, []state.Row{row(0, 4), row(0, 4), row(0, 9)}, 1},
		{"no size at all", never, 0, []state.Row{row(0, 4), row(0, 4)}, 2},
		{"by size, then by age", 100, 10, []state.Row{row(0, 5), row(200, 1), row(0, 9)}, 2},
		{"by age, then by size", 100, 10, []state.Row{row(200, 5), row(0, 5), row(0, 10)}, 2},
		{"without a timestamp: as old as the next that has one", 100, never, []state.Row{undated(1), undated(1), row(101, 1), row(50, 1)}, 3},
		{"without a timestamp: as young as the next that has one", 100, never, []state.Row{row(200, 1), undated(1), row(99, 1)}, 1},
		{"without a timestamp, and none behind it", 100, never, []state.Row{undated(1), undated(1)}, 0},
		{"without a timestamp, over the size", 100, 1, []state.Row{undated(1), undated(1)}, 1},
		{"in a WAL", 100, 0, []state.Row{row(200, 1), inWAL(row(200, 1)), row(200, 1)}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var size int64
			for i := range tc.rows {
				tc.rows[i].Base, tc.rows[i].End = int64(10*i), int64(10*i+10)
				size += tc.rows[i].Size
			}
			c := retention.Plan(tc.rows, size, retention.Policy{AgeMS: tc.age, Bytes: tc.bytes}, now)
			if c.Rows != tc.want || c.Before != int64(10*tc.want) {
				t.Errorf("%d rows go, up to %d; want %d", c.Rows, c.Before, tc.want)
			}
		})
	}
}

// kafka does what Kafka does with segments, pass by pass until nothing changes any more.
func kafka(rows []state.Row, p retention.Policy, nowMS int64) int {
	gone := 0
	for before := -1; gone != before; {
		before = gone
		var size int64
		for _, r := range rows[gone:] {
			size += r.Size
		}
		for diff := size - p.Bytes; p.Bytes >= 0 && gone < len(rows) && diff-rows[gone].Size >= 0; gone++ {
			diff -= rows[gone].Size
		}
		for p.AgeMS >= 0 && gone < len(rows) && nowMS-rows[gone].MaxTimestamp > p.AgeMS {
			gone++
		}
	}
	return gone
}

func TestPlanIsKafkas(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 5000 {
		rows := make([]state.Row, rng.IntN(12))
		var size int64
		for j := range rows {
			rows[j] = state.Row{Base: int64(j), End: int64(j + 1), MaxTimestamp: rng.Int64N(200), Size: 1 + rng.Int64N(20)}
			size += rows[j].Size
		}
		p := retention.Policy{AgeMS: rng.Int64N(150) - 20, Bytes: rng.Int64N(120) - 20}
		c := retention.Plan(rows, size, p, 150)
		if want := kafka(rows, p, 150); c.Rows != want {
			t.Fatalf("%d: %+v of %v: %d rows go, with Kafka %d", i, p, fmt.Sprint(rows), c.Rows, want)
		}
	}
}
