package kafka_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore/batch"
)

func aging(c *kafka.Config) { c.MaxAge, c.IdleTimeout = 10*time.Minute, 2*time.Hour }

// around reports whether a time is that of an old connection, with room for how it is found out.
func around(took time.Duration) bool {
	return took >= 9*time.Minute && took <= 11*time.Minute+time.Second
}

func TestOldConnectionsAreClosedWhenTheyAreQuiet(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		s := server(t, newCluster(t).join("a"), aging)
		start := time.Now()
		c := dial(t, s)
		ask[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest())
		c.closed()
		if took := time.Since(start); !around(took) {
			t.Errorf("closed after %v", took)
		}
	})
}

func TestALongPollIsAnsweredBeforeItsConnectionIsTooOld(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s := server(t, a, aging, func(c *kafka.Config) { c.FetchWaitMax = time.Hour })
		start := time.Now()
		c := dial(t, s)
		poll := fetchRequest(13, "", id, 0, 0)
		poll.MaxWaitMillis = 30 * 60_000
		c.receive(c.send(poll), poll)
		if took := time.Since(start); took < 30*time.Minute {
			t.Errorf("the long poll was answered after %v", took)
		}
		c.closed()
		if took := time.Since(start); took > 31*time.Minute {
			t.Errorf("closed after %v", took)
		}
	})
}

// A connection that is never quiet is closed after its last answer.
func TestABusyConnectionGrowsOldToo(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		s := server(t, a, aging)
		start := time.Now()
		c := dial(t, s)
		answered := 0
		for ; ; answered++ {
			c.send(produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "x")))
			if _, err := c.frame(); err != nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if took := time.Since(start); took < 9*time.Minute+30*time.Second || took > 11*time.Minute+31*time.Second {
			t.Errorf("closed after %v", took)
		}
		faketime.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		if stored := len(a.batches[a.ref("t")]); stored != answered {
			t.Errorf("%d requests were answered, %d taken", answered, stored)
		}
	})
}

func TestAgesAreSpread(t *testing.T) {
	s := server(t, newCluster(t).join("a"), func(c *kafka.Config) { c.MaxAge = 100 * time.Minute })
	var tenths [20]int
	for n := range uint64(2000) {
		life := s.Life(n)
		if life < 90*time.Minute || life > 110*time.Minute {
			t.Fatalf("connection %d lives %v", n, life)
		}
		tenths[min(int((life-90*time.Minute)/time.Minute), 19)]++
	}
	for i, n := range tenths {
		if n < 50 || n > 150 {
			t.Errorf("%d of 2000 in minute %d", n, i)
		}
	}
}

// What is sent while a connection ends must not cost the last answers on their way.
func TestTheLastAnswerArrivesThoughMoreIsSent(t *testing.T) {
	a := newCluster(t).join("a")
	a.topic("t", 1)
	gate := make(chan struct{})
	a.with(func(a *agent) { a.gate = gate })
	s := overTCP(t, a)
	c := s.dial()
	req := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, "x"))
	c.post(req)
	s.await("the request is staged", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.batches[a.ref("t")]) == 1
	})
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(t.Context()) }()
	s.await("draining", s.Draining)
	c.post(req, req)
	close(gate)
	c.receive(1, req)
	if _, err := c.frame(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v", err)
	}
	_ = c.tcp.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// caught keeps what a listener accepts.
type caught struct {
	net.Listener
	conns chan net.Conn
}

func (l caught) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		l.conns <- nc
	}
	return nc, err
}
