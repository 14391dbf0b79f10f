package state_test

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// model is the state machine written as plainly as possible: maps, slices of rows, every sequence ever accepted in a
// set. It knows nothing of limits that a short test cannot reach.
type model struct {
	n          uint64
	level      uint32
	agents     map[[16]byte]*modelAgent
	gone       map[[16]byte]bool
	nodes      map[string]int32
	logTime    int64
	collection uint64
	reserved   uint64
	epoch      uint64 // of the log
	topics     map[entry.UUID]*modelTopic
	configs    map[string]string
	objects    map[entry.ObjectID]*modelObject
}

type modelAgent struct {
	name  string
	seq   uint64
	clock int64
	most  uint32 // feature level
}

type modelTopic struct {
	name    string
	configs map[string]string
	parts   []*modelPartition
	givenUp int64
}

type modelPartition struct {
	start, next int64
	rows        []entry.Row
	epochs      []int32 // leader epoch by offset
	epoch       int32   // of what comes next
	producers   map[int64]*modelProducer
}

type modelProducer struct {
	epoch int16
	seen  int64
	sent  []modelBatch
	known map[uint32]bool // sequences in the log
}

type modelBatch struct {
	sequence    uint32
	span        uint64
	base, stamp int64
}

type modelObject struct {
	size    uint64
	pending bool
	holder  [16]byte
	born    uint64
}

func newModel() *model {
	return &model{
		n: identity.Base, level: 1,
		agents: make(map[[16]byte]*modelAgent), gone: make(map[[16]byte]bool), nodes: make(map[string]int32), collection: 1, epoch: identity.Epoch,
		topics: make(map[entry.UUID]*modelTopic), configs: make(map[string]string), objects: make(map[entry.ObjectID]*modelObject),
	}
}

func (m *model) apply(e *entry.Entry) (state.Code, []state.OpResult) {
	m.n++
	if e.FeatureLevel > m.level {
		return state.FeatureLevelNotReached, nil
	}
	var results []state.OpResult
	ops := e.Ops
	a := m.agents[e.Incarnation]
	if a == nil {
		if m.gone[e.Incarnation] || e.Seq != 1 || len(ops) == 0 {
			return state.NotJoined, nil
		}
		join, isJoin := ops[0].(*entry.Join)
		switch {
		case !isJoin:
			return state.NotJoined, nil
		case join.Name == "":
			return state.InvalidRequest, nil
		case join.MaxFeatureLevel < m.level:
			return state.FeatureLevelUnsupported, nil
		}
		for incarnation, other := range m.agents {
			if other.name == join.Name {
				m.leave(incarnation)
			}
		}
		if m.nodes[join.Name] == 0 {
			free := int32(1)
			for slices.Contains(slices.Collect(maps.Values(m.nodes)), free) {
				free++
			}
			m.nodes[join.Name] = free
		}
		a = &modelAgent{name: join.Name, most: join.MaxFeatureLevel}
		m.agents[e.Incarnation] = a
		results = append(results, state.OpResult{FirstProducerID: -1, LogStartOffset: -1, NodeID: m.nodes[join.Name]})
		ops = ops[1:]
	} else if e.Seq <= a.seq {
		return state.SeqRepeated, nil
	} else if e.Seq > a.seq+1 {
		return state.SeqGap, nil
	}
	a.seq, a.clock = e.Seq, e.ClockMs
	var clocks []int64
	for _, other := range m.agents {
		clocks = append(clocks, other.clock)
	}
	slices.Sort(clocks)
	median := clocks[(len(clocks)-1)/2]
	m.logTime = max(m.logTime, min(median+10_000, max(median-10_000, e.ClockMs)))
	for _, op := range ops {
		res := state.OpResult{FirstProducerID: -1, LogStartOffset: -1, NodeID: -1}
		if m.agents[e.Incarnation] == nil {
			res.Code = state.NotJoined
		} else {
			m.op(e, op, &res)
		}
		results = append(results, res)
	}
	return state.OK, results
}

