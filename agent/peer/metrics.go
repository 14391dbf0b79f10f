package peer

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the figures of one agent's server and client.
type Metrics struct {
	connections prometheus.Gauge
	strangers   prometheus.Counter
	served      *prometheus.CounterVec
	asked       *prometheus.CounterVec
	askSeconds  *prometheus.HistogramVec
	sentBytes   *prometheus.CounterVec
}

// Label values of what is asked of a peer.
const (
	kindKafka   = "kafka"
	kindSegment = "segment"
	kindStatus  = "status"
	kindHello   = "hello"
)

// Label values of how it ended.
const (
	outcomeOK          = "ok"
	outcomeUnreachable = "unreachable" // nothing was done
	outcomeLost        = "lost"        // what was done is not known
	outcomeRefused     = "refused"
	outcomeCancelled   = "cancelled"
)

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "firn_peer_connections", Help: "Open connections of other agents to the internal listener."}),
		strangers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "firn_peer_strangers_total", Help: "Connections to the internal listener that did not prove to be of an agent of this cluster.",
		}),
		served: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_peer_served_total", Help: "Requests of other agents that were served, by kind and status.",
		}, []string{"kind", "status"}),
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_peer_requests_total", Help: "Requests to other agents, by kind and outcome.",
		}, []string{"kind", "outcome"}),
		askSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "firn_peer_request_seconds", Help: "Time from a request to another agent until its answer was there.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 18),
		}, []string{"kind"}),
		sentBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_peer_served_bytes_total", Help: "Bytes of answers to other agents, by kind.",
		}, []string{"kind"}),
	}
	if reg != nil {
		reg.MustRegister(m.connections, m.strangers, m.served, m.asked, m.askSeconds, m.sentBytes)
	}
	for _, kind := range []string{kindKafka, kindSegment, kindStatus, kindHello} {
		m.asked.WithLabelValues(kind, outcomeOK)
		m.sentBytes.WithLabelValues(kind)
	}
	return m
}

// ended counts a request of ours.
func (m *Metrics) ended(kind string, began time.Time, err error) {
	outcome := outcomeCancelled
	switch {
	case err == nil:
		outcome = outcomeOK
		m.askSeconds.WithLabelValues(kind).Observe(time.Since(began).Seconds())
	case errors.Is(err, ErrUnreachable):
		outcome = outcomeUnreachable
	case errors.Is(err, ErrLost):
		outcome = outcomeLost
	case errors.Is(err, ErrRefused):
		outcome = outcomeRefused
	}
	m.asked.WithLabelValues(kind, outcome).Inc()
}
