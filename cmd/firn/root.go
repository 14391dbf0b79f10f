package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
	// Terminal says whether Stdin or Stderr is a terminal, and how many columns it has. Nil is no terminal.
	Terminal func(stream any) (columns int, is bool)
}

// terminal is e.Terminal, or no where there is none.
func (e env) terminal(stream any) (columns int, is bool) {
	if e.Terminal == nil {
		return 0, false
	}
	return e.Terminal(stream)
}

// newRoot assembles the commands.
func newRoot(e env) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "firn",
		Short: "A Kafka-compatible log in an S3 bucket",
		Long: `firn is a Kafka-compatible log whose data lives in an S3-compatible bucket.

The commands topic, produce, consume, group, config, cluster, verify and bench speak plain Kafka and work against any Kafka.
They find it by --brokers, or by a context, see firn context --help.

` + exitHelp,
	})
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetIn(e.Stdin)
	root.SetOut(e.Stdout)
	root.SetErr(e.Stderr)
	root.SetArgs(append([]string{}, e.Args...)) // nil would be the process's own
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, plainly(err)) })
	root.AddCommand(newDev(e))
	root.AddCommand(newAgent(e))
	root.AddCommand(newHealth(e))
	root.AddCommand(newMetastore(e))
	root.AddCommand(newBucket(e))
	root.AddCommand(newGC(e))
	root.AddCommand(newInspect(e))
	root.AddCommand(newTopic(e))
	root.AddCommand(newProduce(e))
	root.AddCommand(newConsume(e))
	root.AddCommand(newGroup(e))
	root.AddCommand(newConfig(e))
	root.AddCommand(newCluster(e))
	root.AddCommand(newContext(e))
	root.AddCommand(newVerify(e))
	root.AddCommand(newBench(e))
	root.AddCommand(newVersion(e))
	root.AddCommand(newDocs(e))
	return root
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, e env) int {
	out := &output{w: e.Stdout}
	e.Stdout = out
	root := newRoot(e)
	started := false
	markStart(root, &started)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
	case out.closed && onlyClosed(err):
		return exitOK // whoever read had enough
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = fmt.Errorf("%w: %w", errInterrupted, err)
	case !started && !errors.Is(err, client.ErrUsage):
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

// usage makes err a usage error that says where to read on.
func usage(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%w: %w; see %s --help", client.ErrUsage, err, cmd.CommandPath())
}

// plainly words the value of a flag that is no number, duration or truth value for whoever typed it: pflag passes on what Go's own
// functions say, which is for who wrote the program.
func plainly(err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err
	}
	var should string
	switch kind := bad.GetFlag().Value.Type(); kind {
	case "int", "int32", "int64", "uint", "uint64":
		should = "a whole number"
	case "intSlice":
		should = "whole numbers, separated by commas"
	case "float64":
		should = "a number"
	case "duration":
		should = "a duration: write a number with its unit, such as 250ms, 30s or 10m"
	case "bool":
		should = "true or false"
	default:
		return err
	}
	if errors.Is(err, strconv.ErrRange) {
		should += " that this can be"
	}
	return fmt.Errorf("--%s: %q is not %s", bad.GetFlag().Name, bad.GetValue(), should)
}

// arguments makes the errors of a positional-argument check usage errors.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			if cmd.HasSubCommands() { // how it goes they say
				return usage(cmd, err)
			}
			return usage(cmd, fmt.Errorf("%w; it goes as %s", err, strings.TrimSuffix(cmd.UseLine(), " [flags]")))
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
