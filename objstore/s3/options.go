package s3

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/firnlog/firn/objstore"
)

// ChecksumMode says when the SDK adds checksums of its own to requests and verifies them in responses.
type ChecksumMode string

// The modes, named as the SDK's own setting request_checksum_calculation names them.
const (
	ChecksumWhenSupported ChecksumMode = "when_supported"
	ChecksumWhenRequired  ChecksumMode = "when_required"
)

// Options say where the objects are and how hard to try. Credentials come from the SDK's default chain: environment,
// shared files, web identity, container, instance.
type Options struct {
	// Bucket is the name of the bucket, required.
	Bucket string
	// Prefix is put before every key, with a '/' between; "" for none. A slash at its end does not matter.
	Prefix string
	// Region of the bucket. Default: what the chain says, and us-east-1 where Endpoint is set and the chain is silent.
	Region string
	// Endpoint is the URL of a store that is not AWS, such as http://127.0.0.1:9000. Default: what the chain says, in
	// AWS_ENDPOINT_URL_S3 for one, else AWS.
	Endpoint string
	// PathStyle puts the bucket's name into the path instead of the host name, as most stores that are not AWS need.
	PathStyle bool
	// ChecksumMode defaults to ChecksumWhenRequired with an endpoint and to ChecksumWhenSupported without.
	ChecksumMode ChecksumMode
	// ConnectTimeout bounds making one connection. Default 3 s.
	ConnectTimeout time.Duration
	// AttemptTimeout bounds one attempt, from connecting to the last byte of the answer. Default 30 s.
	AttemptTimeout time.Duration
	// MaxAttempts of one call, the first included. Default 3.
	MaxAttempts int
	// MaxBackoff bounds the pause between two attempts. Default 5 s.
	MaxBackoff time.Duration
	// ObjectBytesMax bounds an object that Put and Get accept, and so the memory that a Get allocates on a store's word.
	// Default 1 GiB.
	ObjectBytesMax int64
}

// Validate returns every problem at once, each an objstore.ErrInvalid.
func (o Options) Validate() error {
	var problems []error
	problem := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf(format+": %w", append(args, objstore.ErrInvalid)...))
	}
	if o.Bucket == "" {
		problem("bucket name is empty")
	}
	if prefix := trimPrefix(o.Prefix); prefix != "" {
		if err := objstore.ValidateKey(prefix); err != nil {
			problems = append(problems, fmt.Errorf("prefix: %w", err))
		}
	}
	if o.Endpoint != "" {
		endpoint, err := url.Parse(o.Endpoint)
		switch {
		case err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https":
			problem("endpoint is not of the form http://host:port or https://host:port")
		case endpoint.User != nil:
			problem("endpoint %s holds credentials, which come from the environment or the shared files only", endpoint.Redacted())
		}
	}
	switch o.ChecksumMode {
	case "", ChecksumWhenSupported, ChecksumWhenRequired:
	default:
		problem("checksum mode %q is neither %s nor %s", o.ChecksumMode, ChecksumWhenSupported, ChecksumWhenRequired)
	}
	if o.ConnectTimeout < 0 || o.AttemptTimeout < 0 || o.MaxBackoff < 0 {
		problem("a timeout is negative")
	}
	if o.MaxAttempts < 0 || o.ObjectBytesMax < 0 {
		problem("a limit is negative")
	}
	return errors.Join(problems...)
}

func (o Options) withDefaults() Options {
	setDefault(&o.ConnectTimeout, 3*time.Second)
	setDefault(&o.AttemptTimeout, 30*time.Second)
	setDefault(&o.MaxBackoff, 5*time.Second)
	setDefault(&o.MaxAttempts, 3)
	setDefault(&o.ObjectBytesMax, 1<<30)
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
