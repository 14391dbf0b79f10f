package walfs

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/firnlog/firn/wal"
)

// ErrPowerOff is the answer to every call after PowerOff.
var ErrPowerOff = fmt.Errorf("walfs: power is off: %w", syscall.EIO)

// OpKind is what an operation does to the disk. Reading is not an operation.
type OpKind string

// The operations.
const (
	OpMkdir       OpKind = "mkdir"
	OpCreate      OpKind = "create"
	OpWrite       OpKind = "write"
	OpTruncate    OpKind = "truncate"
	OpPreallocate OpKind = "preallocate"
	OpSync        OpKind = "sync"
	OpRename      OpKind = "rename"
	OpRemove      OpKind = "remove"
	OpSyncDir     OpKind = "syncdir"
)

// Op is one operation that is about to happen.
type Op struct {
	N    int // counts from 0
	Kind OpKind
	Name string // path, as it is now; of a rename the new one
	Size int64  // bytes of a write, new size of a truncate or preallocate
}

// Fault sees each operation before it happens and makes it fail by returning an error. It is called without locks, by
// the goroutine of the operation, and so may block.
type Fault func(Op) error

// FS is a disk in memory. It implements wal.FS.
type FS struct {
	mu       sync.Mutex // guards all below and every node
	fault    Fault
	off      bool
	ops      int
	capacity int64 // bytes of all files; 0 for no bound
	dirs     map[string]bool
	names    map[string]*node // as seen
	durable  map[string]*node // as on the disk
	steps    []step           // from durable to names, in order
	locks    map[string]bool
	rng      *rand.Rand
}

// step is a change of names that is not durable yet.
type step struct {
	dir string
	set map[string]*node // nil: removed
}

var _ wal.FS = (*FS)(nil)

// New returns an empty disk. rng decides what the faults leave open.
func New(rng *rand.Rand) *FS {
	return &FS{
		rng: rng, dirs: map[string]bool{"/": true, ".": true}, names: map[string]*node{}, durable: map[string]*node{},
		locks: map[string]bool{},
	}
}

// SetFault replaces the fault function; nil for none.
func (d *FS) SetFault(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// SetCapacity bounds the bytes of all files, as allocated: writes and reservations beyond it get ENOSPC.
func (d *FS) SetCapacity(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = n
}

// Ops is the number of operations so far.
func (d *FS) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// PowerOff makes every later call fail with ErrPowerOff.
func (d *FS) PowerOff() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// Loss says what of the unsynced changes a restart finds.
type Loss int

const (
	// LoseNothing is the death of the process: the kernel keeps everything, including what it wrongly believes synced.
	LoseNothing Loss = iota
	// LoseAll is a power cut that no unsynced change survives.
	LoseAll
	// LoseSome is a power cut that each unsynced sector, size and name survives on its own with even chances.
	LoseSome
)

// Restart turns the power off and returns the disk as the next start finds it. Faults and bounds are gone.
func (d *FS) Restart(loss Loss) *FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
	next := New(d.rng)
	for dir := range d.dirs {
		next.dirs[dir] = true
	}
	if loss == LoseNothing {
		copies := map[*node]*node{}
		cloned := func(n *node) *node {
			if n != nil && copies[n] == nil {
				copies[n] = n.clone()
			}
			return copies[n]
		}
		for name, n := range d.names {
			next.names[name] = cloned(n)
		}
		for name, n := range d.durable {
			next.durable[name] = cloned(n)
		}
		for _, s := range d.steps {
			set := map[string]*node{}
			for name, n := range s.set {
				set[name] = cloned(n)
			}
			next.steps = append(next.steps, step{dir: s.dir, set: set})
		}
		return next
	}
	for _, s := range d.steps {
		if loss == LoseSome && d.rng.IntN(2) == 0 {
			apply(d.durable, s.set)
		}
	}
	for _, name := range sortedKeys(d.durable) {
		n := d.durable[name].crash(loss, d.rng)
		n.name = name
		next.names[name], next.durable[name] = n, n
	}
	return next
}

func apply(names, set map[string]*node) {
	for name, n := range set {
		if n == nil {
			delete(names, name)
		} else {
			names[name] = n
		}
	}
}

func sortedKeys(m map[string]*node) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ReadFile returns the content of a file as seen now.
func (d *FS) ReadFile(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[filepath.Clean(name)]
	if n == nil {
		return nil, notExist("read", name)
	}
	b := make([]byte, n.size)
	n.read(b, 0)
	return b, nil
}

// WriteFile makes a file with the given durable content, bypassing faults: what a test finds on the disk.
func (d *FS) WriteFile(name string, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	n := newNode()
	n.name = name
	n.write(b, 0)
	n.sync()
	d.dirs[filepath.Dir(name)] = true
	d.names[name], d.durable[name] = n, n
}

