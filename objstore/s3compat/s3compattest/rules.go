package s3compattest

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

// What others wrote, in shapes that firn does not write, with parts that it does not know.
const foreignRules = `<?xml version="1.0" encoding="UTF-8"?>
<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Rule>
  <ID>old shape</ID><Prefix>logs/</Prefix><Status>Enabled</Status>
  <Expiration><Days>3650</Days></Expiration>
</Rule><Rule><Status>Enabled</Status><Filter><And><Prefix>a &amp; b/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag><ObjectSizeGreaterThan>500</ObjectSizeGreaterThan></And></Filter><ID>and</ID><Transition><Days>0</Days><StorageClass>INTELLIGENT_TIERING</StorageClass></Transition><NoncurrentVersionTransition><NoncurrentDays>30</NoncurrentDays><NewerNoncurrentVersions>2</NewerNoncurrentVersions><StorageClass>GLACIER</StorageClass></NoncurrentVersionTransition></Rule><Rule><ID>novel</ID><Filter/><Status>Enabled</Status><Expiration><Days>9</Days><Unless restored="yes"/></Expiration><Quiesce>true</Quiesce></Rule></LifecycleConfiguration>`

func (s suite) testForeignRulesAreKept(t *testing.T) {
	store := newXMLStore(t, false)
	store.lifecycle, store.minimumSize = []byte(foreignRules), "varies_by_storage_class"
	b := s.open(t, serve(t, store), func(o *s3compat.Options) { o.Prefix = "cluster-1" })
	rules, ok := objstore.As[objstore.RuleStore](b)
	if !ok || rules.KeyPrefix() != "cluster-1/" {
		t.Fatal("the driver has no rules, or another prefix")
	}
	got, err := rules.Rules(t.Context())
	if err != nil || len(got) != 3 {
		t.Fatalf("%d rules, %v", len(got), err)
	}
	for i, want := range []objstore.Rule{
		{ID: "old shape", Enabled: true, Filter: objstore.Filter{Prefix: "logs/"}, Expiration: objstore.Expiration{Days: 3650}},
		{ID: "and", Enabled: true, Filter: objstore.Filter{Prefix: "a & b/", Tags: []objstore.Tag{{Key: "k", Value: "v"}}, SizeAbove: 500},
			Transitions:           []objstore.Transition{{Class: "INTELLIGENT_TIERING"}},
			NoncurrentTransitions: []objstore.NoncurrentTransition{{Days: 30, Keep: 2, Class: "GLACIER"}}},
		{ID: "novel", Enabled: true, Expiration: objstore.Expiration{Days: 9}, Unknown: []string{"Quiesce", "Expiration/Unless"}},
	} {
		if !got[i].SameAs(want) {
			t.Errorf("rule %d is %+v, want %+v", i, got[i], want)
		}
	}
	ours := objstore.Rule{ID: "firn-1", Enabled: true, AbortUploadsDays: 2}
	if err := rules.SetRules(t.Context(), append(slices.Clone(got), ours)); err != nil {
		t.Fatal(err)
	}
	_, all, _ := strings.Cut(foreignRules, "<Rule>")
	if was := strings.TrimSuffix(all, "</LifecycleConfiguration>"); !strings.Contains(string(store.lifecycle), was) {
		t.Errorf("foreign rules were changed:\n%s", store.lifecycle)
	}
	if store.minimumSize != "varies_by_storage_class" {
		t.Errorf("the bucket's minimum size of transitions is %q now", store.minimumSize)
	}
	before := string(store.lifecycle)
	for name, change := range map[string]func(r []objstore.Rule){
		"a rule with parts that firn does not know": func(r []objstore.Rule) { r[2].Expiration.Days = 10 },
		"hiding those parts":                        func(r []objstore.Rule) { r[2].Unknown = nil; r[2].Raw = []byte("<Rule>") },
	} {
		changed := slices.Clone(got)
		change(changed)
		if err := rules.SetRules(t.Context(), changed); !errors.Is(err, objstore.ErrInvalid) || !strings.Contains(err.Error(), "novel") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if string(store.lifecycle) != before {
		t.Error("a refused change was written")
	}
	got[0].Expiration.Days = 4000 // all of this one is known
	if err := rules.SetRules(t.Context(), got); err != nil || !strings.Contains(string(store.lifecycle), "<Days>4000</Days>") {
		t.Errorf("%v\n%s", err, store.lifecycle)
	}
}

// everyAbility asks for everything once.
func everyAbility(ctx context.Context, t *testing.T, b objstore.Bucket) map[string]error {
	a, ok := b.(interface {
		objstore.RuleStore
		objstore.Versioning
		objstore.LockConfig
		objstore.Tagger
		objstore.VersionStore
	})
	if !ok {
		t.Fatal("the driver lacks abilities")
	}
	_, rules := a.Rules(ctx)
	_, state := a.VersioningState(ctx)
	_, settings := a.LockSettings(ctx)
	_, lock := a.ObjectLock(ctx, "k")
	_, tags := a.Tags(ctx, "k")
	_, versions := a.ListVersions(ctx, "", "", "", 1)
	return map[string]error{
		"s3:GetLifecycleConfiguration": rules, "s3:GetBucketVersioning": state, "s3:GetBucketObjectLockConfiguration": settings,
		"s3:GetObjectRetention": lock, "s3:GetObjectTagging": tags, "s3:ListBucketVersions": versions,
		"s3:PutBucketVersioning":              a.SetVersioning(ctx, objstore.VersioningEnabled),
		"s3:PutBucketObjectLockConfiguration": a.SetLockSettings(ctx, objstore.LockSettings{Enabled: true}),
		"s3:PutObjectTagging":                 a.SetTags(ctx, "k", nil),
		"s3:DeleteObjectVersion":              a.DeleteVersion(ctx, "k", "1"),
	}
}

func (s suite) testAMissingPermissionIsNamed(t *testing.T) {
	b := s.open(t, serve(t, answer(403, errorBody("AccessDenied"))), func(o *s3compat.Options) { o.Prefix = "p" })
	calls := everyAbility(t.Context(), t, b)
	_, get := b.Get(t.Context(), "k")
	_, list := b.List(t.Context(), "", "", 1)
	tagged := objstore.PutOptions{Tags: []objstore.Tag{{Key: "k"}}}
	calls["s3:GetObject"], calls["s3:ListBucket"], calls["s3:DeleteObject"] = get, list, b.Delete(t.Context(), "k")
	calls["s3:PutObject"] = b.Put(t.Context(), "k", nil, objstore.PutOptions{})
	calls["s3:PutObject, s3:PutObjectTagging"] = b.Put(t.Context(), "k", nil, tagged)
	for action, err := range calls {
		var denied *objstore.DeniedError
		if !errors.Is(err, objstore.ErrDenied) || !errors.As(err, &denied) || denied.Action != action ||
			!strings.Contains(err.Error(), "allow "+action+" on arn:aws:s3:::"+bucketName) {
			t.Errorf("%s: %v", action, err)
		}
	}
	// Only reading is allowed.
	reading := s.open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			answer(404, errorBody("NoSuchLifecycleConfiguration"))(w, r)
			return
		}
		answer(403, errorBody("AccessDenied"))(w, r)
	})), nil)
	rules, _ := objstore.As[objstore.RuleStore](reading)
	err := rules.SetRules(t.Context(), []objstore.Rule{{ID: "a", AbortUploadsDays: 1}})
	if denied := (*objstore.DeniedError)(nil); !errors.As(err, &denied) || denied.Action != "s3:PutLifecycleConfiguration" {
		t.Errorf("set rules: %v", err)
	}
	// A refusal of the credentials themselves misses no permission.
	other := s.open(t, serve(t, answer(403, errorBody("SignatureDoesNotMatch"))), nil)
	for action, err := range everyAbility(t.Context(), t, other) {
		if denied := (*objstore.DeniedError)(nil); !errors.Is(err, objstore.ErrDenied) || errors.As(err, &denied) {
			t.Errorf("%s with a wrong secret: %v", action, err)
		}
	}
}

