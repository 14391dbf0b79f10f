// Package duty is what the background duties of compaction share: which agent does a piece of work, how much of the machine it
// may take, and where it puts what does not belong into memory.
//
// # Who does what
//
// Work is split by rendezvous hashing over the joined agents (Mine), without claims: every agent knows who has a piece from its own
// replica. While agents come and go two may hold the same piece for theirs, or none. Neither does harm. What data they move is
// judged by Apply, op for op, against what is there then; the second to come finds it changed, and its object is an orphan.
//
// # Budget
//
// A Budget bounds bytes a second over all duties of an agent, and lets the agent slow them down where producers and tail readers need the
// machine (Pace). Bytes are what is counted because reading, checking, copying and writing them is what the work consists of.
//
// # Scratch
//
// Inputs and outputs of a merge may be larger than memory should hold. They lie in scratch files, which have no name on disk: a
// crash leaves nothing behind. Their sum is bounded. Where there is less space than a piece of work takes, smaller pieces are tried,
// and a Room remembers how large they may be.
package duty
