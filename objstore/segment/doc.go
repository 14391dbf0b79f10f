// Package segment writes and reads segment objects: immutable files in the bucket that hold record batches of many
// partitions.
//
// Callers are agent/ingest (Builder, level 0), compaction (Writer, merged objects), agent/fetch and compaction (Footer,
// ReadChunk), and `firn metastore restore`, which needs nothing but the footers. The package works on bytes and io.ReaderAt; it knows
// nothing of buckets or of what is inside a batch.
//
// # Nouns
//
// A segment has one block for each partition in it, sorted by topic id and partition. A block is the partition's batches
// in the order they were added. It is cut into chunks, each closed at the first batch boundary past Options.ChunkBytes
// (1 MiB) of raw bytes, and each compressed, checksummed and readable on its own. Positions within a block are raw
// positions: those of its batches one after the other before compression. Offsets within a block are deltas from the
// block's first offset, which an object of level 0 does not know: the metastore gives it when the object is there already.
//
// A merged object is written after its batches have their offsets, so it tells the base offset of each block, and its
// batches carry theirs in their headers. Offsets may be missing between its batches: what key compaction took, what was
// given up. A chunk's span reaches to the first batch of the next chunk, the last one's to the end of what its last batch
// covers, so that every offset of a block has one chunk.
//
// # Format, versions 1.0 and 1.1
//
// Objects of level 0 are 1.0, merged ones 1.1: they differ by tag 4.
//
// All integers are big endian, CRCs are CRC32C. Sizes and positions are in bytes.
//
//	header, 16 bytes
//	   0   8 magic "FIRNSEG\n"
//	   8   2 major version
//	  10   2 minor version
//	  12   4 zero
//	chunks, back to back, in the order of the table
//	footer: fields, each
//	   0   2 tag
//	   2   4 size of the value
//	   6   - value
//	trailer, 32 bytes, the end of the object
//	   0   8 position of the footer: 16 + the chunks' stored sizes
//	   8   4 size of the footer
//	  12   4 CRC of the footer
//	  16   2 major version
//	  18   2 minor version
//	  20   4 CRC of the trailer's first 20 bytes
//	  24   8 magic "FIRNSEG\n"
//
//	tag 1, object id: opaque, at most 64 bytes
//	tag 2, intended ops: opaque; what the writer meant to commit
//	tag 3, table: block count (4), then for each block
//	   0  16 topic id
//	  16   4 partition, from 0
//	  20   4 chunk count, at least 1
//	  24   - chunks, 36 bytes each
//	         0   4 stored size, at least 1
//	         4   4 raw size, at least 1
//	         8   8 span: offsets taken, at least 1
//	        16   4 batches, at least 1
//	        20   8 max timestamp, ms
//	        28   1 codec: 0 stored as is, 1 one zstd frame that declares its content size
//	        29   3 zero
//	        32   4 CRC of the stored bytes
//
//	tag 4, base offsets (1.1): 8 for each block of the table, in its order; the base offset of its first batch
//
// Positions, raw positions and offset deltas are not in the table: they are running sums, so that they cannot
// contradict the sizes. Tags 1 to 3 appear once each, in ascending order, before any other; tag 4 at most once.
//
// # Versions
//
// A reader refuses a major version above its own with ErrVersion. It skips tags that it does not know, which is how a
// minor version adds to the footer. The last 16 bytes of the trailer and the first 12 of the header keep their place in
// every version.
//
// # What guards what
//
// The trailer's CRC guards the trailer and the footer's guards the table, which holds the chunks' CRCs. The header is
// there for people and for salvage of an object whose end is lost; nothing reads it to find anything else, and Open,
// which has the whole object, checks it.
package segment
