package wal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// TagBytesMax is the largest tag of a frame, in bytes.
const TagBytesMax = 64

// FailurePolicy says what durable appends do after a durable file failed.
type FailurePolicy uint8

const (
	// StopDurable (the default) refuses durable appends with ErrFailed until the log is opened again: a disk that lost
	// one write is not asked to hold the next. Spill goes on.
	StopDurable FailurePolicy = iota
	// NewFile seals the failed file and continues in a new one.
	NewFile
)

// Options are the settings of a log. The zero value of a field means its default; Dir has none.
type Options struct {
	// Dir is the directory. It belongs to the log alone.
	Dir string
	// ID is the identity that the volume must carry ([Log.ID] of an earlier Open). Zero accepts any, and makes a new one
	// in an empty directory. Set, an empty or missing directory is ErrVolume: the disk is not mounted.
	ID [16]byte
	// FileBytes is the size of a file, in bytes; default 64 MiB.
	FileBytes int64
	// MaxBytes bounds the disk space of all files, in bytes; default 1 GiB, at least four files. A file counts as
	// FileBytes from its creation to its removal.
	MaxBytes int64
	// FrameBytesMax bounds tag and payload of one frame together, in bytes; default 16 MiB or what fits in a file.
	FrameBytesMax int64
	// BatchBytes bounds what is queued for the next fsync, in bytes; default 4 MiB. One frame above it goes alone.
	// The log keeps two such buffers.
	BatchBytes int64
	// AfterFailure says what durable appends do after a failed write or fsync.
	AfterFailure FailurePolicy
	// Rand gives identities and salts; default crypto/rand.
	Rand io.Reader
	// Now is the clock of Stats; nothing else depends on it. Default time.Now.
	Now func() time.Time
}

const (
	mib           = 1 << 20
	minFileBytes  = headerBytes + 4096
	minFrameBytes = 256
)

// withDefaults returns o with zero fields replaced.
func (o Options) withDefaults() Options {
	setDefault(&o.FileBytes, 64*mib)
	setDefault(&o.MaxBytes, max(1024*mib, 4*o.FileBytes))
	setDefault(&o.FrameBytesMax, min(16*mib, o.FileBytes-fileOverhead))
	setDefault(&o.BatchBytes, 4*mib)
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

func setDefault(v *int64, def int64) {
	if *v == 0 {
		*v = def
	}
}

// Validate returns every problem of o at once, joined, or nil. Defaults are applied to a copy first.
func (o Options) Validate() error {
	o = o.withDefaults()
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("wal options: "+format, args...)) }
	if o.Dir == "" {
		bad("Dir is empty")
	}
	if o.FileBytes < minFileBytes || o.FileBytes%frameAlign != 0 {
		bad("FileBytes must be a multiple of %d and at least %d: %d", frameAlign, minFileBytes, o.FileBytes)
	}
	if o.MaxBytes/4 < o.FileBytes {
		bad("MaxBytes must hold four files of %d bytes: %d", o.FileBytes, o.MaxBytes)
	}
	if o.FrameBytesMax < minFrameBytes || o.FrameBytesMax > min(o.FileBytes-fileOverhead, math.MaxUint32) {
		bad("FrameBytesMax must be between %d and FileBytes-%d: %d", minFrameBytes, fileOverhead, o.FrameBytesMax)
	}
	if o.BatchBytes < 1 {
		bad("BatchBytes must be positive: %d", o.BatchBytes)
	}
	if o.AfterFailure > NewFile {
		bad("AfterFailure is unknown: %d", o.AfterFailure)
	}
	return errors.Join(errs...)
}
