package open

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/file"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/s3"
)

// Options are what the URL leaves open; where both speak, the URL wins.
type Options struct {
	// S3 holds tunables of the s3 driver.
	S3 s3.Options
}

// Open makes the bucket that rawURL names. It creates the directory of a file URL, and sends no request for an s3 URL.
// What is wrong with the URL is an objstore.ErrInvalid that says where and how to mend it, and never repeats a password.
func Open(ctx context.Context, rawURL string, options Options) (objstore.Bucket, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		if parse := (*url.Error)(nil); errors.As(err, &parse) {
			err = parse.Err // without the URL, which may hold a password
		}
		return nil, fmt.Errorf("bucket URL: %w: %w", objstore.ErrInvalid, err)
	}
	bucket, err := open(ctx, u, options)
	if err != nil {
		return nil, fmt.Errorf("bucket URL %s: %w", u.Redacted(), err)
	}
	return bucket, nil
}

func open(ctx context.Context, u *url.URL, options Options) (objstore.Bucket, error) {
	if u.User != nil {
		return nil, invalid("it holds credentials; remove them and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
	}
	if u.Opaque != "" || u.Fragment != "" {
		return nil, invalid("write scheme://…, without '#'")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("parameters: %w: %w", objstore.ErrInvalid, err)
	}
	p := params{values: query}
	switch u.Scheme {
	case "mem":
		if err := p.finish("mem"); err != nil {
			return nil, err
		}
		if u.Host != "" || u.Path != "" {
			return nil, invalid("a bucket in memory has no name; write mem://")
		}
		return mem.New(), nil
	case "file":
		if err := p.finish("file"); err != nil {
			return nil, err
		}
		root, err := directory(u)
		if err != nil {
			return nil, err
		}
		return openDriver(file.Open(root))
	case "s3":
		if options.S3, err = s3Options(u, &p, options.S3); err != nil {
			return nil, err
		}
		return openDriver(s3.New(ctx, options.S3))
	case "minio":
		return nil, invalid("scheme minio is not supported yet; write s3://%s%s?endpoint=http://host:9000&path_style=true", u.Host, u.Path)
	case "":
		return nil, invalid("it has no scheme; write file:///directory, s3://bucket or mem://")
	}
	return nil, invalid("unknown scheme %q; known are file, mem and s3", u.Scheme)
}

// openDriver keeps a nil pointer of a driver from becoming a bucket that is not nil.
func openDriver[B objstore.Bucket](bucket B, err error) (objstore.Bucket, error) {
	if err != nil {
		return nil, err
	}
	return bucket, nil
}

func directory(u *url.URL) (string, error) {
	switch u.Host {
	case "":
		if u.Path == "" {
			return "", invalid("it names no directory; write file:///directory")
		}
		return u.Path, nil
	case ".", "..":
		return u.Host + u.Path, nil
	}
	return "", invalid("%q stands where a host would; write file:///%s%s for an absolute directory, file://./%s%s for a relative one",
		u.Host, u.Host, u.Path, u.Host, u.Path)
}

func s3Options(u *url.URL, p *params, o s3.Options) (s3.Options, error) {
	if u.Port() != "" {
		return o, invalid("%q names a port; write s3://bucket?endpoint=http://host:port", u.Host)
	}
	if u.Host == "" {
		return o, invalid("it names no bucket; write s3://bucket/prefix")
	}
	o.Bucket = u.Host
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		o.Prefix = prefix
	}
	take(p, "endpoint", &o.Endpoint, asString)
	take(p, "region", &o.Region, asString)
	take(p, "path_style", &o.PathStyle, strconv.ParseBool)
	take(p, "checksum", &o.ChecksumMode, func(s string) (s3.ChecksumMode, error) { return s3.ChecksumMode(s), nil })
	take(p, "attempt_timeout", &o.AttemptTimeout, time.ParseDuration)
	take(p, "connect_timeout", &o.ConnectTimeout, time.ParseDuration)
	take(p, "max_attempts", &o.MaxAttempts, strconv.Atoi)
	return o, p.finish("s3")
}

// params are the parameters of a URL while they are taken one by one.
type params struct {
	values   url.Values
	known    []string
	problems []error
}

// take parses the parameter name into field, where it is given.
func take[T any](p *params, name string, field *T, parse func(string) (T, error)) {
	p.known = append(p.known, name)
	given := p.values[name]
	delete(p.values, name)
	if len(given) == 0 {
		return
	}
	if len(given) > 1 {
		p.problems = append(p.problems, invalid("parameter %s is given %d times", name, len(given)))
		return
	}
	value, err := parse(given[0])
	if err != nil {
		p.problems = append(p.problems, fmt.Errorf("parameter %s: %w: %w", name, objstore.ErrInvalid, err))
		return
	}
	*field = value
}

// finish returns every problem, with the parameters that nobody took.
func (p *params) finish(scheme string) error {
	known := "none"
	if len(p.known) > 0 {
		known = strings.Join(p.known, ", ")
	}
	for _, name := range slices.Sorted(maps.Keys(p.values)) {
		p.problems = append(p.problems, invalid("unknown parameter %q; parameters of %s: %s", name, scheme, known))
	}
	return errors.Join(p.problems...)
}

func asString(s string) (string, error) {
	if s == "" {
		return "", errors.New("is empty; leave it out")
	}
	return s, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", objstore.ErrInvalid, fmt.Sprintf(format, args...))
}
