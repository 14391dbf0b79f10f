package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/client"
)

// env is all that a command may use of the process around it.
type env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Args   []string // without the program's name
	Getenv func(string) string
	// Environ are all variables as key=value, to find misspelt ones; may be nil.
	Environ func() []string
	Log     *slog.Logger // to standard error
}

// newRoot assembles the commands.
func newRoot(e env) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "firn",
		Short: "A Kafka-compatible log in an S3 bucket",
		Long: `firn is a Kafka-compatible log whose data lives in an S3-compatible bucket.

The commands topic, produce, consume, verify and bench speak plain Kafka and work against any Kafka.

Exit codes: 0 done, 1 failed, 2 usage, 3 a check found a violation.`,
	})
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetIn(e.Stdin)
	root.SetOut(e.Stdout)
	root.SetErr(e.Stderr)
	root.SetArgs(e.Args)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	root.AddCommand(newDev(e))
	root.AddCommand(newAgent(e))
	root.AddCommand(newMetastore(e))
	root.AddCommand(newBucket(e))
	root.AddCommand(newInspect(e))
	root.AddCommand(newTopic(e))
	root.AddCommand(newProduce(e))
	root.AddCommand(newConsume(e))
	root.AddCommand(newVerify(e))
	root.AddCommand(newBench(e))
	root.AddCommand(newVersion(e))
	return root
}

// Exit codes; the package comment documents them.
const (
	exitOK = iota
	exitFailure
	exitUsage
	exitCheck
)

// errCheck is wrapped by the error of a command that worked and found a violation.
var errCheck = errors.New("check failed")

// run runs one command line and returns its exit code.
func run(ctx context.Context, e env) int {
	root := newRoot(e)
	started := false
	markStart(root, &started)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !started && !errors.Is(err, client.ErrUsage) {
		err = usage(cmd, err) // what cobra checks by itself, such as flags that exclude each other
	}
	return report(e.Stderr, err)
}

// markStart makes every command below cmd set started when its own code begins.
func markStart(cmd *cobra.Command, started *bool) {
	if body := cmd.RunE; body != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return body(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		markStart(sub, started)
	}
}

// report prints an error, one line per problem, and returns the exit code for it.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	for _, line := range problemLines(err) {
		_, _ = fmt.Fprintf(w, "firn: %s\n", line)
	}
	switch {
	case errors.Is(err, errCheck):
		return exitCheck
	case errors.Is(err, client.ErrUsage):
		return exitUsage
	}
	return exitFailure
}

// problemLines are the problems of an error, as they are printed.
func problemLines(err error) []string {
	var out []string
	for line := range strings.Lines(err.Error()) {
		line, usage := strings.TrimSpace(line), client.ErrUsage.Error()+": "
		for strings.HasPrefix(line, usage) {
			line = strings.TrimPrefix(line, usage)
		}
		out = append(out, line)
	}
	return out
}

// usage makes err a usage error that says where to read on.
func usage(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%w: %w; see %s --help", client.ErrUsage, err, cmd.CommandPath())
}

// arguments makes the errors of a positional-argument check usage errors.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage(cmd, err)
		}
		return nil
	}
}

// group makes cmd a command that only holds others: alone it shows its help, and an unknown word is a usage error.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = arguments(func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := ""
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf(", did you mean %s?", strings.Join(near, " or "))
		}
		return fmt.Errorf("%q is not a command of %s%s", args[0], cmd.CommandPath(), hint)
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}
