package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

const (
	defaultRegion   = "us-east-1"
	listRoundsMax   = 1000 // pages of one List that hold nothing of ours
	continueRefused = -1   // no "Expect: 100-continue": it costs a round trip, and a second where a store ignores it
)

// Bucket is an objstore.Bucket in S3.
type Bucket struct {
	*s3compat.Abilities
	options   Options
	gate      *s3compat.Gate
	client    *s3.Client
	transport *http.Transport
}

var (
	_ objstore.Bucket       = (*Bucket)(nil)
	_ objstore.ExpiryReader = (*Bucket)(nil)
	_ objstore.Warner       = (*Bucket)(nil)
)

// New makes a bucket from options; it reads the environment and the shared files but sends no request.
func New(ctx context.Context, options Options) (*Bucket, error) {
	if err := options.Validate(); err != nil {
		return nil, fmt.Errorf("open s3 bucket %s: %w", options.Bucket, err)
	}
	options = options.WithDefaults()
	sdk := awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = options.ConnectTimeout })
	load := []func(*config.LoadOptions) error{config.WithHTTPClient(sdk), config.WithLogger(logging.Nop{})}
	if options.Region != "" {
		load = append(load, config.WithRegion(options.Region))
	}
	if options.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(options.Profile))
	}
	if options.Anonymous {
		load = append(load, config.WithCredentialsProvider(aws.AnonymousCredentials{}))
	}
	loaded, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("open s3 bucket %s, load the AWS configuration: %w: %w", options.Bucket, objstore.ErrInvalid, err)
	}
	if loaded.Region == "" {
		if options.Endpoint == "" && loaded.BaseEndpoint == nil {
			return nil, fmt.Errorf("open s3 bucket %s: no region; give region=… or set AWS_REGION: %w", options.Bucket, objstore.ErrInvalid)
		}
		loaded.Region = defaultRegion
	}
	b := &Bucket{options: options, transport: transportOf(loaded.HTTPClient), gate: &s3compat.Gate{Prefix: options.KeyPrefix()}}
	if err := options.Tune(b.transport); err != nil {
		return nil, fmt.Errorf("open s3 bucket %s: %w", options.Bucket, err)
	}
	b.client = s3.NewFromConfig(loaded, b.configure)
	b.Abilities = &s3compat.Abilities{Options: b.options, Gate: b.gate, Transport: b.transport, URL: b.url, Sign: b.sign}
	return b, nil
}

// url asks the SDK's own rules where the bucket is.
func (b *Bucket) url(ctx context.Context) (*url.URL, error) {
	o := b.client.Options()
	at, err := o.EndpointResolverV2.ResolveEndpoint(ctx, s3.EndpointParameters{
		Bucket: &b.options.Bucket, Region: &o.Region, Endpoint: o.BaseEndpoint, ForcePathStyle: &o.UsePathStyle,
	})
	return &at.URI, err
}

func (b *Bucket) sign(ctx context.Context, r *http.Request, payload string) error {
	o := b.client.Options()
	credentials, err := o.Credentials.Retrieve(ctx)
	if err != nil {
		return err
	}
	return v4.NewSigner(func(s *v4.SignerOptions) { s.DisableURIPathEscaping = true }).
		SignHTTP(ctx, credentials, r, payload, "s3", o.Region, time.Now())
}

// Warnings implements objstore.Warner.
func (b *Bucket) Warnings() []string { return b.options.Warnings() }

// transportOf returns a copy of the SDK client's transport, which by then holds the CA bundle of the shared files. We
// need one of our own because the SDK's client cannot be closed.
func transportOf(client aws.HTTPClient) *http.Transport {
	if sdk, ok := client.(*awshttp.BuildableClient); ok {
		return sdk.GetTransport()
	}
	panic(fmt.Sprintf("s3: the SDK's configuration replaced our HTTP client with a %T", client))
}

