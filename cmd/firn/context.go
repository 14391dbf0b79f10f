package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/client"
)

func newContext(e env) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "context",
		Short: "Name clusters, and choose which one the commands talk to",
		Long: `A context is a name for a cluster: its brokers, TLS, and a user. Contexts lie in $XDG_CONFIG_HOME/firn/contexts.yaml
(default ~/.config/firn/contexts.yaml), readable by you alone. A password is never in it: a context names the environment
variable or the file that has it.

Brokers are those of --brokers, of the context in --context, of FIRN_BROKERS, of the context in FIRN_CONTEXT, or of the
current context, whichever is there first. TLS and user come from a context that is named, or whose brokers are used:
--brokers alone talks plain.`,
	})
	cmd.AddCommand(newContextList(e))
	cmd.AddCommand(newContextUse(e))
	cmd.AddCommand(newContextShow(e))
	cmd.AddCommand(newContextSet(e))
	cmd.AddCommand(newContextDelete(e))
	return cmd
}

// contextView is a context as list and show print it.
type contextView struct {
	Name    string `json:"name"`
	Current bool   `json:"current"`
	client.Context
}

// security names what a context uses, for people.
func (v contextView) security() string {
	var parts []string
	if v.TLS != nil {
		parts = append(parts, "TLS")
	}
	if v.SASL != nil {
		parts = append(parts, v.SASL.Mechanism+" as "+v.SASL.User)
	}
	if parts == nil {
		return "plain"
	}
	return strings.Join(parts, ", ")
}

