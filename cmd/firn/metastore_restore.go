package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/objstore"
)

func newMetastoreRestore(e env, flags *metastoreFlags) *cobra.Command {
	var opts metastore.RestoreOptions
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Make the metastore's log again in an empty etcd, from the bucket alone",
		Long: `Restore the metastore after etcd has lost its data: replay the newest snapshot and the archive from the bucket, found the log anew in
an empty etcd (or below an empty prefix) under the next log epoch, and append again the batches of every segment that was uploaded and
whose order had not been archived, from the intended ops in the segments' footers. Acknowledged records are not lost by it; those of the
last seconds come at new offsets, and leader epochs rise so that consumers find out.

Agents refuse to start until it is complete. A restore that was interrupted is started again with the same command. It needs your word that
the old etcd is gone for good (--etcd-is-lost); --dry-run says what would happen and changes nothing.

docs/operations.md has the whole procedure. Exit code 3 where the bucket's history is damaged.`,
		Example: "  firn metastore restore --config /etc/firn/firn.yaml --dry-run\n  firn metastore restore --config /etc/firn/firn.yaml --etcd-is-lost",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := flags.run(cmd.Context(), e, func(ctx context.Context, l log.Log, bucket objstore.Bucket) (finding, error) {
				founder, ok := log.FounderOf(l)
				if !ok {
					return nil, fmt.Errorf("a log in %T cannot be restored to", l)
				}
				opts.Logger = e.Log
				r, err := metastore.Restore(ctx, founder, bucket, opts)
				if err != nil && r.Epoch == 0 { // nothing was found out that the error does not say
					return nil, err
				}
				return r, err
			})
			if errors.Is(err, metastore.ErrDamaged) {
				return fmt.Errorf("%w: %w", errCheck, err)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&opts.EtcdIsLost, "etcd-is-lost", false, "the old etcd is gone for good, and every agent is stopped")
	f.BoolVar(&opts.DryRun, "dry-run", false, "say what a restore would do, and change nothing")
	f.BoolVar(&opts.AcceptDamage, "accept-damage", false, "go on without what is damaged in the bucket; the report lists it")
	f.BoolVar(&opts.FromStart, "from-start", false, "replay the whole archive instead of beginning with a snapshot")
	f.StringVar(&flags.dev, "dev", "", "data directory of a firn dev that has lost the etcd inside it: restore to that, in place of --etcd and --bucket")
	f.StringVar(&opts.Head, "head", "", "archive object to end with, where the bucket holds more than one history")
	return cmd
}
