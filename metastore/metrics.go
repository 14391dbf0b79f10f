package metastore

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the metastore's figures of one agent.
type Metrics struct {
	commitSeconds   prometheus.Histogram
	proposalSeconds prometheus.Histogram
	entryBytes      prometheus.Histogram
	commitUnknown   prometheus.Counter
	entriesApplied  prometheus.Counter
	watchesLost     prometheus.Counter
	repeats         prometheus.Counter
	gaps            prometheus.Counter
	sessionsLost    prometheus.Counter
	hashMismatches  prometheus.Counter
	lagEntries      prometheus.Gauge
	queuedOps       prometheus.Gauge
	archiver        prometheus.Gauge
	archiveLag      prometheus.Gauge
	archiveSeconds  prometheus.Gauge
	archiveErrors   prometheus.Counter
	snapshotAge     prometheus.Gauge
	trimLag         prometheus.Gauge
	archivedBytes   prometheus.Counter
	prunedObjects   prometheus.Counter
	snapshotBytes   prometheus.Gauge
	trimmed         prometheus.Counter
}

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "firn_metastore_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "firn_metastore_" + name, Help: help})
	}
	histogram := func(name, help string, start, factor float64, n int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "firn_metastore_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(start, factor, n),
		})
	}
	m := &Metrics{
		commitSeconds:   histogram("commit_seconds", "Time until a commit's outcome was known.", 0.0002, 2, 16),
		proposalSeconds: histogram("proposal_seconds", "Time from submitting an op until it was applied.", 0.0002, 2, 16),
		entryBytes:      histogram("entry_bytes", "Size of proposed entries.", 64, 2, 15),
		commitUnknown:   counter("commit_unknown_total", "Commit attempts without a definite answer."),
		entriesApplied:  counter("entries_applied_total", "Entries applied to the state."),
		watchesLost:     counter("watches_lost_total", "Watches that ended and were replaced by a read of the log."),
		repeats:         counter("watch_repeats_total", "Entries that the watch delivered again."),
		gaps:            counter("watch_gaps_total", "Gaps in what the watch delivered."),
		sessionsLost:    counter("sessions_lost_total", "Times this agent had to join again."),
		hashMismatches:  counter("hash_mismatches_total", "Entries whose proposer had another chain hash than this agent."),
		lagEntries:      gauge("lag_entries", "Entries committed but not applied by this agent."),
		queuedOps:       gauge("queued_ops", "Ops that wait for an entry to travel in."),
		archiver:        gauge("archiver", "1 on the agent that archives the log; no such agent for long: page."),
		archiveLag:      gauge("archive_lag_entries", "On the archiving agent: entries committed and not archived; ticks of an idle cluster count."),
		archiveSeconds:  gauge("archive_lag_seconds", "On the archiving agent: time since everything worth it was archived. What a loss of etcd would cost."),
		archiveErrors:   counter("archive_errors_total", "Runs of the archiver that were cut short."),
		snapshotAge:     gauge("snapshot_age_seconds", "On the archiving agent: age of the newest snapshot, in the log's time; 0 where there is none."),
		trimLag:         gauge("trim_lag_entries", "On the archiving agent: entries that the newest snapshot covers and etcd still holds."),
		archivedBytes:   counter("archived_bytes_total", "Bytes of log archived to the bucket by this agent."),
		prunedObjects:   counter("pruned_objects_total", "Archive ranges and snapshots that this agent deleted because they were older than the history kept."),
		snapshotBytes:   gauge("snapshot_bytes", "Size of the last snapshot this agent wrote."),
		trimmed:         counter("trimmed_entries_total", "Entries this agent trimmed from the log."),
	}
	if reg != nil {
		reg.MustRegister(m.commitSeconds, m.proposalSeconds, m.entryBytes, m.commitUnknown, m.entriesApplied, m.watchesLost,
			m.repeats, m.gaps, m.sessionsLost, m.hashMismatches, m.lagEntries, m.queuedOps, m.archiver, m.archiveLag, m.archiveSeconds,
			m.archiveErrors, m.snapshotAge, m.trimLag, m.archivedBytes, m.prunedObjects, m.snapshotBytes, m.trimmed)
	}
	return m
}
