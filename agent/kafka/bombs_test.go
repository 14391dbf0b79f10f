package kafka_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/objstore/batch"
)

// A request of many batches that each decompress to megabytes is stopped by what all of them come to, and clients send those
// that were left out again: MESSAGE_TOO_LARGE splits a batch.
func TestWhatOneRequestDecompressesToIsBounded(t *testing.T) {
	a := newCluster(t).join("a")
	a.topic("t", 100)
	c := dial(t, server(t, a, func(c *kafka.Config) { c.DecompressBytes = 1 << 20 }))
	raw := records(t, batch.BuildOptions{Codec: batch.CodecZstd}, string(make([]byte, 8<<20)))
	req := produceRequest(9, "t", 0, raw)
	for p := int32(1); p < 100; p++ {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, kmsg.ProduceRequestTopicPartition{Partition: p, Records: raw})
	}
	taken, tooLarge := 0, 0
	for _, p := range ask[*kmsg.ProduceResponse](c, req).Topics[0].Partitions {
		switch p.ErrorCode {
		case 0:
			taken++
		case 10:
			tooLarge++
		}
	}
	if taken < 8 || taken > 20 || taken+tooLarge != 100 {
		t.Errorf("%d batches of 8 MiB were taken of a request of %d bytes, %d refused as too large", taken, 100*len(raw), tooLarge)
	}
	c.produce("t", 0, "x")
}
