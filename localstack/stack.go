package localstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
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
	// Agents is how many agents run against a shared etcd and bucket. 0 runs one `firn dev` with everything inside, and no other part.
	Agents int
	// Args are added to every agent's command line, and AgentArgs, where set, to that of the agent it is asked for.
	Args      []string
	AgentArgs func(name string) []string
	// Bucket is the URL of the bucket; "" is one in MinIO where that runs, else a directory below Dir.
	Bucket string
	// Env is added to every agent's environment, as KEY=value.
	Env []string

	// Members is how many members etcd has; 0 is 1. EtcdBinary is the server's program; "" builds it.
	Members    int
	EtcdBinary string
	// MinIO is the MinIO server's program, as .ci/minio builds it, and has it run. MinIOUser and MinIOPassword are random where not given.
	MinIO, MinIOUser, MinIOPassword string
	// HAProxy is the load balancer's program, and has it run before the agents.
	HAProxy string
	// Proxy has clients told of HAProxy's address alone (advertise-mode proxy), where else they are told of the agents' own.
	Proxy bool
	// ProxyProtocol has HAProxy say whom it speaks for, and the agents believe it.
	ProxyProtocol bool
	// Links puts a relay before every part that listens, so that Network can cut it off. Without them Network is nil.
	Links bool
	// Addrs are host:port of what is named: haproxy.kafka, haproxy.stats, minio, minio.console, a1.kafka, a1.http, … What is not named
	// gets a free port; there is a console only where it is named.
	Addrs map[string]string
}

// Stack is a running cluster.
type Stack struct {
	Dir string
	// Members are etcd's, none with `firn dev`; Etcd is the first of them.
	Members []*Member
	Etcd    *Process
	// EtcdAddr is where etcd listens, comma-separated, and EtcdDir the first member's data.
	EtcdAddr, EtcdDir string
	// MinIO and HAProxy are nil where Options does not ask for them.
	MinIO   *MinIO
	HAProxy *HAProxy
	// Bucket is the bucket's URL where Agents share one.
	Bucket string
	Agents []*Agent
	// Network is what lies between the parts, where Options asks for links.
	Network *Network

	ports ports
}

// Agent is one firn process with its addresses.
type Agent struct {
	*Process
	Kafka string // host:port
	HTTP  string // host:port

	direct string // host:port of its own HTTP, with no link before it
}

// Start starts every part, and returns when all agents are ready. On error nothing is left running.
func Start(ctx context.Context, o Options) (*Stack, error) {
	s := &Stack{Dir: o.Dir, ports: ports{asked: o.Addrs}}
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
	var err error
	if s.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	if o.Proxy && (o.HAProxy == "" || o.Agents == 0) {
		return errors.New("localstack: Proxy needs HAProxy and Agents")
	}
	if o.Links {
		s.Network = newNetwork()
	}
	if o.Agents == 0 {
		return s.startDev(ctx, o)
	}
	// Every address is known, and free, before anything runs.
	if o.EtcdBinary == "" {
		if o.EtcdBinary, err = BuildEtcd(ctx, filepath.Join(s.Dir, "etcd-server")); err != nil {
			return err
		}
	}
	if err := s.etcd(max(o.Members, 1), o.EtcdBinary); err != nil {
		return err
	}
	if err := s.bucket(o); err != nil {
		return err
	}
	if o.HAProxy != "" {
		if err := s.haproxyAddresses(); err != nil {
			return err
		}
	}
	if err := s.agents(o); err != nil {
		return err
	}
	if s.HAProxy != nil {
		if err := s.haproxy(o); err != nil {
			return err
		}
	}

	if s.Network != nil {
		s.Network.know(s.Processes())
	}
	for _, m := range s.Members {
		if err := m.Start(); err != nil {
			return err
		}
	}
	if s.MinIO != nil {
		if err := s.MinIO.Start(); err != nil {
			return err
		}
		if err := s.MinIO.AwaitReady(ctx); err != nil {
			return err
		}
		if err := s.MinIO.CreateBucket(ctx, bucketName); err != nil {
			return err
		}
	}
	if len(s.Members) > 1 { // one alone is up before an agent has given it up
		if _, err := s.Leader(ctx); err != nil {
			return err
		}
	}
	if s.HAProxy != nil {
		if err := s.HAProxy.Start(); err != nil {
			return err
		}
	}
	if err := s.startAgents(ctx); err != nil {
		return err
	}
	if s.HAProxy == nil {
		return nil
	}
	up := make(map[string]string)
	for _, a := range s.Agents {
		up[a.Name()] = "UP"
	}
	return s.HAProxy.AwaitServers(ctx, up)
}

