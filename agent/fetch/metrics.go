package fetch

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the read path's figures of one agent.
type Metrics struct {
	servedBytes   prometheus.Counter
	servedBatches prometheus.Counter

	hotHits    prometheus.Counter
	coldHits   prometheus.Counter
	misses     prometheus.Counter
	hotBytes   prometheus.Gauge
	coldBytes  prometheus.Gauge
	limitBytes prometheus.Gauge
	gets       prometheus.Counter
	getBytes   prometheus.Counter
	getRetries prometheus.Counter
	getSeconds prometheus.Histogram
	readAheads prometheus.Counter
	missing    prometheus.Counter
	corrupt    prometheus.Counter
}

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "firn_fetch_" + name, Help: help})
		all = append(all, c)
		return c
	}
	hits := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "firn_fetch_cache_hits_total", Help: "Reads answered from memory: hot, written by this agent; cold, read before.",
	}, []string{"temperature"})
	bytes := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "firn_fetch_cache_bytes", Help: "Bytes in the cache.",
	}, []string{"temperature"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "firn_fetch_get_seconds", Help: "Time of one successful GET.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	})
	limit := prometheus.NewGauge(prometheus.GaugeOpts{Name: "firn_fetch_cache_limit_bytes", Help: "Bound of what is in the cache."})
	all = append(all, hits, bytes, seconds, limit)
	m := &Metrics{
		servedBytes:   counter("served_bytes_total", "Bytes of record batches given to readers."),
		servedBatches: counter("served_batches_total", "Record batches given to readers."),
		hotHits:       hits.WithLabelValues("hot"),
		coldHits:      hits.WithLabelValues("cold"),
		misses:        counter("cache_misses_total", "Reads that had to wait for the bucket."),
		hotBytes:      bytes.WithLabelValues("hot"),
		coldBytes:     bytes.WithLabelValues("cold"),
		limitBytes:    limit,
		gets:          counter("gets_total", "Successful GETs of objects or ranges."),
		getBytes:      counter("get_bytes_total", "Bytes read from the bucket."),
		getRetries:    counter("get_retries_total", "GETs that were tried again."),
		getSeconds:    seconds,
		readAheads:    counter("read_aheads_total", "GETs started before anybody asked."),
		missing:       counter("missing_objects_total", "Reads of an object that the log names and the bucket does not have. Page."),
		corrupt:       counter("corrupt_reads_total", "Reads of bytes whose checksum does not hold, after getting them twice. Page."),
	}
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}

func (m *Metrics) hit(hot bool) {
	if hot {
		m.hotHits.Inc()
	} else {
		m.coldHits.Inc()
	}
}
