// Package recovery practises the loss of etcd: agents in this process on a real etcd, producers that never stop, etcd and all
// its data gone, the log restored from the bucket alone into a new etcd, and the agents started again. It is a package
// of tests.
//
// What is held: every acknowledged record is read, once, each producer's in order; what was archived is at the offset of its
// acknowledgement; producers go on with the sequences they had; a consumer that had read what got other offsets is told so
// by its client. localstack/interop does the same with processes and kill -9.
package recovery
