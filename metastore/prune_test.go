package metastore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore"
)

// historyObjects counts what the bucket keeps of the log.
func historyObjects(t *testing.T, c *cluster) (snapshots, ranges int) {
	t.Helper()
	for after := ""; ; {
		infos, err := c.bucket.List(t.Context(), "metastore/", after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(infos) == 0 {
			return snapshots, ranges
		}
		for _, info := range infos {
			if after = info.Key; strings.HasPrefix(after, "metastore/snapshot/") {
				snapshots++
			} else {
				ranges++
			}
		}
	}
}

// What a snapshot stands in for goes after a while. What is left verifies, starts agents, and restores.
func TestHistoryOlderThanWhatIsKeptGoes(t *testing.T) {
	bubble(t, 311, func(t *testing.T, c *cluster) {
		tune := func(cfg *metastore.Config) {
			cfg.SnapshotEntries, cfg.TrimMargin, cfg.ArchiveInterval, cfg.HistoryKeep = 20, 20, 5*time.Second, 10*time.Minute
		}
		a, b := c.open("a", tune), c.open("b", tune)
		var most [2]int
		for round := range 360 { // an hour
			c.propose(a, topic(fmt.Sprintf("t-%d", round)))
			time.Sleep(10 * time.Second)
			if snapshots, ranges := historyObjects(t, c); round < 180 {
				most = [2]int{max(most[0], snapshots), max(most[1], ranges)}
			} else if snapshots > most[0]+2 || ranges > most[1]+5 {
				t.Fatalf("after %d rounds %d snapshots and %d ranges; in the first half hour there were %v at most", round, snapshots, ranges, most)
			}
		}
		snapshots, ranges := historyObjects(t, c)
		if snapshots < 4 || ranges < 10*60/10 {
			t.Errorf("%d snapshots and %d ranges are fewer than what ten minutes hold", snapshots, ranges)
		}
		l := c.store.Open("tool")
		report, err := metastore.Verify(t.Context(), l, c.bucket)
		if err != nil || len(report.Problems) > 0 {
			t.Fatalf("%v, %v", err, report)
		}
		if _, _, err := metastore.FindEntry(t.Context(), l, c.bucket, 3); !errors.Is(err, metastore.ErrNoEntry) {
			t.Errorf("an entry of an hour ago: %v", err)
		}
		if _, _, err := metastore.FindEntry(t.Context(), l, c.bucket, a.Head()-5); err != nil {
			t.Errorf("a recent entry: %v", err)
		}
		n := c.open("newcomer", tune)
		n.View(func(st *state.State) {
			if got := st.TopicCount(); got != 360 {
				t.Errorf("a newcomer has %d topics", got)
			}
		})
		c.loseEtcd(a, b, n)
		_ = l.Close()
		if r, err := c.restore(metastore.RestoreOptions{}); err != nil {
			t.Fatalf("%v, %v", err, r)
		}
		after := c.open("after", tune)
		after.View(func(st *state.State) {
			if got := st.TopicCount(); got != 360 {
				t.Errorf("%d topics were restored", got)
			}
		})
		c.close(after)
	})
}

// listing counts the lists that are asked for below a prefix.
type listing struct {
	objstore.Bucket
	prefix string
	asked  atomic.Int64
}

func (b *listing) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if strings.HasPrefix(prefix, b.prefix) {
		b.asked.Add(1)
	}
	return b.Bucket.List(ctx, prefix, after, limit)
}

// Deleting history lists what there is of it once, and no more.
func TestHistoryIsListedNoFurtherThanItGoes(t *testing.T) {
	bubble(t, 312, func(t *testing.T, c *cluster) {
		cfg := c.config("a")
		cfg.SnapshotEntries, cfg.TrimMargin, cfg.ArchiveInterval, cfg.HistoryKeep = 20, 20, 5*time.Second, 10*time.Minute
		bucket := &listing{Bucket: c.bucket, prefix: "metastore/archive/"}
		l := c.store.Open("a")
		a, err := metastore.Open(t.Context(), cfg, l, bucket)
		if err != nil {
			t.Fatal(err)
		}
		c.logs[a] = l
		for round := range 180 { // half an hour, and a pruning at most every 75 seconds
			c.propose(a, topic(fmt.Sprintf("t-%d", round)))
			time.Sleep(10 * time.Second)
		}
		if n := bucket.asked.Load(); n == 0 || n > 2*24 {
			t.Errorf("%d lists", n)
		}
		c.close(a)
	})
}
