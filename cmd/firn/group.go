package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/cmd/firn/client"
)

func newGroup(e env) *cobra.Command {
	cmd := group(&cobra.Command{Use: "group", Short: "List, describe, reset and delete consumer groups of any Kafka, and tell their lag"})
	cmd.AddCommand(newGroupList(e))
	cmd.AddCommand(newGroupDescribe(e))
	cmd.AddCommand(newGroupLag(e))
	cmd.AddCommand(newGroupReset(e))
	cmd.AddCommand(newGroupDelete(e))
	return cmd
}

// The states and types that groups have, as brokers write them.
var (
	groupStates = []string{"Empty", "Stable", "PreparingRebalance", "CompletingRebalance", "Assigning", "Reconciling", "Dead"}
	groupTypes  = []string{"Classic", "Consumer", "Share", "Streams"}
)

// groupError words a broker's answer about one group, with what would mend the common ones.
func groupError(step, name string, err error) error {
	mend := ""
	switch {
	case errors.Is(err, kerr.GroupIDNotFound):
		mend = "; see firn group list"
	case errors.Is(err, kerr.NonEmptyGroup):
		mend = "; it has members, stop them first"
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.RebalanceInProgress):
		mend = "; members have joined, stop them first"
	case errors.Is(err, kerr.GroupSubscribedToTopic):
		mend = "; a member reads the topic, stop it first"
	case errors.Is(err, kerr.CoordinatorNotAvailable), errors.Is(err, kerr.CoordinatorLoadInProgress), errors.Is(err, kerr.NotCoordinator):
		mend = "; its coordinator is changing, try again"
	}
	return fmt.Errorf("%s group %q: %w%s", step, name, err, mend)
}

// completeGroups completes up to most names of groups, 0 for any number.
func completeGroups(r *remote, most int) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return without(ask(cmd, r, func(ctx context.Context, adm *kadm.Client) []string {
			groups, err := adm.ListGroups(ctx)
			if err != nil {
				return nil
			}
			return groups.Groups()
		}), args), cobra.ShellCompDirectiveNoFileComp
	}
}

// groupView is a group as list prints it. What old brokers do not tell is empty.
type groupView struct {
	Name         string `json:"name"`
	State        string `json:"state"`
	Type         string `json:"type"`
	ProtocolType string `json:"protocol_type"`
	Coordinator  int32  `json:"coordinator"`
}

func newGroupList(e env) *cobra.Command {
	var a *admin
	var states, types []string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List consumer groups",
		Long: `List consumer groups with their state, type, protocol type and coordinator.

States are ` + strings.Join(groupStates, ", ") + `.
Types are ` + strings.Join(groupTypes, ", ") + `. Case does not matter. What old brokers do not tell is shown as a dash.`,
		Example: "  firn group list\n  firn group list --state Stable --state Empty -o json | jq -r '.[].name'",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			states, err := wordsOf("--state", states, groupStates)
			if err != nil {
				return err
			}
			types, err := wordsOf("--type", types, groupTypes)
			if err != nil {
				return err
			}
			return a.doRaw(cmd.Context(), func(ctx context.Context, cl *kgo.Client) error {
				views, problems := listGroups(ctx, cl, states, types)
				if views == nil {
					return problems
				}
				return errors.Join(a.printGroups(views), problems)
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().StringSliceVar(&states, "state", nil, "only groups in one of these states, may be repeated")
	cmd.Flags().StringSliceVar(&types, "type", nil, "only groups of one of these types, may be repeated")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(groupStates, cobra.ShellCompDirectiveNoFileComp)))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(groupTypes, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// wordsOf finds words in a list, whatever their case. Errors wrap client.ErrUsage.
func wordsOf(flag string, words, list []string) ([]string, error) {
	found := make([]string, 0, len(words))
	for _, word := range words {
		i := slices.IndexFunc(list, func(s string) bool { return strings.EqualFold(s, word) })
		if i < 0 {
			return nil, fmt.Errorf("%w: %s: %q is unknown, choose from %s", client.ErrUsage, flag, word, strings.Join(list, ", "))
		}
		found = append(found, list[i])
	}
	return found, nil
}

// listGroups asks every broker. Brokers that are too old to filter list all, so what they say is filtered here too. Views are
// nil where no broker answered.
func listGroups(ctx context.Context, cl *kgo.Client, states, types []string) ([]groupView, error) {
	req := kmsg.NewPtrListGroupsRequest()
	req.StatesFilter = states
	for _, word := range types {
		req.TypesFilter = append(req.TypesFilter, strings.ToLower(word))
	}
	wanted := func(filter []string, word string) bool {
		return len(filter) == 0 || slices.ContainsFunc(filter, func(s string) bool { return strings.EqualFold(s, word) })
	}
	views := []groupView{}
	var problems []error
	answered := false
	for _, shard := range cl.RequestSharded(ctx, req) {
		err := shard.Err
		resp, _ := shard.Resp.(*kmsg.ListGroupsResponse)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("list groups of broker %d: %w", shard.Meta.NodeID, err))
			continue
		}
		answered = true
		for i := range resp.Groups {
			if g := &resp.Groups[i]; wanted(states, g.GroupState) && wanted(types, g.GroupType) {
				views = append(views, groupView{g.Group, g.GroupState, typeName(g.GroupType), g.ProtocolType, shard.Meta.NodeID})
			}
		}
	}
	if !answered {
		return nil, errors.Join(problems...)
	}
	slices.SortFunc(views, func(a, b groupView) int { return strings.Compare(a.Name, b.Name) })
	return views, errors.Join(problems...)
}

