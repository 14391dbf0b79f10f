package etcdlog_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore/log/etcdembed"
	"github.com/firnlog/firn/metastore/log/etcdlog"
)

// door is a way to etcd that can be slammed: connections break, and new ones are taken and closed at once.
type door struct {
	net.Listener
	target string
	tasks  sync.WaitGroup

	mu      sync.Mutex // guards the rest
	shut    bool
	knocks  int // connections taken while shut
	knocked chan struct{}
	conns   []net.Conn
}

func newDoor(t *testing.T, endpoint string) *door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{Listener: l, target: strings.TrimPrefix(endpoint, "http://"), knocked: make(chan struct{}, 1)}
	d.tasks.Go(d.accept)
	t.Cleanup(func() {
		_ = l.Close()
		d.slam()
		d.tasks.Wait()
	})
	return d
}

func (d *door) accept() {
	for {
		near, err := d.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		if d.shut {
			d.knocks++
			d.mu.Unlock()
			_ = near.Close()
			select {
			case d.knocked <- struct{}{}:
			default:
			}
			continue
		}
		far, err := net.Dial("tcp", d.target)
		if err != nil {
			d.mu.Unlock()
			_ = near.Close()
			continue
		}
		d.conns = append(d.conns, near, far)
		d.mu.Unlock()
		d.tasks.Go(func() { _, _ = io.Copy(far, near); _ = far.Close() })
		d.tasks.Go(func() { _, _ = io.Copy(near, far); _ = near.Close() })
	}
}

func (d *door) slam() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = true
	for _, c := range d.conns {
		_ = c.Close()
	}
	d.conns = nil
}

// After a long outage the cluster must be back when etcd is: a connection that cannot be had is tried again every second, not with
// gRPC's pauses that rise to two minutes (the eighth attempt would come after 43 s, beyond the patience of this test).
func TestAConnectionIsTriedAgainWithoutLongPauses(t *testing.T) {
	s := server(t, etcdembed.Options{Dir: t.TempDir()})
	d := newDoor(t, s.Endpoints()[0])
	l := open(t, etcdlog.Options{Endpoints: []string{"http://" + d.Addr().String()}})
	if _, err := l.Identity(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.slam()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { // somebody always wants something
		for ctx.Err() == nil {
			short, done := context.WithTimeout(ctx, time.Second)
			_, _ = l.Head(short)
			done()
		}
	})
	for knocks := 0; knocks < 8; {
		select {
		case <-d.knocked:
			d.mu.Lock()
			knocks = d.knocks
			d.mu.Unlock()
		case <-ctx.Done():
			t.Fatalf("tried %d times", knocks)
		}
	}
	cancel()
}
