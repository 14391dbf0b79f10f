package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// brokenKeep is how many ".broken" files are kept; the oldest go first.
const brokenKeep = 8

// Cut is a torn tail that Open removed.
type Cut struct {
	File     string // path
	Position int64  // where the file now ends
	Size     int64  // bytes that were cut off
	Copy     string // path of the copy of what was cut
}

// Cuts returns the torn tails that Open removed, for the operator's log.
func (l *Log) Cuts() []Cut { return slices.Clone(l.cuts) }

// RecoveredFrame is a durable frame that was in the log when it was opened.
type RecoveredFrame struct {
	Ref     Ref
	Tag     []byte // until the next step of the iteration, as Payload
	Payload []byte
}

// Open locks, checks, repairs and recovers the directory of opts and starts the log. It refuses with ErrLocked,
// ErrVolume, ErrVersion or a *CorruptError before anything is changed. Spill files and temporary files are deleted.
//
// Recovered frames were read from the kernel's memory, which after a failed fsync may hold what the disk does not. So
// Open writes everything that no promise covers once more, and syncs it, before it lets anyone act on it.
func Open(ctx context.Context, fsys FS, opts Options) (_ *Log, err error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	l := &Log{
		fs: fsys, opts: opts.withDefaults(), files: map[uint64]*file{}, nextNumber: 1,
		keeperWake: make(chan struct{}, 1), stop: make(chan struct{}),
		q: queue{wake: make(chan struct{}, 1), filling: new(batch), idle: new(batch)},
	}
	if err := l.lockDir(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, f := range l.files {
				err = errors.Join(err, f.f.Close())
			}
			err = errors.Join(err, l.lock.Close())
		}
	}()
	names, err := fsys.ReadDir(l.opts.Dir)
	if err != nil {
		return nil, err
	}
	if err := l.openVolume(names); err != nil {
		return nil, err
	}
	found, err := l.openFiles(ctx, names)
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		if err := l.repair(r); err != nil {
			return nil, err
		}
	}
	if err := l.removeLeftovers(names); err != nil {
		return nil, err
	}
	l.charged += l.opts.FileBytes // beyond MaxBytes if need be: the log must be able to start
	if err := l.createDurable(nil); err != nil {
		return nil, fmt.Errorf("create wal file: %w", err)
	}
	for _, r := range found {
		l.reapLocked(r.file) // no lock: nobody else has the log yet
	}
	stuck := l.removeFiles(nil)
	l.goroutines.Go(l.write)
	l.goroutines.Go(func() { l.keep(stuck) })
	return l, nil
}

// lockDir makes the directory, if a new log may be made, and locks it.
func (l *Log) lockDir() (err error) {
	if l.opts.ID == ([16]byte{}) {
		if _, err := l.fs.ReadDir(l.opts.Dir); errors.Is(err, fs.ErrNotExist) {
			if err := l.fs.MkdirAll(l.opts.Dir); err != nil {
				return err
			}
			if err := l.fs.SyncDir(filepath.Dir(l.opts.Dir)); err != nil {
				return err
			}
		}
	} else if f, err := l.fs.Open(l.path(volumeName)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s has no file %s", ErrVolume, l.opts.Dir, volumeName)
	} else if err != nil {
		return err
	} else if err := f.Close(); err != nil {
		return err
	}
	l.lock, err = l.fs.Lock(l.path(lockName))
	return err
}

// openVolume checks the identity of the directory, or gives it one if it is new.
func (l *Log) openVolume(names []string) error {
	name := l.path(volumeName)
	f, err := l.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		for _, n := range names {
			if _, kind, ok := parseFileName(n); ok && kind == Durable {
				return fmt.Errorf("%w: %s has the file %s but no file %s", ErrVolume, l.opts.Dir, n, volumeName)
			}
		}
		if _, err := io.ReadFull(l.opts.Rand, l.id[:]); err != nil {
			return fmt.Errorf("draw identity: %w", err)
		}
		return l.writeWhole(name, strings.NewReader(string(appendVolume(nil, l.id))))
	}
	if err != nil {
		return err
	}
	b := make([]byte, 2*volumeBytes) // room to see that there is more than there should be
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if l.id, err = parseVolume(name, b[:n]); err != nil {
		return err
	}
	if l.opts.ID != ([16]byte{}) && l.opts.ID != l.id {
		return fmt.Errorf("%w: %s is %x, want %x", ErrVolume, name, l.id, l.opts.ID)
	}
	return nil
}

