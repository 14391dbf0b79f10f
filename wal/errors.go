package wal

import (
	"errors"
	"fmt"
)

// Sentinels, sorted by what the caller does next. Compare with errors.Is.
var (
	// ErrFull: Options.MaxBytes is used up and nothing was written. Hold the producers back and use [Log.WaitSpace].
	ErrFull = errors.New("wal is full")
	// ErrFailed: the disk refused a write or an fsync. Take the bucket path. With ErrUnknown: the frame may be
	// recovered after a restart. Without: it will not.
	ErrFailed = errors.New("wal write failed")
	// ErrUnknown: the frame may or may not survive; it was not acknowledged, and the log has already freed it.
	ErrUnknown = errors.New("wal append outcome unknown")
	// ErrClosed: the log is closed or closing; nothing was written.
	ErrClosed = errors.New("wal is closed")
	// ErrTooLarge: the frame is above Options.FrameBytesMax or its tag above TagBytesMax. Split the frame.
	ErrTooLarge = errors.New("wal frame is too large")
	// ErrNotFound: the Ref names no frame in use: freed, or of another log.
	ErrNotFound = errors.New("wal frame not found")
	// ErrCorrupt: bytes that were written are no longer what is read. Comes as a *CorruptError.
	ErrCorrupt = errors.New("wal is corrupt")
	// ErrVersion: a file was written by a newer version of this program.
	ErrVersion = errors.New("wal version is not supported")
	// ErrVolume: the directory is not the one that this log was made in: wrong disk, or a disk that is not mounted.
	ErrVolume = errors.New("wal volume is not the expected one")
	// ErrLocked: another Log, in this process or another, has the directory open.
	ErrLocked = errors.New("wal directory is locked")
)

// CorruptError says where damage was found. It matches ErrCorrupt.
type CorruptError struct {
	File     string // path
	Position int64  // bytes from the start of the file
	Reason   string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: %s at position %d: %s", ErrCorrupt, e.File, e.Position, e.Reason)
}

// Is reports whether target is ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }
