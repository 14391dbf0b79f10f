package agent

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/metered"
)

// Rooms are what the rooms get of a configuration.
func (c *Config) Rooms() []any {
	in, cache, srv, meta, grp := c.ingest(), c.fetch(), c.kafka(), c.metastore(), c.group()
	return []any{&in, &cache, &srv, &meta, &grp, &grp.Classic, &grp.Consumer}
}

// Look tells the log what has changed of a part; cause is "" where it is well.
func Look(logger *slog.Logger) func(cause string, now time.Time) {
	var o outage
	return func(cause string, now time.Time) { o.look(logger, condition{part: "etcd", cause: cause}, now) }
}

// BucketHealth judges a bucket by its requests: those that read and those that write.
func BucketHealth() (saw func(metered.Op, metered.Outcome, time.Duration), causes func() (read, write string)) {
	var h bucketHealth
	return h.saw, h.causes
}

// RegisterTopicMetrics makes a collector of its own over a state.
func RegisterTopicMetrics(r prometheus.Registerer, detail Detail, seriesMax int, view func(func(*state.State)), nodeID func() int32) {
	newTopicMetrics(r, detail, seriesMax, view, nodeID)
}

// Behind judges how far an agent is behind its peers.
func Behind() (saw func(now time.Time, peer string, theirs, ours uint64), cause func() string) {
	b := behind{patience: 6 * time.Second}
	return b.saw, b.cause
}
