package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

const defaultBrokers = "127.0.0.1:9092"

// remote is the cluster that a command talks to: what the flags say, and what they come to.
type remote struct {
	env     env
	brokers []string
	context string
	named   func(flag string) bool // whether a flag was given
}

// remoteFlags declares --brokers and --context.
func remoteFlags(cmd *cobra.Command, e env) *remote {
	r := &remote{env: e, named: func(flag string) bool { return cmd.Flags().Changed(flag) }}
	cmd.Flags().StringSliceVar(&r.brokers, "brokers", nil,
		"brokers to start from, as host:port, separated by commas (environment FIRN_BROKERS; default those of the context, or "+defaultBrokers+")")
	cmd.Flags().StringVar(&r.context, "context", "", "context to use, see firn context (environment FIRN_CONTEXT; default the current one)")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("context", completeContexts(e)))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("brokers", cobra.NoFileCompletions))
	return r
}

// resolve finds addresses and security. Addresses come from --brokers, the context of --context, FIRN_BROKERS, the context
// of FIRN_CONTEXT, the current context, or the default, whichever comes first. Security comes from a context only where
// that was named or its addresses are used: nobody's password is sent to addresses its context does not have, unless both
// were asked for.
func (r *remote) resolve() (brokers []string, security []kgo.Opt, err error) {
	if r.named("brokers") {
		brokers = r.brokers
	} else if fromEnv := r.env.Getenv("FIRN_BROKERS"); fromEnv != "" && r.context == "" {
		brokers = []string{fromEnv}
	}
	name := r.context
	if name == "" {
		name = r.env.Getenv("FIRN_CONTEXT")
	}
	if name != "" || brokers == nil {
		contexts, err := client.LoadContexts(client.ContextsPath(r.env.Getenv))
		if err != nil {
			return nil, nil, err
		}
		if name == "" {
			name = contexts.Current
		}
		if name != "" {
			chosen, err := contexts.Get(name)
			if err != nil {
				return nil, nil, err
			}
			if security, err = chosen.Security(r.env.Getenv); err != nil {
				return nil, nil, fmt.Errorf("context %q: %w", name, err)
			}
			if brokers == nil {
				brokers = chosen.Brokers
			}
		}
	}
	if brokers == nil {
		brokers = []string{defaultBrokers}
	}
	brokers, err = client.Brokers(brokers)
	return brokers, security, err
}

// connect opens a client and makes sure that a broker answers, so that a wrong address is told at once and by name.
func (r *remote) connect(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	brokers, security, err := r.resolve()
	if err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(append(client.Options(brokers, security...), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("open a client: %w", err)
	}
	if err := cl.Ping(ctx); err != nil {
		cl.Close()
		return nil, client.ConnectError(strings.Join(brokers, ", "), err)
	}
	return cl, nil
}

// admin is what commands share that ask the brokers something and print the answer.
type admin struct {
	env     env
	remote  *remote
	timeout time.Duration
	output  string
}

func adminFlags(cmd *cobra.Command, e env) *admin {
	a := &admin{env: e, remote: remoteFlags(cmd, e)}
	cmd.Flags().DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for the brokers")
	outputFlag(cmd, &a.output)
	return a
}

// do opens a client and calls ask with it, all within the timeout.
func (a *admin) do(ctx context.Context, ask func(ctx context.Context, adm *kadm.Client) error) error {
	return a.doRaw(ctx, func(ctx context.Context, cl *kgo.Client) error { return ask(ctx, kadm.NewClient(cl)) })
}

// doRaw is do for those who put requests together themselves.
func (a *admin) doRaw(ctx context.Context, ask func(ctx context.Context, cl *kgo.Client) error) error {
	if a.timeout <= 0 {
		return fmt.Errorf("%w: --timeout: %s is not above 0", client.ErrUsage, a.timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	cl, err := a.remote.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	return ask(ctx, cl)
}

// outputFlag declares -o.
func outputFlag(cmd *cobra.Command, output *string) {
	choiceFlag(cmd, output, "output", "o", "text", "text|json", "how to print")
}

// choiceFlag declares a flag that takes one of a few words, given as a|b|c.
func choiceFlag(cmd *cobra.Command, value *string, name, short, start, choices, help string) {
	*value = start
	cmd.Flags().VarP(&choice{value, strings.Split(choices, "|")}, name, short, help+", "+choices)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(strings.Split(choices, "|"), cobra.ShellCompDirectiveNoFileComp)))
}

// choice implements pflag.Value for choiceFlag.
type choice struct {
	value   *string
	allowed []string
}

func (c *choice) String() string { return *c.value }
func (c *choice) Type() string   { return "word" }
func (c *choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("choose one of %s", strings.Join(c.allowed, ", "))
	}
	*c.value = s
	return nil
}

// yesFlag declares --yes.
func yesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVar(yes, "yes", false, "do not ask; needed where standard input is not a terminal")
}

// confirm asks before what cannot be undone. Where there is nobody to ask, --yes has to have been given. A question that
// nobody answers does not hold up the end of ctx.
func confirm(ctx context.Context, e env, yes bool, what string) error {
	if yes {
		return nil
	}
	_, in := e.terminal(e.Stdin)
	if _, out := e.terminal(e.Stderr); !in || !out {
		return fmt.Errorf("%w: %s cannot be undone, and there is no terminal to ask at: add --yes", client.ErrUsage, what)
	}
	_, _ = fmt.Fprintf(e.Stderr, "%s? This cannot be undone. Type yes to go on: ", what)
	answered := make(chan string, 1)
	failed := make(chan error, 1)
	go func() {
		answer, err := bufio.NewReader(io.LimitReader(e.Stdin, 1<<10)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			failed <- err
			return
		}
		answered <- answer
	}()
	const unchanged = "nothing was changed"
	select {
	case <-ctx.Done():
		_, _ = fmt.Fprintln(e.Stderr)
		return fmt.Errorf("%s: %w", unchanged, ctx.Err())
	case err := <-failed:
		return fmt.Errorf("read the answer: %w; %s", err, unchanged)
	case answer := <-answered:
		if strings.TrimSpace(answer) != "yes" {
			return fmt.Errorf("not confirmed, %s", unchanged)
		}
	}
	return nil
}

// writeJSON writes v, indented, for people and programs.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// writeJSONLine writes v on one line.
func writeJSONLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
