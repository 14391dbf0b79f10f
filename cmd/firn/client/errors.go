package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	// ErrUsage is wrapped by errors about what the user asked for, as opposed to what the brokers answered.
	ErrUsage = errors.New("usage")
	// ErrNotFound is wrapped where what was named is not there.
	ErrNotFound = errors.New("not found")
	// ErrNoAnswer is wrapped where no broker could be spoken to.
	ErrNoAnswer = errors.New("no broker answers")
	// ErrNoAgent is ErrNoAnswer of an agent's --http address.
	ErrNoAgent error = noAgent{}
)

type noAgent struct{}

func (noAgent) Error() string        { return "no agent answers" }
func (noAgent) Is(target error) bool { return target == ErrNoAnswer }

// NotFound says whether what was named is not there, in our words or a broker's.
func NotFound(err error) bool {
	return isAny(err, ErrNotFound, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.GroupIDNotFound, kerr.ResourceNotFound)
}

// NoAnswer says whether an address could not be reached, or an answer did not come in time.
func NoAnswer(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	var eof *kgo.ErrFirstReadEOF
	return errors.As(err, &eof) || isAny(err, ErrNoAnswer, context.DeadlineExceeded, os.ErrDeadlineExceeded, kgo.ErrRecordTimeout, kgo.ErrRecordRetries, kerr.RequestTimedOut)
}

// Denied says whether one side would not trust the other: passwords, certificates, permissions.
func Denied(err error) bool {
	var certificate *tls.CertificateVerificationError
	var alert tls.AlertError
	return errors.As(err, &certificate) || errors.As(err, &alert) || isAny(err,
		kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState,
		kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed,
		kerr.TransactionalIDAuthorizationFailed, kerr.DelegationTokenAuthorizationFailed)
}

func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// mendConnection says what would mend the common reasons for which nobody answers, or refuses to.
func mendConnection(err error) string {
	var op *net.OpError
	var header tls.RecordHeaderError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &header):
		return "the broker speaks no TLS on this port; name another, or drop TLS with firn context set NAME --tls=false"
	case errors.As(err, &certificate):
		return "name the authority that signed it with firn context set NAME --tls-ca, or the name it has with --tls-server-name"
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return "check user and password of the context, see firn context show"
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		return "choose another with firn context set NAME --sasl-mechanism"
	case Denied(err):
		return "check user and certificates of the context, see firn context show"
	case errors.As(err, &op) && op.Op == "dial", isAny(err, context.DeadlineExceeded, context.Canceled):
		return "start one there, or name others with --brokers"
	}
	return "the broker may want TLS or a user, speak no TLS, or not like the password; see firn context set --help" // there is one
}

// ConnectError words why no broker of a list could be spoken to, with what would mend it. It wraps ErrNoAnswer unless one
// side would not trust the other.
func ConnectError(brokers string, err error) error {
	if Denied(err) {
		return fmt.Errorf("not let in by %s: %w; %s", brokers, err, mendConnection(err))
	}
	return fmt.Errorf("%w at %s: %w; %s", ErrNoAnswer, brokers, err, mendConnection(err))
}

// Answer is a broker's error in the broker's own words: its code, and what it says to it, or, where it says nothing, what
// the protocol says of the code.
type Answer struct {
	Err    error
	Detail string
}

func (a Answer) Error() string {
	var code *kerr.Error
	if a.Detail == "" || !errors.As(a.Err, &code) {
		return a.Err.Error()
	}
	return code.Message + ": " + strings.TrimSuffix(a.Detail, ".")
}

func (a Answer) Unwrap() error { return a.Err }

// TopicError words a broker's answer about one topic, with what would mend the common ones.
func TopicError(step, topic string, err error, detail string) error {
	mend := ""
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists):
		mend = "; choose another name, or delete it first"
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		mend = "; see firn topic list"
	case errors.Is(err, kerr.InvalidPartitions):
		mend = "; a topic has at least one partition, and only gains more"
	case errors.Is(err, kerr.MessageTooLarge):
		mend = "; raise --batch-bytes, and max.message.bytes of the topic where that is the smaller one"
	case errors.Is(err, kerr.InvalidReplicationFactor):
		mend = "; there may be fewer brokers than --replication-factor"
	}
	return fmt.Errorf("%s topic %q: %w%s", step, topic, Answer{err, detail}, mend)
}