func (m *model) leave(incarnation [16]byte) {
	delete(m.agents, incarnation)
	m.gone[incarnation] = true
}

func (m *model) op(e *entry.Entry, op entry.Op, res *state.OpResult) {
	switch op := op.(type) {
	case *entry.Join:
		res.Code = state.AlreadyJoined
	case *entry.Leave:
		if m.agents[op.Incarnation] == nil {
			res.Code = state.NotJoined
			return
		}
		m.leave(op.Incarnation)
	case *entry.CreateTopic:
		res.Code = m.createTopic(op)
	case *entry.DeleteTopic:
		if m.topics[op.ID] == nil {
			res.Code = state.UnknownTopic
		}
		delete(m.topics, op.ID)
	case *entry.CreatePartitions:
		t := m.topics[op.ID]
		switch {
		case t == nil:
			res.Code = state.UnknownTopic
		case int(op.Total) <= len(t.parts):
			res.Code = state.InvalidPartitions
		default:
			t.grow(int(op.Total), m.epoch)
		}
	case *entry.AlterConfigs:
		res.Code = m.alterConfigs(op)
	case *entry.Append:
		m.append(e, op, res)
	case *entry.Relocate:
		res.Code = m.relocate(op)
	case *entry.Rewrite:
		res.Code, res.Parts = m.rewrite(op)
	case *entry.DeleteRecords:
		m.deleteRecords(op, res)
	case *entry.ReserveProducerIDs:
		if op.Count == 0 {
			res.Code = state.InvalidRequest
			return
		}
		res.FirstProducerID = int64(m.epoch<<40 | m.reserved)
		m.reserved += uint64(op.Count)
	case *entry.SetFeatureLevel:
		if op.Level <= m.level {
			res.Code = state.InvalidRequest
			return
		}
		for _, a := range m.agents {
			if a.most < op.Level {
				res.Code = state.FeatureLevelUnsupported
				return
			}
		}
		m.level = op.Level
	case *entry.BumpCollectionEpoch:
		if op.From != m.collection {
			res.Code = state.ConditionFailed
			return
		}
		m.collection++
	case *entry.NewLogEpoch:
		if op.Epoch <= m.epoch {
			res.Code = state.InvalidRequest
			return
		}
		m.epoch, m.reserved = op.Epoch, 0
		for incarnation := range maps.Clone(m.agents) {
			if incarnation != e.Incarnation {
				m.leave(incarnation)
			}
		}
		for _, t := range m.topics {
			for _, p := range t.parts {
				p.epoch = int32(op.Epoch) - 1
			}
		}
	case *entry.ExpireProducers:
		if op.BeforeMs > m.logTime {
			res.Code = state.InvalidRequest
			return
		}
		for _, t := range m.topics {
			for _, p := range t.parts {
				maps.DeleteFunc(p.producers, func(_ int64, x *modelProducer) bool { return x.seen < op.BeforeMs })
			}
		}
	}
	m.forgetObjects()
}

func (m *model) named(name string) (entry.UUID, *modelTopic) {
	for id, t := range m.topics {
		if strings.ReplaceAll(t.name, ".", "_") == strings.ReplaceAll(name, ".", "_") {
			return id, t
		}
	}
	return entry.UUID{}, nil
}

func (m *model) createTopic(op *entry.CreateTopic) state.Code {
	_, other := m.named(op.Name)
	switch {
	case op.Name == "" || strings.Contains(op.Name, "/"):
		return state.InvalidTopic
	case other != nil && other.name != op.Name:
		return state.InvalidTopic
	case other != nil || m.topics[op.ID] != nil:
		return state.TopicExists
	case op.Partitions == 0:
		return state.InvalidPartitions
	}
	t := &modelTopic{name: op.Name, configs: make(map[string]string)}
	for _, c := range op.Configs {
		t.configs[c.Name] = c.Value
	}
	if !validType(t.configs["message.timestamp.type"]) {
		return state.InvalidConfig
	}
	t.grow(int(op.Partitions), m.epoch)
	m.topics[op.ID] = t
	return state.OK
}

