package duty

import "sync"

// Busy is which pieces of work are under way in this agent, so that two duties that share them by one key (Territory) do not undo each
// other's work. It is a courtesy and no lock: between agents nothing but Apply decides. Safe for concurrent use; nil keeps nobody out.
type Busy struct {
	mu   sync.Mutex // guards keys
	keys map[uint64]struct{}
}

// Try takes a piece of work, until done; false where it is under way.
func (b *Busy) Try(key uint64) (done func(), ok bool) {
	if b == nil {
		return func() {}, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, taken := b.keys[key]; taken {
		return nil, false
	}
	if b.keys == nil {
		b.keys = make(map[uint64]struct{})
	}
	b.keys[key] = struct{}{}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.keys, key)
	}, true
}
