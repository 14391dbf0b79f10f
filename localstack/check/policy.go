package check

import (
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Policy is what a topic's cleanup policy allows to go. Times are in milliseconds of whichever clock SendKept and readers use.
type Policy struct {
	// Compact: a record may go once a later one has its key. DeleteRetentionMS is how old a tombstone is that may go, too.
	Compact           bool
	DeleteRetentionMS int64
	// Delete: the log start may rise past records that are RetentionMS old; 0 where age alone does not say what may go.
	Delete      bool
	RetentionMS int64
	// SlackMS is what clocks may be apart.
	SlackMS int64
}

func (p Policy) any() bool { return p.Compact || p.Delete }

// Kept is what a policy looks at. Tombstone: the record has no value, and says who it is in a header named IdentityHeader.
type Kept struct {
	Key       []byte
	Tombstone bool
	SentMS    int64
}

// IdentityHeader names the header that holds a tombstone's encoded Value.
const IdentityHeader = "firn-check"

func identity(r *Record) []byte {
	if r.Value != nil {
		return r.Value
	}
	for _, h := range r.Headers {
		if h.Key == IdentityHeader {
			return h.Value
		}
	}
	return nil
}

// keptRecord is what is kept of a record sent under a policy, beside its sentRecord.
type keptRecord struct {
	key       uint64 // hash
	sentMS    int64
	tombstone bool
	keyed     bool
}

type startTold struct{ start, at int64 }

// SendKept is Send under a policy.
func (h *History) SendKept(number, producer uint32, partition int, body uint64, k Kept) {
	h.Send(number, producer, partition, body)
	if !h.cfg.Policy.any() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept[number/chunkLen][number%chunkLen] = keptRecord{
		key: xxhash.Sum64(k.Key), sentMS: k.SentMS, tombstone: k.Tombstone, keyed: k.Key != nil,
	}
}

// Skip moves the reader on to offset, because what it was shown reaches as far and holds nothing more: the end of a batch
// whose last records were compacted away.
func (r *Reader) Skip(broker int32, partition int, offset int64) {
	h := r.history
	h.mu.Lock()
	defer h.mu.Unlock()
	next := r.next[partition]
	if offset <= next {
		return
	}
	if h.cfg.Policy.Compact {
		h.parts[partition].skip(next, offset, r.NowMS, h.cfg.RecordsMax)
	} else {
		h.findLocked(Gap, partition, offset, "broker %d skipped from offset %d with nothing", broker, next)
	}
	r.next[partition] = offset
}

// Expire moves the reader on to the log start, which it was told when it asked for an offset below.
func (r *Reader) Expire(broker int32, partition int, logStart int64) {
	h := r.history
	h.mu.Lock()
	defer h.mu.Unlock()
	next := r.next[partition]
	if logStart <= next {
		return
	}
	p := &h.parts[partition]
	if h.cfg.Policy.Delete {
		p.start = max(p.start, logStart)
		p.starts = append(p.starts, startTold{logStart, r.NowMS})
	} else {
		h.findLocked(Gap, partition, logStart, "broker %d starts here, offset %d was due, and no policy lets it go", broker, next)
	}
	r.next[partition] = logStart
}

// skip notes that [from, to) was not shown at a time, up to what a history of this size can hold.
func (p *partitionLog) skip(from, to, at int64, recordsMax int) {
	if p.skipped == nil {
		p.skipped = map[int64]int64{}
	}
	for offset := from; offset < to && len(p.skipped) <= 2*recordsMax; offset++ {
		if before, known := p.skipped[offset]; !known || at < before {
			p.skipped[offset] = at
		}
	}
}

// gone knows for one partition what may be missing of it.
type gone struct {
	policy Policy
	at     map[int64]uint32  // by offset, who is known to be, or to have been, there
	byKey  map[uint64][]held // ascending in offset
	// strays are records that may lie at an offset that nobody was told: of unknown outcome, or retried.
	strays int
	stray  map[uint64]int64 // of these, by key, when the last was sent
	of     func(uint32) *keptRecord
}

type held struct {
	offset, sentMS int64
	tombstone      bool
}

// gonesLocked collects, by partition, what is known of every offset. Without a policy all are empty and allow nothing.
func (h *History) gonesLocked() []gone {
	g := make([]gone, len(h.parts))
	if !h.cfg.Policy.any() {
		return g
	}
	for i := range g {
		g[i] = gone{
			policy: h.cfg.Policy, at: map[int64]uint32{}, byKey: map[uint64][]held{}, stray: map[uint64]int64{},
			of: h.keptLocked,
		}
	}
	for n := range h.assigned {
		r, k := h.recordLocked(n), h.keptLocked(n)
		if r.outcome == unsent {
			continue
		}
		p := &g[r.partition]
		if r.outcome == acked {
			p.at[r.ackOffset] = n
		}
		if spare := int(r.attempts) - max(int(r.copies), 1); r.outcome != acked && r.outcome != failed || spare > 0 {
			p.strays += max(spare, 1)
			p.stray[k.key] = max(p.stray[k.key], k.sentMS)
		}
	}
	for i := range h.parts {
		for c, chunk := range h.parts[i].chunks {
			for j := 0; chunk != nil && j < chunkLen; j++ {
				if s := &chunk[j]; s.known && s.number != noNumber {
					g[i].at[int64(c)*chunkLen+int64(j)] = s.number
				}
			}
		}
		for offset, n := range g[i].at {
			if k := g[i].of(n); k.keyed {
				g[i].byKey[k.key] = append(g[i].byKey[k.key], held{offset, k.sentMS, k.tombstone})
			}
		}
		for _, list := range g[i].byKey {
			slices.SortFunc(list, func(a, b held) int { return int(a.offset - b.offset) })
		}
	}
	return g
}

// superseded says whether the record at an offset may have been compacted away by at.
func (g *gone) superseded(offset, at int64) bool {
	number, known := g.at[offset]
	if !known {
		return g.strays > 0 // nobody was told who was there, and somebody may have been
	}
	k := g.of(number)
	if !k.keyed {
		return false
	}
	if k.tombstone && k.sentMS+g.policy.DeleteRetentionMS <= at+g.policy.SlackMS {
		return true
	}
	if sent, some := g.stray[k.key]; some && sent >= k.sentMS && sent <= at {
		return true
	}
	for _, later := range g.byKey[k.key] {
		if later.offset > offset && later.sentMS <= at {
			return true
		}
	}
	return false
}

// allows says whether an offset that no reader was shown may be missing.
func (g *gone) allows(p *partitionLog, offset int64) bool {
	if g.policy.Delete && offset < p.start {
		return true
	}
	_, skipped := p.skipped[offset]
	return g.policy.Compact && skipped // whether rightly, judgeSkippedLocked says
}

// allowsTail says whether all from the highest offset read to the end may be missing.
func (g *gone) allowsTail(p *partitionLog, end int64) bool {
	for offset := max(p.end, p.start); offset < end; offset++ {
		if !g.allows(p, offset) {
			return false
		}
	}
	return true
}

// judgeSkippedLocked holds what compaction took away to what it may.
func (h *History) judgeSkippedLocked(partition int, gone *gone) {
	p := &h.parts[partition]
	for _, offset := range slices.Sorted(maps.Keys(p.skipped)) {
		at := p.skipped[offset]
		if gone.policy.Delete && offset < p.start || gone.superseded(offset, at) {
			continue
		}
		number, known := gone.at[offset]
		if !known {
			h.findLocked(CompactedAway, partition, offset, "not shown at %d, and no record can have been there that may go", at)
			continue
		}
		h.findLocked(CompactedAway, partition, offset, "record %d was not shown at %d though none after it had its key (tombstone: %v)",
			number, at, gone.of(number).tombstone)
	}
}

// judgeStartsLocked holds every log start that was told to the age of what lies below.
func (h *History) judgeStartsLocked(partition int) {
	p := &h.parts[partition]
	if h.cfg.Policy.RetentionMS == 0 {
		return
	}
	for n := range h.assigned {
		r, sent := h.recordLocked(n), h.keptLocked(n).sentMS
		if r.outcome != acked || int(r.partition) != partition {
			continue
		}
		for _, told := range p.starts {
			if r.ackOffset < told.start && told.at+h.cfg.Policy.SlackMS < sent+h.cfg.Policy.RetentionMS {
				h.findLocked(ExpiredEarly, partition, r.ackOffset, "record %d is gone %d ms after it was sent, at least %d are promised",
					n, told.at-sent, h.cfg.Policy.RetentionMS)
				break
			}
		}
	}
}

// keptLocked returns what is kept of a number. Requires: there is a policy.
func (h *History) keptLocked(n uint32) *keptRecord { return &h.kept[n/chunkLen][n%chunkLen] }
