// Package classic is the classic consumer group protocol as a pure step machine: one Group is one consumer group in the
// memory of its coordinator. agent/group gives it events and time, and does what its effects say; see package step.
//
// # States
//
//	         join                       all joined, or the rebalance
//	Empty ──────────▶ PreparingRebalance ──────timed out──────▶ CompletingRebalance
//	  ▲                ▲      │      ▲                            │        │
//	  └───nobody left──┼──────┘      └──a join, a leave, an ──────┘        │ the leader's SyncGroup
//	                   │                expiry, no sync in time            ▼
//	                   └───────── a join, a leave, an expiry ─────────── Stable
//
// A rebalance begins when a member joins with something new, leaves, or falls silent. Members learn of it by their
// heartbeats, join again and wait. When all have, or the largest of their rebalance timeouts is over, those who did not are
// removed, the generation rises, and everybody is answered, the leader with everybody's metadata. All then send SyncGroup
// and wait for the leader's, which brings the assignments. A group that was empty waits Config.InitialDelay for company
// first, and again as long as more come.
//
// Static members (with an instance id) that join anew under an id of nobody take the place of their former self, with its
// assignment and without a rebalance; the former self is fenced. They are not removed for missing a rebalance, only for
// silence.
//
// # What is written, and when
//
//	the generation rises         members that joined, with metadata; those removed; state CompletingRebalance
//	the leader syncs             members with assignments; state Stable
//	a removal starts a rebalance those removed; state PreparingRebalance
//	a static member is replaced  the new member, the old one removed
//	the last member goes         an empty group
//
// So a new coordinator goes on where the old one was: a stable group stays stable, a group that was about to sync syncs, one
// that lost a member rebalances. What it does not know of are members that were joining; they are told to look for the
// coordinator again, and join there. Kafka writes at the leader's sync only: there, a generation that was told to members
// may be given out twice, and whoever left comes back to life until its session ends. A heartbeat never writes.
//
// # Records
//
// Group record, version 1:
//
//	version 1   byte
//	state       byte: 0 Empty, 1 PreparingRebalance, 2 CompletingRebalance, 3 Stable
//	protocol type, protocol, leader   each a uvarint length and bytes
//
// Member record, version 1:
//
//	version 1          byte
//	instance id        uvarint length plus 1 and bytes; 0: none
//	client id, host    each a uvarint length and bytes
//	session timeout, rebalance timeout   uvarint milliseconds
//	protocols          uvarint count; of each, name and metadata: a uvarint length and bytes
//	assignment         uvarint length and bytes
package classic
