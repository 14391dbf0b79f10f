package minio

import (
	"bytes"
	"context"
	"crypto/md5" // Content-MD5 is the checksum that every store knows, not a defence
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

const (
	defaultRegion = "us-east-1"
	requestsMax   = 1000 // requests of one attempt; only a listing makes more than one
	backoffStart  = 50 * time.Millisecond
)

// Options are those of every driver of an S3-compatible store.
type Options = s3compat.Options

// Bucket is an objstore.Bucket in an S3-compatible store.
type Bucket struct {
	*s3compat.Abilities
	options   Options
	gate      *s3compat.Gate
	client    *minio.Core
	transport *http.Transport // to the store
	roles     *http.Transport // to whoever hands out credentials
	secure    bool
}

var (
	_ objstore.Bucket       = (*Bucket)(nil)
	_ objstore.ExpiryReader = (*Bucket)(nil)
	_ objstore.Warner       = (*Bucket)(nil)
)

// New makes a bucket from options; it reads files that they name but sends no request.
func New(options Options) (*Bucket, error) {
	b, err := open(options)
	if err != nil {
		return nil, fmt.Errorf("open minio bucket %s: %w", options.Bucket, err)
	}
	return b, nil
}

func open(options Options) (*Bucket, error) {
	problems := []error{options.Validate()}
	endpoint, err := url.Parse(options.Endpoint)
	switch {
	case options.Endpoint == "":
		problems = append(problems, fmt.Errorf("no endpoint; give endpoint=http://host:9000: %w", objstore.ErrInvalid))
	case err == nil && strings.Trim(endpoint.Path, "/") != "":
		problems = append(problems, fmt.Errorf("endpoint %s has a path, which this driver cannot use; "+
			"write what stands before the bucket's name only, or use s3://: %w", endpoint.Redacted(), objstore.ErrInvalid))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	options = options.WithDefaults()
	if options.Region == "" {
		options.Region = regionOfEnvironment()
	}
	if options.ChecksumMode == "" {
		options.ChecksumMode = s3compat.ChecksumWhenRequired
	}
	transport, err := options.Transport()
	if err != nil {
		return nil, err
	}
	b := &Bucket{
		options: options, gate: &s3compat.Gate{Prefix: options.KeyPrefix()}, transport: transport,
		roles: &http.Transport{Proxy: http.ProxyFromEnvironment}, secure: endpoint.Scheme == "https",
	}
	lookup := minio.BucketLookupDNS
	if options.PathStyle {
		lookup = minio.BucketLookupPath
	}
	chain := newCredentials(options, &http.Client{Transport: b.roles, Timeout: roleTimeout})
	b.Abilities = &s3compat.Abilities{
		Options: options, Gate: b.gate, Transport: transport,
		URL:  func(context.Context) (*url.URL, error) { return bucketURL(endpoint, options), nil },
		Sign: func(ctx context.Context, r *http.Request, _ string) error { return sign(ctx, chain, r, options.Region) },
	}
	b.client, err = minio.NewCore(endpoint.Host, &minio.Options{
		Creds:        chain,
		Secure:       b.secure,
		Transport:    noting{transport},
		Region:       options.Region, // never "": the library would ask the store for it, once a bucket and without our bounds
		BucketLookup: lookup,
		MaxRetries:   1,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %v", objstore.ErrInvalid, err)
	}
	return b, nil
}

// bucketURL is where the library sends the bucket's requests too.
func bucketURL(endpoint *url.URL, o Options) *url.URL {
	if o.PathStyle {
		return &url.URL{Scheme: endpoint.Scheme, Host: endpoint.Host, Path: "/" + o.Bucket}
	}
	return &url.URL{Scheme: endpoint.Scheme, Host: o.Bucket + "." + endpoint.Host, Path: "/"}
}

func sign(ctx context.Context, chain *credentials.Credentials, r *http.Request, region string) error {
	value, err := chain.GetWithContext(&credentials.CredContext{Context: ctx})
	if err != nil {
		return err
	}
	r.Header = signer.SignV4(*r, value.AccessKeyID, value.SecretAccessKey, value.SessionToken, region).Header
	return nil
}

func regionOfEnvironment() string {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "MINIO_REGION"} {
		if region := os.Getenv(name); region != "" {
			return region
		}
	}
	return defaultRegion
}

// attempt runs request until it has an outcome that repeating would not change, or the attempts are used up. request gets a
// context that ends with the attempt, and what the store will have said.
func (b *Bucket) attempt(ctx context.Context, request func(context.Context, *answer) error) error {
	return b.attemptWithin(ctx, b.options.AttemptTimeout, request)
}

func (b *Bucket) attemptWithin(ctx context.Context, timeout time.Duration, request func(context.Context, *answer) error) error {
	for n := 1; ; n++ {
		err := b.once(ctx, timeout, request)
		if !is(err, objstore.ErrUnavailable) || n == b.options.MaxAttempts {
			return err
		}
		if ended := b.pause(ctx, n); ended != nil {
			return fmt.Errorf("%w: %v", ended, err)
		}
	}
}

func (b *Bucket) once(ctx context.Context, timeout time.Duration, request func(context.Context, *answer) error) error {
	trying, end := context.WithTimeout(ctx, timeout)
	defer end()
	a := &answer{end: end}
	return a.classify(ctx, request(context.WithValue(trying, answerKey{}, a), a))
}

// pause waits a random part of a time that doubles with every attempt.
func (b *Bucket) pause(ctx context.Context, attempt int) error {
	most := min(backoffStart<<min(attempt, 16), b.options.MaxBackoff)
	timer := time.NewTimer(most/2 + rand.N(most/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	return b.PutFrom(ctx, key, bytes.NewReader(body), int64(len(body)), opts)
}

// PutFrom implements objstore.Bucket. What the request says of the body costs a reading of its own.
func (b *Bucket) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	if err := b.gate.Check(ctx, "put", key); err != nil {
		return err
	}
	if err := s3compat.CheckPut(b.options, size, opts); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if err := b.put(ctx, key, body, size, opts); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}

func (b *Bucket) put(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	// Without DisableContentSha256 the library would sign the body in chunks, which many stores and proxies do not know.
	put := minio.PutObjectOptions{
		DisableContentSha256: true, StorageClass: opts.StorageClass,
		Mode: minio.RetentionMode(opts.Lock.Mode), RetainUntilDate: opts.Lock.Until,
	}
	if opts.IfAbsent {
		put.SetMatchETagExcept("*")
	}
	if len(opts.Tags) > 0 {
		put.UserTags = make(map[string]string, len(opts.Tags))
		for _, t := range opts.Tags {
			put.UserTags[t.Key] = t.Value
		}
	}
	sums, err := b.sumsOf(body, size, opts)
	if err != nil {
		return err
	}
	if sums.crc32c != "" {
		put.UserMetadata = map[string]string{"x-amz-checksum-crc32c": sums.crc32c}
	}
	err = b.attemptWithin(ctx, b.options.PutTimeout(size), func(ctx context.Context, _ *answer) error {
		// The HTTP transport may go on reading after it has returned: each attempt has a loan of its own.
		lent := objstore.NewBody(body, size)
		defer lent.Release()
		_, err := b.client.PutObject(ctx, b.options.Bucket, b.gate.Prefix+key, struct{ io.Reader }{lent}, size, sums.md5, sums.sha256, put)
		if ours := lent.Err(); ours != nil && err != nil {
			return ownError{ours}
		}
		return err
	})
	return s3compat.Named(s3compat.PutError(err), b.options, s3compat.PutActions(opts), key)
}

// sums are what a request says of its body; "" for what it does not say.
type sums struct{ md5, sha256, crc32c string }

func (b *Bucket) sumsOf(body io.ReaderAt, size int64, opts objstore.PutOptions) (sums, error) {
	var of sums
	var md5Sum, shaSum, crcSum hash.Hash
	var all []io.Writer
	if !b.secure {
		shaSum = sha256.New()
		all = append(all, shaSum)
	}
	if b.options.ChecksumMode == s3compat.ChecksumWhenSupported {
		crcSum = crc32.New(crc32.MakeTable(crc32.Castagnoli))
		all = append(all, crcSum)
	} else if opts.Lock.Mode != objstore.LockNone {
		md5Sum = md5.New() // a lock wants a checksum, and this is one that every store knows
		all = append(all, md5Sum)
	}
	if len(all) == 0 {
		return of, nil
	}
	if _, err := io.Copy(io.MultiWriter(all...), objstore.NewBody(body, size)); err != nil {
		return of, err
	}
	if shaSum != nil {
		of.sha256 = hex.EncodeToString(shaSum.Sum(nil))
	}
	if crcSum != nil {
		of.crc32c = base64.StdEncoding.EncodeToString(crcSum.Sum(nil))
	}
	if md5Sum != nil {
		of.md5 = base64.StdEncoding.EncodeToString(md5Sum.Sum(nil))
	}
	return of, nil
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	if err := b.gate.Check(ctx, "get", key); err != nil {
		return nil, err
	}
	body, err := b.get(ctx, key, "", func(string, int64) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, s3compat.Named(err, b.options, "s3:GetObject", key))
	}
	return body, nil
}

// GetRange implements objstore.Bucket.
func (b *Bucket) GetRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	if err := objstore.ValidateRange(position, size); err != nil {
		return nil, fmt.Errorf("get range of %s: %w", key, err)
	}
	if err := b.gate.Check(ctx, "get range of", key); err != nil {
		return nil, err
	}
	asked := "bytes=" + strconv.FormatInt(position, 10) + "-" + strconv.FormatInt(position+size-1, 10)
	body, err := b.get(ctx, key, asked, func(contentRange string, length int64) error {
		return s3compat.CheckRange(contentRange, length, position, size)
	})
	if err != nil {
		return nil, fmt.Errorf("get range of %s, %d bytes from %d: %w", key, size, position, s3compat.Named(err, b.options, "s3:GetObject", key))
	}
	return body, nil
}

// get reads an object, or a part of it where asked is not "". check holds what was announced against what was asked for.
func (b *Bucket) get(ctx context.Context, key, asked string, check func(contentRange string, length int64) error) ([]byte, error) {
	var get minio.GetObjectOptions
	if asked != "" {
		get.Set("Range", asked)
	}
	var body []byte
	err := b.attempt(ctx, func(trying context.Context, a *answer) error {
		stream, _, header, err := b.client.GetObject(trying, b.options.Bucket, b.gate.Prefix+key, get)
		if err != nil {
			return err
		}
		defer stream.Close()
		length := int64(-1)
		if announced, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64); err == nil {
			length = announced
		}
		if err := check(header.Get("Content-Range"), length); err != nil {
			return err
		}
		body, err = s3compat.ReadBody(stream, length, b.options.ObjectBytesMax, func(err error) error { return a.classify(ctx, err) })
		return err
	})
	return body, err
}

