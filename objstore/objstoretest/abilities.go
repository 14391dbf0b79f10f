package objstoretest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/objstore"
)

// RunAbilities checks what a bucket can be asked beside objects, on empty buckets of a store that has it all. locking makes one
// that has object lock enabled; it may leave objects behind that a lock keeps.
func RunAbilities(t *testing.T, empty, locking func(t *testing.T) objstore.Bucket) {
	for _, c := range []struct {
		name string
		make func(t *testing.T) objstore.Bucket
		run  func(t *testing.T, b objstore.Bucket)
	}{
		{"Rules", empty, testRules},
		{"RulesThatCannotBe", empty, testRulesThatCannotBe},
		{"Versioning", empty, testVersioning},
		{"NoLocks", empty, testNoLocks},
		{"LockSettings", locking, testLockSettings},
		{"LockedObjects", locking, testLockedObjects},
		{"Versions", empty, testVersions},
		{"Tags", empty, testTags},
		{"Clock", empty, testClock},
		{"EndedAndClosed", empty, testAbilitiesEnd},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.make(t)
			t.Cleanup(func() { _ = b.Close() })
			c.run(t, b)
		})
	}
}

// ability is one that the bucket must have.
func ability[T any](t *testing.T, b objstore.Bucket) T {
	t.Helper()
	a, ok := objstore.As[T](b)
	if !ok {
		t.Fatalf("the bucket is no %T", *new(T))
	}
	return a
}

func wantRules(t *testing.T, store objstore.RuleStore, want ...objstore.Rule) []objstore.Rule {
	t.Helper()
	got, err := store.Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byID := func(a, b objstore.Rule) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	}
	sorted := slices.Clone(got)
	slices.SortFunc(sorted, byID)
	slices.SortFunc(want, byID)
	if !slices.EqualFunc(sorted, want, objstore.Rule.SameAs) {
		t.Fatalf("rules\n got %s\nwant %s", describe(sorted), describe(want))
	}
	return got
}

func describe(rules []objstore.Rule) string {
	text := ""
	for _, r := range rules {
		r.Raw = nil
		text += fmt.Sprintf("\n  %+v", r)
	}
	return text
}

func setRules(t *testing.T, store objstore.RuleStore, rules ...objstore.Rule) {
	t.Helper()
	if err := store.SetRules(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
}

func testRules(t *testing.T, b objstore.Bucket) {
	store := ability[objstore.RuleStore](t, b)
	wantRules(t, store)
	below := store.KeyPrefix() + "topics/"
	rules := []objstore.Rule{
		{ID: "firn-7d", Enabled: true, Filter: objstore.Filter{Prefix: below, Tags: []objstore.Tag{{Key: "firn-class", Value: "r7d"}}},
			Expiration: objstore.Expiration{Days: 8}},
		{ID: "firn-two-tags", Filter: objstore.Filter{Tags: []objstore.Tag{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}}},
			Expiration: objstore.Expiration{Date: time.Date(2031, 1, 2, 0, 0, 0, 0, time.UTC)}},
		{ID: "one-tag", Enabled: true, Filter: objstore.Filter{Tags: []objstore.Tag{{Key: "a", Value: "1"}}}, Expiration: objstore.Expiration{Days: 400}},
		{ID: "old-versions", Enabled: true, Filter: objstore.Filter{Prefix: below}, NoncurrentExpiration: objstore.NoncurrentExpiration{Days: 3}},
		{ID: "markers", Enabled: true, Expiration: objstore.Expiration{DeleteMarkers: true}},
		{ID: "large", Enabled: true, Filter: objstore.Filter{Prefix: "x", SizeAbove: 1 << 20, SizeBelow: 1 << 30}, Expiration: objstore.Expiration{Days: 1}},
	}
	setRules(t, store, rules...)
	got := wantRules(t, store, rules...)

	// One rule of several is changed, another taken away; the rest goes back as it came.
	for i := range got {
		if got[i].ID == "firn-7d" {
			got[i].Expiration.Days = 30
		}
	}
	got = slices.DeleteFunc(got, func(r objstore.Rule) bool { return r.ID == "markers" })
	setRules(t, store, got...)
	wantRules(t, store, got...)
	setRules(t, store)
	wantRules(t, store)
	setRules(t, store)
}

