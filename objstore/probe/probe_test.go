package probe_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/file"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/objstoretest"
	"github.com/firnlog/firn/objstore/probe"
)

// odd is a bucket in memory that misbehaves where it is told to, and counts.
type odd struct {
	objstore.Bucket
	calls int

	put       func(key string, opts objstore.PutOptions) error
	get       func(key string, body []byte) ([]byte, error)
	getRange  func(body []byte) ([]byte, error)
	head      error
	list      func(infos []objstore.Info) ([]objstore.Info, error)
	deletes   func(keys []string) error
	expiries  func() ([]objstore.Expiry, error)
	warnings  []string
	ignoresIf bool
}

// KeyPrefix is that of a bucket which is ours alone.
func (o *odd) KeyPrefix() string { return "" }

func (o *odd) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	o.calls++
	if o.put != nil {
		if err := o.put(key, opts); err != nil {
			return err
		}
	}
	if o.ignoresIf {
		opts.IfAbsent = false
	}
	return o.Bucket.Put(ctx, key, body, opts)
}

func (o *odd) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	return objstoretest.PutFrom(ctx, o, key, body, size, opts)
}

func (o *odd) Get(ctx context.Context, key string) ([]byte, error) {
	o.calls++
	body, err := o.Bucket.Get(ctx, key)
	if o.get != nil && (err == nil || strings.Contains(key, "never-was")) {
		return o.get(key, body)
	}
	return body, err
}

func (o *odd) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	o.calls++
	body, err := o.Bucket.GetRange(ctx, key, position, size)
	if err == nil && o.getRange != nil {
		return o.getRange(body)
	}
	return body, err
}

func (o *odd) Head(ctx context.Context, key string) (objstore.Info, error) {
	o.calls++
	if o.head != nil {
		return objstore.Info{}, o.head
	}
	return o.Bucket.Head(ctx, key)
}

func (o *odd) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	o.calls++
	infos, err := o.Bucket.List(ctx, prefix, after, limit)
	if err == nil && o.list != nil {
		return o.list(infos)
	}
	return infos, err
}

func (o *odd) Delete(ctx context.Context, keys ...string) error {
	o.calls++
	if o.deletes != nil {
		if err := o.deletes(keys); err != nil {
			return err
		}
	}
	return o.Bucket.Delete(ctx, keys...)
}

func (o *odd) Expiries(context.Context) ([]objstore.Expiry, error) {
	o.calls++
	if o.expiries != nil {
		return o.expiries()
	}
	return nil, nil
}

func (o *odd) Warnings() []string { return o.warnings }

func refuse(class error) error { return fmt.Errorf("the store says no: %w", class) }

