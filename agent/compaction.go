package agent

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/compaction"
	"github.com/firnlog/firn/compaction/clean"
	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/gc"
	"github.com/firnlog/firn/compaction/lifecycle"
	"github.com/firnlog/firn/compaction/merge"
	"github.com/firnlog/firn/compaction/retention"
	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/objstore"
)

// roomConfigs are the settings of background duties, in the words of the rooms below compaction.
type roomConfigs struct {
	rewrite   rewrite.Config
	merge     merge.Config
	clean     clean.Config
	retention retention.Config
	gc        gc.Config
	lifecycle lifecycle.Config
}

func (c *Config) rooms() roomConfigs {
	return roomConfigs{
		rewrite: rewrite.Config{RunBytes: c.CacheRunBytes, Parallel: c.DutyReads, Compress: c.CompressMerged},
		merge: merge.Config{
			WindowBytesMin: c.MergeWindowMin, WindowBytesMax: c.MergeWindowMax, ObjectBytes: c.MergeObjectBytes, OwnBytes: c.MergeOwnBytes,
			TierBytes: c.MergeWindowMax, Rescan: c.MergeRescan,
			Patience: merge.Patience{After: c.MergeAfter, Longer: 10 * c.MergeAfter, Most: 60 * c.MergeAfter},
			Tiers:    merge.TierRules{Full: c.MergeObjectBytes},
		},
		clean: clean.Config{MemoryBytes: c.KeyBytes, ObjectBytes: c.MergeObjectBytes},
		gc: gc.Config{
			EpochInterval: c.CollectionInterval, SweepInterval: c.SweepInterval, DeletesPerHour: c.DeletesPerHour,
			OrphanPercent: c.OrphanPercent, OrphansFree: c.OrphansFree, ScrubBytesPerSecond: c.ScrubBytes, ScrubPass: c.ScrubPass,
		},
	}
}

// validate reports every problem and fills in the rooms' defaults.
func (r *roomConfigs) validate() error {
	return errors.Join(r.rewrite.Validate(), r.merge.Validate(), r.clean.Validate(), r.retention.Validate(), r.gc.Validate(), r.lifecycle.Validate())
}

// dutyTunables are the rows of Tunables about background duties.
func (c *Config) dutyTunables(t *table) {
	var none Config
	r := none.rooms()
	_ = r.validate() // fills in defaults
	t.group = GroupDuties
	row(t, "duty-bytes", &c.DutyBytes, Bytes, 1<<30, 64<<10, 1<<40,
		"most that background duties read and write a second; beside producers and tail readers on a busy machine they keep to what replays of old data may take (--cold-bytes)")
	row(t, "duty-reads", &c.DutyReads, Count, r.rewrite.Parallel, 1, 256, "reads from the bucket at once that background duties get, and uploads")
	windowMax, object := cmp.Or(c.MergeWindowMax, max(c.MergeWindowMin, r.merge.WindowBytesMax)), cmp.Or(c.MergeObjectBytes, r.merge.ObjectBytes)
	row(t, "scratch-bytes", &c.ScratchBytes, Bytes, windowMax+4*object, 1<<20, 1<<50,
		"disk space below --data-dir for what background duties are working on: the largest window, the object that is made of it, and some for key compaction")
	row(t, "merge-after", &c.MergeAfter, Duration, r.merge.Patience.After, time.Second, 24*time.Hour,
		"age at which flushed objects are merged although they are few; where merging them would make as many objects as it takes, it waits ten or sixty times as long")
	row(t, "merge-window-min-bytes", &c.MergeWindowMin, Bytes, cmp.Or(min(c.MergeWindowMax, r.merge.WindowBytesMin), r.merge.WindowBytesMin), 64<<10, 1<<40,
		"how much is flushed before it is merged, whatever its age")
	row(t, "merge-window-max-bytes", &c.MergeWindowMax, Bytes, max(c.MergeWindowMin, r.merge.WindowBytesMax), 64<<10, 1<<40, "the same, in a cluster of many topics; most that is merged at once")
	row(t, "merge-object-bytes", &c.MergeObjectBytes, Bytes, r.merge.ObjectBytes, 64<<10, 4<<30, "size up to which merged objects grow")
	row(t, "merge-own-bytes", &c.MergeOwnBytes, Bytes, min(r.merge.OwnBytes, object), 1<<10, 4<<30, "size from which on a partition gets objects of its own")
	row(t, "merge-rescan", &c.MergeRescan, Duration, r.merge.Rescan, 10*time.Millisecond, time.Hour, "how often all partitions are looked at for what can be merged")
	row(t, "key-compaction-bytes", &c.KeyBytes, Bytes, cmp.Or(c.MemoryLimit, memoryDefault)/16, 1<<20, 1<<40,
		"memory for the keys of a partition that is compacted by key; more keys than fit go through scratch space. A sixteenth of --memory-limit where not set")
	row(t, "key-compaction-interval", &c.KeyInterval, Duration, clean.Interval, 10*time.Millisecond, 24*time.Hour, "how often compacted topics are looked at for what key compaction would save")
	row(t, "retention-interval", &c.RetentionInterval, Duration, retention.Interval, time.Second, 24*time.Hour, "how often records are looked for that topics no longer promise")
	row(t, "collection-interval", &c.CollectionInterval, Duration, r.gc.EpochInterval, time.Second, 24*time.Hour,
		"least time between two collection epochs; what nothing names is deleted two of them later")
	row(t, "sweep-interval", &c.SweepInterval, Duration, r.gc.SweepInterval, time.Second, 365*24*time.Hour, "how often the bucket is listed for objects that were never named, and for such as are missing")
	row(t, "deletes-per-hour", &c.DeletesPerHour, Count, r.gc.DeletesPerHour, 1, 1<<40, "most objects that are deleted in an hour")
	row(t, "orphan-percent", &c.OrphanPercent, Count, r.gc.OrphanPercent, 1, 100, "share of the listed objects from which on a sweep deletes none that was never named, and says so")
	row(t, "orphans-free", &c.OrphansFree, Count, r.gc.OrphansFree, 1, 1<<40, "how many of them a sweep deletes whatever their share")
	row(t, "scrub-bytes", &c.ScrubBytes, Bytes, r.gc.ScrubBytesPerSecond, 1<<10, 1<<40, "most that is read a second to check stored objects")
	row(t, "scrub-pass", &c.ScrubPass, Duration, r.gc.ScrubPass, time.Minute, 10*365*24*time.Hour, "how long checking all objects once should take")
	row(t, "lifecycle-interval", &c.LifecycleInterval, Duration, lifecycle.Interval, time.Second, lifecycle.IntervalMax, "how often the bucket's own rules are held against what topics promise")
}

