package state

import "github.com/firnlog/firn/metastore/entry"

// Partition is the index of one partition. It is valid under the owner's read lock.
//
// Invariant: 0 <= logStart <= next; both only rise. Rows ascend, do not overlap, end above logStart and at or below next.
type Partition struct {
	topic     *Topic
	logStart  int64
	next      int64
	size      int64 // raw bytes of all rows
	rows      rowIndex
	producers []producer // sorted by id
	// history holds the leader epochs; nil where everything is of epoch 0. Behind a pointer, for most never have one.
	history  *[]EpochStart
	changedN uint64 // the entry whose results name this partition; not part of the state
	index    int32
}

// Row says where the offsets [Base, End) are.
type Row struct {
	Object        entry.ObjectID
	ObjectSize    int64 // bytes
	InWAL         bool  // pending: not yet in the bucket but in Holder's WAL
	Holder        [16]byte
	Block         uint32
	Base, End     int64 // offsets; those below the log start are deleted
	MaxTimestamp  int64 // Unix milliseconds
	LogAppendTime bool  // MaxTimestamp is the log's and replaces that of every record
	Position      int64 // raw byte range in the block
	Size          int64
	Cleaned       bool // key compaction has been over it. The leading rows that are cleaned are the partition's clean section.
}

// Ref names the partition.
func (p *Partition) Ref() PartitionRef { return PartitionRef{Topic: p.topic.ID, Partition: p.index} }

// LogStart is the lowest offset still served.
func (p *Partition) LogStart() int64 { return p.logStart }

// Next is the next offset to assign: the log end offset and, because nothing is readable before it is ordered, the high
// watermark.
func (p *Partition) Next() int64 { return p.next }

// LastStable is the last stable offset. Without transactions it is the high watermark.
func (p *Partition) LastStable() int64 { return p.next }

// Size is the raw bytes that rows name, including those below the log start in the first row.
func (p *Partition) Size() int64 { return p.size }

// RowCount is the number of rows.
func (p *Partition) RowCount() int { return p.rows.count }

// Rows appends to dst up to most rows that end above offset, in order. Offsets between rows do not exist: compacted
// away, or given up.
func (p *Partition) Rows(offset int64, most int, dst []Row) []Row {
	if most <= 0 || len(p.rows.pages) == 0 {
		return dst
	}
	for c := p.rows.from(offset); c.next(); {
		if c.row.end <= offset {
			continue
		}
		dst = append(dst, p.resolve(&c.row))
		if most--; most == 0 {
			break
		}
	}
	return dst
}

// LastRows appends some of the newest rows to dst, in order: all where there are few.
func (p *Partition) LastRows(dst []Row) []Row {
	const pages = 8
	for c := (cursor{pages: p.rows.pages[max(0, len(p.rows.pages)-pages):]}); c.next(); {
		dst = append(dst, p.resolve(&c.row))
	}
	return dst
}

// RowBefore is the last row that ends at or below offset.
func (p *Partition) RowBefore(offset int64) (Row, bool) {
	for i := min(p.rows.pageOf(offset), len(p.rows.pages)-1); i >= 0; i-- { // the page before it at most
		var last row
		for c := (cursor{pages: p.rows.pages[i : i+1]}); c.next() && c.row.end <= offset; {
			last = c.row
		}
		if last.size > 0 {
			return p.resolve(&last), true
		}
	}
	return Row{}, false
}

// RowByTimestamp is the first row that holds a record with this timestamp or a later one.
func (p *Partition) RowByTimestamp(timestamp int64) (Row, bool) {
	for i := range p.rows.pages {
		if p.rows.pages[i].maxTimestamp < timestamp {
			continue
		}
		for c := (cursor{pages: p.rows.pages[i : i+1]}); c.next(); {
			if c.row.maxTimestamp >= timestamp {
				return p.resolve(&c.row), true
			}
		}
	}
	return Row{}, false
}

// MaxTimestampRow is the first row with the greatest timestamp of all.
func (p *Partition) MaxTimestampRow() (Row, bool) {
	if len(p.rows.pages) == 0 {
		return Row{}, false
	}
	newest := p.rows.pages[0].maxTimestamp
	for i := range p.rows.pages {
		newest = max(newest, p.rows.pages[i].maxTimestamp)
	}
	return p.RowByTimestamp(newest)
}

func (p *Partition) resolve(r *row) Row {
	x := &p.topic.state.objects
	o := x.at(r.object)
	res := Row{
		Object: x.id(o), ObjectSize: o.size, Block: r.block, Base: r.base, End: r.end,
		MaxTimestamp: r.maxTimestamp, LogAppendTime: r.logAppendTime, Position: r.position, Size: r.size, Cleaned: r.cleaned,
	}
	if pending := x.pending[r.object]; pending != nil {
		res.InWAL, res.Holder = true, pending.holder
	}
	return res
}

// deleteRecords returns the log start offset after it, or -1 where there is no such partition.
func (s *State) deleteRecords(op *entry.DeleteRecords, r *Results) (Code, int64) {
	p, code := s.partition(op.Topic, op.Partition)
	if code != OK {
		return code, -1
	}
	before := op.BeforeOffset
	if before == -1 {
		before = p.next
	}
	if before < 0 || before > p.next {
		return OffsetOutOfRange, p.logStart
	}
	if before > p.logStart {
		p.logStart = before
		p.rows.dropBelow(before, func(gone *row) {
			p.size -= gone.size
			s.release(gone.object)
		})
		p.dropEpochs()
		s.changed(p, r)
	}
	return OK, p.logStart
}
