package wal

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// File system magics, from linux/magic.h.
const (
	magicNFS  = 0x6969
	magicSMB  = 0x517b
	magicCIFS = 0xff534d42
	magicSMB2 = 0xfe534d42
	magicCeph = 0x00c36400
	magicAFS  = 0x5346414f
	magic9P   = 0x01021997
)

func checkLocal(fd int) error {
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(fd, &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	switch uint32(st.Type) { //nolint:gosec // magics are 32 bits wide; the field's width depends on the architecture.
	case magicNFS, magicSMB, magicCIFS, magicSMB2, magicCeph, magicAFS, magic9P:
		return fmt.Errorf("network file system %#x: the log needs a local disk", uint32(st.Type)) //nolint:gosec // as above
	}
	return nil
}

// Sync retries only a call that a signal interrupted before it began; any other error is final (see File).
func (f *osFile) Sync() error {
	for {
		err := syscall.Fdatasync(f.fd)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
	}
}

func (f *osFile) Preallocate(size int64) error {
	for {
		err := syscall.Fallocate(f.fd, 0, 0, size)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS):
			return f.Truncate(size)
		default:
			return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
		}
	}
}
