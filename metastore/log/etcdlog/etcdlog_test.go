package etcdlog_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
	"github.com/firnlog/firn/metastore/log/logtest"
)

// shared is one server for all tests that do not harm it; each has a prefix of its own.
var shared struct {
	server   *etcdembed.Server
	prefixes atomic.Uint64
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "etcdlog")
	if err == nil {
		defer os.RemoveAll(dir)
		shared.server, err = etcdembed.Start(context.Background(), etcdembed.Options{Dir: dir, UnsafeNoFsync: true})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := shared.server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// far and near are options for the shared server over a socket and in process, below a fresh prefix.
func far() etcdlog.Options {
	return etcdlog.Options{
		Endpoints:       shared.server.Endpoints(),
		Prefix:          fmt.Sprintf("/test/%d", shared.prefixes.Add(1)),
		CompactInterval: time.Hour, // the history is everybody's
	}
}

func near() etcdlog.Options {
	o := far()
	o.Endpoints, o.Client = nil, shared.server.Client
	return o
}

func open(t testing.TB, o etcdlog.Options) *etcdlog.Log {
	t.Helper()
	l, err := etcdlog.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// server is one that a test may harm.
func server(t testing.TB, o etcdembed.Options) *etcdembed.Server {
	t.Helper()
	o.UnsafeNoFsync = true
	s, err := etcdembed.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// client is a bare client of a server, to do what a Log does not.
func client(t testing.TB, s *etcdembed.Server) *clientv3.Client {
	t.Helper()
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// patient is for tests whose etcd always answers, however long that takes on a busy machine.
func patient(o etcdlog.Options) etcdlog.Options {
	o.DialTimeout, o.WatchSilence = time.Minute, time.Minute
	return o
}

func TestLogOverASocket(t *testing.T) {
	logtest.Run(t, func(t *testing.T) logtest.Opener {
		o := patient(far())
		return func(string) (log.Log, error) { return etcdlog.Open(t.Context(), o) }
	})
}

func TestLogInProcess(t *testing.T) {
	logtest.Run(t, func(t *testing.T) logtest.Opener {
		o := patient(near())
		return func(string) (log.Log, error) { return etcdlog.Open(t.Context(), o) }
	})
}

func TestFounding(t *testing.T) {
	logtest.RunFounding(t, func(t *testing.T) logtest.Opener {
		o := patient(far())
		return func(string) (log.Log, error) { return etcdlog.Open(t.Context(), o) }
	})
}
