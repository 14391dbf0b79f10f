package sim_test

import (
	"flag"
	"runtime/debug"
	"testing"

	"go.uber.org/goleak"
)

// The flags of a run; see the package comment.
var (
	seedsFlag   = flag.Int("sim.seeds", 60, "how many lives to simulate")
	seedFlag    = flag.Uint64("sim.seed", 1, "the first seed; the others follow it")
	repeatFlag  = flag.Int("sim.repeat", 1, "how often to live each seed: goroutines run in another order each time")
	verboseFlag = flag.Bool("sim.v", false, "print what happens in each life")
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // lives are short and leave nothing behind
	goleak.VerifyTestMain(m)
}
