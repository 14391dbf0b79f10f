package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
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
	watch   int64
	compact time.Duration
	ping    time.Duration

	tls                              etcdlog.TLS
	username, password, passwordFile string

	bucket string
}

// Groups of the settings that stores declare.
const (
	groupEtcd   = "etcd"
	groupBucket = "Bucket"
)

// declare adds the settings.
func (s *stores) declare(set *settings.Set) {
	s.cluster, s.dial, s.compact, s.ping = "default", etcdlog.DefaultDialTimeout, etcdlog.DefaultCompactInterval, etcdlog.DefaultKeepAliveTime
	set.Group(groupEtcd)
	set.List(&s.etcd, "etcd", "etcd endpoints, host:port or https://host:port").Check(checkEndpoint)
	set.Text(&s.cluster, "cluster", "name of the cluster; its keys in etcd lie below /firn/NAME").Check(checkCluster)
	set.Text(&s.prefix, "etcd-prefix", "where the cluster's keys lie instead").Check(checkPrefix)
	set.Period(&s.dial, "etcd-dial-timeout", 100*time.Millisecond, 5*time.Minute, "longest that connecting to etcd may take at the start")
	set.Period(&s.ping, "etcd-keepalive-interval", etcdlog.DefaultKeepAliveTime, time.Hour, "how long a connection to etcd is silent before it is asked whether it is still there")
	set.Number(settings.Number{
		Name: "etcd-watch-buffer-bytes", Help: "what a watch holds for a slow agent before it is made anew", Kind: settings.Bytes,
		Default: etcdlog.DefaultWatchBufferBytes, Min: 1 << 20, Max: 4 << 30, Get: func() int64 { return s.watch }, Set: func(v int64) { s.watch = v },
	})
	set.Period(&s.compact, "etcd-compact-interval", time.Second, 24*time.Hour, "least time between two compactions of etcd's history")
	set.Path(&s.tls.CAFile, "etcd-ca-file", "certificates, in PEM form, of the authorities that sign etcd's; where not set, the system's")
	set.Path(&s.tls.CertFile, "etcd-cert-file", "certificate, in PEM form, to show to etcd; read again when it changes")
	set.Path(&s.tls.KeyFile, "etcd-key-file", "key, in PEM form, of --etcd-cert-file")
	set.Text(&s.tls.ServerName, "etcd-server-name", "name to expect in etcd's certificate; where not set, the host in --etcd")
	set.Flag(&s.tls.InsecureSkipVerify, "etcd-insecure-skip-verify", "take any certificate of etcd: whoever is on the way can read and change everything")
	set.Text(&s.username, "etcd-username", "user of etcd; its role needs readwrite on every key of the cluster")
	set.Secret(&s.password, "etcd-password", "the user's password")
	set.Path(&s.passwordFile, "etcd-password-file", "file that holds the user's password; or set FIRN_ETCD_PASSWORD")
	set.Flag(&s.unsafe, "unsafe-etcd", "run on an etcd version with known bugs in watches or leases")
	set.Group(groupBucket)
	set.Text(&s.bucket, "bucket", "bucket URL: s3://BUCKET/PREFIX?PARAMETERS, minio:// likewise, file://PATH or mem://; credentials are never part of it").
		Check(func(v string) error { return open.Check(v, open.Options{}) }).Worded()
}

// required are the problems of a command that cannot do without them.
func (s *stores) required(set *settings.Set) []error {
	var problems []error
	if !set.Given("bucket") {
		problems = append(problems, set.Missing("bucket", "firn keeps its data there")...)
	}
	if !set.Given("etcd") {
		problems = append(problems, set.Missing("etcd", "it orders what is produced")...)
	}
	return problems
}

