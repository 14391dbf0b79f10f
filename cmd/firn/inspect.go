package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/cmd/firn/inspect"
	"github.com/firnlog/firn/cmd/firn/settings"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore"
)

// inspectFlags say where the bytes come from and how they are printed.
type inspectFlags struct {
	serving // an agent's settings, so that they take an agent's configuration file

	fromBucket bool // --bucket is on the command line: the argument is a key
}

func newInspect(e env) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "inspect",
		Short: "Look into firn's files and objects, and check every checksum in them",
		Long: `Print what is in a segment, a write-ahead log, a snapshot, an archive object or an entry of the metastore, check every
checksum, and say exactly where damage lies. Nothing is locked, changed or repaired.

The input is a local file, - for standard input, or with --bucket the key of an object. With -o json every line is one JSON
object; the field "type" says what it is of, and the last one is a summary. docs/inspect.md has all of them.

Exit codes: 0 sound, 3 damage found, 1 the input cannot be read or is of a newer version, 2 usage.`,
	})
	cmd.AddCommand(newInspectSegment(e), newInspectWAL(e), newInspectSnapshot(e), newInspectArchive(e), newInspectEntry(e))
	return cmd
}

// flags declares what the commands have in common.
func (f *inspectFlags) flags(cmd *cobra.Command, groups ...string) {
	f.set = f.declare()
	f.set.Flags(cmd.Flags(), append(groups, groupBucket)...)
	outputFlag(cmd, &f.output)
}

// resolve judges the settings. A bucket that only the environment or a file names does not make the argument a key: files are
// inspected on hosts that are set up for an agent.
func (f *inspectFlags) resolve(cmd *cobra.Command, e env) error {
	f.fromBucket = cmd.Flags().Changed("bucket")
	if problems := resolve(f.set, e); len(problems) > 0 {
		return fmt.Errorf("%w: %w", client.ErrUsage, settings.Join(problems))
	}
	return nil
}

// out runs do with where to print, and makes damage an error of its own.
func (f *inspectFlags) out(e env, do func(*inspect.Out) error) error {
	out := inspect.NewOut(e.Stdout, f.output == "json")
	if err := errors.Join(do(out), out.Flush()); err != nil {
		return err
	}
	if n, first := out.Damage(); n > 0 {
		return fmt.Errorf("%w: %d damaged, the first: %s", errCheck, n, first)
	}
	return nil
}

// input runs do with the input that the argument names.
func (f *inspectFlags) input(cmd *cobra.Command, e env, name string, do func(*inspect.Input) error) error {
	if err := f.resolve(cmd, e); err != nil {
		return err
	}
	in, closeAll, err := f.open(cmd.Context(), e, name)
	if err != nil {
		return err
	}
	return errors.Join(do(in), closeAll())
}

func (f *inspectFlags) open(ctx context.Context, e env, name string) (*inspect.Input, func() error, error) {
	var in *inspect.Input
	var err error
	switch {
	case f.fromBucket:
		var bucket objstore.Bucket
		if bucket, err = f.openBucket(ctx, f.bucket); err != nil {
			return nil, nil, err
		}
		if in, err = inspect.OpenObject(ctx, bucket, name); err != nil {
			return nil, nil, errors.Join(err, bucket.Close())
		}
		return in, bucket.Close, nil
	case name == "-":
		in, err = inspect.OpenStream(e.Stdin)
	default:
		in, err = inspect.OpenFile(name)
	}
	if err != nil {
		return nil, nil, err
	}
	return in, in.Close, nil
}

