package agent

import (
	"cmp"

	"github.com/firnlog/firn/agent/kafka"
)

// memoryDefault is where budgets are sized for if nothing is said: a small container.
const memoryDefault = 512 << 20

// usualRequest is the size of produce requests that any agent takes.
const usualRequest = 16 << 20

// shares are the budgets as parts of the memory limit. They add up to a little over three quarters of it. The rest is for segments that
// are being built, connections, the replica of the metadata, and what the collector has not collected yet.
type shares struct {
	stage, cache, serve                                              int64
	requests, strangers, answers, queued, work, decompress, sessions int
	// request is the largest produce request: no budget, but what may be there at once. Where it is more than one address gets of requests
	// (9 64ths), it is charged as that, and comes alone.
	request int
}

func (c *Config) shares() shares {
	m := cmp.Or(c.MemoryLimit, memoryDefault)
	request := min(max(m/5, usualRequest), kafka.KafkaRequestBytesMax)
	if c.InFlightBytes > 0 { // one that is larger than twice what all may have is refused, see kafka.Config
		request = min(request, max(2*int64(c.InFlightBytes), usualRequest))
	}
	return shares{
		serve: m / 64, stage: m / 8, cache: m / 4, // staged batches lie in the requests that brought them: the eighth is part of their quarter
		requests: int(m/4 - m/16), strangers: int(m / 16), answers: int(m / 8), queued: int(m / 32), work: int(m / 16), decompress: int(m / 16), sessions: int(m / 32),
		request: int(request),
	}
}
