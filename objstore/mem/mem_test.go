package mem_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/objstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	objstoretest.Run(t, func(*testing.T) objstore.Bucket { return mem.New() })
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{64 << 10, 8 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			bucket := mem.New()
			body := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := bucket.Put(b.Context(), "bench/key", body, objstore.PutOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestAbilities(t *testing.T) {
	empty := func(*testing.T) objstore.Bucket {
		b := mem.New()
		b.SetClock(time.Now)
		return b
	}
	objstoretest.RunAbilities(t, empty, func(t *testing.T) objstore.Bucket {
		b := mem.New()
		if err := b.SetLockSettings(t.Context(), objstore.LockSettings{Enabled: true}); err != nil {
			t.Fatal(err)
		}
		return b
	})
}
