package fetch

import "slices"

// Out is an answer that is put together: bytes of its own, and between them bytes of the cache's, which are lent and not copied. Not safe for
// concurrent use. Who made one with loans calls Release once it has gone out.
type Out struct {
	// Own are the bytes that were written or copied here, in order. Whoever puts the answer together appends to it and changes what it wrote.
	Own []byte
	// Room, where not nil, returns own with room for n more bytes, where it has none; Own is not used any more then.
	Room func(own []byte, n int) []byte
	// Lend: batches may be lent.
	Lend bool

	loans []loan
	lent  int     // bytes of loans
	items []*item // that the loans are of, one each time they change
	cache *Cache  // of items
	small bool    // for tests: what is smaller than lendLeast is lent as well
}

// loan is what belongs behind the first at bytes of Out.Own, and behind the loans before it.
type loan struct {
	at       int
	item     *item
	from, to int // in item.bytes
}

// lendLeast is how much is lent at least. What is smaller is copied sooner than it is accounted for.
const lendLeast = 16 << 10

// Len is how many bytes there are in all.
func (o *Out) Len() int { return len(o.Own) + o.lent }

// Lent is how many of them are the cache's.
func (o *Out) Lent() int { return o.lent }

// Move notes that what was written from position from of Own on was moved by so many bytes.
func (o *Out) Move(from, by int) {
	for i := len(o.loans) - 1; i >= 0 && o.loans[i].at >= from; i-- {
		o.loans[i].at += by
	}
}

// Parts appends the bytes, in order, to parts. They hold until Release, and as long as Own is not appended to.
func (o *Out) Parts(parts [][]byte) [][]byte {
	at := 0
	for _, l := range o.loans {
		if l.at > at {
			parts = append(parts, o.Own[at:l.at])
			at = l.at
		}
		parts = append(parts, l.item.bytes[l.from:l.to])
	}
	if at < len(o.Own) {
		parts = append(parts, o.Own[at:])
	}
	return parts
}

// Release ends the loans. Own stays the caller's.
func (o *Out) Release() {
	if len(o.items) > 0 {
		o.cache.giveBack(o.items)
	}
	o.loans, o.items, o.lent = nil, nil, 0
}

// grow makes room for n more bytes of its own.
func (o *Out) grow(n int) {
	switch {
	case cap(o.Own)-len(o.Own) >= n:
	case o.Room != nil:
		o.Own = o.Room(o.Own, n)
	default:
		o.Own = slices.Grow(o.Own, n)
	}
}

// add appends bytes [from, to) of an item, as a loan where that is worth it and the cache has some to give.
func (o *Out) add(c *Cache, it *item, from, to int) {
	if last := len(o.loans) - 1; last >= 0 && o.loans[last].item == it && o.loans[last].to == from && o.loans[last].at == len(o.Own) {
		o.loans[last].to = to
		o.lent += to - from
		return
	}
	if held := len(o.items) > 0 && o.items[len(o.items)-1] == it; to-from < lendLeast && !o.small || !held && !c.lend(it) {
		o.grow(to - from)
		o.Own = append(o.Own, it.bytes[from:to]...)
		return
	} else if !held {
		o.items = append(o.items, it)
		o.cache = c
	}
	o.loans = append(o.loans, loan{at: len(o.Own), item: it, from: from, to: to})
	o.lent += to - from
}

// lendable is how much may be lent: three quarters of what hot items leave in any case. A client may take minutes over an answer, and what is lent
// is kept for it all the while; the rest is for others, who would get a run anew for each batch of it.
func (c *Cache) lendable() int64 { return (c.cfg.Bytes - c.cfg.HotBytes) / 4 * 3 }

// lend lets a reader have an item beyond its time in the cache. It counts in Config.Bytes until it is given back, also where it was evicted.
func (c *Cache) lend(it *item) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if it.lent == 0 {
		if c.lent+it.size > c.lendable() {
			return false
		}
		c.lent += it.size
		if !it.kept {
			c.loose += it.size
			c.fitLocked()
		}
	}
	it.lent++
	c.cfg.Metrics.lentHeld.Set(float64(c.lent))
	return true
}

// giveBack ends one loan of each item.
func (c *Cache) giveBack(items []*item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, it := range items {
		if it.lent--; it.lent > 0 {
			continue
		}
		c.lent -= it.size
		if !it.kept {
			c.loose -= it.size
		}
	}
	c.cfg.Metrics.lentHeld.Set(float64(c.lent))
}
