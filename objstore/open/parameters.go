package open

import (
	"errors"
	"strconv"
	"time"

	"github.com/firnlog/firn/objstore/s3compat"
)

// Parameter is one parameter of the URLs s3:// and minio://. docs/buckets.md shows the same table; a test holds them together.
type Parameter struct {
	Name    string
	Value   string // what it takes
	Default string
	Doc     string

	set func(*s3compat.Options, string) error
}

// Parameters are all of them, in the order in which they are documented.
func Parameters() []Parameter {
	type options = s3compat.Options
	return []Parameter{
		{"endpoint", "URL", "AWS_ENDPOINT_URL_S3, else AWS; required for minio", "Where the store listens, such as http://10.0.0.1:9000.",
			field(asString, func(o *options) *string { return &o.Endpoint })},
		{"region", "name", "AWS_REGION, the profile's, else us-east-1 with an endpoint", "Region of the bucket; part of every signature.",
			field(asString, func(o *options) *string { return &o.Region })},
		{"path_style", "true or false", "false for s3, true for minio", "Put the bucket's name into the path instead of the host name.",
			field(asBool, func(o *options) *bool { return &o.PathStyle })},
		{"profile", "name", "AWS_PROFILE, else default", "Section of the shared AWS files that the credentials come from.",
			field(asString, func(o *options) *string { return &o.Profile })},
		{"anonymous", "true or false", "false", "Send requests unsigned and look for no credentials.",
			field(asBool, func(o *options) *bool { return &o.Anonymous })},
		{"checksum", "when_required or when_supported", "when_required with an endpoint, else when_supported",
			"When the driver adds checksums of its own to requests; many stores refuse those that AWS takes.",
			field(func(s string) (s3compat.ChecksumMode, error) { return s3compat.ChecksumMode(s), nil },
				func(o *options) *s3compat.ChecksumMode { return &o.ChecksumMode })},
		{"ca_file", "path", "the system's authorities", "Certificates in PEM that may vouch for an https endpoint, in place of the system's.",
			field(asString, func(o *options) *string { return &o.CAFile })},
		{"client_cert", "path", "none", "Certificate in PEM that identifies firn to the store; read again for every connection.",
			field(asString, func(o *options) *string { return &o.ClientCertFile })},
		{"client_key", "path", "none", "Private key of client_cert, in PEM.",
			field(asString, func(o *options) *string { return &o.ClientKeyFile })},
		{"insecure_skip_verify", "true or false", "false", "Take any certificate. Warned about at every start.",
			field(asBool, func(o *options) *bool { return &o.InsecureSkipVerify })},
		{"connect_timeout", "duration such as 3s", "3s", "Longest that making a connection may take.",
			field(asDuration, func(o *options) *time.Duration { return &o.ConnectTimeout })},
		{"attempt_timeout", "duration such as 30s", "30s", "Longest that one attempt may take, to the last byte of the answer.",
			field(asDuration, func(o *options) *time.Duration { return &o.AttemptTimeout })},
		{"max_attempts", "number from 1 to 20", "3", "Attempts of one call, the first included. Callers try again by themselves.",
			field(asCount, func(o *options) *int { return &o.MaxAttempts })},
		{"max_backoff", "duration such as 5s", "5s", "Longest pause between two attempts.",
			field(asDuration, func(o *options) *time.Duration { return &o.MaxBackoff })},
	}
}

// field makes a setter from a parser and the place of the value.
func field[T any](parse func(string) (T, error), at func(*s3compat.Options) *T) func(*s3compat.Options, string) error {
	return func(o *s3compat.Options, s string) error {
		if s == "" {
			return errors.New("it is empty; leave it out")
		}
		value, err := parse(s)
		if err == nil {
			*at(o) = value
		}
		return err
	}
}

func asString(s string) (string, error) { return s, nil }

func asBool(s string) (bool, error) { return strconv.ParseBool(s) }

func asDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && d == 0 {
		err = errors.New("it is 0; leave it out for the default")
	}
	return d, err
}

func asCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err == nil && n == 0 {
		err = errors.New("it is 0; leave it out for the default")
	}
	return n, err
}
