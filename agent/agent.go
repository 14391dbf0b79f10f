package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/group"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/agent/peer"
	"github.com/firnlog/firn/compaction"
	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/compaction/lifecycle"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	logmetered "github.com/firnlog/firn/metastore/log/metered"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/metered"
	"github.com/firnlog/firn/wal"
)

// Components are what an agent works with. The caller owns Log, Bucket and FS and closes them after the agent; the agent
// closes the listeners.
type Components struct {
	Log    log.Log
	Bucket objstore.Bucket
	// BucketName is what tools are shown as the log directory; empty: they are told "bucket".
	BucketName string
	FS         wal.FS
	WALDir     string
	// Scratch is where background duties keep what does not belong into memory. nil: this agent has no such duties, and others have them all.
	Scratch duty.Scratch
	// Dir, where set, is the data directory that the write-ahead log belongs to: one of another agent is refused.
	Dir *DataDir
	// Kafka is where the listener without a name accepts, Listeners where those with names do.
	Kafka     net.Listener
	Listeners map[string]net.Listener
	HTTP      net.Listener // may be nil
	// Internal is where other agents connect to; nil where this agent has none to do with.
	Internal net.Listener
	// Dial reaches other agents' internal listeners. Default: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// Logger gets one line per state change. Default: discard.
	Logger *slog.Logger
	// Now is the wall clock. Default time.Now.
	Now func() time.Time
	// Rand makes a simulation repeatable. Default: the system's randomness.
	Rand *rand.ChaCha8
	// Tune, where set, changes the metastore's settings before it is opened: a simulation makes snapshots and trims every
	// few entries, and counts what happens in metrics of its own. Operators have no use for it.
	Tune func(*metastore.Config)
}

// Life of an agent.
const (
	starting int32 = iota
	serving
	draining
	stopped
)

var stateNames = [...]string{"starting", "serving", "draining", "stopped"}

// Agent is a running agent. Its methods are safe for concurrent use.
type Agent struct {
	cfg    Config
	parts  Components
	state  atomic.Int32
	log    log.Log         // parts.Log, counted
	bucket objstore.Bucket // parts.Bucket, counted
	meta   *metastore.Client
	wal    *wal.Log
	cache  *fetch.Cache
	ingest *ingest.Pipeline
	groups *group.Coordinator
	kafka  *kafka.Server
	admin  *http.Server
	// duties is nil where the agent has none. dutyFaults tell what is wrong with them.
	duties    *compaction.Runner
	dutiesMax time.Duration // how long a drain waits for them
	// membersTime is how long a drain goes on serving after groups were handed over.
	membersTime time.Duration
	dutiesOver  atomic.Bool // a drain has waited for them
	dutyFaults  []func() string
	// rules know the bucket's own; nil where the agent has no duties.
	rules *lifecycle.Keeper
	// internal and peers are nil where this agent has nothing to do with others.
	internal *peer.Server
	peers    *peer.Client
	process  string        // names this process
	rand     *rand.ChaCha8 // of the background duties, nil: the system's
	started  time.Time
	behind   behind
	modes    modes
	met      atomic.Int32 // agents that this one looks after and has met

	bucketHealth bucketHealth
	topics       *topicMetrics
	watches      context.CancelFunc // ends the loops that only look
	wg           sync.WaitGroup     // the listeners' loops, and those
	failed       chan struct{}      // closed once by fail
	once         sync.Once
	errMu        sync.Mutex // guards err
	err          error
	end          sync.Once
}

