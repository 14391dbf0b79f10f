// Package clients has stock clients work as consumer groups while a cluster's agents are killed, paused and drained under them. Its tests
// need each client, and etcd, MinIO and HAProxy as programs (build tag interop; .ci/interop).
//
// # Members
//
// A member of a group is a small program in the client's own language, with the client's own defaults. It commits about four times a
// second, reads until its standard input ends, and says what it sees on its standard output, a JSON object a line:
//
//	{"event":"assigned","partitions":[0,3]}              it has got partitions, beside those it has
//	{"event":"revoked","partitions":[0,3]}               it has given them up, or lost them
//	{"event":"record","partition":0,"offset":7,"number":512}   it was shown a record; the record's key is its number
//	{"event":"committed","partition":0,"offset":8}       a commit was acknowledged
//	{"event":"note","text":"…"}                          something that the client goes on after
//	{"event":"error","text":"…"}                         something that it does not: the test fails
//
// # What is judged
//
// An idempotent producer numbers records over 24 partitions. Package check holds the log to what was acknowledged (once, in order) and
// the group to the log (each record at least once, each partition in order, commits that never go back); an observer of its own asks
// all the time what is committed. For each fault the test says how long it took, by partition, until the group was shown a record
// produced after it, and until a record produced after it was committed. Those times are told and never asserted.
package clients
