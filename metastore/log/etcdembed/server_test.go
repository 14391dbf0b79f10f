package etcdembed_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/metastore/log/etcdembed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, dir string) *etcdembed.Server {
	t.Helper()
	s, err := etcdembed.Start(t.Context(), etcdembed.Options{Dir: dir, UnsafeNoFsync: true})
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

func TestDataSurvivesARestartAndBothClientsSeeIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	s := start(t, dir)
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	before, err := c.Status(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	s = start(t, dir)
	t.Logf("ready %v after the start", time.Since(begin))
	far, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	got, err := far.Get(t.Context(), "k")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Fatalf("got %v, %v", got, err)
	}
	if got.Header.GetClusterId() != before.Header.GetClusterId() {
		t.Error("the cluster id changed in a restart")
	}
}

func TestTwoDirectoriesAreTwoClusters(t *testing.T) {
	id := func(s *etcdembed.Server) uint64 {
		c, err := s.Client()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		st, err := c.Status(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return st.Header.GetClusterId()
	}
	if a, b := id(start(t, t.TempDir())), id(start(t, t.TempDir())); a == b {
		t.Errorf("both are %x", a)
	}
}

func TestUnfitDirectoriesAreRefusedInOneLine(t *testing.T) {
	used := t.TempDir()
	start(t, used)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := t.TempDir()
	if err := os.MkdirAll(filepath.Join(damaged, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(damaged, "member", "snap", "db"), []byte(strings.Repeat("no database ", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		dir  string
		want error // nil: any
	}{
		"in use":        {used, etcdembed.ErrLocked},
		"not named":     {"", nil},
		"a file":        {file, nil},
		"below a file":  {filepath.Join(file, "x"), nil},
		"damaged":       {damaged, nil},
		"not writeable": {"/proc/firn", nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := etcdembed.Start(t.Context(), etcdembed.Options{Dir: tc.dir})
			if err == nil {
				s.Close()
				t.Fatal("it started")
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%v is not %v", err, tc.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %v", err)
			}
		})
	}
}

func TestDatabaseHeldByAnotherEtcdIsRefused(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	// Another etcd knows nothing of firn's lock file, only of its database.
	if err := os.Remove(filepath.Join(dir, "firn.lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := etcdembed.Start(t.Context(), etcdembed.Options{Dir: dir}); !errors.Is(err, etcdembed.ErrLocked) {
		t.Fatalf("got %v", err)
	}
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	s, err := etcdembed.Start(ctx, etcdembed.Options{Dir: dir, UnsafeNoFsync: true})
	if err == nil {
		s.Close() // it was ready at once
	} else if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	start(t, dir) // and has let go of the directory
}

// There is no etcdctl for an etcd inside firn: one that is full makes room when it is started again.
func TestAFullServerMakesRoomAtItsStart(t *testing.T) {
	opts := etcdembed.Options{Dir: t.TempDir(), UnsafeNoFsync: true, QuotaBytes: 16 << 20}
	put := func(s *etcdembed.Server, i int) error {
		c, err := s.Client()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.Put(t.Context(), "k", strings.Repeat(string(rune('a'+i%26)), 1<<20))
		return err
	}
	s, err := etcdembed.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; err == nil && i < 64; i++ {
		err = put(s, i)
	}
	if err == nil || !strings.Contains(err.Error(), "space") {
		t.Fatalf("it is not full: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = etcdembed.Start(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := put(s, 0); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}
