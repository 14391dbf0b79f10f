package etcdlog_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/certtest"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
	"github.com/firnlog/firn/metastore/log/logtest"
)

// secured is an etcd that speaks TLS, asks for certificates, and knows users.
type secured struct {
	server   *etcdembed.Server
	ca       *certtest.Authority
	client   certtest.Pair
	admin    *clientv3.Client
	password string
}

// secure starts one. Its user firn may do everything below /firn/main/, reader only read there, guest nothing.
func secure(t *testing.T) *secured {
	t.Helper()
	s := &secured{ca: certtest.NewAuthority(t), password: "snow and ice"}
	pair := s.ca.Server(t, "127.0.0.1", "etcd.example")
	s.server = server(t, etcdembed.Options{Dir: t.TempDir(), CertFile: pair.Cert, KeyFile: pair.Key, ClientCAFile: s.ca.File, PasswordCost: 4})
	s.client = s.ca.Client(t, "nobody")
	s.admin = client(t, s.server)
	ctx := t.Context()
	user := func(name string, kind clientv3.PermissionType, permitted bool) {
		for i, step := range []func() error{
			func() error { _, err := s.admin.RoleAdd(ctx, name); return err },
			func() error { _, err := s.admin.UserAdd(ctx, name, s.password); return err },
			func() error { _, err := s.admin.UserGrantRole(ctx, name, name); return err },
			func() error {
				if !permitted {
					return nil
				}
				_, err := s.admin.RoleGrantPermission(ctx, name, "/firn/main/", clientv3.GetPrefixRangeEnd("/firn/main/"), kind)
				return err
			},
		} {
			if err := step(); err != nil {
				t.Fatalf("user %s, step %d: %v", name, i, err)
			}
		}
	}
	user("root", 0, false)
	user("firn", clientv3.PermissionType(clientv3.PermReadWrite), true)
	user("reader", clientv3.PermissionType(clientv3.PermRead), true)
	user("guest", 0, false)
	if _, err := s.admin.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	o := s.options(t, "root", s.tls())
	var err error
	if s.admin, err = clientv3.New(clientv3.Config{Endpoints: o.Endpoints, TLS: o.TLS, Username: o.Username, Password: o.Password, Logger: zap.NewNop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.admin.Close() })
	return s
}

func (s *secured) options(t *testing.T, user string, tls etcdlog.TLS) etcdlog.Options {
	t.Helper()
	config, err := tls.Config()
	if err != nil {
		t.Fatal(err)
	}
	o := etcdlog.Options{Endpoints: s.server.Endpoints(), TLS: config, DialTimeout: time.Minute, CompactInterval: time.Hour}
	if user != "" {
		o.Username, o.Password = user, s.password
	}
	return o
}

func (s *secured) tls() etcdlog.TLS {
	return etcdlog.TLS{CAFile: s.ca.File, CertFile: s.client.Cert, KeyFile: s.client.Key}
}

// The whole contract of a log holds over TLS for a user who may touch the cluster's prefix and nothing else.
func TestLogOverTLSAsARestrictedUser(t *testing.T) {
	s := secure(t)
	var prefixes atomic.Uint64
	logtest.Run(t, func(t *testing.T) logtest.Opener {
		o := patient(s.options(t, "firn", s.tls()))
		o.Prefix = fmt.Sprintf("/firn/main/%d", prefixes.Add(1))
		return func(string) (log.Log, error) { return etcdlog.Open(t.Context(), o) }
	})
}

