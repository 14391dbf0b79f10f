package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// HeaderInfo is the header of a file.
type HeaderInfo struct {
	Kind       Kind
	ID         [16]byte // of the log
	Number     uint64
	Salt       uint64
	PrevNumber uint64 // of the durable file before; 0: none
	PrevSynced int64  // position below which that one was synced when this one was made
	CRC        uint32
}

// FrameInfo is one valid frame.
type FrameInfo struct {
	Position     int64
	Size         int64 // in the file, with header and padding
	Kind         Kind
	Mark         bool   // carries a promise and nothing else
	Tag          []byte // valid until the callback returns
	PayloadBytes int64
	Promise      int64 // everything in the file below this was synced before this frame was written
	HeaderCRC    uint32
	Chain        uint32 // header CRC of the frame before
	BodyCRC      uint32
}

// FileInfo is what Inspect found in one file.
type FileInfo struct {
	Name         string
	Size         int64
	Header       *HeaderInfo // nil where it cannot be read
	Frames       int
	Marks        int
	PayloadBytes int64
	// End is the position after the last valid frame. Promise is up to where the file was synced, by its own frames and by
	// the header of the next file. Invariant of a sound durable file: Promise <= End.
	End, Promise int64
	// TornEnd is the end of the last byte behind End that is not zero, End where there is none. Of a durable file that is a
	// torn tail, which recovery copies aside and cuts off, or a write under way.
	TornEnd int64
	// Err is the damage, a *CorruptError, or why the file is not one of this log: ErrVersion, ErrVolume.
	Err error
}

// DirInfo is what InspectDir found.
type DirInfo struct {
	ID        [16]byte // as VOLUME says; zero where that is missing or damaged
	VolumeErr error    // of the file VOLUME
	Files     []FileInfo
	Temporary []string // deleted at the next start
	Broken    []string // copies of torn tails
	Unknown   []string // left alone
	Vanished  []string // removed by the log's owner meanwhile
	// Err is what Open would refuse the directory with, nil where it would take it.
	Err error
}

// inspectReads is how often a file is read before damage in it is believed: a log at work writes while we read, and a frame
// that was half there in one look may be promised by the next.
const inspectReads = 3

// InspectFile reads one file and calls each, which may be nil, for every valid frame. It believes nothing in the file and
// holds 256 KiB of it. What is wrong with the file is in FileInfo.Err; an error is the reader's, ctx's or each's.
func InspectFile(ctx context.Context, name string, r io.ReaderAt, size int64, each func(FrameInfo) error) (FileInfo, error) {
	info, err := inspectHeader(name, r, size)
	if err != nil || info.Header == nil {
		return info, err
	}
	if number, kind, ok := parseFileName(path.Base(name)); ok && (number != info.Header.Number || kind != info.Header.Kind) {
		info.Err = &CorruptError{File: name, Position: 32, Reason: fmt.Sprintf("header is of %s file %x", info.Header.Kind, info.Header.Number)}
	}
	return info, inspectFrames(ctx, &info, r, headerBytes, each)
}

func inspectHeader(name string, r io.ReaderAt, size int64) (FileInfo, error) {
	info := FileInfo{Name: name, Size: size}
	b := make([]byte, min(headerBytes, max(size, 0)))
	if n, err := r.ReadAt(b, 0); n < len(b) {
		return info, fmt.Errorf("read %s: %w", name, err)
	}
	info.takeHeader(b)
	return info, nil
}

// takeHeader parses the header b; what is wrong with it goes into Err.
func (info *FileInfo) takeHeader(b []byte) {
	h, err := parseFileHeader(info.Name, b)
	if err != nil {
		info.Err = err
		return
	}
	info.Header = &HeaderInfo{Kind: h.kind, ID: h.id, Number: h.number, Salt: h.salt, PrevNumber: h.prevNumber, PrevSynced: h.prevSynced}
	_, info.Header.CRC = keys(b)
	info.End, info.Promise, info.TornEnd = headerBytes, headerBytes, headerBytes
}

// inspectFrames reads the frames behind the header. promised is what the header of the next file says of this one.
func inspectFrames(ctx context.Context, info *FileInfo, r io.ReaderAt, promised int64, each func(FrameInfo) error) error {
	told := int64(headerBytes) // frames below were given to each
	for reads := 1; ; reads++ {
		frames := *info
		frames.Frames, frames.Marks, frames.PayloadBytes = 0, 0, 0
		damage, err := frames.scan(ctx, r, promised, func(f FrameInfo) error {
			if f.Position < told || each == nil {
				return nil
			}
			told = f.Position + f.Size
			return each(f)
		})
		if err != nil {
			return err
		}
		if damage == nil || reads == inspectReads {
			if frames.Err == nil {
				frames.Err = damage
			}
			*info = frames
			return nil
		}
	}
}

