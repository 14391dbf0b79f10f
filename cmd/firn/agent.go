package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/agent"
)

func newAgent(e env) *cobra.Command {
	s := serving{dataDir: "firn-agent"}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run an agent against an etcd and a bucket",
		Long: `Run one agent of a cluster. Agents hold nothing that cannot be lost: start as many as you like on one etcd and one
bucket, any of them serves any partition. SIGTERM drains: what was taken in is uploaded, ordered and answered before it ends.
` + configurationHelp,
		Example: "  firn agent --etcd 10.0.0.5:2379 --bucket 's3://my-bucket/firn?region=eu-central-1' --kafka 0.0.0.0:9092 --advertise a1.example.net:9092\n" +
			"  firn agent --config firn.yaml --check-config",
		Args: arguments(cobra.NoArgs),
	}
	s.set = s.declare()
	s.command(cmd, e, func() []error { return append(s.required(s.set), s.validate()...) }, func(w io.Writer, a *agent.Agent) {
		_, _ = fmt.Fprintf(w, "firn %s: agent %s is ready, kafka %s, http http://%s\n", thisBuild().Version, s.agent.Name, s.agent.Addresses(), a.HTTPAddr())
	})
	return cmd
}
