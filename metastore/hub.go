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

// hub wakes subscribers of what an entry changed: partitions, or the cluster.
type hub struct {
	mu      sync.Mutex // guards the rest
	subs    map[state.PartitionRef]map[chan<- struct{}]int
	cluster map[chan<- struct{}]int
}

func (h *hub) init() {
	h.subs = make(map[state.PartitionRef]map[chan<- struct{}]int)
	h.cluster = make(map[chan<- struct{}]int)
}

// SubscribeCluster sends on ch, without blocking, whenever an applied entry changed agents, the owners of slots, topics or
// configs, until cancel is called. Use ch as Subscribe says. Groups are not among it: whoever owns a slot changes its groups
// itself, and learns of it by the results of its own ops.
func (c *Client) SubscribeCluster(ch chan<- struct{}) (cancel func()) {
	h := &c.hub
	h.mu.Lock()
	h.cluster[ch]++
	h.mu.Unlock()
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.cluster[ch]--; h.cluster[ch] <= 0 {
			delete(h.cluster, ch)
		}
	})
}

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

// notify wakes whom the results of an entry concern.
func (h *hub) notify(r *state.Results) {
	cluster := r.AgentsChanged || r.SlotsChanged || r.TopicsChanged
	if len(r.Changed) == 0 && !cluster {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if cluster {
		for ch := range h.cluster {
			wake(ch)
		}
	}
	if len(h.subs) == 0 {
		return
	}
	for _, ref := range r.Changed {
		for ch := range h.subs[ref] {
			wake(ch)
		}
	}
}

func wake(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
