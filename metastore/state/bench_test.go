package state_test

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// BenchmarkApply applies commits of 100 blocks of one batch each, decoding included, as an agent does for every commit of
// the cluster.
func BenchmarkApply(b *testing.B) {
	for _, partitions := range []int{1, 1000} {
		for _, idempotent := range []bool{false, true} {
			b.Run(fmt.Sprintf("partitions=%d/idempotent=%v", partitions, idempotent), func(b *testing.B) {
				benchmarkApply(b, partitions, idempotent)
			})
		}
	}
}

const blocksPerCommit = 100

// producing is a machine with a topic of many partitions, and the commits that an agent would make.
type producing struct {
	*machine
	e          entry.Entry
	a          entry.Append
	value      []byte
	partitions int
	next       int
	sequences  []int32
	merged     []int64 // up to where window went, by partition
	spreads    uint64  // objects that spread named
}

func newProducing(t testing.TB, partitions int, idempotent bool) *producing {
	p := &producing{machine: newMachine(t), partitions: partitions}
	p.accept(1, newest("a"), &entry.SetFeatureLevel{Level: 3})
	p.accept(1, &entry.CreateTopic{Name: "t", ID: topicID(1), Partitions: uint32(partitions)})
	p.a = entry.Append{ObjectSize: 8 << 20, Blocks: make([]entry.Block, blocksPerCommit)}
	p.e = entry.Entry{Format: 1, FeatureLevel: 1, Incarnation: id(1), Seq: p.seqs[id(1)], Ops: []entry.Op{&p.a}}
	if idempotent {
		p.sequences = make([]int32, partitions)
	}
	return p
}

// commit builds the next entry.
func (p *producing) commit() []byte {
	p.e.Seq++
	p.e.ClockMs = start + int64(p.e.Seq)
	p.a.Object = entry.ObjectID{Incarnation: id(1), Seq: p.e.Seq, CollectionEpoch: p.s.CollectionEpoch()}
	for i := range p.a.Blocks {
		b := &p.a.Blocks[i]
		*b = entry.Block{Topic: topicID(1), Partition: uint32(p.next), Index: uint32(i), Sizes: b.Sizes[:0], Spans: b.Spans[:0], Timestamps: b.Timestamps[:0], Runs: b.Runs[:0]}
		producer := entry.NoProducer()
		if p.sequences != nil {
			producer = entry.Producer{ID: 1<<40 + int64(p.next), BaseSequence: p.sequences[p.next]}
			p.sequences[p.next] += 10
		}
		b.AddBatch(16<<10, 10, p.e.ClockMs, producer)
		p.next = (p.next + 1) % p.partitions
	}
	p.value = p.e.AppendTo(p.value[:0])
	return p.value
}

func (p *producing) apply(value []byte) {
	e, err := p.d.Decode(value)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.s.Apply(p.s.N()+1, value, e, &p.r); err != nil {
		p.t.Fatal(err)
	}
}

func benchmarkApply(b *testing.B, partitions int, idempotent bool) {
	p := newProducing(b, partitions, idempotent)
	for range 2 * (partitions/blocksPerCommit + 1) { // arenas and first pages
		p.apply(p.commit())
	}
	const trimEvery = 5000 // entries: a tail of hot rows, as merging leaves it
	values := make([][]byte, 0, trimEvery)
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		b.StopTimer()
		values = values[:0]
		for range min(trimEvery, b.N-done) {
			values = append(values, append([]byte(nil), p.commit()...))
		}
		b.StartTimer()
		for _, value := range values {
			p.apply(value)
		}
		done += len(values)
		b.StopTimer()
		for _, batch := range p.r.Ops[0].Batches {
			if batch.Code != state.OK {
				b.Fatal(batch.Code)
			}
		}
		p.trim()
		b.StartTimer()
	}
	b.ReportMetric(blocksPerCommit*float64(b.N)/b.Elapsed().Seconds(), "batches/s")
}

// trim deletes all records, with the clock stopped.
func (p *producing) trim() {
	for first := 0; first < p.partitions; first += 1000 {
		e := entry.Entry{Format: 1, Incarnation: id(1), Seq: p.e.Seq + 1, ClockMs: p.e.ClockMs}
		for i := first; i < min(first+1000, p.partitions); i++ {
			e.Ops = append(e.Ops, &entry.DeleteRecords{Topic: topicID(1), Partition: uint32(i), BeforeOffset: -1})
		}
		p.apply(e.AppendTo(nil))
		p.e.Seq++
	}
	for range state.RetiredEpochs {
		p.bump()
	}
}

