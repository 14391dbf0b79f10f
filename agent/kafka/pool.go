package kafka

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// Buffers come in classes of a power of two from 1 KiB on, and one and a half times that. Larger ones are left to the
// collector.
const (
	minClassBits = 10
	maxClassBits = 26
	classes      = 2*(maxClassBits-minClassBits) + 1
)

// buffers recycles byte slices. The zero value is ready.
type buffers struct {
	classes [classes]sync.Pool // of *[]byte
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
	return make([]byte, 0, classSize(c))
}

// put takes b back. Nobody may touch it afterwards.
func (p *buffers) put(b []byte) {
	b = b[:cap(b)]
	if p.poison {
		for i := range b {
			b[i] = 0xdb
		}
	}
	c := classFor(len(b))
	if c < len(p.classes) && classSize(c) > len(b) {
		c-- // the class it fills
	}
	if c < 0 || c >= len(p.classes) {
		return
	}
	p.classes[c].Put(&b)
}

// classSize is the size of a class's buffers.
func classSize(c int) int { return (2 + c&1) << (c/2 + minClassBits - 1) }

// classFor returns the smallest class with room for size bytes.
func classFor(size int) int {
	if size <= 1<<minClassBits {
		return 0
	}
	over := bits.Len(uint(size-1)) - minClassBits // 2^over times the smallest is enough
	if size <= classSize(2*over-1) {
		return 2*over - 1
	}
	return 2 * over
}

// frame is one request as read, without its length. It is given back by the last holder.
type frame struct {
	body    []byte
	came    time.Time // when it had come whole
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