func TestWhatAProbeFinds(t *testing.T) {
	for _, c := range []struct {
		name    string
		bucket  odd
		verdict map[string]probe.Verdict // of checks that are not ok
		says    []string                 // of the error; none where the bucket is fit
		warns   string
		keeps   bool // objects stay behind
	}{
		{name: "all is well"},
		{
			name: "puts are forbidden", bucket: odd{put: func(string, objstore.PutOptions) error { return refuse(objstore.ErrDenied) }},
			verdict: map[string]probe.Verdict{"put": probe.Denied, "get": probe.NotMade, "get range": probe.NotMade, "overwrite": probe.NotMade,
				"list": probe.NotMade, "list after put": probe.NotMade, "head": probe.NotMade, "conditional put": probe.NotMade,
				"delete": probe.NotMade, "delete many": probe.NotMade, "absence": probe.NotMade},
			says: []string{"put: denied", "the store says no", "s3:PutObject"},
		},
		{
			name:    "gets are forbidden",
			bucket:  odd{get: func(string, []byte) ([]byte, error) { return nil, refuse(objstore.ErrDenied) }},
			verdict: map[string]probe.Verdict{"get": probe.Denied, "overwrite": probe.Denied, "absence": probe.Denied},
			says:    []string{"get: denied", "s3:GetObject", "overwrite: denied", "absence: denied"},
		},
		{
			name:    "bytes change on the way",
			bucket:  odd{get: func(key string, body []byte) ([]byte, error) { return append(body, 'x'), missing(key) }},
			verdict: map[string]probe.Verdict{"get": probe.Wrong, "overwrite": probe.Wrong},
			says:    []string{"get: wrong"},
		},
		{
			name:    "ranges come back wrong",
			bucket:  odd{getRange: func(body []byte) ([]byte, error) { return body[1:], nil }},
			verdict: map[string]probe.Verdict{"get range": probe.Wrong},
			says:    []string{"get range: wrong", "Range header"},
		},
		{
			name:    "listing is forbidden",
			bucket:  odd{list: func([]objstore.Info) ([]objstore.Info, error) { return nil, refuse(objstore.ErrDenied) }},
			verdict: map[string]probe.Verdict{"list": probe.Denied, "list after put": probe.NotMade},
			says:    []string{"list: denied", "s3:ListBucket"},
		},
		{
			name:    "listing lags",
			bucket:  odd{list: func([]objstore.Info) ([]objstore.Info, error) { return nil, nil }},
			verdict: map[string]probe.Verdict{"list after put": probe.Wrong},
		},
		{
			name: "what is absent reads as forbidden",
			bucket: odd{get: func(key string, body []byte) ([]byte, error) {
				if missing(key) != nil {
					return nil, refuse(objstore.ErrDenied)
				}
				return body, nil
			}},
			verdict: map[string]probe.Verdict{"absence": probe.Denied},
			says:    []string{"absence: denied", "s3:ListBucket"},
		},
		{name: "no head", bucket: odd{head: refuse(objstore.ErrInvalid)}, verdict: map[string]probe.Verdict{"head": probe.Missing}},
		{name: "conditions are ignored", bucket: odd{ignoresIf: true}, verdict: map[string]probe.Verdict{"conditional put": probe.Wrong}},
		{
			name:    "conditions are refused",
			bucket:  odd{put: refuseConditions},
			verdict: map[string]probe.Verdict{"conditional put": probe.Missing},
		},
		{
			name:    "deletes are forbidden",
			bucket:  odd{deletes: func([]string) error { return refuse(objstore.ErrDenied) }},
			verdict: map[string]probe.Verdict{"delete": probe.Denied, "delete many": probe.Denied},
			warns:   "behind", keeps: true,
		},
		{
			name: "many deletes at once are not known",
			bucket: odd{deletes: func(keys []string) error {
				if len(keys) > 1 {
					return refuse(objstore.ErrInvalid)
				}
				return nil
			}},
			verdict: map[string]probe.Verdict{"delete many": probe.Missing},
		},
		{
			name: "a rule expires everything",
			bucket: odd{expiries: func() ([]objstore.Expiry, error) {
				return []objstore.Expiry{{Rule: "tidy", What: "deletes after 7 days"}}, nil
			}},
			verdict: map[string]probe.Verdict{"expiry rules": probe.Wrong},
			says:    []string{"expiry rules", `"tidy"`, "deletes after 7 days", "Take the rule off"},
		},
		{
			name: "a rule for tags",
			bucket: odd{expiries: func() ([]objstore.Expiry, error) {
				return []objstore.Expiry{{Rule: "tidy", TaggedOnly: true, What: "deletes after 7 days"}}, nil
			}},
			warns: "firn bucket check",
		},
		{
			name: "a rule on what holds one topic each",
			bucket: odd{expiries: func() ([]objstore.Expiry, error) {
				return []objstore.Expiry{{Rule: "orders", Prefix: "topics/ab", What: "deletes after 7 days"}}, nil
			}},
			warns: "firn bucket check",
		},
		{
			name: "firn's own rules",
			bucket: odd{expiries: func() ([]objstore.Expiry, error) {
				return []objstore.Expiry{{Rule: "firn/c1/class-d8", Prefix: "topics/", TaggedOnly: true, What: "deletes after 8 days"}}, nil
			}},
		},
		{
			name:    "rules that are not ours to read",
			bucket:  odd{expiries: func() ([]objstore.Expiry, error) { return nil, refuse(objstore.ErrDenied) }},
			verdict: map[string]probe.Verdict{"expiry rules": probe.Unknown},
		},
		{name: "the driver warns", bucket: odd{warnings: []string{"nobody checks certificates"}}, warns: "nobody checks certificates"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inner := mem.New()
			c.bucket.Bucket = inner
			report := probe.Run(t.Context(), "s3://snow", &c.bucket, probe.Options{})
			if c.bucket.calls > 16 {
				t.Errorf("%d calls", c.bucket.calls)
			}
			if len(report.Checks) != 12 {
				t.Errorf("%d checks", len(report.Checks))
			}
			for _, check := range report.Checks {
				want := c.verdict[check.Name]
				if want == "" {
					want = probe.OK
				}
				if check.Verdict != want {
					t.Errorf("%s: %s (%s), want %s", check.Name, check.Verdict, check.Detail, want)
				}
				if check.Verdict != probe.OK && check.Verdict != probe.NotMade && (check.Detail == "" || check.Mend == "") {
					t.Errorf("%s does not say what and how to mend it: %+v", check.Name, check)
				}
			}
			err := report.Err()
			if len(c.says) == 0 && err != nil {
				t.Errorf("unfit: %v", err)
			}
			if len(c.says) > 0 && !errors.Is(err, probe.ErrUnfit) {
				t.Errorf("error %v, want ErrUnfit", err)
			}
			for _, part := range c.says {
				if err != nil && !strings.Contains(err.Error(), part) {
					t.Errorf("error does not say %q: %v", part, err)
				}
			}
			if got := strings.Join(report.Warnings, "\n"); !strings.Contains(got, c.warns) || c.warns == "" && got != "" {
				t.Errorf("warnings %q, want one with %q", got, c.warns)
			}
			infos, err := inner.List(t.Context(), "", "", 10)
			if err != nil || len(infos) > 0 != c.keeps {
				t.Errorf("left behind: %v, %v", infos, err)
			}
		})
	}
}

