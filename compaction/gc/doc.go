// Package gc deletes objects that nothing names any more, and looks whether those that are named are there and whole.
//
// The Runner of package compaction owns a T on every agent; the one agent that duty.Mine picks collects, the others watch the
// collection epoch. Two agents that both take themselves for the collector delete the same objects, which is harmless.
//
// # What may be deleted
//
// An object, named by its key, is in one of these states of life:
//
//	uploaded --Append, Rewrite--> named --its last row goes--> retired --collected--> gone
//	        \--no entry ever names it--> orphan --collected--> gone
//
// It is deleted only if all of this holds (judge.go):
//
//   - Nothing names it, in this agent's state, right before the delete.
//   - Its collection epoch is two behind the state's: Apply refuses ops that would name it anew. An object of which both hold in some
//     state is never named in a later one. So it does not matter how old that state is, nor how long a collector slept.
//   - The archive in the bucket holds what took the last name away, and the move of the collection epoch. So no restore from the bucket
//     brings the name back, nor a state in which the object could be named anew.
//   - The bucket's marker names this cluster, and no restore has opened a later log epoch.
//
// # Collection epochs
//
// The collector moves the epoch on, at most every Config.EpochInterval, while something waits for it: an object that retired, or an orphan
// that a sweep found, in one of the last two epochs. An idle cluster's epoch stands still. The epoch also stands still while objects that
// are old enough are still to be deleted: retired ones are forgotten after a few epochs, and would become orphans.
//
// # Sweeps
//
// Once a day the whole of data/ and topics/ is listed, a page a step. What nothing names is an orphan; what is named and not listed
// is asked for by name, and if it is not there, is missing; what has another size than the log says is damaged. Orphans are deleted when
// the sweep is over, unless they are suspiciously many (the breaker): then nothing at all is deleted any more until an operator accepts it, or
// a later sweep finds few. Where they are many the bucket is first asked which of them an object lock keeps: these do not count. Keys that are not firn's are counted and left alone.
//
// # Scrubbing
//
// All named objects are read once a month, slowly: footer, checksums of chunks and batches, and that rows lie within their blocks. What
// is missing or corrupt is an alarm, and is kept. A missing object's offsets are moved past by an operator's word (firn gc forget), or
// where a rule of the bucket that firn has read covers the object's age, and two listings an hour apart do not have it.
//
// # Requests
//
// Operators ask through a cell of the metastore (desk.go); the collector does it and answers there.
package gc
