// Package mem is a bucket in memory, for tests, the simulator and `firn dev --memory`. It keeps the whole contract but
// durability: what it holds is gone with the process.
// It also keeps tags, lifecycle rules (without effect), the state of versioning (without versions) and object locks, which it
// holds callers to by a clock that tests can set: what is locked can be neither replaced nor deleted. Storage classes are dropped.
//
// Bodies are copied on the way in and on the way out, so neither side can change what the other holds.
package mem
