package etcdlog

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/metastore/log"
)

// diagnoseTimeout bounds the look at one endpoint.
const diagnoseTimeout = 3 * time.Second

// diagnose says why no endpoint answers, where a connection of our own can tell: etcd's client reports a certificate that it
// does not trust, a server that speaks no TLS and a machine that is off all as a deadline that passed. The error is
// ErrRefused where an endpoint is there and trying again is of no use; nil where there is nothing to add.
func (o Options) diagnose(ctx context.Context) error {
	if o.Client != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), diagnoseTimeout)
	defer cancel()
	found := make([]error, len(o.Endpoints))
	var looking sync.WaitGroup
	for i, endpoint := range o.Endpoints {
		looking.Go(func() { found[i] = o.look(ctx, endpoint) })
	}
	looking.Wait()
	return errors.Join(found...)
}

// look connects to one endpoint as the client would.
func (o Options) look(ctx context.Context, endpoint string) error {
	scheme, address, given := strings.Cut(endpoint, "://")
	if !given {
		scheme, address = "", endpoint
	}
	if scheme != "" && scheme != "http" && scheme != "https" {
		return nil
	}
	address = strings.TrimSuffix(address, "/")
	secure := scheme == "https" || scheme == "" && o.TLS != nil
	because := func(class error, format string, args ...any) error {
		return fmt.Errorf("%w: etcd endpoint %s: %w", class, endpoint, fmt.Errorf(format, args...))
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%w: etcd endpoint %s: %w; is etcd running there?", log.ErrUnavailable, endpoint, err)
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	host, _, _ := net.SplitHostPort(address)
	if !secure {
		if err := greet(conn); err == nil || isTimeout(err) {
			return nil
		}
		// It hangs up on plain text. Does it speak TLS? Nothing is sent over this connection, so any certificate will do.
		again, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil
		}
		defer func() { _ = again.Close() }()
		if tls.Client(again, &tls.Config{InsecureSkipVerify: true, ServerName: host, NextProtos: []string{"h2"}}).HandshakeContext(ctx) == nil {
			return because(log.ErrRefused, "it speaks TLS; write https://%s, and name its authority with --etcd-ca-file where the system does not know it", address)
		}
		return because(log.ErrUnavailable, "it hangs up on a client of etcd; is it etcd's client address (port 2379, if nothing else was said there), and has a load balancer there an etcd behind it?")
	}
	config := o.TLS.Clone()
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	config.NextProtos = []string{"h2"}
	// A server without TLS may wait for more of what it takes for a request: half of the time is left for asking it in plain.
	_ = conn.SetDeadline(time.Now().Add(diagnoseTimeout / 2))
	secured := tls.Client(conn, config)
	if err = secured.HandshakeContext(ctx); err == nil {
		err = greet(secured) // where etcd does not like our certificate, TLS 1.3 says so only now
	}
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		alert     tls.AlertError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &authority):
		return because(log.ErrDenied, "its certificate is signed by an authority that is not trusted: %w; name the right one with --etcd-ca-file", err)
	case errors.As(err, &name):
		return because(log.ErrDenied, "its certificate is for another name: %w; use that name in --etcd, or say which to expect with --etcd-server-name", err)
	case errors.As(err, &invalid):
		return because(log.ErrDenied, "its certificate cannot be used: %w", err)
	case errors.As(err, &alert) || strings.Contains(err.Error(), "remote error: tls"):
		return because(log.ErrDenied, "it does not accept our certificate: %w; give it one that its --trusted-ca-file has signed, with --etcd-cert-file and --etcd-key-file", err)
	case errors.As(err, &record) || greets(ctx, address):
		return because(log.ErrRefused, "it speaks no TLS; write http://%s, or turn TLS on there", address)
	}
	return nil
}

// greets says whether a plain HTTP/2 server listens at address.
func greets(ctx context.Context, address string) bool {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	return greet(conn) == nil
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// greet opens HTTP/2 and waits for the first byte of the answer.
func greet(conn net.Conn) error {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	settings := []byte{0, 0, 0, 4, 0, 0, 0, 0, 0} // an empty SETTINGS frame
	if _, err := conn.Write(append([]byte(preface), settings...)); err != nil {
		return err
	}
	var first [9]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return err
	}
	if first[3] != 4 { // of an HTTP/2 server the first frame is SETTINGS
		return errors.New("no HTTP/2")
	}
	return nil
}
