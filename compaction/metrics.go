package compaction

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the Runner's; docs/metrics.md lists them.
type Metrics struct {
	seconds *prometheus.CounterVec
	steps   *prometheus.CounterVec
	failing *prometheus.GaugeVec
}

// What came of a step.
const (
	outcomeWorked = "worked"
	outcomeIdle   = "idle"
	outcomeFailed = "failed"
)

// NewMetrics makes and registers them; registry may be nil.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		seconds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_duty_seconds_total", Help: "Time spent in steps of a background duty, waiting included.",
		}, []string{"duty"}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_duty_steps_total", Help: "Steps of a background duty, by what came of them.",
		}, []string{"duty", "outcome"}),
		failing: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "firn_duty_failing", Help: "1 while a background duty fails and is tried again.",
		}, []string{"duty"}),
	}
	if registry != nil {
		registry.MustRegister(m.seconds, m.steps, m.failing)
	}
	return m
}

// prepare makes a duty's series, so that they are there before anything happens.
func (m *Metrics) prepare(duty string) {
	m.seconds.WithLabelValues(duty)
	for _, outcome := range [...]string{outcomeWorked, outcomeIdle, outcomeFailed} {
		m.steps.WithLabelValues(duty, outcome)
	}
	m.failing.WithLabelValues(duty)
}

func (m *Metrics) stepped(duty string, took time.Duration, worked bool, err error) {
	outcome, failing := outcomeIdle, 0.0
	switch {
	case err != nil:
		outcome, failing = outcomeFailed, 1
	case worked:
		outcome = outcomeWorked
	}
	m.seconds.WithLabelValues(duty).Add(took.Seconds())
	m.steps.WithLabelValues(duty, outcome).Inc()
	m.failing.WithLabelValues(duty).Set(failing)
}
