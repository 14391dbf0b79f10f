package s3compat

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/firnlog/firn/objstore"
)

// ChecksumMode says when a driver adds a checksum of its own to requests.
type ChecksumMode string

// The modes, named as the AWS SDK's setting request_checksum_calculation names them.
const (
	ChecksumWhenSupported ChecksumMode = "when_supported"
	ChecksumWhenRequired  ChecksumMode = "when_required"
)

// Options say where the objects are, who asks for them and how hard to try. Credentials are never among them: they come
// from the driver's chain (environment, shared files, web identity, container, instance).
type Options struct {
	// Bucket is the name of the bucket, required.
	Bucket string
	// Prefix is put before every key, with a '/' between; "" for none. A slash at its end does not matter.
	Prefix string
	// Region of the bucket. Default: what the chain says, and us-east-1 where Endpoint is set and the chain is silent.
	Region string
	// Endpoint is the URL of a store that is not AWS, such as http://127.0.0.1:9000. Default: what the chain says, in
	// AWS_ENDPOINT_URL_S3 for one, else AWS. The minio driver requires one.
	Endpoint string
	// PathStyle puts the bucket's name into the path instead of the host name, as most stores that are not AWS need.
	PathStyle bool
	// ChecksumMode defaults to ChecksumWhenRequired with an endpoint and to ChecksumWhenSupported without.
	ChecksumMode ChecksumMode

	// Profile is the section of the shared files to take credentials from. Default: AWS_PROFILE, else "default".
	Profile string
	// Anonymous sends requests unsigned, without looking for credentials.
	Anonymous bool

	// CAFile holds the certificates, in PEM, of the authorities that may vouch for the store; the system's do not then.
	CAFile string
	// ClientCertFile and ClientKeyFile identify this client to the store, in PEM; both or none.
	ClientCertFile, ClientKeyFile string
	// InsecureSkipVerify takes any certificate: whoever sits on the path can read and change everything.
	InsecureSkipVerify bool

	// ConnectTimeout bounds making one connection. Default 3 s.
	ConnectTimeout time.Duration
	// AttemptTimeout bounds one attempt, from connecting to the last byte of the answer; a put has a second more for each MiB.
	// Default 30 s.
	AttemptTimeout time.Duration
	// MaxAttempts of one call, the first included. Default 3.
	MaxAttempts int
	// MaxBackoff bounds the pause between two attempts. Default 5 s.
	MaxBackoff time.Duration
	// ObjectBytesMax bounds an object that Put and Get accept, and so the memory that a Get allocates on a store's word.
	// Default 1 GiB.
	ObjectBytesMax int64
}

// slowestBytesPerSecond: a put that is slower is taken for stuck.
const slowestBytesPerSecond = 1 << 20

// attemptsMax: more would keep a caller waiting for minutes on a store that is down; callers have retries of their own.
const attemptsMax = 20

// Validate returns every problem at once, each an objstore.ErrInvalid that says how to mend it. It reads no file.
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
		o.validateEndpoint(problem)
	}
	switch o.ChecksumMode {
	case "", ChecksumWhenSupported, ChecksumWhenRequired:
	default:
		problem("checksum mode %q is neither %s nor %s", o.ChecksumMode, ChecksumWhenSupported, ChecksumWhenRequired)
	}
	if o.Anonymous && o.Profile != "" {
		problem("anonymous and profile %q exclude each other; leave one of them out", o.Profile)
	}
	if (o.ClientCertFile == "") != (o.ClientKeyFile == "") {
		problem("client_cert and client_key belong together; give both or none")
	}
	if o.InsecureSkipVerify && o.CAFile != "" {
		problem("insecure_skip_verify would make ca_file %s useless; leave one of them out", o.CAFile)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"connect_timeout", o.ConnectTimeout}, {"attempt_timeout", o.AttemptTimeout}, {"max_backoff", o.MaxBackoff}} {
		if d.value < 0 {
			problem("the timeout %s is negative (%v); leave it out for the default", d.name, d.value)
		}
	}
	if o.MaxAttempts < 0 || o.MaxAttempts > attemptsMax {
		problem("the limit max_attempts is %d, not in 1..%d; leave it out for the default", o.MaxAttempts, attemptsMax)
	}
	if o.ObjectBytesMax < 0 {
		problem("the limit of an object's size is negative (%d)", o.ObjectBytesMax)
	}
	return errors.Join(problems...)
}

func (o Options) validateEndpoint(problem func(format string, args ...any)) {
	endpoint, err := url.Parse(o.Endpoint)
	switch {
	case err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https":
		problem("endpoint is not of the form http://host:port or https://host:port")
		return
	case endpoint.User != nil:
		problem("endpoint %s holds credentials, which come from the environment or the shared files only", endpoint.Redacted())
	case endpoint.RawQuery != "" || endpoint.Fragment != "":
		problem("endpoint %s has parameters; write them into the bucket's URL, and percent-encode '&' and '?' in the endpoint", endpoint.Redacted())
	}
	if endpoint.Scheme != "http" {
		return
	}
	for _, tls := range []struct {
		name string
		set  bool
	}{{"ca_file", o.CAFile != ""}, {"client_cert", o.ClientCertFile != ""}, {"insecure_skip_verify", o.InsecureSkipVerify}} {
		if tls.set {
			problem("%s is given but the endpoint %s does not speak TLS; write https:// or leave it out", tls.name, endpoint.Redacted())
		}
	}
}

// WithDefaults fills in what Validate let pass as zero.
func (o Options) WithDefaults() Options {
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

// PutTimeout bounds one attempt to put an object of size bytes.
func (o Options) PutTimeout(size int64) time.Duration {
	return o.AttemptTimeout + time.Duration(size/slowestBytesPerSecond)*time.Second
}

// Warnings says what an operator should know about options that work, one line each.
func (o Options) Warnings() []string {
	var warnings []string
	if o.InsecureSkipVerify {
		warnings = append(warnings, "insecure_skip_verify=true: the store's certificate is NOT checked; anyone on the network path can read "+
			"and change every object and learn the credentials. Give ca_file= instead")
	}
	if o.Anonymous {
		warnings = append(warnings, "anonymous=true: requests are not signed; a bucket that lets firn write so lets everybody write")
	}
	return warnings
}

// KeyPrefix is Options.Prefix as it stands before a key: "" or ending in '/'.
func (o Options) KeyPrefix() string {
	if prefix := trimPrefix(o.Prefix); prefix != "" {
		return prefix + "/"
	}
	return ""
}

func trimPrefix(prefix string) string { return strings.TrimSuffix(prefix, "/") }
