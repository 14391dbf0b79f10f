package group

import (
	"context"
	"time"

	"github.com/firnlog/firn/agent/group/classic"
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/agent/group/step"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// Commit is a commit of offsets, found well-formed: topics exist, numbers are within the bounds of package entry.
type Commit struct {
	Group string
	// Member and Instance say who commits; both empty: nobody, or an administrator.
	Member, Instance string
	// Generation is the member's generation, or its epoch; below 0: nobody's.
	Generation int32
	// Version of the API: what a member speaks decides which groups it can be in.
	Version int16
	Offsets []entry.GroupOffset
}

// commitBytesMax is how much of a commit goes into one op. Each op is whole in itself: what is committed of a partition does not
// depend on what is committed of another.
const commitBytesMax = 256 << 10

// deletedPerOp is how many offsets one op deletes at most.
const deletedPerOp = 4096

// offsetBytes is what an offset takes in an entry at most, its metadata apart.
const offsetBytes = 48

// CommitOffsets commits, if the group's machine and then the state say that this member may, and returns when it is applied here,
// with a code for each offset; or a code for all of them. NotAvailable leaves the outcome open.
func (c *Coordinator) CommitOffsets(ctx context.Context, req *Commit) ([]Code, Code) {
	outcomes := make([]Code, 0, len(req.Offsets))
	for rest := req.Offsets; len(rest) > 0; {
		n, size := 0, 0
		for ; n < len(rest); n++ {
			if size += offsetBytes + len(rest[n].Metadata); n > 0 && size > commitBytesMax {
				break
			}
		}
		part, code := c.commitPart(ctx, req, rest[:n])
		if code != step.None {
			return nil, code
		}
		outcomes, rest = append(outcomes, part...), rest[n:]
	}
	return outcomes, step.None
}

// commitPart commits so many offsets as fit an op.
func (c *Coordinator) commitPart(ctx context.Context, req *Commit, offsets []entry.GroupOffset) ([]Code, Code) {
	outcomes := make([]Code, len(offsets))
	taken := offsets // what the machine lets through, and where it stands in the request
	var places []int
	res, code, err := c.Propose(ctx, req.Group, func(g *Group, now time.Time) (OpMaker, Code) {
		generation, judge, code := g.checkCommit(req, now)
		if code != step.None {
			return nil, code
		}
		if judge != nil {
			taken = nil
			for i := range offsets {
				if outcomes[i] = judge(offsets[i].Topic, int32(offsets[i].Partition)); outcomes[i] == step.None {
					taken, places = append(taken, offsets[i]), append(places, i)
				}
			}
		}
		return func(slot uint32, epoch uint64) entry.Op {
			return &entry.CommitOffsets{Slot: slot, Epoch: epoch, Group: req.Group, Generation: generation, Offsets: taken}
		}, step.None
	})
	switch {
	case err != nil:
		return nil, step.NotAvailable
	case code != step.None:
		return nil, code
	case res.Code != state.OK:
		return nil, c.refused(req.Group, res.Code)
	}
	for i, code := range res.Offsets {
		at := i
		if places != nil {
			at = places[i]
		}
		outcomes[at] = offsetCode(code)
	}
	return outcomes, step.None
}

// checkCommit asks the group's machine whether a commit is its own. With None, generation is the one to name in the op, and judge,
// where there is one, says it of each partition.
func (g *Group) checkCommit(req *Commit, now time.Time) (generation int32, judge func(entry.UUID, int32) Code, code Code) {
	switch m := g.machine.(type) {
	case *classic.Group:
		if code := m.CheckCommit(req.Member, req.Instance, req.Generation, now); code != step.None {
			return 0, nil, code
		}
		return max(req.Generation, -1), nil, step.None
	case *consumer.Group:
		code, judge := m.CheckCommit(req.Member, req.Generation, req.Version)
		if code != step.None {
			return 0, nil, code
		}
		if m.Members() == 0 {
			return -1, nil, step.None
		}
		return m.Generation(), judge, step.None
	}
	switch {
	case req.Generation < 0:
		return -1, nil, step.None
	case g.exists():
		return 0, nil, step.UnknownMemberID
	}
	return 0, nil, step.GroupIDNotFound
}

// exists says whether the state has the group.
func (g *Group) exists() (ok bool) {
	g.c.meta.View(func(st *state.State) { ok = st.Group(g.id) != nil })
	return ok
}

// refused is the code for what the state machine refused as a whole. The machine had let it through: between the two lies
// what other agents did, or what nobody expects.
func (c *Coordinator) refused(group string, code state.Code) Code {
	switch code {
	case state.StaleCoordinator:
		return step.NotCoordinator
	case state.StaleGeneration:
		return step.IllegalGeneration
	case state.GroupNotEmpty:
		return step.UnknownMemberID
	case state.UnknownGroup:
		return step.GroupIDNotFound
	case state.LimitExceeded:
		return step.InvalidCommitOffsetSize
	case state.FeatureLevelNotReached:
		return step.NotAvailable
	}
	c.cfg.Logger.Error("offsets of a consumer group were refused", "group", group, "code", code)
	return step.UnknownServerError
}

// offsetCode is the code for what became of one offset.
func offsetCode(code state.Code) Code {
	switch code {
	case state.OK:
		return step.None
	case state.UnknownTopic, state.UnknownPartition:
		return step.UnknownTopicOrPartition
	case state.LimitExceeded:
		return step.InvalidCommitOffsetSize
	}
	return step.UnknownServerError
}

// CheckFetch says whether whoever says that it is this member, at this epoch, may read what the group has committed; empty and
// below 0 is anybody. What is in the state here is then no older than any commit that was acknowledged before the caller's last
// read barrier.
func (c *Coordinator) CheckFetch(id, member string, epoch int32) Code {
	if !validID(id) {
		return step.InvalidGroupID
	}
	if _, code := c.own(state.SlotOf(id)); code != step.None || member == "" && epoch < 0 {
		return code
	}
	g, code := c.acquire(id)
	if code != step.None {
		return code
	}
	defer g.release()
	if m, ok := g.machine.(*consumer.Group); ok {
		return m.CheckFetch(member, epoch)
	}
	return step.None
}

// DeleteOffsets deletes what a group has committed for partitions, with a code for each, or one for all. Topics that members read
// are left alone: GroupSubscribedToTopic.
func (c *Coordinator) DeleteOffsets(ctx context.Context, id string, partitions []entry.GroupPartition) ([]Code, Code) {
	outcomes := make([]Code, 0, len(partitions))
	for first := true; first || len(partitions) > 0; first = false { // of none, too: whether there is the group
		n := min(len(partitions), deletedPerOp)
		part, code := c.deletePart(ctx, id, partitions[:n])
		if code != step.None {
			return nil, code
		}
		outcomes, partitions = append(outcomes, part...), partitions[n:]
	}
	return outcomes, step.None
}

// deletePart deletes so many offsets as fit an op.
func (c *Coordinator) deletePart(ctx context.Context, id string, partitions []entry.GroupPartition) ([]Code, Code) {
	outcomes := make([]Code, len(partitions))
	var taken []entry.GroupPartition
	var places []int
	res, code, err := c.Propose(ctx, id, func(g *Group, _ time.Time) (OpMaker, Code) {
		reads, code := g.reading()
		if code != step.None {
			return nil, code
		}
		for i, p := range partitions {
			if reads(p.Topic) {
				outcomes[i] = step.GroupSubscribedToTopic
				continue
			}
			taken, places = append(taken, p), append(places, i)
		}
		return func(slot uint32, epoch uint64) entry.Op {
			return &entry.DeleteOffsets{Slot: slot, Epoch: epoch, Group: id, Offsets: taken}
		}, step.None
	})
	switch {
	case err != nil:
		return nil, step.NotAvailable
	case code != step.None:
		return nil, code
	case res.Code == state.UnknownGroup && len(taken) < len(partitions): // members, and not an offset
		return outcomes, step.None
	case res.Code != state.OK:
		return nil, c.refused(id, res.Code)
	}
	for i, code := range res.Offsets {
		outcomes[places[i]] = offsetCode(code)
	}
	return outcomes, step.None
}

// DeleteGroup deletes a group without members, and all that it has committed.
func (c *Coordinator) DeleteGroup(ctx context.Context, id string) Code {
	res, code, err := c.Propose(ctx, id, func(g *Group, _ time.Time) (OpMaker, Code) {
		if code := g.deletable(); code != step.None {
			return nil, code
		}
		return func(slot uint32, epoch uint64) entry.Op {
			return &entry.DeleteGroup{Slot: slot, Epoch: epoch, Group: id}
		}, step.None
	})
	switch {
	case err != nil:
		return step.NotAvailable
	case code != step.None:
		return code
	case res.Code == state.GroupNotEmpty: // somebody joined at the same time
		return step.NonEmptyGroup
	case res.Code != state.OK:
		return c.refused(id, res.Code)
	}
	return step.None
}

// deletable says whether the group is there and empty.
func (g *Group) deletable() Code {
	switch m := g.machine.(type) {
	case *classic.Group:
		if m.State() != classic.Empty {
			return step.NonEmptyGroup
		}
	case *consumer.Group:
		if m.Members() > 0 {
			return step.NonEmptyGroup
		}
	}
	if !g.exists() {
		return step.GroupIDNotFound
	}
	return step.None
}

// reading says which topics the members read. Members who do not say read any: NonEmptyGroup.
func (g *Group) reading() (reads func(entry.UUID) bool, code Code) {
	var names map[string]bool
	switch m := g.machine.(type) {
	case *classic.Group:
		if m.State() != classic.Empty {
			var ok bool
			if names, ok = subscriptions(m); !ok {
				return nil, step.NonEmptyGroup
			}
		}
	case *consumer.Group:
		if m.Members() > 0 {
			names = m.Subscriptions(topicsOf{g.c})
		}
	}
	if names == nil && !g.exists() {
		return nil, step.GroupIDNotFound
	}
	ids := make(map[entry.UUID]bool, len(names))
	g.c.meta.View(func(st *state.State) {
		for name := range names {
			if t := st.TopicByName(name); t != nil {
				ids[t.ID] = true
			}
		}
	})
	return func(topic entry.UUID) bool { return ids[topic] }, step.None
}
