package metastore_test

import (
	"testing"
	"time"
)

// ArchivedThrough rises to an entry once that is in the bucket, on agents that archive and on those that do not.
func TestArchivedThrough(t *testing.T) {
	bubble(t, 310, func(t *testing.T, c *cluster) {
		a, b := c.open("a"), c.open("b")
		defer c.close(a, b)
		if n, err := a.ArchivedThrough(t.Context()); err != nil || n != 0 {
			t.Errorf("%d, %v before anything was archived", n, err)
		}
		c.propose(a, topic("t"))
		before := a.Applied()
		time.Sleep(10 * time.Second)
		n, err := a.ArchivedThrough(t.Context())
		if err != nil || n < before || n > a.Applied() {
			t.Errorf("%d, %v; the topic was made by %d", n, err, before)
		}
		if m, err := b.ArchivedThrough(t.Context()); err != nil || m < n {
			t.Errorf("another agent says %d, %v", m, err)
		}
	})
}
