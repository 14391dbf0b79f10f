package agent

import (
	"cmp"
	"context"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	logmetered "github.com/firnlog/firn/metastore/log/metered"
	"github.com/firnlog/firn/objstore/metered"
	"github.com/firnlog/firn/wal"
)

// collector makes a prometheus.Collector of descriptions and a function, for what is looked up when it is asked for.
type collector struct {
	descs   []*prometheus.Desc
	collect func(ch chan<- prometheus.Metric)
}

func (c *collector) desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(name, help, labels, nil)
	c.descs = append(c.descs, d)
	return d
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) { c.collect(ch) }

func gaugeOf(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counterOf(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

// oneIf is how a fact becomes a gauge.
func oneIf(fact bool) float64 {
	if fact {
		return 1
	}
	return 0
}

func registerProcess(r prometheus.Registerer) {
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// registerSelf registers what the agent knows of itself.
func (a *Agent) registerSelf(r prometheus.Registerer) {
	c := &collector{}
	build := c.desc("firn_build_info", "1, with what this agent was built from.", "version", "go")
	info := c.desc("firn_agent_info", "1, with who this agent is; node_id and cluster_id are empty before it has joined.", "agent", "node_id", "cluster_id", "zone")
	life := c.desc("firn_agent_state", "1 for the state that the agent is in, 0 for the others.", "state")
	ready := c.desc("firn_agent_ready", "1 while /readyz says that the agent should get traffic.")
	degraded := c.desc("firn_agent_degraded", "1 while a part that the agent depends on does not work as it should; /readyz says what is wrong.", "part")
	c.collect = func(ch chan<- prometheus.Metric) {
		h := a.Health()
		ch <- gaugeOf(build, 1, a.cfg.Version, runtime.Version())
		node := ""
		if h.NodeID >= 0 {
			node = strconv.Itoa(int(h.NodeID))
		}
		ch <- gaugeOf(info, 1, a.cfg.Name, node, h.Cluster, a.cfg.Zone)
		for _, s := range stateNames {
			ch <- gaugeOf(life, oneIf(s == h.State), s)
		}
		ch <- gaugeOf(ready, oneIf(h.Ready))
		for _, p := range a.conditions() {
			ch <- gaugeOf(degraded, oneIf(p.cause != ""), p.part)
		}
	}
	r.MustRegister(c)
}

// registerWAL registers what the write-ahead log counts.
func registerWAL(r prometheus.Registerer, l *wal.Log) {
	c := &collector{}
	used := c.desc("firn_wal_bytes", "Disk space that the write-ahead log takes; a file counts in full from its creation.")
	limit := c.desc("firn_wal_limit_bytes", "Bound of firn_wal_bytes; at it, producers are held back.")
	files := c.desc("firn_wal_files", "Files of the write-ahead log.", "kind")
	frames := c.desc("firn_wal_frames", "Frames that were not freed.", "kind")
	appends := c.desc("firn_wal_appends_total", "Frames written.", "kind")
	written := c.desc("firn_wal_appended_bytes_total", "Bytes of frames written.", "kind")
	full := c.desc("firn_wal_full_total", "Appends refused because the write-ahead log was at its bound or the disk full.")
	cleanup := c.desc("firn_wal_cleanup_errors_total", "Files that could not be removed or made yet; the disk is full or read-only.")
	failed := c.desc("firn_wal_failed", "1 once a durable write or fsync has failed; it stays until the agent is started again. Page.")
	tails := c.desc("firn_wal_torn_tails", "Torn tails that were cut off at the start; normal after a crash, and copied aside.")
	cut := c.desc("firn_wal_cut_bytes", "Bytes of torn tails that were cut off at the start.")
	fsync := c.desc("firn_wal_fsync_seconds", "Time of an fsync.")
	syncing := c.desc("firn_wal_fsync_under_way_seconds", "How long the fsync under way has been running, 0 where there is none. Many seconds: a stalled disk.")
	c.collect = func(ch chan<- prometheus.Metric) {
		s := l.Stats()
		ch <- gaugeOf(used, float64(s.Bytes))
		ch <- gaugeOf(limit, float64(s.MaxBytes))
		for _, k := range []struct {
			kind           string
			files, frames  int
			appends, bytes uint64
		}{
			{"durable", s.DurableFiles, s.DurableFrames, s.DurableAppends, s.DurableBytes},
			{"spill", s.SpillFiles, s.SpillFrames, s.SpillAppends, s.SpillBytes},
		} {
			ch <- gaugeOf(files, float64(k.files), k.kind)
			ch <- gaugeOf(frames, float64(k.frames), k.kind)
			ch <- counterOf(appends, float64(k.appends), k.kind)
			ch <- counterOf(written, float64(k.bytes), k.kind)
		}
		ch <- counterOf(full, float64(s.Full))
		ch <- counterOf(cleanup, float64(s.CleanupErrors))
		ch <- gaugeOf(failed, oneIf(s.Failed != nil))
		cuts, size := l.Cuts(), int64(0)
		for _, t := range cuts {
			size += t.Size
		}
		ch <- gaugeOf(tails, float64(len(cuts)))
		ch <- gaugeOf(cut, float64(size))
		buckets := make(map[float64]uint64, wal.SyncBuckets-1)
		var count uint64
		for i, n := range s.Syncs {
			count += n
			if i < wal.SyncBuckets-1 {
				buckets[(128 * time.Microsecond << i).Seconds()] = count
			}
		}
		ch <- prometheus.MustNewConstHistogram(fsync, count, s.SyncTotal.Seconds(), buckets)
		underWay := 0.0
		if !s.SyncingSince.IsZero() {
			underWay = max(time.Since(s.SyncingSince).Seconds(), 0)
		}
		ch <- gaugeOf(syncing, underWay)
	}
	r.MustRegister(c)
}

// bucketMetrics counts the requests that a bucket is paid for.
type bucketMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
	puts     *prometheus.CounterVec
	classes  sync.Map     // of storage classes that have a series, about classSeriesMost at most,
	count    atomic.Int32 // which are so many
	health   *bucketHealth
}

// classSeriesMost bounds the storage classes that puts are counted by: no store has as many, and topics may be given any.
const classSeriesMost = 32

func newBucketMetrics(r prometheus.Registerer, health *bucketHealth) *bucketMetrics {
	m := &bucketMetrics{
		health: health,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_objectstore_requests_total", Help: "Requests to the bucket, retries inside a driver not counted.",
		}, []string{"op", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "firn_objectstore_request_seconds", Help: "Time of requests to the bucket.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 17),
		}, []string{"op"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_objectstore_bytes_total", Help: "Bytes written to and read from the bucket.",
		}, []string{"op"}),
		puts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_objectstore_puts_total", Help: "Puts into the bucket by the storage class that they asked for, STANDARD where they asked for none.",
		}, []string{"storage_class"}),
	}
	m.puts.WithLabelValues(standardClass)
	for _, op := range metered.Ops() {
		m.requests.WithLabelValues(string(op), string(metered.OutcomeOK))
		m.seconds.WithLabelValues(string(op))
	}
	r.MustRegister(m.requests, m.seconds, m.bytes, m.puts)
	return m
}

