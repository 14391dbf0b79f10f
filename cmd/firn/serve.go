package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/cmd/firn/settings"
	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

// serving is what `firn dev` and `firn agent` have in common.
type serving struct {
	stores
	dataDir string
	kafka   []string
	reach   []string // --advertise
	http    string
	// internal is what is listened on for other agents; "" is any port beside kafka's.
	internal string
	memory   bool
	// compaction: this agent has background duties.
	compaction bool
	level      string
	probe      string // what to do about a bucket that is not fit
	format     string
	agent      agent.Config

	set    *settings.Set
	check  bool   // only check the configuration
	output string // how to print it

	sockets []socket // of Kafka clients, once the settings are judged
	etcdAt  []string // where the etcd in use is, once it is
}

// declare makes the settings of both commands. Each stands here or in agent.Config's table, once; the documentation, the
// environment and the configuration file know them from there.
func (s *serving) declare() *settings.Set {
	s.probe = probeRequire
	s.kafka = []string{"127.0.0.1:9092"}
	s.http, s.level, s.format, s.agent.AutoCreateTopics = "127.0.0.1:8080", "info", "text", true
	s.compaction, s.agent.CompressMerged = true, true
	s.agent.MetricsDetail, s.agent.AdvertiseMode, s.agent.GroupMigration = agent.DetailTopic, agent.AdvertiseDirect, consumer.Bidirectional.String()
	set := settings.New()
	set.Group("Agent")
	set.Text(&s.agent.Name, "name", "stable name of this agent; where not set, made once and kept in --data-dir")
	set.Path(&s.dataDir, "data-dir", "directory of the agent's name and its write-ahead log")
	set.List(&s.kafka, "kafka", "addresses that Kafka clients connect to, host:port or, of a listener with a name, name=host:port").Check(checkNamed(checkListen))
	set.List(&s.reach, "advertise", "address that clients are sent to, host:port or name=host:port, per listener; where not set, its --kafka address").Check(checkNamed(checkReach))
	set.Choice((*string)(&s.agent.AdvertiseMode), "advertise-mode", "direct: --advertise is this agent's own address; proxy: it is a load balancer's, and clients see all agents as one broker",
		string(agent.AdvertiseDirect), string(agent.AdvertiseProxy))
	set.Text(&s.internal, "internal", "address that other agents connect to, in a network of their own; where not set, a free port at the host of --kafka").Check(checkListen)
	set.Text(&s.agent.Internal, "advertise-internal", "host:port by which other agents reach --internal; where not set, that address, or its port at the host of --advertise").Check(checkReach)
	set.List(&s.agent.TrustedProxies, "trusted-proxies", "addresses and networks (10.0.0.0/8) of load balancers: from these alone PROXY protocol headers, which are optional, are taken; without one their connections share no limit per address").Check(checkNetwork)
	set.Text(&s.http, "http", "address of health, metrics and profiles").Check(checkListen)
	set.Text(&s.agent.Zone, "zone", "where this agent runs; empty where that does not matter. Clients are sent to agents of their own zone, which they name in their client.id (zone=eu-1a, ws_az=, automq_az=, diskless_az= and others) or have by --client-zones")
	set.List(&s.agent.ClientZones, "client-zones", "zones of clients that name none in their client.id, as network=zone (10.0.1.0/24=eu-1a); the smallest network counts").Check(checkClientZone)
	s.stores.declare(set)
	set.Choice(&s.probe, "bucket-probe", "what an agent does at its start about a bucket that lacks what firn needs; off does not look", probeRequire, probeWarn, probeOff)
	set.Group(agent.GroupTopics)
	set.Flag(&s.agent.AutoCreateTopics, "auto-create-topics", "make topics that clients ask for")
	numbers(set, &s.agent)
	set.Group(agent.GroupGroups)
	set.Choice(&s.agent.GroupMigration, "group-consumer-migration",
		"whether a group of consumers may change between the classic and the consumer protocol (KIP-848) as members come and go", consumer.Migrations()...)
	set.Group(agent.GroupProduce)
	set.Flag(&s.agent.CompressSegments, "compress-segments", "compress what shrinks before it is stored; costs CPU here and wherever it is read")
	set.Group(agent.GroupDuties)
	set.Flag(&s.compaction, "compaction", "take part in background duties: merging, key compaction, retention, collection; at least one agent of a cluster has to")
	set.Flag(&s.agent.CompressMerged, "compress-merged", "compress what shrinks when it is merged; costs CPU once here, and wherever it is read")
	set.Group(agent.GroupProcess)
	set.Choice((*string)(&s.agent.MetricsDetail), "metrics-detail", "how far metrics of topics go", string(agent.DetailNone), string(agent.DetailTopic), string(agent.DetailPartition))
	set.Choice(&s.level, "log-level", "least level of what is logged", "debug", "info", "warn", "error")
	set.Choice(&s.format, "log-format", "form of the log", "text", "json")
	return set
}

