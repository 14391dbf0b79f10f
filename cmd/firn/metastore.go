package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log/etcdlog"
	"github.com/firnlog/firn/objstore/open"
)

// metastoreFlags say which metastore to look at, without joining it.
type metastoreFlags struct {
	etcd    []string
	cluster string
	bucket  string
	unsafe  bool
	json    bool
}

func newMetastore(e env) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "metastore",
		Short: "Look at the metastore and hold its history against itself",
	})
	var flags metastoreFlags
	f := cmd.PersistentFlags()
	f.StringSliceVar(&flags.etcd, "etcd", nil, "etcd endpoints, host:port, comma-separated")
	f.StringVar(&flags.cluster, "cluster", "default", "name of the cluster below etcd's /firn prefix")
	f.StringVar(&flags.bucket, "bucket", "", "bucket URL")
	f.BoolVar(&flags.unsafe, "unsafe-etcd", false, "accept an etcd version with known bugs")
	f.BoolVar(&flags.json, "json", false, "print one line of JSON")
	cobra.CheckErr(cmd.MarkPersistentFlagRequired("etcd"))
	cobra.CheckErr(cmd.MarkPersistentFlagRequired("bucket"))
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
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	l, err := etcdlog.Open(ctx, etcdlog.Options{Endpoints: m.etcd, Cluster: m.cluster, Unsafe: m.unsafe, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("open the metastore: %w", err)
	}
	defer func() { _ = l.Close() }()
	bucket, err := open.Open(ctx, m.bucket, open.Options{})
	if err != nil {
		return fmt.Errorf("--bucket: %w", err)
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
