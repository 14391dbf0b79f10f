package minio_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/minio"
	"github.com/firnlog/firn/objstore/objstoretest"
	"github.com/firnlog/firn/objstore/s3compat"
	"github.com/firnlog/firn/objstore/s3compat/s3compattest"
)

func TestMain(m *testing.M) {
	// Credentials that nothing checks, and no file or network service of this machine asked for others.
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "MINIO_SHARED_CREDENTIALS_FILE": os.DevNull,
		"AWS_REGION": "", "AWS_PROFILE": "",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

func driver(_ *testing.T, options s3compat.Options) (objstore.Bucket, error) {
	b, err := minio.New(options)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func open(t *testing.T, options minio.Options) *minio.Bucket {
	t.Helper()
	b, err := minio.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestContract(t *testing.T) {
	for _, mode := range []s3compat.ChecksumMode{s3compat.ChecksumWhenRequired, s3compat.ChecksumWhenSupported} {
		t.Run(string(mode), func(t *testing.T) {
			objstoretest.Run(t, func(t *testing.T) objstore.Bucket {
				options := s3compattest.Options(s3compattest.Serve(t, s3compattest.FakeStore(t)))
				options.ChecksumMode = mode
				return open(t, options)
			})
		})
	}
}

func TestAnswers(t *testing.T) { s3compattest.Run(t, driver) }

// requests notes every request that a store gets.
type requests struct {
	mu   sync.Mutex // guards seen
	seen []*http.Request
}

func (r *requests) serve(t *testing.T, then http.Handler) string {
	return s3compattest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.mu.Lock()
		r.seen = append(r.seen, request)
		r.mu.Unlock()
		then.ServeHTTP(w, request)
	}))
}

func TestOneRequestACall(t *testing.T) {
	var r requests
	options := s3compattest.Options(r.serve(t, s3compattest.FakeStore(t)))
	options.Region = ""
	b := open(t, options)
	if err := b.Put(t.Context(), "large", make([]byte, 40<<20), objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), "large"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Head(t.Context(), "large"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.List(t.Context(), "", "", 10); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), "large", "absent"); err != nil {
		t.Fatal(err)
	}
	if len(r.seen) != 5 {
		for _, request := range r.seen {
			t.Log(request.Method, request.URL)
		}
		t.Errorf("%d requests for 5 calls", len(r.seen))
	}
	put := r.seen[0].Header
	if got := put.Get("X-Amz-Content-Sha256"); len(got) != 64 {
		t.Errorf("X-Amz-Content-Sha256 of a put is %q, want a hash of the whole body", got)
	}
	if got := put.Get("Content-Encoding") + put.Get("X-Amz-Trailer") + put.Get("Expect"); got != "" {
		t.Errorf("put carries %q", got)
	}
	if got := r.seen[4].Header.Get("Content-Md5"); got == "" {
		t.Errorf("delete carries no Content-MD5")
	}
}

func TestAChecksumOfferedIsCompared(t *testing.T) {
	var r requests
	options := s3compattest.Options(r.serve(t, s3compattest.FakeStore(t)))
	options.ChecksumMode = s3compat.ChecksumWhenSupported
	if err := open(t, options).Put(t.Context(), "k", []byte("123456789"), objstore.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	if got := r.seen[0].Header.Get("X-Amz-Checksum-Crc32c"); got != "4waSgw==" { // the check value of CRC-32C
		t.Errorf("checksum %q", got)
	}
	if got := r.seen[0].Header.Get("If-None-Match"); got != "*" {
		t.Errorf("If-None-Match: %q", got)
	}
}

func TestAStoreThatLeavesAKeyUnanswered(t *testing.T) {
	const key = "<DeleteResult><Deleted><Key>a</Key></Deleted>%s</DeleteResult>"
	for name, rest := range map[string]string{
		"nothing":                       "",
		"an error the library swallows": "<Error><Key>b</Key><Code>InvalidArgument</Code><Message>m</Message></Error>",
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, s3compattest.Options(s3compattest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(strings.Replace(key, "%s", rest, 1)))
			}))))
			if err := b.Delete(t.Context(), "a", "b"); !errors.Is(err, objstore.ErrUnavailable) {
				t.Errorf("delete: %v, want ErrUnavailable", err)
			}
		})
	}
}

func TestAnErrorInsideA200OfADelete(t *testing.T) {
	b := open(t, s3compattest.Options(s3compattest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<Error><Code>InternalError</Code></Error>"))
	}))))
	if err := b.Delete(t.Context(), "a", "b"); !errors.Is(err, objstore.ErrUnavailable) {
		t.Errorf("delete: %v, want ErrUnavailable", err)
	}
}

