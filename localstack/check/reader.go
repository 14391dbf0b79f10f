package check

import "fmt"

// Reader is one consumer's view: a position in every partition that moves forward only. One goroutine uses it.
type Reader struct {
	history *History
	next    []int64 // by partition, the offset to read next. Invariant: only rises.
	// NowMS is the time of what is read next, for whom a policy lets records go; set by whoever reads.
	NowMS int64
}

// Reader returns a reader at offset 0 of every partition.
func (h *History) Reader() *Reader {
	return &Reader{history: h, next: make([]int64, h.cfg.Partitions)}
}

// Next returns the offset to fetch next from a partition.
func (r *Reader) Next(partition int) int64 { return r.next[partition] }

// Done reports whether the reader has reached every end.
func (r *Reader) Done(ends []int64) bool {
	for p, end := range ends {
		if r.next[p] < end {
			return false
		}
	}
	return true
}

// view is a record prepared for judgement without the history's lock.
type view struct {
	offset     int64
	full, body uint64
	number     uint32
	err        error
}

// Read notes the records that one fetch from broker showed of a partition, in their order, and moves on.
func (r *Reader) Read(broker int32, partition int, records []Record) {
	h := r.history
	views := make([]view, len(records))
	for i, rec := range records {
		v, err := ParseValue(identity(&rec))
		if err == nil && v.Run != h.cfg.Run {
			err = fmt.Errorf("%w: of run %x, this is run %x", ErrValue, v.Run, h.cfg.Run)
		}
		views[i] = view{rec.Offset, fullDigest(rec), BodyDigest(rec.Key, rec.Value), v.Number, err}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range views {
		next := r.next[partition]
		switch {
		case v.offset > next && h.cfg.Policy.Compact:
			h.parts[partition].skip(next, v.offset, r.NowMS, h.cfg.RecordsMax)
		case v.offset > next:
			h.findLocked(Gap, partition, v.offset, "broker %d skipped from offset %d", broker, next)
		case v.offset < next:
			h.findLocked(OffsetRegression, partition, v.offset, "broker %d went back from offset %d", broker, next)
		}
		r.next[partition] = max(next, v.offset+1)
		h.readLocked(broker, partition, v)
	}
}

func (h *History) readLocked(broker int32, partition int, v view) {
	h.read++
	s := h.growLocked(partition, v.offset)
	if s == nil {
		h.findLocked(Invented, partition, v.offset, "broker %d: nothing sent explains an offset this high", broker)
		return
	}
	if s.known {
		if s.broker != int16(broker) {
			h.reread++
		}
		if s.full != v.full {
			h.findLocked(Changed, partition, v.offset,
				"broker %d shows digest %016x (record %d), before it was %016x (record %d)", broker, v.full, v.number, s.full, s.number)
		}
		return
	}
	h.offsets++
	p := &h.parts[partition]
	p.end = max(p.end, v.offset+1)
	p.floor = max(p.floor, v.offset+1)
	*s = slot{full: v.full, number: noNumber, broker: int16(broker), known: true}
	rec := h.recordLocked(v.number)
	switch {
	case v.err != nil:
		h.findLocked(Invented, partition, v.offset, "broker %d: %v", broker, v.err)
	case rec == nil || rec.outcome == unsent:
		h.findLocked(Invented, partition, v.offset, "broker %d: record %d was never sent", broker, v.number)
	case rec.body != v.body:
		h.findLocked(Invented, partition, v.offset, "broker %d: record %d differs from what was sent", broker, v.number)
	case int(rec.partition) != partition:
		h.findLocked(Invented, partition, v.offset, "broker %d: record %d belongs to partition %d", broker, v.number, rec.partition)
	default:
		s.number = v.number
		if rec.copies < ^uint8(0) {
			rec.copies++
		}
	}
}

// growLocked returns the slot of an offset, allocating its chunk, or nil where the budget does not allow it.
func (h *History) growLocked(partition int, offset int64) *slot {
	p := &h.parts[partition]
	if offset < 0 || offset >= 2*int64(h.cfg.RecordsMax)+chunkLen {
		return nil
	}
	c := int(offset / chunkLen)
	for len(p.chunks) <= c {
		p.chunks = append(p.chunks, nil)
	}
	if p.chunks[c] == nil {
		if h.chunksLeft == 0 {
			return nil
		}
		h.chunksLeft--
		p.chunks[c] = new([chunkLen]slot)
	}
	return &p.chunks[c][offset%chunkLen]
}