// What will never work is refused at the start, with the mend; nothing is tried for ever.
func TestSecuredEtcdRefusals(t *testing.T) {
	t.Parallel()
	s := secure(t)
	stranger := certtest.NewAuthority(t)
	foreign := stranger.Client(t, "nobody")
	plain := server(t, etcdembed.Options{Dir: t.TempDir()})
	for name, tt := range map[string]struct {
		change func(*etcdlog.Options, *etcdlog.TLS)
		says   []string
	}{
		"wrong authority": {func(_ *etcdlog.Options, c *etcdlog.TLS) { c.CAFile = stranger.File },
			[]string{"authority", "--etcd-ca-file"}},
		"the system's authorities": {func(_ *etcdlog.Options, c *etcdlog.TLS) { c.CAFile = "" },
			[]string{"authority", "--etcd-ca-file"}},
		"no certificate": {func(_ *etcdlog.Options, c *etcdlog.TLS) { c.CertFile, c.KeyFile = "", "" },
			[]string{"does not accept our certificate", "--etcd-cert-file"}},
		"a stranger's certificate": {func(_ *etcdlog.Options, c *etcdlog.TLS) { c.CertFile, c.KeyFile = foreign.Cert, foreign.Key },
			[]string{"does not accept our certificate", "--etcd-cert-file"}},
		"another server name": {func(_ *etcdlog.Options, c *etcdlog.TLS) { c.ServerName = "other.example" },
			[]string{"other.example", "--etcd-server-name"}},
		"plain text to TLS": {func(o *etcdlog.Options, _ *etcdlog.TLS) {
			o.Endpoints = []string{strings.Replace(s.server.Endpoints()[0], "https", "http", 1)}
		}, []string{"speaks TLS", "https://"}},
		"TLS to plain text": {func(o *etcdlog.Options, _ *etcdlog.TLS) {
			o.Endpoints = []string{strings.Replace(plain.Endpoints()[0], "http", "https", 1)}
		}, []string{"speaks no TLS", "http://"}},
		"wrong password": {func(o *etcdlog.Options, _ *etcdlog.TLS) { o.Password = "hunter2" },
			[]string{`"firn"`, "--etcd-password-file"}},
		"no such user": {func(o *etcdlog.Options, _ *etcdlog.TLS) { o.Username = "nemo" },
			[]string{`"nemo"`, "--etcd-username"}},
		"no user": {func(o *etcdlog.Options, _ *etcdlog.TLS) { o.Username, o.Password = "", "" },
			[]string{"grant", "certificate"}}, // its certificate's name is taken for a user
		"a user without permission": {func(o *etcdlog.Options, _ *etcdlog.TLS) { o.Username = "guest" },
			[]string{`"guest"`, "readwrite", "/firn/main/"}},
		"another prefix": {func(o *etcdlog.Options, _ *etcdlog.TLS) { o.Cluster = "other" },
			[]string{`"firn"`, "readwrite", "/firn/other/"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tls := s.tls()
			tt.change(&etcdlog.Options{}, &tls)
			o := s.options(t, "firn", tls)
			tt.change(&o, &tls)
			if tls != s.tls() || o.Endpoints[0] != s.server.Endpoints()[0] { // no connection comes about, and all of it is waited for
				o.DialTimeout = 2 * time.Second
			}
			l, err := etcdlog.Open(t.Context(), o)
			if err == nil {
				_, err = l.Identity(t.Context())
				_ = l.Close()
			}
			if !errors.Is(err, log.ErrRefused) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tt.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %v", want, err)
				}
			}
			if strings.Contains(err.Error(), s.password) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in %v", err)
			}
		})
	}
}

