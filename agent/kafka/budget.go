package kafka

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// budget is a number of bytes that are handed out first come, first served.
type budget struct {
	sem   *semaphore.Weighted
	gauge prometheus.Gauge // what is handed out; may be nil
}

func newBudget(size int, gauge prometheus.Gauge) *budget {
	return &budget{sem: semaphore.NewWeighted(int64(size)), gauge: gauge}
}

// take waits for n bytes.
func (b *budget) take(ctx context.Context, n int64) error {
	if err := b.sem.Acquire(ctx, n); err != nil {
		return err
	}
	if b.gauge != nil {
		b.gauge.Add(float64(n))
	}
	return nil
}

func (b *budget) give(n int64) {
	if n <= 0 {
		return
	}
	b.sem.Release(n)
	if b.gauge != nil {
		b.gauge.Sub(float64(n))
	}
}
