// Package fetch serves records: it finds them in the index, gets their bytes from memory or the bucket, and fills in what
// a stored batch leaves open.
//
// agent/kafka calls a Reader for Fetch and ListOffsets; agent/ingest hands what it uploads to the Cache. Waiting for
// records that do not exist yet (the long poll) is the caller's.
//
// # From an offset to bytes
//
//	offset → rows of the partition (metastore/state, copied under the read lock)
//	       → the object's table of blocks and chunks
//	       → the chunk with the offset, by the chunks' offset deltas
//	       → the batch with the offset, by the batches' headers
//
// A row says that offsets [Base, End) are some raw bytes of a block, without gaps inside: where batches were refused the
// state machine splits the row. The first batch in the row's bytes has offset Base, and each batch starts where the one
// before ends. A chunk's BaseDelta counts from the block's first batch, dead ones included, so it gives offsets relative
// to another chunk of the same row only; a row that starts inside a chunk counts from there.
//
// Each byte that is served is copied once, from the cache into the caller's buffer, and base offset, leader epoch and, for
// rows that say so, the log append time are filled in there. Cached bytes never change.
//
// # The cache
//
// An object of at most Config.WholeBytes (every level-0 segment) is read whole, with one GET, whatever was asked for:
// its other partitions have readers too. Of a larger object the footer is read once, and then runs of neighbouring chunks
// of about Config.RunBytes, cut by position so that all readers share them. Compressed chunks are kept decompressed
// as well. Equal reads that come together are one GET, which outlives a reader that ran out of time: it will ask again.
//
// Tail readers are served from what ingest just uploaded (hot) without a GET. What is read from the bucket is cold, and a
// replay of old data, however large, evicts only cold items. A sequential reader's next object or run is read ahead.
//
// # What is checked, and what a failure means
//
// The footer's checksum and each chunk's are checked when bytes come from the bucket. What is damaged is read once more;
// damaged again it is ErrCorrupt for the records in that chunk and nothing else, and is not kept: the next read asks the
// bucket again. An object that is not there is looked for again after a read barrier, since a merge may have replaced it;
// then it is ErrStorage. Neither is ever skipped, and neither answer is remembered.
package fetch
