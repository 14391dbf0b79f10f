package agent

import (
	"cmp"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/compaction"
	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/merge"
	"github.com/firnlog/firn/compaction/retention"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/objstore"
)

// roomConfigs are the settings of background duties, in the words of the rooms below compaction.
type roomConfigs struct {
	rewrite   rewrite.Config
	merge     merge.Config
	retention retention.Config
}

func (c *Config) rooms() roomConfigs {
	return roomConfigs{
		rewrite: rewrite.Config{RunBytes: c.CacheRunBytes, Compress: c.CompressMerged},
		merge: merge.Config{
			WindowBytesMin: c.MergeWindowMin, WindowBytesMax: c.MergeWindowMax, ObjectBytes: c.MergeObjectBytes, OwnBytes: c.MergeOwnBytes,
			TierBytes: c.MergeWindowMax, Rescan: c.MergeRescan,
			Patience: merge.Patience{After: c.MergeAfter, Longer: 10 * c.MergeAfter, Most: 60 * c.MergeAfter},
			Tiers:    merge.TierRules{Full: c.MergeObjectBytes},
		},
	}
}

// validate reports every problem and fills in the rooms' defaults.
func (r *roomConfigs) validate() error {
	return errors.Join(r.rewrite.Validate(), r.merge.Validate(), r.retention.Validate())
}

// scratchDefault holds the largest window, and the largest object that is made of it.
const scratchDefault = 2 << 30

// dutyTunables are the rows of Tunables about background duties.
func (c *Config) dutyTunables(t *table) {
	var none Config
	r := none.rooms()
	_ = r.validate() // fills in defaults
	t.group = GroupDuties
	row(t, "duty-bytes", &c.DutyBytes, Bytes, 1<<30, 64<<10, 1<<40,
		"most that background duties read and write a second; beside producers and tail readers on a busy machine they keep to what replays of old data may take (--cold-bytes)")
	row(t, "scratch-bytes", &c.ScratchBytes, Bytes, scratchDefault, 1<<20, 1<<50, "disk space below --data-dir for what background duties are working on")
	row(t, "merge-after", &c.MergeAfter, Duration, r.merge.Patience.After, time.Second, 24*time.Hour,
		"age at which flushed objects are merged although they are few; where merging them would make as many objects as it takes, it waits ten or sixty times as long")
	row(t, "merge-window-min-bytes", &c.MergeWindowMin, Bytes, cmp.Or(min(c.MergeWindowMax, r.merge.WindowBytesMin), r.merge.WindowBytesMin), 64<<10, 1<<40,
		"how much is flushed before it is merged, whatever its age")
	row(t, "merge-window-max-bytes", &c.MergeWindowMax, Bytes, max(c.MergeWindowMin, r.merge.WindowBytesMax), 64<<10, 1<<40, "the same, in a cluster of many topics; most that is merged at once")
	row(t, "merge-object-bytes", &c.MergeObjectBytes, Bytes, r.merge.ObjectBytes, 64<<10, 4<<30, "size up to which merged objects grow")
	row(t, "merge-own-bytes", &c.MergeOwnBytes, Bytes, min(r.merge.OwnBytes, cmp.Or(c.MergeObjectBytes, r.merge.ObjectBytes)), 1<<10, 4<<30, "size from which on a partition gets objects of its own")
	row(t, "merge-rescan", &c.MergeRescan, Duration, r.merge.Rescan, 10*time.Millisecond, time.Hour, "how often all partitions are looked at for what can be merged")
	row(t, "retention-interval", &c.RetentionInterval, Duration, retention.Interval, time.Second, 24*time.Hour, "how often records are looked for that topics no longer promise")
}

// startDuties starts what goes on in the background, where the agent has scratch space.
func (a *Agent) startDuties(registry *prometheus.Registry) error {
	if a.parts.Scratch == nil {
		return nil
	}
	rooms, logger := a.cfg.rooms(), a.parts.Logger
	budget := duty.NewBudget(a.cfg.DutyBytes, a.cache.Background)
	env, err := rewrite.New(rooms.rewrite, rewrite.Deps{
		Meta: a.meta, Bucket: a.bucket, Scratch: a.parts.Scratch, Budget: budget, Logger: logger, Metrics: rewrite.NewMetrics(registry),
	})
	if err != nil {
		return err
	}
	var busy duty.Busy
	merger, err := merge.New(rooms.merge, merge.Deps{Env: env, Busy: &busy, Logger: logger, Metrics: merge.NewMetrics(registry)})
	if err != nil {
		return err
	}
	clock, _ := objstore.As[objstore.Clock](a.bucket)
	keeper, err := retention.New(rooms.retention, retention.Deps{Meta: a.meta, Cells: a.meta.Cells(), Clock: clock, Metrics: retention.NewMetrics(registry)})
	if err != nil {
		return err
	}
	a.dutyFaults = append(a.dutyFaults, keeper.Fault)
	a.duties, err = compaction.NewRunner(compaction.Config{Logger: logger, Metrics: compaction.NewMetrics(registry), Rand: a.rand}, a.meta, []compaction.Duty{
		{Name: "merge", Step: merger.Step, Interval: min(rooms.merge.Rescan, a.cfg.MergeAfter)},
		{Name: "retention", Step: keeper.Step, Interval: a.cfg.RetentionInterval},
	})
	if err != nil {
		return err
	}
	a.dutyFaults = append(a.dutyFaults, a.duties.Faults)
	a.duties.Start()
	return nil
}
