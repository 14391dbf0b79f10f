package inspect

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/firnlog/firn/metastore"
)

// archiveBytesMax is more than any writer makes: 256 MiB of entries that do not compress.
const archiveBytesMax = 512 << 20

// Archive is an archive object as a whole.
type Archive struct {
	Type       string `json:"type"`
	Name       string `json:"name"`
	Size       int64  `json:"size"`
	LogID      string `json:"log_id"`
	Epoch      uint64 `json:"log_epoch"`
	FirstN     uint64 `json:"first_n"`
	LastN      uint64 `json:"last_n"`
	Entries    int    `json:"entries"`
	HashBefore string `json:"hash_before"`
	HashAfter  string `json:"hash_after"`
	Previous   string `json:"previous,omitempty"`
}

// ArchiveEntry is one entry of it.
type ArchiveEntry struct {
	Type        string `json:"type"`
	N           uint64 `json:"n"`
	Incarnation string `json:"incarnation"` // of its key in the log
	Seq         uint64 `json:"seq"`
	Bytes       int    `json:"bytes"`
}

// ReadArchive prints an archive object and decodes every entry in it. With n, it prints that entry alone.
func ReadArchive(in *Input, n uint64, entries bool, out *Out) error {
	b, err := in.whole(archiveBytesMax)
	if err != nil {
		return err
	}
	if is := sniff(b); is != "" && is != "archive" {
		return in.wrong("archive")
	}
	a, err := metastore.ParseArchive(in.Name, b)
	var damage *metastore.DamageError
	switch {
	case errors.As(err, &damage):
		if damage.Position == 0 {
			return in.wrong("archive")
		}
		d := &Damage{Type: "damage", Name: in.Name, Part: "archive object", Position: int64(damage.Position), Problem: damage.Reason}
		if err := out.put(d); err != nil {
			return err
		}
		return out.end("archive", in.Name)
	case err != nil:
		return fmt.Errorf("%w %s: %w; run a newer firn", ErrUnreadable, in.Name, err)
	}
	v := &Archive{Type: "archive", Name: in.Name, Size: in.Size, LogID: hex.EncodeToString(a.LogID[:]), Epoch: a.Epoch, Entries: len(a.Entries),
		FirstN: a.Entries[0].N, LastN: a.Entries[len(a.Entries)-1].N, HashBefore: hex.EncodeToString(a.Before[:]),
		HashAfter: hex.EncodeToString(a.After[:]), Previous: a.Previous}
	if n > 0 && (n < v.FirstN || n > v.LastN) {
		return fmt.Errorf("%w n=%d: %s holds n=%d to n=%d", ErrUnreadable, n, in.Name, v.FirstN, v.LastN)
	}
	if n == 0 {
		if err := out.put(v); err != nil {
			return err
		}
	}
	for _, e := range a.Entries {
		if n > 0 && e.N != n {
			continue
		}
		decode := func() error { return PutEntry(out, in.Name, e.N, "archive object "+in.Name, e.Value, nil) }
		if n == 0 && !entries { // decoded all the same, to find what no agent could apply
			item := &ArchiveEntry{Type: "archive_entry", N: e.N, Incarnation: e.Key.Incarnation.String(), Seq: e.Key.Seq, Bytes: len(e.Value)}
			if err := out.put(item); err != nil {
				return err
			}
			err = out.only(decode)
		} else {
			err = decode()
		}
		if err != nil {
			return err
		}
	}
	return out.end("archive", in.Name)
}

func (v *Archive) text() string {
	previous := v.Previous
	if previous == "" {
		previous = "none, this is the first"
	}
	return fmt.Sprintf("archive  %s: %d bytes, log %s, epoch %d, %d entries, n=%d to n=%d\nprevious %s\nhashes   %s before n=%d, %s after n=%d",
		v.Name, v.Size, v.LogID, v.Epoch, v.Entries, v.FirstN, v.LastN, previous, v.HashBefore, v.FirstN, v.HashAfter, v.LastN)
}

func (v *ArchiveEntry) text() string {
	return fmt.Sprintf("  n=%d: incarnation %s, seq %d, %d bytes", v.N, v.Incarnation, v.Seq, v.Bytes)
}
