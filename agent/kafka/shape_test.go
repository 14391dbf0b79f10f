package kafka_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
)

// allocated is how many bytes fn allocates in all, collected or not.
func allocated(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// header is a request's, of whatever version.
func header(key, version int16) []byte {
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	b := []byte{byte(key >> 8), byte(key), byte(version >> 8), byte(version), 0, 0, 0, 1, 0xff, 0xff}
	if req.IsFlexible() {
		b = append(b, 0)
	}
	return b
}

// allocatedMax is what reading a request of so many bytes may allocate.
func allocatedMax(size int) int64 {
	if most := 4*int64(size) + 1<<20; !raced {
		return most
	} else {
		return 2 * most
	}
}

// Every array of every version of every request, filled with as many elements as the bytes hold.
func TestDecodingAllocatesInProportion(t *testing.T) {
	decode := kafka.Decoder()
	worst, refused := 0.0, 0
	for _, v := range kafka.Versions() {
		for version := v.Min; version <= v.Max; version++ {
			if raced && version != v.Max {
				continue
			}
			for _, tagged := range []bool{false, true} {
				for _, n := range []int{1, 2_500, 8_000, 60_000} {
					for i, body := range kafka.Bodies(v.Key, version, n, tagged) {
						frame := append(header(v.Key, version), body...)
						var err error
						got := allocated(func() { err = decode(frame) })
						if got > allocatedMax(len(frame)) {
							t.Errorf("%s version %d, array %d of %d elements (tags: %v): %d bytes allocated for %d (%v)",
								kmsg.NameForKey(v.Key), version, i, n, tagged, got, len(frame), err)
						}
						switch {
						case err == nil:
							worst = max(worst, float64(got)/float64(allocatedMax(len(frame))))
						case strings.Contains(err.Error(), "many times its size"), strings.Contains(err.Error(), "elements announced"):
							refused++
						default:
							t.Errorf("%s version %d, array %d of %d elements: %v", kmsg.NameForKey(v.Key), version, i, n, err)
						}
					}
				}
			}
		}
	}
	if refused == 0 || worst < 0.4 {
		t.Errorf("%d refused, the worst taken allocates %.2f of what it may: the bound was not reached", refused, worst)
	}
}

// What the walk refuses is what the decoder makes of it: without the walk, the same bytes take many times their size.
func TestTheDecoderAloneAllocatesOutOfProportion(t *testing.T) {
	for _, key := range []int16{19, 32, 44} {
		a, _ := kafka.Lookup(key)
		worst := 0.0
		for _, body := range kafka.Bodies(key, a, 60_000, false) {
			req := kmsg.RequestForKey(key)
			req.SetVersion(a)
			got := allocated(func() {
				if err := req.ReadFrom(body); err != nil {
					t.Error(err)
				}
			})
			worst = max(worst, float64(got)/float64(len(body)))
		}
		if worst < 5 {
			t.Errorf("%s: %.1f times", kmsg.NameForKey(key), worst)
		}
	}
}
