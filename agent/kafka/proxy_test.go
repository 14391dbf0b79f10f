package kafka_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore/batch"
)

// balancer is the address of the load balancer of these tests.
const balancer = "10.9.0.1"

func behindBalancer(c *kafka.Config) {
	c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24"), netip.MustParsePrefix("2001:db8:9::/64")}
}

// proxyHeader is what a load balancer writes for a client; port 40000 of both sides.
func proxyHeader(t *testing.T, version byte, command proxyproto.ProtocolVersionAndCommand, client string, extra ...proxyproto.TLV) []byte {
	t.Helper()
	from, to := &net.TCPAddr{IP: net.ParseIP(client), Port: 40_000}, &net.TCPAddr{IP: net.ParseIP(client), Port: 9092}
	h := &proxyproto.Header{Version: version, Command: command, TransportProtocol: proxyproto.TCPv4, SourceAddr: from, DestinationAddr: to}
	if from.IP.To4() == nil {
		h.TransportProtocol = proxyproto.TCPv6
	}
	if len(extra) > 0 {
		if err := h.SetTLVs(extra); err != nil {
			t.Fatal(err)
		}
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestClientsBehindATrustedProxyAreToldApart(t *testing.T) {
	metadata := kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrMetadataRequest(), 1)
	for name, head := range map[string]func(client string) []byte{
		"version 1": func(client string) []byte { return proxyHeader(t, 1, proxyproto.PROXY, client) },
		"version 2": func(client string) []byte { return proxyHeader(t, 2, proxyproto.PROXY, client) },
		"extensions": func(client string) []byte {
			return proxyHeader(t, 2, proxyproto.PROXY, client, proxyproto.TLV{Type: 0xe0, Value: make([]byte, 3000)})
		},
	} {
		for _, piece := range []int{1, 7, 1 << 20} {
			t.Run(fmt.Sprint(name, " in pieces of ", piece), func(t *testing.T) {
				faketime.Test(t, func(t *testing.T) {
					s := server(t, newCluster(t).join("a"), behindBalancer, func(c *kafka.Config) { c.ConnectionsPerAddress = 1 })
					come := func(client string) bool {
						c := visit(t, s, balancer)
						for b := append(head(client), metadata...); len(b) > 0; {
							n := min(piece, len(b))
							c.write(b[:n])
							b = b[n:]
						}
						_, err := c.frame()
						return err == nil
					}
					for _, client := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:1::1"} {
						if !come(client) {
							t.Errorf("%s is not served", client)
						}
						if come(client) {
							t.Errorf("%s is served twice", client)
						}
					}
				})
			})
		}
	}
}

// What a load balancer opens of its own accord, or passes on without a header, is not one client's.
func TestConnectionsOfNobodyShareNoBoundOfOneAddress(t *testing.T) {
	for name, head := range map[string][]byte{
		"no header":          nil,
		"local":              {0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 'Q', 'U', 'I', 'T', 0x0a, 0x20, 0, 0, 0},
		"local with address": proxyHeader(t, 2, proxyproto.LOCAL, "192.0.2.1"),
		"unknown":            []byte("PROXY UNKNOWN\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				a := newCluster(t).join("a")
				a.topic("t", 1)
				s := server(t, a, behindBalancer, func(c *kafka.Config) {
					c.ConnectionsPerAddress, c.AcceptsPerSecond = 1, 1
					c.ProduceBytesMax, c.RequestBytesMax, c.ConnectionInFlightBytes, c.InFlightBytes = 1<<20, 1<<20, 1<<20, 4<<20
				})
				start := time.Now()
				var all []*client
				for range 4 {
					c := visit(t, s, balancer)
					c.write(head)
					c.produce("t", 0, strings.Repeat("x", 900_000))
					all = append(all, c)
				}
				if took := time.Since(start); took > time.Second {
					t.Errorf("they were let in after %v", took)
				}
				gate := make(chan struct{})
				a.with(func(a *agent) { a.gate = gate })
				req := produceRequest(9, "t", 0, records(t, batch.BuildOptions{}, strings.Repeat("x", 900_000)))
				var sent []int32
				for _, c := range all { // together more than three quarters of what all addresses have
					sent = append(sent, c.send(req))
				}
				faketime.Wait()
				a.mu.Lock()
				if n := len(a.batches[a.ref("t")]); n != 8 {
					t.Errorf("%d requests were taken", n)
				}
				a.mu.Unlock()
				close(gate)
				for i, c := range all {
					c.receive(sent[i], req)
				}
			})
		})
	}
}

