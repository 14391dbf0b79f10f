package s3compattest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

const bucketName = "snow"

// suite holds a driver against answers of stores.
type suite struct {
	driver func(t *testing.T, options s3compat.Options) (objstore.Bucket, error)
}

// Run checks how a driver reads the answers of stores, good and bad. The buckets that it makes are closed by Run; credentials
// must come from the environment.
func Run(t *testing.T, driver func(t *testing.T, options s3compat.Options) (objstore.Bucket, error)) {
	s := suite{driver}
	for _, c := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"ErrorsOfTheStore", s.testErrorsOfTheStore},
		{"HeadHasOnlyAStatus", s.testHeadHasOnlyAStatus},
		{"ThePageOfAProxyIsNoMissingObject", s.testThePageOfAProxyIsNoMissingObject},
		{"ThrottlingIsRetriedWithinTheBound", s.testThrottlingIsRetriedWithinTheBound},
		{"APutWhoseAnswerIsLostMeetsItself", s.testAPutWhoseAnswerIsLostMeetsItself},
		{"ABodyThatBreaksOffIsNotAnObject", s.testABodyThatBreaksOffIsNotAnObject},
		{"AnsweredRangesAreChecked", s.testAnsweredRangesAreChecked},
		{"AnObjectBeyondTheBoundIsNotRead", s.testAnObjectBeyondTheBoundIsNotRead},
		{"ErrorsForSingleKeysInsideA200", s.testErrorsForSingleKeysInsideA200},
		{"ListGoesOnUntilItHasSomething", s.testListGoesOnUntilItHasSomething},
		{"PrefixesKeepBucketsApart", s.testPrefixesKeepBucketsApart},
		{"MissingBucketIsNotAMissingObject", s.testMissingBucketIsNotAMissingObject},
		{"CallersDeadlineIsNotTheStoresFault", s.testCallersDeadlineIsNotTheStoresFault},
		{"NobodyListens", s.testNobodyListens},
		{"TLS", s.testTLS},
		{"TLSFilesThatCannotBeUsed", s.testTLSFiles},
		{"Expiries", s.testExpiries},
		{"WhatAPutCarries", s.testWhatAPutCarries},
		{"APutFromIsRetriedFromTheStart", s.testAPutFromIsRetriedFromTheStart},
		{"ABodyIsNotReadAfterPutFrom", s.testABodyIsNotReadAfterPutFrom},
		{"APutFromHoldsNoBody", s.testAPutFromHoldsNoBody},
		{"ACallersEndCutsAPutFrom", s.testACallersEndCutsAPutFrom},
		{"WhatALockKeepsIsRetained", s.testWhatALockKeepsIsRetained},
		{"PutTimeoutGrows", testPutTimeoutGrows},
		{"ForeignRulesAreKept", s.testForeignRulesAreKept},
		{"AMissingPermissionIsNamed", s.testAMissingPermissionIsNamed},
		{"AStoreWithoutAbilities", s.testAStoreWithoutAbilities},
		{"AbilitiesAreAskedAgain", s.testAbilitiesAreAskedAgain},
		{"TheClockOfAStore", s.testTheClockOfAStore},
		{"ConnectionsAreClosed", s.testConnectionsAreClosed},
	} {
		t.Run(c.name, c.run)
	}
}

// Options are what a bucket in a store at endpoint is opened with.
func Options(endpoint string) s3compat.Options {
	return s3compat.Options{Bucket: bucketName, Endpoint: endpoint, PathStyle: true, MaxBackoff: time.Millisecond}
}

