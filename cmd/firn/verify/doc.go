// Package verify runs a workload against any Kafka and judges what comes back: the library behind `firn verify`.
//
// Producers send numbered, keyed, checksummed records and keep what became of each. Roaming consumers read them back
// while they are being written: every fetch is an explicit request to a broker picked at random, not to the leader, so
// that each consumer's stream is stitched together from many brokers and lives through their restarts. A watcher lists
// the ends of all partitions through random brokers. After the last send everything is read to the final high
// watermark, then once more from the start by fresh consumers. Package check holds the judgement and explains it.
//
// Idempotent producers retry inside franz-go for as long as the run lasts, so any duplicate is a violation. Plain
// producers do not retry there: this package does, and counts attempts, so that a record may be found at most as
// often as it was sent, and a record sent once is still held to its order.
//
// Brokers that serve only what they lead (Apache Kafka with one replica) answer fetches of other partitions with
// NOT_LEADER_OR_FOLLOWER; consumers then try the next broker and remember for a moment.
package verify
