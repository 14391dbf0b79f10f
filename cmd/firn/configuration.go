package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/cmd/firn/settings"
)

// configurationHelp is part of the help of every command that has settings.
const configurationHelp = `
Every setting is a flag (--flush-interval 1s), an environment variable (FIRN_FLUSH_INTERVAL=1s) and a line of the file that
--config names (flush-interval: 1s); the first of them that is given counts. A problem with any of them stops the start, and all
problems are told at once.`

// clientVariables begin like settings and belong to the commands that speak Kafka.
var clientVariables = []string{"FIRN_BROKERS", "FIRN_CONTEXT"}

// resolve reads the settings of a command from everywhere. Warnings go to standard error at once: a logger is not there yet.
func resolve(set *settings.Set, e env) []error {
	from := settings.Environment{Getenv: e.Getenv, Known: clientVariables}
	if e.Environ != nil {
		from.Environ = e.Environ()
	}
	warnings, problems := set.Resolve(from)
	for _, w := range warnings {
		_, _ = fmt.Fprintf(e.Stderr, "firn: warning: %s\n", w)
	}
	return problems
}

// command gives cmd the flags of the settings and what they have in common: all of them are judged before anything starts.
func (s *serving) command(cmd *cobra.Command, e env, validate func() []error, ready func(io.Writer, *agent.Agent)) {
	flags := cmd.Flags()
	s.set.Flags(flags)
	for _, x := range s.set.All() {
		if words := strings.Split(x.Type, "|"); len(words) > 1 && flags.Lookup(x.Name) != nil {
			cobra.CheckErr(cmd.RegisterFlagCompletionFunc(x.Name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
		}
	}
	flags.BoolVar(&s.check, "check-config", false, "check the configuration, print it with the source of each value, and end; exit code 2 where it has a problem")
	outputFlag(cmd, &s.output)
	cmd.SetUsageFunc(func(cmd *cobra.Command) error { return settingsUsage(cmd, s.set) })
	// A flag that does not parse is one problem among all; what it kept from being read is not called missing.
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if missing := (*pflag.NotExistError)(nil); errors.As(err, &missing) {
			err = fmt.Errorf("%w%s", err, s.set.DidYouMean(missing.GetSpecifiedName()))
		}
		return s.refuse(e, append([]error{usage(cmd, err)}, resolve(s.set, e)...))
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		problems := append(resolve(s.set, e), validate()...)
		if s.check {
			problems = append(problems, s.surroundings()...)
		}
		switch {
		case len(problems) > 0:
			return s.refuse(e, problems)
		case s.check:
			return s.print(e.Stdout)
		}
		return s.run(cmd.Context(), e, ready)
	}
}

// surroundings are problems that a start would meet later: those of the machine.
func (s *serving) surroundings() []error {
	if s.memory {
		return nil
	}
	if _, err := agent.CheckDataDir(s.dataDir, s.agent.Name); err != nil {
		return []error{s.set.Problem("data-dir", "%w", err)}
	}
	return nil
}

// checkReport is what --check-config prints as JSON.
type checkReport struct {
	Valid    bool                 `json:"valid"`
	Problems []string             `json:"problems"`
	Settings []settings.Effective `json:"settings,omitempty"`
}

// refuse makes one usage error of all problems.
func (s *serving) refuse(e env, problems []error) error {
	if s.check && s.output == "json" {
		if err := writeJSON(e.Stdout, checkReport{Problems: problemLines(errors.Join(problems...))}); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %w", client.ErrUsage, errors.Join(problems...))
}

// print writes the configuration in force.
func (s *serving) print(w io.Writer) error {
	if s.output == "json" {
		return writeJSON(w, checkReport{Valid: true, Problems: []string{}, Settings: s.set.Effective()})
	}
	if _, err := fmt.Fprintln(w, "the configuration is valid"); err != nil {
		return err
	}
	return s.set.Print(w)
}

// settingsUsage prints flags by group.
func settingsUsage(cmd *cobra.Command, set *settings.Set) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:\n  %s\n", cmd.UseLine())
	if cmd.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	flags := cmd.Flags()
	b.WriteString(set.Usage(flags))
	rest := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.VisitAll(func(f *pflag.Flag) {
		if set.Lookup(f.Name) == nil {
			rest.AddFlag(f)
		}
	})
	fmt.Fprintf(&b, "\nOther flags:\n%s", rest.FlagUsages())
	_, err := io.WriteString(cmd.OutOrStdout(), b.String())
	return err
}
