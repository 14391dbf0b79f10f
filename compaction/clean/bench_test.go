//go:build unix

package clean_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/compaction/clean"
	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/file"
)

var (
	benchUpdates = flag.Int("clean.updates", 200_000, "updates that BenchmarkClean compacts")
	benchKeys    = flag.Int("clean.keys", 20_000, "keys that they are of")
	benchMemory  = flag.String("clean.memory", "64,1024", "MiB of memory for keys, one run for each")
	benchCodec   = flag.String("clean.codec", "lz4", "codec of the batches: none, gzip, snappy, lz4, zstd")
)

// BenchmarkClean compacts one partition of many updates in a directory, and then once more after a tenth of them was written anew. It is
// judged by a naive model, and timed beside copying the same bytes once. docs/benchmarks.md says how it is run for 50 million.
func BenchmarkClean(b *testing.B) {
	for memory := range strings.SplitSeq(*benchMemory, ",") {
		b.Run("MiB="+memory, func(b *testing.B) {
			var mib int64
			if _, err := fmt.Sscan(memory, &mib); err != nil {
				b.Fatal(err)
			}
			for range b.N {
				benchmarkClean(b, mib<<20)
			}
		})
	}
}

func benchmarkClean(b *testing.B, memory int64) {
	w := newWorld(b, 5, 1, config("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0")...)
	dir, err := file.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	w.bucket.Bucket = dir
	w.scratch = duty.InDir(b.TempDir(), 1<<40)
	w.env, err = rewrite.New(rewrite.Config{}, rewrite.Deps{Meta: w, Bucket: dir, Scratch: w.scratch})
	if err != nil {
		b.Fatal(err)
	}
	last := make([]int32, *benchKeys) // of each key the update that is its newest, plus one
	w.updates(last, 0, *benchUpdates)
	w.clean(b, "", memory, last, *benchUpdates)
	more := *benchUpdates / 10
	w.updates(last, *benchUpdates, more)
	w.clean(b, "again-", memory, last, more)
}

// updates writes updates of random keys, from number first on, into merged objects.
func (w *world) updates(last []int32, first, n int) {
	w.t.Helper()
	const perBatch, perObject = 500, 256 << 20
	codec := batch.CodecNone
	for ; codec.String() != *benchCodec; codec++ {
		if !codec.Valid() {
			w.t.Fatalf("no codec %s", *benchCodec)
		}
	}
	b := batch.NewBuilder(batch.BuildOptions{})
	var raw []byte
	for done := 0; done < n; {
		out, err := w.env.NewOutput(w.topic)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := out.Begin(0); err != nil {
			w.t.Fatal(err)
		}
		from := done
		for done < n && out.RawSize() < perObject {
			b.Reset(batch.BuildOptions{Codec: codec, BaseOffset: int64(first + done)})
			for range min(perBatch, n-done) {
				key := w.rng.IntN(len(last))
				last[key] = int32(first + done + 1)
				b.Add(w.clock, keyOf(key), valueOf(first+done))
				done++
			}
			if raw, err = b.Build(raw[:0]); err != nil {
				w.t.Fatal(err)
			}
			h, _ := batch.ParseHeader(raw)
			if err := out.Add(context.Background(), raw, &h); err != nil {
				w.t.Fatal(err)
			}
		}
		row, _ := out.End()
		object, err := out.Upload(context.Background())
		if err != nil {
			w.t.Fatal(err)
		}
		out.Close()
		// The rows come as if a merge had made them of an object of level 0, which nobody misses.
		w.object++
		block := entry.Block{Topic: w.topic}
		block.AddBatch(uint64(row.Size), uint64(done-from), w.clock, entry.NoProducer())
		w.must(&entry.Append{Object: entry.ObjectID{Incarnation: w.inc, Seq: w.object, CollectionEpoch: w.st.CollectionEpoch()}, ObjectSize: 1, Blocks: []entry.Block{block}})
		rows := w.rows(0)
		part := rewrite.PartOf(0, rows[len(rows)-1:])
		part.Replacement = []rewrite.Row{row}
		if outcomes, err := w.env.Commit(context.Background(), w.topic, []rewrite.Object{object}, []rewrite.Part{part}); err != nil || outcomes[0] != rewrite.Applied {
			w.t.Fatal(outcomes, err)
		}
	}
}

func keyOf(key int) []byte { return fmt.Appendf(nil, "customer-%09d", key) }

