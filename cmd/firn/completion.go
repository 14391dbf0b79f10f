package main

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/firnlog/firn/cmd/firn/client"
)

// completionTimeout bounds what a press of the tab key may wait for brokers: an unreachable one completes to nothing.
const completionTimeout = 2 * time.Second

// completer is a cobra completion.
type completer = cobra.CompletionFunc

// completeContexts completes the names of contexts.
func completeContexts(e env) completer {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		contexts, err := client.LoadContexts(client.ContextsPath(e.Getenv))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return without(slices.Sorted(maps.Keys(contexts.Contexts)), args), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeTopics completes up to most names of topics, 0 for any number.
func completeTopics(r *remote, most int) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return without(ask(cmd, r, func(ctx context.Context, adm *kadm.Client) []string {
			topics, err := adm.ListTopics(ctx)
			if err != nil {
				return nil
			}
			return topics.Names()
		}), args), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeConfigs completes the keys of settings of a resource: the one that the arguments name, or, where that does not
// exist yet, any other of its kind. Suffix is what follows a key.
func completeConfigs(r *remote, which func(args []string) (resource, bool), suffix string) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		directive := cobra.ShellCompDirectiveNoFileComp
		if suffix != "" {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		res, ok := which(args)
		if !ok {
			return nil, directive
		}
		return ask(cmd, r, func(ctx context.Context, adm *kadm.Client) []string {
			views, err := describeConfigs(ctx, adm, res)
			if err != nil && res.kind == "topic" {
				topics, listErr := adm.ListTopics(ctx)
				if names := topics.Names(); listErr == nil && len(names) > 0 {
					views, err = describeConfigs(ctx, adm, resource{"topic", names[0]})
				}
			}
			if err != nil {
				return nil
			}
			keys := make([]string, 0, len(views))
			for _, v := range views {
				keys = append(keys, v.Key+suffix)
			}
			return keys
		}), directive
	}
}

// ask opens a client for a completion. What goes wrong completes to nothing.
func ask(cmd *cobra.Command, r *remote, do func(ctx context.Context, adm *kadm.Client) []string) []string {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	cl, err := r.connect(ctx)
	if err != nil {
		return nil
	}
	defer cl.Close()
	return do(ctx, kadm.NewClient(cl))
}

// without returns the elements of all that are not in given.
func without(all, given []string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return slices.Contains(given, s) })
}
