// Package agent is one firn agent: it wires the rooms below it together and owns their lives.
//
// Start order, and the reverse at the end: the metastore client joins the cluster; the write-ahead log opens; the read cache,
// the ingest pipeline, the group coordinator and the Kafka server come up; only then does /readyz turn true. Drain goes the other
// way: not ready, consumer groups are handed over, no new connections, everything staged is uploaded, committed and answered, the agent leaves the cluster, exits.
//
// cmd/firn gives it a log, a bucket and listeners; so do tests and the simulator, with others.
package agent
