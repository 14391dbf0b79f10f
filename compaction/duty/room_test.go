package duty_test

import (
	"errors"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/duty"
)

// TestRoom has a duty work on as much as it may of 1 000 bytes, every minute, on a disk for 300 that becomes large later.
func TestRoom(t *testing.T) {
	r := duty.Room{Least: time.Minute, Most: time.Hour}
	now := time.Unix(0, 0)
	disk, began, over, refused := int64(300), 0, 0, 0
	step := func() {
		bound, ended := r.Look(now)
		if ended {
			over++
		}
		for work := min(bound, 1000); ; work /= 2 {
			if work <= disk {
				if r.Held(work, now) {
					over++
				}
				break
			}
			refused++
			if r.Full(work, now) {
				began++
			}
		}
		now = now.Add(time.Minute)
	}
	if bound, _ := r.Look(now); bound != math.MaxInt64 {
		t.Errorf("a bound of %d before anything was refused", bound)
	}
	step()
	if bound, _ := r.Look(now.Add(-time.Second)); refused != 2 || bound != 250 {
		t.Errorf("refused %d times, then a bound of %d", refused, bound)
	}
	for range 24 * 60 {
		step()
	}
	if began != 1 || over != 0 {
		t.Errorf("told %d times that it began, %d that it is over", began, over)
	}
	if refused > 40 {
		t.Errorf("refused %d times in a day", refused)
	}
	disk = 1 << 20
	for range 2 * 60 {
		step()
	}
	if bound, _ := r.Look(now); over != 1 || bound != math.MaxInt64 {
		t.Errorf("a bound of %d; told %d times that it is over", bound, over)
	}
	disk = 300
	step()
	if began != 2 {
		t.Errorf("told %d times that it began", began)
	}
}

// TestRoomComesBackWithoutWork: a bound below which there is nothing to do is not for ever.
func TestRoomComesBackWithoutWork(t *testing.T) {
	r := duty.Room{Least: time.Minute, Most: time.Hour}
	now := time.Unix(0, 0)
	for work := int64(1 << 20); work > 0; work /= 2 {
		r.Full(work, now)
	}
	if bound, _ := r.Look(now); bound != 1 {
		t.Errorf("a bound of %d when a byte was refused", bound)
	}
	for range 30 {
		now = now.Add(time.Minute)
		r.Look(now)
	}
	if bound, _ := r.Look(now); bound != math.MaxInt64 {
		t.Errorf("%d", bound)
	}
}

// TestRoomLearnsFromWorkThatCannotBeSmaller: a disk that was full for hours leaves next to nothing of the bound, and the first object that
// has room says how much of it was the disk's fault.
func TestRoomLearnsFromWorkThatCannotBeSmaller(t *testing.T) {
	r := duty.Room{Least: time.Minute, Most: time.Hour}
	now := time.Unix(0, 0)
	for range 300 {
		r.Look(now)
		r.Full(8<<20, now)
		now = now.Add(time.Minute)
	}
	if r.Held(8<<20, now) || r.Bound() != 4<<20 {
		t.Errorf("a bound of %d when 8 MiB had room", r.Bound())
	}
	if r.Held(5<<20, now) || r.Bound() != 4<<20 {
		t.Errorf("a bound of %d, and more is tried before its time", r.Bound())
	}
}

// TestAFullDiskIsFullScratchSpace: work is made smaller then, as where the bound is reached.
func TestAFullDiskIsFullScratchSpace(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		err := duty.ScratchError("/data/scratch", &os.PathError{Op: "write", Path: "/data/scratch/x", Err: cause})
		if !errors.Is(err, duty.ErrScratchFull) || !errors.Is(err, cause) || !strings.Contains(err.Error(), "/data/scratch") {
			t.Errorf("%v", err)
		}
	}
	if err := duty.ScratchError("/data/scratch", syscall.EIO); errors.Is(err, duty.ErrScratchFull) || !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
}
