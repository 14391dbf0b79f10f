package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/firnlog/firn/objstore"
)

// knownDirsMax bounds the memory of directories; past it the set is forgotten and learned again.
const knownDirsMax = 1 << 16

// directories remembers which directories need no more work, so that a put pays for them once.
type directories struct {
	mu     sync.Mutex
	known  map[string]struct{} // exist, and so does their durable name in the parent
	broken map[string]error    // an fsync failed; Invariant: entries are never removed
}

func (d *directories) init() {
	d.known, d.broken = make(map[string]struct{}), make(map[string]error)
}

// state returns whether dir is known, and the error of the fsync that broke it.
func (d *directories) state(dir string) (known bool, broken error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, known = d.known[dir]
	return known, d.broken[dir]
}

func (d *directories) add(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= knownDirsMax {
		clear(d.known)
	}
	d.known[dir] = struct{}{}
}

func (d *directories) breakDown(dir string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken[dir] = err
}

func (d *directories) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.known)
}

// ensureDir makes dir and its parents exist durably. A directory that is there but not known still gets the fsync of its
// parent: the process that made it may have died before its own. Two calls for one directory both do the work.
func (b *Bucket) ensureDir(dir string) error {
	known, broken := b.dirs.state(dir)
	if broken != nil {
		return fmt.Errorf("directory %s is out of use until a restart, its fsync failed before: %w: %w",
			b.path(dir), objstore.ErrUnavailable, broken)
	}
	if known || dir == "" {
		return nil
	}
	parent := dirOf(dir)
	if err := b.ensureDir(parent); err != nil {
		return err
	}
	if err := b.disk.mkdir(b.path(dir)); err != nil && !errors.Is(err, fs.ErrExist) {
		return b.classifyPublish(err)
	}
	if err := b.syncDir(parent); err != nil {
		return err
	}
	b.dirs.add(dir)
	return nil
}

func (b *Bucket) syncDir(dir string) error {
	err := b.disk.syncDir(b.path(dir))
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		b.dirs.breakDown(dir, err)
	}
	return b.classifyPublish(err)
}

// makeRoot creates root and its missing parents durably. The parent of a root that exists is fsynced too, for the sake
// of an earlier process that died right after creating it.
func makeRoot(d disk, root string) error {
	parent := filepath.Dir(root)
	info, err := os.Stat(root)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%s is not a directory: %w", root, objstore.ErrInvalid)
	case errors.Is(err, fs.ErrNotExist):
		if err := makeRoot(d, parent); err != nil {
			return err
		}
		if err := d.mkdir(root); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case err != nil:
		return err
	}
	if err := d.syncDir(parent); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err // a parent that may not be read is one that somebody else set up
	}
	return nil
}

// probeWritable finds out with a directory, which no List ever shows, whatever a crash leaves of it.
func probeWritable(root string) error {
	probe, err := os.MkdirTemp(root, tempName+"-probe-")
	if err != nil {
		return err
	}
	return os.Remove(probe)
}
