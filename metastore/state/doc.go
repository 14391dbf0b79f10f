// Package state is the state machine that every agent applies the metastore's log to: agents, topics, the index of where
// each partition's records are, producer states, consumer groups, the collection epoch and the feature level.
//
// The owner (package metastore) reads entries in order of n, decodes them with metastore/entry and calls Apply. Readers
// call the other methods under the owner's read lock; what they return must not be used after the lock is released,
// unless it is a copy (Row, Agent, numbers, strings).
//
// # Rules
//
//   - Pure: no I/O, goroutine, clock, randomness; no map order reaches a result, the hash or a snapshot. A test holds
//     the list of imports.
//   - Total: Apply never panics on a decodable entry. Each op is accepted or rejected alone, in order; a rejected one
//     changes nothing and its OpResult says why. Apply returns an error only where this agent must stop.
//   - Time is log time: the proposer's clock clamped to ten seconds around the median of the joined agents' last clocks,
//     never backwards. Time alone changes nothing; expiry and retention are ops.
//   - Every entry extends a chain hash over its bytes and its results, so two agents that differ find out.
//   - A snapshot holds every field that Apply reads, and equal states have equal snapshots.
//
// # Data
//
// A partition is a log start offset, a next offset (which is its high watermark and its log end) and rows. A row says
// that offsets [Base, End) are the raw bytes [Position, Position+Size) of a block of an object. Rows are appended by Append, one
// per unbroken stretch of accepted batches in a block, and replaced by Relocate and Rewrite. Offsets that no row covers were removed by
// key compaction or given up. An object lives while rows name it; then it is retired and waits for the collector.
//
// # Rewrites
//
// Compaction reads rows, writes merged objects of one topic, and proposes a Rewrite: for each partition, that the rows of a range, which
// must still be those that were read, are replaced by whole blocks of those objects. What was read is said by a digest (RowsDigest) and
// not row by row, because a window of objects holds a hundred thousand rows and the op has to fit an entry. A part is accepted or
// refused alone: a partition whose rows another compactor, retention or DeleteRecords has changed costs its own part and no other. The
// object rules hold for the op: of its topic, no older than the collection epoch before the current one or live, and as large as said.
// An object that no accepted part names was never named: it is an orphan, and the collector's.
//
// The rows that a key compaction wrote are Cleaned. The leading rows of a partition that are so are its clean section, and the rest is
// dirty: no checkpoint could disagree with the rows. Compaction keeps the two apart when it merges.
//
// All this is of feature level 3. Below it objects have no age (Born is 0), and no snapshot says anything of it.
//
// # Groups
//
// Consumer groups hash to Slots slots. A ClaimSlot makes an agent a slot's owner, and its n the slot's coordinator epoch; every op
// of a group names both, and one whose proposer is not the owner under that epoch is refused (StaleCoordinator). So a
// coordinator that was replaced can do nothing more, without any clock: what it proposes comes after the claim, or had come
// before it and its successor, who has applied its own claim, has seen it. A slot keeps its owner when that leaves; whoever finds
// it so claims it.
//
// A group is made by its first update or commit and goes by DeleteGroup alone. Its record and its members' are bytes of the
// coordinator (agent/group). Offsets are kept by topic id and go with their topic. A change that is too large for an op comes in
// several, all but the last not Complete: a new owner that meets an incomplete group starts a rebalance.
//
// All this is of feature level 2. Below it no op of groups is taken and no snapshot has any.
//
// Formats (snapshot, chain hash, results) are in docs/formats.md.
package state