// typeName is a group's type as --type and describe write it: brokers list it in small letters.
func typeName(listed string) string {
	if i := slices.IndexFunc(groupTypes, func(t string) bool { return strings.EqualFold(t, listed) }); i >= 0 {
		return groupTypes[i]
	}
	return listed
}

func (a *admin) printGroups(views []groupView) error {
	if a.output == "json" {
		return writeJSON(a.env.Stdout, views)
	}
	w := tabwriter.NewWriter(a.env.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "GROUP\tSTATE\tTYPE\tPROTOCOL TYPE\tCOORDINATOR")
	for _, v := range views {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", v.Name, dash(v.State), dash(v.Type), dash(v.ProtocolType), v.Coordinator)
	}
	return w.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// deletedGroupView is what delete prints for a group, or for the offsets of a group.
type deletedGroupView struct {
	Group      string              `json:"group"`
	Partitions []deletedOffsetView `json:"partitions,omitempty"`
}

type deletedOffsetView struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}

func newGroupDelete(e env) *cobra.Command {
	var a *admin
	var topics []string
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete GROUP...",
		Short: "Delete consumer groups, or what they have committed for some topics",
		Long: `Delete consumer groups that have no members, with all that they have committed. With --topic only what the groups have
committed for those topics or partitions is deleted; other members may go on, but none may be reading those topics.`,
		Example: `  firn group delete billing --yes
  firn group delete billing --topic orders --topic clicks:0,2 --yes`,
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			wanted, err := parseTopicPartitions(topics)
			if err != nil {
				return err
			}
			what := "delete group " + strings.Join(names, ", ")
			if len(wanted) > 0 {
				what = "delete what group " + strings.Join(names, ", ") + " has committed for " + strings.Join(topics, ", ")
			}
			if err := confirm(cmd.Context(), e, yes, what); err != nil {
				return err
			}
			return a.doRaw(cmd.Context(), func(ctx context.Context, cl *kgo.Client) error {
				adm := kadm.NewClient(cl)
				if len(wanted) == 0 {
					return a.deleteGroups(ctx, adm, names)
				}
				return a.deleteOffsets(ctx, adm, names, wanted)
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().StringArrayVar(&topics, "topic", nil, "delete only what was committed for this topic, or for some of its partitions as topic:0,2; may be repeated")
	yesFlag(cmd, &yes)
	cmd.ValidArgsFunction = completeGroups(a.remote, 0)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("topic", completeTopics(a.remote, 0)))
	return cmd
}

func (a *admin) deleteGroups(ctx context.Context, adm *kadm.Client, names []string) error {
	answers, err := adm.DeleteGroups(ctx, names...)
	var errs []error
	if err != nil && len(answers) == 0 {
		return fmt.Errorf("delete groups: %w", err)
	}
	deleted := []deletedGroupView{}
	for _, name := range names {
		answer, ok := answers[name]
		switch {
		case !ok:
			errs = append(errs, groupError("delete", name, errors.Join(err, client.ErrNoAnswer)))
		case answer.Err != nil:
			errs = append(errs, groupError("delete", name, client.Answer{Err: answer.Err, Detail: answer.ErrMessage}))
		default:
			deleted = append(deleted, deletedGroupView{Group: name})
		}
	}
	return errors.Join(append(errs, a.printDeletedGroups(deleted))...)
}

// deleteOffsets deletes what groups have committed for some topics.
func (a *admin) deleteOffsets(ctx context.Context, adm *kadm.Client, names []string, wanted []topicPartitions) error {
	topics := topicNames(wanted)
	found, err := findPartitions(ctx, adm, "delete offsets of", wanted)
	if err != nil {
		return err
	}
	set := kadm.TopicsSet{}
	for topic, partitions := range found {
		set.Add(topic, partitions...)
	}
	var errs []error
	deleted := []deletedGroupView{}
	for _, name := range names {
		answers, err := adm.DeleteOffsets(ctx, name, set)
		if err != nil {
			errs = append(errs, groupError("delete offsets of", name, err))
			continue
		}
		v := deletedGroupView{Group: name}
		for _, topic := range topics {
			for _, partition := range slices.Sorted(maps.Keys(answers[topic])) {
				if err := answers[topic][partition]; err != nil {
					errs = append(errs, groupError(fmt.Sprintf("delete offset of topic %q partition %d of", topic, partition), name, err))
					continue
				}
				v.Partitions = append(v.Partitions, deletedOffsetView{topic, partition})
			}
		}
		if len(v.Partitions) > 0 {
			deleted = append(deleted, v)
		}
	}
	return errors.Join(append(errs, a.printDeletedGroups(deleted))...)
}

func (a *admin) printDeletedGroups(deleted []deletedGroupView) error {
	if a.output == "json" {
		return writeJSON(a.env.Stdout, deleted)
	}
	for _, v := range deleted {
		if v.Partitions == nil {
			if _, err := fmt.Fprintf(a.env.Stdout, "deleted group %s\n", v.Group); err != nil {
				return err
			}
		}
		for _, p := range v.Partitions {
			if _, err := fmt.Fprintf(a.env.Stdout, "group %s: deleted offset of topic %s partition %d\n", v.Group, p.Topic, p.Partition); err != nil {
				return err
			}
		}
	}
	return nil
}
