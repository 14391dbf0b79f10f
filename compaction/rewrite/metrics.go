package rewrite

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the figures of one agent's rewriting.
type Metrics struct {
	gets       prometheus.Counter
	getBytes   prometheus.Counter
	retries    prometheus.Counter
	puts       prometheus.Counter
	putBytes   prometheus.Counter
	swapped    prometheus.Counter
	conflicts  prometheus.Counter
	staleParts prometheus.Counter
}

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "firn_compaction_rewrite_" + name, Help: help})
		all = append(all, c)
		return c
	}
	m := &Metrics{
		gets:       counter("gets_total", "Requests that read input objects, retries included."),
		getBytes:   counter("read_bytes_total", "Bytes of input objects that were read from the bucket."),
		retries:    counter("retries_total", "Requests of the bucket that were made again because they had no answer."),
		puts:       counter("puts_total", "Merged objects that were uploaded."),
		putBytes:   counter("written_bytes_total", "Bytes of merged objects that were uploaded."),
		swapped:    counter("swapped_rows_total", "Index rows that were replaced by rows of merged objects."),
		conflicts:  counter("conflicts_total", "Ranges that were rewritten in vain: their rows had changed, or their topic was gone."),
		staleParts: counter("stale_total", "Ranges whose object was too old to be named once it was uploaded."),
	}
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}
