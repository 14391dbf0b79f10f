package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/localstack"
)

const (
	startTimeout = 2 * time.Minute
	// stopTimeout is more than an agent's --drain-timeout.
	stopTimeout  = 45 * time.Second
	restartPause = 3 * time.Second
)

// serve runs the cluster until ctx ends, and takes it down.
func (c *config) serve(ctx context.Context, out io.Writer) (err error) {
	release, err := c.claim()
	if err != nil {
		return err
	}
	defer release()
	_, _ = fmt.Fprintf(out, "starting etcd (%d), MinIO, HAProxy and %d agents; logs in %s/*.log\n", c.members, c.agents, c.dir)
	starting, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("it took too long"))
	defer cancel()
	s, err := localstack.Start(starting, c.options())
	if err != nil {
		if ctx.Err() != nil {
			return nil // interrupted while it started
		}
		if strings.Contains(err.Error(), "is taken by another program") {
			err = fmt.Errorf("%w (OFFSET=1000 moves all of them)", err)
		}
		return err
	}
	defer s.Close()
	c.banner(out, s)
	c.keep(ctx, out, s)
	_, _ = fmt.Fprintln(out, "\ndraining the agents, then HAProxy, MinIO and etcd end; interrupt again to end all at once")
	began := time.Now()
	stopping, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), stopTimeout, fmt.Errorf("%v passed", stopTimeout))
	defer cancel()
	if err := s.Shutdown(stopping); err != nil {
		return fmt.Errorf("not all ended by themselves: %w", err)
	}
	_, _ = fmt.Fprintf(out, "all ended after %v; everything is kept in %s\n", time.Since(began).Round(time.Millisecond), c.dir)
	return nil
}

// keep starts again whatever ends, until ctx does.
func (c *config) keep(ctx context.Context, out io.Writer, s *localstack.Stack) {
	var wg sync.WaitGroup
	for _, p := range s.Processes() {
		wg.Go(func() {
			for {
				_ = p.Await(ctx)
				if ctx.Err() != nil {
					return
				}
				_, _ = fmt.Fprintf(out, "%s has ended (%v); it is started again in %v\n", p.Name(), ending(p.Err()), restartPause)
				select {
				case <-ctx.Done():
					return
				case <-time.After(restartPause):
				}
				if err := p.Start(); err != nil {
					_, _ = fmt.Fprintln(out, err)
					continue
				}
				_, _ = fmt.Fprintf(out, "%s runs again, process %d\n", p.Name(), p.PID())
			}
		})
	}
	wg.Wait()
}

func ending(err error) any {
	if err == nil {
		return "as it was asked to"
	}
	return err
}

// banner says where everything is and what to try.
func (c *config) banner(out io.Writer, s *localstack.Stack) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("")
	line("A cluster of %d agents is up. Clients start at", c.agents)
	if c.advertise == "proxy" {
		line("  %s   HAProxy, the only address that they learn", s.HAProxy.Kafka)
	} else {
		line("  %s   HAProxy, which finds them an agent; they then talk to the agents themselves", s.HAProxy.Kafka)
	}
	line("")
	for _, a := range s.Agents {
		line("  %-8s kafka %s   http://%s/readyz /metrics   process %d", a.Name(), a.Kafka, a.HTTP, a.PID())
	}
	for _, m := range s.Members {
		line("  %-8s etcd  %s   process %d", m.Name(), m.Client, m.PID())
	}
	line("  %-8s S3    %s   console %s   user %s   password %s   process %d", "minio", s.MinIO.Endpoint, s.MinIO.Console, s.MinIO.AccessKey, s.MinIO.SecretKey, s.MinIO.PID())
	line("  %-8s page  http://%s/   process %d", "haproxy", s.HAProxy.Stats, s.HAProxy.PID())
	line("")
	line("Try")
	line("  export FIRN_BROKERS=%s", s.HAProxy.Kafka)
	line("  bin/firn topic create events --partitions 6")
	line("  echo hello | bin/firn produce events")
	line("  bin/firn consume events --from start --exit-at-end")
	line("  bin/firn consume events --group readers --from start --count 1")
	line("  bin/firn group describe readers")
	line("  bin/firn cluster status --agent %s", s.Agents[0].HTTP)
	line("  export FIRN_BUCKET='%s' FIRN_ETCD=%s %s", s.Bucket, s.EtcdAddr, strings.Join(s.MinIO.Env(), " "))
	line("  bin/firn bucket show")
	line("  bin/firn metastore status")
	line("  bin/firn verify --duration 30s")
	line("and meanwhile, in another terminal")
	first, last := s.Agents[0].PID(), s.Agents[len(s.Agents)-1].PID()
	for _, try := range [][2]string{
		{fmt.Sprintf("kill -9 %d", first), fmt.Sprintf("an agent dies; what ends is started again after %v", restartPause)},
		{fmt.Sprintf("kill -TERM %d", first), "it drains"},
		{fmt.Sprintf("kill -STOP %d; sleep 15; kill -CONT %[1]d", last), "it hangs for a while"},
	} {
		line("  %-45s # %s", try[0], try[1])
	}
	line("")
	line("Ctrl-C takes all down. Data and logs: %s", s.Dir)
	_, _ = io.WriteString(out, b.String())
}
