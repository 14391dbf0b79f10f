package bench

import (
	"context"
	"time"
)

// Follow runs a schedule for the tests.
func Follow(ctx context.Context, first time.Duration, perSecond float64, end time.Duration, countMax int64, send func(i int64, intended time.Duration)) {
	schedule{first: first, interval: 1e9 / perSecond, end: end}.follow(ctx, time.Now(), countMax, send)
}

// Summarise puts latencies through a histogram.
func Summarise(latencies ...time.Duration) Latency {
	h := newHistogram()
	for _, d := range latencies {
		observe(h, d)
	}
	return latencyOf(h)
}

// Values makes count values of a payload kind, and a function that reads their intended time.
func Values(kind string, size, count int) (values [][]byte, intendedOf func([]byte) (time.Duration, error)) {
	p := newPayload(kind, 77, size, 1)
	for i := range count {
		values = append(values, p.appendValue(nil, time.Duration(i)*time.Second, int64(i)))
	}
	return values, p.intendedOf
}
