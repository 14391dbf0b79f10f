package retention

import "github.com/prometheus/client_golang/prometheus"

// Metrics are retention's figures of one agent.
type Metrics struct {
	passes prometheus.Counter
	rows   *prometheus.CounterVec
	bytes  prometheus.Counter
	cuts   prometheus.Counter
	held   prometheus.Gauge
	lead   prometheus.Gauge
}

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "firn_retention_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "firn_retention_" + name, Help: help})
	}
	m := &Metrics{
		passes: counter("passes_total", "Times that this agent has looked at all partitions that are its to look after."),
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_retention_deleted_rows_total", Help: "Index rows that retention removed, by what they exceeded: time or size.",
		}, []string{"by"}),
		bytes: counter("deleted_bytes_total", "Raw bytes of records that retention removed."),
		cuts:  counter("log_starts_moved_total", "Log start offsets that retention moved."),
		held:  gauge("held", "1 while nothing is deleted because the time may be wrong; /readyz says why."),
		lead:  gauge("clock_lead_seconds", "How far log time was ahead of the bucket's clock, or has jumped, at the last look."),
	}
	m.rows.WithLabelValues("time")
	m.rows.WithLabelValues("size")
	if reg != nil {
		reg.MustRegister(m.passes, m.rows, m.bytes, m.cuts, m.held, m.lead)
	}
	return m
}
