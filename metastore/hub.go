package metastore

import (
	"sync"

	"github.com/firnlog/firn/metastore/state"
)

// broadcast wakes everybody who waits for the next pulse.
type broadcast struct {
	mu sync.Mutex // guards ch
	ch chan struct{}
}

func (b *broadcast) init() { b.ch = make(chan struct{}) }

// wait returns a channel that the next pulse closes. Take it before looking at what the pulse announces.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *broadcast) pulse() {
	b.mu.Lock()
	close(b.ch)
	b.ch = make(chan struct{})
	b.mu.Unlock()
}

// hub wakes subscribers of partitions that an entry changed.
type hub struct {
	mu   sync.Mutex // guards subs
	subs map[state.PartitionRef]map[chan<- struct{}]int
}

func (h *hub) init() { h.subs = make(map[state.PartitionRef]map[chan<- struct{}]int) }

// Subscribe sends on ch, without blocking, whenever an applied entry changed one of refs, until cancel is called. Give ch a
// capacity of 1 and look at the state after each receive, and once after subscribing.
func (c *Client) Subscribe(refs []state.PartitionRef, ch chan<- struct{}) (cancel func()) {
	h := &c.hub
	h.mu.Lock()
	for _, ref := range refs {
		m := h.subs[ref]
		if m == nil {
			m = make(map[chan<- struct{}]int, 1)
			h.subs[ref] = m
		}
		m[ch]++
	}
	h.mu.Unlock()
	var once sync.Once
	return func() {
		once.Do(func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, ref := range refs {
				m := h.subs[ref]
				if m[ch]--; m[ch] <= 0 {
					delete(m, ch)
				}
				if len(m) == 0 {
					delete(h.subs, ref)
				}
			}
		})
	}
}

func (h *hub) notify(changed []state.PartitionRef) {
	if len(changed) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.subs) == 0 {
		return
	}
	for _, ref := range changed {
		for ch := range h.subs[ref] {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}
