package badinput_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/objstore/batch"
)

// says sends bytes on a connection of their own and asserts that the agent hangs up without an answer.
func (c *cluster) says(what string, b []byte) {
	c.t.Helper()
	w := c.wire()
	w.write(b)
	w.closed(what)
}

func sized(size uint32, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, size), rest...)
}

func TestOtherProtocolsAndGarbage(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	for what, bytes := range map[string][]byte{
		"HTTP":           []byte("GET /metrics HTTP/1.1\r\nHost: firn\r\n\r\n"),
		"HTTP/2":         []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		"TLS":            append([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, make([]byte, 500)...),
		"SSH":            []byte("SSH-2.0-OpenSSH_9.9\r\n"),
		"PROXY protocol": []byte("PROXY TCP4 10.0.0.1 10.0.0.2 4000 9092\r\n"),
		"garbage":        bytes.Repeat([]byte{0xee}, 5000),
		"zeros":          make([]byte, 5000),
	} {
		c.says(what, bytes)
	}
	if found := c.logs.with("closing a connection", "not the Kafka protocol: looks like"); len(found) == 0 {
		t.Error("the log does not say what it was")
	}
	b.check()
}

func TestSizesThatCannotBe(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	meta := []byte{0, 3, 0, 9, 0, 0, 0, 1}
	for what, b := range map[string][]byte{
		"a negative size":           sized(0xffffffff, meta...),
		"a size of 0":               sized(0, meta...),
		"a size below a header's":   sized(7, meta...),
		"2 GiB":                     sized(1<<31-1, meta...),
		"100 MiB":                   sized(100<<20, 0, 0, 0, 9, 0, 0, 0, 1),
		"a first request of 64 KiB": sized(64<<10+1, meta...),
	} {
		c.says(what, b)
	}
	for _, bad := range []struct {
		what string
		body []byte
	}{
		{"a body that is cut off", []byte{0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 9}},
		{"bytes after the body", []byte{0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 1, 2}},
		{"a client id past the end", []byte{0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 'x'}},
		{"an array of -2", []byte{0, 2, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe}},
		{"two billion tags", []byte{0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f}},
		{"a string of -5", []byte{0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 1, 0xff, 0xfb}},
	} {
		c.says(bad.what, sized(uint32(len(bad.body)), bad.body...))
	}
	// Elements of one byte that decode into hundreds: refused before they are.
	body := append([]byte{0, 20, 0, 6, 0, 0, 0, 1, 0xff, 0xff, 0}, binary.AppendUvarint(nil, 50_001)...)
	body = append(body, bytes.Repeat(append(append([]byte{0}, make([]byte, 16)...), 1, 99, 0), 50_000)...)
	w := c.wire()
	ask[*kmsg.ApiVersionsResponse](w, kmsg.NewPtrApiVersionsRequest())
	w.write(sized(uint32(len(body)+5), append(body, 0, 0, 0, 1, 0)...))
	w.closed("a request that decodes into many times its size")
	b.check()
}

// Half a request, a request a byte at a time, and a connection that says nothing are closed in their time; a connection that
// is cut in the middle of a request leaves nothing behind.
func TestSlowAndHalfOpenConnections(t *testing.T) {
	c := open(t, options{config: func(c *agent.Config) {
		c.FrameTimeout, c.FirstRequestTimeout = 3*time.Second, 3*time.Second // the bystander must keep to them, too
	}})
	b := c.bystander(false)
	silent := c.wire()
	half := c.wire()
	half.write(sized(30_000, 0, 3, 0, 9, 0, 0))
	loris := c.wire()
	loris.write(sized(30_000, 0, 3, 0, 9, 0, 0, 0, 1))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for t := time.NewTicker(20 * time.Millisecond); ; <-t.C {
			if _, err := loris.nc.Write([]byte{0}); err != nil {
				return
			}
		}
	}()
	cut := c.wire()
	cut.write(append(sized(10<<20, 0, 0, 0, 9, 0, 0, 0, 1), make([]byte, 1<<20)...))
	if err := cut.nc.(*net.TCPConn).SetLinger(0); err != nil { // ends with a reset
		t.Fatal(err)
	}
	_ = cut.nc.Close()
	silent.closed("a connection that says nothing")
	half.closed("half a request")
	if _, err := io.ReadAll(loris.nc); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a request that comes a byte at a time is waited for")
	}
	_ = loris.nc.Close()
	<-ended
	b.check()
}

// Requests by the hundred whose answers nobody takes are read no further than the budgets allow.
func TestPipelinedRequestsWithoutAReader(t *testing.T) {
	c := open(t, options{config: func(c *agent.Config) { c.PressureTimeout, c.StallTimeout = time.Second, 2*time.Second }})
	b := c.bystander(false)
	c.create("wide", 1000, nil)
	meta := kmsg.NewPtrMetadataRequest()
	meta.Version = 12
	frame := kmsg.NewRequestFormatter().AppendRequest(nil, meta, 1)
	flood := bytes.Repeat(frame, 1000)
	var wg sync.WaitGroup
	for range 20 {
		nc := c.dial()
		wg.Go(func() {
			for { // until the agent has had enough: it reads no further, and then hangs up
				if _, err := nc.Write(flood); err != nil {
					if errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("requests are neither taken nor refused")
					}
					return
				}
			}
		})
	}
	b.progress()
	wg.Wait()
	b.check()
}

// Beyond the bounds newcomers are closed, but not at the cost of who works; who asks for nothing makes room.
func TestTooManyConnections(t *testing.T) {
	c := open(t, options{config: func(c *agent.Config) { c.Connections = 60 }})
	b := c.bystander(false)
	b.progress()
	for range 300 {
		c.dial()
	}
	b.progress()
	until(t, "a newcomer is served in place of a silent one", func() bool {
		nc, err := net.Dial("tcp", c.kafka)
		if err != nil {
			return false
		}
		defer func() { _ = nc.Close() }()
		_ = nc.SetDeadline(time.Now().Add(time.Second))
		_, _ = nc.Write(kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 1))
		_, err = io.ReadFull(nc, make([]byte, 4))
		return err == nil
	})
	b.check()
}

// Batches of kilobytes that decompress to hundreds of megabytes, in every codec that can: refused, and split by clients.
func TestBombsInFourCodecs(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	c.create("bombed", 1, set("max.message.bytes", "16000000"))
	zeros := string(make([]byte, 16<<20))
	for codec := batch.CodecGzip; codec.Valid(); codec++ {
		raw := built(t, codec, sent{nowMs(), nil, zeros}, sent{nowMs(), nil, zeros}, sent{nowMs(), nil, zeros}, sent{nowMs(), nil, zeros}, sent{nowMs(), nil, zeros})
		if p := c.wire().produce("bombed", 0, raw); p.ErrorCode != 10 {
			t.Errorf("%v: %d bytes that stand for 80 MiB: code %d", codec, len(raw), p.ErrorCode)
		}
	}
	if p := c.wire().produce("bombed", 0, built(t, batch.CodecNone, sent{nowMs(), nil, "x"})); p.ErrorCode != 0 || p.BaseOffset != 0 {
		t.Errorf("afterwards: code %d, offset %d", p.ErrorCode, p.BaseOffset)
	}
	b.check()
}
