package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/agent"
)

func newDev(e env) *cobra.Command {
	s := serving{dataDir: "firn-data"}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole firn in one process: etcd, bucket and agent",
		Long: `Run a whole firn in one process. etcd, the bucket and the agent's own files lie below --data-dir; with --etcd or --bucket
one outside is used instead, and with --memory nothing is kept at all.

Interrupt it once to drain, twice to end it at once. Killed at any moment, it starts again with every acknowledged record.
` + configurationHelp,
		Example: "  firn dev\n  firn dev --memory --kafka 127.0.0.1:0",
		Args:    arguments(cobra.NoArgs),
	}
	s.declareDev()
	s.command(cmd, e, s.validate, s.banner)
	return cmd
}

// declareDev makes the settings of `firn dev`: an agent's, and one.
func (s *serving) declareDev() {
	s.set = s.declare()
	s.set.Group(groupDev)
	s.set.Flag(&s.memory, "memory", "keep everything in memory only, for tests of your own code")
}

const groupDev = "Only of firn dev"

// banner says where things are and what to try.
func (s *serving) banner(w io.Writer, a *agent.Agent) {
	where, etcd := "in memory, gone with this process", "none"
	if !s.memory {
		etcd = strings.Join(s.etcdAt, ",")
		abs, err := filepath.Abs(s.dataDir)
		if err != nil {
			abs = s.dataDir
		}
		where = abs
	}
	_, _ = fmt.Fprintf(w, `firn %s is ready
  kafka  %s
  http   http://%s  (/readyz /metrics /debug/pprof)
  etcd   %s
  data   %s
try
  echo hello | firn produce events --brokers %[6]s
  firn consume events --from start --brokers %[6]s
`, thisBuild().Version, s.agent.Addresses(), a.HTTPAddr(), etcd, where, s.sockets[0].advertise)
}
