package inspect

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/firnlog/firn/wal"
)

// WALDir is a directory of the write-ahead log.
type WALDir struct {
	Type      string   `json:"type"`
	Name      string   `json:"name"`
	LogID     string   `json:"log_id,omitempty"` // as the file VOLUME has it
	Files     int      `json:"files"`
	Broken    []string `json:"broken,omitempty"`    // copies of torn tails
	Temporary []string `json:"temporary,omitempty"` // deleted at the next start
	Unknown   []string `json:"unknown,omitempty"`   // left alone
	Vanished  []string `json:"vanished,omitempty"`  // removed while we looked
}

// WALFile is one file of it.
type WALFile struct {
	Type         string `json:"type"`
	Name         string `json:"name"`
	Size         int64  `json:"size"`
	Kind         string `json:"kind,omitempty"` // durable, spill
	LogID        string `json:"log_id,omitempty"`
	Number       string `json:"number,omitempty"`
	PrevNumber   string `json:"previous_number,omitempty"`
	PrevSynced   int64  `json:"previous_synced,omitempty"`
	Frames       int    `json:"frames"`
	Marks        int    `json:"marks"`
	PayloadBytes int64  `json:"payload_bytes"`
	End          int64  `json:"end"`      // position after the last valid frame
	Synced       int64  `json:"synced"`   // all below was synced, by the frames of the file and the header of the next
	TornEnd      int64  `json:"torn_end"` // end of the last byte behind End that is not zero
	Recovery     string `json:"recovery"` // what the next start does with it
}

// WALFrame is one frame.
type WALFrame struct {
	Type         string    `json:"type"`
	File         string    `json:"file"`
	Position     int64     `json:"position"`
	Size         int64     `json:"size"`
	Kind         string    `json:"kind"` // durable, spill, mark
	Tag          *byteText `json:"tag,omitempty"`
	PayloadBytes int64     `json:"payload_bytes"`
	Synced       int64     `json:"synced"`
	HeaderCRC    string    `json:"header_crc32c"`
	Chain        string    `json:"chain"`
	BodyCRC      string    `json:"body_crc32c"`
}

// WALVerdict is what the next start of the agent does.
type WALVerdict struct {
	Type    string `json:"type"`
	Starts  bool   `json:"starts"`
	Refused string `json:"refused,omitempty"`
}

// ReadWALFile prints one WAL file. The header of the next file, which tells a torn tail from damage where the file itself
// does not, is not looked at: ReadWALDir does.
func ReadWALFile(ctx context.Context, in *Input, frames bool, out *Out) error {
	info, err := wal.InspectFile(ctx, in.Name, in, in.Size, eachFrame(out, frames, in.Name))
	if err != nil {
		return err
	}
	if info.Header == nil {
		b := make([]byte, min(8, in.Size))
		if err := in.fill(b, 0); err != nil {
			return err
		}
		if sniff(b) != "wal" && in.Size > 0 {
			return in.wrong("wal file")
		}
	}
	if err := putWALFile(out, &info); err != nil {
		return err
	}
	return out.end("wal", in.Name)
}

// ReadWALDir prints a WAL directory, also beside the agent that is at work in it. It locks, changes and repairs nothing.
func ReadWALDir(ctx context.Context, name string, dir fs.FS, frames bool, out *Out) error {
	var tell func(string, wal.FrameInfo) error
	if frames {
		tell = func(file string, f wal.FrameInfo) error { return out.put(frameView(file, f)) }
	}
	d, err := wal.InspectDir(ctx, dir, tell)
	if err != nil {
		return err
	}
	v := &WALDir{Type: "wal", Name: name, Files: len(d.Files), Broken: d.Broken, Temporary: d.Temporary, Unknown: d.Unknown, Vanished: d.Vanished}
	if d.ID != [16]byte{} {
		v.LogID = hex.EncodeToString(d.ID[:])
	} else if len(d.Files) == 0 && d.VolumeErr == nil {
		return fmt.Errorf("%w %s: it is no WAL directory, there is no file VOLUME and no WAL file", ErrUnreadable, name)
	}
	if err := out.put(v); err != nil {
		return err
	}
	if err := putWALDamage(out, "VOLUME", d.VolumeErr); err != nil {
		return err
	}
	for i := range d.Files {
		if err := putWALFile(out, &d.Files[i]); err != nil {
			return err
		}
	}
	verdict := &WALVerdict{Type: "recovery", Starts: d.Err == nil}
	if d.Err != nil {
		verdict.Refused = d.Err.Error()
	}
	if err := out.put(verdict); err != nil {
		return err
	}
	return out.end("wal", name)
}

func eachFrame(out *Out, frames bool, file string) func(wal.FrameInfo) error {
	if !frames {
		return nil
	}
	return func(f wal.FrameInfo) error { return out.put(frameView(file, f)) }
}

