package sim_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// repeat is the command that lives a seed again. The order in which goroutines run is the runtime's and not the seed's: a
// life may differ in details from one time to the next, so try a few times.
func repeat(seed uint64) string {
	return fmt.Sprintf("GOMAXPROCS=%d go test ./localstack/sim -run '^TestSeeds$' -sim.seeds 1 -sim.seed %d -sim.v", runtime.GOMAXPROCS(0), seed)
}

// stuckAfter is how long a life may take in real time. Fake time stands still while a goroutine waits for a mutex
// (golang/go#77687), so a lock held over a wait shows as a life without end.
const stuckAfter = 2 * time.Minute

// guarded runs a life and ends the process where it does not end by itself.
func guarded(t *testing.T, p *plan, bug *plant) *outcome {
	watchdog := time.AfterFunc(stuckAfter, func() {
		stacks := make([]byte, 4<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		fmt.Fprintf(os.Stderr, "seed %d does not end: fake time stands still, see who waits for a mutex\n%s\n%s\n", p.seed, repeat(p.seed), stacks)
		os.Exit(2)
	})
	defer watchdog.Stop()
	return live(t, p, bug)
}

func TestSeeds(t *testing.T) {
	var mu sync.Mutex // guards total and findings
	total := newTally()
	findings := map[string]int{}
	first, lives := *seedFlag, *seedsFlag
	start, before := time.Now(), heapBytes()
	t.Run("lives", func(t *testing.T) {
		for i := range lives * *repeatFlag {
			seed := first + uint64(i%lives)
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				out := guarded(t, newPlan(seed), nil)
				mu.Lock()
				total.add(&out.tally)
				for _, f := range out.findings {
					findings[f.kind]++
				}
				mu.Unlock()
				if *verboseFlag {
					fmt.Printf("seed %d: %s\n%s\n", seed, describe(newPlan(seed)), strings.Join(out.trace, "\n"))
				}
				if len(out.findings) > 0 {
					t.Errorf("seed %d:\n%s\nrepeat with: %s", seed, out.verdict(), repeat(seed))
				}
			})
		}
	})
	seconds := time.Since(start).Seconds()
	fmt.Println(summary("sim", first, lives, seconds, &total, findings))
	if grown := heapBytes() - before; grown > heapGrowthMax {
		t.Errorf("the lives left %d bytes of memory behind, at most %d are fine", grown, heapGrowthMax)
	}
	if most := max(1, lives**repeatFlag/vacuousShare); total.Vacuous > most {
		t.Errorf("%d lives in which nothing was acknowledged or read, at most %d are fine", total.Vacuous, most)
	}
	if missing := total.neverStruck(); lives >= reachLives && len(missing) > 0 {
		t.Errorf("enabled in some life, struck in none: %s", strings.Join(missing, ", "))
	}
	if missing := total.neverMet(); lives >= reachLives && len(missing) > 0 {
		t.Errorf("met in no life: %s", strings.Join(missing, ", "))
	}
}

// reachLives is from how many lives on every fault that was enabled must have struck.
const reachLives = 300

// vacuousShare: one life in so many may have a bucket that was out for as long as its clients tried.
const vacuousShare = 100

// heapGrowthMax is what pools and metrics of the process may keep, whatever the number of lives.
const heapGrowthMax = 64 << 20

func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // empties the pools
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func describe(p *plan) string {
	var on []string
	for f := range p.on {
		on = append(on, string(f))
	}
	slices.Sort(on)
	q := *p
	q.on = nil
	return fmt.Sprintf("%+v on: %s", q, strings.Join(on, " "))
}
