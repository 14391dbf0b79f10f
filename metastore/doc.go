// Package metastore is one agent's side of the cluster's shared state: it proposes ops, applies everybody's entries in
// their one order to the pure state machine (metastore/state), and keeps the history in the bucket so that the log below
// stays short.
//
// Who calls it: agent rooms submit ops (Submit, Propose), read (View, Subscribe) and take barriers (Barrier); the agent
// opens it once and closes it last.
//
// # The life of a proposal
//
// queued → packed into the next entry with everything else that waits → one commit attempt at a time, retried with the same
// key and the same bytes until its outcome is known → applied, by this agent's applier, when the log delivers it → done.
// Only the last step answers the proposer. A lost response is therefore a non-event, and there is one place where results
// come from: Apply.
//
// # Sessions
//
// A session is one incarnation: a registration in the log and a contiguous sequence of entries, the first of which joins. When
// the registration is gone (the lease lapsed, or another agent fenced us) nothing of that incarnation can be committed any
// more, so after one barrier each of its entries is known to be applied or known never to be; the latter's proposals go to the
// front of the queue, in order, under a new incarnation.
//
// # Feature levels
//
// What an op needs of whoever applies it is its feature level (entry.Level). An entry carries the highest of its ops'; an op above the
// cluster's is refused before it reaches the log. The cluster's level is moved by SetFeatureLevel: a new log's by the first
// agent, together with its join, an old one's by the agent of the lowest node id once all agents have supported a higher one for a while.
//
// # Goroutines
//
// Open starts all of them: the applier (reads, watches, applies; the only writer of the state), the watchdog, the
// committer, the barrier reader, and the keeper (membership, ticks, archive, snapshots, trim). Close joins them.
package metastore
