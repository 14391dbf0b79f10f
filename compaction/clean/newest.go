package clean

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/firnlog/firn/compaction/duty"
)

// newest finds the last record of each key, in bounded memory for any number of keys. Records are told apart by rank: a number that
// rises with the offset.
//
// What it was told lies in hash tables, one for each shard of the digests. While these fit in the bound nothing else happens. When they do
// not, all that is in them goes to a scratch file, a run for each shard, and they start anew; so a key comes once in each run, however
// often it was written. In the end each shard's runs are read into another newest, with the same bound, which splits the
// shard further where even that is too large for memory.
type newest struct {
	shards  [shardCount]table
	depth   int   // which bits of the digests tell shards apart
	bytes   int64 // of the shards
	most    int64 // of bytes
	scratch duty.Scratch
	spilled *spill  // nil while everything fits
	inner   *newest // for the shards of what was spilled
	queue   []entryOf
	touched uint64 // keeps drain's loads from being optimized away
}

// entryOf is a record that newest was told of.
type entryOf struct {
	key  digest
	rank uint64
}

// queueSize is how many records are looked up together: see drain.
const queueSize = 128

const (
	shardBits  = 6
	shardCount = 1 << shardBits
	depthMax   = 64/shardBits - 1

	slotBytes = 24 // of a table, and of an entry in a scratch file
	slotsMin  = 4  // of a table
	ioBytes   = 64 << 10 / slotBytes * slotBytes
)

// newNewest keeps most bytes in memory, but at least what the smallest tables take.
func newNewest(most int64, scratch duty.Scratch) *newest {
	return &newest{most: max(most, shardCount*slotsMin*slotBytes), scratch: scratch}
}

// slot is empty where rank is 0: ranks are stored plus one.
type slot struct {
	key  digest
	rank uint64
}

// table is a hash table with open addressing. Digests are random, so they need no further hashing.
type table struct {
	slots []slot
	used  int
}

// find returns the key's slot, or the empty one where it belongs. Requires: a slot is empty.
func (t *table) find(key digest) *slot {
	at, _ := bits.Mul64(key.lo, uint64(len(t.slots)))
	for {
		s := &t.slots[at]
		if s.rank == 0 || s.key == key {
			return s
		}
		if at++; at == uint64(len(t.slots)) {
			at = 0
		}
	}
}

func (t *table) full() bool { return t.used+1 > len(t.slots)-len(t.slots)/4 }

// grow makes room for half as many again.
func (t *table) grow() {
	old := t.slots
	t.slots = make([]slot, grown(len(old)))
	for i := range old {
		if old[i].rank != 0 {
			*t.find(old[i].key) = old[i]
		}
	}
}

func grown(slots int) int { return max(slotsMin, slots+slots/2) }

func (t *table) empty() {
	clear(t.slots)
	t.used = 0
}

func (n *newest) shard(key digest) *table {
	return &n.shards[key.hi<<(n.depth*shardBits)>>(64-shardBits)]
}

// add tells of a record. Ranks of a key may come in any order. Errors are of the scratch file.
func (n *newest) add(key digest, rank uint64) error {
	if n.queue == nil {
		n.queue = make([]entryOf, 0, queueSize)
	}
	n.queue = append(n.queue, entryOf{key, rank})
	if len(n.queue) < queueSize {
		return nil
	}
	return n.drain()
}

// drain puts what waits into the tables. Each look-up is a cache miss in tables of this size, and records are parsed between two of them, so
// that the processor waits for one after the other. Here it is asked for all slots first and waits for all at once.
func (n *newest) drain() error {
	touched := uint64(0)
	for i := range n.queue {
		key := n.queue[i].key
		if slots := n.shard(key).slots; len(slots) > 0 {
			at, _ := bits.Mul64(key.lo, uint64(len(slots)))
			touched += slots[at].rank
		}
	}
	n.touched = touched
	for i := range n.queue {
		if err := n.put(n.queue[i].key, n.queue[i].rank); err != nil {
			return err
		}
	}
	n.queue = n.queue[:0]
	return nil
}

func (n *newest) put(key digest, rank uint64) error {
	t := n.shard(key)
	if t.full() {
		more := int64(grown(len(t.slots))-len(t.slots)) * slotBytes
		if n.bytes+more > n.most && n.depth < depthMax {
			if err := n.flush(); err != nil {
				return err
			}
			if t.full() { // it had no slots at all: the others have them
				for i := range n.shards {
					n.shards[i] = table{}
				}
				n.bytes = 0
			}
		}
		if t.full() {
			n.bytes += more
			t.grow()
		}
	}
	s := t.find(key)
	if s.rank == 0 {
		t.used++
		s.key = key
	}
	s.rank = max(s.rank, rank+1)
	return nil
}

