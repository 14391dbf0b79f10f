package bench

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const latencyMax = time.Hour

// newHistogram counts microseconds from 1 to latencyMax with three significant digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMax.Microseconds(), 3)
}

// observe counts one latency; what lies outside the histogram counts at its edge.
func observe(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), 1), latencyMax.Microseconds())) // within range: cannot fail
}

// Latency summarises a histogram in milliseconds. All fields are 0 where Count is.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99_9"`
	Max   float64 `json:"max"`
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	const perMillisecond = 1000
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / perMillisecond }
	return Latency{
		Count: h.TotalCount(), Mean: h.Mean() / perMillisecond,
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / perMillisecond,
	}
}
