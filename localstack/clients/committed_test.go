//go:build interop

package clients

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// committed tells which offsets of a commit were acknowledged.
func committed(topic string, say func(event)) func(*kgo.Client, *kmsg.OffsetCommitRequest, *kmsg.OffsetCommitResponse, error) {
	return func(_ *kgo.Client, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			say(event{Event: "note", Text: fmt.Sprintf("commit: %v", err)})
			return
		}
		asked := make(map[int32]int64)
		for _, t := range req.Topics {
			for _, p := range t.Partitions {
				asked[p.Partition] = p.Offset
			}
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					say(event{Event: "note", Text: fmt.Sprintf("commit of %d: %v", p.Partition, err)})
					continue
				}
				say(event{Event: "committed", Partition: int(p.Partition), Offset: asked[p.Partition]})
			}
		}
	}
}