func (p *producing) bump() {
	p.e.Seq++
	e := entry.Entry{Format: 1, Incarnation: id(1), Seq: p.e.Seq, ClockMs: p.e.ClockMs, Ops: []entry.Op{&entry.BumpCollectionEpoch{From: p.s.CollectionEpoch()}}}
	p.apply(e.AppendTo(nil))
}

// window is the Rewrite of all that is not merged yet of partitions of the topic: one row each, in one object.
func (p *producing) window(first, end int) *entry.Rewrite {
	p.e.Seq++
	object := entry.ObjectID{Incarnation: id(2), Seq: p.e.Seq, CollectionEpoch: p.s.CollectionEpoch(), Topic: topicID(1)}
	op := &entry.Rewrite{Topic: topicID(1), Objects: []entry.RewrittenObject{{ID: object, Size: 1 << 30}}}
	if p.merged == nil {
		p.merged = make([]int64, p.partitions)
	}
	var rows []state.Row
	for i := first; i < end; i++ {
		rows = p.s.TopicByID(topicID(1)).Partition(i).Rows(p.merged[i], math.MaxInt, rows[:0])
		into := part(uint32(i), rows, 0, uint32(i))
		for _, r := range rows {
			into.Replacement[0].Size += uint64(r.Size)
		}
		op.Parts = append(op.Parts, into)
		p.merged[i] = into.End
	}
	return op
}

// spread has an op make so many rows to an object, each object by one of five uploaders.
func (p *producing) spread(op *entry.Rewrite, perObject int) {
	op.Objects = op.Objects[:0]
	for i := range op.Parts {
		if i%perObject == 0 {
			p.spreads++
			o := entry.ObjectID{Incarnation: id(byte(p.spreads % 5)), Seq: p.spreads, CollectionEpoch: p.s.CollectionEpoch(), Topic: topicID(1)}
			op.Objects = append(op.Objects, entry.RewrittenObject{ID: o, Size: 256 << 20})
		}
		op.Parts[i].Replacement[0].Object = uint32(len(op.Objects) - 1)
	}
}

// BenchmarkRewrite applies, decoding included, what merging a window of level-0 objects proposes: in each partition many rows become one.
func BenchmarkRewrite(b *testing.B) {
	for _, c := range []struct{ partitions, rows, perObject int }{{1000, 64, 1000}, {1000, 8, 1000}, {1, 2048, 1}, {1000, 8, 1}} {
		b.Run(fmt.Sprintf("partitions=%d/rows=%d/per-object=%d", c.partitions, c.rows, c.perObject), func(b *testing.B) {
			p := newProducing(b, c.partitions, false)
			var value []byte
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				for range (c.partitions*c.rows + blocksPerCommit - 1) / blocksPerCommit {
					p.apply(p.commit())
				}
				op := p.window(0, c.partitions)
				p.spread(op, c.perObject)
				value = (&entry.Entry{Format: 1, FeatureLevel: 3, Incarnation: id(1), Seq: p.e.Seq, ClockMs: p.e.ClockMs, Ops: []entry.Op{op}}).AppendTo(value[:0])
				b.StartTimer()
				p.apply(value)
				b.StopTimer()
				if slices.ContainsFunc(p.r.Ops[0].Parts, func(c state.Code) bool { return c != state.OK }) {
					b.Fatal(p.r.Ops[0].Parts)
				}
				if p.s.TopicByID(topicID(1)).Partition(0).RowCount() > 100 {
					p.trim()
				}
				b.StartTimer()
			}
			seconds := b.Elapsed().Seconds()
			b.ReportMetric(float64(c.partitions*c.rows*b.N)/seconds, "rows/s")
			b.ReportMetric(float64(len(value)), "log-B")
		})
	}
}

