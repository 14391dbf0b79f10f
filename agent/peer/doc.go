// Package peer is how agents of one cluster talk to each other: an internal listener, and a client for the listeners of the
// others, which are found in the cluster's state (every agent that has one tells its address when it joins, as the listener
// named "internal"). agent makes one Server and one Client; agent/kafka forwards requests over them, agent/fetch reads what
// another agent holds in memory.
//
// # A connection
//
// Every connection starts with a proof, both ways, that the other end knows the cluster's secret: 32 random bytes in a cell of
// the metastore, made by the first agent that needs them and never changed. Who can read the metastore is an agent; nobody
// else is let in. Numbers are of fixed size and nothing is read beyond them:
//
//	→  offset  0  8 bytes   "firnpeer"
//	           8  1 byte    version, 1
//	           9  32 bytes  the caller's nonce
//	          41  32 bytes  HMAC-SHA256(secret, "firn peer 1 hello" ‖ caller's nonce)
//	←          0  32 bytes  the listener's nonce
//	          32  32 bytes  HMAC-SHA256(secret, "firn peer 1 listener" ‖ caller's nonce ‖ listener's nonce)
//	→          0  32 bytes  HMAC-SHA256(secret, "firn peer 1 caller" ‖ caller's nonce ‖ listener's nonce)
//
// The first message has a code of its own so that a stranger gets nothing but a closed connection; who replays one gets a
// nonce, and cannot answer it. All of it has to come within Config.HandshakeTimeout. Of handshakes under way there is a bound,
// at which the oldest makes room. What follows is neither encrypted nor signed: the network between agents must be one's own.
//
// # Requests
//
// After the proof a connection speaks HTTP: version 2 for what is small, waits long and comes in numbers, version 1 for bulk.
// Every request names the agent it is meant for by its node id (header Firn-To), since addresses are given out again; another
// one answers 421 and does nothing.
//
//	GET  /v1/hello                                who is there: node id, incarnation
//	GET  /v1/status                               how it is, for operators
//	POST /v1/kafka                                the body is a Kafka request without its size, header included; so is the answer
//	GET  /v1/segment?key=K&of=N&position=P&size=S that range of an object of N bytes; with held=1 from memory or not at all (404, with
//	                                              Firn-Below: the sequence below which none of its uploads is there); with cold=1 for a replay
//
// A request ends when its caller's context does, on both ends. Agents that are gone are found out by pings within seconds.
//
// # Memory
//
// The listener takes a forwarded request's bytes from a budget before it reads them, until the handler has decoded it; it
// refuses ranges (503, Firn-Busy) that find no room, since who asks has the bucket to fall back to. The client reads no more than was
// asked for, of ranges together no more than Config.ReadBytes at a time, those of replays apart from the others.
package peer
