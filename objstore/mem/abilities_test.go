package mem_test

import (
	"errors"
	"testing"
	"time"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
)

func TestLocksRunOutByTheClockOfTheBucket(t *testing.T) {
	b := mem.New()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	b.SetClock(func() time.Time { return now })
	hour := objstore.PutOptions{Lock: objstore.Lock{Mode: objstore.LockGovernance, Until: now.Add(time.Hour)}}
	if err := b.Put(t.Context(), "k", []byte("x"), hour); !errors.Is(err, objstore.ErrInvalid) {
		t.Errorf("a lock where locks are not enabled: %v", err)
	}
	if err := b.SetLockSettings(t.Context(), objstore.LockSettings{Enabled: true, Mode: objstore.LockCompliance, Days: 2}); err != nil {
		t.Fatal(err)
	}
	for key, opts := range map[string]objstore.PutOptions{"own": hour, "default": {}} {
		if err := b.Put(t.Context(), key, []byte("x"), opts); err != nil {
			t.Fatal(err)
		}
	}
	if l, err := b.ObjectLock(t.Context(), "default"); err != nil || l.Mode != objstore.LockCompliance || !l.Until.Equal(now.AddDate(0, 0, 2)) {
		t.Errorf("the default lock is %+v, %v", l, err)
	}
	for _, key := range []string{"own", "default"} {
		if err := b.Delete(t.Context(), key); !errors.Is(err, objstore.ErrRetained) {
			t.Errorf("delete of %s: %v", key, err)
		}
		if err := b.Put(t.Context(), key, []byte("y"), objstore.PutOptions{}); !errors.Is(err, objstore.ErrRetained) {
			t.Errorf("put over %s: %v", key, err)
		}
	}
	now = now.Add(time.Hour)
	if err := b.Delete(t.Context(), "default", "own"); !errors.Is(err, objstore.ErrRetained) {
		t.Errorf("delete of both: %v", err)
	}
	if _, err := b.Head(t.Context(), "own"); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("what was no longer locked: %v", err)
	}
	now = now.AddDate(0, 0, 2)
	if err := b.Delete(t.Context(), "default"); err != nil {
		t.Error(err)
	}
}