func testRulesThatCannotBe(t *testing.T, b objstore.Bucket) {
	store := ability[objstore.RuleStore](t, b)
	kept := objstore.Rule{ID: "kept", Enabled: true, Expiration: objstore.Expiration{Days: 5}}
	setRules(t, store, kept)
	for name, rule := range map[string]objstore.Rule{
		"nothing to do":   {ID: "x", Enabled: true},
		"twice":           kept,
		"negative":        {ID: "x", Expiration: objstore.Expiration{Days: -5}},
		"unknown and new": {ID: "x", Expiration: objstore.Expiration{Days: 5}, Unknown: []string{"Novelty"}},
	} {
		wantError(t, name, store.SetRules(t.Context(), []objstore.Rule{kept, rule}), objstore.ErrInvalid)
	}
	wantRules(t, store, kept)
}

func testVersioning(t *testing.T, b objstore.Bucket) {
	versioning := ability[objstore.Versioning](t, b)
	want := func(want objstore.VersioningState) {
		t.Helper()
		if got, err := versioning.VersioningState(t.Context()); err != nil || got != want {
			t.Fatalf("versioning is %q, %v, want %q", got, err, want)
		}
	}
	want(objstore.VersioningOff)
	for _, state := range []objstore.VersioningState{objstore.VersioningEnabled, objstore.VersioningSuspended, objstore.VersioningEnabled} {
		if err := versioning.SetVersioning(t.Context(), state); err != nil {
			t.Fatal(err)
		}
		want(state)
	}
	for _, state := range []objstore.VersioningState{objstore.VersioningOff, "Sometimes"} {
		wantError(t, "versioning "+string(state), versioning.SetVersioning(t.Context(), state), objstore.ErrInvalid)
	}
	want(objstore.VersioningEnabled)
}

func testNoLocks(t *testing.T, b objstore.Bucket) {
	locks := ability[objstore.LockConfig](t, b)
	if got, err := locks.LockSettings(t.Context()); err != nil || got != (objstore.LockSettings{}) {
		t.Fatalf("settings %+v, %v", got, err)
	}
	opts := objstore.PutOptions{Lock: objstore.Lock{Mode: objstore.LockGovernance, Until: time.Now().Add(time.Hour)}}
	wantError(t, "put with a lock that the bucket does not know", b.Put(t.Context(), "k", []byte("x"), opts), objstore.ErrInvalid)
	mustPut(t, b, "free", []byte("x"))
	if got, err := locks.ObjectLock(t.Context(), "free"); err != nil || got != (objstore.Lock{}) {
		t.Errorf("lock of an object without: %+v, %v", got, err)
	}
}

func testLockSettings(t *testing.T, b objstore.Bucket) {
	locks := ability[objstore.LockConfig](t, b)
	want := func(want objstore.LockSettings) {
		t.Helper()
		if got, err := locks.LockSettings(t.Context()); err != nil || got != want {
			t.Fatalf("settings %+v, %v, want %+v", got, err, want)
		}
	}
	want(objstore.LockSettings{Enabled: true})
	for _, s := range []objstore.LockSettings{
		{Enabled: true, Mode: objstore.LockGovernance, Days: 3},
		{Enabled: true, Mode: objstore.LockCompliance, Years: 1},
		{Enabled: true},
	} {
		if err := locks.SetLockSettings(t.Context(), s); err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		want(s)
	}
	for _, s := range []objstore.LockSettings{
		{}, {Enabled: true, Mode: objstore.LockGovernance}, {Enabled: true, Mode: objstore.LockGovernance, Days: 1, Years: 1},
		{Enabled: true, Days: 1}, {Enabled: true, Mode: "ETERNAL", Days: 1}, {Mode: objstore.LockCompliance, Days: 1},
	} {
		wantError(t, fmt.Sprintf("settings %+v", s), locks.SetLockSettings(t.Context(), s), objstore.ErrInvalid)
	}
	want(objstore.LockSettings{Enabled: true})
}

