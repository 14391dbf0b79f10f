package localstack

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// MinIO is a MinIO server: an S3-compatible store that is not in our process.
type MinIO struct {
	*Process
	Endpoint  string // URL
	AccessKey string
	SecretKey string
	CAFile    string // authority of its certificate; "" without TLS

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
}

// StartMinIO starts a server with random credentials and waits until it is ready. The caller closes it.
func StartMinIO(ctx context.Context, o MinIOOptions) (*MinIO, error) {
	m := &MinIO{AccessKey: rand.Text(), SecretKey: rand.Text(), client: &http.Client{Timeout: time.Second, Transport: &http.Transport{}}}
	certs := filepath.Join(o.Dir, "minio-certs")
	if err := os.MkdirAll(certs, 0o755); err != nil {
		return nil, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	m.Endpoint = "http://" + ports[0]
	if o.TLS {
		m.Endpoint = "https://" + ports[0]
		if err := m.certify(certs); err != nil {
			return nil, fmt.Errorf("certificate for MinIO: %w", err)
		}
	}
	m.Process, err = newProcess("minio", o.Binary, filepath.Join(o.Dir, "minio.log"),
		"server", "--quiet", "--address", ports[0], "--certs-dir", certs, filepath.Join(o.Dir, "minio"))
	if err != nil {
		return nil, err
	}
	m.env = []string{"MINIO_ROOT_USER=" + m.AccessKey, "MINIO_ROOT_PASSWORD=" + m.SecretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off"}
	if err := m.Start(); err != nil {
		return nil, err
	}
	if err := m.AwaitReady(ctx); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// AwaitReady waits until the server takes requests, or the process ends, or ctx does.
func (m *MinIO) AwaitReady(ctx context.Context) error {
	var last error
	for ctx.Err() == nil {
		if !m.Running() {
			return fmt.Errorf("minio ended while starting: %w; see %s", errors.Join(m.Err()), m.log.Name())
		}
		resp, err := m.client.Get(m.Endpoint + "/minio/health/ready")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		last = err
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("minio is not ready: %w (last answer: %w)", context.Cause(ctx), errors.Join(last))
}

// Close ends the server.
func (m *MinIO) Close() {
	m.close()
	m.client.CloseIdleConnections()
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