// startDev runs `firn dev`.
func (s *Stack) startDev(ctx context.Context, o Options) error {
	a := new(Agent)
	var kafka string
	var err error
	if kafka, a.Kafka, err = s.address("dev", "kafka"); err != nil {
		return err
	}
	if a.direct, a.HTTP, err = s.address("dev", "http"); err != nil {
		return err
	}
	args := []string{"dev", "--data-dir", filepath.Join(s.Dir, "dev"), "--kafka", kafka, "--advertise", a.Kafka, "--http", a.direct}
	if o.Bucket != "" {
		args = append(args, "--bucket", o.Bucket)
	}
	if a.Process, err = newProcess("dev", o.Firn, filepath.Join(s.Dir, "dev.log"), append(args, o.Args...)...); err != nil {
		return err
	}
	a.env = o.Env
	s.Agents = append(s.Agents, a)
	if s.Network != nil {
		s.Network.know(s.Processes())
	}
	return s.startAgents(ctx)
}

const bucketName = "firn"

// bucket settles where records go, and makes MinIO where that is asked for.
func (s *Stack) bucket(o Options) error {
	s.Bucket = o.Bucket
	if o.MinIO == "" {
		if s.Bucket == "" {
			s.Bucket = "file://" + filepath.Join(s.Dir, "bucket")
		}
		return nil
	}
	mo := MinIOOptions{Dir: s.Dir, Binary: o.MinIO, AccessKey: o.MinIOUser, SecretKey: o.MinIOPassword}
	var linked string
	var err error
	if mo.Addr, linked, err = s.address("minio", ""); err != nil {
		return err
	}
	if o.Addrs["minio.console"] != "" {
		if mo.Console, err = s.ports.take("minio.console"); err != nil {
			return err
		}
	}
	if s.MinIO, err = newMinIO(mo); err != nil {
		return err
	}
	s.MinIO.Endpoint = "http://" + linked
	if s.Bucket == "" {
		s.Bucket = s.MinIO.URL("s3", bucketName, "localstack")
	}
	return nil
}

// agents makes the agents; nothing is started.
func (s *Stack) agents(o Options) error {
	for i := range o.Agents {
		name := fmt.Sprintf("a%d", i+1)
		a := new(Agent)
		var kafka string
		var err error
		if kafka, a.Kafka, err = s.address(name, "kafka"); err != nil {
			return err
		}
		if a.direct, a.HTTP, err = s.address(name, "http"); err != nil {
			return err
		}
		internal, advertiseInternal, err := s.address(name, "internal")
		if err != nil {
			return err
		}
		args := []string{"agent", "--name", name, "--data-dir", filepath.Join(s.Dir, name), "--etcd", s.EtcdAddr,
			"--bucket", s.Bucket, "--kafka", kafka, "--internal", internal, "--advertise-internal", advertiseInternal, "--http", a.direct}
		if o.Proxy {
			args = append(args, "--advertise-mode", "proxy", "--advertise", s.HAProxy.Kafka)
		} else {
			args = append(args, "--advertise", a.Kafka)
		}
		if o.ProxyProtocol {
			args = append(args, "--trusted-proxies", "127.0.0.1")
		}
		args = append(args, o.Args...)
		if o.AgentArgs != nil {
			args = append(args, o.AgentArgs(name)...)
		}
		if a.Process, err = newProcess(name, o.Firn, filepath.Join(s.Dir, name+".log"), args...); err != nil {
			return err
		}
		a.env = o.Env
		if s.MinIO != nil {
			a.env = append(s.MinIO.Env(), o.Env...)
		}
		s.Agents = append(s.Agents, a)
	}
	return nil
}

