package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/firnlog/firn/cmd/firn/client"
)

// positionHelp documents what parsePosition takes.
const positionHelp = `A POSITION is
  start, end             the log start offset; the end as it is when the command starts
  42                     an offset
  -10                    as many records before the end
  2024-03-01T12:00:00Z   a time in RFC 3339: the first record that is not older, or the end
  @1709294400000         the same, in milliseconds since 1970
  -1h, -30m, -7d         the same, as long ago`

// position is a parsed POSITION.
type position struct {
	kind   string // "start", "end", "offset", "back" or "time"
	offset int64  // of offset; of back, how many records before the end
	time   time.Time
}

// parsePosition reads the POSITION that a flag was given, as of now. Errors wrap client.ErrUsage.
func parsePosition(flag, s string, now time.Time) (position, error) {
	if s == "start" || s == "end" {
		return position{kind: s}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && !strings.HasPrefix(s, "+") {
		if n < 0 {
			return position{kind: "back", offset: -n}, nil
		}
		if !strings.HasPrefix(s, "-") {
			return position{kind: "offset", offset: n}, nil
		}
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return position{kind: "time", time: at}, nil
	}
	if ms, ok := strings.CutPrefix(s, "@"); ok {
		if n, err := strconv.ParseInt(ms, 10, 64); err == nil && n >= 0 {
			return position{kind: "time", time: time.UnixMilli(n)}, nil
		}
	}
	if ago, ok := strings.CutPrefix(s, "-"); ok {
		if d, err := parseDays(ago); err == nil && d > 0 {
			return position{kind: "time", time: now.Add(-d)}, nil
		}
	}
	return position{}, fmt.Errorf("%w: --%s: %q is not a position: use start, end, an offset, -10 for the last ten, a time such as 2024-03-01T12:00:00Z or @1709294400000, or a time ago such as -1h", client.ErrUsage, flag, s)
}

// parseDays reads a duration, in days too.
func parseDays(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// in finds the offset of a position in a partition that holds offsets start up to, not including, end. atTime is the
// first offset that is not older than the position's time, or -1 where there is none.
func (p position) in(start, end, atTime int64) (int64, error) {
	switch p.kind {
	case "start":
		return start, nil
	case "end":
		return end, nil
	case "back":
		return max(start, end-p.offset), nil
	case "time":
		if atTime < 0 {
			return end, nil
		}
		return min(max(start, atTime), end), nil
	}
	if p.offset < start || p.offset > end {
		return 0, fmt.Errorf("it holds offsets %d up to, not including, %d: %d lies outside", start, end, p.offset)
	}
	return p.offset, nil
}

// bounds are the offsets of some topics as of one moment, with what times come to in them.
type bounds struct {
	adm    *kadm.Client
	topics []string
	starts kadm.ListedOffsets
	ends   kadm.ListedOffsets
	times  map[int64]kadm.ListedOffsets // by milliseconds since 1970
}

// listBounds looks up where topics start and end. With committed, they end at the last stable offset.
func listBounds(ctx context.Context, adm *kadm.Client, committed bool, topics ...string) (*bounds, error) {
	b := &bounds{adm: adm, topics: topics, times: map[int64]kadm.ListedOffsets{}}
	var err error
	b.starts, err = adm.ListStartOffsets(ctx, topics...)
	if err = errors.Join(err, b.starts.Error()); err != nil {
		return nil, fmt.Errorf("list the start of topic %s: %w", strings.Join(topics, ", "), err)
	}
	list := adm.ListEndOffsets
	if committed {
		list = adm.ListCommittedOffsets
	}
	b.ends, err = list(ctx, topics...)
	if err = errors.Join(err, b.ends.Error()); err != nil {
		return nil, fmt.Errorf("list the end of topic %s: %w", strings.Join(topics, ", "), err)
	}
	return b, nil
}

// find returns the offset of a position in a partition.
func (b *bounds) find(ctx context.Context, p position, topic string, partition int32) (int64, error) {
	start, _ := b.starts.Lookup(topic, partition)
	end, _ := b.ends.Lookup(topic, partition)
	atTime := int64(-1)
	if p.kind == "time" {
		ms := p.time.UnixMilli()
		listed, ok := b.times[ms]
		if !ok {
			var err error
			listed, err = b.adm.ListOffsetsAfterMilli(ctx, ms, b.topics...)
			if err = errors.Join(err, listed.Error()); err != nil {
				return 0, fmt.Errorf("list the offsets of topic %s at %s: %w", strings.Join(b.topics, ", "), p.time.UTC().Format(time.RFC3339), err)
			}
			b.times[ms] = listed
		}
		if o, ok := listed.Lookup(topic, partition); ok {
			atTime = o.Offset
		}
	}
	offset, err := p.in(start.Offset, end.Offset, atTime)
	if err != nil {
		return 0, fmt.Errorf("topic %q partition %d: %w", topic, partition, err)
	}
	return offset, nil
}

// findTopics looks up topics and, of each, the wanted partitions: those that are given, or all. Errors name what is not
// there.
func findTopics(ctx context.Context, adm *kadm.Client, step string, topics []string, partitions []int) (map[string][]int32, error) {
	details, err := adm.ListTopics(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("%s topic %s: %w", step, strings.Join(topics, ", "), err)
	}
	found := map[string][]int32{}
	var errs []error
	for _, topic := range topics {
		if err := details[topic].Err; err != nil {
			errs = append(errs, client.TopicError(step, topic, err, ""))
			continue
		}
		existing := details[topic].Partitions
		if len(partitions) == 0 {
			found[topic] = existing.Numbers()
		}
		for _, p := range partitions {
			if _, ok := existing[int32(p)]; !ok || int(int32(p)) != p {
				errs = append(errs, fmt.Errorf("--partition: topic %q has no partition %d, it has %d partitions: %w", topic, p, len(existing), client.ErrNotFound))
				continue
			}
			found[topic] = append(found[topic], int32(p))
		}
	}
	return found, errors.Join(errs...)
}
