package lifecycle

import "github.com/prometheus/client_golang/prometheus"

// Metrics of the duty, kept by the agent that has it.
type Metrics struct {
	findings map[Severity]prometheus.Gauge
	held     prometheus.Gauge
	retagged prometheus.Counter
	stored   *prometheus.GaugeVec
}

// NewMetrics registers with r, which may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	findings := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "firn_bucket_findings", Help: "Contradictions between the bucket's rules, versions or locks and what topics promise, by severity.",
	}, []string{"severity"})
	m := &Metrics{
		findings: make(map[Severity]prometheus.Gauge),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "firn_bucket_classes_held", Help: "Retention classes whose rule is kept out of the bucket until objects carry another tag.",
		}),
		retagged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "firn_bucket_objects_retagged_total", Help: "Merged objects whose tags were put right.",
		}),
	}
	m.stored = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "firn_bucket_stored_bytes",
		Help: "Size of live segment objects by the storage class that they were put in, or that a rule of firn's has moved them to; of the agent that has the duty only.",
	}, []string{"storage_class"})
	for _, s := range Severities() {
		m.findings[s] = findings.WithLabelValues(string(s))
	}
	if r != nil {
		r.MustRegister(findings, m.held, m.retagged, m.stored)
	}
	return m
}

// keeps sets stored bytes anew; nil where another agent tells them.
func (m *Metrics) keeps(byClass map[string]int64) {
	m.stored.Reset()
	for class, n := range byClass {
		m.stored.WithLabelValues(class).Set(float64(n))
	}
}

func (m *Metrics) found(list []Finding) {
	count := make(map[Severity]int)
	for _, f := range list {
		count[f.Severity]++
	}
	for s, g := range m.findings {
		g.Set(float64(count[s]))
	}
}
