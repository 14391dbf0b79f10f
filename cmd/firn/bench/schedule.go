package bench

import (
	"context"
	"time"
)

// schedule gives every record of one producer its intended time. It knows nothing of answers: that is what keeps the
// loop open.
type schedule struct {
	first    time.Duration // intended time of record 0; staggers the producers
	interval float64       // nanoseconds between records; a float so that rounding does not add up
	end      time.Duration // no record is meant for this time or later
}

// at returns the intended time of record i; ok is false past the end.
func (s schedule) at(i int64) (intended time.Duration, ok bool) {
	intended = s.first + time.Duration(float64(i)*s.interval)
	return intended, intended < s.end
}

// follow calls send for each record no earlier than its intended time, in order, as fast as needed to catch up when it
// is late, until the schedule, the count or ctx ends. start is when time 0 was.
func (s schedule) follow(ctx context.Context, start time.Time, countMax int64, send func(i int64, intended time.Duration)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range countMax {
		intended, ok := s.at(i)
		if !ok {
			return
		}
		if early := intended - time.Since(start); early > 0 {
			timer.Reset(early)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		} else if ctx.Err() != nil {
			return
		}
		send(i, intended)
	}
}
