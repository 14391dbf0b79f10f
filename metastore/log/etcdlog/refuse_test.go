package etcdlog_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
)

// pretender answers Status as an etcd of any version and cluster.
type pretender struct {
	pb.UnimplementedMaintenanceServer
	version string
	cluster uint64
}

func (p pretender) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{ClusterId: p.cluster}, Version: p.version}, nil
}

func pretend(t *testing.T, version string, cluster uint64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterMaintenanceServer(s, pretender{version: version, cluster: cluster})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return "http://" + l.Addr().String()
}

func tryOpen(t *testing.T, o etcdlog.Options) error {
	t.Helper()
	l, err := etcdlog.Open(t.Context(), o)
	if err == nil {
		err = l.Close()
	}
	return err
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for version, fit := range map[string]bool{
		"3.7.1": true, "3.7.3": true, "3.6.14": true, "3.6.20": true, "3.5.33": true, "3.8.0": true, "4.0.0": true,
		"3.7.0": false, "3.7.1-rc.0": false, "3.6.13": false, "3.5.32": false, "3.4.40": false, "2.3.8": false, "odd": false, "": false,
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			o := etcdlog.Options{Endpoints: []string{pretend(t, version, 1)}}
			if err := tryOpen(t, o); fit && err != nil || !fit && !errors.Is(err, log.ErrRefused) {
				t.Errorf("got %v", err)
			}
			o.Unsafe = true
			if err := tryOpen(t, o); err != nil {
				t.Errorf("told to run all the same: %v", err)
			}
		})
	}
}

func TestEveryEndpointMustBeFitAndOfOneCluster(t *testing.T) {
	t.Parallel()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	good, old, other := pretend(t, "3.7.3", 1), pretend(t, "3.6.1", 1), pretend(t, "3.7.3", 2)
	down := "http://" + dead.Addr().String()
	for name, tc := range map[string]struct {
		endpoints []string
		want      error
	}{
		"an old one":         {[]string{good, old}, log.ErrRefused},
		"of another cluster": {[]string{good, other}, log.ErrRefused},
		"one is down":        {[]string{down, good}, nil},
		"all are down":       {[]string{down}, log.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			o := etcdlog.Options{Endpoints: tc.endpoints, DialTimeout: 500 * time.Millisecond}
			if err := tryOpen(t, o); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestOptionsReportEveryProblem(t *testing.T) {
	t.Parallel()
	err := etcdlog.Options{
		Cluster: "a/b", Prefix: "p/", Username: "u", KeepAliveTime: time.Second, WatchSilence: time.Millisecond,
		DialTimeout: -1, Genesis: &log.Identity{},
	}.Validate()
	for _, want := range []string{"endpoint", "cluster", "prefix", "username", "keepalive", "silence", "negative", "genesis"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if err := (etcdlog.Options{Endpoints: []string{"x"}}).Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	if err := tryOpen(t, etcdlog.Options{}); err == nil {
		t.Error("opened nothing")
	}
}

func TestGenesisContinuesAnOldLog(t *testing.T) {
	t.Parallel()
	o := far()
	o.Genesis = &log.Identity{ID: [16]byte{7}, Epoch: 3, Base: 1000}
	a := join(t, open(t, o), 1)
	if a.identity.ID != o.Genesis.ID || a.identity.Epoch != 3 || a.identity.Base != 1000 {
		t.Fatalf("identity %+v", a.identity)
	}
	if n, err := a.Head(t.Context()); err != nil || n != 1000 {
		t.Fatalf("head %d, %v", n, err)
	}
	_, cursor := readAll(t, a.Log, 1000)
	a.mustCommit(t, 3)
	entries, _ := readAll(t, a.Log, 1000)
	if len(entries) != 3 || entries[0].N != 1001 {
		t.Fatalf("read %+v", entries)
	}
	if err := watchTo(t.Context(), a.Log, cursor, 1000, 1003); err != nil {
		t.Error(err)
	}
	if _, _, _, err := a.Read(t.Context(), 999, nil, 1); !errors.Is(err, log.ErrTrimmed) {
		t.Errorf("read of an earlier epoch: %v", err)
	}
}

func TestDamagedOrForeignIdentitiesAreRefused(t *testing.T) {
	t.Parallel()
	fresh := far()
	a := join(t, open(t, fresh), 1)
	a.mustCommit(t, 1)
	c := client(t, shared.server)
	meta := fresh.Prefix + "/meta"
	got, err := c.Get(t.Context(), meta)
	if err != nil {
		t.Fatal(err)
	}
	good := string(got.Kvs[0].Value)
	for name, value := range map[string]string{
		"not JSON":        "x",
		"unknown format":  strings.Replace(good, `"format":1`, `"format":2`, 1),
		"not canonical":   strings.Replace(good, `"epoch":1`, `"epoch": 1`, 1),
		"another cluster": strings.Replace(good, `"cluster":"`+a.identity.Cluster, `"cluster":"00000000000000ff`, 1),
		"short id":        strings.Replace(good, `"id":"`, `"id":"00`, 1),
	} {
		if value == good {
			t.Fatalf("%s: nothing replaced in %s", name, good)
		}
		if _, err := c.Put(t.Context(), meta, value); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, fresh).Identity(t.Context()); !errors.Is(err, log.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
		if outcome, err := a.commit(t.Context(), nil); err != nil || outcome != log.WrongLog {
			t.Errorf("%s: commit outcome %d, %v", name, outcome, err)
		}
		a.key.Seq--
	}
	// The epoch moves under a running agent.
	if _, err := c.Put(t.Context(), meta, strings.Replace(good, `"epoch":1`, `"epoch":2`, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Head(t.Context()); !errors.Is(err, log.ErrRefused) {
		t.Errorf("head over another epoch: %v", err)
	}
	// An identity that is gone is not made anew over entries that are there.
	if _, err := c.Delete(t.Context(), meta); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, fresh).Identity(t.Context()); !errors.Is(err, log.ErrRefused) {
		t.Errorf("lost identity: %v", err)
	}
}

func TestNoPermissionIsRefused(t *testing.T) {
	t.Parallel()
	s := server(t, etcdembed.Options{Dir: t.TempDir(), PasswordCost: 4})
	root := client(t, s)
	ctx := t.Context()
	steps := []func() error{
		func() error { _, err := root.RoleAdd(ctx, "root"); return err },
		func() error { _, err := root.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := root.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := root.UserAdd(ctx, "guest", "g"); return err },
		func() error { _, err := root.RoleAdd(ctx, "firn"); return err },
		func() error {
			_, err := root.RoleGrantPermission(ctx, "firn", "/firn/main/", "/firn/main0", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := root.UserAdd(ctx, "firn", "f"); return err },
		func() error { _, err := root.UserGrantRole(ctx, "firn", "firn"); return err },
		func() error { _, err := root.AuthEnable(ctx); return err },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	o := patient(etcdlog.Options{Endpoints: s.Endpoints(), Username: "guest", Password: "g"})
	if _, err := open(t, o).Identity(ctx); !errors.Is(err, log.ErrRefused) {
		t.Errorf("a guest: %v", err)
	}
	o.Password = "wrong"
	if err := tryOpen(t, o); !errors.Is(err, log.ErrRefused) {
		t.Errorf("a wrong password: %v", err)
	}
	o.Username, o.Password = "firn", "f"
	join(t, open(t, o), 1).mustCommit(t, 2)
}
