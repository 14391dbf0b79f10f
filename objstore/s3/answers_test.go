package s3_test

import (
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3"
	"github.com/firnlog/firn/objstore/s3compat/s3compattest"
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
			b := open(t, s3compattest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	t.Setenv("AWS_ENDPOINT_URL_S3", s3compattest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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

func TestWhoAsks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("[night]\naws_access_key_id = of-night\naws_secret_access_key = s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	for _, c := range []struct {
		change func(*s3.Options)
		want   string // in the signature
	}{
		{nil, "Credential=test/"},
		{func(o *s3.Options) { o.Profile = "night" }, "Credential=of-night/"},
		{func(o *s3.Options) { o.Anonymous = true }, ""},
	} {
		var signed string
		b := open(t, s3compattest.Serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { signed = r.Header.Get("Authorization") })), c.change)
		if err := b.Put(t.Context(), "k", []byte("x"), objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(signed, c.want) || c.want == "" && signed != "" {
			t.Errorf("signed %q, want %q", signed, c.want)
		}
	}
	for want, env := range map[string]map[string]string{
		"of-container":    {"AWS_CONTAINER_CREDENTIALS_FULL_URI": s3compattest.ContainerRole(t, "of-container")},
		"of-web-identity": s3compattest.WebIdentity(t, "of-web-identity"),
	} {
		t.Run(want, func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", "")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "")
			for name, value := range env {
				t.Setenv(name, value)
			}
			var signed string
			b := open(t, s3compattest.Serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { signed = r.Header.Get("Authorization") })),
				func(o *s3.Options) { o.Region = "us-east-1" })
			if err := b.Put(t.Context(), "k", []byte("x"), objstore.PutOptions{}); err != nil || !strings.Contains(signed, "Credential="+want+"/") {
				t.Errorf("signed %q, %v", signed, err)
			}
		})
	}
	options := s3compattest.Options("http://127.0.0.1:1")
	options.Profile = "day"
	if _, err := s3.New(t.Context(), options); !errors.Is(err, objstore.ErrInvalid) || !strings.Contains(err.Error(), "day") {
		t.Errorf("a profile that is not there: %v", err)
	}
}