// Start brings an agent up and returns when clients are served. Where it fails, nothing of it is left.
func Start(ctx context.Context, cfg Config, parts Components) (_ *Agent, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if parts.Logger == nil {
		parts.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg, parts: parts, failed: make(chan struct{}), process: newProcess(), started: time.Now(), dutiesMax: dutiesMax, membersTime: membersTime}
	a.behind.patience = cfg.behindPatience()
	if parts.Rand != nil { // the metastore goes on with it
		var seed [32]byte
		_, _ = parts.Rand.Read(seed[:]) // never fails
		a.rand = rand.NewChaCha8(seed)
	}
	parts.Logger.Info("agent starts", "agent", cfg.Name, "version", cfg.Version, "listeners", cfg.Addresses(), "mode", cfg.AdvertiseMode, "internal", cfg.Internal, "zone", cfg.Zone,
		"segment_bytes", cfg.SegmentBytes, "flush_interval", cfg.FlushInterval, "upload_slots", cfg.UploadSlots,
		"stage_bytes", cfg.StageBytes, "cache_bytes", cfg.CacheBytes, "wal_bytes", cfg.WALBytes, "request_bytes", cfg.RequestBytes)
	if cfg.RequestBytes < kafka.KafkaRequestBytesMax {
		parts.Logger.Info("larger produce requests are not taken, though clients may build them: raise --memory-limit or --request-bytes, or bound them there (kgo.BrokerMaxWriteBytes, sarama's MaxRequestSize)",
			"request_bytes", cfg.RequestBytes, "memory_limit", cfg.MemoryLimit, "kafka_default", kafka.KafkaRequestBytesMax)
	}
	var watching context.Context
	watching, a.watches = context.WithCancel(context.WithoutCancel(ctx))
	registry := prometheus.NewRegistry()
	registerProcess(registry)
	a.registerSelf(registry)
	if parts.HTTP != nil {
		a.admin = newAdmin(a.Health, a.Cluster, registry)
		a.admin.ConnState = newHTTPConns(cfg.HTTPConnections).note
		a.wg.Go(func() {
			if err := a.admin.Serve(parts.HTTP); !errors.Is(err, http.ErrServerClosed) {
				a.fail(fmt.Errorf("serve http: %w", err))
			}
		})
	}
	defer func() {
		if err != nil {
			a.stop(context.WithoutCancel(ctx))
		}
	}()
	told, err := advertised(cfg.listeners())
	if err != nil {
		return nil, err
	}
	sockets, err := parts.open(cfg.listeners())
	if err != nil {
		return nil, err
	}
	if cfg.AdvertiseMode == AdvertiseProxy && parts.Internal == nil {
		return nil, errors.New("agent: behind a load balancer agents pass requests on to each other, and there is no internal listener")
	}
	etcd := newEtcdMetrics(registry)
	a.bucket = metered.New(parts.Bucket, newBucketMetrics(registry, &a.bucketHealth))
	a.log = logmetered.New(parts.Log, etcd)

	if err := a.openWAL(ctx); err != nil {
		return nil, err
	}
	registerWAL(registry, a.wal)
	settings := cfg.metastore()
	if parts.Internal != nil {
		internal, err := advertised([]Listener{{peer.ListenerName, cfg.Internal}})
		if err != nil {
			return nil, err
		}
		told = append(told, internal...)
	}
	settings.Listeners = told
	if settings.Info, err = json.Marshal(a.registration()); err != nil {
		return nil, err
	}
	peerMetrics := peer.NewMetrics(registry)
	settings.Admit = func(ctx context.Context) error {
		if err := a.openPeers(ctx, peerMetrics); err != nil {
			return err
		}
		return a.admit(ctx)
	}
	settings.Now, settings.Rand, settings.Logger, settings.Metrics = parts.Now, parts.Rand, parts.Logger, metastore.NewMetrics(registry)
	if parts.Tune != nil {
		parts.Tune(&settings)
	}
	if a.meta, err = metastore.Open(ctx, settings, a.log, a.bucket); err != nil {
		return nil, err
	}
	reads := cfg.fetch()
	reads.Logger, reads.Metrics = parts.Logger, fetch.NewMetrics(registry)
	if a.cache, err = fetch.NewCache(reads, a.bucket); err != nil {
		return nil, err
	}
	a.shareReads()
	writes := cfg.ingest()
	writes.Logger, writes.Metrics = parts.Logger, ingest.NewMetrics(registry)
	if a.ingest, err = ingest.New(writes, a.meta, a.bucket, ingest.SpillTo(a.wal), a.cache); err != nil {
		return nil, err
	}
	a.topics = newTopicMetrics(registry, cfg.MetricsDetail, cfg.MetricsSeries, a.meta.View, a.meta.NodeID)
	reader := fetch.NewReader(a.meta, a.cache)
	coordinates := cfg.group()
	coordinates.Logger, coordinates.Metrics = parts.Logger, group.NewMetrics(registry)
	if a.groups, err = group.New(coordinates, a.meta); err != nil {
		return nil, err
	}
	newGroupMetrics(registry, cfg.MetricsDetail, cfg.MetricsSeries, a.meta.View, a.groups.List)
	if err := a.readRules(registry); err != nil {
		return nil, err
	}
	serves := cfg.kafka()
	if a.rules != nil {
		serves.LockFault, serves.ClassFault = a.rules.LockFault, a.rules.ClassFault
	}
	serves.LogDir = parts.BucketName
	if cfg.AdvertiseMode == AdvertiseProxy {
		serves.Balancer, serves.Peers = told[:len(sockets)], a.peers
	}
	serves.Logger, serves.Metrics, serves.Traffic = parts.Logger, kafka.NewMetrics(registry), a.topics
	if a.kafka, err = kafka.New(serves, a.meta, a.ingest, reader, a.groups); err != nil {
		return nil, err
	}
	a.servePeers()
	a.groups.Start()
	if err := a.startDuties(registry); err != nil {
		return nil, err
	}
	for name, socket := range sockets {
		a.wg.Go(func() {
			if err := a.kafka.Serve(name, socket); err != nil {
				a.fail(fmt.Errorf("serve listener %s: %w", name, err))
			}
		})
	}
	a.wg.Go(func() {
		<-a.meta.Failed()
		if err := a.meta.Err(); !errors.Is(err, metastore.ErrClosed) {
			a.fail(err)
		}
	})
	a.state.Store(serving)
	a.wg.Go(func() { a.watchConditions(watching) })
	a.wg.Go(func() { a.watchPeers(watching) })
	a.wg.Go(func() { a.watchEtcd(watching, etcd) })
	if a.peers != nil {
		a.wg.Go(func() { a.lookOut(watching) })
	}
	parts.Logger.Info("agent serves", "agent", cfg.Name, "node_id", a.meta.NodeID(), "listeners", cfg.Addresses(), "cluster", a.meta.ClusterID())
	return a, nil
}