// BenchmarkRowsDigest digests what a proposer has read of a partition.
func BenchmarkRowsDigest(b *testing.B) {
	p := newProducing(b, 1, false)
	p.apply(p.commit())
	rows := p.rows(topicID(1), 0)[:64]
	b.ReportAllocs()
	for b.Loop() {
		state.RowsDigest(rows)
	}
	b.ReportMetric(float64(64*b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkObjectByID looks up objects by name among half a million, and such as there are none of.
func BenchmarkObjectByID(b *testing.B) {
	s := mergedRows(b, 1000, 500_000, 1)
	ids := slices.Collect(s.Objects())
	for _, c := range []struct {
		name  string
		epoch uint64 // on top of theirs
	}{{"live", 0}, {"unknown", 1000}} {
		b.Run(c.name, func(b *testing.B) {
			at := 0
			for b.Loop() {
				id := ids[at]
				id.CollectionEpoch += c.epoch
				if _, live := s.ObjectByID(id); live != (c.epoch == 0) {
					b.Fatal(id)
				}
				at = (at + 77_777) % len(ids)
			}
		})
	}
}

// TestApplyDoesNotAllocate: nothing is allocated per batch; a page for every fifty rows and an object now and then are
// all that grows.
func TestApplyDoesNotAllocate(t *testing.T) {
	p := newProducing(t, 1000, true)
	for range 100 {
		p.apply(p.commit())
	}
	allocs := testing.AllocsPerRun(200, func() { p.apply(p.commit()) })
	if perBatch := allocs / blocksPerCommit; perBatch > 0.25 {
		t.Errorf("%.3f allocations a batch", perBatch)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// idlePartitions is a state with this many partitions that hold nothing.
func idlePartitions(t testing.TB, n int) *state.State {
	m := newMachine(t)
	m.accept(1, join("a"))
	for i := range n / 100 {
		m.accept(1, &entry.CreateTopic{Name: fmt.Sprintf("topic-%04d", i), ID: entry.UUID{1, byte(i), byte(i >> 8)}, Partitions: 100})
	}
	return m.s
}

// rowsOf is a state with this many rows in 1 000 partitions, 100 rows to an object.
func rowsOf(t testing.TB, partitions, rows int) *state.State {
	p := newProducing(t, partitions, false)
	for range rows / blocksPerCommit {
		p.apply(p.commit())
	}
	return p.s
}

// mergedRows is a state with this many merged rows, so many to an object.
func mergedRows(t testing.TB, partitions, rows, perObject int) *state.State {
	p := newProducing(t, partitions, false)
	each := min(partitions, 10_000) // partitions of an op
	for range rows / partitions {
		for first := 0; first < partitions; first += each {
			for range each / blocksPerCommit {
				p.apply(p.commit())
			}
			op := p.window(first, first+each)
			p.spread(op, perObject)
			e := entry.Entry{Format: 1, FeatureLevel: 3, Incarnation: id(1), Seq: p.e.Seq, ClockMs: p.e.ClockMs, Ops: []entry.Op{op}}
			p.apply(e.AppendTo(nil))
			if r := &p.r.Ops[0]; r.Code != state.OK || slices.ContainsFunc(r.Parts, func(c state.Code) bool { return c != state.OK }) {
				t.Fatalf("%v, %v", r.Code, r.Parts)
			}
			if p.e.Seq%64 < 2 { // what retired is not what is measured
				p.bump()
			}
		}
	}
	for range state.RetiredEpochs {
		p.bump()
	}
	return p.s
}

// producersOf is a state with this many producers in 100 partitions, all with a full window.
func producersOf(t testing.TB, n int) *state.State {
	m := newMachine(t)
	m.accept(1, join("a"))
	m.accept(1, &entry.CreateTopic{Name: "t", ID: topicID(1), Partitions: 100})
	o := m.object()
	for i := range n {
		b := entry.Block{Topic: topicID(1), Partition: uint32(i % 100)}
		for seq := range int32(5) {
			x := sent(int64(i), 0, seq, 1)
			b.AddBatch(x.size, x.span, x.ts, x.p)
		}
		m.accept(1, &entry.Append{Object: o, ObjectSize: 1000, Blocks: []entry.Block{b}})
		if i%1000 == 999 { // rows are not what is measured
			var ops []entry.Op
			for p := range 100 {
				ops = append(ops, &entry.DeleteRecords{Topic: topicID(1), Partition: uint32(p), BeforeOffset: -1})
			}
			m.accept(1, ops...)
		}
	}
	return m.s
}

// groupsOf is a state with this many groups, each with offsets of as many partitions, committed member by member as groups do.
func groupsOf(t testing.TB, groups, offsets int) *state.State {
	c := newCommitting(t, groups, offsets, 1)
	for range groups * offsets / commitsPerEntry {
		c.apply(c.entry())
	}
	return c.s
}

// committing is a machine whose groups commit.
type committing struct {
	*machine
	e          entry.Entry
	ops        []entry.CommitOffsets
	names      []string
	partitions int // of the topic, all of which each group commits
	next       int
	value      []byte
}

const commitsPerEntry = 50

// newCommitting makes commits of each offsets, of as many partitions each as said.
func newCommitting(t testing.TB, groups, partitions, each int) *committing {
	c := &committing{machine: newMachine(t), partitions: partitions, ops: make([]entry.CommitOffsets, commitsPerEntry)}
	c.accept(1, newer("a"), &entry.SetFeatureLevel{Level: 2})
	c.accept(1, &entry.CreateTopic{Name: "t", ID: topicID(1), Partitions: uint32(partitions)})
	for i := range uint32(state.Slots) {
		c.accept(1, &entry.ClaimSlot{Slot: i, Owner: id(1)})
	}
	for i := range groups {
		c.names = append(c.names, fmt.Sprintf("group-of-a-service-%06d", i))
	}
	c.e = entry.Entry{Format: 1, FeatureLevel: 2, Incarnation: id(1), Seq: c.seqs[id(1)]}
	for i := range c.ops {
		c.ops[i].Offsets = make([]entry.GroupOffset, each)
		c.e.Ops = append(c.e.Ops, &c.ops[i])
	}
	return c
}

func (c *committing) entry() []byte {
	c.e.Seq++
	c.e.ClockMs = start + int64(c.e.Seq)
	for i := range c.ops {
		op := &c.ops[i]
		op.Group, op.Generation = c.names[c.next%len(c.names)], -1
		op.Slot, op.Epoch = c.epoch(op.Group)
		for j := range op.Offsets {
			op.Offsets[j] = entry.GroupOffset{
				Topic: topicID(1), Partition: uint32((c.next/len(c.names)*len(op.Offsets) + j) % c.partitions), Offset: 1<<30 + int64(c.next), ExpireMs: -1,
			}
		}
		c.next++
	}
	c.value = c.e.AppendTo(c.value[:0])
	return c.value
}

func (c *committing) apply(value []byte) {
	e, err := c.d.Decode(value)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.s.Apply(c.s.N()+1, value, e, &c.r); err != nil {
		c.t.Fatal(err)
	}
}

// BenchmarkCommitOffsets applies entries of 50 commits, decoding included, as an agent does for every commit of the cluster.
func BenchmarkCommitOffsets(b *testing.B) {
	for _, offsets := range []int{1, 24} {
		for _, groups := range []int{200, 100_000} {
			b.Run(fmt.Sprintf("offsets=%d/groups=%d", offsets, groups), func(b *testing.B) { benchmarkCommitOffsets(b, groups, offsets) })
		}
	}
}

func benchmarkCommitOffsets(b *testing.B, groups, offsets int) {
	c := newCommitting(b, groups, offsets, offsets)
	for range groups/commitsPerEntry + 1 { // all groups are there
		c.apply(c.entry())
	}
	values := make([][]byte, 0, 1000)
	bytes := 0
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += len(values) {
		b.StopTimer()
		values = values[:0]
		for range min(cap(values), b.N-done) {
			values = append(values, append([]byte(nil), c.entry()...))
			bytes += len(values[len(values)-1])
		}
		b.StartTimer()
		for _, value := range values {
			c.apply(value)
		}
	}
	for _, op := range c.r.Ops {
		if op.Code != state.OK || op.Offsets[0] != state.OK {
			b.Fatal(op)
		}
	}
	b.ReportMetric(commitsPerEntry*float64(b.N)/b.Elapsed().Seconds(), "commits/s")
	b.ReportMetric(float64(offsets*commitsPerEntry)*float64(b.N)/b.Elapsed().Seconds(), "offsets/s")
	b.ReportMetric(float64(bytes)/float64(b.N)/commitsPerEntry, "log-B/commit")
}

// BenchmarkMemory reports bytes of heap per element; the time is that of building the state.
func BenchmarkMemory(b *testing.B) {
	for _, c := range memoryCases {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				perElement, estimate := measure(c.build(b, c.elements), c.elements)
				b.ReportMetric(perElement, "B/element")
				b.ReportMetric(estimate, "estimated-B/element")
			}
		})
	}
}

var memoryCases = []struct {
	name     string
	elements int
	most     float64 // bytes each
	build    func(t testing.TB, n int) func() *state.State
}{
	{"idle-partition", 10_000, 256, func(t testing.TB, n int) func() *state.State {
		return func() *state.State { return idlePartitions(t, n) }
	}},
	{"row", 1_000_000, 16, func(t testing.TB, n int) func() *state.State {
		return func() *state.State { return rowsOf(t, 1000, n) }
	}},
	{"merged-row", 200_000, 20, func(t testing.TB, n int) func() *state.State { // 1000 to an object
		return func() *state.State { return mergedRows(t, 1000, n, 1000) }
	}},
	{"merged-object", 200_000, 72, func(t testing.TB, n int) func() *state.State { // its row included
		return func() *state.State { return mergedRows(t, 1000, n, 1) }
	}},
	{"producer", 100_000, 130, func(t testing.TB, n int) func() *state.State {
		return func() *state.State { return producersOf(t, n) }
	}},
	{"group", 50_000, 320, func(t testing.TB, n int) func() *state.State { // its id of 25 bytes, its first offset included
		return func() *state.State { return groupsOf(t, n, 1) }
	}},
	{"offset", 200_000, 70, func(t testing.TB, n int) func() *state.State { // in groups of 10, their cost included
		return func() *state.State { return groupsOf(t, n/10, 10) }
	}},
	{"offset-of-many", 200_000, 44, func(t testing.TB, n int) func() *state.State { // in groups of 1 000, which grow by an eighth
		return func() *state.State { return groupsOf(t, n/1000, 1000) }
	}},
}

// measure builds a state and returns its heap and its own estimate, per element.
func measure(build func() *state.State, elements int) (perElement, estimate float64) {
	before := heap()
	s := build()
	used := heap() - before
	estimate = float64(s.MemoryBytes()) / float64(elements)
	runtime.KeepAlive(s)
	return float64(used) / float64(elements), estimate
}

func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a million rows")
	}
	for _, c := range memoryCases {
		perElement, estimate := measure(c.build(t, c.elements), c.elements)
		t.Logf("%s: %.1f bytes, estimated %.1f", c.name, perElement, estimate)
		if perElement > c.most {
			t.Errorf("%s: %.1f bytes, the most is %.0f", c.name, perElement, c.most)
		}
		if estimate < perElement/2 || estimate > perElement*1.5 {
			t.Errorf("%s: takes %.1f bytes, MemoryBytes says %.1f", c.name, perElement, estimate)
		}
	}
	if state.PartitionBytes > 136 || state.ProducerBytes > 112 || state.OffsetBytes > 32 || state.GroupRowBytes > 136 {
		t.Errorf("a partition takes %d bytes, a producer %d, a committed offset %d, a group %d", state.PartitionBytes, state.ProducerBytes,
			state.OffsetBytes, state.GroupRowBytes)
	}
}

