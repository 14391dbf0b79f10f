package ingest

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the produce path's figures of one agent.
type Metrics struct {
	stagedBytes   prometheus.Counter
	stagedBatches prometheus.Counter
	stagedRecords prometheus.Counter
	residentBytes prometheus.Gauge
	residentLimit prometheus.Gauge
	spilledBytes  prometheus.Counter
	spillBytes    prometheus.Gauge
	blockedStages prometheus.Counter
	blockedTime   prometheus.Counter

	flushes       [flushReasons]prometheus.Counter
	segmentBytes  prometheus.Histogram
	uploadSeconds prometheus.Histogram
	uploadRetries prometheus.Counter
	commitSeconds prometheus.Histogram

	duplicates    prometheus.Counter
	parked        prometheus.Gauge
	parkedTotal   prometheus.Counter
	gapsAnswered  prometheus.Counter
	staleObjects  prometheus.Counter
	rejectedParts prometheus.Counter
}

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "firn_ingest_" + name, Help: help})
		all = append(all, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "firn_ingest_" + name, Help: help})
		all = append(all, g)
		return g
	}
	histogram := func(name, help string, start float64, n int) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "firn_ingest_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(start, 2, n),
		})
		all = append(all, h)
		return h
	}
	m := &Metrics{
		stagedBytes:   counter("staged_bytes_total", "Bytes of record batches taken in."),
		stagedBatches: counter("staged_batches_total", "Record batches taken in."),
		stagedRecords: counter("staged_records_total", "Records taken in."),
		residentBytes: gauge("resident_bytes", "Bytes of record batches in memory that are not applied yet."),
		residentLimit: gauge("resident_limit_bytes", "Bound of firn_ingest_resident_bytes; beyond it batches go to the WAL."),
		spilledBytes:  counter("spilled_bytes_total", "Bytes of record batches written to the WAL for lack of memory."),
		spillBytes:    gauge("spill_bytes", "Bytes of record batches that wait in the WAL."),
		blockedStages: counter("blocked_stages_total", "Requests that had to wait for memory or WAL space."),
		blockedTime:   counter("blocked_seconds_total", "Time that requests waited for memory or WAL space: producers are held back."),
		segmentBytes:  histogram("segment_bytes", "Size of uploaded segments.", 1<<10, 15),
		uploadSeconds: histogram("upload_seconds", "Time from the start of a segment's upload until it is in the bucket, retries included.", 0.001, 16),
		uploadRetries: counter("upload_retries_total", "Puts that were tried again because their outcome was unknown."),
		commitSeconds: histogram("commit_seconds", "Time from submitting a segment's append op until it was applied.", 0.0005, 16),
		duplicates:    counter("duplicate_batches_total", "Batches that the log held already, answered with their first offset."),
		parked:        gauge("parked_batches", "Batches that wait for one that should come before them."),
		parkedTotal:   counter("parked_batches_total", "Batches that had to wait for one that should come before them."),
		gapsAnswered:  counter("sequence_gaps_total", "Batches refused because the one before them never came."),
		staleObjects:  counter("stale_segments_total", "Segments uploaded again because their collection epoch had passed."),
		rejectedParts: counter("rejected_batches_total", "Batches refused by the state machine, other than duplicates and gaps."),
	}
	flushes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "firn_ingest_flushes_total", Help: "Segments closed, by reason.",
	}, []string{"reason"})
	all = append(all, flushes)
	for r := range m.flushes {
		m.flushes[r] = flushes.WithLabelValues(flushReason(r).String())
	}
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}
