package clean_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/clean"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
)

// cleanEnd is the offset up to which a partition may be cleaned now.
func (w *world) cleanEnd(partition int32, lag int64) (end int64) {
	for _, row := range w.rows(partition) {
		if !row.Object.Merged() || lag > 0 && row.MaxTimestamp > w.st.LogTime()-lag {
			break
		}
		end = row.End
	}
	return end
}

// judge compares a partition with a naive model. cleaned says up to where it has been cleaned to the end; 0: it need not have been, and
// anything that is superseded may still be there. firsts remembers when a tombstone was first seen in a batch with a horizon.
func (w *world) judge(partition int32, cleaned int64, firsts map[int64]int64) {
	w.t.Helper()
	newest := make(map[string]int64) // of what may have been cleaned, and of all
	offsets := w.offsetsOf(partition)
	for _, o := range offsets {
		if r := w.made[partition][o]; r.key != nil {
			newest[string(r.key)] = o
		}
	}
	within := make(map[string]int64)
	for _, o := range offsets {
		if r := w.made[partition][o]; r.key != nil && o < cleaned {
			within[string(r.key)] = o
		}
	}
	has := make(map[int64]got)
	for _, g := range w.read(partition) {
		has[g.offset] = g
		if g.value == nil && g.horizon != 0 {
			if h, ok := firsts[g.offset]; ok && h != g.horizon {
				w.t.Fatalf("offset %d: the delete horizon moved from %d to %d", g.offset, h, g.horizon)
			}
			firsts[g.offset] = g.horizon
		}
		if g.value == nil && g.horizon == 0 && g.offset < cleaned {
			w.t.Fatalf("offset %d: a tombstone without a delete horizon below %d", g.offset, cleaned)
		}
		if cleaned > 0 && g.offset < cleaned && (g.key == nil || within[string(g.key)] != g.offset) {
			w.t.Fatalf("offset %d (%q) is still there below %d, the newest is %d", g.offset, g.key, cleaned, within[string(g.key)])
		}
	}
	start := w.partition(partition).LogStart()
	for key, o := range newest {
		if _, ok := has[o]; ok || o < start {
			continue
		}
		r := w.made[partition][o]
		h, ok := firsts[o]
		if r.value != nil || !ok || w.st.LogTime() < h {
			w.t.Fatalf("offset %d, the newest of %q, is gone (horizon %d, log time %d)", o, key, h, w.st.LogTime())
		}
	}
	if cleaned > 0 {
		for _, o := range offsets {
			if _, ok := has[o]; !ok && o >= cleaned && o >= start {
				w.t.Fatalf("offset %d is gone, and nothing from %d on may be cleaned", o, cleaned)
			}
		}
	}
}