func TestA200ForADelete(t *testing.T) {
	b := open(t, s3compattest.Options(s3compattest.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))))
	if err := b.Delete(t.Context(), "a"); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func TestWhereCredentialsComeFrom(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		"aws": "[default]\naws_access_key_id = of-default\naws_secret_access_key = s\n[night]\naws_access_key_id = of-night\naws_secret_access_key = s\n",
		"mc":  `{"version":"10","aliases":{"s3":{"accessKey":"of-mc","secretKey":"s","api":"S3v4"}}}`,
	}
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	aws, mc := filepath.Join(dir, "aws"), filepath.Join(dir, "mc")
	role := s3compattest.ContainerRole(t, "of-container")
	for _, c := range []struct {
		name    string
		env     map[string]string
		change  func(*minio.Options)
		want    string // of the access key
		problem string
	}{
		{"environment of AWS", map[string]string{"AWS_ACCESS_KEY_ID": "of-env", "AWS_SECRET_ACCESS_KEY": "s", "MINIO_ROOT_USER": "no", "MINIO_ROOT_PASSWORD": "no"}, nil, "of-env", ""},
		{"environment of MinIO", map[string]string{"MINIO_ROOT_USER": "of-root", "MINIO_ROOT_PASSWORD": "s", "AWS_SHARED_CREDENTIALS_FILE": aws}, nil, "of-root", ""},
		{"shared file", map[string]string{"AWS_SHARED_CREDENTIALS_FILE": aws, "MINIO_SHARED_CREDENTIALS_FILE": mc}, nil, "of-default", ""},
		{"profile", map[string]string{"AWS_SHARED_CREDENTIALS_FILE": aws, "AWS_ACCESS_KEY_ID": "no", "AWS_SECRET_ACCESS_KEY": "no"},
			func(o *minio.Options) { o.Profile = "night" }, "of-night", ""},
		{"profile that is not there", map[string]string{"AWS_SHARED_CREDENTIALS_FILE": aws, "AWS_ACCESS_KEY_ID": "no", "AWS_SECRET_ACCESS_KEY": "no"},
			func(o *minio.Options) { o.Profile = "day" }, "", `profile "day"`},
		{"file of the MinIO client", map[string]string{"MINIO_SHARED_CREDENTIALS_FILE": mc}, nil, "of-mc", ""},
		{"container role", map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": role}, nil, "of-container", ""},
		{"web identity", s3compattest.WebIdentity(t, "of-web-identity"), nil, "of-web-identity", ""},
		{"nowhere", nil, nil, "", "no credentials"},
		{"nowhere, but asked for none", nil, func(o *minio.Options) { o.Anonymous = true }, "anonymous", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"} {
				t.Setenv(name, "")
			}
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			var r requests
			options := s3compattest.Options(r.serve(t, s3compattest.FakeStore(t)))
			if c.change != nil {
				c.change(&options)
			}
			err := open(t, options).Put(t.Context(), "k", []byte("x"), objstore.PutOptions{})
			if c.problem != "" {
				if !errors.Is(err, objstore.ErrUnavailable) || !strings.Contains(err.Error(), c.problem) {
					t.Errorf("put: %v, want one that says %q", err, c.problem)
				}
				if len(r.seen) > 0 {
					t.Errorf("%d requests went out unsigned", len(r.seen))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			signed := r.seen[0].Header.Get("Authorization")
			if c.want == "anonymous" && signed != "" || c.want != "anonymous" && !strings.Contains(signed, "Credential="+c.want+"/") {
				t.Errorf("signed %q, want the key %s", signed, c.want)
			}
		})
	}
}

func TestOptionsAreCheckedTogether(t *testing.T) {
	_, err := minio.New(minio.Options{Prefix: "../up", ChecksumMode: "never", MaxAttempts: -1, ConnectTimeout: -1})
	if !errors.Is(err, objstore.ErrInvalid) {
		t.Fatalf("error %v, want ErrInvalid", err)
	}
	for _, part := range []string{"bucket name", "../up", "never", "max_attempts", "connect_timeout", "endpoint=http://"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not speak of %s: %v", part, err)
		}
	}
	if _, err := minio.New(minio.Options{Bucket: "snow", Endpoint: "http://proxy/store/"}); !errors.Is(err, objstore.ErrInvalid) || !strings.Contains(err.Error(), "path") {
		t.Errorf("an endpoint with a path: %v", err)
	}
}

// A store may answer before it has read the body. The caller's buffer is its own again when Put returns: nothing that it writes
// there then goes out.
func TestABodyIsNotReadOnceThePutHasReturned(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	leaked := make(chan bool, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			leaked <- true
			return
		}
		defer conn.Close()
		head := bufio.NewReader(conn)
		for line := ""; line != "\r\n" && err == nil; {
			line, err = head.ReadString('\n')
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n")
		rest, _ := io.ReadAll(io.LimitReader(head, 64<<20)) // as a store does that drains what it has refused
		leaked <- bytes.IndexByte(rest, 0) >= 0
	}()
	options := s3compattest.Options("http://" + listener.Addr().String())
	body := bytes.Repeat([]byte{'x'}, 64<<20)
	if err := open(t, options).Put(t.Context(), "k", body, objstore.PutOptions{IfAbsent: true}); !errors.Is(err, objstore.ErrExists) {
		t.Errorf("put: %v", err)
	}
	clear(body)
	if <-leaked {
		t.Error("the store got what the caller wrote after the put")
	}
}

func TestAbilities(t *testing.T) {
	opened := func(locking bool) func(t *testing.T) objstore.Bucket {
		return func(t *testing.T) objstore.Bucket {
			options := s3compattest.Options(s3compattest.Serve(t, s3compattest.XMLStore(t, locking)))
			options.Prefix = "cluster-1"
			return open(t, options)
		}
	}
	objstoretest.RunAbilities(t, opened(false), opened(true))
}