func missing(key string) error {
	if strings.Contains(key, "never-was") {
		return refuse(objstore.ErrNotFound)
	}
	return nil
}

func refuseConditions(_ string, opts objstore.PutOptions) error {
	if opts.IfAbsent {
		return refuse(objstore.ErrInvalid)
	}
	return nil
}

// deaf is a bucket whose store takes requests and never answers.
type deaf struct{ objstore.Bucket }

func (deaf) Put(ctx context.Context, _ string, _ []byte, _ objstore.PutOptions) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestABucketThatDoesNotAnswerIsGivenUp(t *testing.T) {
	report := probe.Run(t.Context(), "s3://snow", deaf{mem.New()}, probe.Options{Timeout: 20 * time.Millisecond})
	if got := report.Verdict("put"); got != probe.Down {
		t.Errorf("put is %s", got)
	}
	if err := report.Err(); err == nil || !strings.Contains(err.Error(), "no answer within the 20ms") || !strings.Contains(err.Error(), "endpoint") {
		t.Errorf("error: %v", err)
	}
}

func TestAFileBucketIsLeftAsItWas(t *testing.T) {
	b, err := file.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	report := probe.Run(t.Context(), "file:///x", b, probe.Options{})
	if err := report.Err(); err != nil || len(report.Checks) != 11 {
		t.Errorf("%d checks, %v", len(report.Checks), err)
	}
	if infos, err := b.List(t.Context(), "", "", 10); err != nil || len(infos) > 0 {
		t.Errorf("left behind: %v, %v", infos, err)
	}
}

func TestWithoutConditionsPutsCarryNone(t *testing.T) {
	b := &odd{Bucket: mem.New(), put: refuseConditions}
	fit := probe.Run(t.Context(), "s3://snow", b, probe.Options{}).Fit(b)
	for range 2 {
		if err := fit.Put(t.Context(), "k", []byte("x"), objstore.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
	}
	able := &odd{Bucket: mem.New()}
	if got := probe.Run(t.Context(), "s3://snow", able, probe.Options{}).Fit(able); got != objstore.Bucket(able) {
		t.Error("a bucket that knows conditions was wrapped")
	}
}

func TestReportForPeopleAndForLogs(t *testing.T) {
	b := &odd{Bucket: mem.New(), ignoresIf: true, warnings: []string{"nobody checks"}, expiries: func() ([]objstore.Expiry, error) {
		return []objstore.Expiry{{Rule: "tidy", What: "deletes after 7 days"}}, nil
	}}
	report := probe.Run(t.Context(), "s3://snow", b, probe.Options{})
	var text, log bytes.Buffer
	if err := report.Write(&text); err != nil {
		t.Fatal(err)
	}
	report.Log(slog.New(slog.NewTextHandler(&log, nil)))
	for _, part := range []string{"s3://snow is NOT fit", "conditional put", "the store ignores the condition", "tidy", "WARNING: nobody checks"} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("the report does not say %q:\n%s", part, text.String())
		}
	}
	lines := slices.Collect(strings.Lines(log.String()))
	if len(lines) != 2 || !strings.Contains(lines[0], "nobody checks") || !strings.Contains(lines[1], "fit=false") || !strings.Contains(lines[1], "conditional put (wrong)") {
		t.Errorf("logged:\n%s", log.String())
	}
}
