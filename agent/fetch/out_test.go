package fetch_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// gauge is the sum of a metric over its labels.
func gauge(t *testing.T, reg *prometheus.Registry, name string) (sum int64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += int64(m.GetGauge().GetValue() + m.GetCounter().GetValue())
			}
		}
	}
	return sum
}

// merged makes a merged object of n batches of about size bytes, each a chunk.
func merged(t *testing.T, x *index, bucket *store, topic entry.UUID, from, n, size int, opts segment.Options) {
	t.Helper()
	for i := range n {
		x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, fmt.Sprintf("%0*d", size, from+i)))
	}
	opts.ChunkBytes = 1
	op, _ := x.rewrite(bucket, opts, topic, nil, span{0, int64(from), int64(from + n)})
	x.commit(op)
}

// What a merged object holds goes out from the cache, neighbouring chunks of a run in one piece, and is the same bytes as a copy. What a flush
// wrote, and what is small, is copied.
func TestMergedBatchesAreLent(t *testing.T) {
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprint("compressed=", compress), func(t *testing.T) {
			x, bucket := newIndex(t), newStore()
			topic, reg := x.topic("t"), prometheus.NewRegistry()
			const n, size = 20, 20_000
			merged(t, x, bucket, topic, 0, n, size, segment.Options{Compress: compress})
			for i := range 5 {
				x.add(bucket, segment.Options{}, of(t, batch.BuildOptions{}, topic, 0, now, fmt.Sprintf("%0*d", size, n+i)))
			}
			r, _ := open(t, fetch.Config{WholeBytes: 60_000, RunBytes: 100_000, Metrics: fetch.NewMetrics(reg)}, x, bucket)
			want, res, err := r.Read(t.Context(), topic, 0, 0, 1<<20, nil, true)
			if err != nil || res.NextOffset != n+5 {
				t.Fatalf("%+v %v", res, err)
			}
			own := make([]byte, 0, 8)
			out := fetch.Out{Lend: true, Own: append(own, "before"...)}
			lent, err := r.ReadTo(t.Context(), topic, 0, 0, 1<<20, &out, true)
			if err != nil || lent != res {
				t.Fatalf("%+v, want %+v, %v", lent, res, err)
			}
			parts := out.Parts(nil)
			if got := bytes.Join(parts, nil); !bytes.Equal(got, append([]byte("before"), want...)) || out.Len() != len(got) {
				t.Errorf("%d bytes, %d said, %d copied", len(got), out.Len(), len(want))
			}
			if copied := len(out.Own) - 6; out.Lent() < n*size || copied < 5*size || copied > 6*size {
				t.Errorf("%d bytes lent, %d copied", out.Lent(), copied)
			}
			if most := 1 + n/4 + 1; !compress && len(parts) > most { // a run has five chunks or six
				t.Errorf("%d parts", len(parts))
			}
			if got := gauge(t, reg, "firn_fetch_lent_bytes_total"); got != int64(out.Lent()) {
				t.Errorf("%d bytes counted, %d lent", got, out.Lent())
			}
			if gauge(t, reg, "firn_fetch_lent_bytes") == 0 {
				t.Error("no loans counted")
			}
			out.Release()
			out.Release()
			if got := gauge(t, reg, "firn_fetch_lent_bytes"); got != 0 {
				t.Errorf("%d bytes still lent", got)
			}

			small := newIndex(t)
			topic = small.topic("t")
			merged(t, small, bucket, topic, 0, 3, 1000, segment.Options{Compress: compress})
			r, _ = open(t, fetch.Config{}, small, bucket)
			out = fetch.Out{Lend: true}
			if _, err := r.ReadTo(t.Context(), topic, 0, 0, 1<<20, &out, true); err != nil || out.Lent() != 0 || len(decode(t, out.Own)) != 3 {
				t.Errorf("%d bytes of 3000 lent, %v", out.Lent(), err)
			}
		})
	}
}

