package metered_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/metered"
	"github.com/firnlog/firn/objstore/objstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type recorder struct {
	mu      sync.Mutex
	reports []string
}

func (r *recorder) Observe(op metered.Op, outcome metered.Outcome, seconds float64, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reports = append(r.reports, fmt.Sprintf("%s %s %gs %d", op, outcome, seconds, bytes))
}

// slowBucket takes two seconds of the bubble's clock for a put and a get.
type slowBucket struct{ objstore.Bucket }

func (b slowBucket) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	time.Sleep(2 * time.Second)
	return b.Bucket.Put(ctx, key, body, opts)
}

func (b slowBucket) Get(ctx context.Context, key string) ([]byte, error) {
	time.Sleep(2 * time.Second)
	return b.Bucket.Get(ctx, key)
}

func TestContract(t *testing.T) {
	objstoretest.Run(t, func(*testing.T) objstore.Bucket { return metered.New(mem.New(), new(recorder)) })
}

func TestReports(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		seen := new(recorder)
		b := metered.New(slowBucket{mem.New()}, seen)
		ctx := t.Context()
		gone, cancel := context.WithCancel(ctx)
		cancel()
		_ = b.Put(ctx, "k", make([]byte, 100), objstore.PutOptions{})
		_ = b.Put(ctx, "k", make([]byte, 70), objstore.PutOptions{IfAbsent: true})
		_ = b.PutFrom(ctx, "from", bytes.NewReader(make([]byte, 60)), 50, objstore.PutOptions{})
		_, _ = b.Get(ctx, "k")
		_, _ = b.Get(ctx, "absent")
		_, _ = b.GetRange(ctx, "k", 10, 20)
		_, _ = b.GetRange(ctx, "k", 90, 20)
		_, _ = b.Head(ctx, "k")
		_, _ = b.List(ctx, "", "", 5)
		_, _ = b.List(ctx, "", "", 0)
		_ = b.Delete(gone, "k")
		_ = b.Delete(ctx, "k")
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		_, _ = b.Head(ctx, "k")
		want := []string{
			"put ok 2s 100", "put exists 2s 70", "put ok 0s 50", "get ok 2s 100", "get not_found 2s 0", "get_range ok 0s 20", "get_range range 0s 0",
			"head ok 0s 0", "list ok 0s 0", "list invalid 0s 0", "delete cancelled 0s 0", "delete ok 0s 0", "head closed 0s 0",
		}
		if !slices.Equal(seen.reports, want) {
			t.Errorf("reports\n got %q\nwant %q", seen.reports, want)
		}
	})
}

func TestEveryOutcomeIsListed(t *testing.T) {
	for _, err := range []error{
		nil, objstore.ErrNotFound, objstore.ErrExists, objstore.ErrRange, objstore.ErrInvalid, objstore.ErrDenied, objstore.ErrRetained, objstore.ErrUnavailable,
		objstore.ErrClosed, context.Canceled, context.DeadlineExceeded, errors.New("no class"),
	} {
		outcome := metered.OutcomeOf(err)
		if !slices.Contains(metered.Outcomes(), outcome) {
			t.Errorf("outcome %q of %v is not listed", outcome, err)
		}
		if (outcome == metered.OutcomeOther) != (err != nil && err.Error() == "no class") {
			t.Errorf("outcome of %v is %q", err, outcome)
		}
	}
	if got := metered.OutcomeOf(fmt.Errorf("%w and %w", objstore.ErrUnavailable, objstore.ErrDenied)); got != metered.OutcomeDenied {
		t.Errorf("outcome of two classes is %q, want denied", got)
	}
}

// classes is an observer that notes which classes puts asked for.
type classes struct {
	recorder
	put []string
}

func (c *classes) PutIn(class string) { c.put = append(c.put, class) }

func TestPutsTellTheirStorageClass(t *testing.T) {
	seen := new(classes)
	b := metered.New(mem.New(), seen)
	for i, class := range []string{"", "COLD"} {
		opts := objstore.PutOptions{StorageClass: class}
		if err := b.Put(t.Context(), fmt.Sprint("k", i), nil, opts); err != nil {
			t.Fatal(err)
		}
		if err := b.PutFrom(t.Context(), fmt.Sprint("from", i), bytes.NewReader(nil), 0, opts); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"", "", "COLD", "COLD"}; !slices.Equal(seen.put, want) || len(seen.reports) != 4 {
		t.Errorf("%q, %q", seen.put, seen.reports)
	}
}
