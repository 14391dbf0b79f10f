package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/cmd/firn/client"
)

func newCluster(e env) *cobra.Command {
	cmd := group(&cobra.Command{Use: "cluster", Short: "Describe the brokers of any Kafka, and how a firn cluster is"})
	cmd.AddCommand(newClusterDescribe(e), newClusterStatus(e))
	return cmd
}

// clusterView is a cluster as describe prints it.
type clusterView struct {
	ID         string       `json:"cluster_id"`
	Controller int32        `json:"controller"`
	Brokers    []brokerView `json:"brokers"`
}

type brokerView struct {
	ID      int32     `json:"id"`
	Host    string    `json:"host"`
	Port    int32     `json:"port"`
	Rack    *string   `json:"rack"`
	Version string    `json:"version"` // of the Apache Kafka whose APIs it has; empty where it has those of none
	APIs    []apiView `json:"apis"`
	err     error     // why it has none
}

type apiView struct {
	Key  int16  `json:"key"`
	Name string `json:"name"`
	Min  int16  `json:"min"`
	Max  int16  `json:"max"`
}

func newClusterDescribe(e env) *cobra.Command {
	var a *admin
	var apis bool
	cmd := &cobra.Command{
		Use:   "describe",
		Short: "Show brokers, controller, cluster id and the versions of the APIs that brokers speak",
		Long: `Show brokers, controller, cluster id and, with --apis, the versions of the APIs that each broker speaks. The version of a
broker is that of the Apache Kafka which has the same APIs, if there is one. -o json always has the APIs.`,
		Example: "  firn cluster describe --apis",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.do(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				v, err := describeCluster(ctx, adm)
				if err != nil {
					return err
				}
				if a.output == "json" {
					err = writeJSON(e.Stdout, v)
				} else {
					err = v.print(e, apis)
				}
				if err != nil {
					return err
				}
				return v.silent()
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().BoolVar(&apis, "apis", false, "show the APIs and their versions, a column for each broker")
	return cmd
}

func describeCluster(ctx context.Context, adm *kadm.Client) (clusterView, error) {
	meta, err := adm.BrokerMetadata(ctx)
	if err != nil {
		return clusterView{}, fmt.Errorf("describe the cluster: %w", err)
	}
	versions, err := adm.ApiVersions(ctx)
	if err != nil && len(versions) == 0 {
		return clusterView{}, fmt.Errorf("ask the brokers for their APIs: %w", err)
	}
	v := clusterView{ID: meta.Cluster, Controller: meta.Controller, Brokers: []brokerView{}}
	for _, b := range meta.Brokers {
		broker := brokerView{ID: b.NodeID, Host: b.Host, Port: b.Port, Rack: b.Rack, APIs: []apiView{}}
		known, asked := versions[b.NodeID]
		broker.err = known.Err
		if !asked {
			broker.err = client.ErrNotFound
		}
		if broker.err == nil {
			if guess := known.VersionGuess(); !strings.HasPrefix(guess, "between") && !strings.HasPrefix(guess, "unknown") && !strings.HasPrefix(guess, "not") {
				broker.Version = guess // those that are not kept serve a part of some version's APIs
			}
			known.EachKeySorted(func(key, lowest, highest int16) {
				broker.APIs = append(broker.APIs, apiView{key, kmsg.NameForKey(key), lowest, highest})
			})
		}
		v.Brokers = append(v.Brokers, broker)
	}
	slices.SortFunc(v.Brokers, func(a, b brokerView) int { return cmp.Compare(a.ID, b.ID) })
	return v, nil
}

// silent is an error where a broker that others name did not say what it speaks.
func (v clusterView) silent() error {
	for _, b := range v.Brokers {
		if b.err != nil {
			return fmt.Errorf("broker %d at %s did not answer: %w", b.ID, b.address(), b.err)
		}
	}
	return nil
}

func (b brokerView) address() string { return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))) }

func (v clusterView) print(e env, apis bool) error {
	w := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "cluster %s, controller %d, %d brokers\n", v.ID, v.Controller, len(v.Brokers))
	_, _ = fmt.Fprintln(w, "BROKER\tADDRESS\tRACK\tVERSION")
	for _, b := range v.Brokers {
		rack, version := "-", "no answer"
		if b.Rack != nil && *b.Rack != "" {
			rack = *b.Rack
		}
		if b.err == nil {
			version = cmp.Or(b.Version, "-")
		}
		_, _ = fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", b.ID, b.address(), rack, version)
	}
	if err := w.Flush(); err != nil || !apis {
		return err
	}
	names := map[int16]string{}
	ranges := map[int16]map[int32]string{}
	for _, b := range v.Brokers {
		for _, api := range b.APIs {
			if ranges[api.Key] == nil {
				ranges[api.Key] = map[int32]string{}
			}
			names[api.Key] = api.Name
			ranges[api.Key][b.ID] = fmt.Sprintf("%d-%d", api.Min, api.Max)
		}
	}
	_, _ = fmt.Fprint(w, "KEY\tAPI")
	for _, b := range v.Brokers {
		_, _ = fmt.Fprintf(w, "\tBROKER %d", b.ID)
	}
	_, _ = fmt.Fprintln(w)
	for _, key := range slices.Sorted(maps.Keys(names)) {
		_, _ = fmt.Fprintf(w, "%d\t%s", key, names[key])
		for _, b := range v.Brokers {
			_, _ = fmt.Fprintf(w, "\t%s", cmp.Or(ranges[key][b.ID], "-"))
		}
		_, _ = fmt.Fprintln(w)
	}
	return w.Flush()
}