// testLockedObjects: what a lock keeps is there whatever is deleted, by name or by version.
func testLockedObjects(t *testing.T, b objstore.Bucket) {
	locks := ability[objstore.LockConfig](t, b)
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	lock := objstore.Lock{Mode: objstore.LockGovernance, Until: until}
	if err := b.Put(t.Context(), "locked", []byte("x"), objstore.PutOptions{Lock: lock}); err != nil {
		t.Fatal(err)
	}
	if got, err := locks.ObjectLock(t.Context(), "locked"); err != nil || got.Mode != lock.Mode || !got.Until.Equal(until) {
		t.Errorf("the lock is %+v, %v", got, err)
	}
	versions, ok := objstore.As[objstore.VersionStore](b)
	if !ok {
		wantError(t, "delete", b.Delete(t.Context(), "locked"), objstore.ErrRetained)
		wantBody(t, b, "locked", []byte("x"))
		return
	}
	if err := b.Delete(t.Context(), "locked"); err != nil && !errors.Is(err, objstore.ErrRetained) {
		t.Errorf("delete: %v", err)
	}
	for _, v := range listVersions(t, versions, "locked", 10) {
		if !v.DeleteMarker {
			wantError(t, "delete of the version", versions.DeleteVersion(t.Context(), "locked", v.ID), objstore.ErrRetained)
		} else if err := versions.DeleteVersion(t.Context(), "locked", v.ID); err != nil {
			t.Errorf("delete of the marker: %v", err)
		}
	}
	wantBody(t, b, "locked", []byte("x"))
}

func listVersions(t *testing.T, store objstore.VersionStore, prefix string, limit int) []objstore.Version {
	t.Helper()
	var all []objstore.Version
	for key, id := "", ""; ; {
		page, err := store.ListVersions(t.Context(), prefix, key, id, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		if len(page) > limit || len(all) > 1000 {
			t.Fatalf("a page of %d versions, %d before it", len(page), len(all))
		}
		all = append(all, page...)
		key, id = page[len(page)-1].Key, page[len(page)-1].ID
	}
}

func testVersions(t *testing.T, b objstore.Bucket) {
	store, ok := objstore.As[objstore.VersionStore](b)
	if !ok {
		return // a store without versions, such as memory
	}
	if err := ability[objstore.Versioning](t, b).SetVersioning(t.Context(), objstore.VersioningEnabled); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"v/a", "v/b", "w", "v/a", "v/a"} {
		mustPut(t, b, key, []byte(key))
	}
	mustDelete(t, b, "v/a")
	for _, limit := range []int{1, 2, 1000} {
		var got []string
		for _, v := range listVersions(t, store, "v/", limit) {
			got = append(got, fmt.Sprintf("%s %d %v %v", v.Key, v.Size, v.Latest, v.DeleteMarker))
		}
		want := []string{"v/a 0 true true", "v/a 3 false false", "v/a 3 false false", "v/a 3 false false", "v/b 3 true false"}
		if !slices.Equal(got, want) {
			t.Fatalf("pages of %d versions\n got %q\nwant %q", limit, got, want)
		}
	}
	_, err := b.Get(t.Context(), "v/a")
	wantError(t, "get behind a marker", err, objstore.ErrNotFound)
	all := listVersions(t, store, "v/a", 10)
	if err := store.DeleteVersion(t.Context(), "v/a", all[0].ID); err != nil {
		t.Fatal(err)
	}
	wantBody(t, b, "v/a", []byte("v/a")) // without its marker the object is back
	for _, v := range all {              // the marker a second time
		if err := store.DeleteVersion(t.Context(), "v/a", v.ID); err != nil {
			t.Fatal(err)
		}
	}
	if left := listVersions(t, store, "v/a", 10); len(left) > 0 {
		t.Errorf("%d versions are left", len(left))
	}
	wantError(t, "delete of no version", store.DeleteVersion(t.Context(), "v/b", ""), objstore.ErrInvalid)
	wantError(t, "delete of a version of no key", store.DeleteVersion(t.Context(), "../b", "1"), objstore.ErrInvalid)
	_, err = store.ListVersions(t.Context(), "", "", "", 0)
	wantError(t, "a list of none", err, objstore.ErrInvalid)
}

