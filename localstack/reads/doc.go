// Package reads counts what a cluster of three agents asks of its bucket: GETs for what is consumed, PUTs for what is produced. Its test needs
// etcd as a program (build tag interop; .ci/interop) and prints the figures of docs/benchmarks.md.
package reads
