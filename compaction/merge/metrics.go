package merge

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/compaction/rewrite"
)

// Metrics are the figures of one agent's merging.
type Metrics struct {
	backlogObjects, backlogBytes, backlogAge prometheus.Gauge
	badPartitions, badObjects                prometheus.Gauge
	scratchBound                             prometheus.Gauge

	windows, windowObjects prometheus.Counter
	tiers, tierObjects     prometheus.Counter
	objects, bytes, rows   prometheus.Counter
	windowSeconds          prometheus.Histogram
	parts                  [rewrite.Stale + 1]prometheus.Counter
}

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	const prefix = "firn_compaction_merge_"
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
		all = append(all, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help})
		all = append(all, g)
		return g
	}
	m := &Metrics{
		backlogObjects: gauge("backlog_objects", "Objects of level 0 in the cluster: flushed and not merged yet, in part or at all."),
		backlogBytes:   gauge("backlog_bytes", "Bytes of these objects."),
		backlogAge:     gauge("backlog_age_seconds", "For how long this agent has seen the oldest of these objects."),
		badPartitions:  gauge("unreadable_partitions", "Partitions of which this agent could not merge something because it is missing or damaged."),
		badObjects:     gauge("unreadable_objects", "Objects of which this agent could merge nothing because they are missing or damaged."),
		scratchBound:   gauge("scratch_bound_bytes", "Most that this agent merges at once because scratch space had no room for more; 0 where it has."),
		windows:        counter("windows_total", "Windows of objects of level 0 that were merged."),
		windowObjects:  counter("window_objects_total", "Objects of level 0 that were read for that."),
		tiers:          counter("tiers_total", "Pieces of work on merged rows: several rows of partitions of a territory made one each."),
		tierObjects:    counter("tier_objects_total", "Merged objects that were read for that."),
		objects:        counter("objects_total", "Merged objects that were written."),
		bytes:          counter("bytes_total", "Bytes of record batches that were copied into merged objects, before compression."),
		rows:           counter("rows_total", "Index rows whose batches were copied."),
	}
	m.windowSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: prefix + "window_seconds", Help: "How long it took to merge a window.", Buckets: prometheus.ExponentialBuckets(0.05, 2, 14),
	})
	parts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "parts_total", Help: "Ranges of partitions that were rewritten, by what the log made of it.",
	}, []string{"outcome"})
	all = append(all, m.windowSeconds, parts)
	for o := range m.parts {
		m.parts[o] = parts.WithLabelValues(rewrite.Outcome(o).String())
	}
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}
