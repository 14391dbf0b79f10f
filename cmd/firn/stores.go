package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/cmd/firn/settings"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/etcdlog"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/open"
)

// stores say which etcd and which bucket; every command that works on a cluster's data takes them.
type stores struct {
	etcd    []string
	cluster string
	prefix  string
	unsafe  bool
	dial    time.Duration
	bucket  string
}

// Groups of the settings that stores declare.
const (
	groupEtcd   = "etcd"
	groupBucket = "Bucket"
)

// declare adds the settings.
func (s *stores) declare(set *settings.Set) {
	s.cluster, s.dial = "default", etcdlog.DefaultDialTimeout
	set.Group(groupEtcd)
	set.List(&s.etcd, "etcd", "etcd endpoints, host:port or https://host:port").Check(checkEndpoint)
	set.Text(&s.cluster, "cluster", "name of the cluster; its keys in etcd lie below /firn/NAME").Check(checkCluster)
	set.Text(&s.prefix, "etcd-prefix", "where the cluster's keys lie instead").Check(checkPrefix)
	set.Period(&s.dial, "etcd-dial-timeout", 100*time.Millisecond, 5*time.Minute, "longest that connecting to etcd may take at the start")
	set.Flag(&s.unsafe, "unsafe-etcd", "run on an etcd version with known bugs in watches or leases")
	set.Group(groupBucket)
	set.Text(&s.bucket, "bucket", "bucket URL: s3://BUCKET/PREFIX?PARAMETERS, minio:// likewise, file://PATH or mem://; credentials are never part of it").
		Check(func(v string) error { return open.Check(v, open.Options{}) })
}

// required are the problems of a command that cannot do without them.
func (s *stores) required(set *settings.Set) []error {
	var problems []error
	if !set.Given("bucket") {
		problems = append(problems, set.Missing("bucket", "firn keeps its data there"))
	}
	if !set.Given("etcd") {
		problems = append(problems, set.Missing("etcd", "it orders what is produced"))
	}
	return problems
}

// options are for opening the log.
func (s *stores) options(logger *slog.Logger) etcdlog.Options {
	return etcdlog.Options{Endpoints: s.etcd, Cluster: s.cluster, Prefix: s.prefix, DialTimeout: s.dial, Unsafe: s.unsafe, Logger: logger}
}

// openLog connects to the metastore's log.
func (s *stores) openLog(ctx context.Context, opts etcdlog.Options) (log.Log, error) {
	ctx, cancel := context.WithTimeout(ctx, max(30*time.Second, s.dial))
	defer cancel()
	l, err := etcdlog.Open(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open the metastore at %s: %w", strings.Join(opts.Endpoints, ","), err)
	}
	return l, nil
}

// openBucket opens the bucket of a URL.
func (s *stores) openBucket(ctx context.Context, url string) (objstore.Bucket, error) {
	b, err := open.Open(ctx, url, open.Options{})
	if err != nil {
		return nil, fmt.Errorf("--bucket: %w", err)
	}
	return b, nil
}

func checkCluster(v string) error {
	if strings.Contains(v, "/") {
		return errors.New("has a slash, which a name may not; --etcd-prefix takes a path")
	}
	return nil
}

func checkPrefix(v string) error {
	if !strings.HasPrefix(v, "/") || strings.HasSuffix(v, "/") {
		return errors.New("must start with a slash and not end with one")
	}
	return nil
}

// checkEndpoint judges one etcd endpoint.
func checkEndpoint(v string) error {
	hostPort := v
	if strings.Contains(v, "://") {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
			return errors.New("is not http://host:port or https://host:port")
		}
		if u.User != nil {
			return errors.New("holds credentials; remove them and see --etcd-username")
		}
		hostPort = u.Host
	}
	return checkHostPort(hostPort, 1)
}

// checkListen judges an address to listen on; port 0 lets the system choose.
func checkListen(v string) error { return checkHostPort(v, 0) }

// checkReach judges an address to be reached at.
func checkReach(v string) error {
	if host, _, err := net.SplitHostPort(v); err == nil && host == "" {
		return errors.New("has no host; write host:port")
	}
	return checkHostPort(v, 1)
}

func checkHostPort(v string, least uint64) error {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		return errors.New("is not host:port")
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p < least {
		return fmt.Errorf("has no port from %d to 65535", least)
	}
	return nil
}
