// Package localstack runs a whole firn cluster on one machine as real processes: etcd, a bucket (a directory or MinIO), HAProxy, agents.
// Fault tests start, stop, kill, pause, cut off and restart any part of it; nothing in it pretends. `make localstack` runs one for people.
//
// Every process belongs to the Stack that started it, leads a process group of its own, writes its output to a file of its own, and is
// ended by Close, or by the kernel where whoever started it dies (on Linux). All addresses are loopback.
//
// # Names
//
// Parts are named a1, a2, … (agents), e1, e2, … (members of etcd), minio and haproxy, in logs, in Process and in rules of the network.
//
// # The network between them
//
// With Options.Links a relay of ours lies before every part that listens, and everybody connects to that: clients, HAProxy, agents, and
// the members of etcd among themselves.
//
//	client ──▶ link ──▶ haproxy ──▶ link ──▶ a1 ──▶ link ──▶ e1 ◀── link ◀── e2
//	                                          └───▶ link ──▶ minio
//
// A Rule lets nothing through, refuses, or delays, between two parts or around one. Who connects is asked of the kernel, by the process
// that holds the other end, so a part is cut off in both directions without namespaces and without being root.
package localstack
