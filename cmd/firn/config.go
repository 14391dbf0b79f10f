package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/cmd/firn/client"
)

const resourceHelp = `What has settings is named as
  topic NAME    a topic
  broker ID     one broker
  cluster       all brokers`

func newConfig(e env) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "config",
		Short: "Show and change the settings of topics and brokers of any Kafka",
		Long: `Show and change the settings of topics and brokers of any Kafka. Settings of firn's own agents come from their command
line, environment and file, see firn agent --help.

` + resourceHelp,
	})
	cmd.AddCommand(newConfigDescribe(e))
	cmd.AddCommand(newConfigSet(e))
	cmd.AddCommand(newConfigUnset(e))
	cmd.AddCommand(newConfigList(e))
	return cmd
}

// resource is what has settings.
type resource struct {
	kind string // "topic", "broker" or "cluster"
	name string // of a topic; the id of a broker; empty for a cluster
}

func (r resource) String() string { return strings.TrimSpace(r.kind + " " + r.name) }

// broker is the id of a broker.
func (r resource) broker() []int32 {
	if r.kind != "broker" {
		return nil
	}
	id, _ := strconv.ParseInt(r.name, 10, 32) // parseResource has checked it
	return []int32{int32(id)}
}

// parseResource takes a resource off the front of args. Errors wrap client.ErrUsage.
func parseResource(args []string) (res resource, rest []string, err error) {
	switch {
	case args[0] == "cluster":
		return resource{kind: "cluster"}, args[1:], nil
	case args[0] != "topic" && args[0] != "broker":
		return res, nil, fmt.Errorf("%w: %q has no settings, name topic NAME, broker ID or cluster", client.ErrUsage, args[0])
	case len(args) == 1:
		return res, nil, fmt.Errorf("%w: %s which? name topic NAME, broker ID or cluster", client.ErrUsage, args[0])
	}
	if args[0] == "broker" {
		if id, err := strconv.ParseInt(args[1], 10, 32); err != nil || id < 0 {
			return res, nil, fmt.Errorf("%w: %q is not the id of a broker, see firn cluster describe", client.ErrUsage, args[1])
		}
	}
	return resource{args[0], args[1]}, args[2:], nil
}

// configView is a setting as it is printed.
type configView struct {
	Key       string  `json:"key"`
	Value     *string `json:"value"` // null where it is sensitive or not set
	Source    string  `json:"source"`
	Default   *string `json:"default"` // null where the broker does not tell
	Sensitive bool    `json:"sensitive,omitempty"`
}

func configViewOf(c kadm.Config) configView {
	v := configView{Key: c.Key, Value: c.Value, Source: c.Source.String(), Sensitive: c.Sensitive}
	if c.Source == kmsg.ConfigSourceDefaultConfig {
		v.Default = c.Value
	}
	for _, s := range c.Synonyms {
		// Apache Kafka gives the default of retention.ms as that of log.retention.hours, in hours.
		otherUnit := strings.HasSuffix(s.Key, ".hours") || strings.HasSuffix(s.Key, ".minutes")
		if s.Source == kmsg.ConfigSourceDefaultConfig && s.Value != nil && !otherUnit {
			v.Default = s.Value
		}
	}
	return v
}

// isDefault says whether nobody has set this.
func (v configView) isDefault() bool { return v.Source == kmsg.ConfigSourceDefaultConfig.String() }

// text is a setting's value for people.
func (v configView) text(value *string) string {
	switch {
	case v.Sensitive:
		return "(hidden)"
	case value == nil:
		return "-"
	case *value == "":
		return `""`
	}
	return *value
}

// describeConfigs returns all settings of a resource, sorted.
func describeConfigs(ctx context.Context, adm *kadm.Client, res resource) ([]configView, error) {
	var answer kadm.ResourceConfigs
	var err error
	if res.kind == "topic" {
		answer, err = adm.DescribeTopicConfigs(ctx, res.name)
	} else {
		answer, err = adm.DescribeBrokerConfigs(ctx, res.broker()...)
	}
	if err != nil {
		return nil, fmt.Errorf("describe the settings of %s: %w", res, findBroker(ctx, adm, res, err))
	}
	views := []configView{}
	for _, r := range answer {
		if r.Err != nil {
			return nil, resourceError("describe the settings of", res, r.Err, r.ErrMessage)
		}
		for _, c := range r.Configs {
			views = append(views, configViewOf(c))
		}
	}
	slices.SortFunc(views, func(a, b configView) int { return strings.Compare(a.Key, b.Key) })
	return views, nil
}