// TestModel lets random producers, merges, cleanings, deletions, faults and restarts run against a naive model.
func TestModel(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			retention, lag := int64(60_000), int64(seed%3)*20_000
			policy, timestamps := "compact", "CreateTime"
			if seed%2 == 1 {
				policy = "compact,delete"
			}
			if seed%5 == 1 {
				timestamps = "LogAppendTime"
			}
			w := newWorld(t, seed, 2, config(
				"cleanup.policy", policy, "delete.retention.ms", fmt.Sprint(retention), "min.compaction.lag.ms", fmt.Sprint(lag),
				"min.cleanable.dirty.ratio", "0", "message.timestamp.type", timestamps, "retention.ms", "300000",
			)...)
			cfg := clean.Config{ObjectBytes: 1 << (8 + w.rng.IntN(8)), MemoryBytes: 1}
			if seed%4 != 3 {
				cfg.MemoryBytes = 1 << 30
			}
			c := w.cleaner(cfg)
			firsts := [2]map[int64]int64{{}, {}}
			for range 60 {
				p := int32(w.rng.IntN(2))
				cleaned := int64(0)
				switch w.rng.IntN(10) {
				case 0, 1, 2:
					w.flush(p, 30, w.random(1+w.rng.IntN(120), 5+w.rng.IntN(200))...)
				case 3, 4:
					w.merge(p, 1+w.rng.IntN(4), w.rng.IntN(2))
				case 5:
					w.tick(time.Duration(w.rng.IntN(50)) * time.Second)
				case 6: // somebody asks for records to be deleted
					part := w.partition(p)
					if n := part.Next() - part.LogStart(); n > 0 && w.rng.IntN(3) == 0 {
						w.must(&entry.DeleteRecords{Topic: w.topic, Partition: uint32(p), BeforeOffset: part.LogStart() + w.rng.Int64N(n)/4})
					}
				case 7: // an agent that stops somewhere
					left := w.rng.IntN(3)
					lost := w.rng.IntN(2) == 0
					fail := func(entry.Op) error {
						if left--; left < 0 {
							return errStop
						}
						return nil
					}
					if lost {
						w.after = fail
					} else {
						w.before = fail
					}
					for range 5 {
						if worked, err := c.Step(context.Background()); err != nil || !worked {
							break
						}
					}
					w.before, w.after = nil, nil
					c = w.cleaner(cfg)
				default:
					w.settle(c)
					cleaned = w.cleanEnd(p, lag)
				}
				w.judge(p, cleaned, firsts[p])
				w.judge(1-p, 0, firsts[1-p])
			}
			// In the end all that is left is the newest of each key; and of tombstones nothing, once there was something to clean after
			// their time.
			w.tick(time.Hour)
			for p := range int32(2) {
				for range 2 {
					w.flush(p, 5, rec{key: []byte("last"), value: []byte("x"), timestamp: w.clock})
					w.tick(time.Hour)
					w.merge(p, 3, 0)
					w.settle(c)
					w.judge(p, w.partition(p).Next(), firsts[p])
					w.judge(1-p, 0, firsts[1-p])
				}
				for _, g := range w.read(p) {
					if g.value == nil {
						t.Errorf("the tombstone at %d is still there", g.offset)
					}
				}
				for i, row := range w.rows(p) {
					if !row.Cleaned || i > 0 && w.rows(p)[i-1].End > row.Base {
						t.Errorf("row %d: %+v", i, row)
					}
				}
			}
		})
	}
}

// stopping is a bucket whose puts fail after some.
type stopping struct {
	objstore.Bucket
	left int
}

func (b *stopping) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	if b.left--; b.left < 0 {
		return errStop
	}
	return b.Bucket.PutFrom(ctx, key, body, size, opts)
}

// TestStoppedAtEveryStep kills the cleaner before and after each upload and each commit, and lets another agent go on.
func TestStoppedAtEveryStep(t *testing.T) {
	var want string
	for _, mode := range []string{"never", "before a commit", "after a commit", "before an upload"} {
		for left := range 200 {
			w := newWorld(t, 7, 2, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
			for range 6 {
				for p := range int32(2) {
					w.flush(p, 20, w.random(60, 80)...)
				}
			}
			for p := range int32(2) {
				w.merge(p, 2, 0)
			}
			fired := false
			fail := func(at *func(entry.Op) error) {
				n := left
				*at = func(entry.Op) error {
					if n--; n < 0 {
						fired = true
						return errStop
					}
					return nil
				}
			}
			cfg := clean.Config{ObjectBytes: 2048}
			if left%2 == 1 {
				cfg.MemoryBytes = 1
			}
			honest := w.bucket.Bucket
			switch mode {
			case "before a commit":
				fail(&w.before)
			case "after a commit":
				fail(&w.after)
			case "before an upload":
				w.bucket.Bucket = &stopping{honest, left}
			}
			c := w.cleaner(cfg)
			for {
				worked, err := c.Step(context.Background())
				fired = fired || err != nil
				if err != nil || !worked {
					break
				}
			}
			w.before, w.after, w.bucket.Bucket = nil, nil, honest
			for p := range int32(2) {
				w.judge(p, 0, map[int64]int64{})
			}
			w.settle(w.cleaner(cfg))
			all := ""
			for p := range int32(2) {
				w.judge(p, w.partition(p).Next(), map[int64]int64{})
				for _, g := range w.read(p) {
					all += fmt.Sprintf("%d %q %q\n", g.offset, g.key, g.value)
				}
			}
			if want == "" {
				want = all
			}
			if all != want {
				t.Fatalf("%s %d: what is left differs from what a cleaner leaves that is not stopped", mode, left)
			}
			if !fired {
				if mode != "never" && left < 3 {
					t.Fatalf("%s: only %d steps", mode, left)
				}
				break
			}
		}
	}
}