// behindEntries is how far an agent may trail the head before it is taken out of service.
const behindEntries = 10_000

// Health says whether the agent should get traffic.
func (a *Agent) Health() Health {
	h := Health{Agent: a.cfg.Name, NodeID: -1, State: stateNames[a.state.Load()]}
	if a.state.Load() == starting || a.meta == nil {
		return h
	}
	h.NodeID, h.Cluster = a.meta.NodeID(), a.meta.ClusterID()
	for _, c := range a.conditions() {
		if c.cause == "" {
			continue
		}
		if h.Degraded != "" {
			h.Degraded += "; "
		}
		h.Degraded += c.part + ": " + c.cause
	}
	if err := a.Err(); err != nil {
		h.Error = err.Error()
	}
	h.Applied, h.Head = a.meta.Applied(), a.meta.Head()
	if h.Behind = a.behind.cause(); h.Behind == "" && h.Head-h.Applied > behindEntries {
		h.Behind = fmt.Sprintf("%d entries behind the metastore's head", h.Head-h.Applied)
	}
	h.Ready = a.state.Load() == serving && a.Err() == nil && h.Behind == ""
	return h
}

// HTTPAddr is where health and metrics are served, "" where they are not.
func (a *Agent) HTTPAddr() string {
	if a.parts.HTTP == nil {
		return ""
	}
	return a.parts.HTTP.Addr().String()
}

// Metastore is the agent's replica of the shared state, valid until the agent is stopped: for the simulator, which compares
// replicas.
func (a *Agent) Metastore() *metastore.Client { return a.meta }

// Failed is closed when the agent can no longer serve; Err says why.
func (a *Agent) Failed() <-chan struct{} { return a.failed }

// Err is why the agent failed, or nil.
func (a *Agent) Err() error {
	a.errMu.Lock()
	defer a.errMu.Unlock()
	return a.err
}

func (a *Agent) fail(err error) {
	if a.state.Load() >= draining {
		return
	}
	a.once.Do(func() {
		a.errMu.Lock()
		a.err = err
		a.errMu.Unlock()
		a.parts.Logger.Error("agent leaves service", "error", err)
		close(a.failed)
	})
}

// Kill stops the agent as a crash would, as far as one process can: connections are cut, nothing is flushed, nobody is told.
// For the simulator.
func (a *Agent) Kill() {
	a.state.Store(draining)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	a.stop(ctx)
}

// stop ends every part in reverse order of Start. Safe twice and on a half-started agent.
func (a *Agent) stop(ctx context.Context) {
	a.end.Do(func() {
		a.watches()
		if a.kafka != nil {
			a.kafka.Close()
		}
		if a.parts.Kafka != nil { // where serving it has not begun
			_ = a.parts.Kafka.Close()
		}
		if a.groups != nil {
			a.groups.Close()
		}
		for _, l := range a.parts.Listeners {
			_ = l.Close()
		}
		a.closePeers()
		if a.duties != nil && !a.dutiesOver.Load() {
			a.duties.Close()
		}
		if a.ingest != nil {
			a.ingest.Close()
		}
		if a.cache != nil {
			a.cache.Close()
		}
		if a.meta != nil {
			if err := a.meta.Close(ctx); err != nil && ctx.Err() == nil {
				a.parts.Logger.Warn("registration not released, it lapses by itself", "error", err)
			}
		}
		if a.wal != nil {
			if err := a.wal.Close(); err != nil {
				a.parts.Logger.Warn("close the write-ahead log", "error", err)
			}
		}
		if a.admin != nil {
			_ = a.admin.Close()
		}
		a.state.Store(stopped)
		a.wg.Wait()
	})
}
