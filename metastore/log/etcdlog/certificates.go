package etcdlog

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// Authorities reads the certificates of the authorities that may have signed etcd's.
func Authorities(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	return pool, nil
}

// ClientCertificate is a certificate and its key in two files, by which we show etcd who we are. The files are read again
// when they change, so that a certificate can be renewed under a running agent; connections made from then on use it.
// Safe for concurrent use.
type ClientCertificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu     sync.Mutex // guards what follows
	cert   *tls.Certificate
	stamps [2]stamp // of the files that cert was read from
}

// stamp tells versions of a file apart.
type stamp struct {
	modified time.Time
	size     int64
}

// NewClientCertificate reads the files, and refuses what etcd would: a key of another certificate, one that is not valid now,
// one that is not for clients. A nil logger is silent.
func NewClientCertificate(certFile, keyFile string, logger *slog.Logger) (*ClientCertificate, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := &ClientCertificate{certFile: certFile, keyFile: keyFile, logger: logger}
	stamps, err := c.look()
	if err != nil {
		return nil, err
	}
	if c.cert, err = c.load(); err != nil {
		return nil, err
	}
	c.stamps = stamps
	return c, nil
}

// Get is for tls.Config.GetClientCertificate. Files that cannot be used, such as half of a renewal, leave the certificate
// that there was.
func (c *ClientCertificate) Get(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamps, err := c.look()
	if err == nil && stamps == c.stamps {
		return c.cert, nil
	}
	var fresh *tls.Certificate
	if err == nil {
		fresh, err = c.load()
	}
	if err != nil {
		c.logger.Warn("etcd client certificate cannot be read again, keeping the one there was", "error", err)
		return c.cert, nil
	}
	c.cert, c.stamps = fresh, stamps
	c.logger.Info("etcd client certificate read again", "file", c.certFile, "not_after", fresh.Leaf.NotAfter)
	return c.cert, nil
}

func (c *ClientCertificate) look() (stamps [2]stamp, err error) {
	for i, path := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return stamps, err
		}
		stamps[i] = stamp{info.ModTime(), info.Size()}
	}
	return stamps, nil
}

func (c *ClientCertificate) load() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("%s with key %s: %w", c.certFile, c.keyFile, err)
	}
	leaf := cert.Leaf
	switch now := time.Now(); {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("%s has expired on %s; renew it", c.certFile, leaf.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("%s is not valid before %s; check this machine's clock", c.certFile, leaf.NotBefore.UTC().Format(time.RFC3339))
	case len(leaf.ExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return nil, fmt.Errorf("%s is not for clients: its extended key usage lacks client authentication", c.certFile)
	}
	return &cert, nil
}

// TLS are the files and words for TLS to etcd.
type TLS struct {
	CAFile             string // authorities; "" for the system's
	CertFile, KeyFile  string // our certificate; both or none
	ServerName         string // to expect in etcd's certificate; "" for the host in the endpoint
	InsecureSkipVerify bool   // take any certificate of etcd
	Logger             *slog.Logger
}

// Config reads the files and reports every problem at once. It is nil where nothing is set.
func (t TLS) Config() (*tls.Config, error) {
	if t.CAFile == "" && t.CertFile == "" && t.KeyFile == "" && t.ServerName == "" && !t.InsecureSkipVerify {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.InsecureSkipVerify}
	var errs []error
	var err error
	if t.CAFile != "" {
		if c.RootCAs, err = Authorities(t.CAFile); err != nil {
			errs = append(errs, fmt.Errorf("etcd's authorities: %w", err))
		}
	}
	if t.ServerName != "" && !t.InsecureSkipVerify {
		expect(c, t.ServerName)
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		errs = append(errs, errors.New("a client certificate for etcd needs its key, and a key its certificate"))
	} else if t.CertFile != "" {
		cert, err := NewClientCertificate(t.CertFile, t.KeyFile, t.Logger)
		if err != nil {
			errs = append(errs, fmt.Errorf("client certificate for etcd: %w", err))
		} else {
			c.GetClientCertificate = cert.Get
		}
	}
	return c, errors.Join(errs...)
}

// expect makes c verify the server's certificate for a name of our choice. tls.Config.ServerName would not do: gRPC overwrites
// it with the endpoint's host, without a word. So the verification of the standard library is switched off and done here.
func expect(c *tls.Config, name string) {
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(state tls.ConnectionState) error {
		rest := x509.NewCertPool()
		for _, cert := range state.PeerCertificates[1:] {
			rest.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: name, Roots: c.RootCAs, Intermediates: rest})
		return err
	}
}
