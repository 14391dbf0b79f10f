// Package ingest is the produce path from a validated batch to its offset: stage, build, upload, commit, answer.
//
// agent/kafka calls Pipeline.Stage for Produce requests and answers when done is called; the agent drains and closes.
//
// # What an answer means
//
// With Code OK the batch is in the bucket and ordered: its segment's Put had succeeded before the append op that names it
// was submitted, and the op was applied by this agent. That holds whatever acks says (durability=bucket), and acks=0 parts
// flow the same way. Nothing else depends on this agent or its disk: what is staged, spilled or in flight when the process
// ends was never acknowledged and is not replayed.
//
// # A segment's life
//
//	staged ──▶ closed ──▶ uploading ──▶ uploaded ──▶ submitted ──▶ answered
//	  │ no memory  ▲           ▲                        │  │
//	  ▼            │           └── object refused ──────┘  │ sequence gap
//	spilled ───────┘                                       ▼
//	                                         parked ──▶ submitted again, in place
//
// Bytes are copied once, by the upload worker that lays out the body (spilled ones once more, to the WAL and back); from
// then on the callers' buffers are theirs again (Part.Release). The body stays in memory until the last of its parts is
// answered, because an object whose collection epoch passed before it was applied is refused by the state machine and has
// to be uploaded under another name. It is given to the Sink once it is uploaded, so tail readers cost no GET.
//
// # When a segment is closed
//
// In this order: when it reaches Config.TargetBytes, whether or not a slot is free; and, with a free slot, while draining;
// when fewer than Config.EagerUploads (1) uploads run, so that a lone producer never waits for a timer; when an upload has
// just ended; when Config.FlushInterval has passed since its first batch.
//
// Why not whenever a slot is free: then small requests make as many objects at a time as there are slots. A batch that comes
// while an upload runs waits for the rest of it, half an upload on average, and shares the next object with all that came
// meanwhile (group commit). TestFlushPolicy, with uploads of 30 ms, commits of 3 ms and 8 producers that wait for each answer: 33
// objects a second and 59 ms a batch; with four eager uploads 133 objects and 36 ms. One producer has 33 ms either way. Requests cost
// money all day, so the default is one; slots beyond it are for volume: full segments are uploaded in parallel, and the
// interval bounds what one slow upload can delay.
//
// # Order
//
// The loop alone starts uploads and submits ops. Uploads run in parallel, but a segment's ops are submitted only after
// those of all segments started before it: so what is staged first is ordered first, in every partition and of every
// producer. Within an object a block's batches are in order of staging, and an op that would be too large is split between
// batches, in order.
//
// An object is refused as stale where the collection epoch moved twice between the start of its upload and Apply. Its
// batches keep their place all the same: ops under way together name objects of one epoch, so whatever was submitted after
// a refused op is refused as well, and what was refused goes ahead of everything else (see submitLocked).
//
// # Locks
//
// A topic under an object lock (firn.object.lock.mode) lies in segments of its own from the first write: an open segment holds parts of one
// lock, mode and days alike, and its Put carries the lock, counted from the upload. So there are as many open segments as locks in use, and
// as many more requests; the oldest is closed first. Where a topic's lock changes, every open segment is closed before the next part of
// it is placed, so that its order stays that of staging.
//
// A lock that the bucket refuses is definite (ErrLock): nothing is stored without the protection that was promised, and segments behind it
// go on. Retried for ever, it would hold up the topics that need none.
//
// # Duplicates and gaps
//
// Only Apply judges sequences. An exact duplicate is answered with the original's offset; its bytes stay dead in the
// segment. A gap may be that of a batch which another agent, or another connection, is still carrying: clients treat
// OUT_OF_ORDER_SEQUENCE as the end of the producer and resend under a new epoch, so a gap that then fills would be a second
// copy (RELIABILITY H9). Hence the batch is parked, and the ones behind it get gaps and are parked as well. When the state
// machine shows that a gap was filled, the parked batches that follow are submitted again in order of sequence, naming the
// bytes where they lie (first_position). After Config.GapWait the batch is submitted once more and that answer stands,
// unless an earlier sequence of the same producer is still in this pipeline: then it waits for that. The last submission
// commits after everything that was committed when the request arrived, which is what a read barrier would prove.
//
// # Unknown outcomes
//
// A put without an answer is repeated under the same key with the same bytes, for ever: until it succeeds or the pipeline
// is closed. An op is the metastore client's to settle. On Close what is not answered gets ErrClosed: its outcome is
// unknown, and clients may only be told something retriable.
//
// # Bounds
//
// Config.MemoryBytes bounds raw bytes staged and in flight, but that a request of more than half of it comes in where half is free, and one
// batch for each 512 of its bytes whether spilled or not;
// wal.Options.MaxBytes bounds what is spilled. Segments that are uploaded and not answered count as memory: while nothing commits,
// what was spilled is read back for no more than all upload slots at a time, and stays in the spill else. Where there is no room, Stage blocks: that is the back-pressure on produce
// connections, and it is no error. Parked batches hold their segments for about GapWait.
//
// # Footers
//
// A segment's footer carries its object id (incarnation 16 bytes, seq 8, collection epoch 8, big endian) and the intended
// ops, as appendIntended writes and ParseIntended reads them, for `firn metastore restore`.
package ingest
