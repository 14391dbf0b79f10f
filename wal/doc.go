// Package wal is the local write-ahead log: a bounded set of append-only files in one directory of one disk.
//
// It is called by agent/ingest and knows nothing of Kafka: a frame is an opaque payload with an opaque tag of at most
// [TagBytesMax] bytes. A frame is of one of two kinds, and each kind has files of its own:
//
//   - A [Spill] frame keeps memory bounded while the bucket is slow. It is written to the page cache, read back by its
//     [Ref], and freed. It is never synced and never replayed: [Open] deletes spill files.
//   - A [Durable] frame is on disk when [Log.Append] returns. One fsync serves every appender that waits for it.
//     [Log.Recovered] yields it after every restart until the file that holds it is gone.
//
// The kinds do not share files so that an fsync for durable frames never pays for spilled bytes, an appender of spill
// frames never waits for an fsync, and a forgotten frame of one kind does not pin the disk space of the other.
//
// # Life of a file
//
//	          Open, or the previous file is full        no room, failure, restart       every frame freed
//	(nothing) ───────────────────────────────────▶ active ─────────────────────▶ sealed ────────────────▶ removed
//
// Each kind has at most one active file. A failed write or fsync seals the file for good: it is never synced again,
// because the kernel may have marked the lost pages clean and would answer the second fsync with success. Freeing is
// accounted in memory only, so a restart replays the freed frames of a file whose other frames are still in use: what
// a caller does with a recovered frame must be harmless when done twice.
//
// File numbers rise and are never used twice for durable files of one log (the highest-numbered durable file stays
// until there is a higher one), so a Ref to a durable frame, together with [Log.ID], names that frame for ever.
//
// # Format, version 1
//
// All integers are big-endian; CRC is CRC32C (Castagnoli). docs/formats.md has the same tables and an example.
//
// A file is named by its number in 16 hex digits, then ".wal" (durable) or ".spill". The first 4096 bytes are its
// header, alone in its page so that no later write can tear it:
//
//	 0   8  magic "firnwal\x00"
//	 8   2  version, 1
//	10   1  kind: 1 spill, 2 durable
//	11   5  zero
//	16  16  id of the log, as in the file VOLUME
//	32   8  number of the file, as in its name
//	40   8  salt, random
//	48   8  number of the durable file before this one, 0 if none
//	56   8  position below which that file was synced when this one was made
//	64   4  CRC of bytes 0 to 64
//	68      zeros up to 4096
//
// Frames follow back to back, each starting at a multiple of 8:
//
//	 0   4  header CRC: of bytes 16 to 48 of the file header, the frame's position (8 bytes), and bytes 4 to 32
//	 4   4  chain: header CRC of the frame before; the file header's CRC for the first frame; 0 in a spill file
//	 8   8  promise: all of this file below this position was synced before this frame was written
//	16   4  payload size
//	20   1  kind: 1 spill, 2 durable, 3 mark
//	21   1  tag size, at most 64
//	22   2  zero
//	24   4  body CRC: of tag and payload
//	28   4  zero
//	32      tag, payload, zeros up to a multiple of 8 (which nothing reads)
//
// The header CRC covers the id, number and salt of the file and the frame's position, so no bytes of another file, of
// an older life of the same blocks, or of another place in this file pass for a frame. A mark has no tag and no payload;
// it only carries a promise, and is written when the log goes idle, before a file is left, and at Close.
//
// # What recovery accepts
//
// A file is read up to its first invalid frame. If anything promised that this place was synced (a later header in
// the file, or the next file's header) the frame was damaged after it was acknowledged: Open fails with a
// [*CorruptError] and changes nothing. Otherwise it is a torn tail: unacknowledged bytes of the last write before
// a crash. They are copied to a ".broken" file and cut off. Zeros are the unwritten rest of a preallocated file.
package wal