func TestProxyHeadersThatCannotBe(t *testing.T) {
	v2 := func(command, transport byte, size int, rest ...byte) []byte {
		return append(append(bytes.Clone(proxyproto.SIGV2), command, transport, byte(size>>8), byte(size)), rest...)
	}
	for name, tc := range map[string]struct {
		from  string
		bytes []byte
		why   string
	}{
		"untrusted, version 1":          {"192.0.2.7", proxyHeader(t, 1, proxyproto.PROXY, "192.0.2.1"), "looks like the PROXY protocol, which is taken from --trusted-proxies alone"},
		"untrusted, version 2":          {"192.0.2.7", proxyHeader(t, 2, proxyproto.PROXY, "192.0.2.1"), "looks like the PROXY protocol, which is taken from --trusted-proxies alone"},
		"twice":                         {balancer, append(proxyHeader(t, 1, proxyproto.PROXY, "192.0.2.1"), proxyHeader(t, 1, proxyproto.PROXY, "192.0.2.1")...), "looks like the PROXY protocol"},
		"a line without end":            {balancer, append([]byte("PROXY TCP4 "), bytes.Repeat([]byte("1"), 200)...), "no end of line within 107 bytes"},
		"no carriage return":            {balancer, []byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n"), "PROXY protocol header"},
		"no address":                    {balancer, []byte("PROXY TCP4 nobody 192.0.2.2 1 2\r\n"), "PROXY protocol header"},
		"no such port":                  {balancer, []byte("PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n"), "PROXY protocol header"},
		"another family":                {balancer, []byte("PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n"), "PROXY protocol header"},
		"too few words":                 {balancer, []byte("PROXY TCP4 192.0.2.1\r\n"), "PROXY protocol header"},
		"version 3":                     {balancer, v2(0x31, 0x11, 12, make([]byte, 12)...), "PROXY protocol header"},
		"too short for its addresses":   {balancer, v2(0x21, 0x11, 4, 1, 2, 3, 4), "PROXY protocol header"},
		"of another transport":          {balancer, v2(0x21, 0x12, 12, make([]byte, 12)...), "of another transport"},
		"of no transport that there is": {balancer, v2(0x21, 0x13, 12, make([]byte, 12)...), "PROXY protocol header"},
		"64 KiB of extensions":          {balancer, v2(0x21, 0x11, 0xffff), "65551 bytes, 4096 allowed"},
		"HTTP":                          {balancer, []byte("GET / HTTP/1.1\r\n\r\n"), "looks like HTTP"},
		"HTTP behind a header":          {balancer, append(proxyHeader(t, 1, proxyproto.PROXY, "192.0.2.1"), "GET / HTTP/1.1\r\n\r\n"...), "looks like HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				log := &lines{}
				s := server(t, newCluster(t).join("a"), logged(log), behindBalancer)
				c := visit(t, s, tc.from)
				c.write(tc.bytes)
				c.closed()
				faketime.Wait()
				got := log.take()
				if len(got) != 1 || !strings.Contains(got[0], tc.why) {
					t.Errorf("log: %q", got)
				}
				if name == "HTTP behind a header" && !strings.Contains(got[0], "remote=192.0.2.1:40000") {
					t.Errorf("log: %q does not name the client", got)
				}
			})
		})
	}
}

// Health checks that connect and say nothing are closed in time and not logged; half a header is.
func TestProxiesThatSayNothing(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		log, registry := &lines{}, prometheus.NewRegistry()
		s := server(t, newCluster(t).join("a"), logged(log), behindBalancer, func(c *kafka.Config) { c.Metrics = kafka.NewMetrics(registry) })
		visit(t, s, balancer).close()
		start := time.Now()
		visit(t, s, balancer).closed()
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("closed after %v", took)
		}
		faketime.Wait()
		if got := log.take(); len(got) != 0 {
			t.Errorf("log: %q", got)
		}
		half := visit(t, s, balancer)
		half.write([]byte("PROXY TCP4"))
		half.closed()
		faketime.Wait()
		if got := log.take(); len(got) != 1 || !strings.Contains(got[0], "too slow") {
			t.Errorf("log: %q", got)
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP firn_kafka_proxied_connections_total Connections of trusted proxies by the PROXY protocol header they began with.
# TYPE firn_kafka_proxied_connections_total counter
firn_kafka_proxied_connections_total{header="bad"} 1
firn_kafka_proxied_connections_total{header="local"} 0
firn_kafka_proxied_connections_total{header="none"} 2
firn_kafka_proxied_connections_total{header="v1"} 0
firn_kafka_proxied_connections_total{header="v2"} 0
`), "firn_kafka_proxied_connections_total"); err != nil {
			t.Error(err)
		}
		waiting := visit(t, s, balancer)
		faketime.Wait()
		start = time.Now()
		if err := s.Drain(t.Context()); err != nil || time.Since(start) > 0 {
			t.Errorf("drained after %v: %v", time.Since(start), err)
		}
		waiting.closed()
	})
}

func TestPrefixes(t *testing.T) {
	for v, want := range map[string]string{
		"10.0.0.5": "10.0.0.5/32", "10.0.0.0/8": "10.0.0.0/8", "2001:db8::/32": "2001:db8::/32", "::1": "::1/128", "::ffff:10.0.0.5": "10.0.0.5/32",
		"10.0.0.5/8": "write 10.0.0.0/8, or 10.0.0.5 for the one address", "10.0.0.0/33": "is no IP address", "host": "is no IP address",
		"fe80::1%eth0": "is no IP address", "::ffff:10.0.0.0/104": "written as one of IPv6", "": "is no IP address",
	} {
		p, err := kafka.ParsePrefix(v)
		if err == nil && p.String() != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", v, p, err)
		}
	}
}