func (s suite) open(t *testing.T, endpoint string, change func(*s3compat.Options)) objstore.Bucket {
	t.Helper()
	options := Options(endpoint)
	if change != nil {
		change(&options)
	}
	b, err := s.driver(t, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// Serve starts an HTTP server on loopback and returns its URL.
func Serve(t *testing.T, handler http.Handler) string { return serve(t, handler) }

// FakeStore is a store in memory with one bucket, the one that Options names.
func FakeStore(t *testing.T) http.Handler { return fakeStore(t) }

// XMLStore is FakeStore with rules, versions, locks and tags; locking says whether the bucket was made with object lock.
func XMLStore(t *testing.T, locking bool) http.Handler { return newXMLStore(t, locking) }

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func errorBody(code string) string {
	return "<Error><Code>" + code + "</Code><Message>said so</Message></Error>"
}

func wantClass(t *testing.T, step string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", step, err, want)
	}
	for _, class := range []error{objstore.ErrNotFound, objstore.ErrExists, objstore.ErrRange, objstore.ErrInvalid} {
		if !errors.Is(want, class) && errors.Is(err, class) {
			t.Errorf("%s: error %v is also %v", step, err, class)
		}
	}
}

func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func fakeStore(t *testing.T) http.Handler {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket(bucketName); err != nil {
		t.Fatal(err)
	}
	return gofakes3.New(backend).Server()
}

func (s suite) testErrorsOfTheStore(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		put    error // also of a get, unless get is set
		get    error
	}{
		{404, "NoSuchKey", objstore.ErrUnavailable, objstore.ErrNotFound},
		{404, "NoSuchBucket", objstore.ErrDenied, nil},
		{412, "PreconditionFailed", objstore.ErrExists, nil},
		{409, "ConditionalRequestConflict", objstore.ErrUnavailable, nil},
		{409, "OperationAborted", objstore.ErrUnavailable, nil},
		{416, "InvalidRange", objstore.ErrRange, nil},
		{403, "AccessDenied", objstore.ErrDenied, nil},
		{403, "SignatureDoesNotMatch", objstore.ErrDenied, nil},
		{403, "RequestTimeTooSkewed", objstore.ErrDenied, nil},
		{403, "SomethingNew", objstore.ErrDenied, nil},
		{401, "Unauthorized", objstore.ErrDenied, nil},
		{400, "ExpiredToken", objstore.ErrDenied, nil},
		{400, "InvalidStorageClass", objstore.ErrStorageClass, nil},
		{400, "AuthorizationHeaderMalformed", objstore.ErrDenied, nil},
		{301, "PermanentRedirect", objstore.ErrDenied, nil},
		{400, "RequestTimeout", objstore.ErrUnavailable, nil},
		{400, "BadDigest", objstore.ErrUnavailable, nil},
		{400, "InvalidArgument", objstore.ErrInvalid, nil},
		{400, "EntityTooLarge", objstore.ErrInvalid, nil},
		{501, "NotImplemented", objstore.ErrInvalid, nil},
		{429, "TooManyRequests", objstore.ErrUnavailable, nil},
		{500, "InternalError", objstore.ErrUnavailable, nil},
		{503, "SlowDown", objstore.ErrUnavailable, nil},
		{503, "ServiceUnavailable", objstore.ErrUnavailable, nil},
		{502, "", objstore.ErrUnavailable, nil},
		{504, "", objstore.ErrUnavailable, nil},
	} {
		t.Run(fmt.Sprintf("%d %s", c.status, c.code), func(t *testing.T) {
			body := "<html>from a proxy</html>"
			if c.code != "" {
				body = errorBody(c.code)
			}
			b := s.open(t, serve(t, answer(c.status, body)), func(o *s3compat.Options) { o.MaxAttempts = 1 })
			wantGet := c.get
			if wantGet == nil {
				wantGet = c.put
			}
			wantClass(t, "put", b.Put(t.Context(), "k", []byte("x"), objstore.PutOptions{IfAbsent: true}), c.put)
			_, err := b.Get(t.Context(), "k")
			wantClass(t, "get", err, wantGet)
			_, err = b.GetRange(t.Context(), "k", 0, 1)
			wantClass(t, "get range", err, wantGet)
		})
	}
}

func (s suite) testHeadHasOnlyAStatus(t *testing.T) {
	for status, want := range map[int]error{
		404: objstore.ErrNotFound, 403: objstore.ErrDenied, 503: objstore.ErrUnavailable, 400: objstore.ErrInvalid,
	} {
		b := s.open(t, serve(t, answer(status, "")), func(o *s3compat.Options) { o.MaxAttempts = 1 })
		_, err := b.Head(t.Context(), "k")
		wantClass(t, fmt.Sprintf("head with status %d", status), err, want)
	}
}

func (s suite) testThePageOfAProxyIsNoMissingObject(t *testing.T) {
	b := s.open(t, serve(t, answer(404, "<html>no such site</html>")), func(o *s3compat.Options) { o.MaxAttempts = 1 })
	_, err := b.Get(t.Context(), "k")
	wantClass(t, "get", err, objstore.ErrUnavailable)
}

func (s suite) testThrottlingIsRetriedWithinTheBound(t *testing.T) {
	var requests atomic.Int64
	endpoint := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		answer(503, errorBody("SlowDown"))(w, r)
	}))
	b := s.open(t, endpoint, func(o *s3compat.Options) { o.MaxAttempts = 4 })
	wantClass(t, "put", b.Put(t.Context(), "k", []byte("x"), objstore.PutOptions{}), objstore.ErrUnavailable)
	if got := requests.Load(); got != 4 {
		t.Errorf("%d requests, want 4", got)
	}
}

