// Package etcdembed runs one etcd member inside this process: for a single-machine firn, for tests, and with fsync off for
// the memory mode. It listens on loopback only, on a port of the system's choice, for other processes of the same machine;
// this process can speak to it without a socket (Server.Client), which takes a third off a commit's latency.
//
// A member here has no peers and cannot get any. Whoever wants to survive the loss of a machine runs etcd beside firn.
package etcdembed