// numbers declares every number of an agent's configuration.
func numbers(set *settings.Set, c *agent.Config) {
	for _, t := range c.Tunables() {
		set.Group(t.Group)
		set.Number(settings.Number{
			Name: t.Name, Help: t.Help, Kind: map[agent.Unit]settings.Kind{agent.Bytes: settings.Bytes, agent.Duration: settings.Duration}[t.Unit],
			Default: t.Default, Min: t.Min, Max: t.Max, Get: t.Get, Set: t.Set,
		})
	}
}

// validate is what the single values do not tell: what goes together, and what is missing.
func (s *serving) validate() []error {
	var problems []error
	s.sockets, problems = s.listeners()
	if s.agent.AdvertiseMode == agent.AdvertiseProxy {
		if host, _, err := net.SplitHostPort(s.internalAt()); err == nil && everywhere(host) && !s.set.Given("advertise-internal") {
			problems = append(problems, s.set.Missing("advertise-internal", "the internal listener is at every address of this host, and other agents must be told one")...)
		}
	}
	if s.memory {
		for _, name := range []string{"data-dir", "etcd"} {
			if s.set.Given(name) {
				problems = append(problems, s.set.Problem(name, "does not go with --memory, which keeps nothing; remove one of the two"))
			}
		}
	}
	problems = append(problems, s.stores.validate(s.set)...)
	// The agent's own rules, with what it gets only at the start filled in.
	c := s.agent
	c.Name, c.Advertise, c.Internal = cmp.Or(c.Name, "unnamed"), "unnamed:1", cmp.Or(c.Internal, "unnamed:1")
	if err := c.Validate(); err != nil {
		return append(problems, err)
	}
	c.Name, c.Advertise, c.Internal = s.agent.Name, "", s.agent.Internal
	s.agent = c // with every default
	return problems
}

// logger is the process's, as asked for.
func (s *serving) logger(e env) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.level)); err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: level}
	if s.format == "json" {
		options.ReplaceAttr = asText
		return slog.New(slog.NewJSONHandler(e.Stderr, options)), nil
	}
	return slog.New(slog.NewTextHandler(e.Stderr, options)), nil
}

// asText makes of a value what the text form would: a duration is no number of nanoseconds, and an id no list of bytes.
func asText(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindTime {
		return a
	}
	switch v := a.Value.Any().(type) {
	case error:
	case fmt.Stringer:
		a.Value = slog.StringValue(v.String())
	}
	return a
}

// listen opens a listener; a taken port says how to go on.
func listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--%s: %s is taken by another program; end it, or choose another address with --%s", flag, addr, flag)
	case err != nil:
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return l, nil
}

// closers end what was started, last first.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c closers) close() error {
	var errs []error
	for i := len(c) - 1; i >= 0; i-- {
		errs = append(errs, c[i]())
	}
	return errors.Join(errs...)
}

