// Package localstack runs a whole firn cluster on one machine as real processes: etcd, agents, a bucket. Fault tests start,
// stop, kill and restart any part of it; nothing in it pretends.
//
// Every process belongs to the Stack that started it, writes its output to a file of its own, and is ended by Close. All
// addresses are loopback. A MinIO server can stand in for the directory that is the bucket otherwise.
package localstack