// VolumeID reads whose log the directory holds, without opening it; ok is false where it holds none.
func VolumeID(fsys FS, dir string) (id [16]byte, ok bool, err error) {
	l := &Log{fs: fsys, opts: Options{Dir: dir}}
	f, err := fsys.Open(l.path(volumeName))
	if errors.Is(err, fs.ErrNotExist) {
		return id, false, nil
	}
	if err != nil {
		return id, false, err
	}
	if err := f.Close(); err != nil {
		return id, false, err
	}
	err = l.openVolume(nil)
	return l.id, err == nil, err
}

// writeWhole makes the file called name with the content of r, durably, whole or not at all.
func (l *Log) writeWhole(name string, r io.Reader) error {
	tmp := name + tmpSuffix
	if err := l.fs.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := l.fs.Create(tmp)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(f, 0), r)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := l.fs.Rename(tmp, name); err != nil {
		return err
	}
	return l.fs.SyncDir(l.opts.Dir)
}

// found is a durable file as recovery sees it.
type found struct {
	*file
	header  fileHeader
	size    int64 // of the file
	tornEnd int64 // end of the last byte that is not zero; end if the tail is clean
}

// openFiles opens and checks every durable file, in order. It changes nothing.
func (l *Log) openFiles(ctx context.Context, names []string) ([]*found, error) {
	var all []*found
	promised := map[uint64]int64{} // by number of the file
	for _, n := range names {
		number, kind, ok := parseFileName(n)
		if !ok {
			continue
		}
		if number >= 1<<63 {
			return nil, &CorruptError{File: l.path(n), Reason: "file number out of range"}
		}
		l.nextNumber = max(l.nextNumber, number+1)
		if kind == Spill {
			continue
		}
		r, err := l.openFile(l.path(n), number)
		if err != nil {
			return nil, err
		}
		promised[r.header.prevNumber] = max(promised[r.header.prevNumber], r.header.prevSynced)
		all = append(all, r)
	}
	for _, r := range all {
		if err := l.scanFile(ctx, r, promised[r.number]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (l *Log) openFile(name string, number uint64) (*found, error) {
	osf, err := l.fs.Open(name)
	if err != nil {
		return nil, err
	}
	f := &file{name: name, kind: Durable, number: number, f: osf, sealed: true, recovered: true}
	if l.files[number] != nil {
		return nil, errors.Join(&CorruptError{File: name, Reason: "two files of one number"}, osf.Close())
	}
	l.files[number] = f
	size, err := osf.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, headerBytes)
	n, err := osf.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	h, err := parseFileHeader(name, b[:n])
	switch {
	case err != nil:
		return nil, err
	case h.id != l.id:
		return nil, fmt.Errorf("%w: %s belongs to %x, the directory to %x", ErrVolume, name, h.id, l.id)
	case h.number != number || h.kind != Durable:
		return nil, &CorruptError{File: name, Position: 32, Reason: fmt.Sprintf("header is of %s file %x", h.kind, h.number)}
	}
	f.seed, f.chain = keys(b)
	return &found{file: f, header: h, size: size}, nil
}

// scanFile finds the end of the file and the frames in it. promised is what the next file's header says of it.
func (l *Log) scanFile(ctx context.Context, r *found, promised int64) error {
	s := scanner{f: r.f, name: r.name, size: r.size, seed: r.seed, position: headerBytes, chain: r.chain,
		promised: max(promised, headerBytes)}
	r.used = newSlots(r.size)
	for {
		position := s.position
		h, ok, err := s.next(false)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if h.kind == Durable {
			r.holdLocked(position)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if s.position < promised {
		return &CorruptError{File: r.name, Position: s.position, Reason: fmt.Sprintf(
			"damaged frame, though the header of the next file says that all below %d was synced", promised)}
	}
	end, err := s.tail(ctx)
	if err != nil {
		return err
	}
	r.end, r.prev, r.synced, r.tornEnd = s.position, s.chain, s.promised, end
	return nil
}

// repair makes the file durable up to its last valid frame, and end there.
func (l *Log) repair(r *found) error {
	if r.tornEnd > r.end {
		broken := fmt.Sprintf("%s.%012x%s", r.name, r.end, brokenSuffix)
		if err := l.writeWhole(broken, io.NewSectionReader(r.f, r.end, r.tornEnd-r.end)); err != nil {
			return fmt.Errorf("copy torn tail: %w", err)
		}
		l.cuts = append(l.cuts, Cut{File: r.name, Position: r.end, Size: r.tornEnd - r.end, Copy: broken})
	}
	if r.synced < r.end || r.size > r.end {
		if err := rewrite(r.f, r.synced, r.end); err != nil {
			return fmt.Errorf("rewrite %s: %w", r.name, err)
		}
		if err := r.f.Truncate(r.end); err != nil {
			return fmt.Errorf("cut %s: %w", r.name, err)
		}
		if err := r.f.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", r.name, err)
		}
		r.synced = r.end
	}
	r.charge = r.end
	l.charged += r.charge
	l.prevNumber, l.prevSynced, l.lastDurable = r.number, r.synced, r.number
	return nil
}

// rewrite makes the bytes from begin to end dirty again, so that the next Sync must write them.
func rewrite(f File, begin, end int64) error {
	b := make([]byte, min(window, end-begin))
	for begin < end {
		n := min(int64(len(b)), end-begin)
		if got, err := f.ReadAt(b[:n], begin); int64(got) < n {
			return err
		}
		if _, err := f.WriteAt(b[:n], begin); err != nil {
			return err
		}
		begin += n
	}
	return nil
}

// removeLeftovers deletes what ended with the last process, and all but the newest copies of torn tails.
func (l *Log) removeLeftovers(names []string) error {
	var broken []string
	for _, c := range l.cuts {
		broken = append(broken, filepath.Base(c.Copy))
	}
	for _, n := range names {
		_, kind, ok := parseFileName(n)
		switch {
		case ok && kind == Spill, strings.HasSuffix(n, tmpSuffix):
			if err := l.fs.Remove(l.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		case strings.HasSuffix(n, brokenSuffix):
			broken = append(broken, n)
		}
	}
	slices.Sort(broken)
	broken = slices.Compact(broken)
	for _, n := range broken[:max(0, len(broken)-brokenKeep)] {
		if err := l.fs.Remove(l.path(n)); err != nil {
			return err
		}
	}
	return nil
}

// Recovered yields the durable frames that Open found and that were not freed since, in the order of their appends.
// Unacknowledged frames of the last moments may be among them; acknowledged ones are never missing. After an error the
// iteration ends. The caller may Free frames on the way, and may run it again.
func (l *Log) Recovered() iter.Seq2[RecoveredFrame, error] {
	return func(yield func(RecoveredFrame, error) bool) {
		for _, f := range l.recoveredFiles() {
			s := scanner{f: f.f, name: f.name, size: f.end, seed: f.seed, position: headerBytes, chain: f.chain}
			for s.position < f.end {
				r, ok, err := l.recoverNext(f, &s)
				if err != nil {
					yield(RecoveredFrame{}, err)
					return
				}
				if ok && !yield(r, nil) {
					return
				}
			}
		}
	}
}

// recoveredFiles is a snapshot of the files that Open found, in order.
func (l *Log) recoveredFiles() []*file {
	l.mu.Lock()
	defer l.mu.Unlock()
	files := slices.DeleteFunc(slices.Collect(maps.Values(l.files)), func(f *file) bool { return !f.recovered })
	slices.SortFunc(files, func(a, b *file) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	return files
}

// recoverNext returns the next frame of f, or ok false if there is none in use at this place. It uses f only for its
// own time, so that f can go, and the log be closed, while the caller works on a frame.
func (l *Log) recoverNext(f *file, s *scanner) (r RecoveredFrame, ok bool, err error) {
	l.mu.Lock()
	switch {
	case l.closed:
		err = ErrClosed
	case f.gone:
		s.position = f.end
	default:
		ok = true
		l.useLocked(f)
	}
	l.mu.Unlock()
	if !ok {
		return r, false, err
	}
	defer l.release(f)
	position := s.position
	h, ok, err := s.next(true)
	if err != nil {
		return r, false, err
	}
	if !ok {
		return r, false, &CorruptError{File: f.name, Position: position, Reason: "frame was valid when the log was opened"}
	}
	r = RecoveredFrame{
		Ref: Ref{File: f.number, Position: position, Size: h.size()},
		Tag: s.payload[:h.tagSize:h.tagSize], Payload: s.payload[h.tagSize:],
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return r, f.used.has(position), nil
}
