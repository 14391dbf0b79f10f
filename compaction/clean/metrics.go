package clean

import "github.com/prometheus/client_golang/prometheus"

// removal says why a record went.
type removal int

const (
	superseded removal = iota // a newer record has its key
	tombstones                // delete.retention.ms is over
	withoutKey                // it has no key
	deleted                   // it is below the log start
	removals
)

// Metrics are the figures of one agent's key compaction; docs/metrics.md lists them.
type Metrics struct {
	partitions prometheus.Counter
	abandoned  prometheus.Counter
	refused    prometheus.Counter
	spilled    prometheus.Counter
	read       prometheus.Counter
	gone       [removals]prometheus.Counter
	readBytes  prometheus.Counter
	keptBytes  prometheus.Counter
	stopped    prometheus.Gauge

	scratchBound prometheus.Gauge
}

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "firn_compaction_clean_" + name, Help: help})
		all = append(all, c)
		return c
	}
	m := &Metrics{
		partitions: counter("partitions_total", "Partitions whose keys were compacted."),
		abandoned:  counter("abandoned_total", "Key compactions that were given up because rows changed meanwhile."),
		refused:    counter("refused_parts_total", "Ranges that were compacted in vain, for the same reason."),
		spilled:    counter("spilled_total", "Key compactions whose keys did not fit in memory and went to scratch files."),
		read:       counter("hashed_records_total", "Records whose keys were looked at to find the newest ones."),
		readBytes:  counter("copied_bytes_total", "Raw bytes of the batches that were looked through for what is left."),
		keptBytes:  counter("kept_bytes_total", "Raw bytes of the batches that were left of them."),
		stopped: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "firn_compaction_clean_stopped_partitions", Help: "Partitions of this agent that cannot be compacted because an input is missing or damaged.",
		}),
	}
	m.scratchBound = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "firn_compaction_clean_scratch_bound_bytes", Help: "Most bytes of dirty rows, or of an output, that key compaction takes at once because scratch space had no room for more; 0 where it has.",
	})
	records := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "firn_compaction_clean_removed_records_total", Help: "Records that key compaction removed, by why.",
	}, []string{"why"})
	for why, name := range [removals]string{superseded: "superseded", tombstones: "tombstone", withoutKey: "no_key", deleted: "deleted"} {
		m.gone[why] = records.WithLabelValues(name)
	}
	if reg != nil {
		reg.MustRegister(append(all, m.stopped, m.scratchBound, records)...)
	}
	return m
}

func (m *Metrics) removed(why removal, records int) {
	if records > 0 {
		m.gone[why].Add(float64(records))
	}
}
