package kafka

import (
	"errors"
	"math"

	"github.com/firnlog/firn/objstore/batch"
)

// bounced remembers, for one connection, the idempotent batches that were turned away before they were staged, with an answer
// that makes the client send them again. Those behind them, sent before the client knew, must not get in first: the state
// machine takes any first sequence of a producer that it does not know, and would then refuse the earlier one for good.
type bounced map[bouncedKey]int32

type bouncedKey struct {
	topic     string
	partition int32
	producer  int64
	epoch     int16
}

// bouncedMax bounds what a connection makes us remember.
const bouncedMax = 4096

var errBounced = errors.New("too many producers were turned away on one connection")

// note remembers that a batch was turned away. An error means that the connection must end instead.
func (b *bounced) note(topic string, partition int32, records []byte) error {
	h, err := batch.ParseHeader(records)
	if err != nil || !h.Idempotent() {
		return nil //nolint:nilerr // what is not a batch is refused for good when it comes again
	}
	key := bouncedKey{topic, partition, h.ProducerID, h.ProducerEpoch}
	if first, ok := (*b)[key]; ok && !isBehind(h.BaseSequence, first) {
		(*b)[key] = h.BaseSequence
		return nil
	} else if ok {
		return nil
	}
	if len(*b) == bouncedMax {
		return errBounced
	}
	if *b == nil {
		*b = make(bounced)
	}
	(*b)[key] = h.BaseSequence
	return nil
}

// holds reports whether a batch has to be turned away too, and forgets the one it waits for once that has come again.
func (b bounced) holds(topic string, partition int32, h batch.Header) bool {
	if len(b) == 0 || !h.Idempotent() {
		return false
	}
	key := bouncedKey{topic, partition, h.ProducerID, h.ProducerEpoch}
	first, ok := b[key]
	if !ok {
		return false
	}
	if h.BaseSequence == first {
		delete(b, key)
		return false
	}
	return isBehind(h.BaseSequence, first)
}

// isBehind reports whether sequence a comes after b, on the circle of 2^31 sequences.
func isBehind(a, b int32) bool { return a != b && (a-b)&math.MaxInt32 < 1<<30 }
