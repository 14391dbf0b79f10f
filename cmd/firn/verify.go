package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/cmd/firn/verify"
)

func newVerify(e env) *cobra.Command {
	cfg := verify.DefaultConfig()
	var settings []string
	var asJSON bool
	var output string
	var target *remote
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Write and read back under load, and check that nothing is lost, repeated, reordered or changed",
		Long: `Write numbered records from many producers while consumers read them back through brokers picked at random for
every fetch, survive the restart of any broker, then read everything again and judge it.

The exit code is 0 if something was sent, acknowledged and read and every count of violations is 0; 3 if a violation
was found; 1 if the run could not be carried out. Topics are deleted after a clean run and kept after a violation.`,
		Example: "  firn verify --duration 5m --producers 8 --rate 20000 --json",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			configs, err := client.Configs(settings)
			if err != nil {
				return err
			}
			if cfg.Brokers, cfg.Security, err = target.resolve(); err != nil {
				return err
			}
			cfg.Configs, cfg.Version, cfg.Log = configs, thisBuild().Commit, e.Log
			s, err := verify.Run(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if asJSON || output == "json" {
				err = writeJSONLine(e.Stdout, s)
			} else {
				err = s.WriteText(e.Stdout)
			}
			if err != nil {
				return err
			}
			if !s.OK {
				return fmt.Errorf("%w: %s", errCheck, s.Verdict)
			}
			return nil
		},
	}
	target = remoteFlags(cmd, e)
	f := cmd.Flags()
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "how long to produce")
	f.DurationVar(&cfg.DrainTimeout, "drain-timeout", cfg.DrainTimeout, "how long to wait for outstanding records, and for each of the two read-backs")
	f.IntVar(&cfg.Topics, "topics", cfg.Topics, "topics to make")
	f.IntVar(&cfg.Partitions, "partitions", cfg.Partitions, "partitions of each topic")
	f.IntVar(&cfg.ReplicationFactor, "replication-factor", cfg.ReplicationFactor, "replicas of each partition, -1 for the broker's default")
	f.StringArrayVar(&settings, "config", nil, "topic setting as key=value, may be repeated")
	f.IntVar(&cfg.Producers, "producers", cfg.Producers, "producers, each with connections of its own")
	f.IntVar(&cfg.Consumers, "consumers", cfg.Consumers, "consumers, each of which reads everything")
	f.IntVar(&cfg.Keys, "keys", cfg.Keys, "keys of each producer")
	f.IntVar(&cfg.RecordBytes, "record-size", cfg.RecordBytes, "bytes of a value")
	f.IntVar(&cfg.Rate, "rate", cfg.Rate, "records a second over all producers, 0 for as fast as --in-flight allows")
	f.IntVar(&cfg.InFlight, "in-flight", cfg.InFlight, "most unacknowledged records of a producer")
	f.IntVar(&cfg.RecordsMax, "records-max", cfg.RecordsMax, "most records to send; bounds memory, about 50 bytes each")
	f.BoolVar(&cfg.Idempotent, "idempotent", cfg.Idempotent, "use idempotent producers")
	choiceFlag(cmd, &cfg.Codec, "codec", "", cfg.Codec, client.CodecNames, "compression of record batches")
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "seed of every random choice but the run's id")
	f.BoolVar(&cfg.BehindProxy, "behind-proxy", cfg.BehindProxy, "the addresses lead to many brokers behind one; judge watermarks over all of them only")
	f.BoolVar(&cfg.Keep, "keep", cfg.Keep, "keep the topics after a clean run too")
	outputFlag(cmd, &output)
	f.BoolVar(&asJSON, "json", false, "the same as -o json")
	f.StringVar(&cfg.Plant, "plant", "", "falsify the history with a known bug; the check must fail")
	cobra.CheckErr(f.MarkHidden("plant"))
	return cmd
}