func newInspectSegment(e env) *cobra.Command {
	var f inspectFlags
	var opts inspect.SegmentOptions
	cmd := &cobra.Command{
		Use:   "segment FILE|-|KEY",
		Short: "A segment object: blocks, chunks, record batches and the ops in its footer",
		Long: `Print a segment object: header, footer, trailer, the intended ops in the footer, and each block with its chunks; with
--batches and --records what is in these. Offsets are not in the object: +0 is the first offset of a block, and the metastore
knows which one that is (firn inspect snapshot --topic NAME --rows).

Every checksum is verified, those of the record batches too. Memory: the footer, and one chunk at a time.`,
		Example: "  firn inspect segment --bucket s3://logs/prod data/7c/0000000000000001/0f…-0000000000000003 --batches",
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("bucket") {
				opts.ObjectKey = args[0]
			}
			return f.input(cmd, e, args[0], func(in *inspect.Input) error {
				return f.out(e, func(out *inspect.Out) error { return inspect.ReadSegment(in, opts, out) })
			})
		},
	}
	f.flags(cmd)
	cmd.Flags().BoolVar(&opts.Batches, "batches", false, "print record batches")
	cmd.Flags().BoolVar(&opts.Records, "records", false, "print record batches and their records")
	return cmd
}

func newInspectWAL(e env) *cobra.Command {
	var f inspectFlags
	var frames bool
	cmd := &cobra.Command{
		Use:   "wal FILE|-|DIRECTORY",
		Short: "A file of the write-ahead log or its directory: frames, torn tails, damage, and what recovery would do",
		Long: `Print a file of an agent's write-ahead log, or the whole directory (DATA-DIR/wal): header, frames, where the last valid one
ends, and what the next start would do. Works beside the agent that writes it: nothing is locked or changed.

A directory says more than its files one by one: each file promises how much of the one before it was synced, and that tells
damage from a torn tail.`,
		Example: "  firn inspect wal firn-data/wal --frames",
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if st, err := os.Stat(args[0]); !cmd.Flags().Changed("bucket") && err == nil && st.IsDir() {
				return f.out(e, func(out *inspect.Out) error {
					return inspect.ReadWALDir(cmd.Context(), args[0], os.DirFS(args[0]), frames, out)
				})
			}
			return f.input(cmd, e, args[0], func(in *inspect.Input) error {
				return f.out(e, func(out *inspect.Out) error { return inspect.ReadWALFile(cmd.Context(), in, frames, out) })
			})
		},
	}
	f.flags(cmd)
	cmd.Flags().BoolVar(&frames, "frames", false, "print every frame")
	return cmd
}

func newInspectSnapshot(e env) *cobra.Command {
	var f inspectFlags
	var opts inspect.SnapshotOptions
	cmd := &cobra.Command{
		Use:     "snapshot FILE|-|KEY",
		Example: "  firn inspect snapshot --bucket s3://logs/prod metastore/snapshot/0000000000000001/00000000000186a0-0f… --topic orders",
		Short:   "A snapshot of the metastore: log, agents, topics, partitions, where their records are, producers, consumer groups",
		Long: `Print a snapshot of the metastore: which log, at which entry, its chain hash and digest, agents, and each topic; with --topic
its partitions, and with --rows and --producers what is known of them; with --group a consumer group's members and committed
offsets, and with --slots who coordinates which groups.

Memory: in proportion to the snapshot, as in an agent.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opts.Topic == "" && (opts.Rows || opts.Producers) {
				return fmt.Errorf("%w: --rows and --producers need --topic; --topic '*' is all of them", client.ErrUsage)
			}
			return f.input(cmd, e, args[0], func(in *inspect.Input) error {
				return f.out(e, func(out *inspect.Out) error { return inspect.ReadSnapshot(in, opts, out) })
			})
		},
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&opts.Topic, "topic", "", "print the partitions of this topic, * for every one")
	cmd.Flags().BoolVar(&opts.Rows, "rows", false, "print where the records of these partitions are")
	cmd.Flags().BoolVar(&opts.Producers, "producers", false, "print the producers of these partitions")
	cmd.Flags().BoolVar(&opts.Live, "objects", false, "print the objects that rows name, the oldest first")
	cmd.Flags().BoolVar(&opts.Objects, "retired", false, "print the objects that no row names any more")
	cmd.Flags().StringVar(&opts.Group, "group", "", "print this consumer group, its members and its offsets, * for every one")
	cmd.Flags().BoolVar(&opts.Slots, "slots", false, "print who coordinates the groups of which slot")
	cmd.Flags().StringVar(&opts.SHA256, "sha256", "", "digest that the snapshot must have, as the metastore's pointer says it")
	return cmd
}

func newInspectArchive(e env) *cobra.Command {
	var f inspectFlags
	var n uint64
	var entries bool
	cmd := &cobra.Command{
		Use:     "archive FILE|-|KEY",
		Example: "  firn inspect archive --bucket s3://logs/prod metastore/archive/0000000000000001/0000000000000001-000000000000002a-0f… -o json",
		Short:   "An archive object: a sealed range of the metastore's entries",
		Long: `Print an archive object of the metastore: which entries, the chain hashes at its two ends, the object before it, and every
entry in one line; with --entries, or for one of them with --n, the ops in full. Every entry is decoded in any case.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.input(cmd, e, args[0], func(in *inspect.Input) error {
				return f.out(e, func(out *inspect.Out) error { return inspect.ReadArchive(in, n, entries, out) })
			})
		},
	}
	f.flags(cmd)
	cmd.Flags().Uint64Var(&n, "n", 0, "print this entry alone")
	cmd.Flags().BoolVar(&entries, "entries", false, "print the ops of every entry")
	return cmd
}