func (s suite) testAPutWhoseAnswerIsLostMeetsItself(t *testing.T) {
	store := fakeStore(t)
	var puts atomic.Int64
	endpoint := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || puts.Add(1) > 1 {
			store.ServeHTTP(w, r)
			return
		}
		store.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler) // cuts the connection after the effect
	}))
	b := s.open(t, endpoint, nil)
	err := b.Put(t.Context(), "k", []byte("body"), objstore.PutOptions{IfAbsent: true})
	wantClass(t, "put", err, objstore.ErrExists)
	if got := puts.Load(); got != 2 {
		t.Errorf("%d puts, want 2", got)
	}
	if body, err := b.Get(t.Context(), "k"); err != nil || string(body) != "body" {
		t.Errorf("get: %q, %v", body, err)
	}
}

func (s suite) testABodyThatBreaksOffIsNotAnObject(t *testing.T) {
	endpoint := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", "bytes 0-99/100")
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = io.WriteString(w, "only this")
		panic(http.ErrAbortHandler)
	}))
	b := s.open(t, endpoint, nil)
	_, err := b.Get(t.Context(), "k")
	wantClass(t, "get", err, objstore.ErrUnavailable)
	_, err = b.GetRange(t.Context(), "k", 0, 100)
	wantClass(t, "get range", err, objstore.ErrUnavailable)
}

func (s suite) testAnsweredRangesAreChecked(t *testing.T) {
	for _, c := range []struct {
		name         string
		contentRange string
		body         string
		want         error
	}{
		{"right", "bytes 2-5/10", "2345", nil},
		{"total unknown", "bytes 2-5/*", "2345", nil},
		{"cut at the end of the object", "bytes 2-3/4", "23", objstore.ErrRange},
		{"range ignored", "", "0123456789", objstore.ErrUnavailable},
		{"another range", "bytes 0-3/10", "0123", objstore.ErrUnavailable},
		{"length and range differ", "bytes 2-5/10", "23456", objstore.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := s.open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.contentRange != "" {
					w.Header().Set("Content-Range", c.contentRange)
					w.WriteHeader(http.StatusPartialContent)
				}
				_, _ = io.WriteString(w, c.body)
			})), nil)
			got, err := b.GetRange(t.Context(), "k", 2, 4)
			if c.want != nil {
				wantClass(t, "get range", err, c.want)
			} else if err != nil || string(got) != c.body {
				t.Errorf("get range: %q, %v, want %q", got, err, c.body)
			}
		})
	}
}

func (s suite) testAnObjectBeyondTheBoundIsNotRead(t *testing.T) {
	b := s.open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1099511627776") // a terabyte
		w.WriteHeader(http.StatusOK)
	})), func(o *s3compat.Options) { o.ObjectBytesMax = 1000 })
	_, err := b.Get(t.Context(), "k")
	wantClass(t, "get", err, objstore.ErrInvalid)
	wantClass(t, "put", b.Put(t.Context(), "k", make([]byte, 1001), objstore.PutOptions{}), objstore.ErrInvalid)
}

func (s suite) testErrorsForSingleKeysInsideA200(t *testing.T) {
	keyError := func(key, code string) string {
		return "<Error><Key>" + key + "</Key><Code>" + code + "</Code><Message>m</Message></Error>"
	}
	for _, c := range []struct {
		name   string
		errors string
		want   []error
	}{
		{"none", "", nil},
		{"absent keys are fine", keyError("a", "NoSuchKey"), nil},
		{"locked", keyError("b", "AccessDenied") + keyError("c", "AccessDenied"), []error{objstore.ErrDenied}},
		{"mixed", keyError("a", "SlowDown") + keyError("b", "AccessDenied"), []error{objstore.ErrUnavailable, objstore.ErrDenied}},
		{"new code", keyError("a", "Surprise"), []error{objstore.ErrUnavailable}},
	} {
		t.Run(c.name, func(t *testing.T) {
			deleted := "" // what the store did do; a driver may want an answer for every key
			for _, key := range []string{"a", "b", "c"} {
				if !strings.Contains(c.errors, "<Key>"+key+"<") {
					deleted += "<Deleted><Key>" + key + "</Key></Deleted>"
				}
			}
			b := s.open(t, serve(t, answer(200, "<DeleteResult>"+c.errors+deleted+"</DeleteResult>")), nil)
			err := b.Delete(t.Context(), "a", "b", "c")
			if c.want == nil && err != nil {
				t.Errorf("delete: %v", err)
			}
			for _, want := range c.want {
				wantClass(t, "delete", err, want)
			}
		})
	}
}

