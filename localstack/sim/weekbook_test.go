package sim_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// weekBook is what is measured of a week.
type weekBook struct {
	bucket *countedBucket

	mu      sync.Mutex // guards the rest
	records int        // sent
	bytes   int64      // of them, as batches
	reads   int        // records read back
	keys    map[log.Key]int
	keyed   int64 // bytes of the entries in the log
	commits int
	lines   []weekLine
}

// weekLine is the cluster at one time.
type weekLine struct {
	at      time.Duration
	records int
	bytes   int64
	level0  int // live objects
	merged  int
	waiting int // objects that no row names, not deleted yet
	stored  int64
	data    int // objects in the bucket, by where their keys begin
	topics  int
	meta    int
	rows    int
	// forever are the rows of topics from which nothing goes.
	forever  int
	entries  int
	entryMem int64
	snapshot int
	state    int64
	heap     int64 // of the process, without the bucket and what producers remember, with both agents and the log
	requests [requestKinds]int
	put0     int64 // bytes of level 0
	putMore  int64 // of what was rewritten
}

type requestKind int

const (
	requestPut requestKind = iota
	requestGet
	requestList
	requestDelete
	requestKinds
)

func newWeekBook() *weekBook {
	return &weekBook{bucket: &countedBucket{sizes: map[string]int64{}}, keys: map[log.Key]int{}}
}

func (b *weekBook) sent(records, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records += records
	b.bytes += int64(bytes)
}

func (b *weekBook) read(records int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads += records
}

// countedBucket counts requests, and knows what there is.
type countedBucket struct {
	objstore.Bucket

	mu       sync.Mutex // guards the rest
	requests [requestKinds]int
	sizes    map[string]int64
	put0     int64
	putMore  int64
}

func (b *countedBucket) Unwrap() objstore.Bucket { return b.Bucket }

func (b *countedBucket) count(k requestKind) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests[k]++
}

func (b *countedBucket) stored(key string, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests[requestPut]++
	b.sizes[key] = size
	switch {
	case strings.HasPrefix(key, "data/"):
		b.put0 += size
	case strings.HasPrefix(key, "topics/"):
		b.putMore += size
	}
}

func (b *countedBucket) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	err := b.Bucket.Put(ctx, key, body, opts)
	b.stored(key, int64(len(body)))
	return err
}

func (b *countedBucket) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	err := b.Bucket.PutFrom(ctx, key, body, size, opts)
	b.stored(key, size)
	return err
}

func (b *countedBucket) Get(ctx context.Context, key string) ([]byte, error) {
	b.count(requestGet)
	return b.Bucket.Get(ctx, key)
}

func (b *countedBucket) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	b.count(requestGet)
	return b.Bucket.GetRange(ctx, key, position, size)
}

func (b *countedBucket) Head(ctx context.Context, key string) (objstore.Info, error) {
	b.count(requestGet)
	return b.Bucket.Head(ctx, key)
}

func (b *countedBucket) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	b.count(requestList)
	return b.Bucket.List(ctx, prefix, after, limit)
}

func (b *countedBucket) Delete(ctx context.Context, keys ...string) error {
	b.count(requestDelete)
	err := b.Bucket.Delete(ctx, keys...)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		delete(b.sizes, key)
	}
	return err
}

// weekLog knows what lies in the log.
type weekLog struct {
	log.Log
	book *weekBook
}

func (l *weekLog) Commit(ctx context.Context, identity log.Identity, key log.Key, value []byte) (log.Outcome, error) {
	outcome, err := l.Log.Commit(ctx, identity, key, value)
	if err == nil && outcome == log.Committed {
		l.book.mu.Lock()
		if _, known := l.book.keys[key]; !known {
			l.book.keys[key] = len(value)
			l.book.keyed += int64(len(value))
			l.book.commits++
		}
		l.book.mu.Unlock()
	}
	return outcome, err
}

func (l *weekLog) Trim(ctx context.Context, keys []log.Key, upTo log.Cursor) error {
	err := l.Log.Trim(ctx, keys, upTo)
	if err == nil {
		l.book.mu.Lock()
		for _, key := range keys {
			l.book.keyed -= int64(l.book.keys[key])
			delete(l.book.keys, key)
		}
		l.book.mu.Unlock()
	}
	return err
}

// weekConfig makes an agent of a week as an operator would have it.
func weekConfig(c *agent.Config, parts *agent.Components) {
	c.CacheBytes, c.StageBytes = 16<<20, 16<<20
	if *weekMergeFlag {
		parts.Scratch = duty.InMemory(1 << 30)
	}
}

