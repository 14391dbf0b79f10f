package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// tempName is the directory below the root that holds files being written. It lies in the same file system as the
// objects, so that rename and link work, and outside every key.
const tempName = ".tmp"

// tempDir is one process's own directory for temp files, locked for as long as the process lives.
type tempDir struct {
	path string
	lock *os.File
}

// openTempDir removes the directories of processes that are gone and makes one of our own. The lock on base keeps two
// openers apart, so that nobody sweeps a directory between its mkdir and its lock.
func openTempDir(base string) (*tempDir, error) {
	if err := os.Mkdir(base, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	baseLock, err := lockDir(base, syscall.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer baseLock.Close()
	if err := sweep(base); err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(base, "put-")
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(path, syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		return nil, err
	}
	return &tempDir{path: path, lock: lock}, nil
}

// close removes the directory and then gives up the lock.
func (t *tempDir) close() error {
	return errors.Join(os.RemoveAll(t.path), t.lock.Close())
}

// sweep removes everything in base that no living process holds. Requires: the lock on base.
func sweep(base string) error {
	entries, err := os.ReadDir(base)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := sweepOne(filepath.Join(base, entry.Name()), entry.IsDir()); err != nil {
			return err
		}
	}
	return nil
}

func sweepOne(path string, isDir bool) error {
	if isDir {
		lock, err := lockDir(path, syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			return nil // in use, or its owner has just closed it
		}
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	return os.RemoveAll(path)
}

func lockDir(path string, how int) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(dir.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return dir, nil
}
