package kafka_test

import (
	"testing"

	"github.com/firnlog/firn/agent/kafka"
)

// A buffer has room for what was asked for and at most half as much again, and comes back for the same.
func TestBuffersFitWhatIsAskedFor(t *testing.T) {
	for size := 1; size <= 64<<20; size = size*9/8 + 1 {
		room := kafka.BufferFor(size)
		if room < size || room > max(1<<10, size+size/2+1) {
			t.Errorf("%d bytes of room for %d", room, size)
		}
	}
	for _, size := range []int{1 << 10, 1536, 1537, 2048, 64 << 10, 64<<10 + 64, 96 << 10, 16<<20 + 1, 64 << 20} {
		if room := kafka.BufferFor(size); room < size || room > max(1<<10, size+size/2+1) {
			t.Errorf("%d bytes of room for %d", room, size)
		}
	}
}