func (t *modelTopic) grow(total int, logEpoch uint64) {
	for len(t.parts) < total {
		t.parts = append(t.parts, &modelPartition{producers: make(map[int64]*modelProducer), epoch: int32(logEpoch) - 1})
	}
}

func validType(v string) bool { return v == "" || v == "CreateTime" || v == "LogAppendTime" }

func (m *model) alterConfigs(op *entry.AlterConfigs) state.Code {
	configs, t := m.configs, (*modelTopic)(nil)
	if op.ResourceType == entry.ResourceTopic {
		if _, t = m.named(op.ResourceName); t == nil || t.name != op.ResourceName {
			return state.UnknownTopic
		}
		configs = t.configs
	}
	changed := maps.Clone(configs)
	if op.ReplaceAll {
		clear(changed)
	}
	for _, c := range op.Changes {
		switch c.Kind {
		case entry.ConfigSet:
			changed[c.Name] = c.Value
		case entry.ConfigDelete:
			delete(changed, c.Name)
		}
	}
	if !validType(changed["message.timestamp.type"]) || !validType(changed["log.message.timestamp.type"]) {
		return state.InvalidConfig
	}
	if t != nil {
		t.configs = changed
	} else {
		m.configs = changed
	}
	return state.OK
}

func (m *model) stamps(t *modelTopic) bool {
	v, ok := t.configs["message.timestamp.type"]
	if !ok {
		v = m.configs["log.message.timestamp.type"]
	}
	return v == "LogAppendTime"
}

func (m *model) partition(topic entry.UUID, index uint32) (*modelTopic, *modelPartition, state.Code) {
	t := m.topics[topic]
	if t == nil {
		return nil, nil, state.UnknownTopic
	}
	if int(index) >= len(t.parts) {
		return nil, nil, state.UnknownPartition
	}
	return t, t.parts[index], state.OK
}

func (m *model) checkObject(id entry.ObjectID, size uint64) state.Code {
	if id.CollectionEpoch > m.collection || m.objects[id] != nil && m.objects[id].size != size {
		return state.InvalidObject
	}
	return state.OK
}

func (m *model) append(e *entry.Entry, op *entry.Append, res *state.OpResult) {
	res.Code = m.checkObject(op.Object, op.ObjectSize)
	if op.Object.CollectionEpoch+1 < m.collection {
		res.Code = state.StaleCollectionEpoch
	}
	if op.Object.Merged() {
		res.Code = state.InvalidObject
	}
	for i := range op.Blocks {
		b := &op.Blocks[i]
		sequences := make(map[int]uint32)
		runs := make(map[int]entry.Run)
		for _, run := range b.Runs {
			sequence := run.BaseSequence
			for j := run.First; j < run.First+run.Count; j++ {
				sequences[int(j)], runs[int(j)] = sequence, run
				sequence = uint32((uint64(sequence) + b.Spans[j]) % (1 << 31))
			}
		}
		t, p, code := m.partition(b.Topic, b.Partition)
		logStart := int64(-1)
		if res.Code != state.OK {
			code = res.Code
		} else if code == state.OK {
			logStart = p.start
			if b.ExpectedNextOffset > 0 && b.ExpectedNextOffset-1 != p.next {
				code = state.ConditionFailed
			}
		}
		position, unbroken := b.FirstPosition, false
		for j := range b.Sizes {
			out := state.BatchResult{Code: code, BaseOffset: -1, Timestamp: -1, LogStartOffset: logStart}
			run, idempotent := runs[j]
			if code == state.OK {
				if idempotent {
					p.judge(run, sequences[j], b.Spans[j], &out)
				}
				if out.Code == state.OK {
					m.accept(e, op, t, p, b, j, position, unbroken, &out)
					if idempotent {
						p.remember(run, sequences[j], b.Spans[j], &out, m.logTime)
					}
				}
			}
			unbroken = out.Code == state.OK
			position += b.Sizes[j]
			res.Batches = append(res.Batches, out)
		}
	}
}

