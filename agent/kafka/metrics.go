package kafka

import (
	"errors"
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
	inFlightLimit  prometheus.Gauge
	fetchBytes     prometheus.Gauge
	fetchLimit     prometheus.Gauge
	queuedBytes    prometheus.Gauge
	queuedLimit    prometheus.Gauge
	workBytes      prometheus.Gauge
	workLimit      prometheus.Gauge
	budgetWait     *prometheus.CounterVec
	connections    prometheus.Gauge
	connLimit      prometheus.Gauge
	accepted       prometheus.Counter
	refused        *prometheus.CounterVec
	displaced      prometheus.Counter
	paced          prometheus.Counter
	aged           prometheus.Counter
	proxied        *prometheus.CounterVec
	faulty         *prometheus.CounterVec
	produceLate    prometheus.Counter
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
		inFlightLimit: gauge("in_flight_limit_bytes", "Bound of firn_kafka_in_flight_bytes; at it, producers are read no further."),
		fetchLimit:    gauge("fetch_in_flight_limit_bytes", "Bound of firn_kafka_fetch_in_flight_bytes."),
		connections:   gauge("connections", "Open connections."),
		connLimit:     gauge("connections_limit", "Bound of firn_kafka_connections; more are closed at once."),
		accepted:      prometheus.NewCounter(counter("connections_accepted_total", "Connections that were let in.")),
		queuedBytes:   gauge("queued_bytes", "Bytes of small requests that were read and not given back."),
		queuedLimit:   gauge("queued_limit_bytes", "Bound of firn_kafka_queued_bytes."),
		workBytes:     gauge("work_bytes", "Bytes of what is made of requests until they are answered, records apart."),
		workLimit:     gauge("work_limit_bytes", "Bound of firn_kafka_work_bytes."),
		budgetWait: prometheus.NewCounterVec(counter("budget_wait_seconds_total",
			"Time that requests waited for one of the budgets of memory, or, large, for others beyond 16 MiB to be read: clients are throttled."), []string{"budget"}),
		refused: prometheus.NewCounterVec(counter("connections_refused_total",
			"Connections closed at once: too many in all, too many of one address, or the agent is draining."), []string{"reason"}),
		displaced: prometheus.NewCounter(counter("connections_displaced_total", "Connections that never asked for anything, closed to make room for others.")),
		paced:     prometheus.NewCounter(counter("connections_paced_total", "Connections that were let in later because their address makes too many.")),
		aged:      prometheus.NewCounter(counter("connections_aged_total", "Connections closed because they were old, so that their clients come again to an agent of then.")),
		proxied: prometheus.NewCounterVec(counter("proxied_connections_total",
			"Connections of trusted proxies by the PROXY protocol header they began with."), []string{"header"}),
		faulty: prometheus.NewCounterVec(counter("connections_faulty_total",
			"Connections closed for what the client did: foreign protocol, malformed request, size out of bounds, slow, other."), []string{"reason"}),
		produceLate: prometheus.NewCounter(counter("produce_timeouts_total",
			"Produce requests answered with REQUEST_TIMED_OUT because their time was over before their outcome was known.")),
		fetchSessions: gauge("fetch_sessions", "Incremental fetch sessions."),
		evicted:       prometheus.NewCounter(counter("fetch_sessions_evicted_total", "Fetch sessions that made room for others.")),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.requestSeconds, m.errors, m.inFlightBytes, m.inFlightLimit, m.fetchBytes, m.fetchLimit,
			m.queuedBytes, m.queuedLimit, m.workBytes, m.workLimit, m.budgetWait, m.displaced, m.paced, m.aged, m.proxied,
			m.connections, m.connLimit, m.accepted, m.refused, m.faulty, m.produceLate, m.fetchSessions, m.evicted)
	}
	for _, reason := range []string{refusedFull, refusedAddress, refusedDraining} {
		m.refused.WithLabelValues(reason)
	}
	for _, kind := range []string{proxyV1, proxyV2, proxyLocal, proxyNone, proxyBad} {
		m.proxied.WithLabelValues(kind)
	}
	for _, reason := range faultReasons {
		m.faulty.WithLabelValues(reason)
	}
	return m
}

func (m *Metrics) answered(key int16, took time.Duration) {
	api := apiName(key)
	m.requests.WithLabelValues(api).Inc()
	m.requestSeconds.WithLabelValues(api).Observe(took.Seconds())
}

// failed counts an error code that was answered.
func (m *Metrics) failed(key int16, code errorCode) {
	name := labelOther
	if err := kerr.TypedErrorForCode(int16(code)); err != nil {
		name = err.Message
	}
	m.errors.WithLabelValues(apiName(key), name).Inc()
}

// Label values of firn_kafka_connections_refused_total.
const (
	refusedFull     = "full"
	refusedAddress  = "address"
	refusedDraining = "draining"
)

// labelOther is the label value of whatever has no name of its own: what clients send must not make series.
const labelOther = "other"

// apiName is the label of an API: one of those in the table, or other.
func apiName(key int16) string {
	if _, ok := lookupAPI(key); !ok {
		return labelOther
	}
	return kmsg.NameForKey(key)
}

// faultReasons are the label values of firn_kafka_connections_faulty_total.
var faultReasons = [...]string{"foreign", "malformed", "size", "slow", labelOther}

// faultReason classes why a connection was closed for its client's fault.
func faultReason(err error) string {
	for i, is := range [...]error{errForeign, errMalformed, errFrameSize, errSlow} {
		if errors.Is(err, is) {
			return faultReasons[i]
		}
	}
	return labelOther
}
