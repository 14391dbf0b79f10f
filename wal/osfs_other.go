//go:build unix && !linux

package wal

func checkLocal(int) error { return nil }

func (f *osFile) Sync() error { return f.File.Sync() }

func (f *osFile) Preallocate(size int64) error { return f.Truncate(size) }