func (b *Bucket) httpClient(attemptTimeout time.Duration) *http.Client {
	return &http.Client{
		Transport: b.transport,
		Timeout:   attemptTimeout,
		// A redirect names another region's endpoint, for which the signature is wrong: report it instead.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (b *Bucket) configure(o *s3.Options) {
	o.HTTPClient = b.httpClient(b.options.AttemptTimeout)
	if b.options.Endpoint != "" {
		o.BaseEndpoint = aws.String(b.options.Endpoint)
	}
	if b.options.ChecksumMode == "" {
		b.options.ChecksumMode = ChecksumWhenSupported
		if o.BaseEndpoint != nil { // also one from the environment
			b.options.ChecksumMode = ChecksumWhenRequired
		}
	}
	o.UsePathStyle = b.options.PathStyle
	o.Retryer = retry.NewStandard(func(s *retry.StandardOptions) {
		s.MaxAttempts = b.options.MaxAttempts
		s.MaxBackoff = b.options.MaxBackoff
	})
	o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
	o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenSupported
	if b.options.ChecksumMode == ChecksumWhenRequired {
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	}
	o.DisableLogOutputChecksumValidationSkipped = true
	o.ContinueHeaderThresholdBytes = continueRefused
}

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error {
	return b.PutFrom(ctx, key, bytes.NewReader(body), int64(len(body)), opts)
}

// PutFrom implements objstore.Bucket. Where the body is hashed for the request, it is read twice.
func (b *Bucket) PutFrom(ctx context.Context, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	if err := b.gate.Check(ctx, "put", key); err != nil {
		return err
	}
	if err := s3compat.CheckPut(b.options, size, opts); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	lent := objstore.NewBody(body, size)
	defer lent.Release()
	if err := b.put(ctx, key, lent, size, opts); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}

func (b *Bucket) put(ctx context.Context, key string, body *objstore.Body, size int64, opts objstore.PutOptions) error {
	input := &s3.PutObjectInput{
		Bucket:        &b.options.Bucket,
		Key:           aws.String(b.gate.Prefix + key),
		Body:          body,
		ContentLength: aws.Int64(size),
		StorageClass:  types.StorageClass(opts.StorageClass),
	}
	if opts.IfAbsent {
		input.IfNoneMatch = aws.String("*")
	}
	if len(opts.Tags) > 0 {
		input.Tagging = aws.String(s3compat.TaggingHeader(opts.Tags))
	}
	if opts.Lock.Mode != objstore.LockNone {
		input.ObjectLockMode = types.ObjectLockMode(opts.Lock.Mode)
		input.ObjectLockRetainUntilDate = aws.Time(opts.Lock.Until)
		if b.options.ChecksumMode == ChecksumWhenRequired {
			sum, err := s3compat.ContentMD5(body) // a lock wants a checksum, and this is one that every store knows
			if err != nil {
				return err
			}
			input.ContentMD5 = &sum
		}
	}
	_, err := b.client.PutObject(ctx, input, b.leaveBodyUnsigned, func(o *s3.Options) {
		o.HTTPClient = b.httpClient(b.options.PutTimeout(size))
	})
	if err == nil {
		return nil
	}
	if ours := body.Err(); ours != nil && ctx.Err() == nil {
		return ours
	}
	return b.named(s3compat.PutError(classify(ctx, err)), s3compat.PutActions(opts), key)
}

// named says which permission is missing, where one is.
func (b *Bucket) named(err error, action, key string) error {
	return s3compat.Named(err, b.options, action, key)
}

// leaveBodyUnsigned saves hashing the body where TLS already protects it and no checksum of the SDK's replaces the hash.
func (b *Bucket) leaveBodyUnsigned(o *s3.Options) {
	overTLS := o.BaseEndpoint == nil || strings.HasPrefix(*o.BaseEndpoint, "https:")
	if overTLS && b.options.ChecksumMode == ChecksumWhenRequired {
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	}
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	if err := b.gate.Check(ctx, "get", key); err != nil {
		return nil, err
	}
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.options.Bucket, Key: aws.String(b.gate.Prefix + key)})
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, b.named(classify(ctx, err), "s3:GetObject", key))
	}
	defer out.Body.Close()
	body, err := b.readBody(ctx, out)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
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
	body, err := b.getRange(ctx, key, position, size)
	if err != nil {
		return nil, fmt.Errorf("get range of %s, %d bytes from %d: %w", key, size, position, err)
	}
	return body, nil
}

func (b *Bucket) getRange(ctx context.Context, key string, position, size int64) ([]byte, error) {
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &b.options.Bucket,
		Key:    aws.String(b.gate.Prefix + key),
		Range:  aws.String("bytes=" + strconv.FormatInt(position, 10) + "-" + strconv.FormatInt(position+size-1, 10)),
	}, withoutValidation)
	if err != nil {
		return nil, b.named(classify(ctx, err), "s3:GetObject", key)
	}
	defer out.Body.Close()
	length := int64(-1)
	if out.ContentLength != nil {
		length = *out.ContentLength
	}
	if err := s3compat.CheckRange(aws.ToString(out.ContentRange), length, position, size); err != nil {
		return nil, err
	}
	out.ContentLength = &size
	return b.readBody(ctx, out)
}

// withoutValidation: some stores send the whole object's checksum with a part of it.
func withoutValidation(o *s3.Options) {
	o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
}

func (b *Bucket) readBody(ctx context.Context, out *s3.GetObjectOutput) ([]byte, error) {
	size := int64(-1)
	if out.ContentLength != nil {
		size = *out.ContentLength
	}
	return s3compat.ReadBody(out.Body, size, b.options.ObjectBytesMax, func(err error) error { return classify(ctx, err) })
}

