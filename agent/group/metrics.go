package group

import "github.com/prometheus/client_golang/prometheus"

// Metrics of one coordinator.
type Metrics struct {
	slots, groups prometheus.Gauge
	writes        prometheus.Counter
	expired       prometheus.Counter
}

// NewMetrics registers with r, which may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		slots: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "firn_group_slots", Help: "Slots of consumer groups that this agent coordinates; 64 in all agents together.",
		}),
		groups: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "firn_group_loaded", Help: "Consumer groups in the memory of their coordinator: those with members.",
		}),
		writes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "firn_group_writes_total", Help: "Changes of members, generations and assignments that were proposed; offsets apart.",
		}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "firn_group_offsets_expired_total", Help: "Committed offsets that this agent removed because their retention was over.",
		}),
	}
	if r != nil {
		r.MustRegister(m.slots, m.groups, m.writes, m.expired)
	}
	return m
}
