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
	var s serving
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole firn in one process: etcd, bucket and agent",
		Long: `Run a whole firn in one process. etcd, the bucket and the agent's own files lie below --data-dir; with --etcd or --bucket
one outside is used instead, and with --memory nothing is kept at all.

Interrupt it once to drain, twice to end it at once. Killed at any moment, it starts again with every acknowledged record.`,
		Example: "  firn dev\n  firn dev --memory --kafka 127.0.0.1:0",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd.Context(), e, s.banner)
		},
	}
	s.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&s.dataDir, "data-dir", "firn-data", "directory of everything that is kept")
	f.StringVar(&s.bucket, "bucket", "", "bucket URL: file://PATH, s3://BUCKET/PREFIX or mem:// (default: below --data-dir)")
	f.StringSliceVar(&s.etcd, "etcd", nil, "etcd endpoints (default: an etcd in this process)")
	f.BoolVar(&s.memory, "memory", false, "keep everything in memory only, for tests of your own code")
	cmd.MarkFlagsMutuallyExclusive("memory", "data-dir")
	cmd.MarkFlagsMutuallyExclusive("memory", "etcd")
	return cmd
}

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
  echo hello | firn produce events --brokers %[2]s
  firn consume events --from start --brokers %[2]s
`, thisBuild().Version, s.agent.Advertise, a.HTTPAddr(), etcd, where)
}
