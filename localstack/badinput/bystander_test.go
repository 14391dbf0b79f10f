package badinput_test

import (
	"testing"

	"github.com/firnlog/firn/objstore/faulty"
)

func TestBystanderSeesNothingWhereNothingHappens(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	b.progress()
	b.check()
}

// A checker that finds nothing is worth what it would have found: here a connection that the agent closes.
func TestBystanderNoticesAClosedConnection(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	c.stop()
	until(t, "the bystander notices", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.findings) > 0
	})
}

func TestPatientBystanderOutlivesARestartAndAFlakyBucket(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(true)
	if err := c.bucket.SetConfig(faulty.Config{Unavailable: 0.3, Ambiguous: 0.2}); err != nil {
		t.Fatal(err)
	}
	b.progress()
	c.kill()
	until(t, "the agent starts", func() bool { return c.start() == nil }) // a start may meet the bucket's faults, and say so
	b.progress()
	if err := c.bucket.SetConfig(faulty.Config{}); err != nil {
		t.Fatal(err)
	}
	b.check()
}