func (s suite) testAStoreWithoutAbilities(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"not implemented":  answer(501, errorBody("NotImplemented")),
		"not allowed":      answer(405, errorBody("MethodNotAllowed")),
		"in its own words": answer(400, errorBody("XNotImplemented")),
		"a listing for everything": func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				answer(501, errorBody("NotImplemented"))(w, r)
				return
			}
			answer(200, "<ListBucketResult><Name>snow</Name></ListBucketResult>")(w, r)
		},
	} {
		b := s.open(t, serve(t, handler), nil)
		for action, err := range everyAbility(t.Context(), t, b) {
			if !errors.Is(err, objstore.ErrUnsupported) || !errors.Is(err, objstore.ErrInvalid) || errors.Is(err, objstore.ErrDenied) {
				t.Errorf("%s, %s: %v", name, action, err)
			}
		}
	}
}

func (s suite) testAbilitiesAreAskedAgain(t *testing.T) {
	var requests atomic.Int64
	b := s.open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		answer(503, errorBody("SlowDown"))(w, r)
	})), func(o *s3compat.Options) { o.MaxAttempts = 2 })
	for action, err := range everyAbility(t.Context(), t, b) {
		wantClass(t, action, err, objstore.ErrUnavailable)
		if got := requests.Swap(0); got > 20 {
			t.Errorf("%s: %d requests", action, got)
		}
	}
	block := make(chan struct{})
	defer close(block)
	silent := s.open(t, serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-block })), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	clock, _ := objstore.As[objstore.Clock](silent)
	if _, err := clock.Now(ctx); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, objstore.ErrUnavailable) {
		t.Errorf("clock: %v, want the caller's deadline", err)
	}
}

func (s suite) testTheClockOfAStore(t *testing.T) {
	at := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	for name, c := range map[string]struct {
		status int
		date   string
		want   error
	}{
		"an answer":           {200, at.Format(http.TimeFormat), nil},
		"a refusal":           {403, at.Format(http.TimeFormat), nil},
		"no date":             {200, "", objstore.ErrUnavailable},
		"a date from nowhere": {200, "yesterday", objstore.ErrUnavailable},
	} {
		b := s.open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			if c.date != "" {
				w.Header().Set("Date", c.date)
			}
			w.WriteHeader(c.status)
		})), nil)
		clock, _ := objstore.As[objstore.Clock](b)
		now, err := clock.Now(t.Context())
		if c.want != nil {
			wantClass(t, name, err, c.want)
		} else if err != nil || !now.Equal(at) {
			t.Errorf("%s: %v, %v", name, now, err)
		}
	}
}
