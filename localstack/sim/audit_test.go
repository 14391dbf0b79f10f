package sim_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// audit follows a replay of the log, and holds every op that moves or removes data to the bytes in the bucket: what a rewrite
// replaces must be what it brings, but for what key compaction may take; what retention removes must be old enough by the
// log's time; and no object may be gone that a state names from which a restore could start.
type audit struct {
	life    *life
	ledger  *ledger
	content map[rowKey][]held
	parts   map[state.PartitionRef]*auditedPart
	gone    map[string]deletion // objects deleted, by key
	ids     map[string]entry.ObjectID
	settled map[string]bool // of gone, those that were found named
	named   map[string]bool // objects that some row named once
	checker *batch.Validator
}

// rowKey names a row for good: what it says lies in the bucket and does not change.
type rowKey struct {
	object         string
	block          uint32
	base, position int64
	size           int64
}

// held is one record in the bucket.
type held struct {
	offset    int64
	key       uint64
	keyed     bool
	tombstone bool
	timestamp int64
	digest    uint64 // of all that a reader is shown
}

// auditedPart is what is known of one partition.
type auditedPart struct {
	next     int64
	newest   map[uint64]int64 // by key, the highest offset
	appended map[int64]int64  // by offset, the log's time when it came; tombstones alone
}

func newAudit(l *life) *audit {
	a := &audit{
		life: l, ledger: l.ledger, content: map[rowKey][]held{}, parts: map[state.PartitionRef]*auditedPart{},
		ids: map[string]entry.ObjectID{}, settled: map[string]bool{}, named: map[string]bool{}, checker: batch.NewValidator(),
	}
	l.ledger.mu.Lock()
	defer l.ledger.mu.Unlock()
	a.gone = maps.Clone(l.ledger.deleted)
	for key := range a.gone {
		if id, err := entry.ParseObjectKey(key); err == nil {
			a.ids[key] = id
		}
	}
	return a
}

// touched is a partition that an entry moves data of, or removes it from, as it was before.
type touched struct {
	ref        state.PartitionRef
	start, end int64 // what was rewritten
	cleaned    bool
	rewritten  bool
	logStart   int64 // before
	rows       []state.Row
}

// before notes what an entry is about to change.
func (a *audit) before(st *state.State, e *entry.Entry) []*touched {
	var list []*touched
	find := func(topic entry.UUID, partition uint32) *touched {
		ref := state.PartitionRef{Topic: topic, Partition: int32(partition)}
		if i := slices.IndexFunc(list, func(t *touched) bool { return t.ref == ref }); i >= 0 {
			return list[i]
		}
		p := partitionOf(st, ref)
		if p == nil {
			return nil
		}
		t := &touched{ref: ref, logStart: p.LogStart(), rows: p.Rows(0, p.RowCount(), nil)}
		list = append(list, t)
		return t
	}
	for _, op := range e.Ops {
		switch op := op.(type) {
		case *entry.Rewrite:
			for i := range op.Parts {
				find(op.Topic, op.Parts[i].Partition)
			}
		case *entry.DeleteRecords:
			find(op.Topic, op.Partition)
		}
	}
	return list
}

func partitionOf(st *state.State, ref state.PartitionRef) *state.Partition {
	for t := range st.Topics() {
		if t.ID == ref.Topic {
			return t.Partition(int(ref.Partition))
		}
	}
	return nil
}

// after judges what the entry did.
func (a *audit) after(st *state.State, e *log.Entry, decoded *entry.Entry, r *state.Results, list []*touched) {
	if r.EntryCode != state.OK {
		return
	}
	mark := func(topic entry.UUID, part *entry.RewrittenPart) {
		for _, t := range list {
			if t.ref.Topic != topic || t.ref.Partition != int32(part.Partition) {
				continue
			}
			if !t.rewritten {
				t.rewritten, t.start, t.end = true, part.Start, part.End
			}
			t.start, t.end, t.cleaned = min(t.start, part.Start), max(t.end, part.End), t.cleaned || part.Cleaned
		}
	}
	for i, op := range decoded.Ops {
		if op, ok := op.(*entry.Append); ok && slices.ContainsFunc(r.Ops[i].Batches, func(b state.BatchResult) bool { return b.Code == state.OK }) {
			a.named[op.Object.Key()] = true
		}
		if op, ok := op.(*entry.Rewrite); ok {
			a.count(op, &r.Ops[i], list)
			for j, code := range r.Ops[i].Parts {
				if code == state.OK {
					mark(op.Topic, &op.Parts[j])
				}
			}
		}
	}
	for ref := range changedBy(r) {
		a.follow(st, ref)
	}
	for _, t := range list {
		p := partitionOf(st, t.ref)
		if p == nil {
			continue // the topic went in the same entry
		}
		if t.rewritten {
			a.judgeRewrite(st, e.N, t, p)
		}
		if p.LogStart() > t.logStart {
			a.judgeExpiry(st, e.N, t, p)
		}
	}
	a.judgeGone(st, e.N)
}