// A user who may only read can look at a cluster, and is refused before it could commit: the outcome of a commit would be
// unknown, and tried again for ever.
func TestAReaderMayNotRegister(t *testing.T) {
	t.Parallel()
	s := secure(t)
	join(t, open(t, s.options(t, "firn", s.tls())), 1).mustCommit(t, 1)
	l := open(t, s.options(t, "reader", s.tls()))
	if n, err := l.Head(t.Context()); err != nil || n != 1 {
		t.Fatalf("head %d, %v", n, err)
	}
	_, err := l.Register(t.Context(), log.Incarnation{9}, nil, time.Minute)
	if !errors.Is(err, log.ErrRefused) || !strings.Contains(err.Error(), "readwrite") {
		t.Fatalf("got %v", err)
	}
	// The same for one who may write everything but entries.
	if _, err := s.admin.RoleGrantPermission(t.Context(), "reader", "/firn/main/agents/", clientv3.GetPrefixRangeEnd("/firn/main/agents/"), clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Register(t.Context(), log.Incarnation{10}, nil, time.Minute); !errors.Is(err, log.ErrRefused) {
		t.Fatalf("got %v", err)
	}
}

// A permission that is taken away from a running agent ends what it does with a reason, but for a commit, whose outcome stays
// unknown; and given again it is enough to begin anew.
func TestPermissionTakenAwayAndGivenAgain(t *testing.T) {
	t.Parallel()
	s := secure(t)
	ctx := t.Context()
	a := join(t, open(t, s.options(t, "firn", s.tls())), 1)
	a.mustCommit(t, 1)
	_, cursor := readAll(t, a.Log, 0)
	if _, err := s.admin.UserRevokeRole(ctx, "firn", "firn"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Head(ctx); !errors.Is(err, log.ErrDenied) {
		t.Errorf("head: %v", err)
	}
	if err := watchTo(ctx, a.Log, cursor, 1, 2); !errors.Is(err, log.ErrWatchLost) { // what follows is a read, which says why
		t.Errorf("watch: %v", err)
	}
	if _, _, _, err := a.Read(ctx, 0, nil, 1); !errors.Is(err, log.ErrDenied) {
		t.Errorf("read: %v", err)
	}
	if _, err := a.Register(ctx, log.Incarnation{2}, nil, time.Minute); !errors.Is(err, log.ErrDenied) {
		t.Errorf("register: %v", err)
	}
	if _, err := a.commit(ctx, nil); !errors.Is(err, log.ErrUnavailable) {
		t.Errorf("commit: %v", err)
	}
	a.key.Seq--
	if _, err := s.admin.UserGrantRole(ctx, "firn", "firn"); err != nil {
		t.Fatal(err)
	}
	a.mustCommit(t, 1)
	if err := watchTo(ctx, a.Log, cursor, 1, 2); err != nil {
		t.Error(err)
	}
}

// A certificate whose common name is a user needs no password, and its host may be known by another name.
func TestUserByCertificate(t *testing.T) {
	t.Parallel()
	s := secure(t)
	tls := s.tls()
	pair := s.ca.Client(t, "firn")
	tls.CertFile, tls.KeyFile, tls.ServerName = pair.Cert, pair.Key, "etcd.example"
	join(t, open(t, s.options(t, "", tls)), 1).mustCommit(t, 2)
	tls.CAFile, tls.ServerName, tls.InsecureSkipVerify = "", "", true
	join(t, open(t, s.options(t, "", tls)), 2).mustCommit(t, 2)
}

// A token that etcd no longer takes is made anew: they expire, and a change of the user voids them.
func TestTokensAreRenewed(t *testing.T) {
	t.Parallel()
	s := secure(t)
	a := join(t, open(t, s.options(t, "firn", s.tls())), 1)
	for range 3 {
		a.mustCommit(t, 1)
		if _, err := s.admin.UserChangePassword(t.Context(), "firn", s.password); err != nil {
			t.Fatal(err)
		}
	}
	a.mustCommit(t, 1)
	_, cursor := readAll(t, a.Log, 0)
	a.mustCommit(t, 1)
	if err := watchTo(t.Context(), a.Log, cursor, 4, 5); err != nil {
		t.Error(err)
	}
}

func TestCertificatesAreReadAgainWhenTheyChange(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t)
	old, renewed := ca.Client(t, "old"), ca.Client(t, "renewed")
	c, err := etcdlog.NewClientCertificate(old.Cert, old.Key, nil)
	if err != nil {
		t.Fatal(err)
	}
	name := func() string {
		cert, err := c.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.Subject.CommonName
	}
	replace := func(to, from string, age time.Duration) {
		body, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, body, 0o600)
		}
		if err == nil {
			err = os.Chtimes(to, time.Now(), time.Now().Add(age))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := name(); got != "old" {
		t.Fatal(got)
	}
	replace(old.Cert, renewed.Cert, time.Minute) // the key is still the old one
	if got := name(); got != "old" {
		t.Errorf("half a renewal gave %s", got)
	}
	replace(old.Key, renewed.Key, 2*time.Minute)
	if got := name(); got != "renewed" {
		t.Errorf("a whole renewal gave %s", got)
	}
	if err := os.Remove(old.Cert); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "renewed" {
		t.Errorf("a removed file gave %s", got)
	}
}

func TestUnfitCertificatesAreRefused(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t)
	good, other := ca.Client(t, "good"), ca.Client(t, "other")
	expired := ca.Client(t, "expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	early := ca.Client(t, "early", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
	site := ca.Server(t, "127.0.0.1")
	for name, tt := range map[string]struct {
		tls  etcdlog.TLS
		want []string
	}{
		"another's key":       {etcdlog.TLS{CertFile: good.Cert, KeyFile: other.Key}, []string{"does not match"}},
		"expired":             {etcdlog.TLS{CertFile: expired.Cert, KeyFile: expired.Key}, []string{"expired", "renew"}},
		"not yet valid":       {etcdlog.TLS{CertFile: early.Cert, KeyFile: early.Key}, []string{"not valid before", "clock"}},
		"a server's":          {etcdlog.TLS{CertFile: site.Cert, KeyFile: site.Key}, []string{"not for clients"}},
		"missing":             {etcdlog.TLS{CertFile: "/does/not/exist", KeyFile: good.Key}, []string{"/does/not/exist"}},
		"no key":              {etcdlog.TLS{CertFile: good.Cert}, []string{"needs its key"}},
		"no PEM":              {etcdlog.TLS{CAFile: "tls_test.go"}, []string{"holds no certificate"}},
		"everything at once":  {etcdlog.TLS{CAFile: "/nothing", KeyFile: good.Key}, []string{"/nothing", "its certificate"}},
		"swapped":             {etcdlog.TLS{CertFile: good.Key, KeyFile: good.Cert}, []string{good.Key}},
		"authority not found": {etcdlog.TLS{CAFile: "/nothing"}, []string{"/nothing"}},
	} {
		_, err := tt.tls.Config()
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in %v", name, want, err)
			}
		}
	}
	if c, err := (etcdlog.TLS{}).Config(); c != nil || err != nil {
		t.Errorf("nothing set: %v, %v", c, err)
	}
}

// An endpoint where nothing listens, or that never answers, is unavailable and not refused: it may come back.
func TestUnreachableIsNotRefused(t *testing.T) {
	t.Parallel()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	other, err := net.Listen("tcp", "127.0.0.1:0") // a server of another protocol
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer other.Close()
	serving.Go(func() {
		for {
			conn, err := other.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 16))
			conn.Close()
		}
	})
	for _, endpoint := range []string{"http://" + mute.Addr().String(), "https://" + mute.Addr().String(), gone.Addr().String(), other.Addr().String()} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := etcdlog.Open(ctx, etcdlog.Options{Endpoints: []string{endpoint}, DialTimeout: 300 * time.Millisecond})
		cancel()
		if !errors.Is(err, log.ErrUnavailable) {
			t.Errorf("%s: %v", endpoint, err)
		}
		for at, says := range map[net.Listener]string{gone: "is etcd running there?", other: "is it etcd's client address"} {
			if endpoint == at.Addr().String() && !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", endpoint, err)
			}
		}
	}
}
