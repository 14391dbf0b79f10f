package kafka

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Metrics are the protocol's figures of one server.
type Metrics struct {
	requests       *prometheus.CounterVec
	requestSeconds *prometheus.HistogramVec
	errors         *prometheus.CounterVec
	inFlightBytes  prometheus.Gauge
	fetchBytes     prometheus.Gauge
	connections    prometheus.Gauge
	refused        prometheus.Counter
	closed         prometheus.Counter
	fetchSessions  prometheus.Gauge
	evicted        prometheus.Counter
}

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "firn_kafka_" + name, Help: help}
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "firn_kafka_" + name, Help: help})
	}
	m := &Metrics{
		requests: prometheus.NewCounterVec(counter("requests_total", "Requests answered."), []string{"api"}),
		requestSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "firn_kafka_request_seconds", Help: "Time from a request's last byte until its answer could be written.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18),
		}, []string{"api"}),
		errors:        prometheus.NewCounterVec(counter("errors_total", "Error codes answered, per request or part of one."), []string{"api", "error"}),
		inFlightBytes: gauge("in_flight_bytes", "Bytes of requests read and not given back."),
		fetchBytes:    gauge("fetch_in_flight_bytes", "Bytes of records in answers that are put together or written."),
		connections:   gauge("connections", "Open connections."),
		refused:       prometheus.NewCounter(counter("connections_refused_total", "Connections closed because there were too many.")),
		closed:        prometheus.NewCounter(counter("connections_faulty_total", "Connections closed for what the client sent.")),
		fetchSessions: gauge("fetch_sessions", "Incremental fetch sessions."),
		evicted:       prometheus.NewCounter(counter("fetch_sessions_evicted_total", "Fetch sessions that made room for others.")),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.requestSeconds, m.errors, m.inFlightBytes, m.fetchBytes, m.connections, m.refused,
			m.closed, m.fetchSessions, m.evicted)
	}
	return m
}

func (m *Metrics) answered(key int16, took time.Duration) {
	api := kmsg.NameForKey(key)
	m.requests.WithLabelValues(api).Inc()
	m.requestSeconds.WithLabelValues(api).Observe(took.Seconds())
}

// failed counts an error code that was answered.
func (m *Metrics) failed(key int16, code errorCode) {
	name := strconv.Itoa(int(code))
	if err := kerr.TypedErrorForCode(int16(code)); err != nil {
		name = err.Message
	}
	m.errors.WithLabelValues(kmsg.NameForKey(key), name).Inc()
}
