package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/cmd/firn/client"
)

// describedGroupView is a group as describe prints it, and lag.
type describedGroupView struct {
	groupView
	Protocol   string               `json:"protocol"`        // how partitions are assigned
	Epoch      *int32               `json:"epoch,omitempty"` // of groups of type Consumer
	Members    []memberView         `json:"members"`
	Lag        *int64               `json:"lag"`         // of all partitions that have an offset; null where none has
	LagSeconds *float64             `json:"lag_seconds"` // the longest; null where nobody tells
	Partitions []groupPartitionView `json:"partitions"`
}

type memberView struct {
	ID         string         `json:"id"`
	InstanceID *string        `json:"instance_id"`
	ClientID   string         `json:"client_id"`
	Host       string         `json:"host"`
	Epoch      *int32         `json:"epoch,omitempty"`
	Assigned   []assignedView `json:"assigned"`
}

type assignedView struct {
	Topic      string  `json:"topic"`
	Partitions []int32 `json:"partitions"`
}

// groupPartitionView is what a group has of a partition: an offset, or a member that is assigned to it. Null is what nobody
// tells.
type groupPartitionView struct {
	Topic      string   `json:"topic"`
	Partition  int32    `json:"partition"`
	Committed  *int64   `json:"committed_offset"`
	Metadata   string   `json:"metadata,omitempty"`
	LogStart   *int64   `json:"log_start_offset"`
	LogEnd     *int64   `json:"log_end_offset"`
	Lag        *int64   `json:"lag"`
	LagSeconds *float64 `json:"lag_seconds"`
	Member     string   `json:"member,omitempty"` // its id
}

// secondsHelp says what a lag in seconds is.
const secondsHelp = `Lag in seconds is the age of the oldest record that the group has not committed, by the record's timestamp. To learn it one
batch is read of each partition that lags; --seconds=false saves that.`

