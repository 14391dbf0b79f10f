package merge_test

import (
	"context"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/merge"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// collect deletes what retired and cannot be named again, and what was uploaded for nothing, as the collector does.
func (f *fixture) collect() {
	f.t.Helper()
	list, err := f.Bucket.List(f.t.Context(), "", "", 1000)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, info := range list {
		id, err := entry.ParseObjectKey(info.Key)
		if err != nil {
			continue
		}
		gone := false
		f.Meta.View(func(st *state.State) { gone = !st.Named(id) && id.CollectionEpoch+1 < st.CollectionEpoch() })
		if gone {
			if err := f.Bucket.Delete(f.t.Context(), info.Key); err != nil {
				f.t.Fatal(err)
			}
		}
	}
}

// TestLivesOfMergers plays random lives: producers, deletions, collection, two mergers that both think everything is theirs and are killed
// at random requests. What was produced and not deleted is there at every moment, and at the end nothing is left to merge.
func TestLivesOfMergers(t *testing.T) {
	for seed := range uint64(12) {
		f := newFixture(t, 100+seed)
		f.topics = []entry.UUID{f.Topic("a", 3), f.Topic("b", 3)}
		epoch := uint64(1)
		f.produce(5, 1500)
		doomed := 0
		for range 60 {
			switch f.Rand.IntN(8) {
			case 0, 1:
				f.produce(1+f.Rand.IntN(12), 1500)
			case 2:
				f.now = f.now.Add(time.Duration(f.Rand.IntN(120)) * time.Minute)
			case 3:
				topic, p := f.topics[f.Rand.IntN(2)], int32(f.Rand.IntN(3))
				if made := f.Produced(topic, p); len(made) > 0 {
					before := made[f.Rand.IntN(len(made))].Base + int64(f.Rand.IntN(2))
					f.Propose(&entry.DeleteRecords{Topic: topic, Partition: uint32(p), BeforeOffset: before})
				}
			case 4:
				f.Propose(&entry.BumpCollectionEpoch{From: epoch})
				epoch++
				f.collect()
			default:
				ctx, cancel := context.WithCancel(t.Context())
				c := &cut{Bucket: f.Bucket, Meta: f.Meta, left: 1 + f.Rand.IntN(60), before: f.Rand.IntN(2) == 0, cancel: cancel}
				m := f.merger(small(), func(d *rewrite.Deps) { d.Bucket, d.Meta = putting{c}, c })
				var other *merge.Merger
				if f.Rand.IntN(2) == 0 {
					other = f.merger(small())
				}
				for range 4 {
					worked, err := m.Step(ctx)
					if err != nil && ctx.Err() == nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
					if other != nil {
						if _, err := other.Step(t.Context()); err != nil {
							t.Fatalf("seed %d: %v", seed, err)
						}
					}
					if !worked {
						f.now = f.now.Add(2 * time.Hour)
					}
				}
				if ctx.Err() != nil {
					doomed++
				}
				cancel()
			}
			f.Verify()
		}
		f.settle(f.merger(small()))
		f.Verify()
		if n := f.level0(); n > 0 {
			t.Errorf("seed %d: %d objects of level 0 are left", seed, n)
		}
		for range 2 {
			f.Propose(&entry.BumpCollectionEpoch{From: epoch})
			epoch++
		}
		f.collect()
		f.Verify()
		f.Meta.View(func(st *state.State) {
			list, _ := f.Bucket.List(context.Background(), "topics/", "", 1000)
			live := 0
			for o := range st.ObjectTable() {
				if o.ID.Merged() {
					live++
				}
			}
			if len(list) != live {
				t.Errorf("seed %d: %d merged objects in the bucket, %d are named", seed, len(list), live)
			}
		})
		if doomed == 0 {
			t.Errorf("seed %d: nobody was killed", seed)
		}
	}
}