func changedBy(r *state.Results) map[state.PartitionRef]bool {
	m := map[state.PartitionRef]bool{}
	for _, ref := range r.Changed {
		m[ref] = true
	}
	return m
}

// count notes what became of a rewrite.
func (a *audit) count(op *entry.Rewrite, r *state.OpResult, list []*touched) {
	a.life.mu.Lock()
	defer a.life.mu.Unlock()
	t := &a.life.tally
	if r.Code == state.StaleCollectionEpoch {
		t.hit("rewrites_of_an_old_epoch", 1)
	}
	for i, code := range r.Parts {
		switch {
		case code == state.Conflict:
			t.hit("rewrite_conflicts", 1)
		case code == state.OK && op.Parts[i].Cleaned:
			t.hit("pieces_cleaned", 1)
		case code == state.OK && a.wereMerged(op.Topic, &op.Parts[i], list):
			t.hit("tiers_merged", 1)
		case code == state.OK:
			t.hit("parts_merged", 1)
		}
		if code == state.OK {
			for _, row := range op.Parts[i].Replacement {
				a.named[op.Objects[row.Object].ID.Key()] = true
			}
		}
	}
}

// wereMerged says whether what a part replaces had been merged before.
func (a *audit) wereMerged(topic entry.UUID, part *entry.RewrittenPart, list []*touched) bool {
	for _, t := range list {
		if t.ref != (state.PartitionRef{Topic: topic, Partition: int32(part.Partition)}) {
			continue
		}
		for i := range t.rows {
			if row := &t.rows[i]; row.Base < part.End && row.End > part.Start && !row.Object.Merged() {
				return false
			}
		}
	}
	return true
}

// finish counts what was collected, and looks for what should have been.
func (a *audit) finish(st *state.State, quietSince time.Time) {
	for key := range a.gone {
		if a.named[key] {
			a.life.sometimes("retired_collected")
		} else {
			a.life.sometimes("orphans_collected")
		}
	}
	if quietSince.IsZero() {
		return
	}
	left, level0, rows, parts := 0, 0, 0, 0
	late := map[string]bool{}
	for _, r := range st.Retired() {
		late[r.Object.Key()] = r.N > a.life.lateN
	}
	a.ledger.mu.Lock()
	for key, stored := range a.ledger.stored {
		if _, gone := a.ledger.deleted[key]; gone || stored.After(quietSince) || late[key] {
			continue
		}
		if id, err := entry.ParseObjectKey(key); err == nil && !st.Named(id) {
			left++
		}
	}
	a.ledger.mu.Unlock()
	for o := range st.ObjectTable() {
		if !o.ID.Merged() {
			level0++
		}
	}
	for t := range st.Topics() {
		for i := range t.Partitions() {
			rows += t.Partition(i).RowCount()
			parts++
		}
	}
	a.life.logf("after the quiet: %d objects that nothing names, %d of level 0, %d rows of %d partitions", left, level0, rows, parts)
	if left > 0 {
		a.life.find("orphans", "%d objects that nothing names are still there after the quiet", left)
	}
	if level0 > 0 {
		a.life.find("unmerged", "%d objects of level 0 are left after the quiet", level0)
	}
	if rows > rowsMax*parts {
		a.life.find("unmerged", "%d rows of %d partitions are left after the quiet", rows, parts)
	}
}

// rowsMax is how many rows a partition may have on average when everything that is due was done.
const rowsMax = 16

