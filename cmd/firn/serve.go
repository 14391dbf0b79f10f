package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/open"
	"github.com/firnlog/firn/wal"
	"github.com/firnlog/firn/wal/walfs"
)

// serving is what `firn dev` and `firn agent` have in common.
type serving struct {
	dataDir string
	kafka   string
	http    string
	bucket  string
	etcd    []string
	cluster string
	memory  bool
	unsafe  bool
	level   string
	agent   agent.Config

	etcdAt []string // where the etcd in use is, once it is
}

// flags declares what both commands take.
func (s *serving) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.kafka, "kafka", "127.0.0.1:9092", "address that Kafka clients connect to")
	f.StringVar(&s.http, "http", "127.0.0.1:8080", "address of health, metrics and profiles")
	f.StringVar(&s.agent.Advertise, "advertise", "", "host:port that clients are sent to (default: the --kafka address)")
	f.StringVar(&s.agent.Zone, "zone", "", "where this agent runs")
	f.StringVar(&s.cluster, "cluster", "default", "name of the cluster below etcd's /firn prefix")
	f.BoolVar(&s.agent.AutoCreateTopics, "auto-create-topics", true, "make topics that clients ask for")
	f.IntVar(&s.agent.DefaultPartitions, "default-partitions", 1, "partitions of a topic that is made without a number")
	f.IntVar(&s.agent.SegmentBytes, "segment-bytes", 0, "raw size at which a segment is uploaded (default 8 MiB)")
	f.DurationVar(&s.agent.FlushInterval, "flush-interval", 0, "longest that a record waits for company (default 250ms)")
	f.IntVar(&s.agent.UploadSlots, "upload-slots", 0, "uploads at once (default 4)")
	f.Int64Var(&s.agent.StageBytes, "stage-bytes", 0, "record batches held in memory before they spill (default 64 MiB)")
	f.Int64Var(&s.agent.CacheBytes, "cache-bytes", 0, "size of the read cache (default 128 MiB)")
	f.Int64Var(&s.agent.WALBytes, "wal-bytes", 0, "disk space of the write-ahead log (default 1 GiB)")
	f.IntVar(&s.agent.RequestBytes, "request-bytes", 0, "largest produce request (default 16 MiB)")
	f.DurationVar(&s.agent.DrainTimeout, "drain-timeout", 0, "longest that a drain may take (default 30s)")
	f.StringVar(&s.level, "log-level", "info", "debug, info, warn or error")
}

// logger is the process's, at the level asked for.
func (s *serving) logger(e env) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.level)); err != nil {
		return nil, fmt.Errorf("%w: --log-level: %q is not debug, info, warn or error", client.ErrUsage, s.level)
	}
	return slog.New(slog.NewTextHandler(e.Stderr, &slog.HandlerOptions{Level: level})), nil
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

	kafka, err := listen("kafka", s.kafka)
	if err != nil {
		return err
	}
	started.add(func() error { return ignoreClosed(kafka.Close()) })
	admin, err := listen("http", s.http)
	if err != nil {
		return err
	}
	started.add(func() error { return ignoreClosed(admin.Close()) })
	if s.agent.Advertise == "" {
		if s.agent.Advertise, err = advertised(kafka.Addr()); err != nil {
			return err
		}
	}

	parts := agent.Components{Kafka: kafka, HTTP: admin, Logger: logger}
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
		parts.FS, parts.WALDir = wal.OS(), filepath.Join(dir.Path, "wal")
	}
	s.agent.Version = thisBuild().Version
	if err := s.agent.Validate(); err != nil {
		return fmt.Errorf("%w: %w", client.ErrUsage, err)
	}
	if parts.Log, err = s.openLog(ctx, logger, &started); err != nil {
		return err
	}
	if dir != nil {
		identity, err := parts.Log.Identity(ctx)
		if err != nil {
			return err
		}
		if err := dir.Claim(fmt.Sprintf("%x", identity.ID)); err != nil {
			return err
		}
	}
	if parts.Bucket, err = s.openBucket(ctx); err != nil {
		return err
	}
	started.add(parts.Bucket.Close)

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

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// advertised derives the address clients are sent to from the one listened on.
func advertised(addr net.Addr) (string, error) {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "", fmt.Errorf("%w: --kafka listens on every address of this host; say with --advertise which one clients are sent to", client.ErrUsage)
	}
	return net.JoinHostPort(host, port), nil
}

// openLog opens the metastore's log: memory, an etcd outside, or one inside this process.
func (s *serving) openLog(ctx context.Context, logger *slog.Logger, started *closers) (log.Log, error) {
	if s.memory {
		store := memlog.NewStore(memlog.Config{})
		started.add(store.Close)
		l := store.Open("dev")
		started.add(l.Close)
		return l, nil
	}
	opts := etcdlog.Options{Endpoints: s.etcd, Cluster: s.cluster, Logger: logger, Unsafe: s.unsafe}
	if len(s.etcd) == 0 {
		server, err := etcdembed.Start(ctx, etcdembed.Options{Dir: filepath.Join(s.dataDir, "etcd"), Logger: logger})
		if err != nil {
			return nil, err
		}
		started.add(server.Close)
		opts.Endpoints, opts.Client = server.Endpoints(), server.Client
	}
	s.etcdAt = opts.Endpoints
	connect, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	l, err := etcdlog.Open(connect, opts)
	if err != nil {
		return nil, fmt.Errorf("open the metastore at %s: %w", strings.Join(opts.Endpoints, ","), err)
	}
	started.add(l.Close)
	return l, nil
}

func (s *serving) openBucket(ctx context.Context) (objstore.Bucket, error) {
	url := s.bucket
	switch {
	case url != "":
	case s.memory:
		url = "mem://"
	default:
		path, err := filepath.Abs(filepath.Join(s.dataDir, "bucket"))
		if err != nil {
			return nil, err
		}
		url = "file://" + filepath.ToSlash(path)
	}
	b, err := open.Open(ctx, url, open.Options{})
	if err != nil {
		return nil, fmt.Errorf("--bucket: %w", err)
	}
	return b, nil
}
