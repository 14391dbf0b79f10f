package s3_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3"
)

// answer is a store that gives one answer to everything.
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

func TestErrorsOfTheStore(t *testing.T) {
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
			b := open(t, serve(t, answer(c.status, body)), func(o *s3.Options) { o.MaxAttempts = 1 })
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

func TestHeadHasOnlyAStatus(t *testing.T) {
	for status, want := range map[int]error{
		404: objstore.ErrNotFound, 403: objstore.ErrDenied, 503: objstore.ErrUnavailable, 400: objstore.ErrInvalid,
	} {
		b := open(t, serve(t, answer(status, "")), func(o *s3.Options) { o.MaxAttempts = 1 })
		_, err := b.Head(t.Context(), "k")
		wantClass(t, fmt.Sprintf("head with status %d", status), err, want)
	}
}

func TestThePageOfAProxyIsNoMissingObject(t *testing.T) {
	b := open(t, serve(t, answer(404, "<html>no such site</html>")), func(o *s3.Options) { o.MaxAttempts = 1 })
	_, err := b.Get(t.Context(), "k")
	wantClass(t, "get", err, objstore.ErrUnavailable)
}

func TestThrottlingIsRetriedWithinTheBound(t *testing.T) {
	var requests atomic.Int64
	endpoint := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		answer(503, errorBody("SlowDown"))(w, r)
	}))
	b := open(t, endpoint, func(o *s3.Options) { o.MaxAttempts = 4 })
	wantClass(t, "put", b.Put(t.Context(), "k", []byte("x"), objstore.PutOptions{}), objstore.ErrUnavailable)
	if got := requests.Load(); got != 4 {
		t.Errorf("%d requests, want 4", got)
	}
}

func TestAPutWhoseAnswerIsLostMeetsItself(t *testing.T) {
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
	b := open(t, endpoint, nil)
	err := b.Put(t.Context(), "k", []byte("body"), objstore.PutOptions{IfAbsent: true})
	wantClass(t, "put", err, objstore.ErrExists)
	if got := puts.Load(); got != 2 {
		t.Errorf("%d puts, want 2", got)
	}
	if body, err := b.Get(t.Context(), "k"); err != nil || string(body) != "body" {
		t.Errorf("get: %q, %v", body, err)
	}
}

func TestABodyThatBreaksOffIsNotAnObject(t *testing.T) {
	endpoint := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", "bytes 0-99/100")
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = io.WriteString(w, "only this")
		panic(http.ErrAbortHandler)
	}))
	b := open(t, endpoint, nil)
	_, err := b.Get(t.Context(), "k")
	wantClass(t, "get", err, objstore.ErrUnavailable)
	_, err = b.GetRange(t.Context(), "k", 0, 100)
	wantClass(t, "get range", err, objstore.ErrUnavailable)
}

func TestAnsweredRangesAreChecked(t *testing.T) {
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
			b := open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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

func TestAnObjectBeyondTheBoundIsNotRead(t *testing.T) {
	b := open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1099511627776") // a terabyte
		w.WriteHeader(http.StatusOK)
	})), func(o *s3.Options) { o.ObjectBytesMax = 1000 })
	_, err := b.Get(t.Context(), "k")
	wantClass(t, "get", err, objstore.ErrInvalid)
	wantClass(t, "put", b.Put(t.Context(), "k", make([]byte, 1001), objstore.PutOptions{}), objstore.ErrInvalid)
}

func TestErrorsForSingleKeysInsideA200(t *testing.T) {
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
			b := open(t, serve(t, answer(200, "<DeleteResult>"+c.errors+"</DeleteResult>")), nil)
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

func TestListGoesOnUntilItHasSomething(t *testing.T) {
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
	}
	b := open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		b := open(t, serve(t, answer(200, c.page)), nil)
		_, err := b.List(t.Context(), "p/", "", 10)
		wantClass(t, name, err, c.want)
	}
}

func TestWhatRequestsCarry(t *testing.T) {
	for _, c := range []struct {
		mode        s3.ChecksumMode
		put         string // "header=start of its value"
		delete      string
		deleteLacks string
	}{
		{s3.ChecksumWhenRequired, "X-Amz-Content-Sha256=2d711642b726b044", "Content-Md5=", "X-Amz-Checksum-Crc32"},
		{s3.ChecksumWhenSupported, "X-Amz-Checksum-Crc32=", "X-Amz-Checksum-Crc32=", "Content-Md5"},
	} {
		t.Run(string(c.mode), func(t *testing.T) {
			headers := make(map[string]http.Header)
			b := open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				headers[r.Method] = r.Header
				answer(200, "<DeleteResult></DeleteResult>")(w, r)
			})), func(o *s3.Options) { o.ChecksumMode = c.mode })
			if err := b.Put(t.Context(), "k", []byte("x"), objstore.PutOptions{IfAbsent: true}); err != nil {
				t.Fatal(err)
			}
			if err := b.Delete(t.Context(), "a", "b"); err != nil {
				t.Fatal(err)
			}
			put, del := headers[http.MethodPut], headers[http.MethodPost]
			for _, want := range []struct {
				header http.Header
				pair   string
			}{{put, c.put}, {put, "If-None-Match=*"}, {del, c.delete}} {
				name, value, _ := strings.Cut(want.pair, "=")
				if _, there := want.header[name]; !there || !strings.HasPrefix(want.header.Get(name), value) {
					t.Errorf("want %s in %v", want.pair, want.header)
				}
			}
			if value, there := del[c.deleteLacks]; there {
				t.Errorf("delete carries %s: %s", c.deleteLacks, value)
			}
			if value := put.Get("Expect"); value != "" {
				t.Errorf("put carries Expect: %s", value)
			}
		})
	}
}

func TestAnEndpointFromTheEnvironmentCountsAsOne(t *testing.T) {
	headers := make(map[string]http.Header)
	t.Setenv("AWS_ENDPOINT_URL_S3", serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers[r.Method] = r.Header
		answer(200, "<DeleteResult></DeleteResult>")(w, r)
	})))
	b := open(t, "", func(o *s3.Options) { o.Region = "eu-west-1" })
	if err := b.Delete(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	if got := headers[http.MethodPost]; got.Get("Content-Md5") == "" || !strings.Contains(got.Get("Authorization"), "/eu-west-1/") {
		t.Errorf("delete carries %v, want Content-Md5 and a signature for eu-west-1", got)
	}
}

func TestOverTLSTheBodyIsNotHashed(t *testing.T) {
	var sent http.Header
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header
		answer(200, "")(w, r)
	}))
	t.Cleanup(server.Close)
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	pemBytes := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(bundle, pemBytes, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", bundle)
	b := open(t, server.URL, nil)
	if err := b.Put(t.Context(), "k", []byte("x"), objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := sent.Get("X-Amz-Content-Sha256"); got != "UNSIGNED-PAYLOAD" {
		t.Errorf("X-Amz-Content-Sha256 is %q, want UNSIGNED-PAYLOAD", got)
	}
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