// readRules makes what knows the bucket's own rules, where the agent has background duties.
func (a *Agent) readRules(registry *prometheus.Registry) (err error) {
	if a.parts.Scratch == nil {
		return nil
	}
	a.rules, err = lifecycle.New(a.cfg.rooms().lifecycle, lifecycle.Deps{Meta: a.meta, Bucket: a.bucket, Logger: a.parts.Logger, Metrics: lifecycle.NewMetrics(registry)})
	return err
}

// validateScratch holds scratch space against what has to lie in it at once.
func (c *Config) validateScratch() error {
	if need := c.MergeWindowMax + 2*c.MergeObjectBytes; c.ScratchBytes < need {
		return fmt.Errorf("agent: scratch-bytes %d cannot hold a window and the objects made of it, %d bytes; raise it, or lower merge-window-max-bytes or merge-object-bytes", c.ScratchBytes, need)
	}
	return nil
}

// startDuties starts what goes on in the background, where the agent has scratch space.
func (a *Agent) startDuties(registry *prometheus.Registry) error {
	if a.parts.Scratch == nil {
		return nil
	}
	rooms, logger := a.cfg.rooms(), a.parts.Logger
	budget := duty.NewBudget(a.cfg.DutyBytes, a.cache.Background)
	env, err := rewrite.New(rooms.rewrite, rewrite.Deps{
		Meta: a.meta, Bucket: a.bucket, Scratch: a.parts.Scratch, Budget: budget, PutOptions: a.rules.PutOptions, Logger: logger, Metrics: rewrite.NewMetrics(registry),
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
	ages, err := retention.New(rooms.retention, retention.Deps{Meta: a.meta, Cells: a.meta.Cells(), Clock: clock, Metrics: retention.NewMetrics(registry)})
	if err != nil {
		return err
	}
	cleaner, err := clean.New(rooms.clean, clean.Deps{Env: env, Busy: &busy, Bound: ages.Bound, Scratch: a.parts.Scratch, Logger: logger, Metrics: clean.NewMetrics(registry)})
	if err != nil {
		return err
	}
	collector, err := gc.New(rooms.gc, gc.Deps{
		Meta: a.meta, Cells: a.meta.Cells(), Bucket: a.bucket, Coverage: a.rules, Budget: budget, Logger: logger, Metrics: gc.NewMetrics(registry),
	})
	if err != nil {
		return err
	}
	a.duties, err = compaction.NewRunner(compaction.Config{Logger: logger, Metrics: compaction.NewMetrics(registry), Rand: a.rand}, a.meta, []compaction.Duty{
		{Name: "merge", Step: merger.Step, Interval: min(rooms.merge.Rescan, a.cfg.MergeAfter)},
		{Name: "clean", Step: cleaner.Step, Interval: a.cfg.KeyInterval},
		{Name: "retention", Step: ages.Step, Interval: a.cfg.RetentionInterval},
		{Name: "gc", Step: collector.Step, Interval: min(gc.Interval, a.cfg.CollectionInterval)},
		{Name: "lifecycle", Step: a.rules.Step, Interval: a.cfg.LifecycleInterval, First: min(lifecycle.First, a.cfg.LifecycleInterval)},
	})
	if err != nil {
		return err
	}
	a.dutyFaults = append(a.dutyFaults, cleaner.Fault, ages.Fault, collector.Fault)
	a.dutyFaults = append(a.dutyFaults, a.duties.Faults)
	a.duties.Start()
	return nil
}
