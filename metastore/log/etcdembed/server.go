package etcdembed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/features"
	"go.uber.org/zap/zapcore"

	"github.com/firnlog/firn/metastore/log/internal/zapslog"
)

// ErrLocked: another server, in this process or another, runs on the directory.
var ErrLocked = errors.New("etcd directory is in use")

// Options for Start. The zero value of a field is its default.
type Options struct {
	// Dir holds etcd's data; created if missing. Required.
	Dir string
	// Listen is the loopback address for clients of other processes. Default "127.0.0.1:0": a port of the system's choice.
	Listen string
	// QuotaBytes is the size at which etcd stops taking writes. Default 8 GiB, the most that etcd recommends.
	QuotaBytes int64
	// PasswordCost is bcrypt's cost of passwords, where it has users. Default etcd's, 10.
	PasswordCost uint
	// UnsafeNoFsync gives up durability: for tests, and for data that need not survive a crash of the machine.
	UnsafeNoFsync bool
	// CertFile and KeyFile make it speak TLS to other processes; with ClientCAFile they must show a certificate that
	// one of its authorities has signed.
	CertFile, KeyFile, ClientCAFile string
	// Logger gets etcd's errors. Default: silent.
	Logger *slog.Logger
}

const (
	defaultListen = "127.0.0.1:0"
	defaultQuota  = 8 << 30

	// A lone member elects itself when its election timeout ends: 50 ms here, 1 s by default. Nobody else can mistake it
	// for dead.
	tickMs     = 10
	electionMs = 50

	watchProgressInterval = 500 * time.Millisecond
	lockWait              = 100 * time.Millisecond
	memberName            = "firn"
	lockFile              = "firn.lock"
)

// Server is a running member. It stops with Close; its methods may be used until then from any goroutine.
type Server struct {
	etcd *embed.Etcd
	lock *fileutil.LockedFile
	done sync.Once
}

// Start returns when the member serves. ctx bounds the wait.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Dir == "" {
		return nil, errors.New("etcd needs a directory")
	}
	cfg, err := config(opts)
	if err != nil {
		return nil, err
	}
	lock, err := claim(opts.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock}
	if s.etcd, err = launch(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("start etcd in %s: %w", opts.Dir, err), lock.Close())
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
		// Nobody else has a tool at hand for an etcd inside this process: a restart is the mend.
		if err = s.makeRoomWhereFull(ctx); err == nil {
			return s, nil
		}
	case err = <-s.etcd.Err():
	case <-s.etcd.Server.StopNotify():
		err = errors.New("it stopped")
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(fmt.Errorf("start etcd in %s: %w", opts.Dir, err), s.Close())
}

// launch is embed.StartEtcd with its panics on damaged files as errors.
func launch(cfg *embed.Config) (e *embed.Etcd, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("etcd refused its files: %v", p)
		}
	}()
	return embed.StartEtcd(cfg)
}

