package localstack

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"text/template"
	"time"
)

// HAProxy is the load balancer before the agents.
type HAProxy struct {
	*Process
	Kafka string // host:port that clients connect to
	Stats string // host:port of its page of statistics

	config string
	direct string // host:port of the process itself, with no link before it
}

//go:embed haproxy.cfg
var haproxyTemplate string

// HAProxyConfig says what the load balancer is told.
type HAProxyConfig struct {
	Kafka string // address for clients
	Stats string // address of the page of statistics, and of metrics
	// ProxyProtocol tells the agents whom a connection is from, in a header before its first byte.
	ProxyProtocol bool
	// Resolver is host:port of a DNS server that is asked for the servers' names again and again, where they may not be known at the start.
	Resolver string
	Servers  []HAProxyServer
}

// HAProxyServer is an agent as the load balancer sees it.
type HAProxyServer struct {
	Name, Kafka string // Kafka is host:port
	HTTPPort    string // of the same host
}

// Render is the configuration file.
func (c HAProxyConfig) Render() ([]byte, error) {
	t, err := template.New("haproxy.cfg").Parse(haproxyTemplate)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, c)
	return out.Bytes(), err
}

// haproxyAddresses settles where the load balancer will be, which agents may have to know.
func (s *Stack) haproxyAddresses() (err error) {
	h := &HAProxy{config: filepath.Join(s.Dir, "haproxy.cfg")}
	if h.direct, h.Kafka, err = s.address("haproxy", "kafka"); err != nil {
		return err
	}
	if h.Stats, err = s.ports.take("haproxy.stats"); err != nil {
		return err
	}
	s.HAProxy = h
	return nil
}

// haproxy makes the load balancer before all agents; nothing is started.
func (s *Stack) haproxy(o Options) error {
	h := s.HAProxy
	config := HAProxyConfig{Kafka: h.direct, Stats: h.Stats, ProxyProtocol: o.ProxyProtocol}
	for _, a := range s.Agents {
		_, port, err := net.SplitHostPort(a.HTTP)
		if err != nil {
			return err
		}
		config.Servers = append(config.Servers, HAProxyServer{a.Name(), a.Kafka, port})
	}
	text, err := config.Render()
	if err != nil {
		return err
	}
	if err := os.WriteFile(h.config, text, 0o644); err != nil {
		return err
	}
	h.Process, err = newProcess("haproxy", o.HAProxy, filepath.Join(s.Dir, "haproxy.log"), "-db", "-f", h.config)
	return err
}

// AwaitReady waits until the load balancer answers, or the process ends, or ctx does. Whether it has found the agents is another matter.
func (h *HAProxy) AwaitReady(ctx context.Context) error {
	return h.await(ctx, func(map[string]string) bool { return true })
}

// AwaitServers waits until its checks say of every server that is named what is wanted: UP, DOWN, NOLB (gets nobody new).
func (h *HAProxy) AwaitServers(ctx context.Context, want map[string]string) error {
	return h.await(ctx, func(is map[string]string) bool {
		for name, status := range want {
			if is[name] != status {
				return false
			}
		}
		return true
	})
}

func (h *HAProxy) await(ctx context.Context, enough func(map[string]string) bool) error {
	var last error
	for ctx.Err() == nil {
		if !h.Running() {
			return fmt.Errorf("haproxy has ended: %w; see %s", errors.Join(h.Err()), h.LogPath())
		}
		is, err := h.Servers(ctx)
		if err == nil && enough(is) {
			return nil
		}
		if last = err; err == nil {
			last = fmt.Errorf("its servers are %v", is)
		}
		pause(ctx)
	}
	return fmt.Errorf("haproxy: %w: %w", context.Cause(ctx), errors.Join(last))
}

// Servers says of each agent what the checks make of it.
func (h *HAProxy) Servers(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.Stats+"/;csv", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	rows, err := csv.NewReader(resp.Body).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("statistics: %s: %w", resp.Status, err)
	}
	const backend, server, status = 0, 1, 17
	is := make(map[string]string)
	for _, r := range rows {
		if len(r) > status && r[backend] == "agents" && r[server] != "BACKEND" {
			is[r[server]] = r[status]
		}
	}
	return is, nil
}
