package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// ListOffsets (2), versions 1 to 11. A barrier is taken first: what another agent acknowledged is counted.

// Timestamps with a meaning of their own, and the version each came with.
const (
	atLatest        = -1
	atEarliest      = -2
	atMaxTimestamp  = -3 // version 7
	atEarliestLocal = -4 // version 8; without tiered storage, the earliest
	atLatestTiered  = -5 // version 9; without tiered storage, none
	atPendingUpload = -6 // version 11; the same
)

func timestampKnown(ts int64, version int16) bool {
	switch ts {
	case atMaxTimestamp:
		return version >= 7
	case atEarliestLocal:
		return version >= 8
	case atLatestTiered:
		return version >= 9
	case atPendingUpload:
		return version >= 11
	}
	return ts >= atEarliest
}

// notAvailable is the code by which clients ask again. Before version 5 they do not know OFFSET_NOT_AVAILABLE.
func notAvailable(version int16) errorCode {
	if version < 5 {
		return codeLeaderNotAvailable
	}
	return codeOffsetNotAvailable
}

func (s *Server) listOffsets(ctx context.Context, req *kmsg.ListOffsetsRequest) *kmsg.ListOffsetsResponse {
	lagging := s.barrier(ctx)
	// Looking up a time reads from the bucket. All of a request's share one deadline, as a Fetch's reads do.
	ctx, cancel := context.WithTimeout(ctx, s.cfg.FetchReadTimeout)
	defer cancel()
	res := kmsg.NewPtrListOffsetsResponse()
	res.Version = req.Version
	type asked struct {
		topic     string
		partition int32
	}
	seen := make(map[asked]int)
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			seen[asked{req.Topics[i].Topic, req.Topics[i].Partitions[j].Partition}]++
		}
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for j := range t.Partitions {
			p := &t.Partitions[j]
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			rp.Partition = p.Partition
			var code errorCode
			switch {
			case seen[asked{t.Topic, p.Partition}] > 1:
				code = codeInvalidRequest
			case !timestampKnown(p.Timestamp, req.Version):
				code = codeUnsupportedVersion
			case lagging != nil:
				code = notAvailable(req.Version)
			default:
				code = s.listOffset(ctx, req.Version, t.Topic, p, &rp)
			}
			if rp.ErrorCode = int16(code); code != codeNone {
				rp.Offset, rp.Timestamp, rp.LeaderEpoch = -1, -1, -1
				s.cfg.Metrics.failed(keyListOffsets, code)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		res.Topics = append(res.Topics, rt)
	}
	return res
}

// listOffset fills in offset, timestamp and leader epoch.
func (s *Server) listOffset(
	ctx context.Context, version int16, name string, p *kmsg.ListOffsetsRequestTopicPartition, rp *kmsg.ListOffsetsResponseTopicPartition,
) errorCode {
	var id entry.UUID
	var earliest, latest int64
	var epochs []state.EpochStart
	var current int32
	found := false
	s.meta.View(func(st *state.State) {
		if t := st.TopicByName(name); t != nil {
			if part := t.Partition(int(p.Partition)); part != nil {
				id, earliest, latest, found = t.ID, part.LogStart(), part.LastStable(), true
				epochs, current = part.Epochs(nil), part.LeaderEpoch()
			}
		}
	})
	if !found {
		return codeUnknownTopicOrPartition
	}
	if code := judgeLeaderEpoch(p.CurrentLeaderEpoch, current); code != codeNone {
		return code
	}
	rp.Timestamp = -1
	var err error
	switch p.Timestamp {
	case atLatest:
		rp.Offset = latest
	case atEarliest, atEarliestLocal:
		rp.Offset = earliest
	case atLatestTiered, atPendingUpload:
		rp.Offset = -1
	case atMaxTimestamp:
		rp.Offset, rp.Timestamp, err = s.log.MaxTimestamp(ctx, id, p.Partition)
	default:
		rp.Offset, rp.Timestamp, err = s.log.OffsetForTimestamp(ctx, id, p.Partition, p.Timestamp)
	}
	if err != nil {
		return s.codeOf(err, notAvailable(version))
	}
	rp.LeaderEpoch = -1
	if rp.Offset >= 0 {
		rp.LeaderEpoch = state.EpochAt(epochs, rp.Offset)
	}
	return codeNone
}