func (p *modelPartition) judge(run entry.Run, sequence uint32, span uint64, out *state.BatchResult) {
	x := p.producers[run.ProducerID]
	if x == nil {
		return
	}
	if int16(run.ProducerEpoch) != x.epoch {
		if int16(run.ProducerEpoch) < x.epoch {
			out.Code = state.ProducerFenced
		} else if sequence != 0 {
			out.Code = state.OutOfOrderSequence
		}
		return
	}
	for _, b := range x.sent[max(0, len(x.sent)-5):] {
		if b.sequence == sequence && b.span == span {
			out.Code, out.BaseOffset, out.Timestamp = state.Duplicate, b.base, b.stamp
			return
		}
	}
	last := x.sent[len(x.sent)-1]
	if sequence == uint32((uint64(last.sequence)+last.span)%(1<<31)) {
		return
	}
	out.Code = state.DuplicateSequence
	for i := range span {
		if !x.known[uint32((uint64(sequence)+i)%(1<<31))] {
			out.Code = state.OutOfOrderSequence
		}
	}
}

func (p *modelPartition) remember(run entry.Run, sequence uint32, span uint64, out *state.BatchResult, logTime int64) {
	x := p.producers[run.ProducerID]
	if x == nil || x.epoch != int16(run.ProducerEpoch) {
		x = &modelProducer{epoch: int16(run.ProducerEpoch), known: make(map[uint32]bool)}
		p.producers[run.ProducerID] = x
	}
	x.seen = logTime
	x.sent = append(x.sent, modelBatch{sequence, span, out.BaseOffset, out.Timestamp})
	for i := range span {
		x.known[uint32((uint64(sequence)+i)%(1<<31))] = true
	}
}

func (m *model) accept(
	e *entry.Entry, op *entry.Append, t *modelTopic, p *modelPartition, b *entry.Block, j int, position uint64, unbroken bool, out *state.BatchResult,
) {
	ts := b.Timestamps[j]
	out.BaseOffset = p.next
	if m.stamps(t) {
		ts, out.Timestamp = m.logTime, m.logTime
	}
	p.next += int64(b.Spans[j])
	for int64(len(p.epochs)) < p.next {
		p.epochs = append(p.epochs, p.epoch)
	}
	o := m.objects[op.Object]
	if o == nil {
		o = m.makeObject(op.Object, op.ObjectSize)
		o.pending, o.holder = op.Location == entry.InWAL, e.Incarnation
	}
	if op.Location == entry.InBucket {
		o.pending = false
	}
	if unbroken {
		r := &p.rows[len(p.rows)-1]
		r.EndOffset, r.Size, r.MaxTimestamp = p.next, r.Size+b.Sizes[j], max(r.MaxTimestamp, ts)
		return
	}
	p.rows = append(p.rows, entry.Row{
		Object: op.Object, Block: b.Index, BaseOffset: out.BaseOffset, EndOffset: p.next, MaxTimestamp: ts,
		LogAppendTime: out.Timestamp >= 0, Position: position, Size: b.Sizes[j],
	})
}