// follow takes in what was appended to a partition, where keys matter.
func (a *audit) follow(st *state.State, ref state.PartitionRef) {
	p := partitionOf(st, ref)
	if p == nil || !a.settings(st, ref.Topic).Compact {
		return
	}
	part := a.parts[ref]
	if part == nil {
		part = &auditedPart{newest: map[uint64]int64{}, appended: map[int64]int64{}}
		a.parts[ref] = part
	}
	if p.Next() <= part.next {
		return
	}
	for _, row := range p.Rows(part.next, p.RowCount(), nil) {
		for _, h := range a.records(&row) {
			if h.offset >= part.next && h.keyed {
				part.newest[h.key] = h.offset
				part.appended[h.offset] = st.LogTime()
			}
		}
	}
	part.next = p.Next()
}

func (a *audit) settings(st *state.State, id entry.UUID) topicconfig.Settings {
	for t := range st.Topics() {
		if t.ID == id {
			return topicconfig.Parse(t.Config, func(string) (string, bool) { return "", false })
		}
	}
	return topicconfig.Settings{}
}

// judgeRewrite compares what was there with what is.
func (a *audit) judgeRewrite(st *state.State, n uint64, t *touched, p *state.Partition) {
	inside := func(rows []state.Row) (records []held) {
		for i := range rows {
			for _, h := range a.records(&rows[i]) {
				if h.offset >= max(t.start, p.LogStart()) && h.offset < t.end {
					records = append(records, h)
				}
			}
		}
		return records
	}
	where := fmt.Sprintf("n=%d partition %d of %x, offsets [%d, %d)", n, t.ref.Partition, t.ref.Topic[:4], t.start, t.end)
	was, is := inside(t.rows), inside(p.Rows(0, p.RowCount(), nil))
	for i := 1; i < len(is); i++ {
		if is[i].offset <= is[i-1].offset {
			a.life.find("rewrite", "%s: offset %d comes after %d", where, is[i].offset, is[i-1].offset)
		}
	}
	have := make(map[int64]held, len(is))
	for _, h := range is {
		have[h.offset] = h
	}
	policy := a.settings(st, t.ref.Topic)
	for _, h := range was {
		got, there := have[h.offset]
		delete(have, h.offset)
		switch {
		case there && got.digest != h.digest:
			a.life.find("rewrite", "%s: offset %d holds another record than before", where, h.offset)
		case there:
		case !t.cleaned || !policy.Compact:
			a.life.find("rewrite", "%s: offset %d is gone", where, h.offset)
		default:
			a.judgeCleaned(st, where, t.ref, h, &policy)
		}
	}
	for offset := range have {
		a.life.find("rewrite", "%s: offset %d was not there before", where, offset)
	}
}

// judgeCleaned holds a record that key compaction took to what it may take.
func (a *audit) judgeCleaned(st *state.State, where string, ref state.PartitionRef, h held, policy *topicconfig.Settings) {
	part := a.parts[ref]
	switch {
	case !h.keyed: // cannot come into a compacted topic; of one that became compacted they go
	case part == nil:
		a.life.find("cleaned", "%s: offset %d is gone, and nobody knows why", where, h.offset)
	case part.newest[h.key] > h.offset:
	case !h.tombstone:
		a.life.find("cleaned", "%s: offset %d is gone, the newest of its key", where, h.offset)
	case part.appended[h.offset]+policy.DeleteRetentionMS > st.LogTime():
		a.life.find("cleaned", "%s: the tombstone at offset %d is gone after %d ms, %d are promised", where, h.offset,
			st.LogTime()-part.appended[h.offset], policy.DeleteRetentionMS)
	default:
		a.life.sometimes("tombstones_gone")
	}
}

// judgeExpiry holds what a moved log start removed to retention, by the log's time. No client deletes records.
func (a *audit) judgeExpiry(st *state.State, n uint64, t *touched, p *state.Partition) {
	policy := a.settings(st, t.ref.Topic)
	where := fmt.Sprintf("n=%d partition %d of %x: log start %d after %d", n, t.ref.Partition, t.ref.Topic[:4], p.LogStart(), t.logStart)
	if !policy.Delete {
		a.life.find("expired", "%s, though nothing may be deleted", where)
		return
	}
	a.life.sometimes("log_starts_moved")
	if policy.RetentionBytes >= 0 && p.Size() >= policy.RetentionBytes {
		a.life.sometimes("expired_by_size")
		return
	}
	// Rows may go by size up to one from which on they go by age.
	left := int64(0)
	for i := range t.rows {
		left += t.rows[i].Size
	}
	for i := range t.rows {
		if left -= t.rows[i].Size; policy.RetentionBytes >= 0 && left >= policy.RetentionBytes {
			continue
		}
		for _, h := range a.records(&t.rows[i]) {
			if h.offset < t.logStart || h.offset >= p.LogStart() {
				continue
			}
			if policy.RetentionMS < 0 || h.timestamp+policy.RetentionMS > st.LogTime() {
				a.life.find("expired", "%s: the record at offset %d is %d ms old, %d are promised", where, h.offset, st.LogTime()-h.timestamp, policy.RetentionMS)
				return
			}
		}
	}
	a.life.sometimes("expired_by_time")
}

