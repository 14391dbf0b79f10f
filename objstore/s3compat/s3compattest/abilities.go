package s3compattest

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

// ContainerRole serves credentials with that access key, as a container's host does, and returns the URL to ask at.
func ContainerRole(t *testing.T, accessKey string) string {
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"AccessKeyId":"`+accessKey+`","SecretAccessKey":"s","Token":"t","Expiration":"`+
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+`"}`)
	}))
}

// WebIdentity serves credentials with that access key to whoever shows a token, as a security token service does, and returns the
// environment that leads there.
func WebIdentity(t *testing.T, accessKey string) map[string]string {
	const token = "token of a workload"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	service := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("WebIdentityToken") != token {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
			`<AccessKeyId>`+accessKey+`</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>`+
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+`</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`)
	}))
	return map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": file, "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/firn", "AWS_ENDPOINT_URL_STS": service}
}

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

func contains(s string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(s, part) })
}

func (s suite) testExpiries(t *testing.T) {
	rule := func(id, status, filter, action string) string {
		return "<Rule><ID>" + id + "</ID><Status>" + status + "</Status>" + filter + action + "</Rule>"
	}
	const days = "<Expiration><Days>7</Days></Expiration>"
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   []objstore.Expiry
		err    error
	}{
		{"no rules", 404, errorBody("NoSuchLifecycleConfiguration"), nil, nil},
		{"not ours to read", 403, errorBody("AccessDenied"), nil, objstore.ErrDenied},
		{"no such ability", 501, errorBody("NotImplemented"), nil, objstore.ErrInvalid},
		{"out of order", 503, errorBody("SlowDown"), nil, objstore.ErrUnavailable},
		{"all of them", 200, "<LifecycleConfiguration>" +
			rule("everything", "Enabled", "<Filter></Filter>", days) +
			rule("above", "Enabled", "<Filter><Prefix>a/</Prefix></Filter>", days) +
			rule("below", "Enabled", "<Prefix>a/b/data/</Prefix>", "<Expiration><Date>2030-01-02T00:00:00Z</Date></Expiration>") +
			rule("tags", "Enabled", "<Filter><And><Prefix>a/b/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag></And></Filter>", days) +
			rule("ice", "Enabled", "<Filter></Filter>", "<Transition><Days>90</Days><StorageClass>DEEP_ARCHIVE</StorageClass></Transition>") +
			rule("cool", "Enabled", "<Filter></Filter>", "<Transition><Days>30</Days><StorageClass>STANDARD_IA</StorageClass></Transition>") +
			rule("off", "Disabled", "<Filter></Filter>", days) +
			rule("elsewhere", "Enabled", "<Filter><Prefix>a/bb/</Prefix></Filter>", days) +
			rule("uploads", "Enabled", "<Filter></Filter>", "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>") +
			"</LifecycleConfiguration>", []objstore.Expiry{
			{Rule: "everything", What: "deletes after 7 days"},
			{Rule: "above", Prefix: "a/", What: "deletes after 7 days"},
			{Rule: "below", Prefix: "a/b/data/", What: "deletes on 2030-01-02"},
			{Rule: "tags", Prefix: "a/b/", TaggedOnly: true, What: "deletes after 7 days"},
			{Rule: "ice", What: "moves to DEEP_ARCHIVE after 90 days, where it cannot be read"},
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := s.open(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !r.URL.Query().Has("lifecycle") {
					t.Errorf("asked for %s", r.URL)
				}
				answer(c.status, c.body)(w, r)
			})), func(o *s3compat.Options) { o.Prefix = "a/b"; o.MaxAttempts = 1 })
			reader, ok := b.(objstore.ExpiryReader)
			if !ok {
				t.Fatal("the driver cannot read lifecycle rules")
			}
			got, err := reader.Expiries(t.Context())
			if c.err != nil {
				wantClass(t, "expiries", err, c.err)
			} else if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("expiries: %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

func (s suite) testConnectionsAreClosed(t *testing.T) {
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	gone := make(chan struct{}, 1)
	server := httptest.NewUnstartedServer(fakeStore(t))
	server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			open[conn] = true
		case http.StateClosed:
			delete(open, conn)
			if len(open) == 0 {
				gone <- struct{}{}
			}
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	b := s.open(t, server.URL, nil)
	if err := b.Put(t.Context(), "k", []byte("x"), objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	<-gone // no connection outlives the bucket
}
