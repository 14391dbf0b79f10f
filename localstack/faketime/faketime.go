// Package faketime runs tests on fake time: [Test] and [Wait] are those of testing/synctest, which everybody else here leaves alone
// (a test of docs holds it).
//
// Under the race detector Go 1.25 and 1.26 take the process down with a SIGSEGV in the detector, or a failed CHECK of it, when two
// goroutines of one bubble receive from timers that have run out already: (*timer).maybeRunChan runs both with the one detector
// context that a bubble has, and nothing keeps them apart. So tests on fake time have one processor there: nothing of a bubble then
// runs beside anything else of it. What the detector sees (which access is ordered after which) does not depend on it, and goroutines
// take turns as before. Every other test of the process keeps all processors.
package faketime

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// alone counts the bubbles that need the process to have one processor. GOMAXPROCS belongs to the process, and so does this.
var alone struct {
	sync.Mutex
	bubbles, processors int
}

// Test is synctest.Test.
func Test(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if raced {
		alone.Lock()
		if alone.bubbles++; alone.bubbles == 1 {
			alone.processors = runtime.GOMAXPROCS(1)
		}
		alone.Unlock()
		defer func() {
			alone.Lock()
			defer alone.Unlock()
			if alone.bubbles--; alone.bubbles == 0 {
				runtime.GOMAXPROCS(alone.processors)
			}
		}()
	}
	synctest.Test(t, f)
}

// Wait is synctest.Wait.
func Wait() { synctest.Wait() }