// measure adds a line to the curve, of the first agent's state.
func (w *week) measure(at time.Duration) {
	a := w.nodes[0].running()
	if a == nil {
		w.find("stuck", "no agent runs after %v", at)
		return
	}
	line := weekLine{at: at}
	a.Metastore().View(func(st *state.State) {
		for o := range st.ObjectTable() {
			if o.ID.Merged() {
				line.merged++
			} else {
				line.level0++
			}
		}
		line.waiting = len(st.Retired())
		for t := range st.Topics() {
			for i := range t.Partitions() {
				rows := t.Partition(i).RowCount()
				line.rows += rows
				if w.forever(t.Name) {
					line.forever += rows
				}
			}
		}
		line.snapshot, line.state = len(st.AppendSnapshot(nil)), st.MemoryBytes()
	})
	b := w.book.bucket
	b.mu.Lock()
	for key, size := range b.sizes {
		line.stored += size
		switch {
		case strings.HasPrefix(key, "data/"):
			line.data++
		case strings.HasPrefix(key, "topics/"):
			line.topics++
		default:
			line.meta++
		}
	}
	line.requests, line.put0, line.putMore = b.requests, b.put0, b.putMore
	b.mu.Unlock()
	w.book.mu.Lock()
	line.records, line.bytes = w.book.records, w.book.bytes
	line.entries, line.entryMem = len(w.book.keys), w.book.keyed
	w.book.mu.Unlock()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	line.heap = int64(m.HeapAlloc)
	if *weekDirFlag == "" {
		line.heap -= line.stored
	}
	for _, t := range w.topics { // what producers remember is not the agents'
		for i := range t.partitions {
			line.heap -= int64(cap(t.partitions[i].sent)) * 8
		}
	}
	w.book.mu.Lock()
	w.book.lines = append(w.book.lines, line)
	w.book.mu.Unlock()
	if *verboseFlag {
		fmt.Printf("%v %+v\n", at, line)
	}
}

func (w *week) forever(topic string) bool {
	i := slices.IndexFunc(w.topics, func(t *weekTopic) bool { return t.name == topic })
	return i >= 0 && w.topics[i].policy.name == "forever"
}

// String is the curve as a table, and what it comes to.
func (b *weekBook) String(p weekProfile) string {
	var out strings.Builder
	t := tabwriter.NewWriter(&out, 0, 0, 1, ' ', tabwriter.AlignRight|tabwriter.Debug)
	_, _ = fmt.Fprintln(t, "hour\trecords\tlevel 0\tmerged\twaiting\tbucket: data\ttopics\tmeta\tMiB\trows\tof forever\tentries\tKiB\tsnapshot KiB\tstate KiB\theap MiB\tPUT\tGET\tLIST\tDELETE\trewritten ÷ written\t")
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	for _, l := range b.lines {
		_, _ = fmt.Fprintf(t, "%.0f\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f\t%d\t%d\t%d\t%d\t%.2f\t\n",
			l.at.Hours(), l.records, l.level0, l.merged, l.waiting, l.data, l.topics, l.meta, mib(l.stored), l.rows, l.forever,
			l.entries, l.entryMem>>10, l.snapshot>>10, l.state>>10, mib(l.heap),
			l.requests[requestPut], l.requests[requestGet], l.requests[requestList], l.requests[requestDelete], float64(l.putMore)/float64(max(l.put0, 1)))
	}
	_ = t.Flush()
	last := b.lines[len(b.lines)-1]
	gib := float64(last.bytes) / (1 << 30)
	_, _ = fmt.Fprintf(&out, "%d records, %.1f MiB, %d commits, %d records read back; per GiB written: %.0f PUT, %.0f GET, %.0f LIST, %.0f DELETE\n",
		last.records, mib(last.bytes), b.commits, b.reads, float64(last.requests[requestPut])/gib, float64(last.requests[requestGet])/gib,
		float64(last.requests[requestList])/gib, float64(last.requests[requestDelete])/gib)
	_, _ = fmt.Fprintf(&out, "CPU: %.0f s, the clients' share %.1f %%; of the rest compaction has %.1f %%\n",
		p.total.Seconds(), p.share(p.clients, p.total), p.share(p.compaction, p.total-p.clients))
	if v := b.verdict(); v != "" {
		_, _ = fmt.Fprintf(&out, "grows without bound:\n%s", v)
	} else {
		_, _ = fmt.Fprintln(&out, "flat or logarithmic: live objects, rows, entries in the log, snapshot, state")
	}
	return out.String()
}

