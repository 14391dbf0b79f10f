package s3compat

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/firnlog/firn/objstore"
)

const (
	idleConnsMax = 256     // kept open for the next burst; a dial with TLS costs more than a small put
	socketBuffer = 1 << 16 // bytes; halves the system calls for a segment
)

// Transport makes an HTTP transport for the store. The caller closes its idle connections.
func (o Options) Transport() (*http.Transport, error) {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: 30 * time.Second}).DialContext,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
	}
	return t, o.Tune(t)
}

// Tune makes t fit for segments and gives it the TLS settings of the options. An error is objstore.ErrInvalid and names
// the file that cannot be used.
func (o Options) Tune(t *http.Transport) error {
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 2*idleConnsMax, idleConnsMax
	t.ReadBufferSize, t.WriteBufferSize = socketBuffer, socketBuffer
	t.DisableCompression = true // bytes must come back as they were put
	// One HTTP/2 connection would carry all transfers and limit them to one server and one TCP window.
	t.ForceAttemptHTTP2 = false
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	return o.tuneTLS(t)
}

// tuneTLS leaves alone what the options say nothing about: the AWS configuration may have put an authority there.
func (o Options) tuneTLS(t *http.Transport) error {
	if o.CAFile == "" && o.ClientCertFile == "" && !o.InsecureSkipVerify {
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.TLSClientConfig != nil {
		config = t.TLSClientConfig.Clone()
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return fmt.Errorf("ca_file: %w: %w", objstore.ErrInvalid, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("ca_file: %w: %s holds no certificate in PEM; it should start with -----BEGIN CERTIFICATE-----", objstore.ErrInvalid, o.CAFile)
		}
	}
	if o.ClientCertFile != "" {
		if _, err := tls.LoadX509KeyPair(o.ClientCertFile, o.ClientKeyFile); err != nil {
			return fmt.Errorf("client_cert and client_key: %w: %w", objstore.ErrInvalid, err)
		}
		// Read again for every handshake: such certificates live for days and are replaced under a running agent.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(o.ClientCertFile, o.ClientKeyFile)
			return &pair, err
		}
	}
	config.InsecureSkipVerify = o.InsecureSkipVerify
	t.TLSClientConfig = config
	return nil
}
