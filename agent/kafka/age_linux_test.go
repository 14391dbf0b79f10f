package kafka_test

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/agent/kafka"
)

func TestSilentClientsAreAskedForByTCP(t *testing.T) {
	s := server(t, newCluster(t).join("a"), func(c *kafka.Config) {
		c.KeepAliveIdle, c.KeepAliveInterval, c.KeepAliveCount = 77*time.Second, 11*time.Second, 5
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := caught{ln, make(chan net.Conn, 1)}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve("kafka", l) }()
	defer func() { s.Close(); <-done }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	tcp, _ := (<-l.conns).(*net.TCPConn)
	(&tcpServer{s, t, ""}).awaitConns(1)
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for option, want := range map[int]int{unix.TCP_KEEPIDLE: 77, unix.TCP_KEEPINTVL: 11, unix.TCP_KEEPCNT: 5} {
		got := 0
		if ctl := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) }); ctl != nil || err != nil || got != want {
			t.Errorf("option %d is %d, want %d: %v, %v", option, got, want, ctl, err)
		}
	}
}