const standardClass = "STANDARD"

// PutIn implements metered.ClassObserver.
func (m *bucketMetrics) PutIn(class string) {
	class = cmp.Or(class, standardClass)
	if _, known := m.classes.Load(class); !known {
		if m.count.Load() >= classSeriesMost {
			class = "(other)"
		} else if _, known = m.classes.LoadOrStore(class, true); !known {
			m.count.Add(1)
		}
	}
	m.puts.WithLabelValues(class).Inc()
}

// Observe implements metered.Observer.
func (m *bucketMetrics) Observe(op metered.Op, outcome metered.Outcome, seconds float64, bytes int64) {
	m.requests.WithLabelValues(string(op), string(outcome)).Inc()
	m.seconds.WithLabelValues(string(op)).Observe(seconds)
	if bytes > 0 {
		m.bytes.WithLabelValues(string(op)).Add(float64(bytes))
	}
	m.health.saw(op, outcome, time.Duration(seconds*float64(time.Second)))
}

// Failed implements metered.ErrorObserver.
func (m *bucketMetrics) Failed(op metered.Op, err error) { m.health.why(op, err) }

// etcdMetrics counts the calls of the metastore's log, and shows what its members say of themselves.
type etcdMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	up       *prometheus.GaugeVec
	sizes    map[string]*prometheus.GaugeVec // by the key of log.Status
	alarms   *prometheus.GaugeVec
}

