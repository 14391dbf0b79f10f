package kafka

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// budget is a number of bytes that are handed out first come, first served.
type budget struct {
	sem   *semaphore.Weighted
	gauge gauge // what is handed out; may be nil
}

type gauge interface{ Add(delta float64) }

func newBudget(size int, out gauge) *budget {
	return &budget{sem: semaphore.NewWeighted(int64(size)), gauge: out}
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
		b.gauge.Add(-float64(n))
	}
}
