package faketime_test

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack/faketime"
)

// Under the race detector this ended the process within milliseconds.
func TestManyGoroutinesReceiveFromTimersThatHaveRunOut(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	faketime.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		received := make([]int, 4)
		for g := range received {
			wg.Go(func() {
				for range 10_000 {
					timer := time.NewTimer(0)
					select {
					case <-timer.C:
						received[g]++
					default:
					}
					timer.Stop()
				}
			})
		}
		wg.Wait()
		faketime.Wait()
		for g, n := range received {
			if n != 10_000 {
				t.Errorf("goroutine %d received from %d of 10 000 timers that had run out", g, n)
			}
		}
	})
	if now := runtime.GOMAXPROCS(0); now != before {
		t.Errorf("%d processors after the bubble, %d before", now, before)
	}
}
