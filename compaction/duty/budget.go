package duty

import (
	"context"

	"golang.org/x/time/rate"
)

// budgetBurst is what may be taken at once before the rate counts, in bytes.
const budgetBurst = 4 << 20

// Budget bounds the bytes that duties read and write. Safe for concurrent use; nil bounds nothing.
type Budget struct {
	limiter *rate.Limiter // nil: no bound
	pace    func(ctx context.Context, bytes int) error
}

// NewBudget allows bytesPerSecond, 0 for any number. pace, where not nil, is called besides before each piece of work and may wait
// as long as others need the machine; its error ends the work.
func NewBudget(bytesPerSecond int64, pace func(ctx context.Context, bytes int) error) *Budget {
	b := &Budget{pace: pace}
	if bytesPerSecond > 0 {
		b.limiter = rate.NewLimiter(rate.Limit(bytesPerSecond), budgetBurst)
	}
	return b
}

// Take waits until bytes may be read or written. The error is ctx's.
func (b *Budget) Take(ctx context.Context, bytes int) error {
	if b == nil {
		return context.Cause(ctx)
	}
	if b.pace != nil {
		if err := b.pace(ctx, bytes); err != nil {
			return err
		}
	}
	for b.limiter != nil && bytes > 0 {
		piece := min(bytes, budgetBurst)
		if err := b.limiter.WaitN(ctx, piece); err != nil { // ctx ended, or would before its turn comes
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		bytes -= piece
	}
	return context.Cause(ctx)
}