func frameView(file string, f wal.FrameInfo) *WALFrame {
	v := &WALFrame{Type: "frame", File: file, Position: f.Position, Size: f.Size, Kind: f.Kind.String(), PayloadBytes: f.PayloadBytes,
		Synced: f.Promise, HeaderCRC: crcText(f.HeaderCRC), Chain: crcText(f.Chain), BodyCRC: crcText(f.BodyCRC)}
	if len(f.Tag) > 0 {
		v.Tag = byteTextOf(f.Tag)
	}
	return v
}

func putWALFile(out *Out, f *wal.FileInfo) error {
	v := &WALFile{Type: "file", Name: f.Name, Size: f.Size, Frames: f.Frames, Marks: f.Marks, PayloadBytes: f.PayloadBytes, End: f.End,
		Synced: f.Promise, TornEnd: f.TornEnd}
	if h := f.Header; h != nil {
		v.Kind, v.LogID, v.Number = h.Kind.String(), hex.EncodeToString(h.ID[:]), fmt.Sprintf("%016x", h.Number)
		if h.PrevNumber > 0 {
			v.PrevNumber, v.PrevSynced = fmt.Sprintf("%016x", h.PrevNumber), h.PrevSynced
		}
	}
	spill := strings.HasSuffix(f.Name, ".spill") || v.Kind == wal.Spill.String()
	switch {
	case spill:
		v.Recovery = "deleted unread: a spill file ends with its process"
	case f.Err != nil:
		v.Recovery = "the start is refused, and nothing is changed"
	case f.TornEnd > f.End:
		v.Recovery = fmt.Sprintf("a torn tail of %d bytes at position %d, which nobody was told is safe, is copied to a .broken file and cut off; "+
			"of an agent at work it is a write under way", f.TornEnd-f.End, f.End)
	default:
		v.Recovery = fmt.Sprintf("%d frames are recovered", f.Frames)
	}
	if err := out.put(v); err != nil {
		return err
	}
	if spill { // whatever is in it, nothing depends on it
		return nil
	}
	return putWALDamage(out, f.Name, f.Err)
}

// putWALDamage prints what is wrong with a file. A newer version is no damage: the summary's caller gets it as an error.
func putWALDamage(out *Out, name string, err error) error {
	var at *wal.CorruptError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &at):
		return out.put(&Damage{Type: "damage", Name: name, Part: "wal file", Position: at.Position, Problem: at.Reason})
	case errors.Is(err, wal.ErrVersion):
		return fmt.Errorf("%w: %w; run a newer firn", ErrUnreadable, err)
	}
	return out.put(&Damage{Type: "damage", Name: name, Part: "wal file", Problem: err.Error()})
}

func (v *WALDir) text() string {
	id := v.LogID
	if id == "" {
		id = "unknown"
	}
	s := fmt.Sprintf("wal      %s: log %s, %d %s", v.Name, id, v.Files, plural(v.Files, "file"))
	for _, l := range []struct {
		what  string
		names []string
	}{
		{"copies of torn tails", v.Broken}, {"temporary, deleted at the next start", v.Temporary}, {"not the log's, left alone", v.Unknown},
		{"removed while we looked", v.Vanished},
	} {
		if len(l.names) > 0 {
			s += fmt.Sprintf("\n         %s: %s", l.what, strings.Join(l.names, " "))
		}
	}
	return s
}

func (v *WALFile) text() string {
	s := fmt.Sprintf("file     %s: %d bytes", v.Name, v.Size)
	if v.Kind != "" {
		s += fmt.Sprintf(", %s, log %s, number %s", v.Kind, v.LogID, v.Number)
		if v.PrevNumber != "" {
			s += fmt.Sprintf(", file %s was synced below %d before it", v.PrevNumber, v.PrevSynced)
		}
		s += fmt.Sprintf("\n         %d %s with %d payload bytes, %d %s, the last ends at %d, synced below %d", v.Frames, plural(v.Frames, "frame"), v.PayloadBytes,
			v.Marks, plural(v.Marks, "mark"), v.End, v.Synced)
	}
	return s + "\n         recovery: " + v.Recovery
}

func (v *WALFrame) text() string {
	s := fmt.Sprintf("  %s %s at %d: %d bytes, payload %d, CRC32C %s of header and %s of body, after %s", v.File, v.Kind, v.Position, v.Size, v.PayloadBytes,
		v.HeaderCRC, v.BodyCRC, v.Chain)
	if v.Tag != nil {
		s += ", tag " + v.Tag.String()
	}
	return s + fmt.Sprintf(", synced below %d", v.Synced)
}

func (v *WALVerdict) text() string {
	if v.Starts {
		return "recovery the log opens"
	}
	return "recovery the log is refused: " + v.Refused
}
