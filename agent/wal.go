package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/firnlog/firn/wal"
)

// openWAL opens the write-ahead log. Its errors say what an operator can do. That a damaged log may be moved away rests on
// this: what this agent acknowledges is in the bucket and ordered before it does.
func (a *Agent) openWAL(ctx context.Context) error {
	dir, fsys := a.parts.WALDir, a.parts.FS
	if a.parts.Dir != nil {
		if id, ok, err := wal.VolumeID(fsys, dir); err != nil {
			return a.mendWAL(err)
		} else if ok {
			if err := a.parts.Dir.checkWAL(hex.EncodeToString(id[:])); err != nil {
				return err
			}
		}
	}
	l, err := wal.Open(ctx, fsys, wal.Options{Dir: dir, MaxBytes: a.cfg.WALBytes, FileBytes: a.walFileBytes()})
	if err != nil {
		return a.mendWAL(err)
	}
	a.wal = l
	if id := l.ID(); a.parts.Dir != nil {
		if err := a.parts.Dir.claimWAL(hex.EncodeToString(id[:])); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDataDir, a.parts.Dir.Path, err)
		}
	}
	for _, c := range l.Cuts() {
		a.parts.Logger.Warn("cut off the torn tail of a write-ahead file", "file", c.File, "position", c.Position, "size", c.Size, "copy", c.Copy)
	}
	if n := l.Stats().DurableFrames; n > 0 {
		a.parts.Logger.Warn("the write-ahead log holds durable frames, which this firn does not write and leaves alone", "directory", dir, "frames", n)
	}
	return nil
}

func (a *Agent) walFileBytes() int64 { return min(64<<20, a.cfg.WALBytes/8) }

// mendWAL says what to do about an error of wal.Open.
func (a *Agent) mendWAL(err error) error {
	dir := a.parts.WALDir
	mend := "mend the disk, or choose another directory with --data-dir"
	switch {
	case errors.Is(err, wal.ErrCorrupt), errors.Is(err, wal.ErrVolume):
		mend = fmt.Sprintf("firn inspect wal %s shows the damage; nothing was changed. Nothing acknowledged is in it alone: move the directory away and start again", dir)
	case errors.Is(err, wal.ErrVersion):
		mend = "run the newer firn that wrote it, or choose another directory with --data-dir"
	case errors.Is(err, wal.ErrLocked):
		mend = "another agent is at work in it: stop that one, or give each agent a directory of its own with --data-dir"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		mend = fmt.Sprintf("the disk is full: %d bytes are needed to start and up to %d in use. Make room, or lower --wal-bytes", a.walFileBytes(), a.cfg.WALBytes)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		mend = "make it writable for the user that firn runs as, or choose another directory with --data-dir"
	}
	return fmt.Errorf("open the write-ahead log in %s: %w; %s", dir, err, mend)
}
