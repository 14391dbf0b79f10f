package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/metastore"
)

// metastoreFlags say which metastore to look at, without joining it.
type metastoreFlags struct {
	serving // an agent's settings, so that it takes an agent's configuration file
	json    bool
}

func newMetastore(e env) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "metastore",
		Short: "Look at the metastore and hold its history against itself",
	})
	var flags metastoreFlags
	flags.set = flags.declare()
	f := cmd.PersistentFlags()
	flags.set.Flags(f, groupEtcd, groupBucket)
	f.BoolVar(&flags.json, "json", false, "print one line of JSON")
	cmd.AddCommand(&cobra.Command{
		Use: "status", Short: "Head, archive, snapshot and agents of the metastore", Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.inspect(cmd.Context(), e, metastore.Status)
		},
	})
	cmd.AddCommand(&cobra.Command{
		Use:   "verify",
		Short: "Replay the history from the bucket and the log, and compare every snapshot and chain hash",
		Long: `Replay the whole archive from the first entry it holds, then the log's tail, and compare with the snapshot that the
pointer names and with the chain hashes that the archive recorded. Changes nothing. Exit code 3 where something differs.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.inspect(cmd.Context(), e, metastore.Verify)
		},
	})
	return cmd
}

func (m *metastoreFlags) inspect(ctx context.Context, e env, look metastore.Look) error {
	if problems := append(resolve(m.set, e), m.required(m.set)...); len(problems) > 0 {
		return fmt.Errorf("%w: %w", client.ErrUsage, errors.Join(problems...))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	l, err := m.openLog(ctx, m.options(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	bucket, err := m.openBucket(ctx, m.bucket)
	if err != nil {
		return err
	}
	defer func() { _ = bucket.Close() }()
	report, err := look(ctx, l, bucket)
	if err != nil {
		return err
	}
	if m.json {
		err = writeJSONLine(e.Stdout, report)
	} else {
		for _, line := range report.Lines() {
			if _, err = fmt.Fprintln(e.Stdout, line); err != nil {
				break
			}
		}
	}
	if err == nil && len(report.Problems) > 0 {
		return fmt.Errorf("%w: %d problems, the first: %s", errCheck, len(report.Problems), report.Problems[0])
	}
	return err
}
