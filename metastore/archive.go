package metastore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/objstore"
)

// Archive objects are sealed ranges of the log in the bucket; docs/formats.md has the bytes. Each names the one before it,
// so the chain is walked back from the archive cell without trusting a listing.
const (
	archiveMagic   = "firn-arc"
	archiveVersion = 1
	// archiveCell holds the head of the chain.
	archiveCell = "archive"
	// archiveRawMax bounds what a reader decompresses.
	archiveRawMax = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt: an archive or snapshot object is damaged; the error names it.
var ErrCorrupt = errors.New("corrupt metastore object")

// archiveRange is one sealed range: entries first..last with the chain hashes before and after.
type archiveRange struct {
	identity log.Identity
	previous string // key of the range before; "" for the first
	before   [32]byte
	after    [32]byte
	entries  []log.Entry
}

func (a *archiveRange) first() uint64 { return a.entries[0].N }
func (a *archiveRange) last() uint64  { return a.entries[len(a.entries)-1].N }

// archiveKey is unique per writer, so that two archivers never overwrite each other; the cell decides whose counts.
func archiveKey(epoch, first, last uint64, writer log.Incarnation) string {
	return fmt.Sprintf("metastore/archive/%016x/%016x-%016x-%s", epoch, first, last, writer)
}

// encode renders the range: a fixed header, the previous key, and the compressed entries, all under one checksum.
func (a *archiveRange) encode() []byte {
	size := 0
	for i := range a.entries {
		size += entryHeaderMax + len(a.entries[i].Value)
	}
	raw := make([]byte, 0, size)
	for _, e := range a.entries {
		raw = append(raw, e.Key.Incarnation[:]...)
		raw = binary.AppendUvarint(raw, e.Key.Seq)
		raw = binary.AppendUvarint(raw, uint64(len(e.Value)))
		raw = append(raw, e.Value...)
	}
	b := append([]byte(nil), archiveMagic...)
	b = binary.BigEndian.AppendUint16(b, archiveVersion)
	b = append(b, a.identity.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, a.identity.Epoch)
	b = binary.BigEndian.AppendUint64(b, a.first())
	b = binary.BigEndian.AppendUint64(b, uint64(len(a.entries)))
	b = append(b, a.before[:]...)
	b = append(b, a.after[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(a.previous)))
	b = append(b, a.previous...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(raw)))
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(archiveWindow(len(raw))), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(fmt.Sprintf("zstd encoder with a window for %d bytes: %v", len(raw), err))
	}
	b = w.EncodeAll(raw, b)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// archiveWindow is the window that size bytes are compressed with: the encoder takes memory for all of it, twice unless it is told to
// take less, and there is a new one every few seconds.
func archiveWindow(size int) int {
	return min(max(1<<bits.Len(uint(size)), zstd.MinWindowSize), 4<<20)
}

// same reports whether two ranges say the same.
func (a *archiveRange) same(b *archiveRange) bool {
	return a.identity.ID == b.identity.ID && a.identity.Epoch == b.identity.Epoch && a.previous == b.previous && a.before == b.before && a.after == b.after &&
		slices.EqualFunc(a.entries, b.entries, func(x, y log.Entry) bool { return x.N == y.N && x.Key == y.Key && bytes.Equal(x.Value, y.Value) })
}

// archiveHeaderSize is the fixed part: magic, version, log id, epoch, first n, count, two hashes, length of previous key.
const archiveHeaderSize = 8 + 2 + 16 + 8 + 8 + 8 + 32 + 32 + 2

// parseArchive is the inverse of encode. key is for the error.
func parseArchive(key string, b []byte) (*archiveRange, error) {
	bad := func(position int, what string, args ...any) error {
		return &DamageError{Object: key, Position: position, Reason: fmt.Sprintf(what, args...)}
	}
	if len(b) < len(archiveMagic)+2 || string(b[:8]) != archiveMagic {
		return nil, bad(0, "no magic of an archive object")
	}
	if v := binary.BigEndian.Uint16(b[8:]); v == 0 {
		return nil, bad(8, "version 0")
	} else if v > archiveVersion {
		return nil, fmt.Errorf("%w: archive object %s has version %d, this firn knows up to %d", ErrNewer, key, v, archiveVersion)
	}
	if len(b) < archiveHeaderSize+8+4 {
		return nil, bad(len(b), "it ends within its header")
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, bad(len(body), "CRC32C of all before is %08x, stored %08x", got, sum)
	}
	return parseArchiveBody(body, bad)
}

