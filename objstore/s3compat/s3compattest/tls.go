package s3compattest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

// clientFiles makes a certificate that signs itself and returns its files.
func clientFiles(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	dir := t.TempDir()
	return pemFile(t, dir, "client.crt", "CERTIFICATE", der), pemFile(t, dir, "client.key", "PRIVATE KEY", keyDER), pool
}

func pemFile(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s suite) testTLS(t *testing.T) {
	cert, key, clients := clientFiles(t)
	server := httptest.NewUnstartedServer(fakeStore(t))
	server.TLS = &tls.Config{ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	server.Config.ErrorLog = discard()
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := pemFile(t, t.TempDir(), "ca.crt", "CERTIFICATE", server.Certificate().Raw)
	for _, c := range []struct {
		name   string
		change func(*s3compat.Options)
		want   error // nil where it works
	}{
		{"its authority is known and we are", func(o *s3compat.Options) { o.CAFile, o.ClientCertFile, o.ClientKeyFile = ca, cert, key }, nil},
		{"nothing is checked", func(o *s3compat.Options) { o.InsecureSkipVerify, o.ClientCertFile, o.ClientKeyFile = true, cert, key }, nil},
		{"its authority is unknown", func(o *s3compat.Options) { o.ClientCertFile, o.ClientKeyFile = cert, key }, objstore.ErrUnavailable},
		{"another authority", func(o *s3compat.Options) { o.CAFile, o.ClientCertFile, o.ClientKeyFile = cert, cert, key }, objstore.ErrUnavailable},
		{"we are unknown", func(o *s3compat.Options) { o.CAFile = ca }, objstore.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := s.open(t, server.URL, func(o *s3compat.Options) {
				o.MaxAttempts = 1
				c.change(o)
			})
			err := b.Put(t.Context(), "k", []byte("x"), objstore.PutOptions{})
			if c.want == nil && err != nil {
				t.Errorf("put: %v", err)
			}
			if c.want != nil {
				wantClass(t, "put", err, c.want)
			}
			warner, ok := b.(objstore.Warner)
			if !ok {
				t.Fatal("the driver has no warnings")
			}
			loud := slices.ContainsFunc(warner.Warnings(), func(w string) bool { return contains(w, "insecure_skip_verify", "NOT checked") })
			if want := c.name == "nothing is checked"; loud != want {
				t.Errorf("warnings: %q", warner.Warnings())
			}
		})
	}
}

func (s suite) testTLSFiles(t *testing.T) {
	cert, key, _ := clientFiles(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("nothing in PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*s3compat.Options)
		says   string
	}{
		{func(o *s3compat.Options) { o.CAFile = "/no/such/file" }, "ca_file"},
		{func(o *s3compat.Options) { o.CAFile = empty }, "BEGIN CERTIFICATE"},
		{func(o *s3compat.Options) { o.ClientCertFile, o.ClientKeyFile = cert, empty }, "client_key"},
		{func(o *s3compat.Options) { o.ClientCertFile, o.ClientKeyFile = key, cert }, "client_cert"},
		{func(o *s3compat.Options) { o.ClientCertFile = cert }, "client_key"},
		{func(o *s3compat.Options) { o.InsecureSkipVerify, o.CAFile = true, cert }, "useless"},
		{func(o *s3compat.Options) { o.Endpoint, o.CAFile = "http://127.0.0.1:1", cert }, "https://"},
	} {
		options := Options("https://127.0.0.1:1")
		c.change(&options)
		b, err := s.driver(t, options)
		if err == nil {
			_ = b.Close()
			t.Errorf("opened where %q was expected", c.says)
			continue
		}
		wantClass(t, "open", err, objstore.ErrInvalid)
		if !contains(err.Error(), c.says) {
			t.Errorf("error does not say %q: %v", c.says, err)
		}
	}
}