func newGroupDescribe(e env) *cobra.Command {
	var a *admin
	var seconds bool
	cmd := &cobra.Command{
		Use:   "describe GROUP...",
		Short: "Show state, members, assignments, offsets and lag of groups",
		Long: `Show state, members, assignments, offsets and lag of groups. Partitions are those that the group has an offset of, and those
that are assigned to a member. What nobody tells is shown as a dash, and as null in JSON: the lag too, where nothing is committed.

` + secondsHelp,
		Example: "  firn group describe billing\n  firn group describe billing -o json | jq '.[0].partitions[] | select(.lag > 0)'",
		Args:    arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.doRaw(cmd.Context(), func(ctx context.Context, cl *kgo.Client) error {
				views, problems := describeGroups(ctx, cl, names, seconds)
				if len(views) > 0 {
					if err := a.printDescribedGroups(views); err != nil {
						return err
					}
				}
				return problems
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().BoolVar(&seconds, "seconds", true, "tell the lag in seconds too")
	cmd.ValidArgsFunction = completeGroups(a.remote, 0)
	return cmd
}

// lagView is a group as lag prints it.
type lagView struct {
	Group      string               `json:"group"`
	State      string               `json:"state"`
	Members    int                  `json:"members"`
	Lag        *int64               `json:"lag"`
	LagSeconds *float64             `json:"lag_seconds"`
	Partitions []groupPartitionView `json:"partitions"`
}

func newGroupLag(e env) *cobra.Command {
	var a *admin
	var seconds, partitions bool
	cmd := &cobra.Command{
		Use:   "lag [GROUP...]",
		Short: "Tell how far groups, or all groups, are behind, in records and in seconds",
		Long: `Tell how far groups are behind the end of what they read, in records and in seconds: for each group the sum and the longest,
or with --partitions for each partition. Without a name all groups are told of. Where nothing is committed no lag is known: a dash, and null
in JSON.

` + secondsHelp,
		Example: "  firn group lag\n  firn group lag billing --partitions\n  firn group lag -o json | jq '.[] | select(.lag > 1000) | .group'",
		Args:    arguments(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.doRaw(cmd.Context(), func(ctx context.Context, cl *kgo.Client) error {
				var problems []error
				if len(names) == 0 {
					listed, err := listGroups(ctx, cl, nil, nil)
					if listed == nil {
						return err
					}
					problems = append(problems, err)
					for _, v := range listed {
						if v.Type == "" || strings.EqualFold(v.Type, "classic") || strings.EqualFold(v.Type, "consumer") {
							names = append(names, v.Name)
						}
					}
				}
				views, err := describeGroups(ctx, cl, names, seconds)
				lags := make([]lagView, 0, len(views))
				for i := range views {
					v := &views[i]
					lags = append(lags, lagView{v.Name, v.State, len(v.Members), v.Lag, v.LagSeconds, v.Partitions})
				}
				return errors.Join(append(problems, err, a.printLags(lags, partitions))...)
			})
		},
	}
	a = adminFlags(cmd, e)
	cmd.Flags().BoolVar(&seconds, "seconds", true, "tell the lag in seconds too")
	cmd.Flags().BoolVar(&partitions, "partitions", false, "a line for each partition; JSON always has them")
	cmd.ValidArgsFunction = completeGroups(a.remote, 0)
	return cmd
}

// describeGroups looks groups up, by name. The error is about those that are not among the views, and what else went wrong.
func describeGroups(ctx context.Context, cl *kgo.Client, names []string, seconds bool) ([]describedGroupView, error) {
	if len(names) == 0 {
		return nil, nil
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	adm := kadm.NewClient(cl)
	views, problems := findGroups(ctx, adm, names)
	if len(views) == 0 {
		return nil, errors.Join(problems...)
	}
	found := make([]string, 0, len(views))
	for i := range views {
		found = append(found, views[i].Name)
	}
	committed := adm.FetchManyOffsets(ctx, found...)
	topics := map[string]bool{}
	for i := range views {
		v := &views[i]
		fetched, ok := committed[v.Name]
		if err := fetched.Err; err != nil || !ok {
			problems = append(problems, groupError("fetch the offsets of", v.Name, errors.Join(err, missing(ok))))
		}
		v.Partitions = partitionsOf(v.Members, fetched.Fetched)
		for _, p := range v.Partitions {
			topics[p.Topic] = true
		}
	}
	if len(topics) == 0 {
		return views, errors.Join(problems...)
	}
	l, err := listLogs(ctx, adm, slices.Sorted(maps.Keys(topics)))
	if err != nil {
		return views, errors.Join(append(problems, err)...)
	}
	for i := range views {
		l.fill(&views[i])
	}
	if seconds {
		l.measure(ctx, cl, views, time.Now())
	}
	return views, errors.Join(problems...)
}

func missing(ok bool) error {
	if ok {
		return nil
	}
	return client.ErrNoAnswer
}

// findGroups looks up state and members. A group that one of the two describing APIs does not know may be of the other's kind.
func findGroups(ctx context.Context, adm *kadm.Client, names []string) (views []describedGroupView, problems []error) {
	classic, err := adm.DescribeGroups(ctx, names...)
	if err != nil && len(classic) == 0 {
		return nil, []error{fmt.Errorf("describe groups: %w", err)}
	}
	var others []string
	for _, name := range names {
		if g, ok := classic[name]; ok && (errors.Is(g.Err, kerr.GroupIDNotFound) || g.Err == nil && g.State == "Dead") {
			others = append(others, name)
		}
	}
	var consumer kadm.DescribedConsumerGroups
	if len(others) > 0 {
		consumer, _ = adm.DescribeConsumerGroups(ctx, others...) // old brokers do not serve this, and have no such groups
	}
	for _, name := range names {
		c, isConsumer := consumer[name]
		g, ok := classic[name]
		switch {
		case isConsumer && c.Err == nil:
			views = append(views, viewOfConsumerGroup(&c))
		case slices.Contains(others, name):
			problems = append(problems, groupError("describe", name, kerr.GroupIDNotFound))
		case !ok:
			problems = append(problems, groupError("describe", name, errors.Join(err, client.ErrNoAnswer)))
		case g.Err != nil:
			problems = append(problems, groupError("describe", name, client.Answer{Err: g.Err, Detail: g.ErrMessage}))
		default:
			views = append(views, viewOfGroup(&g))
		}
	}
	return views, problems
}

func viewOfGroup(g *kadm.DescribedGroup) describedGroupView {
	v := describedGroupView{
		groupView: groupView{g.Group, g.State, "Classic", g.ProtocolType, g.Coordinator.NodeID},
		Protocol:  g.Protocol, Members: []memberView{},
	}
	for _, m := range g.Members {
		mv := memberView{ID: m.MemberID, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.ClientHost, Assigned: []assignedView{}}
		if assigned, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range assigned.Topics {
				mv.Assigned = append(mv.Assigned, assignedView{t.Topic, slices.Sorted(slices.Values(t.Partitions))})
			}
		}
		mv.sort()
		v.Members = append(v.Members, mv)
	}
	return v
}

func viewOfConsumerGroup(g *kadm.DescribedConsumerGroup) describedGroupView {
	v := describedGroupView{
		groupView: groupView{g.Group, g.State, "Consumer", "consumer", g.Coordinator.NodeID},
		Protocol:  g.AssignorName, Epoch: &g.Epoch, Members: []memberView{},
	}
	for _, m := range g.Members {
		mv := memberView{
			ID: m.MemberID, InstanceID: m.InstanceID, ClientID: m.ClientID, Host: m.ClientHost, Epoch: &m.MemberEpoch, Assigned: []assignedView{},
		}
		for _, t := range m.Assignment.Sorted() {
			mv.Assigned = append(mv.Assigned, assignedView{t.Topic, t.Partitions})
		}
		mv.sort()
		v.Members = append(v.Members, mv)
	}
	return v
}

func (m *memberView) sort() {
	slices.SortFunc(m.Assigned, func(a, b assignedView) int { return strings.Compare(a.Topic, b.Topic) })
}

// partitionsOf are the partitions that were committed or are assigned, sorted.
func partitionsOf(members []memberView, committed kadm.OffsetResponses) []groupPartitionView {
	at := map[place]*groupPartitionView{}
	get := func(topic string, partition int32) *groupPartitionView {
		where := place{topic, partition}
		if at[where] == nil {
			at[where] = &groupPartitionView{Topic: topic, Partition: partition}
		}
		return at[where]
	}
	committed.Each(func(o kadm.OffsetResponse) {
		if o.Err == nil && o.At >= 0 {
			p := get(o.Topic, o.Partition)
			p.Committed, p.Metadata = &o.At, o.Metadata
		}
	})
	for _, m := range members {
		for _, t := range m.Assigned {
			for _, partition := range t.Partitions {
				get(t.Topic, partition).Member = m.ID
			}
		}
	}
	list := make([]groupPartitionView, 0, len(at))
	for _, where := range slices.SortedFunc(maps.Keys(at), comparePlaces) {
		list = append(list, *at[where])
	}
	return list
}

func comparePlaces(a, b place) int {
	if c := strings.Compare(a.topic, b.topic); c != 0 {
		return c
	}
	return int(a.partition) - int(b.partition)
}

// logs are the bounds and leaders of some topics. What is not answered for is missing.
type logs struct {
	starts, ends kadm.ListedOffsets
	details      kadm.TopicDetails
}

// listLogs asks for what is needed to tell lag. Partitions without an answer have no lag: no reason to show nothing.
func listLogs(ctx context.Context, adm *kadm.Client, topics []string) (*logs, error) {
	l := &logs{}
	var err error
	if l.details, err = adm.ListTopics(ctx, topics...); err != nil {
		return nil, fmt.Errorf("look up topics: %w", err)
	}
	if l.starts, err = adm.ListStartOffsets(ctx, topics...); err != nil && len(l.starts) == 0 {
		return nil, fmt.Errorf("list log start offsets: %w", err)
	}
	if l.ends, err = adm.ListEndOffsets(ctx, topics...); err != nil && len(l.ends) == 0 {
		return nil, fmt.Errorf("list log end offsets: %w", err)
	}
	return l, nil
}

// fill fills in bounds and lag in records.
func (l *logs) fill(v *describedGroupView) {
	for i := range v.Partitions {
		p := &v.Partitions[i]
		p.LogStart, p.LogEnd = offsetOf(l.starts, p.Topic, p.Partition), offsetOf(l.ends, p.Topic, p.Partition)
		if p.Committed == nil || p.LogEnd == nil {
			continue
		}
		lag := max(*p.LogEnd-*p.Committed, 0)
		p.Lag = &lag
		if v.Lag == nil {
			v.Lag = new(int64)
		}
		*v.Lag += lag
	}
}

const (
	// agesAtATime is how many partitions are read at a time to learn a lag in seconds.
	agesAtATime = 16
	// ageFetchesMax bounds how far the first record may lie behind batches that hold none.
	ageFetchesMax = 64
)

// measure fills in lag in seconds.
func (l *logs) measure(ctx context.Context, cl *kgo.Client, views []describedGroupView, now time.Time) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, agesAtATime)
	for i := range views {
		for j := range views[i].Partitions {
			p := &views[i].Partitions[j]
			switch {
			case p.Lag == nil:
			case *p.Lag == 0:
				p.LagSeconds = new(float64)
			default:
				slots <- struct{}{}
				wg.Go(func() {
					defer func() { <-slots }()
					if at, ok := l.timeOf(ctx, cl, p); ok {
						age := max(now.Sub(at), 0).Seconds()
						p.LagSeconds = &age
					}
				})
			}
		}
	}
	wg.Wait()
	for i := range views {
		v := &views[i]
		for j := range v.Partitions {
			if s := v.Partitions[j].LagSeconds; s != nil && (v.LagSeconds == nil || *s > *v.LagSeconds) {
				v.LagSeconds = s
			}
		}
	}
}

// timeOf returns the timestamp of the first record that was not committed.
func (l *logs) timeOf(ctx context.Context, cl *kgo.Client, p *groupPartitionView) (at time.Time, ok bool) {
	d := l.details[p.Topic]
	known, ok := d.Partitions[p.Partition]
	if !ok || known.Leader < 0 {
		return at, false
	}
	offset := *p.Committed
	if p.LogStart != nil {
		offset = max(offset, *p.LogStart)
	}
	for range ageFetchesMax {
		if offset >= *p.LogEnd {
			return at, false
		}
		req := kmsg.NewPtrFetchRequest()
		req.MaxBytes, req.SessionEpoch = 1, -1 // a batch comes whole however little is asked for
		topic := kmsg.NewFetchRequestTopic()
		topic.Topic, topic.TopicID = d.Topic, d.ID
		wanted := kmsg.NewFetchRequestTopicPartition()
		wanted.Partition, wanted.FetchOffset, wanted.PartitionMaxBytes = p.Partition, offset, 1
		topic.Partitions = append(topic.Partitions, wanted)
		req.Topics = append(req.Topics, topic)
		resp, err := req.RequestWith(ctx, cl.Broker(int(known.Leader)))
		if err != nil || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
			return at, false
		}
		fetched, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: offset, Topic: d.Topic, Partition: p.Partition},
			&resp.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
		if fetched.Err != nil {
			return at, false
		}
		if len(fetched.Records) > 0 {
			return fetched.Records[0].Timestamp, true
		}
		if next <= offset {
			return at, false
		}
		offset = next
	}
	return at, false
}

