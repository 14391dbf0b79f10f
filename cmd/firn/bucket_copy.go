package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/bucketcopy"
	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/open"
)

// copyView is what bucket copy prints.
type copyView struct {
	From string `json:"from"`
	To   string `json:"to"`
	bucketcopy.Report
}

func newBucketCopy(e env) *cobra.Command {
	var from, to, output string
	var opts bucketcopy.Options
	cmd := &cobra.Command{
		Use:   "copy",
		Short: "Copy a cluster's objects to another bucket or prefix",
		Long: `Copy everything that a cluster keeps in one bucket to another bucket, prefix or store, with tags and object locks. The target must be
empty, or hold an earlier copy of the same cluster: what it has is not copied again, so that a copy that broke off is started again
with the same command, and a second one brings what is new.

A cluster moves in two runs: one while it works, which takes as long as it takes; then, with every agent stopped, a short one with
--agents-are-stopped, after which agents start with the new address and the same etcd. Until then no agent starts on the target.
--retire-source keeps agents with the old address from starting. Rules and other settings of the bucket itself are not copied.

docs/buckets.md has the whole procedure. Exit code 3 where source and target differ, or the source is still written to.`,
		Example: "  firn bucket copy --from 's3://old/firn?region=eu-central-1' --to 's3://new/firn?region=eu-west-1'\n" +
			"  firn bucket copy --from 's3://old/firn?region=eu-central-1' --to 's3://new/firn?region=eu-west-1' --agents-are-stopped --retire-source --verify",
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkCopy(from, to, opts); err != nil {
				return fmt.Errorf("%w: %w", client.ErrUsage, err)
			}
			source, err := open.Open(cmd.Context(), from, open.Options{})
			if err != nil {
				return fmt.Errorf("--from: %w", err)
			}
			defer func() { _ = source.Close() }()
			target, err := open.Open(cmd.Context(), to, open.Options{})
			if err != nil {
				return fmt.Errorf("--to: %w", err)
			}
			defer func() { _ = target.Close() }()
			opts.To = open.Redacted(to)
			v := copyView{From: open.Redacted(from), To: opts.To}
			v.Report, err = copyBucket(cmd.Context(), e, source, target, opts)
			if err == nil || v.Copied+v.Compared > 0 {
				if printed := v.print(e.Stdout, output, err == nil); err == nil {
					err = printed
				}
			}
			switch {
			case errors.Is(err, bucketcopy.ErrDiffers), errors.Is(err, bucketcopy.ErrMoving):
				return fmt.Errorf("%w: %w", errCheck, err)
			case errors.Is(err, bucketcopy.ErrRefused), errors.Is(err, metastore.ErrForeign):
				return fmt.Errorf("%w: %w", client.ErrUsage, err)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "URL of the bucket that the cluster is in")
	f.StringVar(&to, "to", "", "URL of the bucket that it is to be copied to")
	f.IntVar(&opts.Parallel, "parallel", bucketcopy.DefaultParallel, "objects that are copied at once; each takes some 16 MiB of memory")
	f.BoolVar(&opts.Verify, "verify", false, "read everything on both sides and compare it, also what an earlier run copied")
	f.BoolVar(&opts.Final, "agents-are-stopped", false, "every agent is stopped: end with a target that agents start on")
	f.BoolVar(&opts.Retire, "retire-source", false, "with --agents-are-stopped: mark the source so that no agent starts on it")
	f.BoolVar(&opts.WithoutLocks, "without-locks", false, "leave object locks behind, where the target has none")
	outputFlag(cmd, &output)
	return cmd
}

func checkCopy(from, to string, opts bucketcopy.Options) error {
	var problems []error
	for name, value := range map[string]string{"from": from, "to": to} {
		if value == "" {
			problems = append(problems, fmt.Errorf("--%s: needs the URL of a bucket", name))
		} else if err := open.Check(value, open.Options{}); err != nil {
			problems = append(problems, fmt.Errorf("--%s: %w", name, err))
		}
	}
	if len(problems) == 0 && overlap(from, to) {
		problems = append(problems, errors.New("--to: lies in --from, or --from in it: a copy would copy itself; give another bucket or prefix"))
	}
	if opts.Parallel < 1 || opts.Parallel > bucketcopy.ParallelMax {
		problems = append(problems, fmt.Errorf("--parallel: %d is not in 1..%d", opts.Parallel, bucketcopy.ParallelMax))
	}
	if opts.Retire && !opts.Final {
		problems = append(problems, errors.New("--retire-source: goes with --agents-are-stopped only"))
	}
	return errors.Join(problems...)
}

// overlap reports whether one URL's prefix lies in the other's, in one bucket. Two names of one store are not seen through.
func overlap(a, b string) bool {
	at := func(raw string) (place, path string) {
		u, err := url.Parse(raw)
		if err != nil {
			return raw, ""
		}
		scheme := u.Scheme
		if scheme == "minio" {
			scheme = "s3" // the same stores
		}
		return scheme + " " + u.Host + " " + u.Query().Get("endpoint"), strings.Trim(u.Path, "/") + "/"
	}
	placeA, pathA := at(a)
	placeB, pathB := at(b)
	return placeA == placeB && !strings.HasPrefix(placeA, "mem ") &&
		(pathA == "/" || pathB == "/" || strings.HasPrefix(pathA, pathB) || strings.HasPrefix(pathB, pathA))
}

// copyBucket runs the copy, and says on a terminal how far it is.
func copyBucket(ctx context.Context, e env, source, target objstore.Bucket, opts bucketcopy.Options) (bucketcopy.Report, error) {
	var progress bucketcopy.Progress
	if _, is := e.terminal(e.Stderr); is {
		done, gone := make(chan struct{}), make(chan struct{})
		defer func() { close(done); <-gone }()
		go func() {
			defer close(gone)
			tick := time.NewTicker(progressEvery)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					_, _ = fmt.Fprintf(e.Stderr, "\r%s\x1b[K", copyLine(&progress))
				case <-done:
					_, _ = fmt.Fprint(e.Stderr, "\r\x1b[K")
					return
				}
			}
		}()
	}
	return bucketcopy.Run(ctx, source, target, opts, &progress)
}

func copyLine(p *bucketcopy.Progress) string {
	return fmt.Sprintf("%d objects seen, %d copied, %d compared, %s", p.Listed.Load(), p.Copied.Load(), p.Compared.Load(), bytesText(float64(p.Bytes.Load())))
}

func (v *copyView) print(w io.Writer, output string, whole bool) error {
	if output == "json" {
		return writeJSON(w, v)
	}
	text := fmt.Sprintf("cluster %s: %d objects, %s, in %s\n%d copied and %d compared byte by byte, to %s\n",
		v.Cluster, v.Objects, bytesText(float64(v.Bytes)), v.From, v.Copied, v.Compared, v.To)
	for _, note := range v.Notes {
		text += "note: " + note + "\n"
	}
	if whole {
		text += "\n" + v.next()
	}
	_, err := io.WriteString(w, text)
	return err
}

// next is what to do now.
func (v *copyView) next() string {
	if !v.Final {
		return "Next: stop every agent, and run the same command with --agents-are-stopped.\n"
	}
	text := "Next: give every agent the new address as --bucket, with the same etcd, and start them; `firn metastore verify` holds the\n" +
		"history against itself there first. Lifecycle rules, versioning and object lock are the new bucket's own: see `firn bucket check`.\n"
	if !v.Retired {
		text += "The old bucket was left as it is: an agent that still has its address would write there. Take its credentials away, or run\n" +
			"the copy once more with --retire-source.\n"
	}
	return text
}
