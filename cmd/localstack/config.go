package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/firnlog/firn/localstack"
)

// config is what the command line says.
type config struct {
	dir, firn, etcd, minio, haproxy string
	advertise                       string
	agents, members, offset         int
}

func parse(args []string, errs io.Writer) (*config, error) {
	c := new(config)
	f := flag.NewFlagSet("localstack", flag.ContinueOnError)
	f.SetOutput(errs)
	f.StringVar(&c.dir, "dir", "firn-localstack", "directory of all data and logs")
	f.StringVar(&c.firn, "firn", "bin/firn", "the firn program")
	f.StringVar(&c.etcd, "etcd", ".cache/etcd/etcd", "the etcd server's program, as .ci/etcd builds it")
	f.StringVar(&c.minio, "minio", ".cache/minio/minio", "the MinIO server's program, as .ci/minio builds it")
	f.StringVar(&c.haproxy, "haproxy", "haproxy", "the HAProxy program")
	f.StringVar(&c.advertise, "advertise", "direct", "where clients are sent: direct, to the agents; proxy, to HAProxy alone")
	f.IntVar(&c.agents, "agents", 3, "agents, 1 to 9")
	f.IntVar(&c.members, "members", 3, "members of etcd, 1 to 5")
	f.IntVar(&c.offset, "offset", 0, "added to every port")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	var problems []error
	if f.NArg() > 0 {
		problems = append(problems, fmt.Errorf("%q: there are flags only", f.Arg(0)))
	}
	if c.advertise != "direct" && c.advertise != "proxy" {
		problems = append(problems, fmt.Errorf("--advertise %q: want direct or proxy", c.advertise))
	}
	if c.agents < 1 || c.agents > 9 {
		problems = append(problems, fmt.Errorf("--agents %d: want 1 to 9", c.agents))
	}
	if c.members < 1 || c.members > 5 {
		problems = append(problems, fmt.Errorf("--members %d: want 1 to 5", c.members))
	}
	if c.offset < 0 || c.offset > 50_000 {
		problems = append(problems, fmt.Errorf("--offset %d: want 0 to 50000", c.offset))
	}
	for _, program := range []*string{&c.firn, &c.etcd, &c.minio} {
		abs, err := filepath.Abs(*program)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(abs); err != nil {
			problems = append(problems, fmt.Errorf("%w; `make localstack` builds it", err))
		}
		*program = abs
	}
	return c, errors.Join(problems...)
}

// addrs are the ports of everything: the same at every start, so that data of the last one serves.
func (c *config) addrs() map[string]string {
	at := map[string]string{
		"haproxy.kafka": c.at(9092), "haproxy.stats": c.at(8404), "minio": c.at(9000), "minio.console": c.at(9001),
	}
	for i := 1; i <= c.agents; i++ {
		name := fmt.Sprintf("a%d", i)
		at[name+".kafka"], at[name+".http"], at[name+".internal"] = c.at(9092+i), c.at(8080+i), c.at(9192+i)
	}
	for i := range c.members {
		name := fmt.Sprintf("e%d", i+1)
		at[name+".client"], at[name+".peer"] = c.at(2379+10*i), c.at(2380+10*i)
	}
	return at
}

func (c *config) at(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port+c.offset))
}

func (c *config) options() localstack.Options {
	return localstack.Options{
		Dir: c.dir, Firn: c.firn, Agents: c.agents, Members: c.members, EtcdBinary: c.etcd,
		MinIO: c.minio, MinIOUser: "firn", MinIOPassword: "firn-localstack", HAProxy: c.haproxy, Proxy: c.advertise == "proxy", ProxyProtocol: true,
		Addrs: c.addrs(),
	}
}

// claim takes the directory: one cluster at a time, and only one that knows its parts at the same addresses.
func (c *config) claim() (release func(), err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(c.dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("%s is in use by another localstack: end that, or choose another directory (DIR=...)", c.dir)
	}
	shape := fmt.Sprintf("members=%d offset=%d\n", c.members, c.offset)
	path := filepath.Join(c.dir, "shape")
	was, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = os.WriteFile(path, []byte(shape), 0o644)
	case err == nil && string(was) != shape:
		err = fmt.Errorf("%s holds a cluster made with other settings: %.100q, now %q. Its etcd would not find itself: go back to them, choose another directory (DIR=...), or remove this one",
			c.dir, was, shape)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return func() { lock.Close() }, nil
}
