package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

const (
	// groupCommitInterval is how often what was printed is committed.
	groupCommitInterval = 5 * time.Second
	// groupLeaveTimeout bounds the last commit and leaving the group.
	groupLeaveTimeout = 5 * time.Second
)

// reset is where a group starts to read a partition of which it has committed nothing.
func (p position) reset() kgo.Offset {
	switch p.kind {
	case "start":
		return kgo.NewOffset().AtStart()
	case "back":
		return kgo.NewOffset().AtEnd().Relative(-p.offset)
	case "time":
		return kgo.NewOffset().AfterMilli(p.time.UnixMilli())
	case "offset":
		return kgo.NewOffset().At(p.offset)
	}
	return kgo.NewOffset().AtEnd()
}

// runGroup prints records as a member of a group. A record is committed after it was written to standard output, so that
// whoever reads there misses none: it may see some again.
func (c *consumeCommand) runGroup(ctx context.Context, topics []string) (err error) {
	if c.group == "" {
		return fmt.Errorf("%w: --group: the name is empty", client.ErrUsage)
	}
	p, err := c.parse(topics, time.Now())
	if err != nil {
		return err
	}
	show, err := c.printer()
	if err != nil {
		return err
	}
	isolation := kgo.ReadUncommitted()
	if c.isolation == "committed" {
		isolation = kgo.ReadCommitted()
	}
	cl, err := c.remote.connect(ctx,
		kgo.KeepRetryableFetchErrors(),
		kgo.ConsumerGroup(c.group),
		kgo.ConsumeTopics(topics...),
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.FetchMinBytes(1),
		kgo.FetchIsolationLevel(isolation),
		kgo.ConsumeResetOffset(p.from.reset()),
		kgo.BlockRebalanceOnPoll(), // what was printed is marked before its partition can go to another member
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(groupCommitInterval),
		kgo.OnPartitionsRevoked(func(ctx context.Context, cl *kgo.Client, _ map[string][]int32) {
			_ = cl.CommitMarkedOffsets(ctx) // as at the end; who gets the partition prints the rest again
		}),
	)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.leave(cl)) }()
	if _, err := findTopics(ctx, kadm.NewClient(cl), "consume", topics, nil); err != nil {
		return err
	}
	out := bufio.NewWriter(c.env.Stdout)
	vain := inVain{w: c.env.Stderr}
	for printed := 0; ; {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			if c.count > 0 {
				return fmt.Errorf("stopped after %d records: %w", printed, ctx.Err())
			}
			return nil
		}
		for _, e := range fetches.Errors() {
			if vain.read(e) {
				continue
			}
			return fmt.Errorf("read topic %q partition %d in group %q: %w", e.Topic, e.Partition, c.group, e.Err)
		}
		var marks []*kgo.Record
		for iter := fetches.RecordIter(); !iter.Done() && (c.count == 0 || printed < c.count); printed++ {
			r := iter.Next()
			if err := show(out, r); err != nil {
				return err
			}
			marks = append(marks, r)
		}
		if err := out.Flush(); err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
		cl.MarkCommitRecords(marks...)
		cl.AllowRebalance()
		if c.count > 0 && printed >= c.count {
			return nil
		}
	}
}

// leave commits what was printed, leaves the group and closes the client.
func (c *consumeCommand) leave(cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), groupLeaveTimeout)
	defer cancel()
	cl.AllowRebalance()
	err := cl.CommitMarkedOffsets(ctx)
	if err != nil {
		err = groupError("commit what was printed to", c.group, err)
	}
	if leaveErr := cl.LeaveGroupContext(ctx); leaveErr != nil && err == nil {
		err = groupError("leave", c.group, leaveErr)
	}
	cl.CloseAllowingRebalance()
	return err
}
