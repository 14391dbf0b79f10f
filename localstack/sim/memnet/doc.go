// Package memnet is a network in memory: listeners and connections inside one process, for tests that run in a
// testing/synctest bubble. Package sim makes one per simulated cluster.
//
// A connection is two bounded byte streams. What net.Pipe lacks is added: writes return once the bytes are buffered, as a
// socket's do, so that a peer that does not read stalls nobody else; and the network can misbehave:
//
//	latency   bytes arrive up to LatencyMax after they were written, in order
//	reset     a write breaks the connection: half the time both ends fail at once and what was under way is gone, half the
//	          time the peer still reads a part of it and then the end of the stream (a torn frame)
//	stall     nothing that an address sends or is sent arrives until the stall ends; connecting hangs
//	cut       all connections of an address break now
//
// No lock is held while anything waits, every wait is on a channel or a timer, and nothing is started in the background: so
// a bubble's clock moves whenever everybody waits, and a closed network leaves nothing behind.
package memnet