// Head implements objstore.Bucket.
func (b *Bucket) Head(ctx context.Context, key string) (objstore.Info, error) {
	if err := b.gate.Check(ctx, "head", key); err != nil {
		return objstore.Info{}, err
	}
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.options.Bucket, Key: aws.String(b.gate.Prefix + key)})
	if err != nil {
		class := classify(ctx, err)
		if missing := (*types.NotFound)(nil); ctx.Err() == nil && errors.As(err, &missing) {
			class = fmt.Errorf("%w: %v", objstore.ErrNotFound, err) // a HEAD's 404 has no body, so no NoSuchKey either
		}
		return objstore.Info{}, fmt.Errorf("head %s: %w", key, b.named(class, "s3:GetObject", key))
	}
	return objstore.Info{Key: key, Size: aws.ToInt64(out.ContentLength), ModTime: aws.ToTime(out.LastModified)}, nil
}

// List implements objstore.Bucket. Objects whose names are no keys, such as the folders that consoles make, are skipped.
func (b *Bucket) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := objstore.ValidateList(prefix, after, limit); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	if err := b.gate.Check(ctx, "list"); err != nil {
		return nil, err
	}
	input := &s3.ListObjectsV2Input{
		Bucket:  &b.options.Bucket,
		Prefix:  aws.String(b.gate.Prefix + prefix),
		MaxKeys: aws.Int32(int32(limit)),
	}
	if after != "" {
		input.StartAfter = aws.String(b.gate.Prefix + after)
	}
	for range listRoundsMax {
		out, err := b.client.ListObjectsV2(ctx, input)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, b.named(classify(ctx, err), "s3:ListBucket", ""))
		}
		listing := s3compat.NewListing(b.gate.Prefix, prefix, after)
		for _, object := range out.Contents {
			info := objstore.Info{Key: aws.ToString(object.Key), Size: aws.ToInt64(object.Size), ModTime: aws.ToTime(object.LastModified)}
			if err := listing.Add(info); err != nil {
				return nil, fmt.Errorf("list %s: %w", prefix, err)
			}
		}
		infos := listing.Infos()
		// An empty answer would tell the caller that there is no more, so a page with nothing of ours is not one.
		if len(infos) > 0 || !aws.ToBool(out.IsTruncated) {
			return infos, nil
		}
		if aws.ToString(out.NextContinuationToken) == "" {
			return nil, fmt.Errorf("list %s: the store promised more and gave no token: %w", prefix, objstore.ErrUnavailable)
		}
		input.ContinuationToken = out.NextContinuationToken
	}
	return nil, fmt.Errorf("list %s: %d pages without one valid key: %w", prefix, listRoundsMax, objstore.ErrInvalid)
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
		_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.options.Bucket, Key: aws.String(b.gate.Prefix + keys[0])})
		if err = classify(ctx, err); err != nil && !errors.Is(err, objstore.ErrNotFound) {
			return fmt.Errorf("delete %s: %w", keys[0], b.named(err, "s3:DeleteObject", keys[0]))
		}
		return nil
	}
	ids := make([]types.ObjectIdentifier, len(keys))
	for i, key := range keys {
		ids[i].Key = aws.String(b.gate.Prefix + key)
	}
	out, err := b.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
		Bucket: &b.options.Bucket,
		Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)},
	}, b.useContentMD5)
	if err != nil {
		return fmt.Errorf("delete %d keys from %s: %w", len(keys), keys[0], b.named(classify(ctx, err), "s3:DeleteObject", keys[0]))
	}
	if err := b.keyErrors(out.Errors); err != nil {
		return fmt.Errorf("delete %d keys from %s: %w", len(keys), keys[0], b.named(err, "s3:DeleteObject", keys[0]))
	}
	return nil
}

// useContentMD5 replaces the SDK's CRC, which this operation carries in every mode, with the header that stores knew
// before there were CRCs.
func (b *Bucket) useContentMD5(o *s3.Options) {
	if b.options.ChecksumMode != ChecksumWhenRequired {
		return
	}
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		// Absent where the SDK has renamed them; then the CRC stays beside the MD5, as the test of this mode would show.
		_, _ = stack.Initialize.Remove("AWSChecksum:SetupInputContext")
		_, _ = stack.Finalize.Remove("AWSChecksum:ComputeInputPayloadChecksum")
		return smithyhttp.AddContentChecksumMiddleware(stack)
	})
}

// keyErrors names the keys as the caller does.
func (b *Bucket) keyErrors(failed []types.Error) error {
	errs := make([]s3compat.KeyError, len(failed))
	for i, f := range failed {
		errs[i] = s3compat.KeyError{Key: strings.TrimPrefix(aws.ToString(f.Key), b.gate.Prefix), Code: aws.ToString(f.Code), Message: aws.ToString(f.Message)}
	}
	return s3compat.KeyErrors(errs)
}

// Close implements objstore.Bucket.
func (b *Bucket) Close() error {
	b.gate.Close()
	b.transport.CloseIdleConnections()
	return nil
}
