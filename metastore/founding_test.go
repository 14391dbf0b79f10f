package metastore_test

import (
	"errors"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/log/metered"
)

type deaf struct{}

func (deaf) Observe(metered.Op, metered.Outcome, time.Duration) {}

// An etcd that lost its data is not taken for a new one, also where the log is decorated; and nothing is left in it.
func TestAnEmptyEtcdBesideAUsedBucket(t *testing.T) {
	bubble(t, 80, func(t *testing.T, c *cluster) {
		c.close(c.open("a"))
		_ = c.store.Close()
		c.store = memlog.NewStore(memlog.Config{Empty: true})
		defer func() { _ = c.store.Close() }()
		l := c.store.Open("a")
		defer func() { _ = l.Close() }()
		if _, err := metastore.Open(t.Context(), c.config("a"), metered.New(l, deaf{}), c.bucket); !errors.Is(err, metastore.ErrNeedsRestore) {
			t.Fatalf("an agent starts: %v", err)
		}
		if st, err := l.Standing(t.Context()); err != nil || st.Keys != 0 {
			t.Errorf("it left %+v, %v", st, err)
		}
	})
}