func newContextList(e env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List contexts; a star marks the current one",
		Example: "  firn context list",
		Args:    arguments(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			contexts, err := client.LoadContexts(client.ContextsPath(e.Getenv))
			if err != nil {
				return err
			}
			views := []contextView{}
			for _, name := range slices.Sorted(maps.Keys(contexts.Contexts)) {
				views = append(views, contextView{name, name == contexts.Current, contexts.Contexts[name]})
			}
			if output == "json" {
				return writeJSON(e.Stdout, views)
			}
			w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "CURRENT\tNAME\tBROKERS\tSECURITY")
			for _, v := range views {
				star := ""
				if v.Current {
					star = "*"
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", star, v.Name, strings.Join(v.Brokers, ","), v.security())
			}
			return w.Flush()
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func newContextUse(e env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "use NAME",
		Short:             "Make a context the current one",
		Example:           "  firn context use prod",
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: first(completeContexts(e)),
		RunE: func(_ *cobra.Command, args []string) error {
			return changeContexts(e, output, func(contexts *client.Contexts) (string, any, error) {
				chosen, err := contexts.Get(args[0])
				if err != nil {
					return "", nil, err
				}
				contexts.Current = args[0]
				return "using context " + args[0], contextView{args[0], true, chosen}, nil
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func newContextShow(e env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "show [NAME]",
		Short:             "Show a context, the current one if none is named",
		Example:           "  firn context show prod -o json",
		Args:              arguments(cobra.MaximumNArgs(1)),
		ValidArgsFunction: first(completeContexts(e)),
		RunE: func(_ *cobra.Command, args []string) error {
			contexts, err := client.LoadContexts(client.ContextsPath(e.Getenv))
			if err != nil {
				return err
			}
			name := contexts.Current
			switch {
			case len(args) == 1:
				name = args[0]
			case name == "":
				return fmt.Errorf("no context is current: %w; choose one with firn context use", client.ErrNotFound)
			}
			chosen, err := contexts.Get(name)
			if err != nil {
				return err
			}
			v := contextView{name, name == contexts.Current, chosen}
			if output == "json" {
				return writeJSON(e.Stdout, v)
			}
			return v.print(e)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (v contextView) print(e env) error {
	w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	row("name", v.Name)
	row("brokers", strings.Join(v.Brokers, ","))
	row("security", v.security())
	if v.TLS != nil {
		row("tls ca", v.TLS.CA)
		row("tls certificate", v.TLS.Cert)
		row("tls key", v.TLS.Key)
		row("tls server name", v.TLS.ServerName)
	}
	if v.SASL != nil {
		row("password in environment", v.SASL.PasswordEnv)
		row("password in file", v.SASL.PasswordFile)
	}
	return w.Flush()
}

func newContextSet(e env) *cobra.Command {
	var brokers []string
	var useTLS, noSASL bool
	var output string
	var tls client.TLS
	var sasl client.SASL
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Make or change a context; what is not given stays as it was",
		Long: `Make or change a context; what is not given stays as it was. The first context becomes the current one.

Any --tls-… flag implies --tls, any --sasl-… flag a user; --tls=false and --no-sasl take them away again.`,
		Example: `  firn context set local --brokers 127.0.0.1:9092
  firn context set prod --brokers k1.example.net:9093,k2.example.net:9093 --tls-ca prod.pem \
    --sasl-mechanism SCRAM-SHA-512 --sasl-user me --sasl-password-env PROD_PASSWORD`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: first(completeContexts(e)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if err := client.CheckContextName(name); err != nil {
				return err
			}
			given := cmd.Flags().Changed
			return changeContexts(e, output, func(contexts *client.Contexts) (string, any, error) {
				c, existed := contexts.Contexts[name]
				if given("brokers") {
					c.Brokers = brokers
				} else if !existed {
					return "", nil, fmt.Errorf("%w: --brokers: a new context needs them", client.ErrUsage)
				}
				if err := setTLS(&c, given, useTLS, tls); err != nil {
					return "", nil, err
				}
				if err := setSASL(&c, given, noSASL, sasl); err != nil {
					return "", nil, err
				}
				if err := c.Validate(); err != nil {
					return "", nil, err
				}
				contexts.Contexts[name] = c
				if len(contexts.Contexts) == 1 {
					contexts.Current = name
				}
				return "set context " + name, contextView{name, name == contexts.Current, c}, nil
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&brokers, "brokers", nil, "brokers to start from, as host:port, separated by commas")
	f.BoolVar(&useTLS, "tls", false, "use TLS")
	f.StringVar(&tls.CA, "tls-ca", "", "PEM file of the authorities to trust, instead of the system's")
	f.StringVar(&tls.Cert, "tls-cert", "", "PEM file of the client's certificate")
	f.StringVar(&tls.Key, "tls-key", "", "PEM file of the client's key")
	f.StringVar(&tls.ServerName, "tls-server-name", "", "name that the brokers' certificates must have, instead of their address")
	choiceFlag(cmd, &sasl.Mechanism, "sasl-mechanism", "", "", client.SASLMechanisms, "how to prove who one is")
	f.StringVar(&sasl.User, "sasl-user", "", "user")
	f.StringVar(&sasl.PasswordEnv, "sasl-password-env", "", "environment variable that holds the password")
	f.StringVar(&sasl.PasswordFile, "sasl-password-file", "", "file that holds the password")
	f.BoolVar(&noSASL, "no-sasl", false, "use no user")
	outputFlag(cmd, &output)
	cmd.MarkFlagsMutuallyExclusive("sasl-password-env", "sasl-password-file")
	for _, flag := range []string{"sasl-mechanism", "sasl-user", "sasl-password-env", "sasl-password-file"} {
		cmd.MarkFlagsMutuallyExclusive("no-sasl", flag)
	}
	for _, flag := range []string{"brokers", "tls-server-name", "sasl-user", "sasl-password-env"} {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions))
	}
	return cmd
}

// setTLS changes the TLS of c as the flags say.
func setTLS(c *client.Context, given func(string) bool, use bool, flags client.TLS) error {
	changed := client.TLS{}
	if c.TLS != nil {
		changed = *c.TLS
	}
	wanted := c.TLS != nil
	for _, f := range []struct {
		flag     string
		from, to *string
		path     bool
	}{
		{"tls-ca", &flags.CA, &changed.CA, true},
		{"tls-cert", &flags.Cert, &changed.Cert, true},
		{"tls-key", &flags.Key, &changed.Key, true},
		{"tls-server-name", &flags.ServerName, &changed.ServerName, false},
	} {
		if !given(f.flag) {
			continue
		}
		wanted = true
		*f.to = *f.from
		if f.path && *f.from != "" {
			abs, err := filepath.Abs(*f.from)
			if err != nil {
				return fmt.Errorf("--%s: %w", f.flag, err)
			}
			*f.to = abs
		}
	}
	if given("tls") {
		wanted = use
	}
	c.TLS = nil
	if wanted {
		c.TLS = &changed
	}
	return nil
}

// setSASL changes the user of c as the flags say.
func setSASL(c *client.Context, given func(string) bool, none bool, flags client.SASL) error {
	if none {
		c.SASL = nil
		return nil
	}
	changed := client.SASL{Mechanism: "SCRAM-SHA-512"}
	if c.SASL != nil {
		changed = *c.SASL
	}
	wanted := c.SASL != nil
	if given("sasl-mechanism") {
		changed.Mechanism, wanted = flags.Mechanism, true
	}
	if given("sasl-user") {
		changed.User, wanted = flags.User, true
	}
	if given("sasl-password-env") {
		changed.PasswordEnv, changed.PasswordFile, wanted = flags.PasswordEnv, "", true
	}
	if given("sasl-password-file") {
		path, err := filepath.Abs(flags.PasswordFile)
		if err != nil {
			return fmt.Errorf("--sasl-password-file: %w", err)
		}
		changed.PasswordEnv, changed.PasswordFile, wanted = "", path, true
	}
	c.SASL = nil
	if wanted {
		c.SASL = &changed
	}
	return nil
}

func newContextDelete(e env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "delete NAME...",
		Short:             "Forget contexts",
		Example:           "  firn context delete staging",
		Args:              arguments(cobra.MinimumNArgs(1)),
		ValidArgsFunction: completeContexts(e),
		RunE: func(_ *cobra.Command, names []string) error {
			return changeContexts(e, output, func(contexts *client.Contexts) (string, any, error) {
				var errs []error
				for _, name := range names {
					_, err := contexts.Get(name)
					errs = append(errs, err)
				}
				if err := errors.Join(errs...); err != nil {
					return "", nil, err
				}
				for _, name := range names {
					delete(contexts.Contexts, name)
					if contexts.Current == name {
						contexts.Current = ""
					}
				}
				return "deleted context " + strings.Join(names, ", "), map[string][]string{"deleted": names}, nil
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// changeContexts reads the contexts, has them changed, writes them and says what happened, as text or as JSON.
func changeContexts(e env, output string, change func(*client.Contexts) (said string, view any, err error)) error {
	path := client.ContextsPath(e.Getenv)
	contexts, err := client.LoadContexts(path)
	if err != nil {
		return err
	}
	said, view, err := change(&contexts)
	if err != nil {
		return err
	}
	if err := contexts.Save(path); err != nil {
		return err
	}
	if output == "json" {
		return writeJSON(e.Stdout, view)
	}
	_, err = fmt.Fprintln(e.Stdout, said)
	return err
}

// first completes the first argument only.
func first(complete completer) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, word)
	}
}
