package faulty

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/firnlog/firn/objstore"
)

// Fault names one kind of misbehaviour.
type Fault string

// The faults, as the package doc describes them.
const (
	Slow        Fault = "slow"
	Unavailable Fault = "unavailable"
	Burst       Fault = "burst"
	Ambiguous   Fault = "ambiguous"
	Late        Fault = "late"
	Hidden      Fault = "hidden"
	BitFlip     Fault = "bit_flip"
	ShortRange  Fault = "short_range"
)

// Config says how often each fault strikes: probabilities from 0 to 1 per call that it can strike. The zero value is a
// bucket without faults.
type Config struct {
	Slow    float64       // any call
	SlowMax time.Duration // Slow takes a uniform part of it

	Unavailable float64 // any call

	Burst      float64 // any call: chance that a burst starts with it
	BurstCalls int     // longest burst; lengths are uniform from 1

	Ambiguous float64 // put, delete

	Late    float64       // put, delete
	LateMax time.Duration // Late waits a uniform part of it

	Hidden      float64 // put that succeeded
	HiddenReads int     // how many reads and lists miss the object at most, uniform from 1

	BitFlip    float64 // get, range
	ShortRange float64 // range

	// Sleep waits for d or until ctx ends, and returns ctx's error then. Nil means a timer, which a synctest bubble fakes.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Validate returns every problem at once, each an objstore.ErrInvalid.
func (c Config) Validate() error {
	var problems []error
	for _, p := range []struct {
		fault       Fault
		probability float64
		size        int64 // what the fault needs besides
		needs       string
	}{
		{Slow, c.Slow, int64(c.SlowMax), "SlowMax"},
		{Unavailable, c.Unavailable, 1, ""},
		{Burst, c.Burst, int64(c.BurstCalls), "BurstCalls"},
		{Ambiguous, c.Ambiguous, 1, ""},
		{Late, c.Late, int64(c.LateMax), "LateMax"},
		{Hidden, c.Hidden, int64(c.HiddenReads), "HiddenReads"},
		{BitFlip, c.BitFlip, 1, ""},
		{ShortRange, c.ShortRange, 1, ""},
	} {
		if !(p.probability >= 0 && p.probability <= 1) { // also NaN
			problems = append(problems, fmt.Errorf("probability %v of %s is not in 0..1: %w", p.probability, p.fault, objstore.ErrInvalid))
		}
		if p.size < 0 || p.probability > 0 && p.size == 0 {
			problems = append(problems, fmt.Errorf("%s needs a positive %s: %w", p.fault, p.needs, objstore.ErrInvalid))
		}
	}
	return errors.Join(problems...)
}

// plan is what will happen to one call. Fields that the call's kind has no use for are ignored.
type plan struct {
	slow        time.Duration // 0 for not slow
	unavailable bool
	burst       int // calls that fail, this one included
	ambiguous   bool
	late        time.Duration // 0 for not late
	hidden      int           // reads that miss the object
	bitFlip     bool
	shortRange  bool
	where       uint64 // which bit, how much shorter
}

// draw makes the plan of one call. It takes the same number of values from rng whatever c says.
func draw(rng *rand.Rand, c Config) plan {
	var p plan
	strikes := func(probability float64) bool { return rng.Float64() < probability }
	part := func(most int64) int64 { // uniform in 1..most
		fraction := rng.Float64()
		return min(most, 1+int64(fraction*float64(most)))
	}
	if slow, d := strikes(c.Slow), part(int64(c.SlowMax)); slow {
		p.slow = time.Duration(d)
	}
	p.unavailable = strikes(c.Unavailable)
	if burst, n := strikes(c.Burst), part(int64(c.BurstCalls)); burst {
		p.burst = int(n)
	}
	p.ambiguous = strikes(c.Ambiguous)
	if late, d := strikes(c.Late), part(int64(c.LateMax)); late {
		p.late = time.Duration(d)
	}
	if hidden, n := strikes(c.Hidden), part(int64(c.HiddenReads)); hidden {
		p.hidden = int(n)
	}
	p.bitFlip = strikes(c.BitFlip)
	p.shortRange = strikes(c.ShortRange)
	p.where = rng.Uint64()
	return p
}