// validate is what goes together, and what is in the files that the settings name.
func (s *stores) validate(set *settings.Set) []error {
	var problems []error
	bad := func(name, format string, args ...any) {
		problems = append(problems, set.Problem(name, format, args...))
	}
	if !set.Given("etcd") {
		for _, x := range set.All() {
			if x.Group == groupEtcd && strings.HasPrefix(x.Name, "etcd-") && set.Given(x.Name) {
				bad(x.Name, "has no effect without --etcd: nothing outside this process is connected to; remove it, or give --etcd")
			}
		}
		return problems
	}
	t := s.tls
	if t.CAFile != "" {
		if _, err := etcdlog.Authorities(t.CAFile); err != nil {
			bad("etcd-ca-file", "%w", err)
		}
	}
	switch {
	case t.CertFile != "" && t.KeyFile != "":
		if _, err := etcdlog.NewClientCertificate(t.CertFile, t.KeyFile, nil); err != nil {
			bad("etcd-cert-file", "%w", err)
		}
	case t.CertFile != "":
		bad("etcd-cert-file", "needs its key: give --etcd-key-file")
	case t.KeyFile != "":
		bad("etcd-key-file", "needs its certificate: give --etcd-cert-file")
	}
	if t.InsecureSkipVerify && (t.ServerName != "" || t.CAFile != "") {
		bad("etcd-insecure-skip-verify", "takes any certificate, and so does not go with --etcd-ca-file or --etcd-server-name; remove it, or these")
	}
	problems = append(problems, s.validateSchemes(set)...)
	switch {
	case set.Given("etcd-password") && set.Given("etcd-password-file"):
		bad("etcd-password", "is given twice, here and by --etcd-password-file; keep one of the two")
	case set.Given("etcd-password-file"):
		if _, err := s.secret(); err != nil {
			bad("etcd-password-file", "%w", err)
		}
	}
	switch hasPassword := set.Given("etcd-password") || set.Given("etcd-password-file"); {
	case hasPassword && !set.Given("etcd-username"):
		name := "etcd-password"
		if !set.Given(name) {
			name = "etcd-password-file"
		}
		bad(name, "whose password is it? give --etcd-username")
	case !hasPassword && set.Given("etcd-username"):
		bad("etcd-username", "needs a password: give --etcd-password-file, or FIRN_ETCD_PASSWORD in the environment")
	}
	return problems
}

// validateSchemes holds the endpoints against each other and against TLS: the client would take the first one's scheme for all.
func (s *stores) validateSchemes(set *settings.Set) []error {
	plain, secure := "", ""
	for _, e := range s.etcd {
		switch scheme, _, given := strings.Cut(e, "://"); {
		case given && scheme == "http", !given && !s.secured():
			plain = e
		default:
			secure = e
		}
	}
	switch {
	case plain != "" && s.secured():
		return []error{set.Problem("etcd", "%q says to speak without TLS, and there are settings for TLS; write https://, or remove these", plain)}
	case plain != "" && secure != "":
		return []error{set.Problem("etcd", "%q is without TLS and %q with it; all endpoints are spoken to in the same way", plain, secure)}
	}
	return nil
}

// secured says whether there are settings for TLS.
func (s *stores) secured() bool {
	t := s.tls
	return t.CAFile != "" || t.CertFile != "" || t.KeyFile != "" || t.ServerName != "" || t.InsecureSkipVerify
}

// passwordBytesMax bounds what is read of a file with a password.
const passwordBytesMax = 4 << 10

// secret is the password, from the environment or a file, whose last line end does not count.
func (s *stores) secret() (string, error) {
	if s.passwordFile == "" {
		return s.password, nil
	}
	f, err := os.Open(s.passwordFile)
	if err != nil {
		return "", err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, passwordBytesMax+1))
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(body), "\r\n")
	switch {
	case password == "":
		return "", fmt.Errorf("%s is empty", s.passwordFile)
	case len(body) > passwordBytesMax || strings.ContainsAny(password, "\r\n"):
		return "", fmt.Errorf("%s holds more than one line; it should hold the password alone", s.passwordFile)
	}
	return password, nil
}

// options are for openLog, which adds what has to be read from files.
func (s *stores) options(logger *slog.Logger) etcdlog.Options {
	return etcdlog.Options{
		Endpoints: s.etcd, Cluster: s.cluster, Prefix: s.prefix, DialTimeout: s.dial, Unsafe: s.unsafe, Logger: logger,
		WatchBufferBytes: int(s.watch), CompactInterval: s.compact, KeepAliveTime: s.ping, Username: s.username,
	}
}

// openLog connects to the metastore's log.
func (s *stores) openLog(ctx context.Context, opts etcdlog.Options) (log.Log, error) {
	if opts.Client == nil {
		files := s.tls
		files.Logger = opts.Logger
		var err error
		if opts.TLS, err = files.Config(); err != nil {
			return nil, err
		}
		if opts.Password, err = s.secret(); err != nil {
			return nil, fmt.Errorf("password for etcd: %w", err)
		}
		if opts.Password != "" && opts.TLS == nil && !strings.HasPrefix(s.etcd[0], "https://") {
			opts.Logger.Warn("the password for etcd travels unencrypted; use https endpoints")
		}
	}
	if s.tls.InsecureSkipVerify {
		opts.Logger.Warn("etcd's certificate is not verified; name its authority with --etcd-ca-file instead of --etcd-insecure-skip-verify")
	}
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
