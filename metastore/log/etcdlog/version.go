package etcdlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coreos/go-semver/semver"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/firnlog/firn/metastore/log"
)

// minVersions are the first releases of each line without a known bug that loses, repeats or invents watch events, serves
// stale linearizable reads, or lets a stranger past authentication (DESIGN.md beside package log lists them). A line above the
// newest here is taken as fixed.
var minVersions = []semver.Version{
	{Major: 3, Minor: 5, Patch: 33},
	{Major: 3, Minor: 6, Patch: 14},
	{Major: 3, Minor: 7, Patch: 1},
}

// checkVersion says whether firn runs on an etcd of this version.
func checkVersion(version string) error {
	v, err := semver.NewVersion(version)
	if err != nil {
		return fmt.Errorf("%w: etcd version %q: %w", log.ErrRefused, version, err)
	}
	newest := minVersions[len(minVersions)-1]
	if v.Major > newest.Major || v.Major == newest.Major && v.Minor > newest.Minor {
		return nil
	}
	for _, least := range minVersions {
		if v.Major == least.Major && v.Minor == least.Minor && !v.LessThan(least) {
			return nil
		}
	}
	return fmt.Errorf("%w: etcd %s has bugs that lose data: use 3.7.1, 3.6.14, 3.5.33 or later", log.ErrRefused, version)
}

// stragglerWait is how much longer than the first to answer the other endpoints may take: a dead member must not hold up
// every start.
const stragglerWait = time.Second

// checkEndpoints asks every endpoint for its version and cluster. All that answer must be fit and of one cluster, and one
// must answer; a member that is down is logged, for a cluster has to survive that.
func (l *Log) checkEndpoints(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.opts.DialTimeout)
	defer cancel()
	endpoints := l.endpoints()
	answers := make([]*clientv3.StatusResponse, len(endpoints))
	errs := make([]error, len(endpoints))
	var asking sync.WaitGroup
	for i, endpoint := range endpoints {
		asking.Go(func() {
			if answers[i], errs[i] = l.cli.Status(ctx, endpoint); errs[i] == nil {
				time.AfterFunc(stragglerWait, cancel)
			}
		})
	}
	asking.Wait()
	for i, endpoint := range endpoints {
		if errs[i] != nil {
			errs[i] = l.fail("status of "+endpoint, errs[i])
			l.opts.Logger.Warn("etcd endpoint does not answer; its version is not checked", "endpoint", endpoint, "error", errs[i])
			continue
		}
		if err := l.judge(endpoint, answers[i]); err != nil {
			return err
		}
	}
	if l.cluster == "" {
		return errors.Join(errs...)
	}
	return nil
}

func (l *Log) judge(endpoint string, st *clientv3.StatusResponse) error {
	cluster := fmt.Sprintf("%016x", st.Header.GetClusterId())
	if l.cluster != "" && l.cluster != cluster {
		return fmt.Errorf("%w: endpoint %s is of etcd cluster %s, another of %s", log.ErrRefused, endpoint, cluster, l.cluster)
	}
	l.cluster = cluster
	if err := checkVersion(st.Version); err != nil {
		if !l.opts.Unsafe {
			return fmt.Errorf("endpoint %s: %w", endpoint, err)
		}
		l.opts.Logger.Warn("running on an unfit etcd as told", "endpoint", endpoint, "error", err)
	}
	if q := st.DbSizeQuota; q > 0 && q < minQuota {
		l.opts.Logger.Warn("etcd's quota is small; raise quota-backend-bytes to 8 GiB", "endpoint", endpoint, "quota_bytes", q)
	}
	return nil
}

// endpoints are the names to ask Status of.
func (l *Log) endpoints() []string {
	if l.opts.Client != nil {
		return []string{"in-process"}
	}
	return l.opts.Endpoints
}

// minQuota is what an operator is warned below: 400 entries of 4 KiB a second fill the default of 2 GiB in 20 minutes.
const minQuota = 4 << 30
