// Package consumer is the consumer group protocol of KIP-848 as a pure step machine: one Group is one consumer group in the memory
// of its coordinator. agent/group gives it events and time, and does what its effects say; see package step.
//
// # Epochs
//
//	group epoch    moves when a member comes, goes or subscribes to something else, and when the topics that are subscribed to
//	               are made, deleted or grow
//	target epoch   the group epoch that the target assignment was computed for; it follows with the next event of any member
//	member epoch   the target epoch that a member has reached
//
// A member reaches the target by steps, one with each heartbeat:
//
//	           its target is another one
//	Stable ─────────────────────────────▶ what is not in it is to be given up?
//	  ▲                                      │ yes                       │ no
//	  │                                      ▼                           │
//	  │                                   Unrevoked: keeps its epoch     │
//	  │                                      │ its heartbeat says        │
//	  │                                      │ that it has given it up   │
//	  │  all of the target was free          ▼                           ▼
//	  ├───────────────────────────────── gets what is free of its target, and the epoch
//	  │                                      │ some is still with others
//	  │  the rest has become free            ▼
//	  └───────────────────────────────── Unreleased
//
// A partition is given to its next owner only after the one before has said by heartbeat that it does not have it any more, has
// left, or has been silent for its session; so no two members are told that they own one. Who does not give up what it should
// within its rebalance timeout is removed.
//
// A heartbeat under the previous epoch is taken where all that it says it owns is its own: the answer with the new one was
// lost. A join under epoch 0 is always taken: of a member that is known, it says that it has nothing. Commits of offsets are
// taken under an older epoch too, of partitions that the member has had since then (KIP-1251); clients that commit while an
// answer is on its way would else fail.
//
// Static members that leave with epoch -2 keep what they have until their session is over; whoever comes with the same instance
// id takes their place, without a rebalance.
//
// # Topics
//
// Subscriptions by name and by regular expression (RE2, whole names) are resolved against Topics whenever those have changed,
// expressions at most once a second. A hash over the topics and their partition counts stands in the group's record, so that a
// coordinator that takes over sees whether they have changed since. A member's record has room for 6 000 topics; of a
// subscription that covers more, the rest goes to nobody, and the log says so.
//
// # Classic members
//
// A classic group of consumers becomes a group of this package when a member of the consumer protocol comes: its members keep
// their ids, generation and partitions, and go on with JoinGroup, SyncGroup and Heartbeat. Their heartbeats tell them
// REBALANCE_IN_PROGRESS where there is something to give up or to get; they join, saying what they own (nothing, where they
// rebalance eagerly), and sync. None of them leads. When the last member of the consumer protocol has gone, the group becomes
// classic again. Config.Migration says which of both is allowed.
//
// # What is written
//
// Whatever changes of a member or the group, with the step that changes it, before anybody is told. A heartbeat that changes
// nothing writes nothing. A new coordinator goes on where the old one was; it starts all timers anew. Of a change of which it
// finds a part only it keeps what is there (every member's record is whole in itself) and computes the target once more.
//
// Group record, version 1:
//
//	version 1       byte
//	target epoch    uvarint
//	assignor        uvarint length and bytes: the one that made the target
//	topics hash     8 bytes, little endian: FNV-1a 64 over id and partition count (u32, little endian) of each subscribed topic
//	                by id; 0 where there are none
//
// The group epoch is the group's generation. Member record, version 1:
//
//	version 1       byte
//	flags           byte: 1 instance id, 2 rack, 4 regular expression, 8 assignor, 16 classic
//	state           byte: 0 stable, 1 unrevoked, 2 unreleased
//	instance id, rack, regular expression, assignor   those that are flagged; each a uvarint length and bytes
//	client id, client host                            each a uvarint length and bytes
//	rebalance timeout                                 uvarint milliseconds
//	member epoch, previous epoch                      varints (zigzag); -2: a static member that is away
//	topic names     uvarint count; of each a uvarint length and bytes
//	topics          uvarint count; of each, by id:
//	    id          16 bytes
//	    parts       byte: 1 assigned, 2 revoking, 4 target, 8 the target is what is assigned
//	    assigned, revoking, target   those that are flagged; each a uvarint count of runs, and of each run:
//	        gap     uvarint: partitions between the end of the run before (or 0) and this one
//	        length  uvarint
//	        since   uvarint, not in target: the member epoch that they were assigned in
//	classic         where flagged: session timeout (uvarint milliseconds), uvarint count of protocols; of each, name and
//	                metadata: a uvarint length and bytes
package consumer