// scan fills in all but the header. damage is a *CorruptError or nil.
func (info *FileInfo) scan(ctx context.Context, r io.ReaderAt, promised int64, each func(FrameInfo) error) (damage, err error) {
	h := fileHeader{kind: info.Header.Kind, id: info.Header.ID, number: info.Header.Number, salt: info.Header.Salt,
		prevNumber: info.Header.PrevNumber, prevSynced: info.Header.PrevSynced}
	seed, chain := keys(h.appendTo(make([]byte, 0, headerBytes)))
	s := scanner{f: r, name: info.Name, size: info.Size, seed: seed, position: headerBytes, chain: chain, promised: max(promised, headerBytes)}
	if h.kind == Spill {
		s.spill, s.chain = true, 0
	}
	defer func() { info.End, info.Promise, info.TornEnd = s.position, s.promised, max(info.TornEnd, s.position) }()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		position := s.position
		f, ok, err := s.next(true)
		if err != nil {
			return split(err)
		}
		if !ok {
			break
		}
		if f.kind == kindMark {
			info.Marks++
		} else {
			info.Frames++
			info.PayloadBytes += int64(f.payloadSize)
		}
		err = each(FrameInfo{
			Position: position, Size: f.size(), Kind: f.kind, Mark: f.kind == kindMark, Tag: s.payload[:f.tagSize:f.tagSize],
			PayloadBytes: int64(f.payloadSize), Promise: f.promise, HeaderCRC: f.crc, Chain: f.chain, BodyCRC: f.bodyCRC,
		})
		if err != nil {
			return nil, err
		}
	}
	if s.spill { // its frames are written side by side and end with the process: what follows is nobody's business
		return nil, nil
	}
	if s.position < s.promised {
		return &CorruptError{File: s.name, Position: s.position, Reason: fmt.Sprintf("damaged frame, though all below %d was synced", s.promised)}, nil
	}
	if info.TornEnd, err = s.tail(ctx); err != nil {
		return split(err)
	}
	return nil, nil
}

// split tells damage from other errors.
func split(err error) (damage, other error) {
	if errors.Is(err, ErrCorrupt) {
		return err, nil
	}
	return nil, err
}

// InspectDir reads a WAL directory, the root of fsys, without locking or changing anything, also beside the log that is at
// work in it. each, which may be nil, gets every valid frame with the name of its file. The files of fsys must be
// io.ReaderAt, as those of os.DirFS are.
func InspectDir(ctx context.Context, fsys fs.FS, each func(file string, f FrameInfo) error) (*DirInfo, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	d := &DirInfo{}
	var files []string
	volume := false
	for _, e := range entries {
		name := e.Name()
		_, _, ours := parseFileName(name)
		switch {
		case ours:
			files = append(files, name)
		case name == volumeName:
			volume = true
		case name == lockName:
		case strings.HasSuffix(name, tmpSuffix):
			d.Temporary = append(d.Temporary, name)
		case strings.HasSuffix(name, brokenSuffix):
			d.Broken = append(d.Broken, name)
		default:
			d.Unknown = append(d.Unknown, name)
		}
	}
	if err := d.volume(fsys, volume, files); err != nil {
		return nil, err
	}
	// As Open does, which says who is to blame: first VOLUME, then all headers, then frames. All headers first, too, because each
	// says how far the file before it was synced.
	d.Err = d.VolumeErr
	promised := map[uint64]int64{}
	for _, name := range files {
		info, err := d.header(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			d.Vanished = append(d.Vanished, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		if h := info.Header; h != nil && h.Kind == Durable && info.Err == nil {
			promised[h.PrevNumber] = max(promised[h.PrevNumber], h.PrevSynced)
		}
		d.Files = append(d.Files, info)
		d.blame(&info)
	}
	for i := range d.Files {
		info := &d.Files[i]
		if info.Header == nil || info.Err != nil {
			continue
		}
		var tell func(FrameInfo) error
		if each != nil {
			tell = func(f FrameInfo) error { return each(info.Name, f) }
		}
		err := withFile(fsys, info.Name, func(r io.ReaderAt, size int64) error {
			info.Size = size
			return inspectFrames(ctx, info, r, promised[info.Header.Number], tell)
		})
		if errors.Is(err, fs.ErrNotExist) {
			d.Vanished = append(d.Vanished, info.Name)
			continue
		}
		if err != nil {
			return nil, err
		}
		d.blame(info)
	}
	d.Files = slices.DeleteFunc(d.Files, func(f FileInfo) bool { return slices.Contains(d.Vanished, f.Name) })
	return d, nil
}

// blame keeps the first reason for which Open would refuse the directory. Spill files it deletes unread.
func (d *DirInfo) blame(f *FileInfo) {
	if d.Err == nil && !strings.HasSuffix(f.Name, ".spill") {
		d.Err = f.Err
	}
}

// volume reads the file VOLUME.
func (d *DirInfo) volume(fsys fs.FS, there bool, files []string) error {
	if !there {
		for _, name := range files {
			if _, kind, _ := parseFileName(name); kind == Durable {
				d.VolumeErr = fmt.Errorf("%w: there is the file %s but no file %s", ErrVolume, name, volumeName)
			}
		}
		return nil
	}
	return withFile(fsys, volumeName, func(r io.ReaderAt, size int64) error {
		b := make([]byte, min(size, int64(2*volumeBytes)))
		if n, err := r.ReadAt(b, 0); n < len(b) {
			return fmt.Errorf("read %s: %w", volumeName, err)
		}
		d.ID, d.VolumeErr = parseVolume(volumeName, b)
		return nil
	})
}

func (d *DirInfo) header(fsys fs.FS, name string) (info FileInfo, err error) {
	number, kind, _ := parseFileName(name)
	err = withFile(fsys, name, func(r io.ReaderAt, size int64) error {
		info, err = inspectHeader(name, r, size)
		return err
	})
	h := info.Header
	if err != nil || h == nil {
		return info, err
	}
	switch {
	case d.ID != [16]byte{} && h.ID != d.ID:
		info.Err = fmt.Errorf("%w: %s belongs to %x, the directory to %x", ErrVolume, name, h.ID, d.ID)
	case h.Number != number || h.Kind != kind:
		info.Err = &CorruptError{File: name, Position: 32, Reason: fmt.Sprintf("header is of %s file %x", h.Kind, h.Number)}
	}
	return info, nil
}

// withFile opens a file for reading only.
func withFile(fsys fs.FS, name string, do func(r io.ReaderAt, size int64) error) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	r, ok := f.(io.ReaderAt)
	if !ok {
		return fmt.Errorf("read %s: not a file that can be read at a position", name)
	}
	return do(r, st.Size())
}