// fits reports whether everything is in memory, so that has may be asked. Requires: it was drained.
func (n *newest) fits() bool { return n.spilled == nil }

// has reports whether a record with this key was told of. Requires: fits.
func (n *newest) has(key digest) bool {
	t := n.shard(key)
	return t.used > 0 && t.find(key).rank != 0
}

// flush moves all that is in memory to the scratch file.
func (n *newest) flush() error {
	if n.spilled == nil {
		s, err := newSpill(n.scratch)
		if err != nil {
			return err
		}
		n.spilled = s
	}
	for i := range n.shards {
		t := &n.shards[i]
		if t.used == 0 {
			continue
		}
		for j := range t.slots {
			if s := &t.slots[j]; s.rank != 0 {
				if err := n.spilled.add(s.key, s.rank-1); err != nil {
					return err
				}
			}
		}
		if err := n.spilled.end(i); err != nil {
			return err
		}
		t.empty()
	}
	return nil
}

// each calls fn with the rank of the last record of each key, in no order. After it newest is as new where it did not fit, and unchanged
// where it did.
func (n *newest) each(fn func(rank uint64) error) error {
	if err := n.drain(); err != nil {
		return err
	}
	if n.fits() {
		for i := range n.shards {
			for j := range n.shards[i].slots {
				if s := &n.shards[i].slots[j]; s.rank != 0 {
					if err := fn(s.rank - 1); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	if err := n.flush(); err != nil {
		return err
	}
	spilled := n.spilled
	n.spilled = nil
	n.reset() // its memory is the inner one's now
	defer spilled.close()
	if n.inner == nil {
		n.inner = newNewest(n.most, n.scratch)
		n.inner.depth = n.depth + 1
	}
	defer n.inner.reset()
	for i := range n.shards {
		if err := spilled.each(i, n.inner.add); err != nil {
			return err
		}
		if err := n.inner.each(fn); err != nil {
			return err
		}
		if !n.inner.again() {
			n.inner.reset()
		}
	}
	return nil
}

// again empties the tables and keeps their memory, which the next shard will need. False where there is something in a scratch file.
func (n *newest) again() bool {
	if n.spilled != nil {
		return false
	}
	for i := range n.shards {
		n.shards[i].empty()
	}
	return true
}

// reset forgets everything and gives memory and scratch space back.
func (n *newest) reset() {
	if n.spilled != nil {
		n.spilled.close()
	}
	*n = newest{depth: n.depth, most: n.most, scratch: n.scratch, inner: n.inner, queue: n.queue[:0]}
}

// spill is a scratch file of entries, in runs that belong to a shard.
type spill struct {
	file duty.File
	buf  []byte // not yet written; whole entries
	// from is where the run that is being written begins.
	from int64
	runs [shardCount][]run
}

type run struct{ position, size int64 }

func newSpill(scratch duty.Scratch) (*spill, error) {
	f, err := scratch.Create()
	if err != nil {
		return nil, fmt.Errorf("key compaction: %w", err)
	}
	return &spill{file: f, buf: make([]byte, 0, ioBytes)}, nil
}

func (s *spill) add(key digest, rank uint64) error {
	if len(s.buf) == cap(s.buf) {
		if err := s.write(); err != nil {
			return err
		}
	}
	s.buf = binary.BigEndian.AppendUint64(s.buf, key.hi)
	s.buf = binary.BigEndian.AppendUint64(s.buf, key.lo)
	s.buf = binary.BigEndian.AppendUint64(s.buf, rank)
	return nil
}

func (s *spill) write() error {
	if _, err := s.file.Write(s.buf); err != nil {
		return fmt.Errorf("key compaction: %w", err)
	}
	s.buf = s.buf[:0]
	return nil
}

// end makes what was added since the last end a run of the shard.
func (s *spill) end(shard int) error {
	if err := s.write(); err != nil {
		return err
	}
	if size := s.file.Size() - s.from; size > 0 {
		s.runs[shard] = append(s.runs[shard], run{s.from, size})
	}
	s.from = s.file.Size()
	return nil
}

// each reads a shard's runs.
func (s *spill) each(shard int, fn func(digest, uint64) error) error {
	buf := s.buf[:cap(s.buf)]
	for _, r := range s.runs[shard] {
		for r.size > 0 {
			b := buf[:min(int64(len(buf)), r.size)]
			if err := readScratch(s.file, b, r.position); err != nil {
				return err
			}
			r.position += int64(len(b))
			r.size -= int64(len(b))
			for ; len(b) > 0; b = b[slotBytes:] {
				key := digest{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
				if err := fn(key, binary.BigEndian.Uint64(b[16:])); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (s *spill) close() { _ = s.file.Close() }

func readScratch(f duty.File, b []byte, position int64) error {
	n, err := f.ReadAt(b, position)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("key compaction: scratch file: %w", err)
}
