// Package retention removes what topics no longer promise to keep: records older than retention.ms, and the oldest beyond
// retention.bytes, of topics with cleanup.policy=delete (alone or beside compact).
//
// The Runner of package compaction owns a T on every agent and calls Step; what a territory's owner proposes is DeleteRecords,
// nothing else. What that retires is package gc's.
//
// # What goes
//
// Plan looks at a partition's rows, oldest first, as Kafka looks at segments: a row goes when its largest timestamp is older than
// log time by more than the topic's retention, or when what remains without it is still as large as retention.bytes asks for;
// the first row that stays ends it. So a record with a timestamp in the future keeps the rows from its own on, and the only
// row of an idle topic goes when it is old. A row without a timestamp (-1) is as old as the next one that has one. Rows that are
// still in a WAL stay.
//
// # Whose time
//
// Log time is the median of the agents' clocks, and with one agent its clock alone. It never goes back, and retention cannot be
// taken back either, so a second clock has a say (Judge):
//
//   - The bucket's, where it has one: while log time is ahead of it by more than an hour, nothing is deleted. While the bucket
//     does not say, nothing is deleted either.
//
//   - Else (a directory, memory) log time is held against the process' own steady clock, and after a start against the log time
//     that was last trusted, which a cell in the metastore keeps. Where it has jumped by more than an hour nothing is deleted until it has
//     run evenly for an hour; that is a laptop that slept, or was off. Past a jump of 31 days, an operator has to say that the time is right.
//
//     trusted --jump--> settling --an hour without another--> trusted
//     \--more than 31 days--> held --firn gc approve--> trusted
//
// firn gc approve writes its word into the same cell. Where the log is ahead of the bucket's clock, the word is that the bucket is
// right: what is old is then judged by the bucket's clock, until log time agrees with it again.
package retention
