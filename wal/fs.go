package wal

import "io"

// FS is what the log asks of a file system. [OS] is the real one; package walfs has one in memory that loses power.
// All methods may be called concurrently. Names are paths as made by path/filepath.
type FS interface {
	// MkdirAll makes dir and its parents; an existing dir is no error.
	MkdirAll(dir string) error
	// Create makes a file that must not exist (fs.ErrExist) and opens it for reading and writing.
	Create(name string) (File, error)
	// Open opens an existing file (fs.ErrNotExist) for reading and writing.
	Open(name string) (File, error)
	// Rename replaces newname atomically.
	Rename(oldname, newname string) error
	// Remove deletes name; open Files stay usable.
	Remove(name string) error
	// ReadDir returns the names in dir, sorted, without the directory part.
	ReadDir(dir string) ([]string, error)
	// SyncDir makes the creations, renames and removals in dir durable.
	SyncDir(dir string) error
	// Lock takes an exclusive advisory lock on name, creating it if needed, without waiting: ErrLocked if it is taken.
	// Close releases it; so does the end of the process.
	Lock(name string) (io.Closer, error)
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes the content and the size durable (fdatasync). After an error, what was written since the last Sync
	// that succeeded is lost or not, page by page, whatever later calls say.
	Sync() error
	// Truncate sets the size; growth reads as zeros.
	Truncate(size int64) error
	// Preallocate reserves space up to size and extends the file to it with zeros, so that a later write within it
	// cannot run out of space.
	Preallocate(size int64) error
	// Size is the current size in bytes.
	Size() (int64, error)
}