// run serves until ctx ends, then drains. ready is called once clients are served.
func (s *serving) run(ctx context.Context, e env, ready func(io.Writer, *agent.Agent)) (err error) {
	logger, err := s.logger(e)
	if err != nil {
		return err
	}
	var started closers
	defer func() { err = errors.Join(err, started.close()) }()
	defer limitMemory(s.agent.MemoryLimit)()

	parts := agent.Components{Logger: logger}
	if err := s.openSockets(&parts, &started); err != nil {
		return err
	}
	admin, err := listen("http", s.http)
	if err != nil {
		return err
	}
	started.add(func() error { return ignoreClosed(admin.Close()) })
	parts.HTTP = admin
	if parts.Internal, err = s.listenInternal(); err != nil {
		return err
	}
	started.add(func() error { return ignoreClosed(parts.Internal.Close()) })
	var dir *agent.DataDir
	if s.memory {
		parts.FS, parts.WALDir = walfs.New(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))), "wal"
		if s.agent.Name == "" {
			s.agent.Name = "memory"
		}
	} else {
		if dir, err = agent.OpenDataDir(s.dataDir, s.agent.Name); err != nil {
			return err
		}
		s.agent.Name = dir.Agent
		parts.FS, parts.WALDir, parts.Dir = wal.OS(), filepath.Join(dir.Path, "wal"), dir
	}
	if s.compaction {
		if parts.Scratch, err = s.scratch(dir); err != nil {
			return err
		}
	}
	s.agent.Version = thisBuild().Version
	if parts.Log, err = s.openMetastore(ctx, logger, &started); err != nil {
		return err
	}
	location, err := s.bucketURL()
	if err != nil {
		return err
	}
	if parts.Bucket, err = s.openProbed(ctx, location, logger); err != nil {
		return err
	}
	parts.BucketName, _, _ = strings.Cut(location, "?") // the parameters are nobody's business
	started.add(parts.Bucket.Close)
	if dir != nil {
		identity, err := metastore.Identify(ctx, parts.Log, parts.Bucket)
		if err != nil {
			return err
		}
		if err := dir.Claim(fmt.Sprintf("%x", identity.ID)); err != nil {
			return err
		}
	}

	a, err := agent.Start(ctx, s.agent, parts)
	if err != nil {
		return err
	}
	ready(e.Stdout, a)
	select {
	case <-ctx.Done():
	case <-a.Failed():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.agent.DrainTimeout)
	defer cancel()
	return errors.Join(a.Err(), a.Drain(drain))
}

// scratch is where background duties work: below the data directory, or in memory where there is none.
func (s *serving) scratch(dir *agent.DataDir) (duty.Scratch, error) {
	if dir == nil {
		return duty.InMemory(s.agent.ScratchBytes), nil
	}
	path := filepath.Join(dir.Path, "scratch")
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("%w: scratch space: %w", agent.ErrDataDir, err)
	}
	return duty.InDir(path, s.agent.ScratchBytes), nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// everywhere reports whether a host that is listened on stands for all addresses.
func everywhere(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// internalAt is where other agents connect to.
func (s *serving) internalAt() string {
	if s.internal != "" {
		return s.internal
	}
	_, address := splitNamed(s.kafka[0])
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address // listening says so
	}
	return net.JoinHostPort(host, "0")
}

// listenInternal opens the listener for other agents, and finds out what they are told.
func (s *serving) listenInternal() (net.Listener, error) {
	l, err := listen("internal", s.internalAt())
	if err != nil || s.agent.Internal != "" {
		return l, err
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err == nil && everywhere(host) {
		host, _, err = net.SplitHostPort(s.sockets[0].advertise)
	}
	s.agent.Internal = net.JoinHostPort(host, port)
	return l, err
}

// openMetastore opens the metastore's log: memory, an etcd outside, or one inside this process.
func (s *serving) openMetastore(ctx context.Context, logger *slog.Logger, started *closers) (log.Log, error) {
	if s.memory {
		store := memlog.NewStore(memlog.Config{})
		started.add(store.Close)
		l := store.Open("dev")
		started.add(l.Close)
		return l, nil
	}
	opts := s.options(logger)
	if len(s.etcd) == 0 {
		server, err := etcdembed.Start(ctx, etcdembed.Options{Dir: filepath.Join(s.dataDir, "etcd"), Logger: logger})
		if errors.Is(err, etcdembed.ErrLocked) {
			return nil, fmt.Errorf("%w: another firn is at work there; end it, or leave it running and name its etcd with --etcd, as it was printed at its start, and its bucket with --bucket", err)
		}
		if err != nil {
			return nil, err
		}
		started.add(server.Close)
		opts.Endpoints, opts.Client = server.Endpoints(), server.Client
	}
	s.etcdAt = opts.Endpoints
	l, err := s.openLog(ctx, opts)
	if err != nil {
		return nil, err
	}
	started.add(l.Close)
	return l, nil
}

// bucketURL is the bucket asked for, or the one that firn dev brings.
func (s *serving) bucketURL() (string, error) {
	switch {
	case s.bucket != "":
		return s.bucket, nil
	case s.memory:
		return "mem://", nil
	}
	path, err := filepath.Abs(filepath.Join(s.dataDir, "bucket"))
	return "file://" + filepath.ToSlash(path), err
}
