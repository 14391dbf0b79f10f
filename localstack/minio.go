package localstack

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// MinIO is a MinIO server: an S3-compatible store that is not in our process.
type MinIO struct {
	*Process
	Endpoint  string // URL
	AccessKey string
	SecretKey string
	CAFile    string // authority of its certificate; "" without TLS
	Console   string // URL of its page for people; "" for none

	direct string // URL of the process itself, with no link before it
	client *http.Client
}

// MinIOOptions say which server to run and where.
type MinIOOptions struct {
	// Dir holds its data, log and certificates. Required.
	Dir string
	// Binary is the server's program, as .ci/minio builds it. Required.
	Binary string
	// TLS serves https, with a certificate of an authority made for the occasion.
	TLS bool
	// Addr and Console are host:port of the server and of its page for people. "" is a free port, and no page.
	Addr, Console string
	// AccessKey and SecretKey are random where they are not given.
	AccessKey, SecretKey string
}

// StartMinIO starts a server and waits until it is ready. The caller closes it.
func StartMinIO(ctx context.Context, o MinIOOptions) (*MinIO, error) {
	m, err := newMinIO(o)
	if err != nil {
		return nil, err
	}
	err = m.Start()
	if err == nil {
		err = m.AwaitReady(ctx)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func newMinIO(o MinIOOptions) (*MinIO, error) {
	m := &MinIO{AccessKey: cmp.Or(o.AccessKey, rand.Text()), SecretKey: cmp.Or(o.SecretKey, rand.Text()), client: &http.Client{Timeout: time.Second, Transport: &http.Transport{}}}
	certs := filepath.Join(o.Dir, "minio-certs")
	if err := os.MkdirAll(certs, 0o755); err != nil {
		return nil, err
	}
	if o.Addr == "" {
		var err error
		if o.Addr, err = new(ports).take("minio"); err != nil {
			return nil, err
		}
	}
	m.Endpoint = "http://" + o.Addr
	if o.TLS {
		m.Endpoint = "https://" + o.Addr
		if err := m.certify(certs); err != nil {
			return nil, fmt.Errorf("certificate for MinIO: %w", err)
		}
	}
	m.direct = m.Endpoint
	args := []string{"server", "--quiet", "--address", o.Addr, "--certs-dir", certs}
	browser := "off"
	if o.Console != "" {
		browser, m.Console = "on", "http://"+o.Console
		args = append(args, "--console-address", o.Console)
	}
	var err error
	m.Process, err = newProcess("minio", o.Binary, filepath.Join(o.Dir, "minio.log"), append(args, filepath.Join(o.Dir, "minio"))...)
	if err != nil {
		return nil, err
	}
	m.env = []string{"MINIO_ROOT_USER=" + m.AccessKey, "MINIO_ROOT_PASSWORD=" + m.SecretKey, "MINIO_BROWSER=" + browser, "MINIO_UPDATE=off"}
	return m, nil
}

// AwaitReady waits until the server takes requests, or the process ends, or ctx does.
func (m *MinIO) AwaitReady(ctx context.Context) error {
	var last error
	for ctx.Err() == nil {
		if !m.Running() {
			return fmt.Errorf("minio ended while starting: %w; see %s", errors.Join(m.Err()), m.log.Name())
		}
		resp, err := m.client.Get(m.direct + "/minio/health/ready")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		last = err
		pause(ctx)
	}
	return fmt.Errorf("minio is not ready: %w (last answer: %w)", context.Cause(ctx), errors.Join(last))
}

// Close ends the server.
func (m *MinIO) Close() {
	m.close()
	m.client.CloseIdleConnections()
}

// CreateBucket makes a bucket, unless it is there. A server that has said it is ready may still be at its start, and is asked again.
func (m *MinIO) CreateBucket(ctx context.Context, name string) error {
	for {
		again, err := m.createBucket(ctx, name)
		if !again || ctx.Err() != nil {
			return err
		}
		pause(ctx)
	}
}

func (m *MinIO) createBucket(ctx context.Context, name string) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, m.direct+"/"+name, nil)
	if err != nil {
		return false, err
	}
	m.sign(req, time.Now().UTC())
	resp, err := m.client.Do(req)
	if err != nil {
		return true, fmt.Errorf("create bucket %s: %w", name, err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode == http.StatusOK || strings.Contains(string(body), "BucketAlreadyOwnedByYou") {
		return false, nil
	}
	return resp.StatusCode >= 500, fmt.Errorf("create bucket %s: %s: %s", name, resp.Status, body)
}

// sign signs a request that has no body and no parameters, by version 4 of AWS's scheme.
func (m *MinIO) sign(req *http.Request, now time.Time) {
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // SHA-256 of nothing
	stamp, day := now.Format("20060102T150405Z"), now.Format("20060102")
	req.Header.Set("X-Amz-Date", stamp)
	req.Header.Set("X-Amz-Content-Sha256", empty)
	signed := "host;x-amz-content-sha256;x-amz-date"
	canonical := fmt.Sprintf("%s\n%s\n\nhost:%s\nx-amz-content-sha256:%s\nx-amz-date:%s\n\n%s\n%s", req.Method, req.URL.Path, req.URL.Host, empty, stamp, signed, empty)
	scope := day + "/us-east-1/s3/aws4_request"
	key := []byte("AWS4" + m.SecretKey)
	digest := sha256.Sum256([]byte(canonical))
	for _, part := range []string{day, "us-east-1", "s3", "aws4_request", fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", stamp, scope, digest)} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x", m.AccessKey, scope, signed, key))
}

// URL is the bucket URL of a driver (s3 or minio) for what lies below prefix in a bucket.
func (m *MinIO) URL(driver, bucket, prefix string) string {
	query := url.Values{"endpoint": {m.Endpoint}, "path_style": {"true"}}
	if m.CAFile != "" {
		query.Set("ca_file", m.CAFile)
	}
	u := url.URL{Scheme: driver, Host: bucket, Path: "/" + prefix, RawQuery: query.Encode()}
	return u.String()
}

// Env is what a client's environment needs, as KEY=value: the credentials, and no others.
func (m *MinIO) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + m.AccessKey, "AWS_SECRET_ACCESS_KEY=" + m.SecretKey, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
}

// certify writes an authority and a server's certificate into dir, named as MinIO looks for them.
func (m *MinIO) certify(dir string) error {
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test store"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return err
	}
	serverDER, err := x509.CreateCertificate(rand.Reader, server, authority, serverKey.Public(), authorityKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		return err
	}
	parsed, err := x509.ParseCertificate(authorityDER)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	m.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	m.CAFile = filepath.Join(dir, "authority.pem")
	var errs []error
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{"authority.pem", "CERTIFICATE", authorityDER}, {"public.crt", "CERTIFICATE", serverDER}, {"private.key", "PRIVATE KEY", keyDER}} {
		errs = append(errs, os.WriteFile(filepath.Join(dir, f.name), pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600))
	}
	return errors.Join(errs...)
}
