// Package clean is key compaction: of topics with cleanup.policy=compact it keeps the last record of each key. The Runner of package
// compaction calls Cleaner.Step; what it works with is package rewrite.
//
// # Nouns
//
// A partition's clean section is its leading rows that are marked as cleaned; in it each key comes once. All behind it is dirty. Rows
// may be cleaned once a merge has been over them (objects of level 0 and rows in a WAL correspond to Kafka's active segment), and
// once they are older than min.compaction.lag.ms. A cleaning takes the clean section and all dirty rows that may be cleaned, up
// to an offset that is its end, and replaces them by rows that are marked as cleaned. It is due where the dirty ones are more than
// min.cleanable.dirty.ratio of the bytes, or the first dirty record is older than max.compaction.lag.ms.
//
// # Two passes
//
// The first pass reads the dirty rows and notes for the hash of each key which of its records is the last (newest). Where all dirty keys fit
// in Config.MemoryBytes that is all: of the clean section goes what has a newer record among them. Where they do not, hashes go to a scratch file,
// and the clean section is read as well; so memory is bounded for any number of keys, and the scratch space is 24 bytes a record.
// Either way a bitmap results (survivors) with a bit for each record that was read, in scratch space where even that is too
// large. The second pass reads all rows in order, copies batches of which every record survives as they are, drops those of which none
// does without decompressing them, and rewrites the others (batch.Filter). So data is read twice at most and written once. Where
// scratch space ends, a cleaning takes fewer dirty rows, as Kafka's does where keys do not fit in its buffer.
//
// # What stays of a record
//
// As in Kafka: records of the cleaned range that are the last of their key in it, with offset, timestamp and headers. Records without a key go;
// there are some where the policy came later. A tombstone stays until its batch's delete horizon: the first cleaning that keeps one sets
// it to log time plus delete.retention.ms (KIP-534, see batch.Filter), and the first cleaning after that time drops it. Records below the log start
// go too. Batches without records go, the last one of a producer and of a partition included: Kafka keeps them empty, to remember
// sequences and offsets, which here are in the metastore.
//
// There are no transactions in firn yet. A transactional or control batch is of a future that knows what to do with it: it stops the
// partition's cleaning as a damaged one does.
//
// # Why a crash is harmless
//
// A large partition is rewritten in parts, each a run of its rows, in ascending order; a part is committed by one op (Rewrite), which
// takes it whole or not at all, and only after those before it are in force. Let the dirty rows begin at D and the cleaning end at
// E, and let it stop after the parts below X. Then:
//
//   - Nothing is lost. What went had a newer record of its key below E, and a part before that one's removes older records only. If the newer
//     record lies at X or above, it is untouched. If it lies below X, it survived, being the last below E, or was a tombstone past its
//     time. Then all older records of the key are below it, and their parts were committed before or with its own.
//   - What is below X has each key once: it is the last below E. So if X is above D, the clean section may end at X, where the marks
//     say that it does. If X is below D, what was clean is clean still.
//
// The next cleaning, by whichever agent, begins anew from what it finds. An op whose answer was lost is in force or not; both are covered. An object
// that was uploaded and is not named is an orphan, which the collector finds. Two agents at one partition: the parts of the second find
// other rows than it read (Conflict), which ends its work on that partition, as do a merge, retention and DeleteRecords that come first. A topic
// whose policy changes is left alone from the next commit on.
//
// # What cannot be read
//
// An input that is missing or damaged stops the cleaning of its partition: nothing of it is replaced, an error is logged, a gauge
// and the agent's conditions show it, and it is tried again after a minute, and later and later. Nothing is skipped: a record that
// cannot be read may be the newest of its key, or a tombstone.
package clean
