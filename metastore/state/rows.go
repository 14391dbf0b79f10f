package state

import (
	"encoding/binary"
	"math"
	"slices"
	"sort"

	"github.com/firnlog/firn/metastore/entry"
)

// row is one row of a partition's index. Invariant: base < end, size > 0, position+size <= maxRowBytes.
type row struct {
	object        uint32 // slot in the object table; a dense number in a snapshot
	block         uint32
	base, end     int64 // offsets
	maxTimestamp  int64
	position      int64 // raw byte range in the block
	size          int64
	logAppendTime bool
	cleaned       bool // key compaction has been over it
}

const maxRowBytes = 2 * entry.MaxPosition

// rowIndex holds the rows of a partition in order. Rows lie in pages, each coded against the row before it, because a
// cluster holds millions of them on every agent: a usual row takes 7 to 10 bytes instead of 56. A look-up finds the page
// by binary search and reads it from its start, half a microsecond.
type rowIndex struct {
	pages []page
	tail  rowCoder // after the last row of the last page
	count int
}

// page is a run of rows. Invariant: data holds at least one row, coded by a rowCoder that starts at base.
type page struct {
	base         int64 // of its first row
	maxTimestamp int64 // of all its rows
	data         []byte
}

const (
	pageBytes     = 512
	pageBytesMin  = 32 // of an idle partition: doubled as rows come
	codedRowBytes = 1 + 10 + 10 + 5 + 5 + 10 + 10 + 10
)

// rowCoder is what a row is coded against: its predecessor.
type rowCoder struct {
	object       uint32
	block        uint32
	end          int64
	maxTimestamp int64
}

// Flags of a coded row. Canonical: a flag is set only where the field that it announces is not zero.
const (
	rowGap      = 1 << iota // offsets between the row before and this one
	rowObject               // another object than the row before
	rowBlock                // another block number than the row before
	rowPosition             // does not start at the start of its block
	rowLogTime              // LogAppendTime
	rowCleaned              // from snapshot version 4 on
	rowFlags    = 1<<iota - 1
)

// append codes r: flags; span; gap, object delta, block delta, position where flagged; max timestamp delta; size.
func (c *rowCoder) append(b []byte, r *row) []byte {
	at := len(b)
	b = append(b, 0)
	flags := byte(0)
	b = binary.AppendUvarint(b, uint64(r.end-r.base))
	if r.base != c.end {
		flags |= rowGap
		b = binary.AppendUvarint(b, uint64(r.base-c.end))
	}
	if r.object != c.object {
		flags |= rowObject
		b = binary.AppendUvarint(b, zigzag32(r.object-c.object))
	}
	if r.block != c.block {
		flags |= rowBlock
		b = binary.AppendUvarint(b, zigzag32(r.block-c.block))
	}
	if r.position != 0 {
		flags |= rowPosition
		b = binary.AppendUvarint(b, uint64(r.position))
	}
	if r.logAppendTime {
		flags |= rowLogTime
	}
	if r.cleaned {
		flags |= rowCleaned
	}
	b = binary.AppendVarint(b, r.maxTimestamp-c.maxTimestamp) // may wrap, and wraps back
	b = binary.AppendUvarint(b, uint64(r.size))
	b[at] = flags
	c.follow(r)
	return b
}

func (c *rowCoder) follow(r *row) {
	*c = rowCoder{object: r.object, block: r.block, end: r.end, maxTimestamp: r.maxTimestamp}
}

// read is the inverse of append. Requires: b was written by append (pages), or the caller checks ok (snapshots): false
// for anything that append would not write after a row like the one before.
func (c *rowCoder) read(b []byte, r *row) (rest []byte, ok bool) {
	if len(b) == 0 || b[0]&^rowFlags != 0 {
		return nil, false
	}
	d := reader{b: b[1:]}
	flags := b[0]
	span := d.uint(math.MaxInt64)
	base, object, block, position := c.end, c.object, c.block, int64(0)
	if flags&rowGap != 0 {
		base += int64(d.positive(math.MaxInt64 - uint64(base)))
	}
	if flags&rowObject != 0 {
		object += unzigzag32(d.positive(math.MaxUint32))
	}
	if flags&rowBlock != 0 {
		block += unzigzag32(d.positive(math.MaxUint32))
	}
	if flags&rowPosition != 0 {
		position = int64(d.positive(uint64(maxRowBytes)))
	}
	ts := d.uint(math.MaxUint64)
	size := int64(d.positive(uint64(maxRowBytes)))
	*r = row{
		object: object, block: block, base: base, end: base + int64(span),
		maxTimestamp:  c.maxTimestamp + (int64(ts>>1) ^ -int64(ts&1)),
		position:      position,
		size:          size,
		logAppendTime: flags&rowLogTime != 0,
		cleaned:       flags&rowCleaned != 0,
	}
	c.follow(r)
	return d.b, !d.bad && span > 0 && r.end > r.base && position+size <= maxRowBytes && block <= math.MaxInt32
}