// judgeGone looks for objects that are gone and are named. A restore starts from the archive's end or later; so from there on
// nothing may name them.
func (a *audit) judgeGone(st *state.State, n uint64) {
	for key, d := range a.gone {
		if n < d.archived || a.settled[key] || !st.Named(a.ids[key]) {
			continue
		}
		a.settled[key] = true
		a.life.find("deleted_alive", "%s was deleted when the log was at n=%d and its archive at n=%d, and n=%d names it", key, d.head, d.archived, n)
	}
}

// records reads what a row names, as it was when it was stored.
func (a *audit) records(row *state.Row) []held {
	key := rowKey{row.Object.Key(), row.Block, row.Base, row.Position, row.Size}
	if known, ok := a.content[key]; ok {
		return known
	}
	records, err := a.read(row)
	if err != nil {
		a.life.find("objects", "offsets [%d, %d) of %s: %v", row.Base, row.End, row.Object, err)
	}
	a.content[key] = records
	return records
}

func (a *audit) read(row *state.Row) (records []held, err error) {
	body, ok := a.ledger.body(row.Object.Key())
	if !ok {
		return nil, fmt.Errorf("it was never stored")
	}
	f, err := segment.Open(body)
	if err != nil {
		return nil, err
	}
	block, ok := f.Block(int(row.Block))
	if !ok {
		return nil, fmt.Errorf("it has no block %d", row.Block)
	}
	var raw []byte
	chunks := block.ChunksIn(row.Position, row.Size)
	for _, c := range chunks {
		b, err := segment.ReadChunk(body[c.Position:c.Position+c.StoredSize], c, nil)
		if err != nil {
			return nil, err
		}
		raw = append(raw, b...)
	}
	if len(chunks) == 0 || int64(len(raw)) < row.Position-chunks[0].RawPosition+row.Size {
		return nil, fmt.Errorf("block %d has no bytes [%d, +%d)", row.Block, row.Position, row.Size)
	}
	s := batch.Split(raw[row.Position-chunks[0].RawPosition:][:row.Size])
	next := row.Base
	for s.Next() {
		head := s.Header()
		base := next
		if row.Object.Merged() {
			base = head.BaseOffset
		}
		if base < next || base+head.Span() > row.End {
			return records, fmt.Errorf("a batch at [%d, %d), where %d is due and %d the end", base, base+head.Span(), next, row.End)
		}
		if err := batch.VerifyCRC(s.Raw()); err != nil {
			return records, err
		}
		next = base + head.Span()
		err := a.checker.Walk(s.Raw(), batch.Limits{}, func(r batch.Record) error {
			h := held{
				offset: base + int64(r.OffsetDelta), key: xxhash.Sum64(r.Key), keyed: r.Key != nil, tombstone: r.Value == nil, timestamp: r.Timestamp,
			}
			if row.LogAppendTime {
				h.timestamp = row.MaxTimestamp
			}
			h.digest = digestOf(&r, h.timestamp)
			records = append(records, h)
			return nil
		})
		if err != nil {
			return records, err
		}
	}
	return records, s.Err()
}

// digestOf hashes what a reader is shown of a record.
func digestOf(r *batch.Record, timestamp int64) uint64 {
	var b []byte
	field := func(v []byte) {
		size := uint64(len(v))
		if v == nil {
			size = ^uint64(0)
		}
		b = append(binary.LittleEndian.AppendUint64(b, size), v...)
	}
	field(r.Key)
	field(r.Value)
	field(r.Headers.Raw())
	return xxhash.Sum64(binary.LittleEndian.AppendUint64(b, uint64(timestamp)))
}
