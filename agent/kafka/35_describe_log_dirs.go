package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// DescribeLogDirs (35), versions 1 to 4. Clients ask every broker and add up what they hear, but all data lies in one
// bucket: each partition is reported by one agent, the one that Metadata gives as its leader, so that a sum over agents
// counts it once. Sizes are the bytes of record batches that the index names, before compression by agents. The one
// directory is the bucket; how large it is and how much is left is not known and left out.

func (s *Server) describeLogDirs(ctx context.Context, who audience, req *kmsg.DescribeLogDirsRequest) *kmsg.DescribeLogDirsResponse {
	res := kmsg.NewPtrDescribeLogDirsResponse()
	res.Version = req.Version
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = s.cfg.LogDir
	if err := s.barrier(ctx); err != nil {
		s.cfg.Metrics.failed(keyDescribeLogDirs, codeRequestTimedOut)
		dir.ErrorCode, res.ErrorCode = int16(codeRequestTimedOut), int16(codeRequestTimedOut)
	} else {
		s.meta.View(func(st *state.State) { dir.Topics = s.partitionSizes(st, who, req.Topics) })
	}
	res.Dirs = append(res.Dirs, dir)
	return res
}

// everywhere is the zone of whoever adds up what all agents say: it may ask them from different places, and must be told of each
// partition once.
const everywhere = ""

// partitionSizes lists what this agent reports of the topics asked for; null asks for all, and what is not there is left
// out. A name that comes twice is answered once.
func (s *Server) partitionSizes(
	st *state.State, who audience, asked []kmsg.DescribeLogDirsRequestTopic,
) (list []kmsg.DescribeLogDirsResponseDirTopic) {
	nodes, self := who.nodes(st), who.self(s.meta.NodeID())
	add := func(t *state.Topic, wanted func(int32) bool) {
		view := viewTopic(st, t)
		rt := kmsg.NewDescribeLogDirsResponseDirTopic()
		rt.Topic = t.Name
		for i := range view.partitions {
			if !wanted(i) || view.leader(i, nodes, everywhere) != self {
				continue
			}
			rp := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
			rp.Partition, rp.Size = i, t.Partition(int(i)).Size()
			rt.Partitions = append(rt.Partitions, rp)
		}
		if len(rt.Partitions) > 0 {
			list = append(list, rt)
		}
	}
	if asked == nil {
		for t := range st.Topics() {
			add(t, func(int32) bool { return true })
		}
		return list
	}
	wanted := make(map[entry.UUID][]int32)
	var order []*state.Topic
	for i := range asked {
		t := st.TopicByName(asked[i].Topic)
		if t == nil {
			continue
		}
		if _, again := wanted[t.ID]; !again {
			order = append(order, t)
		}
		wanted[t.ID] = append(wanted[t.ID], asked[i].Partitions...)
	}
	for _, t := range order {
		ids := wanted[t.ID]
		slices.Sort(ids)
		add(t, func(i int32) bool { _, ok := slices.BinarySearch(ids, i); return ok })
	}
	return list
}
