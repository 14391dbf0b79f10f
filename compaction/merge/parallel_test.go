package merge_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/firnlog/firn/compaction/rewrite"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore"
)

// far is a bucket whose requests take as long as an object store's.
type far struct{ objstore.Bucket }

func (f far) Get(ctx context.Context, key string) ([]byte, error) {
	time.Sleep(40 * time.Millisecond)
	return f.Bucket.Get(ctx, key)
}

func (f far) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	time.Sleep(80 * time.Millisecond)
	return f.Bucket.PutFrom(ctx, key, body, size, opts)
}

// TestRequestsOverlap: in fake time, where nothing but the requests takes any, a window is merged four times as fast with four at a time.
func TestRequestsOverlap(t *testing.T) {
	var took [2]time.Duration
	for i, parallel := range []int{1, 4} {
		faketime.Test(t, func(t *testing.T) {
			f := newFixture(t, 15)
			f.parallel, f.plain = parallel, true
			for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
				f.topics = append(f.topics, f.Topic(name, 3))
			}
			f.produce(20, 300)
			m := f.merger(small(), func(d *rewrite.Deps) { d.Bucket = far{d.Bucket} })
			if _, err := m.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.now = f.now.Add(2 * time.Hour)
			start := time.Now()
			if worked, err := m.Step(t.Context()); !worked || err != nil {
				t.Fatal(worked, err)
			}
			took[i] = time.Since(start)
			f.Verify()
			if n := f.level0(); n > 0 {
				t.Errorf("%d objects of level 0 are left", n)
			}
		})
	}
	if took[1] > took[0]/3 {
		t.Errorf("%v one after the other, %v four at a time", took[0], took[1])
	}
}