func (m *model) relocate(op *entry.Relocate) state.Code {
	if op.IsBind() {
		o := m.objects[op.Bind]
		switch {
		case o == nil:
			return state.UnknownObject
		case !o.pending:
			return state.Duplicate
		}
		o.pending, o.size = false, op.ObjectSize
		return state.OK
	}
	for _, r := range slices.Concat(op.Expected, op.Rows) {
		if m.level < 3 && (r.Cleaned || r.Object.Merged()) {
			return state.FeatureLevelNotReached
		}
	}
	t, p, code := m.partition(op.Topic, op.Partition)
	if code != state.OK {
		return code
	}
	before, within, after := m.cut(p, op.StartOffset, op.EndOffset)
	if !slices.Equal(within, op.Expected) {
		return state.Conflict
	}
	sizes := make(map[entry.ObjectID]uint64)
	for _, r := range op.Rows {
		if r.BaseOffset < within[0].BaseOffset || r.EndOffset > within[len(within)-1].EndOffset {
			return state.Conflict
		}
		if r.Object.Merged() && (r.Object.Topic != op.Topic || r.Position > 0 || r.LogAppendTime) {
			return state.InvalidObject
		}
		if sizes[r.Object] != 0 && sizes[r.Object] != r.ObjectSize {
			return state.InvalidObject
		}
		sizes[r.Object] = r.ObjectSize
		if code := m.checkObject(r.Object, r.ObjectSize); code != state.OK {
			return code
		}
		if r.Object.CollectionEpoch+1 < m.collection && m.objects[r.Object] == nil {
			return state.StaleCollectionEpoch
		}
	}
	p.rows = before
	for _, r := range op.Rows {
		if r.EndOffset <= p.start {
			continue
		}
		if m.objects[r.Object] == nil {
			m.makeObject(r.Object, r.ObjectSize)
		}
		r.ObjectSize = 0
		p.rows = append(p.rows, r)
	}
	p.rows = append(p.rows, after...)
	if len(op.Rows) == 0 {
		for _, r := range within {
			t.givenUp += r.EndOffset - max(r.BaseOffset, p.start)
		}
	}
	return state.OK
}

func (m *model) makeObject(id entry.ObjectID, size uint64) *modelObject {
	o := &modelObject{size: size}
	if m.level >= 3 {
		o.born = m.n
	}
	m.objects[id] = o
	return o
}

// cut sorts rows by how they lie to a range.
func (m *model) cut(p *modelPartition, start, end int64) (before, within, after []entry.Row) {
	for _, r := range p.rows {
		switch {
		case r.EndOffset <= start:
			before = append(before, r)
		case r.BaseOffset >= end:
			after = append(after, r)
		default:
			r.ObjectSize = m.objects[r.Object].size
			within = append(within, r)
		}
	}
	return before, within, after
}

func (m *model) rewrite(op *entry.Rewrite) (state.Code, []state.Code) {
	t := m.topics[op.Topic]
	switch {
	case m.level < 3:
		return state.FeatureLevelNotReached, nil
	case t == nil:
		return state.UnknownTopic, nil
	}
	for i, o := range op.Objects {
		again := slices.ContainsFunc(op.Objects[:i], func(x entry.RewrittenObject) bool { return x.ID == o.ID })
		if again || o.ID.Topic != op.Topic {
			return state.InvalidObject, nil
		}
		if code := m.checkObject(o.ID, o.Size); code != state.OK {
			return code, nil
		}
		if o.ID.CollectionEpoch+1 < m.collection && m.objects[o.ID] == nil {
			return state.StaleCollectionEpoch, nil
		}
	}
	var codes []state.Code
	for i := range op.Parts {
		codes = append(codes, m.rewritePart(t, op, &op.Parts[i]))
	}
	return state.OK, codes
}

func (m *model) rewritePart(t *modelTopic, op *entry.Rewrite, part *entry.RewrittenPart) state.Code {
	if int(part.Partition) >= len(t.parts) {
		return state.UnknownPartition
	}
	p := t.parts[part.Partition]
	before, within, after := m.cut(p, part.Start, part.End)
	if len(within) == 0 || len(within) != int(part.Rows) || naiveDigest(within) != part.Digest {
		return state.Conflict
	}
	first, last := within[0].BaseOffset, within[len(within)-1].EndOffset
	if first < part.Start || last > part.End {
		return state.Conflict
	}
	for _, r := range within {
		if m.objects[r.Object].pending {
			return state.Conflict
		}
	}
	for _, r := range part.Replacement {
		if r.Base < first || r.End > last {
			return state.Conflict
		}
	}
	p.rows = before
	for _, r := range part.Replacement {
		if r.End <= p.start {
			continue
		}
		o := op.Objects[r.Object]
		if m.objects[o.ID] == nil {
			m.makeObject(o.ID, o.Size)
		}
		p.rows = append(p.rows, entry.Row{
			Object: o.ID, Block: r.Block, BaseOffset: r.Base, EndOffset: r.End, MaxTimestamp: r.MaxTimestamp, Size: r.Size, Cleaned: part.Cleaned,
		})
	}
	p.rows = append(p.rows, after...)
	return state.OK
}

