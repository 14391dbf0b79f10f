// Package kafka speaks the Kafka wire protocol: connections, framing, dispatch, and one file per API, numbered by its key.
// agent makes one Server per listener and hands it the metastore, the produce path and the read path.
//
// # A connection
//
// Three goroutines share it and hand over in order; the last two run only while there is something to do:
//
//	reader    frames → request queue      reads a frame only when the in-flight budgets have room: back-pressure is not reading
//	executor  request queue → answers     parses and runs handlers one after the other, as Kafka does
//	writer    answers → socket            in request order; waits for answers that are not ready yet
//
// A Produce is validated and staged on the executor and answered when it is committed, so many are in flight on a
// connection and reading never waits for a commit. A Fetch that waits for data holds up what follows it on its connection,
// as in Kafka. When the connection goes away its context ends, and with it every wait. gone.go says what counts as that: a
// client that only sends nothing more is still answered.
//
// A frame's buffer is pooled. It belongs to the reader, then the executor; for a Produce its batches are lent to the
// produce path, and the buffer returns to the pool when every batch was given back. All other requests are decoded into
// values of their own and give their buffer back at once.
//
// # Memory
//
// Whatever clients can make a server keep is taken from a budget before it is made, and where a budget is used up they wait:
//
//	in flight   requests with records and large ones, from before room is made for them until they are done with
//	strangers   those that are larger than any that their connection has sent before, as far as they have come; one at a time
//	            may go beyond, to its end, or they would wait for what each other holds
//	queued      small requests, until they were served
//	work        what is made of a request until it was answered: decoded, in handlers, as an answer. Its size is found by
//	            walking the request against the shape of its API, and by asking what the answer will name
//	answers     records of Fetch answers, until they were written
//	decompress  what checking compressed batches takes
//
// One address gets three quarters of each at most; a trusted proxy's without a header counts as no address, see proxy.go. One small request and one small answer of each connection go without, so
// that who asks for one thing after the other is served however crowded it is. A connection that is slow to send or to take
// what it holds a budget for is closed when others wait for that budget, and a long poll that holds some, or holds up requests
// that do, ends. Connections are bounded in all and per address, where a
// newcomer displaces the oldest one that never asked for anything; more than so many a second of one address wait.
//
// # What is answered and what closes
//
// Errors that the protocol has a place for are answered. Bytes that are no request (unknown keys and versions, other
// protocols, truncated bodies) close the connection with one log line, as does a failed Produce with acks=0. ApiVersions of
// an unknown version is answered in version 0 (KIP-511). A request is walked against the shape of its API before the
// decoder sees it: nothing is allocated for elements that are not there, nor more than four times the request and 1 MiB for
// those that are.
//
// # What clients are told about replicas
//
// Any agent serves any partition, so leaders are a hint: rendezvous hashing gives each partition one live agent, the same
// on every agent, and moves only what it must when agents come and go. A client whose zone is known is given agents of that
// zone, see zones.go; then replicas are spread over zones too. The leader epoch is 0 until
// the metastore's log is restored from the bucket, which alone can take offsets back; it rises then, and clients that hold the
// old one are fenced, ask API 23, and learn where their log and ours part. Replicas are as many as were asked for when the topic was made, leader first, all of them in sync: durability is
// the bucket's and does not change with the number of agents, and a tool that compares what it asked for with what it
// sees finds no difference. Any factor that the protocol can carry is taken and kept, but no more than state.MaxReplicas
// ids are listed: each partition of each answer would carry them. Where agents are too few, the remaining ids are the
// lowest that no agent has. An assignment given by hand is reported as it was given. Its leader is one of its agents if
// any is alive, whatever its place, and else an agent outside of it: clients look a leader up among the agents, not among
// the replicas. No replica is ever reported offline. The controller is the live agent of the lowest id.
//
// # Freshness
//
// A client may have seen, from another agent, what this one has not applied yet. So an answer that a client does not retry
// (unknown topic, offset out of range) is given only after a read barrier taken since the request arrived, or by the state
// machine itself; where the barrier fails the answer is one that clients retry.
package kafka
