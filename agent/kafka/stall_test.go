package kafka_test

import (
	"testing"
	"time"

	"github.com/firnlog/firn/agent/kafka"
)

// A process that stood still refuses commits for a moment, whoever notices first: the ticker or a request.
func TestStallsAreNoticed(t *testing.T) {
	at := time.Now()
	run, lately := kafka.Stall(at)
	pass := func(d time.Duration, tick bool) {
		at = at.Add(d)
		if tick {
			run(at)
		}
	}
	expect := func(what string, want bool) {
		t.Helper()
		if got := lately(at); got != want {
			t.Errorf("%s: %v", what, got)
		}
	}
	for range 10 {
		pass(500*time.Millisecond, true)
		expect("running", false)
	}
	pass(1900*time.Millisecond, true)
	expect("a busy machine", false)
	pass(15*time.Second, false)
	expect("asleep, and a request is first to wake", true)
	pass(0, true)
	expect("asleep, and the ticker is first to wake", true)
	pass(500*time.Millisecond, true)
	expect("half a second later", true)
	pass(600*time.Millisecond, true)
	expect("awake", false)
}

// What lay in the buffers of a process that stood still may be of long ago: a commit in it must not take a group back.
func TestCommitsAfterAStallAreSentAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		id := a.topic("t", 1)
		s, _ := grouped(t, a)
		c := dial(t, s)
		const coordinatorNotAvailable = 15
		for version := int16(2); version <= 10; version++ {
			at := int64(version) * 10
			if code := c.commit(commitRequest(version, "t", id, 0, at)); code != 0 {
				t.Fatalf("version %d: code %d", version, code)
			}
			s.StoodStill()
			if code := c.commit(commitRequest(version, "t", id, 0, at-5)); code != coordinatorNotAvailable {
				t.Errorf("version %d: code %d", version, code)
			}
			s.Awake()
			if got, code := c.committed(9, "t", id, 0); code != 0 || got[0].offset != at {
				t.Errorf("version %d: committed %+v, code %d", version, got, code)
			}
		}
	})
}
