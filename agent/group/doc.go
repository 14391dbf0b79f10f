// Package group coordinates consumer groups: it is the shell around the pure machines of the group protocols (agent/group/classic
// and its siblings; package step says what they have in common).
//
// # Slots
//
// Groups hash to state.Slots slots. A slot belongs to the agent whose claim was applied last; the claim's n is the slot's
// coordinator epoch. Every op about a group names slot and epoch, and Apply refuses one that is not current: an agent that
// believes in vain to own a slot can change nothing, and learns it from the refusal. No clock is involved in that. One is in what
// an agent says without a proposal: it answers members only while it has heard from the log lately (unsure.go).
//
// Each slot prefers one live agent by rendezvous hashing. Who is preferred claims a slot without a live owner at once; where
// it does not, the next in order does a little later. An owner whose slot prefers another agent that has been there for a
// while hands it over by claiming it for that one, behind whatever it has proposed already: all that was promised under the
// old epoch is in the state that the new owner loads, and what comes later is refused. A drain (HandOver) does so with every
// slot. Peers see that from an agent that gives away what prefers it, and do not give it anything back.
//
// # Groups
//
// A Group is in memory at its slot's owner while it has members or something is under way; everything else is in the state.
// It is loaded from there by the first who asks, or when the slot is claimed: then sessions start anew.
//
// A request runs its group's machine under the group's lock. What the machine wants to be kept is proposed in order; its
// answers leave once that is applied here, and in order with it. So no answer says what the log could still refuse, and a
// machine may go on meanwhile. Where the log refuses all the same the group is thrown away, its requests are answered with
// NOT_COORDINATOR or COORDINATOR_NOT_AVAILABLE, on which clients look for the coordinator, and the next who asks loads it
// again once everything that was proposed has been settled.
//
// One goroutine has all timers in a heap, one entry a group. While a group waits for the log its timers stand still, and
// sessions start anew if that took long; so they do where this process itself was asleep.
//
// # Who calls what
//
// agent/kafka calls Join, Sync, Heartbeat and Leave for members of the classic protocol, in whichever group they are, and
// ConsumerHeartbeat and DescribeConsumer for the consumer protocol. Where a member of the consumer protocol joins a classic
// group, or the last one of it leaves, the group's machine is replaced by the other kind, with what it knew. Other APIs are built on two calls:
//
//	Ask      runs a function with the group, locked and loaded; it steps the group's machine, and Ask waits for the answer
//	Propose  runs a function with the group that judges and names an op; it is proposed behind all others of the group, and
//	         Propose returns its result once it is applied
//
// Both answer NOT_COORDINATOR and the like by themselves. OwnerOf says who to ask.
//
// # Offsets
//
// A commit is judged by the machine, which knows the members, and then by Apply, which knows the generation: it is proposed with
// the generation that the group has by then, behind everything that makes it so. offsets.go has that and what deletes;
// expire.go says how long what is committed is kept; look.go describes and lists.
//
// # Lock order
//
// Group.mu before Coordinator.mu before timers.mu; any of them before the metastore client's. Nothing waits or sends while it
// holds one.
package group
