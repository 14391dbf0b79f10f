// Package check judges the history of a produce-and-read-back run against any Kafka: what was sent, what was
// acknowledged at which offset, and what every reader was shown. It is pure: no network, no clock, no randomness
// beyond its arguments. Package verify feeds it from live brokers, the tests from simulated ones.
//
// # Life of a record
//
//	Assign ──▶ Send ──▶ Ack      the broker answered with an offset
//	                ├─▶ Fail     the broker refused it for good: it must never be read
//	                ├─▶ Unknown  no answer that settles it: zero or one copy per attempt may be read
//	                └─▶ Retry    sent once more under the same number (plain producers only)
//
// Readers report records through Reader.Read, in the order they got them, and watermarks through FetchWatermark and
// Listed. Finish compares everything once readers have reached the final high watermark.
//
// # What is judged
//
//	acked_lost             acknowledged, never read
//	duplicates             read at more offsets than it was sent times
//	reorderings            one producer's records in one partition out of send order (retried ones excepted)
//	invented               value never sent, damaged, read in another partition, or at an offset that nothing sent explains
//	inconsistent_offsets   one (partition, offset) read with different bytes at different times or from different brokers
//	wrong_acks             acknowledged at an offset that holds something else, while the record is read elsewhere
//	failed_reads           refused for good, yet read
//	gaps                   a reader's next record skips offsets
//	offset_regressions     a reader is shown an offset below its position
//	watermark_regressions  a watermark below one known before the question was asked
//	refused_fetches        a fetch inside the known range answered with an error that no retry mends
//	compacted_away         an offset of a compacted topic not shown, though no later record has its key and it is no old tombstone
//	expired_early          a log start past a record that is younger than the policy's retention
//	unseen                 offsets below the final high watermark that no reader was shown
//
// # What a policy lets go
//
// Config.Policy says what a topic may lose. In a compacted one a reader may skip offsets, if by then a later record of the same
// key had been sent, or if it is a tombstone old enough; tombstones have no value and say who they are in a header. Where the
// log start moves, a reader that is told so goes on from there (Reader.Expire), and every record below must have been old
// enough. Without a policy nothing may be missing.
//
// # Planted bugs
//
// A checker that cannot fail proves nothing. Plants lists faults that sit between client and history and that the
// command can switch on; the tests run each of them, and histories with further bugs, and require the finding:
//
//	drop-record       an acknowledged record is never shown
//	hide-tail         a partition ends early: its tail is missing at the drain
//	double-record     one record is shown at two offsets
//	swap-records      two neighbours change places
//	invent-record     a well-formed record that nobody sent
//	flip-byte         one byte of a value altered
//	disagree          two brokers show different bytes at one offset
//	wrong-ack-offset  the acknowledgement names the next record's offset
//	zero-ack-offset   the acknowledgement says offset 0
//	reuse-offset      two records are acknowledged at one offset, as after a restart that forgot
//	failed-read       a send reported as refused is read
//	skip-offset       a reader's stream jumps over an offset that exists
//	replay-offset     a reader is shown an offset it has passed
//	watermark-back    the high watermark goes back
//	other-partition   a record of one partition is shown in another
//
// # Memory
//
// 32 bytes for each record sent (56 under a policy) and 16 for each offset read, in chunks, both bounded by Config.RecordsMax: ten
// million records take about half a gigabyte.
//
// # Record value
//
// All integers are big-endian.
//
//	offset  size  field
//	0       4     magic "fvr1"
//	4       8     run id; a record of another run is invented here
//	12      4     record number, counted over all producers, from 0
//	16      4     producer id
//	20      4     key id
//	24      4     counter of this producer and key, from 0
//	28      n     filler, derived from run id and number
//	28+n    4     CRC32C of everything before it
package check
