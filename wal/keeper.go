package wal

import "errors"

// spareFile is a file of FileBytes written zeros, synced, under the name spareName. Overwriting written blocks leaves
// the file's metadata alone, which makes an fsync about twice as fast as on blocks that were only reserved (measured:
// DESIGN.md). It costs writing every byte twice, in the background, and only where durable frames are used at all.
type spareFile struct{ f File }

// keep is the keeper goroutine: slow work on files that no append should wait for.
//
// The files in stuck could not be removed; they are tried again at each wake.
func (l *Log) keep(stuck []*file) {
	for {
		stopping := false
		select {
		case <-l.keeperWake:
		case <-l.stop:
			stopping = true
		}
		stuck = l.removeFiles(stuck)
		if stopping {
			l.closeFiles(stuck)
			return
		}
		l.makeSpare()
	}
}

// removeFiles removes the files on the reap list and those in stuck, and returns those that it could not. A durable
// file that a power cut brings back would only be replayed once more; still the directory is synced, so that the
// replay after a crash is what was in use and not what once was.
func (l *Log) removeFiles(stuck []*file) []*file {
	l.mu.Lock()
	files := append(stuck, l.reap...)
	l.reap = nil
	l.mu.Unlock()
	stuck = nil
	durable := false
	for _, f := range files {
		if err := l.fs.Remove(f.name); err != nil {
			stuck = append(stuck, f)
			l.countCleanupError()
			continue
		}
		if err := f.f.Close(); err != nil {
			l.countCleanupError()
		}
		l.uncharge(f.charge)
		durable = durable || f.kind == Durable
	}
	if durable && l.fs.SyncDir(l.opts.Dir) != nil {
		l.countCleanupError()
	}
	return stuck
}

func (l *Log) closeFiles(files []*file) {
	for _, f := range files {
		f.f.Close() // the file is not needed, and Open removes it
	}
}

func (l *Log) countCleanupError() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.CleanupErrors++
}

// makeSpare prepares a spare if one is wanted and leaves room for a file beside it; without, the writer makes do with
// a reserved one.
func (l *Log) makeSpare() {
	l.mu.Lock()
	if !l.spareWanted || l.spare != nil || l.closed || l.charged+2*l.opts.FileBytes > l.opts.MaxBytes {
		l.mu.Unlock()
		return
	}
	l.charged += l.opts.FileBytes
	l.mu.Unlock()
	f, err := l.fillSpare()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spareWanted = false
	l.signalSpaceLocked() // either a spare is there, or its space is free again
	if err == nil {
		l.spare = &spareFile{f: f}
		return
	}
	if !errors.Is(err, ErrClosed) {
		l.stats.CleanupErrors++
	}
	l.charged -= l.opts.FileBytes
}

// fillSpare writes the zeros in small synced steps, so that an fsync of the active file never queues behind many.
func (l *Log) fillSpare() (File, error) {
	name := l.path(spareName)
	f, err := l.fs.Create(name)
	if err != nil {
		return nil, err
	}
	err = f.Preallocate(l.opts.FileBytes)
	step := make([]byte, min(mib, l.opts.FileBytes))
	for position := int64(0); err == nil && position < l.opts.FileBytes; position += int64(len(step)) {
		if _, err = f.WriteAt(step[:min(int64(len(step)), l.opts.FileBytes-position)], position); err == nil {
			err = f.Sync()
		}
		l.mu.Lock()
		if l.closed {
			err = errors.Join(err, ErrClosed)
		}
		l.mu.Unlock()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), l.fs.Remove(name))
	}
	return f, nil
}

func (l *Log) close() error {
	l.mu.Lock()
	l.closed = true
	l.signalSpaceLocked()
	l.mu.Unlock()
	l.users.Wait()
	l.q.close()
	l.goroutines.Wait()

	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.f.Close())
		if f.kind == Spill {
			errs = append(errs, l.fs.Remove(f.name))
		}
	}
	if l.spare != nil {
		errs = append(errs, l.spare.f.Close(), l.fs.Remove(l.path(spareName)))
	}
	errs = append(errs, l.lock.Close())
	return errors.Join(errs...)
}