func newInspectEntry(e env) *cobra.Command {
	var f inspectFlags
	var n uint64
	cmd := &cobra.Command{
		Use:   "entry [FILE|-|KEY]",
		Short: "An entry of the metastore: its ops by name",
		Long: `Print an entry of the metastore with its ops: from its bytes, from an archive object with --n, or with --etcd, --bucket and --n
from a live metastore, wherever the entry is kept, in the log or in the archive.`,
		Example: "  firn inspect entry --etcd 127.0.0.1:2379 --bucket s3://logs/prod --n 1234 -o json",
		Args:    arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch live := cmd.Flags().Changed("etcd"); {
			case live && (len(args) > 0 || n == 0):
				return fmt.Errorf("%w: --etcd needs --n and --bucket, and no argument", client.ErrUsage)
			case len(args) > 0:
			case n == 0:
				return fmt.Errorf("%w: name a file, a key, or - for standard input; or a metastore and --n", client.ErrUsage)
			default:
				return f.liveEntry(cmd, e, n)
			}
			return f.input(cmd, e, args[0], func(in *inspect.Input) error {
				return f.out(e, func(out *inspect.Out) error {
					if n > 0 {
						return inspect.ReadArchive(in, n, true, out)
					}
					return inspect.EntryFile(in, out)
				})
			})
		},
	}
	f.flags(cmd, groupEtcd)
	cmd.Flags().Uint64Var(&n, "n", 0, "number of the entry")
	return cmd
}

// liveEntry finds an entry in a metastore at work.
func (f *inspectFlags) liveEntry(cmd *cobra.Command, e env, n uint64) (err error) {
	if err := f.resolve(cmd, e); err != nil {
		return err
	}
	if problems := append(f.required(f.set), f.stores.validate(f.set)...); len(problems) > 0 {
		return fmt.Errorf("%w: %w", client.ErrUsage, settings.Join(problems))
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Minute)
	defer cancel()
	l, err := f.openLog(ctx, f.options(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	bucket, err := f.openBucket(ctx, f.bucket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bucket.Close()) }()
	found, source, err := metastore.FindEntry(ctx, l, bucket, n)
	if err != nil {
		return err
	}
	names, err := metastore.TopicNames(ctx, l, bucket)
	if err != nil { // they are a help, no more
		names = nil
	}
	return f.out(e, func(out *inspect.Out) error {
		return inspect.LiveEntry(n, source, found.Value, func(id entry.UUID) string { return names[id] }, out)
	})
}
