package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/agent"
)

func newAgent(e env) *cobra.Command {
	var s serving
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run an agent against an etcd and a bucket",
		Long: `Run one agent of a cluster. Agents hold nothing that cannot be lost: start as many as you like on one etcd and one
bucket, any of them serves any partition. SIGTERM drains: what was taken in is uploaded, ordered and answered before it ends.`,
		Example: "  firn agent --etcd 10.0.0.5:2379 --bucket 's3://my-bucket/firn?region=eu-central-1' --kafka 0.0.0.0:9092 --advertise a1.example.net:9092",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd.Context(), e, func(w io.Writer, a *agent.Agent) {
				_, _ = fmt.Fprintf(w, "firn %s: agent %s is ready, kafka %s, http http://%s\n", thisBuild().Version, s.agent.Name, s.agent.Advertise, a.HTTPAddr())
			})
		},
	}
	s.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&s.dataDir, "data-dir", "firn-agent", "directory of the agent's name and its write-ahead log")
	f.StringVar(&s.agent.Name, "name", "", "stable name of this agent (default: made once and kept in --data-dir)")
	f.StringVar(&s.bucket, "bucket", "", "bucket URL: s3://BUCKET/PREFIX, file://PATH or mem://")
	f.StringSliceVar(&s.etcd, "etcd", nil, "etcd endpoints, host:port, comma-separated")
	f.BoolVar(&s.unsafe, "unsafe-etcd", false, "run on an etcd version with known bugs in watches or leases")
	cobra.CheckErr(cmd.MarkFlagRequired("bucket"))
	cobra.CheckErr(cmd.MarkFlagRequired("etcd"))
	return cmd
}
