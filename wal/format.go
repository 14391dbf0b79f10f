package wal

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// Kind says what an appended frame is for. Its values are on disk.
type Kind uint8

const (
	// Spill frames are unsynced and end with the process.
	Spill Kind = 1
	// Durable frames are fsynced before Append returns, and replayed after a restart.
	Durable Kind = 2

	kindMark Kind = 3 // carries a promise and nothing else
)

func (k Kind) String() string {
	switch k {
	case Spill:
		return "spill"
	case Durable:
		return "durable"
	case kindMark:
		return "mark"
	}
	return "kind " + strconv.Itoa(int(k))
}

const (
	version      = 1
	headerBytes  = 4096 // file header, padded
	headerUsed   = 68
	frameHeader  = 32
	frameAlign   = 8
	markBytes    = frameHeader
	magic        = "firnwal\x00"
	volumeMagic  = "firn wal volume"
	volumeName   = "VOLUME"
	lockName     = "LOCK"
	spareName    = "spare.tmp"
	tmpSuffix    = ".tmp"
	brokenSuffix = ".broken"

	// fileOverhead is what a file needs beside the tag and payload of its only frame: header, frame header, padding and
	// the two marks of an idle log and of a sealed file.
	fileOverhead = headerBytes + frameHeader + frameAlign + 2*markBytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crcOf(b []byte) uint32 { return crc32.Update(0, castagnoli, b) }

// fileHeader is the decoded header of a file.
type fileHeader struct {
	kind       Kind
	id         [16]byte
	number     uint64
	salt       uint64
	prevNumber uint64
	prevSynced int64
}

// appendTo appends the padded header, headerBytes long, to b.
func (h fileHeader) appendTo(b []byte) []byte {
	start := len(b)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = append(b, byte(h.kind), 0, 0, 0, 0, 0)
	b = append(b, h.id[:]...)
	b = binary.BigEndian.AppendUint64(b, h.number)
	b = binary.BigEndian.AppendUint64(b, h.salt)
	b = binary.BigEndian.AppendUint64(b, h.prevNumber)
	b = binary.BigEndian.AppendUint64(b, uint64(h.prevSynced)) //nolint:gosec // positions are not negative
	b = binary.BigEndian.AppendUint32(b, crcOf(b[start:]))
	return append(b, make([]byte, headerBytes-headerUsed)...)
}

// keys returns what ties frames to the file of the encoded header b: the seed of every header CRC and the chain value
// of the first frame.
func keys(b []byte) (seed, chain uint32) {
	return crcOf(b[16:48]), binary.BigEndian.Uint32(b[64:])
}

// parseFileHeader decodes b, the first headerBytes bytes of the file called name.
func parseFileHeader(name string, b []byte) (fileHeader, error) {
	corrupt := func(position int64, reason string) (fileHeader, error) {
		return fileHeader{}, &CorruptError{File: name, Position: position, Reason: reason}
	}
	if len(b) < headerBytes {
		return corrupt(int64(len(b)), "file ends within its header")
	}
	if string(b[:8]) != magic {
		return corrupt(0, "wrong magic")
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != version {
		return fileHeader{}, fmt.Errorf("%w: %s has version %d, this program reads %d", ErrVersion, name, v, version)
	}
	if crcOf(b[:64]) != binary.BigEndian.Uint32(b[64:]) {
		return corrupt(64, "file header checksum differs")
	}
	h := fileHeader{
		kind:       Kind(b[10]),
		id:         [16]byte(b[16:32]),
		number:     binary.BigEndian.Uint64(b[32:]),
		salt:       binary.BigEndian.Uint64(b[40:]),
		prevNumber: binary.BigEndian.Uint64(b[48:]),
		prevSynced: int64(binary.BigEndian.Uint64(b[56:])), //nolint:gosec // checked below
	}
	switch {
	case h.kind != Spill && h.kind != Durable:
		return corrupt(10, "unknown file kind")
	case !allZero(b[11:16]) || !allZero(b[headerUsed:]):
		return corrupt(headerUsed, "reserved bytes of the file header are not zero")
	case h.prevSynced < 0:
		return corrupt(56, "negative position")
	}
	return h, nil
}

// frame is the decoded header of a frame.
type frame struct {
	crc, chain  uint32
	promise     int64
	payloadSize uint32
	kind        Kind
	tagSize     uint8
	bodyCRC     uint32
}

// size is the frame's size in the file, in bytes: header, tag, payload, padding.
func (f frame) size() int64 { return frameSize(int(f.tagSize), int64(f.payloadSize)) }

func frameSize(tag int, payload int64) int64 {
	return (frameHeader + int64(tag) + payload + frameAlign - 1) &^ (frameAlign - 1)
}

// put encodes f into b, frameHeader bytes long, for the given place, and returns its header CRC.
func (f frame) put(b []byte, seed uint32, position int64) uint32 {
	binary.BigEndian.PutUint32(b[4:], f.chain)
	binary.BigEndian.PutUint64(b[8:], uint64(f.promise)) //nolint:gosec // positions are not negative
	binary.BigEndian.PutUint32(b[16:], f.payloadSize)
	b[20], b[21], b[22], b[23] = byte(f.kind), f.tagSize, 0, 0
	binary.BigEndian.PutUint32(b[24:], f.bodyCRC)
	binary.BigEndian.PutUint32(b[28:], 0)
	crc := headerCRC(b, seed, position)
	binary.BigEndian.PutUint32(b, crc)
	return crc
}

// headerCRC continues seed over position, then over the header. Feeding the position's bytes by hand keeps them off the
// heap: crc32.Update lets its argument escape.
func headerCRC(b []byte, seed uint32, position int64) uint32 {
	crc := ^seed
	for shift := 56; shift >= 0; shift -= 8 {
		crc = castagnoli[byte(crc)^byte(position>>shift)] ^ crc>>8
	}
	return crc32.Update(^crc, castagnoli, b[4:frameHeader])
}

// decodeFrame decodes b without judging it.
func decodeFrame(b []byte) frame {
	return frame{
		crc:         binary.BigEndian.Uint32(b),
		chain:       binary.BigEndian.Uint32(b[4:]),
		promise:     int64(binary.BigEndian.Uint64(b[8:])), //nolint:gosec // checked by plausible
		payloadSize: binary.BigEndian.Uint32(b[16:]),
		kind:        Kind(b[20]),
		tagSize:     b[21],
		bodyCRC:     binary.BigEndian.Uint32(b[24:]),
	}
}

// plausible reports whether the fields of a header at position could be ours, reserved bytes included. It is cheap, and
// asked before the CRC when a damaged file is searched for later promises.
func (f frame) plausible(b []byte, position int64) bool {
	return f.kind >= Spill && f.kind <= kindMark && f.tagSize <= TagBytesMax &&
		b[22]|b[23]|b[28]|b[29]|b[30]|b[31] == 0 &&
		f.promise >= 0 && f.promise <= position &&
		(f.kind != kindMark || f.tagSize == 0 && f.payloadSize == 0)
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.BigEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// fileName is the base name of a file.
func fileName(number uint64, kind Kind) string {
	if kind == Spill {
		return fmt.Sprintf("%016x.spill", number)
	}
	return fmt.Sprintf("%016x.wal", number)
}

// parseFileName is the inverse of fileName; ok is false for any other name.
func parseFileName(name string) (number uint64, kind Kind, ok bool) {
	digits, ext, _ := strings.Cut(name, ".")
	switch ext {
	case "wal":
		kind = Durable
	case "spill":
		kind = Spill
	default:
		return 0, 0, false
	}
	number, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || fileName(number, kind) != name {
		return 0, 0, false
	}
	return number, kind, true
}

// appendVolume appends the content of the file VOLUME: three lines of text, the last the CRC of the others.
func appendVolume(b []byte, id [16]byte) []byte {
	b = fmt.Appendf(b, "%s %d\n%x\n", volumeMagic, version, id)
	return fmt.Appendf(b, "%08x\n", crcOf(b))
}

// volumeBytes is the size of the file VOLUME in version 1.
const volumeBytes = len(volumeMagic) + len(" 1\n") + 33 + 9

// parseVolume decodes the content b of the file called name.
func parseVolume(name string, b []byte) (id [16]byte, err error) {
	first, rest, _ := strings.Cut(string(b), "\n")
	v, ok := strings.CutPrefix(first, volumeMagic+" ")
	if !ok {
		return id, &CorruptError{File: name, Reason: "wrong magic"}
	}
	if v != strconv.Itoa(version) {
		return id, fmt.Errorf("%w: %s has version %s, this program reads %d", ErrVersion, name, v, version)
	}
	digits, _, _ := strings.Cut(rest, "\n")
	if n, err := hex.Decode(id[:], []byte(digits[:min(len(digits), 32)])); err != nil || n != len(id) ||
		string(appendVolume(nil, id)) != string(b) {
		return id, &CorruptError{File: name, Position: int64(len(first) + 1), Reason: "identity or its checksum differs"}
	}
	return id, nil
}

// slots is a set of frame positions of one file, a bit for each frameHeader bytes: no two frames start in one slot.
type slots []uint64

func newSlots(fileBytes int64) slots { return make(slots, fileBytes/(frameHeader*64)+1) }

func (s slots) add(position int64) {
	s[position/(frameHeader*64)] |= 1 << (position / frameHeader % 64)
}

func (s slots) has(position int64) bool {
	i := position / (frameHeader * 64)
	return position >= 0 && i < int64(len(s)) && s[i]&(1<<(position/frameHeader%64)) != 0
}

func (s slots) remove(position int64) {
	s[position/(frameHeader*64)] &^= 1 << (position / frameHeader % 64)
}