// findBroker returns err, or, where that is because a broker with this id is not there, an error that says so.
func findBroker(ctx context.Context, adm *kadm.Client, res resource, err error) error {
	if res.kind != "broker" {
		return err
	}
	brokers, listErr := adm.ListBrokers(ctx)
	if listErr != nil || slices.Contains(brokers.NodeIDs(), res.broker()[0]) {
		return err
	}
	return fmt.Errorf("%w; see firn cluster describe", client.ErrNotFound)
}

// resourceError words a broker's answer about a resource.
func resourceError(step string, res resource, err error, detail string) error {
	if res.kind == "topic" {
		return client.TopicError(step, res.name, err, detail)
	}
	return fmt.Errorf("%s %s: %w", step, res, client.Answer{Err: err, Detail: detail})
}

// writeConfigs prints settings as a table.
func writeConfigs(w io.Writer, views []configView) {
	_, _ = fmt.Fprintln(w, "KEY\tVALUE\tSOURCE\tDEFAULT")
	for _, v := range views {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.Key, v.text(v.Value), v.Source, v.text(v.Default))
	}
}

// completeResource completes a resource, then what comes after it.
func completeResource(r *remote, after completer) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		switch {
		case len(args) == 0:
			return []string{"topic", "broker", "cluster"}, cobra.ShellCompDirectiveNoFileComp
		case len(args) == 1 && args[0] == "topic":
			return completeTopics(r, 0)(cmd, nil, word)
		case len(args) == 1 && args[0] == "broker":
			return ask(cmd, r, func(ctx context.Context, adm *kadm.Client) []string {
				brokers, err := adm.ListBrokers(ctx)
				if err != nil {
					return nil
				}
				var ids []string
				for _, id := range brokers.NodeIDs() {
					ids = append(ids, strconv.Itoa(int(id)))
				}
				return ids
			}), cobra.ShellCompDirectiveNoFileComp
		case after == nil:
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return after(cmd, args, word)
	}
}

func resourceOf(args []string) (resource, bool) {
	res, _, err := parseResource(args)
	return res, err == nil
}

// resourceConfigs is a resource with settings as describe and list print it.
type resourceConfigs struct {
	Resource string       `json:"resource"`
	Name     string       `json:"name"`
	Configs  []configView `json:"configs"`
}

