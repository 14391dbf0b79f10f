package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/firnlog/firn/cmd/firn/client"
)

// topicPartitions is a topic given as topic or topic:0,2.
type topicPartitions struct {
	topic      string
	partitions []int // none: all
}

// parseTopicPartitions reads what --topic was given. A topic may come more than once; its partitions add up. Errors wrap
// client.ErrUsage.
func parseTopicPartitions(list []string) ([]topicPartitions, error) {
	var parsed []topicPartitions
	for _, s := range list {
		topic, numbers, some := strings.Cut(s, ":")
		if topic == "" {
			return nil, fmt.Errorf("%w: --topic: %q names no topic", client.ErrUsage, s)
		}
		tp := topicPartitions{topic: topic}
		for number := range strings.SplitSeq(numbers, ",") {
			if !some {
				break
			}
			n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 32)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("%w: --topic: %q in %q is not a partition, use for example %s:0,2", client.ErrUsage, number, s, topic)
			}
			if !slices.Contains(tp.partitions, int(n)) {
				tp.partitions = append(tp.partitions, int(n))
			}
		}
		i := slices.IndexFunc(parsed, func(have topicPartitions) bool { return have.topic == topic })
		switch {
		case i < 0:
			parsed = append(parsed, tp)
		case !some || len(parsed[i].partitions) == 0:
			parsed[i].partitions = nil
		default:
			for _, p := range tp.partitions {
				if !slices.Contains(parsed[i].partitions, p) {
					parsed[i].partitions = append(parsed[i].partitions, p)
				}
			}
		}
	}
	return parsed, nil
}

func topicNames(list []topicPartitions) []string {
	names := make([]string, 0, len(list))
	for _, tp := range list {
		names = append(names, tp.topic)
	}
	slices.Sort(names)
	return names
}

// findPartitions looks up topics and the partitions that are wanted of each, sorted. Errors name what is not there.
func findPartitions(ctx context.Context, adm *kadm.Client, step string, list []topicPartitions) (map[string][]int32, error) {
	details, err := adm.ListTopics(ctx, topicNames(list)...)
	if err != nil {
		return nil, fmt.Errorf("%s topic %s: %w", step, strings.Join(topicNames(list), ", "), err)
	}
	found := map[string][]int32{}
	var errs []error
	for _, tp := range list {
		d := details[tp.topic]
		if d.Err != nil {
			errs = append(errs, client.TopicError(step, tp.topic, d.Err, ""))
			continue
		}
		if len(tp.partitions) == 0 {
			found[tp.topic] = d.Partitions.Numbers()
		}
		for _, p := range tp.partitions {
			if _, ok := d.Partitions[int32(p)]; !ok {
				errs = append(errs, fmt.Errorf("--topic: topic %q has no partition %d, it has %d partitions: %w", tp.topic, p, len(d.Partitions), client.ErrNotFound))
				continue
			}
			found[tp.topic] = append(found[tp.topic], int32(p))
		}
		slices.Sort(found[tp.topic])
	}
	return found, errors.Join(errs...)
}