// naiveDigest is state.RowsDigest as docs/formats.md has it.
func naiveDigest(rows []entry.Row) uint64 {
	b := []byte("firn rows 1")
	for _, r := range rows {
		flags := byte(0)
		for i, set := range []bool{r.LogAppendTime, r.Cleaned, r.Object.Merged()} {
			if set {
				flags |= 1 << i
			}
		}
		b = append(append(b, flags), r.Object.Incarnation[:]...)
		b = binary.BigEndian.AppendUint64(b, r.Object.Seq)
		b = binary.BigEndian.AppendUint64(b, r.Object.CollectionEpoch)
		if r.Object.Merged() {
			b = append(b, r.Object.Topic[:]...)
		}
		b = binary.BigEndian.AppendUint64(b, r.ObjectSize)
		b = binary.BigEndian.AppendUint32(b, r.Block)
		for _, v := range []int64{r.BaseOffset, r.EndOffset, r.MaxTimestamp, int64(r.Position), int64(r.Size)} {
			b = binary.BigEndian.AppendUint64(b, uint64(v))
		}
	}
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:])
}

func (m *model) deleteRecords(op *entry.DeleteRecords, res *state.OpResult) {
	_, p, code := m.partition(op.Topic, op.Partition)
	if res.Code = code; code != state.OK {
		return
	}
	before := op.BeforeOffset
	if before == -1 {
		before = p.next
	}
	if before > p.next {
		res.Code = state.OffsetOutOfRange
	} else {
		p.start = max(p.start, before)
		p.rows = slices.DeleteFunc(p.rows, func(r entry.Row) bool { return r.EndOffset <= p.start })
	}
	res.LogStartOffset = p.start
}

// forgetObjects drops what no row names.
func (m *model) forgetObjects() {
	named := make(map[entry.ObjectID]bool)
	for _, t := range m.topics {
		for _, p := range t.parts {
			for _, r := range p.rows {
				named[r.Object] = true
			}
		}
	}
	maps.DeleteFunc(m.objects, func(id entry.ObjectID, _ *modelObject) bool { return !named[id] })
}

// differences between the model and what readers see of s.
func (m *model) check(s *state.State, fail func(format string, args ...any)) {
	if s.LogTime() != m.logTime || s.CollectionEpoch() != m.collection || s.TopicCount() != len(m.topics) || len(s.Agents()) != len(m.agents) {
		fail("log time %d, collection epoch %d, %d topics, %d agents; want %d, %d, %d, %d", s.LogTime(), s.CollectionEpoch(),
			s.TopicCount(), len(s.Agents()), m.logTime, m.collection, len(m.topics), len(m.agents))
	}
	for _, a := range s.Agents() {
		want := m.agents[a.Incarnation]
		if want == nil || want.name != a.Name || want.seq != a.LastSeq || want.clock != a.ClockMs || m.nodes[a.Name] != a.NodeID {
			fail("agent %+v, want %+v", a, want)
		}
	}
	table := make(map[entry.ObjectID]state.Object)
	for o := range s.ObjectTable() {
		table[o.ID] = o
	}
	for id, want := range m.objects {
		if got := table[id]; got != (state.Object{ID: id, Size: int64(want.size), Born: want.born, Pending: want.pending}) {
			fail("object %+v, want %v: %+v", got, id, want)
		}
	}
	if s.FeatureLevel() != m.level || len(table) != len(m.objects) {
		fail("level %d, %d objects; want %d, %d", s.FeatureLevel(), len(table), m.level, len(m.objects))
	}
	for id, want := range m.topics {
		t := s.TopicByID(id)
		if t == nil || t.Name != want.name || t.Partitions() != len(want.parts) || t.GivenUp() != want.givenUp || len(t.Configs) != len(want.configs) {
			fail("topic %+v, want %+v", t, want)
			continue
		}
		for i, p := range want.parts {
			m.checkPartition(t.Partition(i), p, fail)
		}
	}
}