func (a *admin) printDescribedGroups(views []describedGroupView) error {
	if a.output == "json" {
		return writeJSON(a.env.Stdout, views)
	}
	w := tabwriter.NewWriter(a.env.Stdout, 0, 0, 2, ' ', 0)
	for i := range views {
		v := &views[i]
		if i > 0 {
			_, _ = fmt.Fprintln(w)
		}
		_, _ = fmt.Fprintf(w, "group %s, state %s, type %s, protocol %s, coordinator %d, %d members, lag %s records, %s\n",
			v.Name, v.State, v.Type, dash(v.Protocol), v.Coordinator, len(v.Members), offsetText(v.Lag), secondsText(v.LagSeconds))
		if len(v.Members) > 0 {
			_, _ = fmt.Fprintln(w, "MEMBER\tINSTANCE\tCLIENT\tHOST\tEPOCH\tASSIGNED")
			for _, m := range v.Members {
				instance, epoch := "-", "-"
				if m.InstanceID != nil {
					instance = *m.InstanceID
				}
				if m.Epoch != nil {
					epoch = strconv.Itoa(int(*m.Epoch))
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.ID, instance, dash(m.ClientID), dash(m.Host), epoch, assignedText(m.Assigned))
			}
			_ = w.Flush() // the next table has columns of its own
		}
		if len(v.Partitions) > 0 {
			_, _ = fmt.Fprintln(w, "TOPIC\tPARTITION\tCOMMITTED\tLOG START\tLOG END\tLAG\tSECONDS\tMEMBER")
			for _, p := range v.Partitions {
				_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Topic, p.Partition, offsetText(p.Committed), offsetText(p.LogStart),
					offsetText(p.LogEnd), offsetText(p.Lag), numberText(p.LagSeconds), dash(p.Member))
			}
			_ = w.Flush()
		}
	}
	return w.Flush()
}

