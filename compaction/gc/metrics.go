package gc

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the collector's figures; those of agents that do not collect stay at 0.
type Metrics struct {
	collecting prometheus.Gauge
	epoch      prometheus.Gauge
	bumps      prometheus.Counter
	deleted    *prometheus.CounterVec
	freed      prometheus.Counter
	errors     *prometheus.CounterVec
	waiting    prometheus.Gauge
	retained   prometheus.Gauge
	orphans    prometheus.Gauge
	foreign    prometheus.Gauge
	listed     prometheus.Counter
	sweeps     prometheus.Counter
	breaker    prometheus.Gauge
	damaged    *prometheus.GaugeVec
	scrubbed   prometheus.Counter
	scrubBytes prometheus.Counter
	passes     prometheus.Counter
	forgotten  prometheus.Counter
}

// Kinds of damage, as metrics and reports name them.
const (
	KindMissing = "missing" // the bucket does not have it
	KindSize    = "size"    // it has another size than the log says
	KindFooter  = "footer"  // header, trailer or footer are not a segment's, or another object's
	KindChunk   = "chunk"   // a chunk's checksum does not hold, or it does not decompress
	KindBatch   = "batch"   // a batch's checksum does not hold, or its offsets are not those of its row
	KindRows    = "rows"    // the log names a block, or bytes of a block, that it does not have
)

// Kinds are all of them.
var Kinds = [...]string{KindMissing, KindSize, KindFooter, KindChunk, KindBatch, KindRows}

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "firn_gc_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "firn_gc_" + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "firn_gc_" + name, Help: help}, []string{label})
	}
	m := &Metrics{
		collecting: gauge("collecting", "1 on the agent that collects."),
		epoch:      gauge("collection_epoch", "The collection epoch."),
		bumps:      counter("epoch_bumps_total", "Times that this agent moved the collection epoch."),
		deleted:    vec("deleted_objects_total", "Objects deleted, by why: retired, nothing names them any more; orphan, nothing ever did.", "why"),
		freed:      counter("deleted_bytes_total", "Bytes of the retired objects that were deleted."),
		errors:     vec("errors_total", "Requests of the collector that failed and are tried again, by what: delete, list, read, archive.", "what"),
		waiting:    gauge("waiting_objects", "On the collecting agent: objects that nothing names and that cannot be deleted yet."),
		retained:   gauge("retained_objects", "On the collecting agent: objects that nothing names and that an object lock keeps."),
		orphans:    gauge("orphans", "Orphans that the last sweep found."),
		foreign:    gauge("foreign_keys", "Keys below data/ and topics/ that are not firn's, found by the last sweep; they are left alone."),
		listed:     counter("listed_objects_total", "Objects listed by sweeps."),
		sweeps:     counter("sweeps_total", "Sweeps that were completed."),
		breaker:    gauge("breaker", "1 while nothing is deleted because a sweep found suspiciously many orphans, or a named object was about to go. Page."),
		damaged: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "firn_gc_damaged_objects", Help: "Objects that the log names and that are missing or damaged, by kind. Page.",
		}, []string{"kind"}),
		scrubbed:   counter("scrubbed_objects_total", "Objects read and checked."),
		scrubBytes: counter("scrubbed_bytes_total", "Bytes read to check objects."),
		passes:     counter("scrub_passes_total", "Times that all named objects were checked."),
		forgotten:  counter("forgotten_offsets_total", "Offsets given up because their objects are missing, by an operator's word or a rule of the bucket."),
	}
	for _, why := range [...]fate{retired, orphan} {
		m.deleted.WithLabelValues(why.String())
	}
	for _, what := range [...]string{doingDelete, doingList, doingRead, doingArchive} {
		m.errors.WithLabelValues(what)
	}
	for _, kind := range Kinds {
		m.damaged.WithLabelValues(kind)
	}
	if reg != nil {
		reg.MustRegister(m.collecting, m.epoch, m.bumps, m.deleted, m.freed, m.errors, m.waiting, m.retained, m.orphans, m.foreign, m.listed,
			m.sweeps, m.breaker, m.damaged, m.scrubbed, m.scrubBytes, m.passes, m.forgotten)
	}
	return m
}
