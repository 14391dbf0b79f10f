// Package faulty decorates a bucket so that it misbehaves the way object stores do, from a seed: for the simulator and
// for fault tests. Each fault has a probability of its own and a counter.
//
// Faults that the contract of objstore.Bucket allows, which every caller has to survive:
//
//	Slow          the call takes longer
//	Unavailable   the call fails and has no effect
//	Burst         this call and the next ones fail and have no effect, as under throttling
//	Ambiguous     a put or delete takes effect and reports failure
//	Late          a put or delete reports failure and takes effect some time later, over what came in between
//
// Faults that break the contract, which callers must notice or at least not make worse. They are off unless asked for:
//
//	Hidden        an object that was put is not found for a number of reads, nor listed
//	BitFlip       one bit of a body read is inverted
//	ShortRange    a range comes back shorter than asked, without an error
//
// # Order
//
// Every call draws the same number of values, whatever its kind and the configuration: so with one caller a seed gives the
// same faults again, and switching one fault off leaves the others where they were. With concurrent callers the order in
// which they arrive decides who meets which fault. Only Late starts goroutines; Close ends their wait, lets the effects
// happen and returns when all have.
package faulty