func (a *admin) printLags(views []lagView, partitions bool) error {
	if a.output == "json" {
		return writeJSON(a.env.Stdout, views)
	}
	w := tabwriter.NewWriter(a.env.Stdout, 0, 0, 2, ' ', 0)
	if partitions {
		_, _ = fmt.Fprintln(w, "GROUP\tTOPIC\tPARTITION\tCOMMITTED\tLOG END\tLAG\tSECONDS")
	} else {
		_, _ = fmt.Fprintln(w, "GROUP\tSTATE\tMEMBERS\tPARTITIONS\tLAG\tSECONDS")
	}
	for i := range views {
		v := &views[i]
		if !partitions {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", v.Group, v.State, v.Members, len(v.Partitions), offsetText(v.Lag), numberText(v.LagSeconds))
			continue
		}
		for _, p := range v.Partitions {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", v.Group, p.Topic, p.Partition, offsetText(p.Committed), offsetText(p.LogEnd),
				offsetText(p.Lag), numberText(p.LagSeconds))
		}
	}
	return w.Flush()
}

func numberText(n *float64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatFloat(*n, 'f', 1, 64)
}

func secondsText(n *float64) string {
	if n == nil {
		return "- seconds"
	}
	return numberText(n) + " seconds"
}

// assignedText writes an assignment as orders:0-3,5 clicks:1.
func assignedText(list []assignedView) string {
	var b strings.Builder
	for _, t := range list {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(t.Topic)
		for i := 0; i < len(t.Partitions); {
			last := i
			for last+1 < len(t.Partitions) && t.Partitions[last+1] == t.Partitions[last]+1 {
				last++
			}
			if i == 0 {
				b.WriteByte(':')
			} else {
				b.WriteByte(',')
			}
			b.WriteString(strconv.Itoa(int(t.Partitions[i])))
			if last > i {
				b.WriteString("-" + strconv.Itoa(int(t.Partitions[last])))
			}
			i = last + 1
		}
	}
	return dash(b.String())
}
