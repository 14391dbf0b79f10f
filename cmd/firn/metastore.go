package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/objstore"
)

// metastoreFlags say which metastore to look at, without joining it.
type metastoreFlags struct {
	serving // an agent's settings, so that it takes an agent's configuration file
	json    bool
	output  string
	dev     string // data directory of a firn dev, whose own etcd and bucket are meant; "": not
}

func newMetastore(e env) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "metastore",
		Short: "Look at the metastore, hold its history against itself, snapshot and restore it",
	})
	var flags metastoreFlags
	flags.set = flags.declare()
	f := cmd.PersistentFlags()
	flags.set.Flags(f, groupEtcd, groupBucket)
	f.BoolVar(&flags.json, "json", false, "print one line of JSON, as --output json does")
	f.StringVarP(&flags.output, "output", "o", "text", "text or json")
	cmd.AddCommand(&cobra.Command{
		Use: "status", Short: "Head, archive, snapshot and agents of the metastore", Args: arguments(cobra.NoArgs),
		Example: "  firn metastore status --config /etc/firn/firn.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.inspect(cmd.Context(), e, metastore.Status)
		},
	})
	cmd.AddCommand(&cobra.Command{
		Use:   "verify",
		Short: "Replay the history from the bucket and the log, and compare every snapshot and chain hash",
		Long: `Replay the whole archive from the first entry it holds, then the log's tail, and compare with the snapshot that the
pointer names and with the chain hashes that the archive recorded. Changes nothing. Exit code 3 where something differs.`,
		Example: "  firn metastore verify --etcd 10.0.0.5:2379 --bucket 's3://my-bucket/firn?region=eu-central-1'",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.inspect(cmd.Context(), e, metastore.Verify)
		},
	})
	cmd.AddCommand(newMetastoreSnapshot(e, &flags))
	cmd.AddCommand(newMetastoreRestore(e, &flags))
	return cmd
}

// finding is what a command of this group found out.
type finding interface{ Lines() []string }

// run opens the metastore and the bucket for do, and prints what it reports, also where it comes with an error.
func (m *metastoreFlags) run(ctx context.Context, e env, do func(context.Context, log.Log, objstore.Bucket) (finding, error)) error {
	problems := slices.Concat(resolve(m.set, e), m.stores.validate(m.set))
	if m.dev == "" {
		problems = append(problems, m.required(m.set)...)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %w", client.ErrUsage, errors.Join(problems...))
	}
	if m.output != "text" && m.output != "json" {
		return fmt.Errorf("%w: --output is text or json, not %q", client.ErrUsage, m.output)
	}
	l, bucket, started, err := m.open(ctx)
	defer func() { _ = started.close() }()
	if err != nil {
		return err
	}
	r, err := do(ctx, l, bucket)
	if r == nil || reflect.ValueOf(r).IsNil() {
		return err
	}
	return errors.Join(err, m.print(e, r))
}

// open opens what was asked for, or what a firn dev has in its directory.
func (m *metastoreFlags) open(ctx context.Context) (l log.Log, bucket objstore.Bucket, started closers, err error) {
	silent, location := slog.New(slog.DiscardHandler), m.bucket
	if m.dev != "" {
		m.dataDir = m.dev
		if l, err = m.openMetastore(ctx, silent, &started); err != nil {
			return nil, nil, started, err
		}
		location, err = m.bucketURL()
	} else if l, err = m.openLog(ctx, m.options(silent)); err == nil {
		started.add(l.Close)
	}
	if err == nil {
		bucket, err = m.openBucket(ctx, location)
	}
	if err == nil {
		started.add(bucket.Close)
	}
	return l, bucket, started, err
}

func (m *metastoreFlags) print(e env, r finding) error {
	if m.json || m.output == "json" {
		return writeJSONLine(e.Stdout, r)
	}
	for _, line := range r.Lines() {
		if _, err := fmt.Fprintln(e.Stdout, line); err != nil {
			return err
		}
	}
	return nil
}

func (m *metastoreFlags) inspect(ctx context.Context, e env, look metastore.Look) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var problems []string
	err := m.run(ctx, e, func(ctx context.Context, l log.Log, bucket objstore.Bucket) (finding, error) {
		r, err := look(ctx, l, bucket)
		if err == nil {
			problems = r.Problems
		}
		return r, err
	})
	if err == nil && len(problems) > 0 {
		return fmt.Errorf("%w: %d problems, the first: %s", errCheck, len(problems), problems[0])
	}
	return err
}

func newMetastoreSnapshot(e env, flags *metastoreFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "snapshot",
		Short:   "Archive what the log holds and make a snapshot of it in the bucket, now",
		Example: "  firn metastore snapshot --config /etc/firn/firn.yaml -o json",
		Long: `Bring the bucket up to the metastore's head: archive every entry that is not archived yet, replay the archive, and make a snapshot
of the result, which is read back before the pointer moves to it. It is what an agent does every few seconds and every
100 000 entries; do it before planned work on etcd. Agents may run meanwhile. Changes no topic and deletes nothing.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.run(cmd.Context(), e, func(ctx context.Context, l log.Log, bucket objstore.Bucket) (finding, error) {
				return metastore.TakeSnapshot(ctx, l, bucket)
			})
		},
	}
}
