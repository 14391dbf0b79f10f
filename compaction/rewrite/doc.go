// Package rewrite is how compaction moves data: it reads the batches of rows (Source), writes them into merged objects (Output) and
// has the metastore swap the rows (Env.Commit). Callers are compaction/merge and compaction/clean, which decide what to rewrite and
// which records to keep.
//
// # Nouns
//
// An Env is what one agent's rewriting shares: metastore, bucket, scratch space, budget. A Source reads objects, each footer once; a
// Reader of it yields the batches of one partition's rows in order, as they shall lie in a merged object: with their absolute base
// offset and leader epoch, LogAppendTime stamped, all checksums checked. An Output is one merged object on its way: a scratch file
// first, then an object of the bucket (Written). A Part says which rows of a partition blocks of such objects replace.
//
// # What a crash leaves behind
//
//	reading, writing to scratch   nothing: scratch files have no name
//	uploaded, not committed       an orphan, which the collector finds by its collection epoch
//	committed in part             what was committed is in force; the rest is an orphan's block, or is done again
//	committed, answer lost        in force: a second attempt meets rows that are not those it read, which is a conflict and harmless
//
// The old objects stay where they are: they are retired by the swap and deleted by the collector, behind the collection epoch.
//
// # What stands in the way
//
// Rows that somebody else replaced, retention that dropped them, or a topic that is gone are a Conflict or Gone of a part: nothing
// is wrong, and nothing was lost but the work. A collection epoch that moved on twice during an upload is Stale: the object may not
// be named any more and is written again. Input that is missing or damaged is an *InputError, which names object, partition and
// offsets; the rows stay as they are, so that readers are told what they ask for and an operator can mend it.
package rewrite