// address takes an address for a part's own listener, and one that others reach it at: another where there are links, which is then
// the one that Addrs asks for.
func (s *Stack) address(part, what string) (own, reached string, err error) {
	name := part
	if what != "" {
		name += "." + what
	}
	if reached, err = s.ports.take(name); err != nil || s.Network == nil {
		return reached, reached, err
	}
	if own, err = s.ports.take(name + " behind its link"); err != nil {
		return "", "", err
	}
	return own, reached, s.Network.link(name, reached, own)
}

// Processes are all parts, in the order in which they start.
func (s *Stack) Processes() []*Process {
	var all []*Process
	for _, m := range s.Members {
		all = append(all, m.Process)
	}
	if s.MinIO != nil && s.MinIO.Process != nil {
		all = append(all, s.MinIO.Process)
	}
	if s.HAProxy != nil && s.HAProxy.Process != nil {
		all = append(all, s.HAProxy.Process)
	}
	for _, a := range s.Agents {
		if a.Process != nil {
			all = append(all, a.Process)
		}
	}
	return all
}

// Process is the part of a name: a1, e1, minio, haproxy; nil where there is none.
func (s *Stack) Process(name string) *Process {
	for _, p := range s.Processes() {
		if p.Name() == name {
			return p
		}
	}
	return nil
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

// AwaitReady waits until the agent's /readyz says so, or the process ends, or ctx does. It asks past any link.
func (a *Agent) AwaitReady(ctx context.Context) error {
	client := http.Client{Timeout: time.Second}
	var last error
	for ctx.Err() == nil {
		if !a.Running() {
			return fmt.Errorf("%s ended while starting: %w; see %s", a.name, errors.Join(a.Err()), a.log.Name())
		}
		resp, err := client.Get("http://" + a.direct + "/readyz")
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
		pause(ctx)
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

// Shutdown ends the parts in order: the agents drain, all at once, then what they stand on. What does not end in time is killed by Close.
func (s *Stack) Shutdown(ctx context.Context) error {
	var agents, front, store, etcd []*Process
	for _, a := range s.Agents {
		agents = append(agents, a.Process)
	}
	if s.HAProxy != nil {
		front = append(front, s.HAProxy.Process)
	}
	if s.MinIO != nil {
		store = append(store, s.MinIO.Process)
	}
	for _, m := range s.Members {
		etcd = append(etcd, m.Process)
	}
	var errs []error
	for _, parts := range [][]*Process{agents, front, store} {
		errs = append(errs, stopAll(ctx, parts))
	}
	// The last member that leads waits seconds for another to lead in its place, and there is none. It has nothing to lose.
	last, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if stopAll(last, etcd) != nil {
		for _, p := range etcd {
			errs = append(errs, p.Kill())
		}
	}
	return errors.Join(errs...)
}

func stopAll(ctx context.Context, parts []*Process) error {
	var errs []error
	for _, p := range parts {
		if err := p.Signal(stopSignal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	for _, p := range parts {
		errs = append(errs, p.Await(ctx))
	}
	return errors.Join(errs...)
}

// Close ends every process that still runs, at once.
func (s *Stack) Close() {
	all := s.Processes()
	for i := len(all) - 1; i >= 0; i-- {
		all[i].close()
	}
	if s.MinIO != nil {
		s.MinIO.client.CloseIdleConnections()
	}
	if s.Network != nil {
		s.Network.Close()
	}
}

// pause is between two looks at what is waited for.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
}