// Head implements objstore.Bucket.
func (b *Bucket) Head(ctx context.Context, key string) (objstore.Info, error) {
	if err := b.gate.Check(ctx, "head", key); err != nil {
		return objstore.Info{}, err
	}
	var found minio.ObjectInfo
	err := b.attempt(ctx, func(ctx context.Context, _ *answer) (err error) {
		found, err = b.client.StatObject(ctx, b.options.Bucket, b.gate.Prefix+key, minio.StatObjectOptions{})
		return err
	})
	if err != nil {
		return objstore.Info{}, fmt.Errorf("head %s: %w", key, s3compat.Named(err, b.options, "s3:GetObject", key))
	}
	return objstore.Info{Key: key, Size: found.Size, ModTime: found.LastModified}, nil
}

// List implements objstore.Bucket. Objects whose names are no keys, such as the folders that consoles make, are skipped.
func (b *Bucket) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := objstore.ValidateList(prefix, after, limit); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	if err := b.gate.Check(ctx, "list"); err != nil {
		return nil, err
	}
	ask := minio.ListObjectsOptions{Prefix: b.gate.Prefix + prefix, Recursive: true, MaxKeys: limit, FetchOwner: new(bool)}
	if after != "" {
		ask.StartAfter = b.gate.Prefix + after
	}
	var infos []objstore.Info
	err := b.attempt(ctx, func(trying context.Context, _ *answer) error {
		listing := s3compat.NewListing(b.gate.Prefix, prefix, after)
		for object := range b.client.ListObjectsIter(trying, b.options.Bucket, ask) {
			if object.Err != nil {
				return object.Err
			}
			if err := listing.Add(objstore.Info{Key: object.Key, Size: object.Size, ModTime: object.LastModified}); err != nil {
				return err
			}
			if infos = listing.Infos(); len(infos) == limit {
				return nil
			}
		}
		infos = listing.Infos()
		return trying.Err() // the library ends a listing silently when its context does
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, s3compat.Named(err, b.options, "s3:ListBucket", ""))
	}
	return infos, nil
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	if err := objstore.ValidateDelete(keys); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := b.gate.Check(ctx, "delete", keys...); err != nil {
		return err
	}
	switch len(keys) {
	case 0:
		return nil
	case 1:
		err := b.attempt(ctx, func(ctx context.Context, _ *answer) error {
			err := b.client.RemoveObject(ctx, b.options.Bucket, b.gate.Prefix+keys[0], minio.RemoveObjectOptions{})
			if minio.ToErrorResponse(err).StatusCode == http.StatusOK {
				return nil // some stores say 200 where the library wants 204
			}
			return err
		})
		if err != nil && !errors.Is(err, objstore.ErrNotFound) {
			return fmt.Errorf("delete %s: %w", keys[0], s3compat.Named(err, b.options, "s3:DeleteObject", keys[0]))
		}
		return nil
	}
	err := b.attempt(ctx, func(ctx context.Context, _ *answer) error { return b.deleteMany(ctx, keys) })
	if err != nil {
		return fmt.Errorf("delete %d keys from %s: %w", len(keys), keys[0], s3compat.Named(err, b.options, "s3:DeleteObject", keys[0]))
	}
	return nil
}

