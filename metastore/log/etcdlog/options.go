package etcdlog

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/internal/zapslog"
)

// Options say where etcd is and how to speak to it. The zero value of a field is its default.
type Options struct {
	// Endpoints are the client URLs of the members of one etcd cluster. Required, unless Client is set.
	Endpoints []string
	// Cluster names the firn cluster; many can share one etcd, though they should not. Default "main".
	Cluster string
	// Prefix starts every key; no slash at its end. Default "/firn/<cluster>".
	Prefix string
	// TLS is for https endpoints, and for those without a scheme; nil for the system's roots and no client certificate. Its
	// ServerName is ignored by gRPC; TLS.Config makes one that is not.
	TLS *tls.Config
	// Username and Password are for etcd's authentication; both or none.
	Username, Password string
	// DialTimeout bounds authentication and each version check of Open. Default 5 s.
	DialTimeout time.Duration
	// KeepAliveTime is how long a connection is silent before it is pinged; etcd cuts off whoever pings more often than
	// every 5 s, so less is refused. Default 5 s.
	KeepAliveTime time.Duration
	// WatchBufferBytes bounds what a watch holds for a slow consumer before it is given up. Default 64 MiB.
	WatchBufferBytes int
	// WatchSilence is how long a watch may bring neither event nor progress before it is given up. Default 3 s.
	WatchSilence time.Duration
	// CompactInterval is the least time between two compactions by Trim. Default 30 s.
	CompactInterval time.Duration
	// Genesis is the identity to create where there is no log yet; recovery sets it to continue an old log under its next
	// epoch. Its Cluster is ignored. Default: a random ID, epoch 1, base 0.
	Genesis *log.Identity
	// Unsafe accepts an etcd with known bugs that lose or invent events, and one that is not the cluster the log was
	// created on.
	Unsafe bool
	// Logger gets what operators should know, and warnings of etcd's client. Default: silent.
	Logger *slog.Logger
	// Client makes a connection instead of Endpoints, to an etcd in this process. It is called once for all calls and
	// once for each watch; etcdlog closes what it returns.
	Client func() (*clientv3.Client, error)
}

// Defaults of Options that operators may set.
const (
	DefaultDialTimeout      = 5 * time.Second
	DefaultWatchBufferBytes = 64 << 20
	DefaultCompactInterval  = 30 * time.Second
	DefaultKeepAliveTime    = minKeepAliveTime
)

const (
	minKeepAliveTime    = 5 * time.Second // etcd's enforcement policy
	keepAliveTimeout    = 3 * time.Second
	defaultWatchSilence = 3 * time.Second
)

// Validate returns every problem at once.
func (o Options) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Client == nil && len(o.Endpoints) == 0 {
		bad("no etcd endpoint")
	}
	for _, e := range o.Endpoints {
		if strings.TrimSpace(e) == "" {
			bad("empty etcd endpoint")
		}
	}
	if strings.Contains(o.Cluster, "/") {
		bad("cluster name with a slash: %q", o.Cluster)
	}
	if o.Prefix != "" && (strings.HasSuffix(o.Prefix, "/") || !strings.HasPrefix(o.Prefix, "/")) {
		bad("prefix must start with a slash and not end with one: %q", o.Prefix)
	}
	if (o.Username == "") != (o.Password == "") {
		bad("etcd username and password go together")
	}
	if o.KeepAliveTime != 0 && o.KeepAliveTime < minKeepAliveTime {
		bad("keepalive time below the %v that etcd allows: %v", minKeepAliveTime, o.KeepAliveTime)
	}
	if o.DialTimeout < 0 || o.WatchSilence < 0 || o.CompactInterval < 0 || o.WatchBufferBytes < 0 {
		bad("negative limit")
	}
	if o.WatchSilence > 0 && o.WatchSilence < 2*progressInterval {
		bad("watch silence below two progress intervals of %v: %v", progressInterval, o.WatchSilence)
	}
	if g := o.Genesis; g != nil && (g.Epoch == 0 || g.ID == [16]byte{}) {
		bad("genesis needs an id and an epoch")
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	or := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	or(&o.DialTimeout, DefaultDialTimeout)
	or(&o.KeepAliveTime, DefaultKeepAliveTime)
	or(&o.WatchSilence, defaultWatchSilence)
	or(&o.CompactInterval, DefaultCompactInterval)
	if o.WatchBufferBytes == 0 {
		o.WatchBufferBytes = DefaultWatchBufferBytes
	}
	if o.Cluster == "" {
		o.Cluster = "main"
	}
	if o.Prefix == "" {
		o.Prefix = "/firn/" + o.Cluster
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// reconnect is how often a connection is tried again. gRPC's own pauses rise to two minutes: so long a cluster would be out
// after etcd is back from a long outage.
var reconnect = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}

// minConnectTime is how long an attempt may take at least.
const minConnectTime = 5 * time.Second

// connect opens one connection; endpoints choose among Options.Endpoints.
func (o Options) connect(endpoints []string) (*clientv3.Client, error) {
	if o.Client != nil {
		return o.Client()
	}
	return clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		TLS:                  o.TLS,
		Username:             o.Username,
		Password:             o.Password,
		DialTimeout:          o.DialTimeout,
		DialKeepAliveTime:    o.KeepAliveTime,
		DialKeepAliveTimeout: keepAliveTimeout,
		DialOptions:          []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: minConnectTime})},
		Logger:               zapslog.New(o.Logger, zapcore.ErrorLevel),
	})
}