func newConfigDescribe(e env) *cobra.Command {
	var a *admin
	var all bool
	cmd := &cobra.Command{
		Use:     "describe topic NAME|broker ID|cluster",
		Short:   "Show settings that differ from their default, or all, with where they come from",
		Long:    "Show settings that differ from their default, or all, with where they come from.\n\n" + resourceHelp,
		Example: "  firn config describe topic orders\n  firn config describe broker 1 --all -o json",
		Args:    arguments(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			res, rest, err := parseResource(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return fmt.Errorf("%w: %q is more than a cluster takes", client.ErrUsage, rest[0])
			}
			return a.do(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				views, err := describeConfigs(ctx, adm, res)
				if err != nil {
					return err
				}
				if !all {
					views = slices.DeleteFunc(views, configView.isDefault)
				}
				if a.output == "json" {
					return writeJSON(e.Stdout, resourceConfigs{res.kind, res.name, views})
				}
				w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
				writeConfigs(w, views)
				return w.Flush()
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.ValidArgsFunction = completeResource(a.remote, nil)
	cmd.Flags().BoolVar(&all, "all", false, "show settings that have their default too")
	return cmd
}

// change is one change of a setting as it is printed.
type change struct {
	Op    string  `json:"op"` // "set", "unset", "append" or "subtract"
	Key   string  `json:"key"`
	Value *string `json:"value,omitempty"`
}

func (c change) String() string {
	switch c.Op {
	case "unset":
		return "unset " + c.Key
	case "append":
		return "set " + c.Key + "+=" + *c.Value
	case "subtract":
		return "set " + c.Key + "-=" + *c.Value
	}
	return "set " + c.Key + "=" + *c.Value
}

// parseChanges reads changes given as key=value, key+=value, key-=value, and keys to unset. Errors wrap client.ErrUsage
// and name the argument by what.
func parseChanges(what string, set, unset []string) ([]change, error) {
	var changes []change
	var errs []error
	seen := map[string]bool{}
	add := func(c change) {
		if seen[c.Key] {
			errs = append(errs, fmt.Errorf("%w: %s: %s is given twice, give it once", client.ErrUsage, what, c.Key))
		}
		seen[c.Key] = true
		changes = append(changes, c)
	}
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		c := change{"set", key, &value}
		if k, is := strings.CutSuffix(key, "+"); is {
			c.Op, c.Key = "append", k
		} else if k, is := strings.CutSuffix(key, "-"); is {
			c.Op, c.Key = "subtract", k
		}
		if !ok || c.Key == "" {
			errs = append(errs, fmt.Errorf("%w: %s: %q is not key=value, nor key+=value or key-=value for a list", client.ErrUsage, what, s))
			continue
		}
		add(c)
	}
	for _, key := range unset {
		if key == "" || strings.Contains(key, "=") {
			errs = append(errs, fmt.Errorf("%w: %q is not the key of a setting", client.ErrUsage, key))
			continue
		}
		add(change{Op: "unset", Key: key})
	}
	return changes, errors.Join(errs...)
}

// checkUnset finds settings that are to be put back and that the resource does not have. Brokers, Kafka's as firn's, take it for done:
// what is not set need not be put back. A person has mistyped it.
func checkUnset(ctx context.Context, adm *kadm.Client, res resource, changes []change) error {
	if res.kind == "cluster" || !slices.ContainsFunc(changes, func(c change) bool { return c.Op == "unset" }) {
		return nil // of a cluster only what is set is described
	}
	views, err := describeConfigs(ctx, adm, res)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if c.Op == "unset" && !slices.ContainsFunc(views, func(v configView) bool { return v.Key == c.Key }) {
			return fmt.Errorf("%w: %s has no setting %s; see firn config describe %s --all", client.ErrNotFound, res, c.Key, res)
		}
	}
	return nil
}

// alterConfigs applies changes to a resource, or only has them checked.
func alterConfigs(ctx context.Context, adm *kadm.Client, res resource, changes []change, dry bool) error {
	if err := checkUnset(ctx, adm, res, changes); err != nil {
		return err
	}
	ops := map[string]kadm.IncrementalOp{"set": kadm.SetConfig, "unset": kadm.DeleteConfig, "append": kadm.AppendConfig, "subtract": kadm.SubtractConfig}
	var alter []kadm.AlterConfig
	for _, c := range changes {
		alter = append(alter, kadm.AlterConfig{Op: ops[c.Op], Name: c.Key, Value: c.Value})
	}
	var answers kadm.AlterConfigsResponses
	var err error
	switch {
	case res.kind == "topic" && dry:
		answers, err = adm.ValidateAlterTopicConfigs(ctx, alter, res.name)
	case res.kind == "topic":
		answers, err = adm.AlterTopicConfigs(ctx, alter, res.name)
	case dry:
		answers, err = adm.ValidateAlterBrokerConfigs(ctx, alter, res.broker()...)
	default:
		answers, err = adm.AlterBrokerConfigs(ctx, alter, res.broker()...)
	}
	if err != nil {
		return fmt.Errorf("change the settings of %s: %w", res, findBroker(ctx, adm, res, err))
	}
	for _, answer := range answers {
		if answer.Err != nil {
			return resourceError("change the settings of", res, answer.Err, answer.ErrMessage)
		}
	}
	return nil
}

// changed is what set and unset print.
type changed struct {
	Resource string   `json:"resource"`
	Name     string   `json:"name"`
	DryRun   bool     `json:"dry_run,omitempty"`
	Changes  []change `json:"changes"`
}

// changeConfigs is the body of set and unset.
func changeConfigs(ctx context.Context, a *admin, res resource, changes []change, dry bool) error {
	return a.do(ctx, func(ctx context.Context, adm *kadm.Client) error {
		if err := alterConfigs(ctx, adm, res, changes, dry); err != nil {
			return err
		}
		if a.output == "json" {
			return writeJSON(a.env.Stdout, changed{res.kind, res.name, dry, changes})
		}
		return writeChanges(a.env.Stdout, res, changes, dry)
	})
}

func writeChanges(w io.Writer, res resource, changes []change, dry bool) error {
	for _, c := range changes {
		would := ""
		if dry {
			would = "would have "
		}
		if _, err := fmt.Fprintf(w, "%s: %s%s\n", res, would, c); err != nil {
			return err
		}
	}
	return nil
}

func dryRunFlag(cmd *cobra.Command, dry *bool) {
	cmd.Flags().BoolVar(dry, "dry-run", false, "have the brokers check it, change nothing")
}

func newConfigSet(e env) *cobra.Command {
	var a *admin
	var dry bool
	cmd := &cobra.Command{
		Use:     "set topic NAME|broker ID|cluster KEY=VALUE...",
		Short:   "Change settings; += and -= add to a list and take from it",
		Long:    "Change settings; what is not named stays. += and -= add to a list and take from it.\n\n" + resourceHelp,
		Example: "  firn config set topic orders retention.ms=86400000 cleanup.policy+=compact",
		Args:    arguments(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			res, rest, err := parseResource(args)
			if err != nil {
				return err
			}
			if len(rest) == 0 {
				return fmt.Errorf("%w: nothing to set, give key=value", client.ErrUsage)
			}
			changes, err := parseChanges("setting", rest, nil)
			if err != nil {
				return err
			}
			return changeConfigs(cmd.Context(), a, res, changes, dry)
		},
	}
	a = adminFlags(cmd, e)
	dryRunFlag(cmd, &dry)
	cmd.ValidArgsFunction = completeResource(a.remote, completeConfigs(a.remote, resourceOf, "="))
	return cmd
}

func newConfigUnset(e env) *cobra.Command {
	var a *admin
	var dry bool
	cmd := &cobra.Command{
		Use:     "unset topic NAME|broker ID|cluster KEY...",
		Short:   "Put settings back to what they are when nobody sets them",
		Long:    "Put settings back to what they are when nobody sets them.\n\n" + resourceHelp,
		Example: "  firn config unset topic orders retention.ms",
		Args:    arguments(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			res, keys, err := parseResource(args)
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				return fmt.Errorf("%w: nothing to unset, name a setting", client.ErrUsage)
			}
			changes, err := parseChanges("setting", nil, keys)
			if err != nil {
				return err
			}
			return changeConfigs(cmd.Context(), a, res, changes, dry)
		},
	}
	a = adminFlags(cmd, e)
	dryRunFlag(cmd, &dry)
	cmd.ValidArgsFunction = completeResource(a.remote, completeConfigs(a.remote, resourceOf, ""))
	return cmd
}