// valueOf is about a hundred bytes, half of which say nothing new.
func valueOf(update int) []byte {
	v := make([]byte, 0, 100)
	v = binary.BigEndian.AppendUint64(v, uint64(update))
	r := rand.NewPCG(uint64(update), 1)
	for range 5 {
		v = binary.BigEndian.AppendUint64(v, r.Uint64())
	}
	return append(v, `{"status":"active","country":"CH","segment":"retail"}`...)
}

// clean copies the partition without a change and cleans it, and reports how long either took and how much memory.
func (w *world) clean(b *testing.B, name string, memory int64, last []int32, updates int) {
	b.Helper()
	rows, rawBytes := w.rows(0), w.partition(0).Size()
	start, busy := time.Now(), processor()
	w.copy(rows)
	copied, copyBusy := time.Since(start), processor()-busy

	reg := prometheus.NewRegistry()
	c := w.cleaner(clean.Config{MemoryBytes: memory}, func(d *clean.Deps) { d.Metrics = clean.NewMetrics(reg) })
	debug.FreeOSMemory()
	base := used()
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		most := uint64(0)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-tick.C:
				most = max(most, used())
			case <-stop:
				tick.Stop()
				peak <- most
				return
			}
		}
	}()
	start, busy = time.Now(), processor()
	w.settle(c)
	cleaned, cleanBusy := time.Since(start), processor()-busy
	close(stop)
	most := <-peak

	w.compare(last)
	b.ReportMetric(copied.Seconds(), name+"copy-s")
	b.ReportMetric(cleaned.Seconds(), name+"clean-s")
	b.ReportMetric(copyBusy.Seconds(), name+"copy-cpu-s")
	b.ReportMetric(cleanBusy.Seconds(), name+"clean-cpu-s")
	b.ReportMetric(cleaned.Seconds()/copied.Seconds(), name+"clean/copy")
	b.ReportMetric(float64(most-min(base, most))/(1<<20), name+"peak-MiB")
	b.ReportMetric(float64(rawBytes)/(1<<20), name+"in-MiB")
	b.ReportMetric(float64(w.partition(0).Size())/(1<<20), name+"out-MiB")
	b.ReportMetric(value(b, reg, "firn_compaction_clean_spilled_total"), name+"spilled")
	b.ReportMetric(float64(updates)/cleaned.Seconds()/1e6, name+"Mupdates/s")
	b.ReportMetric(0, "ns/op")
}

// processor is the time that processors have spent on this process.
func processor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// used is the memory that this process has of the system's.
func used() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}

// copy reads rows and writes them as they are: what a merge of them would cost.
func (w *world) copy(rows []state.Row) {
	source := w.env.NewSource()
	defer source.Close()
	r := source.Read(w.input(0), rows)
	out, err := w.env.NewOutput(w.topic)
	if err == nil {
		err = out.Begin(0)
	}
	for err == nil && r.Next(context.Background()) {
		if out.RawSize() > 256<<20 {
			out.End()
			if _, err = out.Upload(context.Background()); err != nil {
				break
			}
			out.Close()
			if out, err = w.env.NewOutput(w.topic); err == nil {
				err = out.Begin(0)
			}
		}
		if err == nil {
			err = out.Add(context.Background(), r.Batch().Raw, &r.Batch().Header)
		}
	}
	if err == nil && r.Err() == nil {
		out.End()
		_, err = out.Upload(context.Background())
	}
	out.Close()
	if err != nil || r.Err() != nil {
		w.t.Fatal(err, r.Err())
	}
}

// compare holds what is left against the naive model.
func (w *world) compare(last []int32) {
	w.t.Helper()
	source := w.env.NewSource()
	defer source.Close()
	keys := 0
	r := source.Read(w.input(0), w.rows(0))
	for r.Next(context.Background()) {
		base := r.Batch().Header.BaseOffset
		err := w.walker.Walk(r.Batch().Raw, batch.Limits{}, func(x batch.Record) error {
			var key int
			for _, c := range x.Key[len("customer-"):] {
				key = key*10 + int(c-'0')
			}
			offset := base + int64(x.OffsetDelta)
			if int64(last[key])-1 != offset || string(x.Value) != string(valueOf(int(offset))) {
				w.t.Fatalf("offset %d of key %d is left, the newest is %d", offset, key, last[key]-1)
			}
			keys++
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	want := 0
	for _, n := range last {
		if n > 0 {
			want++
		}
	}
	if r.Err() != nil || keys != want {
		w.t.Fatalf("%d keys are left, want %d: %v", keys, want, r.Err())
	}
}
