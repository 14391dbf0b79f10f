package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/metastore/state"
)

// Rooms are what the rooms get of a configuration.
func (c *Config) Rooms() []any {
	in, cache, srv, meta := c.ingest(), c.fetch(), c.kafka(), c.metastore()
	return []any{&in, &cache, &srv, &meta}
}

// RegisterTopicMetrics makes a collector of its own over a state.
func RegisterTopicMetrics(r prometheus.Registerer, detail Detail, seriesMax int, view func(func(*state.State)), nodeID func() int32) {
	newTopicMetrics(r, detail, seriesMax, view, nodeID)
}
