// Package mem is a bucket in memory, for tests, the simulator and `firn dev --memory`. It keeps the whole contract but
// durability: what it holds is gone with the process.
//
// Bodies are copied on the way in and on the way out, so neither side can change what the other holds.
package mem
