package peer

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// Secret is what agents of one cluster know and nobody else. It prints as nothing.
type Secret struct{ key [SecretBytes]byte }

// SecretBytes is the size of a secret.
const SecretBytes = 32

// NewSecret takes a secret out of the metastore.
func NewSecret(b []byte) (s Secret, err error) {
	if len(b) != SecretBytes {
		return s, fmt.Errorf("the cluster's secret has %d bytes, not %d", len(b), SecretBytes)
	}
	copy(s.key[:], b)
	return s, nil
}

func (Secret) String() string       { return "(secret)" }
func (Secret) GoString() string     { return "(secret)" }
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

const (
	magic            = "firnpeer"
	handshakeVersion = 1
	nonceBytes       = 32
	macBytes         = sha256.Size
	helloBytes       = len(magic) + 1 + nonceBytes + macBytes
	answerBytes      = nonceBytes + macBytes

	labelHello    = "firn peer 1 hello"
	labelListener = "firn peer 1 listener"
	labelCaller   = "firn peer 1 caller"
)

var (
	// errStranger: the other end did not prove that it knows the secret.
	errStranger = errors.New("did not prove that it belongs to this cluster")
	// errRejected: the listener hung up.
	errRejected = errors.New("connection closed")
	// errVersion: the other end speaks a later handshake.
	errVersion = errors.New("speaks another version of the handshake")
)

// mac is a code over parts of fixed size.
func (s *Secret) mac(label string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, s.key[:])
	_, _ = io.WriteString(h, label)
	for _, p := range parts {
		_, _ = h.Write(p)
	}
	return h.Sum(nil)
}

func (s *Secret) proves(mac []byte, label string, parts ...[]byte) bool {
	return hmac.Equal(mac, s.mac(label, parts...))
}

// introduce is the caller's side.
func (s *Secret) introduce(nc net.Conn, deadline time.Time) error {
	if err := nc.SetDeadline(deadline); err != nil {
		return err
	}
	var mine [nonceBytes]byte
	_, _ = rand.Read(mine[:]) // never fails
	hello := append(make([]byte, 0, helloBytes), magic...)
	hello = append(hello, handshakeVersion)
	hello = append(hello, mine[:]...)
	hello = append(hello, s.mac(labelHello, mine[:])...)
	if _, err := nc.Write(hello); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	var answer [answerBytes]byte
	switch _, err := io.ReadFull(nc, answer[:]); {
	case errors.Is(err, io.EOF): // which is all that a listener of another secret says
		return fmt.Errorf("handshake: %w: it took this agent for a stranger, or is none of firn's", errRejected)
	case err != nil:
		return fmt.Errorf("handshake: %w", err)
	}
	theirs := answer[:nonceBytes]
	if !s.proves(answer[nonceBytes:], labelListener, mine[:], theirs) {
		return fmt.Errorf("handshake: %w", errStranger)
	}
	if _, err := nc.Write(s.mac(labelCaller, mine[:], theirs)); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	return nc.SetDeadline(time.Time{})
}

// receive is the listener's side. Before it is known that the other end has the secret, nothing is written.
func (s *Secret) receive(nc net.Conn, deadline time.Time) error {
	if err := nc.SetDeadline(deadline); err != nil {
		return err
	}
	var hello [helloBytes]byte
	// What is no hello is known by its first bytes: it need not come whole.
	for at := 0; at < helloBytes; {
		n, err := nc.Read(hello[at:])
		at += n
		if known := min(at, len(magic)); string(hello[:known]) != magic[:known] {
			return errStranger
		}
		if at > len(magic) && hello[len(magic)] != handshakeVersion {
			return fmt.Errorf("%w: %d, this agent %d", errVersion, hello[len(magic)], handshakeVersion)
		}
		if err != nil && at < helloBytes {
			return fmt.Errorf("%w: %w", errStranger, err)
		}
	}
	theirs, proof := hello[len(magic)+1:len(magic)+1+nonceBytes], hello[helloBytes-macBytes:]
	if !s.proves(proof, labelHello, theirs) {
		return errStranger
	}
	var answer [answerBytes]byte
	mine := answer[:nonceBytes]
	_, _ = rand.Read(mine) // never fails
	copy(answer[nonceBytes:], s.mac(labelListener, theirs, mine))
	if _, err := nc.Write(answer[:]); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	var last [macBytes]byte
	if _, err := io.ReadFull(nc, last[:]); err != nil {
		return fmt.Errorf("%w: %w", errStranger, err)
	}
	if !s.proves(last[:], labelCaller, theirs, mine) {
		return errStranger
	}
	return nc.SetDeadline(time.Time{})
}