func newEtcdMetrics(r prometheus.Registerer) *etcdMetrics {
	perEndpoint := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "firn_etcd_" + name, Help: help}, []string{"endpoint"})
	}
	m := &etcdMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firn_etcd_requests_total", Help: "Calls to etcd by outcome; full, refused and unavailable are faults.",
		}, []string{"op", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "firn_etcd_request_seconds", Help: "Time of calls to etcd, watches aside.", Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16),
		}, []string{"op"}),
		up: perEndpoint("up", "1 where the member answered when it was last asked, every 30 s."),
		sizes: map[string]*prometheus.GaugeVec{
			"db_bytes":      perEndpoint("db_bytes", "Size of the member's database file."),
			"db_used_bytes": perEndpoint("db_used_bytes", "What of the member's database is in use; the rest a defragmentation would free."),
			"quota_bytes":   perEndpoint("quota_bytes", "The size of its database at which the member stops taking writes."),
		},
		alarms: perEndpoint("alarms", "1 where the member raises an alarm; NOSPACE stops every write. Page."),
	}
	for _, op := range logmetered.Ops() {
		m.requests.WithLabelValues(string(op), string(logmetered.OutcomeOK))
		if op != logmetered.OpWatch {
			m.seconds.WithLabelValues(string(op))
		}
	}
	r.MustRegister(m.requests, m.seconds, m.up, m.alarms)
	for _, g := range m.sizes {
		r.MustRegister(g)
	}
	return m
}

// Observe implements metered.Observer of the log.
func (m *etcdMetrics) Observe(op logmetered.Op, outcome logmetered.Outcome, took time.Duration) {
	m.requests.WithLabelValues(string(op), string(outcome)).Inc()
	if op != logmetered.OpWatch {
		m.seconds.WithLabelValues(string(op)).Observe(took.Seconds())
	}
}

// show takes over what log.Status says: "<endpoint> <what>" each. Endpoints are the configured ones, so they are few.
func (m *etcdMetrics) show(status map[string]string) {
	for key, value := range status {
		endpoint, what, ok := strings.Cut(key, " ")
		if !ok {
			continue
		}
		switch what {
		case "version":
			m.up.WithLabelValues(endpoint).Set(1)
			_, raised := status[endpoint+" alarms"]
			m.alarms.WithLabelValues(endpoint).Set(oneIf(raised))
		case "error":
			m.up.WithLabelValues(endpoint).Set(0)
		default:
			if g := m.sizes[what]; g != nil {
				if v, err := strconv.ParseFloat(value, 64); err == nil {
					g.WithLabelValues(endpoint).Set(v)
				}
			}
		}
	}
}

const (
	statusInterval = 30 * time.Second
	statusTimeout  = 10 * time.Second
)

// watchEtcd asks etcd's members about themselves until ctx ends.
func (a *Agent) watchEtcd(ctx context.Context, m *etcdMetrics) {
	for {
		bounded, cancel := context.WithTimeout(ctx, statusTimeout)
		status, _ := a.log.Status(bounded) // what it could learn, where it failed
		cancel()
		m.show(status)
		t := time.NewTimer(statusInterval)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}
