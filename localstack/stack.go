package localstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Options say what to run and where.
type Options struct {
	// Dir holds data and logs of every part; it should be empty or a Stack's from before. Required.
	Dir string
	// Firn is the path of the firn binary. Required.
	Firn string
	// Agents is how many agents run against a shared etcd and bucket. 0 runs one `firn dev` with everything inside.
	Agents int
	// Args are added to every agent's command line.
	Args []string
	// Bucket is the URL of the bucket; "" is a directory below Dir.
	Bucket string
	// Env is added to every agent's environment, as KEY=value.
	Env []string
}

// Stack is a running cluster.
type Stack struct {
	Dir  string
	Etcd *Process // nil with `firn dev`
	// EtcdAddr is where etcd listens, and EtcdDir its data.
	EtcdAddr, EtcdDir string
	// Bucket is the bucket's URL where Agents share one.
	Bucket string
	Agents []*Agent
}

// Agent is one firn process with its addresses.
type Agent struct {
	*Process
	Kafka string // host:port
	HTTP  string // host:port
}

// Start builds what is needed, starts every part, and returns when all agents are ready. On error nothing is left running.
func Start(ctx context.Context, o Options) (*Stack, error) {
	s := &Stack{Dir: o.Dir}
	if err := s.start(ctx, o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context, o Options) error {
	if o.Dir == "" || o.Firn == "" {
		return errors.New("localstack: Dir and Firn are required")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ports, err := freePorts(2*max(o.Agents, 1) + 2)
	if err != nil {
		return err
	}
	if o.Agents == 0 {
		a := &Agent{Kafka: ports[0], HTTP: ports[1]}
		args := []string{"dev", "--data-dir", filepath.Join(dir, "dev"), "--kafka", a.Kafka, "--http", a.HTTP}
		if o.Bucket != "" {
			args = append(args, "--bucket", o.Bucket)
		}
		a.Process, err = newProcess("dev", o.Firn, filepath.Join(dir, "dev.log"), append(args, o.Args...)...)
		if err != nil {
			return err
		}
		a.env = o.Env
		s.Agents = append(s.Agents, a)
		return s.startAgents(ctx)
	}
	etcd, err := BuildEtcd(ctx, filepath.Join(dir, "etcd-server"))
	if err != nil {
		return err
	}
	client, peer := ports[len(ports)-2], ports[len(ports)-1]
	s.Etcd, err = newProcess("etcd", etcd, filepath.Join(dir, "etcd.log"),
		"--name", "e1", "--data-dir", filepath.Join(dir, "etcd"), "--log-level", "error",
		"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer,
		"--initial-cluster", "e1=http://"+peer, "--quota-backend-bytes", "8589934592")
	if err != nil {
		return err
	}
	if err := s.Etcd.Start(); err != nil {
		return err
	}
	bucket := o.Bucket
	if bucket == "" {
		bucket = "file://" + filepath.Join(dir, "bucket")
	}
	s.EtcdAddr, s.EtcdDir, s.Bucket = client, filepath.Join(dir, "etcd"), bucket
	for i := range o.Agents {
		name := fmt.Sprintf("a%d", i+1)
		a := &Agent{Kafka: ports[2*i], HTTP: ports[2*i+1]}
		a.Process, err = newProcess(name, o.Firn, filepath.Join(dir, name+".log"),
			append([]string{"agent", "--name", name, "--data-dir", filepath.Join(dir, name), "--etcd", client,
				"--bucket", bucket, "--kafka", a.Kafka, "--http", a.HTTP}, o.Args...)...)
		if err != nil {
			return err
		}
		a.env = o.Env
		s.Agents = append(s.Agents, a)
	}
	return s.startAgents(ctx)
}

func (s *Stack) startAgents(ctx context.Context) error {
	for _, a := range s.Agents {
		if err := a.Start(); err != nil {
			return err
		}
	}
	for _, a := range s.Agents {
		if err := a.AwaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// AwaitReady waits until the agent's /readyz says so, or the process ends, or ctx does.
func (a *Agent) AwaitReady(ctx context.Context) error {
	client := http.Client{Timeout: time.Second}
	var last error
	for ctx.Err() == nil {
		if !a.Running() {
			return fmt.Errorf("%s ended while starting: %w; see %s", a.name, errors.Join(a.Err()), a.log.Name())
		}
		resp, err := client.Get("http://" + a.HTTP + "/readyz")
		if err == nil {
			var body json.RawMessage
			_ = json.NewDecoder(resp.Body).Decode(&body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s: %s", resp.Status, body)
		}
		last = err
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s is not ready: %w (last answer: %w)", a.name, context.Cause(ctx), errors.Join(last))
}

// Brokers are the agents' Kafka addresses, comma-separated as clients take them.
func (s *Stack) Brokers() string {
	var all []string
	for _, a := range s.Agents {
		all = append(all, a.Kafka)
	}
	return strings.Join(all, ",")
}

// Close ends every process that still runs.
func (s *Stack) Close() {
	for _, a := range s.Agents {
		if a.Process != nil {
			a.close()
		}
	}
	if s.Etcd != nil {
		s.Etcd.close()
	}
}

// BuildEtcd builds the etcd server of go.mod's version to path, unless it is there already.
func BuildEtcd(ctx context.Context, path string) (string, error) {
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "go.etcd.io/etcd/server/v3").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build etcd: %w\n%s", err, out)
	}
	return path, nil
}

// freePorts returns n loopback addresses that were free a moment ago.
func freePorts(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
