package metastore

import (
	"testing"
	"time"
)

// How long ops of Offer wait for company.
func TestPace(t *testing.T) {
	const ms, long = time.Millisecond, time.Hour
	for name, c := range map[string]struct {
		last pacing
		want time.Duration
	}{
		"nothing before":                              {pacing{since: long}, 5 * ms},
		"a few, on a fast log":                        {pacing{offered: 3, took: ms, since: long}, 5 * ms},
		"a few, on a slow log that nobody else needs": {pacing{offered: 3, took: 50 * ms, since: long}, 5 * ms},
		"many": {pacing{offered: crowd, took: ms, since: long}, 10 * ms},
		"many, on a slow log that nobody else needs": {pacing{offered: 100, took: 50 * ms, since: long}, 10 * ms},
		"others":                            {pacing{offered: 1, others: true, took: ms}, 10 * ms},
		"others, a while ago":               {pacing{offered: 1, took: ms, since: othersFor / 2}, 5 * ms},
		"others, on a slow log":             {pacing{offered: 1, others: true, took: 20 * ms}, 80 * ms},
		"others, a while ago on a slow log": {pacing{offered: 1, took: 20 * ms, since: othersFor / 2}, 80 * ms},
		"others, on a log that has all but come to rest": {pacing{offered: 1, others: true, took: long}, 100 * ms},
	} {
		if got := c.last.pace(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