// snapshots are what BenchmarkLoad loads and BenchmarkSnapshot writes: 10 000 partitions with a million rows, 100 000 groups with a
// million offsets, 100 000 partitions with a million merged rows, and as many objects of their own.
var snapshots = map[string]func(testing.TB) *state.State{
	"rows":    func(t testing.TB) *state.State { return rowsOf(t, 10_000, 1_000_000) },
	"offsets": func(t testing.TB) *state.State { return groupsOf(t, 100_000, 10) },
	"merged":  func(t testing.TB) *state.State { return mergedRows(t, 100_000, 1_000_000, 1000) },
	"objects": func(t testing.TB) *state.State { return mergedRows(t, 1000, 100_000, 1) },
}

func BenchmarkLoad(b *testing.B) {
	for name, build := range snapshots {
		b.Run(name, func(b *testing.B) {
			snapshot := build(b).AppendSnapshot(nil)
			b.SetBytes(int64(len(snapshot)))
			b.ResetTimer()
			for range b.N {
				if _, err := state.Load(snapshot); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(snapshot))/1e6, "MB")
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	for name, build := range snapshots {
		b.Run(name, func(b *testing.B) {
			s := build(b)
			buf := s.AppendSnapshot(nil)
			b.SetBytes(int64(len(buf)))
			b.ResetTimer()
			for range b.N {
				buf = s.AppendSnapshot(buf[:0])
			}
		})
	}
}

// BenchmarkRows looks offsets up in a partition of 100 000 rows.
func BenchmarkRows(b *testing.B) {
	s := rowsOf(b, 1, 100_000)
	p := s.TopicByID(topicID(1)).Partition(0)
	var dst []state.Row
	offset := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		dst = p.Rows(offset, 1, dst[:0])
		offset = (offset + 7_777_777) % p.Next()
	}
}
