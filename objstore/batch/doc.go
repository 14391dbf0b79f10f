// Package batch reads, checks, stamps and builds Kafka record batches, format version 2 (KIP-98), in place on byte slices.
//
// Callers are agent/ingest (Validator.Validate on every produced batch), agent/fetch (Split, StampBase,
// StampLogAppendTime on the way out), compaction and list-offsets (Validator.Walk), key compaction (Filter), and tools and tests (Builder). The
// package knows nothing of requests, topics or buckets.
//
// A batch is stored as the producer sent it, but for a max timestamp that is not its records'. Its base offset and leader epoch lie outside the batch's CRC and are filled
// in on fetch; the timestamp type and max timestamp lie inside it, and stamping them patches the CRC without reading the
// payload again.
//
// # Format
//
// All integers are big endian; varints are zigzag, at most 5 bytes for 32 bits and 10 bytes for 64.
//
//	position size field
//	       0    8 base offset            what a producer sends as 0 and the log fills in
//	       8    4 batch length           size of what follows this field; 12 + batch length is the whole batch
//	      12    4 leader epoch           of the partition, -1 from producers
//	      16    1 magic                  2
//	      17    4 CRC32C                 of everything from position 21 to the end
//	      21    2 attributes             bits 0-2 codec, 3 LogAppendTime, 4 transactional, 5 control, 6 delete horizon: the base timestamp is one
//	      23    4 last offset delta      last offset of the batch less its base offset
//	      27    8 base timestamp         ms since the epoch; records hold deltas to it
//	      35    8 max timestamp          ms; of the records, or the append time where bit 3 is set
//	      43    8 producer id            -1: none
//	      51    2 producer epoch         -1: none
//	      53    4 base sequence          -1: none
//	      57    4 record count
//	      61    - records                compressed as one stream where the codec is not 0
//
//	record:  length varint | attributes int8 | timestamp delta varlong | offset delta varint
//	         | key length varint (-1: null) | key | value length varint (-1: null) | value
//	         | header count varint | headers
//	header:  key length varint | key | value length varint (-1: null) | value
//
// # What is accepted
//
// Validate holds produced batches to what Kafka's LogValidator, UnifiedLog and DefaultRecordBatch hold them to, with
// these differences, each because the bytes are stored exactly as sent and must be readable by every client. A test
// compares the verdicts on a hundred batches with those of Kafka 4.4's own classes.
//
//   - Offset deltas must be 0..n-1. Kafka rewrites compressed batches that break this and stores uncompressed ones as
//     they are.
//   - A batch marked LogAppendTime is always refused with ErrTimestamp. Kafka refuses it on LogAppendTime topics and
//     clears the mark on others.
//   - The delete horizon mark is refused: only a log cleaner sets it.
//   - A transactional batch needs a producer id, and a producer id needs an epoch of at least 0.
//   - A wrong max timestamp is accepted and the true one reported. Kafka's LogValidator writes the true one into the header
//     where it finds another, before it stores the batch: that is StampMaxTimestamp here, which agent/kafka calls.
//   - Lengths below -1 are refused; Kafka takes them for null. A timestamp that overflows is malformed; Kafka lets it wrap.
//   - The last record of a compressed batch must be all there. Kafka skips over what it does not need.
//   - LZ4 is one frame of independent blocks, as the Java reader requires.
//
// Of well-formed records that break a rule of the topic (keys, timestamps) all are named, up to MaxRecordErrors, as Kafka
// does. There is no bound on the number of records but DefaultMaxRecords, far beyond what a batch of usual size holds.
//
// Whatever fails once the CRC has matched is ErrInvalidRecord and not ErrCorrupt, which clients retry: the same bytes
// would fail the same way.
//
// # Bounds
//
// Compressed records are walked as a stream through a 64 KiB window, under Limits.MaxDecompressedBytes. Beside the
// window a Validator holds what its codecs need: gzip 32 KiB, LZ4 twice the frame's block size (at most 4 MiB each), zstd
// the window (at most 8 MiB; a frame that declares more is decoded whole, and refused where the window alone is beyond
// MaxDecompressedBytes), snappy one block, whose declared size must be one that its input could produce. Walk also holds
// the largest record. Validate also bounds what comes out by what went in: 16 MiB and 1024 times the compressed size.
// DecompressRoom says beforehand what a batch will take, so that a caller can bound many at a time. Buffers
// beyond 4 MiB are dropped with the batch that needed them.
package batch
