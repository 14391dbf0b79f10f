package kafka_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A client that keeps sending requests while the agent drains gets every answer that was on its way, and an orderly end.
func TestDrainLosesNoAnswerOnItsWay(t *testing.T) {
	c := newCluster(t)
	s := server(t, c.join("a"))
	s.PartWithin(time.Minute) // on a busy machine a client may take longer than half a second to read what is there
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve("kafka", ln) })
	defer wg.Wait()
	defer s.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(2 * time.Minute))
	req := kmsg.NewPtrApiVersionsRequest()
	raw := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
	answered := make(chan struct{})
	var once sync.Once
	wg.Go(func() { // the client's sender does not look at what comes back
		for {
			if _, err := nc.Write(raw); err != nil {
				return
			}
		}
	})
	wg.Go(func() { <-answered; _ = s.Drain(t.Context()) })
	whole := 0
	for head := make([]byte, 4); ; whole++ {
		if _, err = io.ReadFull(nc, head); err != nil {
			break
		}
		if _, err = io.CopyN(io.Discard, nc, int64(head[2])<<8|int64(head[3])); err != nil {
			break
		}
		once.Do(func() { close(answered) })
	}
	if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after %d answers: %v", whole, err)
	}
	_ = nc.Close()
}