// Flip inverts one bit of a durable file: silent damage.
func (d *FS) Flip(name string, position int64, bit uint) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[filepath.Clean(name)]
	if n == nil || position >= n.size {
		return notExist("flip", name)
	}
	var b [1]byte
	n.read(b[:], position)
	b[0] ^= 1 << (bit % 8)
	n.write(b[:], position)
	n.sync()
	return nil
}

// before counts an operation and asks the fault function.
func (d *FS) before(op Op) error {
	d.mu.Lock()
	if d.off {
		d.mu.Unlock()
		return ErrPowerOff
	}
	op.N = d.ops
	d.ops++
	fault := d.fault
	d.mu.Unlock()
	if fault != nil {
		if err := fault(op); err != nil {
			return &fs.PathError{Op: string(op.Kind), Path: op.Name, Err: err}
		}
	}
	return nil
}

// do runs change, which returns the names it sets, as one operation.
func (d *FS) do(op Op, change func() (map[string]*node, error)) error {
	if err := d.before(op); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return ErrPowerOff
	}
	set, err := change()
	if err != nil {
		return err
	}
	if set != nil {
		apply(d.names, set)
		d.steps = append(d.steps, step{dir: filepath.Dir(op.Name), set: set})
	}
	return nil
}

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// MkdirAll makes dir, durably: wal asks for nothing finer.
func (d *FS) MkdirAll(dir string) error {
	dir = filepath.Clean(dir)
	return d.do(Op{Kind: OpMkdir, Name: dir}, func() (map[string]*node, error) {
		for ; !d.dirs[dir]; dir = filepath.Dir(dir) {
			d.dirs[dir] = true
		}
		return nil, nil
	})
}

// Create implements wal.FS.
func (d *FS) Create(name string) (wal.File, error) {
	name = filepath.Clean(name)
	n := newNode()
	n.name = name
	err := d.do(Op{Kind: OpCreate, Name: name}, func() (map[string]*node, error) {
		switch {
		case !d.dirs[filepath.Dir(name)]:
			return nil, notExist("create", name)
		case d.names[name] != nil:
			return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
		}
		return map[string]*node{name: n}, nil
	})
	if err != nil {
		return nil, err
	}
	return &file{d: d, n: n}, nil
}

// Open implements wal.FS.
func (d *FS) Open(name string) (wal.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	switch n := d.names[name]; {
	case d.off:
		return nil, ErrPowerOff
	case n == nil:
		return nil, notExist("open", name)
	default:
		return &file{d: d, n: n}, nil
	}
}

// Rename implements wal.FS.
func (d *FS) Rename(oldname, newname string) error {
	oldname, newname = filepath.Clean(oldname), filepath.Clean(newname)
	return d.do(Op{Kind: OpRename, Name: newname}, func() (map[string]*node, error) {
		n := d.names[oldname]
		if n == nil {
			return nil, notExist("rename", oldname)
		}
		n.name = newname
		return map[string]*node{oldname: nil, newname: n}, nil
	})
}

// Remove implements wal.FS.
func (d *FS) Remove(name string) error {
	name = filepath.Clean(name)
	return d.do(Op{Kind: OpRemove, Name: name}, func() (map[string]*node, error) {
		if d.names[name] == nil {
			return nil, notExist("remove", name)
		}
		return map[string]*node{name: nil}, nil
	})
}

// ReadDir implements wal.FS.
func (d *FS) ReadDir(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir = filepath.Clean(dir)
	if d.off {
		return nil, ErrPowerOff
	}
	if !d.dirs[dir] {
		return nil, notExist("readdir", dir)
	}
	var names []string
	for _, name := range sortedKeys(d.names) {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	return names, nil
}

// SyncDir implements wal.FS.
func (d *FS) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	return d.do(Op{Kind: OpSyncDir, Name: dir}, func() (map[string]*node, error) {
		d.steps = slices.DeleteFunc(d.steps, func(s step) bool {
			if s.dir == dir {
				apply(d.durable, s.set)
			}
			return s.dir == dir
		})
		return nil, nil
	})
}

// Lock implements wal.FS. Locks are not on the disk.
func (d *FS) Lock(name string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	switch {
	case d.off:
		return nil, ErrPowerOff
	case !d.dirs[filepath.Dir(name)]:
		return nil, notExist("lock", name)
	case d.locks[name]:
		return nil, fmt.Errorf("%w: %s", wal.ErrLocked, name)
	}
	d.locks[name] = true
	return lock{d: d, name: name}, nil
}

type lock struct {
	d    *FS
	name string
}

func (l lock) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	delete(l.d.locks, l.name)
	return nil
}
