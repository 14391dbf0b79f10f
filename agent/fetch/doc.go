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
// A row of what a flush wrote says that offsets [Base, End) are some raw bytes of a block, without gaps inside: where batches
// were refused the state machine splits the row. The first batch in the row's bytes has offset Base, and each batch starts where
// the one before ends. A chunk's BaseDelta counts from the block's first batch, dead ones included, so it gives offsets relative
// to another chunk of the same row only; a row that starts inside a chunk counts from there.
//
// A row of a merged object is a whole block, and offsets may be missing in it: key compaction took them, or they were dead or given
// up. Each batch has its offset in its header. A chunk's span goes up to the next one's first batch, so BaseDelta finds chunks all the
// same. Log append times are in the batches.
//
// Offsets may be missing between rows as well. A read that starts where there are none goes on with the next that there are; where
// nothing follows, a batch without records leads to the high watermark.
//
// What a flush wrote is copied once, from the cache into the caller's buffer, and base offset, leader epoch and, for rows that say so, the log
// append time are filled in there. Cached bytes never change. Batches of merged objects are stored just as they are served, and go out from the cache:
// they are lent (Out), until the answer has gone out, and count in the cache's bound until then. So a client that is slow to take 1 MiB of each of
// twelve runs does not hold twelve runs that nobody counts. What is lent is not evicted, which would free nothing, and more than three quarters of what
// hot items leave is not lent but copied: some room stays for readers whose runs nobody holds.
//
// # The cache
//
// An object of at most Config.WholeBytes (every level-0 segment, and small merged ones) is read whole, with one GET, whatever was asked for:
// its other partitions have readers too. Of a larger object the footer is read once, and then runs of neighbouring chunks
// of about Config.RunBytes, cut by position so that all readers share them. Compressed chunks are kept decompressed
// as well. Equal reads that come together are one GET, which outlives a reader that ran out of time: it will ask again.
//
// # Sharing with peers
//
// Agents of a zone get each piece of the bucket (a whole object up to Config.WholeBytes, a run of a larger one) once. Before an
// agent goes to the bucket it asks, in this order:
//
//  1. the agent that uploaded the object, if a flush wrote it (nobody has what was merged in memory from the start), as long as it may still have it in memory (Ask.Held: it answers from there or not at
//     all). What it no longer has it says with how far back its memory goes, so a replay asks in vain once. In another zone it is asked
//     for objects up to Config.CrossZoneBytes only: a byte from there costs money, and a GET as much as some twenty KiB of them.
//  2. the agent of its own zone that rendezvous hashing over the live ones names for the piece. That one gets it from the bucket
//     if it does not have it, once for all who ask, and keeps it.
//
// Then it gets the piece itself. An ask never leads to another, so nothing can go round in circles. From a peer come the footer and slices
// of about Config.SliceBytes, not the piece: what few partitions need costs little, and many small ones do not cost an ask each. The asker
// keeps them in a small part of its cache (borrowed), enough for readers that follow each other closely; so a topic that is read
// through three agents takes one cache and two small parts, not three caches.
//
// A peer that refuses, is busy or cannot be reached is passed over at once; one that repeatedly cannot be reached is left out for a while, and
// the next in the order of the hash takes its place. One that takes longer than 95 in 100 asks do is overtaken by a GET; such GETs are
// bounded to a twentieth of what peers save. What a peer gives is checked like what the bucket gives, and nothing that went wrong is
// remembered about the data.
//
// # Tail readers and replays
//
// A read is a replay's where more than planRows rows of the partition follow, or anything of a large object, or more of small merged ones than
// Config.RunBytes, and this agent does not hold what it asks for as just written.
// A reader counts as one of the tail, whom replays must not slow down, from the second time on that it has come to the end. Replays have a bounded number of GETs at a time (Config.ColdReads)
// and wait for their turn; uploads and tail reads never do. Where a tail reader wants what a replay's GET waits to get, the GET starts at once.
// What is served to peers has separate bounds for the two as well.
//
// The processors are kept free in the same spirit: while producers or tail readers are active, replays get and are served bytes at a rate that falls
// where a probe finds that it is woken late, and rises where it is not (see pace). A replay whose turn it is not waits a little where the answer has
// nothing else to give, and is told to come later (Result.Later) where it has; what it needs is meanwhile read ahead. So a long poll ends with what there
// is, and consumers come again.
//
// Tail readers are served from what ingest just uploaded (hot) without a GET. What is read from the bucket is cold, and a
// replay of old data, however large, evicts only cold items. A sequential reader's next run is read ahead, and towards the end of a row
// the next one's object, or its footer and first run. Of a replay that goes on and on while there is nobody to disturb, up to four runs are, as far as there
// is room for them, and more of its GETs run at once: a single connection to a store gives less than a consumer takes.
//
// # What is checked, and what a failure means
//
// The footer's checksum and each chunk's are checked when bytes come from the bucket. What is damaged is read once more;
// damaged again it is ErrCorrupt for the records in that chunk and nothing else, and is not kept: the next read asks the
// bucket again. A merged row must be what its block is, its batches must ascend within it, and a chunk's first must be where the table has
// it. An object that is not there is looked for again after a read barrier, since a merge may have replaced it; where the row still
// names it, it is ErrStorage. Neither is ever skipped, and neither answer is remembered.
package fetch