// What is lent counts in the cache's bound for as long as an answer has it, and is not evicted, which would free nothing; it stays what it was; and
// where clients are slow to take answers, no more is lent than three quarters of what hot items leave.
func TestLoansCountInTheCache(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic, reg := x.topic("t"), prometheus.NewRegistry()
	const objects, n, size, bound = 6, 10, 20_000, 600_000
	for i := range objects {
		merged(t, x, bucket, topic, i*n, n, size, segment.Options{})
	}
	r, cache := open(t, fetch.Config{Bytes: bound, WholeBytes: 1, RunBytes: 50_000, Metrics: fetch.NewMetrics(reg)}, x, bucket)
	var outs []*fetch.Out
	lent, copied := 0, 0
	for offset := int64(0); offset < objects*n; {
		out := &fetch.Out{Lend: true}
		res, err := r.ReadTo(t.Context(), topic, 0, offset, 2*size+1000, out, true)
		if err != nil {
			t.Fatal(err)
		}
		offset = res.NextOffset
		outs = append(outs, out)
		lent += out.Lent()
		copied += len(out.Own)
		kept, loose, lendable := cache.Memory()
		if held := gauge(t, reg, "firn_fetch_lent_bytes"); held > lendable || lendable != bound/8*3 || loose != 0 || kept > bound {
			t.Fatalf("%d bytes lent of %d at most, %d beside %d kept, bound %d", held, lendable, loose, kept, bound)
		}
	}
	if lent < 200_000 || copied < 200_000 {
		t.Errorf("%d bytes lent and %d copied; some of both were to be expected", lent, copied)
	}
	// What is lent is still there.
	before := bucket.count()
	if _, _, err := r.Read(t.Context(), topic, 0, 0, 1, nil, true); err != nil || bucket.count()-before > 1 { // the footer
		t.Errorf("%d GETs for what is lent, %v", bucket.count()-before, err)
	}
	var all []byte
	for _, out := range outs {
		all = append(all, bytes.Join(out.Parts(nil), nil)...)
		out.Release()
	}
	got := decode(t, all)
	for i := range got {
		if want := fmt.Sprintf("%0*d", size, i); got[i].offset != int64(i) || got[i].value != want {
			t.Fatalf("record %d is at offset %d", i, got[i].offset)
		}
	}
	if len(got) != objects*n {
		t.Errorf("%d records", len(got))
	}
	if held := gauge(t, reg, "firn_fetch_lent_bytes"); held != 0 {
		t.Errorf("%d bytes still lent", held)
	}
	// And there is room again.
	for offset := int64(0); offset < objects*n; offset++ {
		if _, _, err := r.Read(t.Context(), topic, 0, offset, 1, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	if kept := gauge(t, reg, "firn_fetch_cache_bytes"); kept < bound-100_000 {
		t.Errorf("%d bytes kept of %d after all loans ended", kept, bound)
	}
}

// Clients that are slow to take answers leave room for others: these get each run once, and not once for each batch of it.
func TestLoansLeaveRoomForOthers(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic, other := x.topic("t"), x.topic("u")
	const n, size, bound, run = 40, 20_000, 2_400_000, 60_000
	for i := range 4 {
		merged(t, x, bucket, topic, i*n, n, size, segment.Options{})
	}
	merged(t, x, bucket, other, 0, n, size, segment.Options{})
	r, cache := open(t, fetch.Config{Bytes: bound, WholeBytes: 1, RunBytes: run}, x, bucket)
	cache.Put(entry.ObjectID{Incarnation: [16]byte{9}, Seq: 1}, make([]byte, bound/2-10_000), new(segment.Footer)) // what producers write takes its part
	for offset := int64(0); offset < 4*n; offset += 3 {
		out := &fetch.Out{Lend: true}
		if _, err := r.ReadTo(t.Context(), topic, 0, offset, 2*size+1000, out, true); err != nil {
			t.Fatal(err)
		}
		defer out.Release()
	}
	before := bucket.count()
	for offset := range int64(n) {
		if _, _, err := r.Read(t.Context(), other, 0, offset, 1, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	if gets, most := bucket.count()-before, n*(size+200)/run+3; gets > most {
		t.Errorf("%d GETs for a footer and runs of three batches, want %d at most", gets, most)
	}
}

// What is lent and was never kept, since something else in it is damaged, counts as well, and makes room for itself.
func TestLoansOfWhatIsNotKept(t *testing.T) {
	x, bucket := newIndex(t), newStore()
	topic, reg := x.topic("t"), prometheus.NewRegistry()
	const n, size, bound, run = 12, 20_000, 300_000, 60_000
	merged(t, x, bucket, topic, 0, n, size, segment.Options{})
	bucket.damage = func(_ string, position int64, body []byte) []byte {
		if position < size && len(body) > size { // the first run's first batch
			body[size/2] ^= 1
		}
		return body
	}
	r, cache := open(t, fetch.Config{Bytes: bound, WholeBytes: 1, RunBytes: run, Metrics: fetch.NewMetrics(reg)}, x, bucket)
	cache.Put(entry.ObjectID{Incarnation: [16]byte{9}, Seq: 1}, make([]byte, bound/2-10_000), new(segment.Footer))
	for offset := range int64(n) {
		_, _, _ = r.Read(t.Context(), topic, 0, offset, 1, nil, true)
	}
	out := fetch.Out{Lend: true}
	if _, err := r.ReadTo(t.Context(), topic, 0, 1, 1, &out, true); err != nil || out.Lent() < size {
		t.Fatalf("%d bytes lent, %v", out.Lent(), err)
	}
	if kept, loose, _ := cache.Memory(); loose < int64(out.Lent()) || kept+loose > bound {
		t.Errorf("%d bytes kept and %d lent beside them, bound %d", kept, loose, bound)
	}
	out.Release()
	if _, loose, _ := cache.Memory(); loose != 0 {
		t.Errorf("%d bytes still lent", loose)
	}
}
