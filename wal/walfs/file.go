package walfs

import (
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"syscall"
)

const (
	pageBytes   = 4096
	sectorBytes = 512
)

// node is the content of a file: what readers see, and what is on the disk. Pages that were never written are absent
// and read as zeros, so that a preallocated file costs nothing.
type node struct {
	name        string // the last one, for Op and errors
	pages       map[int64]*[pageBytes]byte
	size        int64
	reserved    int64 // bytes for which there is room on the disk
	dirty       map[int64]struct{}
	onDisk      map[int64]*[pageBytes]byte
	durableSize int64
}

func newNode() *node {
	return &node{
		pages: map[int64]*[pageBytes]byte{}, dirty: map[int64]struct{}{}, onDisk: map[int64]*[pageBytes]byte{},
	}
}

func clonePages(m map[int64]*[pageBytes]byte) map[int64]*[pageBytes]byte {
	c := make(map[int64]*[pageBytes]byte, len(m))
	for i, p := range m {
		q := *p
		c[i] = &q
	}
	return c
}

func (n *node) clone() *node {
	c := &node{
		name: n.name, pages: clonePages(n.pages), size: n.size, reserved: n.reserved, dirty: map[int64]struct{}{},
		onDisk: clonePages(n.onDisk), durableSize: n.durableSize,
	}
	for s := range n.dirty {
		c.dirty[s] = struct{}{}
	}
	return c
}

// crash is the file after a power cut.
func (n *node) crash(loss Loss, rng *rand.Rand) *node {
	c := n.clone()
	if loss == LoseSome {
		sectors := make([]int64, 0, len(c.dirty))
		for s := range c.dirty {
			sectors = append(sectors, s)
		}
		slices.Sort(sectors)
		for _, s := range sectors {
			if rng.IntN(2) == 0 {
				c.store(s)
			}
		}
		if rng.IntN(2) == 0 {
			c.durableSize = c.size
		}
	}
	c.dirty = map[int64]struct{}{}
	c.size = c.durableSize
	for i, p := range c.onDisk {
		if i*pageBytes >= c.size {
			delete(c.onDisk, i)
		} else if rest := c.size - i*pageBytes; rest < pageBytes {
			clear(p[rest:])
		}
	}
	c.reserved = max(c.size, int64(len(c.onDisk))*pageBytes)
	c.pages = clonePages(c.onDisk)
	return c
}

// store puts one sector on the disk.
func (n *node) store(sector int64) {
	i, at := sector*sectorBytes/pageBytes, sector*sectorBytes%pageBytes
	p := n.onDisk[i]
	if p == nil {
		p = new([pageBytes]byte)
		n.onDisk[i] = p
	}
	if q := n.pages[i]; q != nil {
		copy(p[at:at+sectorBytes], q[at:])
	} else {
		clear(p[at : at+sectorBytes])
	}
}

func (n *node) sync() {
	for s := range n.dirty {
		n.store(s)
	}
	clear(n.dirty)
	n.durableSize = n.size
}

// failSync marks everything clean, with some of it on the disk.
func (n *node) failSync(rng *rand.Rand) {
	sectors := make([]int64, 0, len(n.dirty))
	for s := range n.dirty {
		sectors = append(sectors, s)
	}
	slices.Sort(sectors)
	for _, s := range sectors {
		if rng.IntN(2) == 0 {
			n.store(s)
		}
	}
	clear(n.dirty)
}

func (n *node) read(b []byte, position int64) {
	for len(b) > 0 {
		i, at := position/pageBytes, position%pageBytes
		k := min(int64(len(b)), pageBytes-at)
		if p := n.pages[i]; p != nil {
			copy(b[:k], p[at:])
		} else {
			clear(b[:k])
		}
		b, position = b[k:], position+k
	}
}

func (n *node) write(b []byte, position int64) {
	for len(b) > 0 {
		i, at := position/pageBytes, position%pageBytes
		k := min(int64(len(b)), pageBytes-at)
		p := n.pages[i]
		if p == nil {
			p = new([pageBytes]byte)
			n.pages[i] = p
		}
		copy(p[at:], b[:k])
		for s := position / sectorBytes; s*sectorBytes < position+k; s++ {
			n.dirty[s] = struct{}{}
		}
		b, position = b[k:], position+k
	}
	n.size = max(n.size, position)
	n.reserved = max(n.reserved, n.size)
}

func (n *node) truncate(size int64) {
	if size < n.size {
		for i, p := range n.pages {
			if i*pageBytes >= size {
				delete(n.pages, i)
			} else if rest := size - i*pageBytes; rest < pageBytes {
				clear(p[rest:])
			}
		}
		for s := size / sectorBytes; s*sectorBytes < n.size; s++ {
			n.dirty[s] = struct{}{}
		}
		n.reserved = size
	}
	n.size = size
}

// file is an open file.
type file struct {
	d      *FS
	n      *node
	closed bool
}

func (f *file) op(kind OpKind, size int64) Op {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return Op{Kind: kind, Name: f.n.name, Size: size}
}

func (f *file) usableLocked() error {
	switch {
	case f.d.off:
		return ErrPowerOff
	case f.closed:
		return fs.ErrClosed
	}
	return nil
}

// growLocked takes room on the disk for a file of size bytes.
func (f *file) growLocked(size int64) error {
	if f.d.capacity > 0 && size > f.n.reserved {
		used := int64(0)
		for _, n := range f.d.names {
			used += n.reserved
		}
		if used+size-f.n.reserved > f.d.capacity {
			return &fs.PathError{Op: "grow", Path: f.n.name, Err: syscall.ENOSPC}
		}
	}
	return nil
}

// WriteAt writes the first half of b if a fault refuses it.
func (f *file) WriteAt(b []byte, position int64) (int, error) {
	fault := f.d.before(f.op(OpWrite, int64(len(b))))
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usableLocked(); err != nil {
		return 0, err
	}
	if fault != nil {
		f.n.write(b[:len(b)/2], position)
		return len(b) / 2, fault
	}
	if err := f.growLocked(position + int64(len(b))); err != nil {
		return 0, err
	}
	f.n.write(b, position)
	return len(b), nil
}

func (f *file) ReadAt(b []byte, position int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usableLocked(); err != nil {
		return 0, err
	}
	k := min(int64(len(b)), max(0, f.n.size-position))
	f.n.read(b[:k], position)
	if k < int64(len(b)) {
		return int(k), io.EOF
	}
	return int(k), nil
}

func (f *file) Sync() error {
	fault := f.d.before(f.op(OpSync, 0))
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usableLocked(); err != nil {
		return err
	}
	if fault != nil {
		f.n.failSync(f.d.rng)
		return fault
	}
	f.n.sync()
	return nil
}

func (f *file) Truncate(size int64) error {
	return f.d.do(f.op(OpTruncate, size), func() (map[string]*node, error) {
		if err := f.growLocked(size); err != nil {
			return nil, err
		}
		f.n.truncate(size)
		return nil, nil
	})
}

func (f *file) Preallocate(size int64) error {
	return f.d.do(f.op(OpPreallocate, size), func() (map[string]*node, error) {
		if err := f.growLocked(size); err != nil {
			return nil, err
		}
		f.n.size, f.n.reserved = max(f.n.size, size), max(f.n.reserved, size)
		return nil, nil
	})
}

func (f *file) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.n.size, f.usableLocked()
}

// Close works without power too: a dead process holds no files.
func (f *file) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return nil
}
