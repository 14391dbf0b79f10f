// Package bench measures any Kafka from the client's side: the library behind `firn bench`. Nothing in it is particular
// to firn, so that Apache Kafka can be measured with the same program.
//
// # What is measured
//
//   - produce: time from when a record was meant to be sent to its acknowledgement.
//
//   - e2e: time from when a record was meant to be sent to its arrival at a consumer in this process (one clock).
//
//   - replay: throughput of a fresh consumer reading the topic from its start. The brokers' caches are as they are: a
//     cold read of Apache Kafka needs its page cache dropped, one of firn a restarted agent.
//
//   - contend: what a replay costs others. The topic is filled, then produce and e2e are measured at once in pairs of phases, one
//     alone (quiet) and one while consumers read what was filled from the start, over and over (replayed). The result is the
//     median ratio within the pairs, so that load of other programs on the machine cancels out.
//
//   - commit: what commits of offsets cost producers. Produce is measured in pairs of phases, one alone (quiet) and one while groups
//     without members commit offsets at a rate, in an open loop too.
//
// # Open and closed loop
//
// With a rate the loop is open: record i has an intended time that does not depend on any answer, and latency counts
// from there. A broker that stalls for a second is charged for every record that should have been sent in that second
// (no coordinated omission). Where the client itself is late, because it is slow or its buffer is full, that is charged
// too, and shown apart as lag: a lag of the order of the latency says that the client is the bottleneck.
//
// With Max the loop is closed: it keeps InFlightBytes unacknowledged and measures throughput. Latencies are then those of
// a full pipe and say little about the broker.
//
// # Units
//
// MB is 10^6 bytes of keys and values, before compression and without framing. Latencies are in milliseconds, from
// histograms of three significant digits. CPU seconds are those of this process, user and system.
//
// # Record value
//
// Integers are big-endian; sizes are in bytes.
//
//	offset  size  field
//	0       4     magic "fbn1"
//	4       8     run id
//	12      8     intended time, in nanoseconds since the phase began
//	20      8     number of the record within its producer
//	28      n     payload
package bench