func newConfigList(e env) *cobra.Command {
	var a *admin
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List every setting that somebody has set, of the cluster, its brokers and topics",
		Example: "  firn config list -o json",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.do(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				all, err := listConfigs(ctx, adm)
				if err != nil {
					return err
				}
				if a.output == "json" {
					return writeJSON(e.Stdout, all)
				}
				w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
				_, _ = fmt.Fprintln(w, "RESOURCE\tKEY\tVALUE\tDEFAULT")
				for _, r := range all {
					for _, v := range r.Configs {
						_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", resource{r.Resource, r.Name}, v.Key, v.text(v.Value), v.text(v.Default))
					}
				}
				return w.Flush()
			})
		},
	}
	a = adminFlags(cmd, e)
	return cmd
}

// topicsAsked bounds how many topics' settings one answer has: some 5 KB each.
const topicsAsked = 500

// listConfigs returns what is set on each resource itself, as opposed to what it inherits.
func listConfigs(ctx context.Context, adm *kadm.Client) ([]resourceConfigs, error) {
	meta, err := adm.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics and brokers: %w", err)
	}
	own := map[string]kmsg.ConfigSource{
		"cluster": kmsg.ConfigSourceDynamicDefaultBrokerConfig,
		"broker":  kmsg.ConfigSourceDynamicBrokerConfig,
		"topic":   kmsg.ConfigSourceDynamicTopicConfig,
	}
	all := []resourceConfigs{}
	add := func(kind string, answer kadm.ResourceConfigs) error {
		slices.SortFunc(answer, func(a, b kadm.ResourceConfig) int { return strings.Compare(a.Name, b.Name) })
		for _, r := range answer {
			if r.Err != nil {
				return resourceError("describe the settings of", resource{kind, r.Name}, r.Err, r.ErrMessage)
			}
			set := resourceConfigs{kind, r.Name, nil}
			for _, c := range r.Configs {
				if c.Source == own[kind] {
					set.Configs = append(set.Configs, configViewOf(c))
				}
			}
			slices.SortFunc(set.Configs, func(a, b configView) int { return strings.Compare(a.Key, b.Key) })
			if set.Configs != nil {
				all = append(all, set)
			}
		}
		return nil
	}
	cluster, clusterErr := adm.DescribeBrokerConfigs(ctx)
	brokers, brokersErr := adm.DescribeBrokerConfigs(ctx, meta.Brokers.NodeIDs()...)
	if err := errors.Join(clusterErr, brokersErr); err != nil {
		return nil, fmt.Errorf("describe the settings of brokers: %w", err)
	}
	if err := errors.Join(add("cluster", cluster), add("broker", brokers)); err != nil {
		return nil, err
	}
	for names := range slices.Chunk(meta.Topics.Names(), topicsAsked) {
		topics, err := adm.DescribeTopicConfigs(ctx, names...)
		if err != nil {
			return nil, fmt.Errorf("describe the settings of topics: %w", err)
		}
		if err := add("topic", topics); err != nil {
			return nil, err
		}
	}
	return all, nil
}