func config(opts Options) (*embed.Config, error) {
	listen := opts.Listen
	if listen == "" {
		listen = defaultListen
	}
	client := url.URL{Scheme: "http", Host: listen}
	if opts.CertFile != "" {
		client.Scheme = "https"
	}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"}

	cfg := embed.NewConfig()
	cfg.Name = memberName
	cfg.Dir = opts.Dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	if opts.PasswordCost > 0 {
		cfg.BcryptCost = opts.PasswordCost
	}
	cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = opts.CertFile, opts.KeyFile
	cfg.ClientTLSInfo.TrustedCAFile, cfg.ClientTLSInfo.ClientCertAuth = opts.ClientCAFile, opts.ClientCAFile != ""
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = nil, []url.URL{peer} // no peers: nothing to listen for
	cfg.InitialCluster = cfg.InitialClusterFromName(memberName)
	// etcd derives the cluster id from this, once. Random, so that two directories are never taken for one another.
	cfg.InitialClusterToken = rand.Text()
	cfg.TickMs, cfg.ElectionMs = tickMs, electionMs
	cfg.QuotaBackendBytes = opts.QuotaBytes
	if cfg.QuotaBackendBytes == 0 {
		cfg.QuotaBackendBytes = defaultQuota
	}
	cfg.WatchProgressNotifyInterval = watchProgressInterval
	cfg.UnsafeNoFsync = opts.UnsafeNoFsync
	cfg.EnableGRPCGateway = false
	cfg.AutoCompactionRetention = "0" // the metastore compacts
	cfg.Metrics = "basic"
	// At error level etcd reports its own closed listeners at every stop, and a fresh directory at the first start. What is
	// wrong with it shows in Err and in the answers of the log.
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapslog.New(opts.Logger, zapcore.DPanicLevel))
	gate, ok := cfg.ServerFeatureGate.(featuregate.MutableFeatureGate)
	if !ok {
		return nil, errors.New("etcd's feature gate cannot be set")
	}
	if err := gate.SetFromMap(map[string]bool{string(features.InitialCorruptCheck): true}); err != nil {
		return nil, fmt.Errorf("etcd's feature gate: %w", err)
	}
	return cfg, nil
}

// claim makes the directory and takes it for this server alone. etcd by itself would wait for ever for a locked database,
// and end the process over one that it cannot open.
func claim(dir string) (*fileutil.LockedFile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("etcd directory: %w", err)
	}
	lock, err := fileutil.TryLockFile(filepath.Join(dir, lockFile), os.O_WRONLY|os.O_CREATE, 0o600)
	switch {
	case errors.Is(err, fileutil.ErrLocked):
		return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
	case err != nil:
		return nil, fmt.Errorf("etcd directory: %w", err)
	}
	if err := probe(filepath.Join(dir, "member", "snap", "db")); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// probe opens the database as etcd will.
func probe(db string) error {
	if _, err := os.Stat(db); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	b, err := bbolt.Open(db, 0o600, &bbolt.Options{Timeout: lockWait, ReadOnly: true})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%w: %s", ErrLocked, db)
	case err != nil:
		return fmt.Errorf("etcd database %s: %w", db, err)
	}
	return b.Close()
}

// Endpoints are for clients in other processes of this machine.
func (s *Server) Endpoints() []string {
	out := make([]string, len(s.etcd.Clients))
	for i, l := range s.etcd.Clients {
		out[i] = s.etcd.Config().ListenClientUrls[0].Scheme + "://" + l.Addr().String()
	}
	return out
}

// Client is a client without a socket, for etcdlog.Options.Client. The caller closes it, before the server.
func (s *Server) Client() (*clientv3.Client, error) { return v3client.New(s.etcd.Server), nil }

// Err brings an error that ended serving, and is closed with the server.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// MakeRoom does what an operator does about an etcd that is full: forgets history up to now, gives free pages back, and lets writes
// in again. Whatever firn needs of the history is in its archive.
func (s *Server) MakeRoom(ctx context.Context) error {
	c, err := s.Client()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	now, err := c.Get(ctx, "any")
	if err != nil {
		return fmt.Errorf("read etcd's revision: %w", err)
	}
	if _, err := c.Compact(ctx, now.Header.GetRevision(), clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact etcd: %w", err)
	}
	if err := s.etcd.Server.Backend().Defrag(); err != nil {
		return fmt.Errorf("defragment etcd: %w", err)
	}
	if _, err := c.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		return fmt.Errorf("disarm etcd's alarms: %w", err)
	}
	return nil
}

func (s *Server) makeRoomWhereFull(ctx context.Context) error {
	for _, a := range s.etcd.Server.Alarms() {
		if a.GetAlarm() == etcdserverpb.AlarmType_NOSPACE {
			return s.MakeRoom(ctx)
		}
	}
	return nil
}

// Close stops the member and gives up the directory. Safe twice.
func (s *Server) Close() (err error) {
	s.done.Do(func() {
		s.etcd.Close()
		err = s.lock.Close()
	})
	return err
}
