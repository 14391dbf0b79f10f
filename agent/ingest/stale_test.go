package ingest_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
)

// A batch whose object was refused for its age must not be overtaken by later ones of newer objects, whether the refusal
// comes before or after those are uploaded. The simulator found it (seed 1395): a new producer's later batches were ordered
// first, because Apply takes any first sequence.
func TestARefusedObjectIsNotOvertaken(t *testing.T) {
	for _, when := range []string{"first upload is slow", "first commit is slow"} {
		t.Run(when, func(t *testing.T) {
			faketime.Test(t, func(t *testing.T) {
				c := newCluster(t)
				m, other, bucket := c.join(1), c.join(2), newStore()
				topic := m.createTopic("t", 1)
				bucket.before = func(ctx context.Context, n int) error {
					if n == 0 && when == "first upload is slow" {
						return sleep(ctx, 5*time.Second)
					}
					return nil
				}
				p := open(t, ingest.Config{FlushInterval: 10 * time.Millisecond}, m, bucket, nil)
				if when == "first commit is slow" {
					m.hold()
				}
				x := producer{topic: topic, id: 7}
				first := stage(t, p, x.part(t, "first"))
				faketime.Wait()
				other.propose(&entry.BumpCollectionEpoch{From: 1})
				other.propose(&entry.BumpCollectionEpoch{From: 2})
				var later []*staged
				for _, v := range []string{"second", "third", "fourth"} {
					time.Sleep(20 * time.Millisecond)
					later = append(later, stage(t, p, x.part(t, v)))
					faketime.Wait()
				}
				m.release()
				last := first.offset(t)
				for _, s := range later {
					if o := s.offset(t); o != last+1 {
						t.Fatalf("offset %d after %d", o, last)
					} else {
						last = o
					}
				}
				if got := c.values(bucket, topic, 0); !slices.Equal(got, []string{"first", "second", "third", "fourth"}) {
					t.Fatalf("order %q", got)
				}
			})
		})
	}
}
