package metastore

import (
	"testing"
	"time"
)

// How long ops of Offer wait for company after an entry.
func TestPace(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		offered, others int
		want            time.Duration
	}{
		{0, 0, 5 * ms}, {1, 0, 5 * ms}, {crowd - 1, 0, 5 * ms}, {crowd, 0, 10 * ms}, {1000, 0, 10 * ms}, {0, 1, 10 * ms}, {1, 1, 10 * ms},
	} {
		if got := pace(c.offered, c.others); got != c.want {
			t.Errorf("%d ops of Offer and %d others: %s, want %s", c.offered, c.others, got, c.want)
		}
	}
}