// verdict compares the second half of the curve with the first. What is flat or logarithmic may grow by a part there; what is linear
// doubles. "" means that nothing does.
func (b *weekBook) verdict() string {
	n := len(b.lines) - 1 // the last is of the quiet hour
	if n < 4 {
		return ""
	}
	var out strings.Builder
	for _, m := range []struct {
		name  string
		slack float64 // what may come and go
		of    func(*weekLine) float64
	}{
		{"live objects", 400, func(l *weekLine) float64 { return float64(l.level0 + l.merged) }},
		{"objects in the bucket under data/ and topics/", 1500, func(l *weekLine) float64 { return float64(l.data + l.topics) }},
		{"rows", 4000, func(l *weekLine) float64 { return float64(l.rows) }},
		{"entries in the log", 4000, func(l *weekLine) float64 { return float64(l.entries) }},
		{"snapshot bytes", 256 << 10, func(l *weekLine) float64 { return float64(l.snapshot) }},
		{"state bytes", 512 << 10, func(l *weekLine) float64 { return float64(l.state) }},
	} {
		most := func(lines []weekLine) float64 {
			top := math.Inf(-1)
			for i := range lines {
				top = max(top, m.of(&lines[i]))
			}
			return top
		}
		before, after := most(b.lines[:n/2]), most(b.lines[n/2:n])
		if after > 1.35*before+m.slack {
			_, _ = fmt.Fprintf(&out, "%s: %.0f at most in the first half, %.0f in the second\n", m.name, before, after)
		}
	}
	return out.String()
}

// weekProfile is where CPU time went.
type weekProfile struct{ total, clients, compaction time.Duration }

func (p weekProfile) share(part, of time.Duration) float64 {
	return 100 * float64(part) / float64(max(of, 1))
}

// startProfile takes the CPU profile of what follows. It is read here, since fake time says nothing about work.
func startProfile(t *testing.T) func() weekProfile {
	var raw bytes.Buffer
	if err := pprof.StartCPUProfile(&raw); err != nil {
		t.Logf("no CPU profile: %v", err) // the whole test run takes one
		return func() weekProfile { return weekProfile{} }
	}
	return func() weekProfile {
		pprof.StopCPUProfile()
		p, err := readProfile(raw.Bytes())
		if err != nil {
			t.Errorf("the CPU profile: %v", err)
		}
		return p
	}
}

// readProfile sums samples by whose functions are on their stacks. The format is profile.proto of runtime/pprof.
func readProfile(zipped []byte) (p weekProfile, err error) {
	z, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return p, err
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		return p, err
	}
	const (
		sampleField, locationField, functionField, stringField = 2, 4, 5, 6
		locationID, locationLine, lineFunction                 = 1, 4, 1
		functionID, functionName                               = 1, 2
	)
	type sample struct {
		locations []uint64
		nanos     int64
	}
	var samples []sample
	var names []string
	functions, lines := map[uint64]uint64{}, map[uint64][]uint64{} // id to name, location to functions
	err = protoFields(raw, func(field protowire.Number, v uint64, b []byte) error {
		switch field {
		case sampleField:
			var s sample
			var values []uint64
			if err := protoFields(b, func(f protowire.Number, v uint64, b []byte) error {
				switch f {
				case 1:
					s.locations = append(s.locations, varints(v, b)...)
				case 2:
					values = append(values, varints(v, b)...)
				}
				return nil
			}); err != nil {
				return err
			}
			if len(values) > 1 {
				s.nanos = int64(values[1])
			}
			samples = append(samples, s)
		case locationField:
			var id uint64
			var on []uint64
			if err := protoFields(b, func(f protowire.Number, v uint64, b []byte) error {
				switch f {
				case locationID:
					id = v
				case locationLine:
					return protoFields(b, func(f protowire.Number, v uint64, _ []byte) error {
						if f == lineFunction {
							on = append(on, v)
						}
						return nil
					})
				}
				return nil
			}); err != nil {
				return err
			}
			lines[id] = on
		case functionField:
			var id, name uint64
			if err := protoFields(b, func(f protowire.Number, v uint64, _ []byte) error {
				switch f {
				case functionID:
					id = v
				case functionName:
					name = v
				}
				return nil
			}); err != nil {
				return err
			}
			functions[id] = name
		case stringField:
			names = append(names, string(b))
		}
		return nil
	})
	for _, s := range samples {
		took := time.Duration(s.nanos)
		p.total += took
		compacts, client := false, false
		for _, at := range s.locations {
			for _, f := range lines[at] {
				name := names[functions[f]]
				compacts = compacts || strings.Contains(name, "firn/compaction")
				client = client || strings.Contains(name, "sim_test.(*week)")
			}
		}
		switch {
		case compacts:
			p.compaction += took
		case client:
			p.clients += took
		}
	}
	return p, err
}

// protoFields calls fn for each field of a message, with its number, or its bytes.
func protoFields(b []byte, fn func(field protowire.Number, v uint64, b []byte) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var v uint64
		var value []byte
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := fn(field, v, value); err != nil {
			return err
		}
	}
	return nil
}

// varints are the numbers of a repeated field, which may come packed or one by one.
func varints(v uint64, b []byte) (list []uint64) {
	if b == nil {
		return []uint64{v}
	}
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return list
		}
		list, b = append(list, v), b[n:]
	}
	return list
}
