package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/cmd/firn/client"
)

const defaultAgentHTTP = "127.0.0.1:8080"

// clusterStatusBytesMax bounds what an agent says of its cluster.
const clusterStatusBytesMax = 64 << 20

func newClusterStatus(e env) *cobra.Command {
	var at, output string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show a firn cluster's agents, how each is, and its etcd",
		Long: `Show the agents of a firn cluster with zone, version, state, how far each trails the metastore's log, the slots of consumer
groups that it coordinates, its connections and its listeners; the feature level; and what the members of etcd say. Any agent
can be asked, at its --http address: it asks the others over their internal listeners.

The exit code is 3 where an agent is not ready or does not answer, a slot is not owned, or etcd cannot be asked.`,
		Example: "  firn cluster status\n  firn cluster status --agent a1.example.net:8080 -o json",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return fmt.Errorf("%w: --timeout: %s is not above 0", client.ErrUsage, timeout)
			}
			if err := checkReach(at); err != nil {
				return fmt.Errorf("%w: --agent: %q %w", client.ErrUsage, at, err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			s, err := askClusterStatus(ctx, at)
			if err != nil {
				return err
			}
			if output == "json" {
				err = writeJSON(e.Stdout, s)
			} else {
				err = printClusterStatus(e.Stdout, s)
			}
			if err != nil {
				return err
			}
			if ill := clusterIlls(s); len(ill) > 0 {
				return fmt.Errorf("%w: %s", errCheck, strings.Join(ill, "; "))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&at, "agent", defaultAgentHTTP, "http address of any agent, as host:port")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait for the agent")
	outputFlag(cmd, &output)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("agent", cobra.NoFileCompletions))
	return cmd
}

// askClusterStatus asks an agent for its cluster.
func askClusterStatus(ctx context.Context, at string) (s agent.ClusterStatus, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/cluster", nil)
	if err != nil {
		return s, fmt.Errorf("%w: --agent: %w", client.ErrUsage, err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return s, fmt.Errorf("%w at %s: %w; --agent names the --http address of an agent", client.ErrNoAgent, at, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("%s answers %s to GET /cluster: it is not the --http address of a firn agent, or of an older one", at, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, clusterStatusBytesMax)).Decode(&s); err != nil {
		return s, fmt.Errorf("read what %s says of its cluster: %w", at, err)
	}
	return s, nil
}

// agentState is an agent's state in a word.
func agentState(a *agent.AgentStatus) string {
	switch s := a.Status; {
	case s == nil:
		return "no answer"
	case s.State != "serving":
		return s.State
	case s.Error != "":
		return "failed"
	case !s.Ready:
		return "behind"
	case s.Degraded != "":
		return "degraded"
	}
	return "ready"
}

// clusterIlls says what is not as it should be.
func clusterIlls(s agent.ClusterStatus) (ills []string) {
	for i := range s.Agents {
		a := &s.Agents[i]
		switch state := agentState(a); {
		case a.Status == nil:
			ills = append(ills, fmt.Sprintf("agent %s did not answer: %s", a.Name, a.Error))
		case state != "ready":
			ills = append(ills, fmt.Sprintf("agent %s is %s: %s", a.Name, state, cmp.Or(a.Status.Error, a.Status.Behind, a.Status.Degraded, "not serving")))
		}
	}
	if s.SlotsUnowned > 0 && s.FeatureLevel >= 2 {
		ills = append(ills, fmt.Sprintf("%d slots of consumer groups have no agent", s.SlotsUnowned))
	}
	if s.EtcdError != "" {
		ills = append(ills, "etcd: "+s.EtcdError)
	}
	return ills
}

func printClusterStatus(out io.Writer, s agent.ClusterStatus) error {
	var head uint64
	for i := range s.Agents {
		if st := s.Agents[i].Status; st != nil {
			head = max(head, st.Head)
		}
	}
	_, _ = fmt.Fprintf(out, "cluster %s, feature level %d, log at n=%d, %d topics, %d groups, as agent %s sees it\n",
		s.ClusterID, s.FeatureLevel, max(head, s.Applied), s.Topics, s.Groups, s.AskedAgent)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NODE\tAGENT\tZONE\tVERSION\tSTATE\tLAG\tSLOTS\tCONNECTIONS\tLISTENERS")
	for i := range s.Agents {
		a := &s.Agents[i]
		lag, connections := "-", "-"
		if a.Status != nil {
			lag = strconv.FormatUint(max(head, a.Status.Applied)-a.Status.Applied, 10)
			connections = strconv.Itoa(a.Status.Connections)
		}
		var listeners []string
		for _, name := range slices.Sorted(maps.Keys(a.Listeners)) {
			listeners = append(listeners, name+"="+a.Listeners[name])
		}
		_, _ = fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", a.NodeID, a.Name, cmp.Or(a.Zone, "-"), cmp.Or(a.Version, "-"),
			agentState(a), lag, a.Slots, connections, strings.Join(listeners, " "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(s.Etcd) == 0 {
		return nil
	}
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ETCD\tVERSION\tLEADER\tSIZE\tIN USE\tQUOTA\tALARMS")
	for _, m := range s.Etcd {
		if why := m.Is["error"]; why != "" {
			_, _ = fmt.Fprintf(w, "%s\tno answer: %s\n", m.Endpoint, why)
			continue
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Endpoint, m.Is["version"], m.Is["leader"],
			size(m.Is["db_bytes"]), size(m.Is["db_used_bytes"]), size(m.Is["quota_bytes"]), cmp.Or(m.Is["alarms"], "-"))
	}
	return w.Flush()
}

// size writes a number of bytes for people.
func size(bytes string) string {
	n, err := strconv.ParseFloat(bytes, 64)
	if err != nil {
		return "-"
	}
	return bytesText(n)
}
