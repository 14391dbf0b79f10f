package fetch

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the read path's figures of one agent.
type Metrics struct {
	servedBytes   prometheus.Counter
	servedBatches prometheus.Counter
	lentBytes     prometheus.Counter
	lentHeld      prometheus.Gauge

	hits       [shares]prometheus.Counter
	misses     prometheus.Counter
	keptBytes  [shares]prometheus.Gauge
	limitBytes prometheus.Gauge
	gets       [reasons]prometheus.Counter
	getBytes   prometheus.Counter
	getRetries prometheus.Counter
	getSeconds prometheus.Histogram
	readAheads prometheus.Counter
	missing    prometheus.Counter
	corrupt    prometheus.Counter

	asks        [outcomes]prometheus.Counter
	askedBytes  prometheus.Counter
	hedges      prometheus.Counter
	askSeconds  prometheus.Histogram
	serves      [servings]prometheus.Counter
	servedPeers prometheus.Counter
	coldReads   prometheus.Gauge
	coldWaiting prometheus.Gauge
	coldSeconds prometheus.Counter
	coldRate    prometheus.Gauge
}

// reason is what a GET was made for.
type reason uint8

const (
	getOwn      reason = iota // this agent is the one to fetch it
	getForPeer                // a peer asked for it
	getHedge                  // a peer was slow
	getFallback               // no peer had it
	reasons
)

var reasonNames = [reasons]string{"own", "peer", "hedge", "fallback"}

// outcome is what came of an ask.
type outcome uint8

const (
	askHit outcome = iota
	askNotHeld
	askBusy
	askRefused
	askUnreachable
	askDamaged
	askOvertaken
	outcomes
)

var outcomeNames = [outcomes]string{"hit", "not_held", "busy", "refused", "unreachable", "damaged", "overtaken"}

// serveOutcome is what a peer was given.
type serveOutcome uint8

const (
	servedHit serveOutcome = iota
	servedMiss
	servedNotHeld
	servedBusy
	servedFailed
	servings
)

var serveNames = [servings]string{"hit", "miss", "not_held", "busy", "failed"}

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "firn_fetch_" + name, Help: help})
		all = append(all, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "firn_fetch_" + name, Help: help})
		all = append(all, g)
		return g
	}
	labelled := func(name, help, label string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "firn_fetch_" + name, Help: help}, []string{label})
		all = append(all, v)
		return v
	}
	hits := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "firn_fetch_cache_hits_total", Help: "Reads answered from memory: hot, written by this agent; cold, read before; borrowed, got from a peer.",
	}, []string{"temperature"})
	bytes := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "firn_fetch_cache_bytes", Help: "Bytes in the cache.",
	}, []string{"temperature"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "firn_fetch_get_seconds", Help: "Time of one successful GET.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	})
	limit := gauge("cache_limit_bytes", "Bound of what is in the cache.")
	gets := labelled("gets_total", "Successful GETs of objects or ranges: own, for this agent's readers; peer, for another agent's; "+
		"hedge, because a peer was slow; fallback, because no peer had it.", "reason")
	asks := labelled("peer_asks_total", "Asks of this agent to others for bytes of objects, by what came of them.", "result")
	serves := labelled("peer_serves_total", "Asks of other agents: hit, from memory; miss, got from the bucket for them; the rest they got elsewhere.", "result")
	askSeconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "firn_fetch_peer_ask_seconds", Help: "Time of one ask that was answered with bytes.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
	})
	all = append(all, hits, bytes, seconds, askSeconds)
	m := &Metrics{
		servedBytes:   counter("served_bytes_total", "Bytes of record batches given to readers."),
		servedBatches: counter("served_batches_total", "Record batches given to readers."),
		lentBytes:     counter("lent_bytes_total", "Bytes of record batches given to readers that were not copied: answers go out from the cache."),
		lentHeld:      gauge("lent_bytes", "Size of what answers under way have parts of. It counts in the bound of the cache."),
		misses:        counter("cache_misses_total", "Reads that had to wait for the bucket."),
		limitBytes:    limit,
		getBytes:      counter("get_bytes_total", "Bytes read from the bucket."),
		getRetries:    counter("get_retries_total", "GETs that were tried again."),
		getSeconds:    seconds,
		readAheads:    counter("read_aheads_total", "GETs started before anybody asked."),
		missing:       counter("missing_objects_total", "Reads of an object that the log names and the bucket does not have. Page."),
		corrupt:       counter("corrupt_reads_total", "Reads of bytes whose checksum does not hold, after getting them twice. Page."),
		askedBytes:    counter("peer_asked_bytes_total", "Bytes that other agents gave."),
		askSeconds:    askSeconds,
		hedges:        counter("hedges_total", "GETs begun because a peer was slow; those that the peer overtook after all are not in firn_fetch_gets_total."),
		servedPeers:   counter("peer_served_bytes_total", "Bytes given to other agents."),
		coldReads:     gauge("cold_reads", "GETs of replays under way."),
		coldWaiting:   gauge("cold_reads_waiting", "GETs of replays that wait for their turn."),
		coldRate:      gauge("cold_rate_bytes_per_second", "Rate that replays are held to while others are active."),
		coldSeconds:   counter("cold_wait_seconds_total", "Time that GETs of replays waited for their turn."),
	}
	for s := range shares {
		m.hits[s], m.keptBytes[s] = hits.WithLabelValues(shareNames[s]), bytes.WithLabelValues(shareNames[s])
	}
	for r := range reasons {
		m.gets[r] = gets.WithLabelValues(reasonNames[r])
	}
	for o := range outcomes {
		m.asks[o] = asks.WithLabelValues(outcomeNames[o])
	}
	for o := range servings {
		m.serves[o] = serves.WithLabelValues(serveNames[o])
	}
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}