func (m *model) checkPartition(got *state.Partition, p *modelPartition, fail func(format string, args ...any)) {
	want, size := make([]state.Row, 0, len(p.rows)), int64(0)
	for _, r := range p.rows {
		o := m.objects[r.Object]
		row := state.Row{
			Object: r.Object, ObjectSize: int64(o.size), InWAL: o.pending, Block: r.Block, Base: r.BaseOffset, End: r.EndOffset,
			MaxTimestamp: r.MaxTimestamp, LogAppendTime: r.LogAppendTime, Position: int64(r.Position), Size: int64(r.Size),
			Cleaned: r.Cleaned,
		}
		if o.pending {
			row.Holder = o.holder
		}
		want, size = append(want, row), size+row.Size
	}
	if got.LogStart() != p.start || got.Next() != p.next || got.Size() != size || got.RowCount() != len(want) {
		fail("%+v: start %d, next %d, size %d, %d rows; want %d, %d, %d, %d", got.Ref(), got.LogStart(), got.Next(), got.Size(),
			got.RowCount(), p.start, p.next, size, len(want))
	}
	if rows := got.Rows(0, math.MaxInt, []state.Row{}); !slices.Equal(rows, want) {
		fail("%+v: rows\n%+v\nwant\n%+v", got.Ref(), rows, want)
	}
	if len(want) > 0 { // look-ups at the middle one
		middle := want[len(want)/2]
		if rows := got.Rows(middle.End-1, 1, nil); len(rows) != 1 || rows[0] != middle {
			fail("%+v: row of offset %d is %+v, want %+v", got.Ref(), middle.End-1, rows, middle)
		}
		first := want[slices.IndexFunc(want, func(r state.Row) bool { return r.MaxTimestamp >= middle.MaxTimestamp })]
		if row, ok := got.RowByTimestamp(middle.MaxTimestamp); !ok || row != first {
			fail("%+v: row of time %d is %+v, want %+v", got.Ref(), middle.MaxTimestamp, row, first)
		}
		if row, ok := got.RowBefore(middle.Base); ok != (len(want) > 1) || ok && row != want[len(want)/2-1] {
			fail("%+v: the row before offset %d is %+v", got.Ref(), middle.Base, row)
		}
	}
	if got.LeaderEpoch() != p.epoch {
		fail("%+v: leader epoch %d, want %d", got.Ref(), got.LeaderEpoch(), p.epoch)
	}
	for offset := p.start; offset < p.next; offset++ {
		if epoch := got.EpochAt(offset); epoch != p.epochs[offset] {
			fail("%+v: offset %d is of epoch %d, want %d: %+v", got.Ref(), offset, epoch, p.epochs[offset], got.Epochs(nil))
		}
		// Whoever has read an epoch's last record is told that it is still there, and where the epoch ended.
		of, end := got.EpochEnd(p.epochs[offset])
		if last := offset+1 == p.next || p.epochs[offset+1] != p.epochs[offset]; of != p.epochs[offset] || end <= offset || last && end != offset+1 {
			fail("%+v: epoch %d ends at %d of epoch %d: %+v", got.Ref(), p.epochs[offset], end, of, got.Epochs(nil))
		}
	}
	producers := got.Producers(nil)
	if len(producers) != len(p.producers) {
		fail("%+v: %d producers, want %d", got.Ref(), len(producers), len(p.producers))
		return
	}
	for _, x := range producers {
		want := p.producers[x.ID]
		last := want.sent[len(want.sent)-1]
		if x.Epoch != want.epoch || x.LastSeenMs != want.seen || x.LastOffset != last.base+int64(last.span)-1 {
			fail("%+v: producer %+v, want %+v", got.Ref(), x, want)
		}
	}
}
