package metastore

import (
	"fmt"
	"slices"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
)

// In one line each sequence comes behind a copy of every lower one, as early as its segment lets it, and all batches come.
func TestArrange(t *testing.T) {
	for _, c := range []struct {
		name     string
		segments [][]int32 // base sequences of one producer, segment by segment
		want     []string  // sequence@segment
	}{
		{"in order", [][]int32{{0, 5}, {10}}, []string{"0@0", "5@0", "10@1"}},
		{"overtaken", [][]int32{{5}, {0}, {10}}, []string{"0@1", "5@0", "10@2"}},
		{"sent again later", [][]int32{{0}, {5}, {0}}, []string{"0@0", "5@1", "0@2"}},
		{"sent again later, the last of three at the end", [][]int32{{0}, {0}, {5, 0}, {10}}, []string{"0@0", "0@1", "5@2", "0@2", "10@3"}},
		{"sent again before its predecessor came", [][]int32{{5}, {5}, {0}, {5}}, []string{"0@2", "5@0", "5@1", "5@3"}},
	} {
		var segments []lostSegment
		for _, sequences := range c.segments {
			var s lostSegment
			for _, sequence := range sequences {
				s.batches = append(s.batches, lostBatch{producer: entry.Producer{ID: 7, BaseSequence: sequence}})
			}
			segments = append(segments, s)
		}
		var got []string
		for _, x := range arrange(segments) {
			got = append(got, fmt.Sprintf("%d@%d", x.producer.BaseSequence, x.segment))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