func (s suite) testListGoesOnUntilItHasSomething(t *testing.T) {
	page := func(truncated bool, token string, keys ...string) string {
		var contents strings.Builder
		for _, key := range keys {
			contents.WriteString("<Contents><Key>" + key + "</Key><Size>1</Size></Contents>")
		}
		return fmt.Sprintf("<ListBucketResult><IsTruncated>%v</IsTruncated><NextContinuationToken>%s</NextContinuationToken>%s</ListBucketResult>",
			truncated, token, contents.String())
	}
	pages := map[string]string{
		"":  page(true, "1"),
		"1": page(true, "2", "p/", "p/folder/"), // folders made by a console
		"2": page(true, "3", "p/a", "p/not a key", "p/b"),
		"3": page(false, ""), // a driver may look whether there is more
	}
	b := s.open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer(200, pages[r.URL.Query().Get("continuation-token")])(w, r)
	})), nil)
	infos, err := b.List(t.Context(), "p/", "", 10)
	if err != nil || len(infos) != 2 || infos[0].Key != "p/a" || infos[1].Key != "p/b" {
		t.Errorf("list: %v, %v", infos, err)
	}
	for name, c := range map[string]struct {
		page string
		want error
	}{
		"out of order":   {page(false, "", "p/b", "p/a"), objstore.ErrInvalid},
		"a key twice":    {page(false, "", "p/b", "p/b"), objstore.ErrInvalid},
		"another prefix": {page(false, "", "q/a"), objstore.ErrUnavailable},
		"no token":       {page(true, ""), objstore.ErrUnavailable},
		"never ends":     {page(true, "again"), objstore.ErrInvalid},
	} {
		b := s.open(t, serve(t, answer(200, c.page)), nil)
		_, err := b.List(t.Context(), "p/", "", 10)
		wantClass(t, name, err, c.want)
	}
}

func (s suite) testPrefixesKeepBucketsApart(t *testing.T) {
	endpoint := serve(t, fakeStore(t))
	whole := s.open(t, endpoint, nil)
	inner := s.open(t, endpoint, func(o *s3compat.Options) { o.Prefix = "a/b/" })
	other := s.open(t, endpoint, func(o *s3compat.Options) { o.Prefix = "a/bb" })
	for _, b := range []objstore.Bucket{inner, other} {
		if err := b.Put(t.Context(), "k/1", []byte("x"), objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		bucket        objstore.Bucket
		prefix, after string
		want          []string
	}{
		{whole, "", "", []string{"a/b/k/1", "a/bb/k/1"}},
		{inner, "", "", []string{"k/1"}},
		{inner, "k", "k/0", []string{"k/1"}},
		{inner, "", "k/1", nil},
		{other, "k/", "", []string{"k/1"}},
	} {
		infos, err := c.bucket.List(t.Context(), c.prefix, c.after, 10)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, info := range infos {
			keys = append(keys, info.Key)
		}
		if !slices.Equal(keys, c.want) {
			t.Errorf("list prefix %q after %q: %q, want %q", c.prefix, c.after, keys, c.want)
		}
	}
	if err := inner.Delete(t.Context(), "k/1", "absent"); err != nil {
		t.Fatal(err)
	}
	if _, err := whole.Head(t.Context(), "a/bb/k/1"); err != nil {
		t.Errorf("the other prefix lost its object: %v", err)
	}
	long := strings.Repeat("k", objstore.KeyBytesMax)
	if err := inner.Put(t.Context(), long, nil, objstore.PutOptions{}); !errors.Is(err, objstore.ErrInvalid) {
		t.Errorf("key too long with the prefix: %v, want ErrInvalid", err)
	}
}

func (s suite) testMissingBucketIsNotAMissingObject(t *testing.T) {
	b := s.open(t, serve(t, fakeStore(t)), func(o *s3compat.Options) { o.Bucket = "absent" })
	_, err := b.Get(t.Context(), "k")
	if !errors.Is(err, objstore.ErrDenied) || errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("get: %v, want ErrDenied", err)
	}
	if err := b.Put(t.Context(), "k", nil, objstore.PutOptions{}); !errors.Is(err, objstore.ErrDenied) {
		t.Errorf("put: %v, want ErrDenied", err)
	}
	if _, err := b.List(t.Context(), "", "", 1); !errors.Is(err, objstore.ErrDenied) {
		t.Errorf("list: %v, want ErrDenied", err)
	}
}

func (s suite) testCallersDeadlineIsNotTheStoresFault(t *testing.T) {
	block := make(chan struct{})
	endpoint := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-block }))
	defer close(block)
	b := s.open(t, endpoint, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := b.Put(ctx, "k", []byte("x"), objstore.PutOptions{})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, objstore.ErrUnavailable) {
		t.Errorf("put: %v, want the caller's deadline", err)
	}
	hasty := s.open(t, endpoint, func(o *s3compat.Options) { o.AttemptTimeout, o.MaxAttempts = 20*time.Millisecond, 2 })
	_, err = hasty.Get(t.Context(), "k")
	if !errors.Is(err, objstore.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("get whose attempts time out: %v, want ErrUnavailable", err)
	}
}

func (s suite) testNobodyListens(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	b := s.open(t, server.URL, nil)
	if _, err := b.Head(t.Context(), "k"); !errors.Is(err, objstore.ErrUnavailable) {
		t.Errorf("head: %v, want ErrUnavailable", err)
	}
}
