package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/open"
	"github.com/firnlog/firn/objstore/probe"
)

// What an agent does with a probe of its bucket.
const (
	probeRequire = "require"
	probeWarn    = "warn"
	probeOff     = "off"
)

func newBucket(e env) *cobra.Command {
	cmd := group(&cobra.Command{Use: "bucket", Short: "Look at the bucket that firn keeps its data in"})
	var s serving // an agent's settings, so that it takes an agent's configuration file
	s.set = s.declare()
	var output string
	probing := &cobra.Command{
		Use:   "probe",
		Short: "Say what a bucket can do, and whether that is enough",
		Long: `Put, read, list and delete two small objects below probe/, look for rules of the store's own that would delete firn's data, and
say what works, what does not, what firn needs and how to mend it. An agent does the same at every start. Exit code 3 where
something that firn needs does not work.`,
		Example: "  firn bucket probe --bucket 's3://my-bucket/firn?region=eu-central-1'\n" +
			"  firn bucket probe --bucket 'minio://my-bucket/firn?endpoint=https://10.0.0.1:9000&ca_file=/etc/firn/ca.pem' -o json",
		Args: arguments(cobra.NoArgs),
	}
	s.set.Flags(probing.Flags(), groupBucket)
	outputFlag(probing, &output)
	probing.RunE = func(cmd *cobra.Command, _ []string) error {
		problems := resolve(s.set, e)
		if !s.set.Given("bucket") {
			problems = append(problems, s.set.Missing("bucket", "there is nothing to probe without it")...)
		}
		if len(problems) > 0 {
			return fmt.Errorf("%w: %w", client.ErrUsage, errors.Join(problems...))
		}
		bucket, err := s.openBucket(cmd.Context(), s.bucket)
		if err != nil {
			return err
		}
		defer func() { _ = bucket.Close() }()
		report := probe.Run(cmd.Context(), open.Redacted(s.bucket), bucket, probe.Options{})
		if output == "json" {
			err = writeJSON(e.Stdout, report)
		} else {
			err = report.Write(e.Stdout)
		}
		if unfit := report.Err(); err == nil && unfit != nil {
			return fmt.Errorf("%w: %w", errCheck, unfit)
		}
		return err
	}
	cmd.AddCommand(probing)
	cmd.AddCommand(newBucketShow(e))
	cmd.AddCommand(newBucketCheck(e))
	cmd.AddCommand(newBucketApply(e))
	cmd.AddCommand(newBucketCost(e))
	cmd.AddCommand(newBucketCopy(e))
	return cmd
}

// openProbed opens a bucket for an agent and probes it. The bucket that comes back is the one to use: what the store cannot
// do is not asked of it.
func (s *serving) openProbed(ctx context.Context, url string, logger *slog.Logger) (objstore.Bucket, error) {
	bucket, err := s.openBucket(ctx, url)
	if err != nil || s.probe == probeOff {
		return bucket, err
	}
	report := probe.Run(ctx, open.Redacted(url), bucket, probe.Options{})
	report.Log(logger)
	if err := report.Err(); err != nil && s.probe == probeRequire {
		return nil, errors.Join(fmt.Errorf("--bucket: %w", err), bucket.Close())
	} else if err != nil {
		logger.Error("bucket", "error", err)
	}
	return report.Fit(bucket), nil
}