func testTags(t *testing.T, b objstore.Bucket) {
	tagger := ability[objstore.Tagger](t, b)
	want := func(want ...objstore.Tag) {
		t.Helper()
		if got, err := tagger.Tags(t.Context(), "t/k"); err != nil || !slices.Equal(got, want) {
			t.Fatalf("tags %+v, %v, want %+v", got, err, want)
		}
	}
	mustPut(t, b, "t/k", []byte("x"))
	want()
	first, second := objstore.Tag{Key: "firn-class", Value: "a B+c-1=._:/@"}, objstore.Tag{Key: "z", Value: "2"}
	if err := b.Put(t.Context(), "t/k", []byte("x"), objstore.PutOptions{Tags: []objstore.Tag{second, first}}); err != nil {
		t.Fatal(err)
	}
	want(first, second)
	for _, tags := range [][]objstore.Tag{{second}, {first, second}, nil, {first}} {
		if err := tagger.SetTags(t.Context(), "t/k", tags); err != nil {
			t.Fatal(err)
		}
		want(tags...)
	}
	mustPut(t, b, "t/k", []byte("a new object has none"))
	want()
	_, err := tagger.Tags(t.Context(), "absent")
	wantError(t, "tags of what is absent", err, objstore.ErrNotFound)
	wantError(t, "set tags of what is absent", tagger.SetTags(t.Context(), "absent", []objstore.Tag{first}), objstore.ErrNotFound)
	wantError(t, "a tag without a key", tagger.SetTags(t.Context(), "t/k", []objstore.Tag{{}}), objstore.ErrInvalid)
	wantError(t, "tags of no key", tagger.SetTags(t.Context(), "../k", nil), objstore.ErrInvalid)
	_, err = tagger.Tags(t.Context(), "/")
	wantError(t, "tags of no key", err, objstore.ErrInvalid)
}

func testClock(t *testing.T, b objstore.Bucket) {
	before := time.Now()
	now, err := ability[objstore.Clock](t, b).Now(t.Context())
	if err != nil || now.Before(before.Add(-time.Hour)) || now.After(time.Now().Add(time.Hour)) {
		t.Errorf("the store's clock says %v, %v; here it is %v", now, err, before)
	}
}

func testAbilitiesEnd(t *testing.T, b objstore.Bucket) {
	mustPut(t, b, "k", []byte("x"))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	calls := func(ctx context.Context) map[string]error {
		rules, versioning := ability[objstore.RuleStore](t, b), ability[objstore.Versioning](t, b)
		locks, tagger := ability[objstore.LockConfig](t, b), ability[objstore.Tagger](t, b)
		_, getRules := rules.Rules(ctx)
		_, state := versioning.VersioningState(ctx)
		_, settings := locks.LockSettings(ctx)
		_, lock := locks.ObjectLock(ctx, "k")
		_, tags := tagger.Tags(ctx, "k")
		_, now := ability[objstore.Clock](t, b).Now(ctx)
		return map[string]error{
			"rules": getRules, "set rules": rules.SetRules(ctx, nil), "versioning": state,
			"set versioning": versioning.SetVersioning(ctx, objstore.VersioningEnabled), "settings": settings,
			"set settings": locks.SetLockSettings(ctx, objstore.LockSettings{Enabled: true}), "lock": lock, "tags": tags,
			"set tags": tagger.SetTags(ctx, "k", nil), "clock": now,
		}
	}
	for step, err := range calls(ended) {
		wantError(t, step, err, context.Canceled)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for step, err := range calls(t.Context()) {
		wantError(t, step, err, objstore.ErrClosed)
	}
}