// deleteMany asks for all keys at once and counts the answers: the library drops some errors for single keys.
func (b *Bucket) deleteMany(ctx context.Context, keys []string) error {
	open := make(map[string]bool, len(keys))
	for _, key := range keys {
		open[b.gate.Prefix+key] = true
	}
	objects := func(yield func(minio.ObjectInfo) bool) {
		for _, name := range slices.Sorted(maps.Keys(open)) {
			if !yield(minio.ObjectInfo{Key: name}) {
				return
			}
		}
	}
	results, err := b.client.RemoveObjectsWithIter(ctx, b.options.Bucket, objects, minio.RemoveObjectsOptions{})
	if err != nil {
		return err
	}
	var failed []s3compat.KeyError
	answered := make(map[string]bool, len(keys))
	for r := range results {
		if r.Err == nil {
			answered[r.ObjectName] = true
			continue
		}
		said := minio.ToErrorResponse(r.Err)
		if said.Code == "" || said.StatusCode != 0 {
			return r.Err // of the whole request
		}
		answered[r.ObjectName] = true
		failed = append(failed, s3compat.KeyError{Key: strings.TrimPrefix(r.ObjectName, b.gate.Prefix), Code: said.Code, Message: said.Message})
	}
	if err := ctx.Err(); err != nil {
		return err // the library then stops asking, without a word
	}
	if err := s3compat.KeyErrors(failed); err != nil {
		return err
	}
	for name := range open {
		if !answered[name] {
			return fmt.Errorf("%w: the store did not say what became of %s", objstore.ErrUnavailable, strings.TrimPrefix(name, b.gate.Prefix))
		}
	}
	return nil
}

// Create makes the bucket itself, unless it is there and ours.
func (b *Bucket) Create(ctx context.Context) error { return b.create(ctx, false) }

// CreateLocking is Create of a bucket with object lock, which most stores enable at no other time.
func (b *Bucket) CreateLocking(ctx context.Context) error { return b.create(ctx, true) }

func (b *Bucket) create(ctx context.Context, locking bool) error {
	if err := b.gate.Check(ctx, "create the bucket"); err != nil {
		return err
	}
	err := b.attempt(ctx, func(ctx context.Context, a *answer) error {
		err := b.client.MakeBucket(ctx, b.options.Bucket, minio.MakeBucketOptions{Region: b.options.Region, ObjectLocking: locking})
		if a.said() == "BucketAlreadyOwnedByYou" {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("create bucket %s: %w", b.options.Bucket, err)
	}
	return nil
}

// Warnings implements objstore.Warner.
func (b *Bucket) Warnings() []string { return b.options.Warnings() }

// Close implements objstore.Bucket.
func (b *Bucket) Close() error {
	b.gate.Close()
	b.transport.CloseIdleConnections()
	b.roles.CloseIdleConnections()
	return nil
}

func is(err, class error) bool { return errors.Is(err, class) }
