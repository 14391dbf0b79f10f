package open

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/file"
	"github.com/firnlog/firn/objstore/mem"
	"github.com/firnlog/firn/objstore/minio"
	"github.com/firnlog/firn/objstore/s3"
	"github.com/firnlog/firn/objstore/s3compat"
)

// Options are what the URL leaves open; where both speak, the URL wins.
type Options struct {
	// Store holds tunables of the drivers of S3-compatible stores, s3 and minio.
	Store s3compat.Options
}

// Open makes the bucket that rawURL names. It creates the directory of a file URL, and sends no request for the others.
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
		return nil, fmt.Errorf("bucket URL %s: %w", redacted(u), err)
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
		store, err := storeOptions(u, &p, options.Store)
		if err != nil {
			return nil, err
		}
		return openDriver(s3.New(ctx, store))
	case "minio":
		options.Store.PathStyle = true // what such stores need; path_style=false says otherwise
		store, err := storeOptions(u, &p, options.Store)
		if err != nil {
			return nil, err
		}
		return openDriver(minio.New(store))
	case "":
		return nil, invalid("it has no scheme; write file:///directory, s3://bucket, minio://bucket?endpoint=… or mem://")
	}
	return nil, invalid("unknown scheme %q; known are file, mem, minio and s3", u.Scheme)
}

// Redacted is rawURL as it may be printed: without a password, wherever somebody may have written one.
func Redacted(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "(not a URL)"
	}
	return redacted(u)
}

// redacted leaves parameters out that nobody knows, which may be keys as other programs take them, and an endpoint's password.
func redacted(u *url.URL) string {
	shown := *u
	query, err := url.ParseQuery(u.RawQuery)
	hide := err != nil
	for name, values := range query {
		known := slices.ContainsFunc(Parameters(), func(p Parameter) bool { return p.Name == name })
		hide = hide || !known || slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, "@") })
	}
	if hide {
		shown.RawQuery = "…"
	}
	return shown.Redacted()
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

func storeOptions(u *url.URL, p *params, o s3compat.Options) (s3compat.Options, error) {
	if u.Port() != "" {
		return o, invalid("%q names a port; write %s://bucket?endpoint=http://host:port", u.Host, u.Scheme)
	}
	if u.Host == "" {
		return o, invalid("it names no bucket; write %s://bucket/prefix", u.Scheme)
	}
	o.Bucket = u.Host
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		o.Prefix = prefix
	}
	for _, parameter := range Parameters() {
		p.take(parameter, &o)
	}
	return o, p.finish(u.Scheme)
}

// params are the parameters of a URL while they are taken one by one.
type params struct {
	values   url.Values
	known    []string
	problems []error
}

// take parses the parameter into o, where it is given.
func (p *params) take(parameter Parameter, o *s3compat.Options) {
	name := parameter.Name
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
	if err := parameter.set(o, given[0]); err != nil {
		p.problems = append(p.problems, fmt.Errorf("parameter %s: %w: %w; it takes %s", name, objstore.ErrInvalid, err, parameter.Value))
	}
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

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", objstore.ErrInvalid, fmt.Sprintf(format, args...))
}
