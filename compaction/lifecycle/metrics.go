package lifecycle

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of the duty, kept by the agent that has it.
type Metrics struct {
	findings map[Severity]prometheus.Gauge
	held     prometheus.Gauge
	retagged prometheus.Counter
	stored   *prometheus.GaugeVec
	classed  *prometheus.GaugeVec
}

// classedMost bounds the topics that have series by storage class, the largest first.
const classedMost = 1000

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
	m.classed = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "firn_bucket_topic_stored_bytes",
		Help: "Size of live merged objects by topic and storage class, of topics that have some in another class than STANDARD; of the agent that has the duty only.",
	}, []string{"topic", "storage_class"})
	for _, s := range Severities() {
		m.findings[s] = findings.WithLabelValues(string(s))
	}
	if r != nil {
		r.MustRegister(findings, m.held, m.retagged, m.stored, m.classed)
	}
	return m
}

// keeps sets stored bytes anew; nil where another agent tells them.
func (m *Metrics) keeps(s *stored) {
	m.stored.Reset()
	m.classed.Reset()
	if s == nil {
		return
	}
	for class, n := range s.byClass {
		m.stored.WithLabelValues(class).Set(float64(n))
	}
	for _, topic := range s.classed(classedMost) {
		for class, n := range s.byTopic[topic] {
			m.classed.WithLabelValues(topic, class).Set(float64(n))
		}
	}
}

// stored is the size of live objects.
type stored struct {
	byClass map[string]int64
	byTopic map[string]map[string]int64 // of merged ones, by topic and class
}

// classed are the topics that have objects in another class than STANDARD, the largest first, at most so many.
func (s *stored) classed(most int) []string {
	size := func(topic string) (n int64) {
		for _, bytes := range s.byTopic[topic] {
			n += bytes
		}
		return n
	}
	var list []string
	for topic, classes := range s.byTopic {
		if len(classes) > 1 || len(classes) == 1 && classes[standard] == 0 {
			list = append(list, topic)
		}
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(a, b)) })
	return list[:min(len(list), most)]
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