// parseArchiveBody parses what the checksum covers.
func parseArchiveBody(body []byte, bad func(position int, what string, args ...any) error) (*archiveRange, error) {
	a := &archiveRange{}
	copy(a.identity.ID[:], body[10:])
	a.identity.Epoch = binary.BigEndian.Uint64(body[26:])
	first := binary.BigEndian.Uint64(body[34:])
	count := binary.BigEndian.Uint64(body[42:])
	copy(a.before[:], body[50:])
	copy(a.after[:], body[82:])
	prev := int(binary.BigEndian.Uint16(body[114:]))
	rest := body[archiveHeaderSize:]
	if len(rest) < prev+8 {
		return nil, bad(archiveHeaderSize-2, "the previous key of %d bytes runs past the end", prev)
	}
	a.previous = string(rest[:prev])
	rawSize := binary.BigEndian.Uint64(rest[prev:])
	frameAt := archiveHeaderSize + prev + 8
	if rawSize > archiveRawMax || count == 0 || count > rawSize/entryHeaderMin {
		return nil, bad(frameAt-8, "%d entries in %d bytes", count, rawSize)
	}
	// Frames of 256 bytes and more declare their content's size, so the memory asked for next is what header and frame agree on.
	var frame zstd.Header
	if err := frame.Decode(body[frameAt:]); err != nil || frame.HasFCS && frame.FrameContentSize != rawSize || !frame.HasFCS && rawSize >= 256 {
		return nil, bad(frameAt, "the entries are no zstd frame of %d bytes", rawSize)
	}
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(archiveRawMax), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := r.DecodeAll(body[frameAt:], make([]byte, 0, rawSize))
	if err != nil || uint64(len(raw)) != rawSize {
		return nil, bad(frameAt, "the entries do not decompress")
	}
	a.entries = make([]log.Entry, 0, count)
	for n := first; n-first < count; n++ {
		e := log.Entry{N: n}
		if len(raw) < 16 {
			return nil, bad(frameAt, "the entries end within n=%d", n)
		}
		raw = raw[copy(e.Key.Incarnation[:], raw):]
		seq, k := binary.Uvarint(raw)
		if k <= 0 {
			return nil, bad(frameAt, "the entries end within n=%d", n)
		}
		e.Key.Seq, raw = seq, raw[k:]
		size, k := binary.Uvarint(raw)
		if k <= 0 || size > uint64(len(raw)-k) {
			return nil, bad(frameAt, "the entries end within n=%d", n)
		}
		e.Value, raw = raw[k:k+int(size):k+int(size)], raw[k+int(size):]
		a.entries = append(a.entries, e)
	}
	if len(raw) != 0 {
		return nil, bad(frameAt, "%d bytes after the last entry", len(raw))
	}
	return a, nil
}

// entryHeaderMin is the least that an entry takes: incarnation, seq, size. entryHeaderMax is the most but for its value.
const (
	entryHeaderMin = 16 + 1 + 1
	entryHeaderMax = 16 + 10 + 10
)

// DamageError says where an archive object stops being one. It matches ErrCorrupt.
type DamageError struct {
	Object   string // its key, or what it was read from
	Position int    // bytes from the start; within the compressed entries, where these start
	Reason   string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%v: archive object %s at position %d: %s", ErrCorrupt, e.Object, e.Position, e.Reason)
}

// Is reports whether target is ErrCorrupt.
func (e *DamageError) Is(target error) bool { return target == ErrCorrupt }

// readRange fetches and checks one archive object.
func readRange(ctx context.Context, bucket objstore.Bucket, identity log.Identity, key string) (*archiveRange, error) {
	body, err := bucket.Get(ctx, key)
	if err != nil {
		return nil, mend(fmt.Errorf("read archive: %w", err), "archive", key)
	}
	a, err := parseArchive(key, body)
	if err != nil {
		return nil, mend(err, "archive", key)
	}
	if a.identity.ID != identity.ID {
		return nil, fmt.Errorf("%w: archive object %s is of log %x", ErrForeign, key, a.identity.ID)
	}
	return a, nil
}

// ArchivedThrough is the n up to which the bucket alone gives the log: what a restore brings back at least. It is 0 where nothing of this
// log was archived yet; the log's founding by a restore counts as nothing.
//
// An object may be deleted only once the entry that retired it is at or below it, or a restore would name it again. Of an object that
// the state does not remember as retired (state.RetiredEpochs), and which may so be an orphan or not, this holds: whoever saw at some n
// that no row names it and that its collection epoch is two behind may delete it once that n is archived.
func (c *Client) ArchivedThrough(ctx context.Context) (uint64, error) {
	cell, err := c.log.Load(ctx, archiveCell)
	if err != nil {
		return 0, fmt.Errorf("read the archive's head: %w", err)
	}
	if len(cell.Value) == 0 {
		return 0, nil
	}
	head, ok := parseHistoryKey(string(cell.Value))
	if !ok {
		return 0, fmt.Errorf("%w: the archive's head is %q, no key of an archive object", ErrCorrupt, cell.Value)
	}
	return head.last, nil
}

// above returns the entries above n.
func (a *archiveRange) above(n uint64) []log.Entry {
	if n < a.first() {
		return a.entries
	}
	return a.entries[min(n-a.first()+1, uint64(len(a.entries))):]
}

// archiveKeys returns the keys of the ranges that hold entries after n, oldest first; none where the archive ends at or below
// n. Only keys: what lies behind them may be far larger than memory.
func archiveKeys(ctx context.Context, l log.Log, bucket objstore.Bucket, identity log.Identity, n uint64) ([]string, error) {
	cell, err := l.Load(ctx, archiveCell)
	if err != nil {
		return nil, fmt.Errorf("read the archive's head: %w", err)
	}
	var keys []string
	for key := string(cell.Value); key != ""; {
		a, err := readRange(ctx, bucket, identity, key)
		if err != nil {
			return nil, err
		}
		if a.last() <= n {
			break
		}
		keys = append(keys, key)
		if a.first() <= n+1 {
			break
		}
		if a.previous == "" {
			return nil, fmt.Errorf("%w: the archive begins at n=%d, n=%d is needed", ErrCorrupt, a.first(), n+1)
		}
		key = a.previous
	}
	slices.Reverse(keys)
	return keys, nil
}
