package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/bench"
	"github.com/firnlog/firn/cmd/firn/client"
)

func newBench(e env) *cobra.Command {
	cfg := bench.DefaultConfig()
	rate := cfg.Rate.String()
	var settings []string
	var asJSON bool
	var output string
	var target *remote
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure latency and throughput of any Kafka",
		Long: `Measure any Kafka from the client's side: acknowledgement latency, end-to-end latency, and replay throughput.

With --rate the loop is open: latency counts from when a record was meant to be sent, so that a stall is charged for
every record it delays. The row "lag" says how late the client itself was. With --max the loop is closed and measures
throughput; its latencies are those of a full pipe.

Latencies are in milliseconds, MB are 10^6 bytes of keys and values. Replay reads with whatever the brokers have cached.
Contend fills a topic and tells how much slower producers and a tail reader are while others replay it.
Commit tells how much slower producers are while groups commit offsets.`,
		Example: "  firn bench --rate 20MB/s --duration 1m\n  firn bench --mode produce --max --codec zstd --payload json --json\n" +
			"  firn bench --mode contend --rate 10MB/s --duration 10s --pairs 5\n" +
			"  firn bench --mode commit --rate 10MB/s --commit-rate 5000",
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Max && cmd.Flags().Changed("rate") {
				return fmt.Errorf("%w: --rate and --max exclude each other, drop one", client.ErrUsage)
			}
			var rateErr, configErr, remoteErr error
			cfg.Rate, rateErr = bench.ParseRate(rate)
			cfg.Configs, configErr = client.Configs(settings)
			cfg.Brokers, cfg.Security, remoteErr = target.resolve()
			if err := errors.Join(rateErr, configErr, remoteErr); err != nil {
				return err
			}
			cfg.Version, cfg.Log = thisBuild().Commit, e.Log
			r, err := bench.Run(cmd.Context(), cfg)
			if len(r.Phases) > 0 { // what was measured before an error is worth showing
				if asJSON || output == "json" {
					err = errors.Join(err, writeJSONLine(e.Stdout, r))
				} else {
					err = errors.Join(err, r.WriteText(e.Stdout))
				}
			}
			if err != nil {
				return err
			}
			if problem := r.Problem(); problem != "" {
				return errors.New(problem)
			}
			return nil
		},
	}
	target = remoteFlags(cmd, e)
	f := cmd.Flags()
	choiceFlag(cmd, &cfg.Mode, "mode", "", cfg.Mode, bench.Modes, "what to measure")
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "measured time of each phase")
	f.DurationVar(&cfg.Warmup, "warmup", cfg.Warmup, "time before it that is not counted")
	f.DurationVar(&cfg.ReplayTimeout, "replay-timeout", cfg.ReplayTimeout, "how long the replay may take")
	f.Int64Var(&cfg.FillBytes, "fill-bytes", cfg.FillBytes, "contend: what is there to replay")
	f.IntVar(&cfg.Pairs, "pairs", cfg.Pairs, "contend, commit: phases without and with what others do, each")
	f.IntVar(&cfg.Replayers, "replayers", cfg.Replayers, "contend: consumers that replay at once")
	f.IntVar(&cfg.Committers, "committers", cfg.Committers, "commit: groups that commit offsets")
	f.IntVar(&cfg.CommitRate, "commit-rate", cfg.CommitRate, "commit: offsets committed a second, over all groups")
	f.StringVar(&rate, "rate", rate, "load over all producers, as records (2000/s) or bytes (10MB/s)")
	f.BoolVar(&cfg.Max, "max", cfg.Max, "send as fast as --in-flight allows instead")
	f.IntVar(&cfg.InFlightBytes, "in-flight", cfg.InFlightBytes, "most unacknowledged bytes over all producers")
	f.IntVar(&cfg.RecordsMax, "records-max", cfg.RecordsMax, "most records to send in a phase")
	f.IntVar(&cfg.RecordBytes, "record-size", cfg.RecordBytes, "bytes of a value")
	choiceFlag(cmd, &cfg.Payload, "payload", "", cfg.Payload, bench.Payloads, "incompressible bytes, or log lines")
	f.IntVar(&cfg.Keys, "keys", cfg.Keys, "distinct keys, 0 for none")
	f.IntVar(&cfg.Producers, "producers", cfg.Producers, "producers, each with connections of its own")
	f.DurationVar(&cfg.Linger, "linger", cfg.Linger, "how long a producer waits to fill a batch")
	f.IntVar(&cfg.BatchBytes, "batch-bytes", cfg.BatchBytes, "most bytes of a record batch")
	choiceFlag(cmd, &cfg.Codec, "codec", "", cfg.Codec, client.CodecNames, "compression of record batches")
	choiceFlag(cmd, &cfg.Acks, "acks", "", cfg.Acks, "all|1|0", "replicas that must have a record before it is acknowledged")
	f.StringVar(&cfg.Topic, "topic", cfg.Topic, "existing topic to use; without it one is made and deleted")
	f.BoolVar(&cfg.Keep, "keep", cfg.Keep, "keep the topic that was made")
	f.IntVar(&cfg.Partitions, "partitions", cfg.Partitions, "partitions of the topic that is made")
	f.IntVar(&cfg.ReplicationFactor, "replication-factor", cfg.ReplicationFactor, "replicas of each partition, -1 for the broker's default")
	f.StringArrayVar(&settings, "config", nil, "setting of the topic that is made as key=value, may be repeated")
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "seed of keys and payload")
	outputFlag(cmd, &output)
	f.BoolVar(&asJSON, "json", false, "the same as -o json")
	return cmd
}
