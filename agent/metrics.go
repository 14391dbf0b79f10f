package agent

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/firnlog/firn/objstore/metered"
)

func registerProcess(r *prometheus.Registry) {
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// bucketMetrics counts the requests that a bucket is paid for.
type bucketMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
}

func newBucketMetrics(r prometheus.Registerer) *bucketMetrics {
	m := &bucketMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_objectstore_requests_total", Help: "Requests to the bucket.",
		}, []string{"op", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "firn_objectstore_request_seconds", Help: "Time of requests to the bucket.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 17),
		}, []string{"op"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_objectstore_bytes_total", Help: "Bytes written to and read from the bucket.",
		}, []string{"op"}),
	}
	r.MustRegister(m.requests, m.seconds, m.bytes)
	return m
}

// Observe implements metered.Observer.
func (m *bucketMetrics) Observe(op metered.Op, outcome metered.Outcome, seconds float64, bytes int64) {
	m.requests.WithLabelValues(string(op), string(outcome)).Inc()
	m.seconds.WithLabelValues(string(op)).Observe(seconds)
	if bytes > 0 {
		m.bytes.WithLabelValues(string(op)).Add(float64(bytes))
	}
}
