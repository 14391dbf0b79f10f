package file

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// disk is every system call that changes something, so that tests can break them and stop between two of them.
type disk interface {
	// create opens a file that must not exist.
	create(path string) (diskFile, error)
	rename(from, to string) error
	// link gives the file from a second name, and fails with fs.ErrExist where the name is taken.
	link(from, to string) error
	// remove takes the name of a file away; it never removes a directory.
	remove(path string) error
	mkdir(path string) error
	syncDir(path string) error
}

type diskFile interface {
	io.WriteCloser
	Sync() error
}

type osDisk struct{}

func (osDisk) create(path string) (diskFile, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

func (osDisk) rename(from, to string) error { return os.Rename(from, to) }

func (osDisk) link(from, to string) error { return os.Link(from, to) }

func (osDisk) remove(path string) error {
	// Not os.Remove, which goes on to rmdir: a delete of key "a" must not remove the directory of "a/b".
	for {
		err := syscall.Unlink(path)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return &os.PathError{Op: "unlink", Path: path, Err: err}
		}
	}
}

func (osDisk) mkdir(path string) error { return os.Mkdir(path, 0o755) }

func (osDisk) syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if closeErr := dir.Close(); err == nil {
		err = closeErr
	}
	return err
}
