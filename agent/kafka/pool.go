package kafka

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Buffers come in classes of 4 KiB times a power of two. Larger ones are left to the collector.
const (
	minClassBits = 12
	maxClassBits = 26
)

// buffers recycles byte slices. The zero value is ready.
type buffers struct {
	classes [maxClassBits - minClassBits + 1]sync.Pool // of *[]byte
	// poison, for tests: what is given back is overwritten first.
	poison bool
}

// get returns an empty slice with room for size bytes.
func (p *buffers) get(size int) []byte {
	c := classFor(size)
	if c >= len(p.classes) {
		return make([]byte, 0, size)
	}
	if b, ok := p.classes[c].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 1<<(c+minClassBits))
}

// put takes b back. Nobody may touch it afterwards.
func (p *buffers) put(b []byte) {
	b = b[:cap(b)]
	if p.poison {
		for i := range b {
			b[i] = 0xdb
		}
	}
	c := bits.Len(uint(len(b))) - 1 - minClassBits // the class it fills
	if c < 0 || c >= len(p.classes) {
		return
	}
	p.classes[c].Put(&b)
}

// classFor returns the smallest class with room for size bytes.
func classFor(size int) int {
	if size <= 1<<minClassBits {
		return 0
	}
	return bits.Len(uint(size-1)) - minClassBits
}

// frame is one request as read, without its length. It is given back by the last holder.
type frame struct {
	body    []byte
	holders atomic.Int32
	free    func()
}

// hold adds n holders.
func (f *frame) hold(n int32) { f.holders.Add(n) }

// release gives up one hold.
func (f *frame) release() {
	switch n := f.holders.Add(-1); {
	case n == 0:
		f.free()
	case n < 0:
		panic("kafka: frame released twice")
	}
}