func zigzag32(v uint32) uint64   { return uint64(v<<1 ^ uint32(int32(v)>>31)) }
func unzigzag32(v uint64) uint32 { return uint32(v)>>1 ^ -(uint32(v) & 1) }

// push adds a row after the last one.
func (x *rowIndex) push(r *row) {
	var buf [codedRowBytes]byte
	last := len(x.pages) - 1
	if last >= 0 {
		tail := x.tail
		if coded := tail.append(buf[:0], r); len(x.pages[last].data)+len(coded) <= pageBytes {
			p := &x.pages[last]
			p.grow(len(coded))
			p.data = append(p.data, coded...)
			p.maxTimestamp = max(p.maxTimestamp, r.maxTimestamp)
			x.tail = tail
			x.count++
			return
		}
	}
	x.tail = rowCoder{end: r.base}
	coded := x.tail.append(buf[:0], r)
	p := page{base: r.base, maxTimestamp: r.maxTimestamp}
	if last >= 0 { // a partition that filled a page will fill another
		p.data = make([]byte, 0, pageBytes)
	} else {
		p.grow(len(coded))
	}
	p.data = append(p.data, coded...)
	x.pages = append(x.pages, p)
	x.count++
}

func (p *page) grow(n int) {
	if need := len(p.data) + n; need > cap(p.data) {
		size := max(pageBytesMin, cap(p.data))
		for size < need {
			size *= 2
		}
		p.data = append(make([]byte, 0, size), p.data...)
	}
}

// cursor reads rows in order. The zero value has none.
type cursor struct {
	pages []page
	coder rowCoder
	rest  []byte
	row   row
}

// all reads all rows.
func (x *rowIndex) all() cursor { return cursor{pages: x.pages} }

// from reads the rows from the page on that may hold the first one whose end is above offset; earlier ones may come.
func (x *rowIndex) from(offset int64) cursor { return cursor{pages: x.pages[x.pageOf(offset):]} }

// pageOf is the last page that starts at or below offset, or the first page.
func (x *rowIndex) pageOf(offset int64) int {
	after := sort.Search(len(x.pages), func(i int) bool { return x.pages[i].base > offset })
	return max(after-1, 0)
}

func (c *cursor) next() bool {
	if len(c.rest) == 0 {
		if len(c.pages) == 0 {
			return false
		}
		c.coder, c.rest = rowCoder{end: c.pages[0].base}, c.pages[0].data
		c.pages = c.pages[1:]
	}
	c.rest, _ = c.coder.read(c.rest, &c.row)
	return true
}

// splice replaces the pages [first, last) by pages with these rows.
func (x *rowIndex) splice(first, last int, rows []row) {
	var fresh rowIndex
	for i := range rows {
		fresh.push(&rows[i])
	}
	gone := 0
	for c := (cursor{pages: x.pages[first:last]}); c.next(); {
		gone++
	}
	atEnd := last == len(x.pages)
	for i := range fresh.pages { // only the last page of all will grow
		if p := &fresh.pages[i]; !(atEnd && i == len(fresh.pages)-1) && cap(p.data) > len(p.data)+pageBytesMin {
			p.data = slices.Clone(p.data)
		}
	}
	x.pages = slices.Replace(x.pages, first, last, fresh.pages...)
	if len(x.pages) == 0 {
		x.pages = nil
	} else if cap(x.pages) > 2*len(x.pages)+8 {
		x.pages = slices.Clone(x.pages)
	}
	x.count += len(rows) - gone
	switch {
	case !atEnd:
	case len(fresh.pages) > 0:
		x.tail = fresh.tail
	default:
		x.tail = rowCoder{}
		if n := len(x.pages); n > 0 {
			c := cursor{pages: x.pages[n-1:]}
			for c.next() {
			}
			x.tail = c.coder
		}
	}
}

// dropBelow removes the rows that end at or below offset and gives each to gone.
func (x *rowIndex) dropBelow(offset int64, gone func(*row)) {
	if len(x.pages) == 0 {
		return
	}
	boundary := x.pageOf(offset) // pages before it end at or below its base, so at or below offset
	for c := (cursor{pages: x.pages[:boundary]}); c.next(); {
		gone(&c.row)
	}
	var kept []row
	dropped := false
	for c := (cursor{pages: x.pages[boundary : boundary+1]}); c.next(); {
		if c.row.end <= offset {
			gone(&c.row)
			dropped = true
		} else {
			kept = append(kept, c.row)
		}
	}
	if dropped {
		x.splice(0, boundary+1, kept)
	} else if boundary > 0 {
		x.splice(0, boundary, nil)
	}
}
