package s3compat

import (
	"bytes"
	"context"
	"crypto/md5" // Content-MD5 is the checksum that every store knows, not a defence
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/firnlog/firn/objstore"
)

const (
	answerBytesMax = 16 << 20 // a thousand rules or versions are a tenth of it
	backoffStart   = 50 * time.Millisecond
)

// ErrForbidden is the ErrDenied of a store that knows the credentials and lacks a permission for them.
var ErrForbidden = fmt.Errorf("%w", objstore.ErrDenied)

// Abilities are what an S3 bucket can be asked beside objects, as XML over HTTP: the same for every driver, which gives it
// its address and its signature. The client libraries are not asked, because their types drop what they do not know, and
// a lifecycle rule that somebody else wrote must come back as it was.
type Abilities struct {
	Options   Options // with defaults
	Gate      *Gate
	Transport http.RoundTripper
	// URL is the address of the bucket.
	URL func(ctx context.Context) (*url.URL, error)
	// Sign signs a request whose body has that SHA-256, in hexadecimal.
	Sign func(ctx context.Context, r *http.Request, payload string) error
}

// exchange is one request and what its answer may mean.
type exchange struct {
	step   string // for errors
	action string // the permission that it needs
	method string
	key    string // of the caller's; "" for the bucket itself
	query  url.Values
	header http.Header
	body   []byte
}

// answer is what the store said.
type answer struct {
	header http.Header
	body   []byte
}

// refusal is an answer that is no success.
type refusal struct {
	class   error
	status  int
	code    string
	message string
	header  http.Header
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%v: status %d %s: %s", r.class, r.status, r.code, r.message)
}

func (r *refusal) Unwrap() error { return r.class }

// said reports whether the store refused with that code.
func said(err error, code string) bool {
	var r *refusal
	return errors.As(err, &r) && r.code == code
}

// do makes the exchange, again where that may help.
func (a *Abilities) do(ctx context.Context, x exchange) (answer, error) {
	var keys []string
	if x.key != "" {
		keys = []string{x.key}
	}
	if err := a.Gate.Check(ctx, x.step, keys...); err != nil {
		return answer{}, err
	}
	for n := 1; ; n++ {
		got, err := a.once(ctx, x)
		if err == nil {
			return got, nil
		}
		if ended := ctx.Err(); ended != nil {
			return answer{}, fmt.Errorf("%s: %w: %v", x.step, ended, err)
		}
		if !errors.Is(err, objstore.ErrUnavailable) || n == a.Options.MaxAttempts {
			return answer{}, fmt.Errorf("%s: %w", x.step, Named(err, a.Options, x.action, x.key))
		}
		if ended := pause(ctx, n, a.Options.MaxBackoff); ended != nil {
			return answer{}, fmt.Errorf("%s: %w: %v", x.step, ended, err)
		}
	}
}

// pause waits a random part of a time that doubles with every attempt.
func pause(ctx context.Context, attempt int, longest time.Duration) error {
	most := min(backoffStart<<min(attempt, 16), longest)
	timer := time.NewTimer(most/2 + rand.N(most/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Named says which permission a store misses, where it has refused for want of one.
func Named(err error, o Options, action, key string) error {
	if !errors.Is(err, ErrForbidden) {
		return err
	}
	resource := "arn:aws:s3:::" + o.Bucket
	if key != "" {
		resource += "/" + o.KeyPrefix() + "*"
	}
	return &objstore.DeniedError{Action: action, Resource: resource, Err: err}
}

func (a *Abilities) once(ctx context.Context, x exchange) (answer, error) {
	trying, end := context.WithTimeout(ctx, a.Options.AttemptTimeout)
	defer end()
	request, err := a.request(trying, x)
	if err != nil {
		return answer{}, err
	}
	// No http.Client: it would follow redirects, for which the signature is wrong.
	response, err := a.Transport.RoundTrip(request)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %v", objstore.ErrUnavailable, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerBytesMax+1))
	switch {
	case response.StatusCode/100 != 2:
		return answer{}, refusalOf(response, body)
	case err != nil:
		return answer{}, fmt.Errorf("%w: the answer broke off: %v", objstore.ErrUnavailable, err)
	case len(body) > answerBytesMax:
		return answer{}, fmt.Errorf("%w: an answer of more than %d bytes", objstore.ErrInvalid, answerBytesMax)
	}
	return answer{response.Header, body}, nil
}

func (a *Abilities) request(ctx context.Context, x exchange) (*http.Request, error) {
	at, err := a.URL(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: address of the bucket: %v", objstore.ErrInvalid, err)
	}
	to := *at
	to.Path = strings.TrimSuffix(to.Path, "/") + "/"
	if x.key == "" && to.Path != "/" {
		to.Path = strings.TrimSuffix(to.Path, "/")
	}
	if x.key != "" {
		to.Path += a.Gate.Prefix + x.key
	}
	// Of what keys may hold, '=' is the one byte that a signature wants encoded.
	to.RawPath = strings.ReplaceAll(to.EscapedPath(), "=", "%3D")
	to.RawQuery = strings.ReplaceAll(x.query.Encode(), "+", "%20")
	request, err := http.NewRequestWithContext(ctx, x.method, to.String(), bytes.NewReader(x.body))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", objstore.ErrInvalid, err)
	}
	for name, values := range x.header {
		request.Header[name] = values
	}
	sum := sha256.Sum256(x.body)
	payload := hex.EncodeToString(sum[:])
	request.Header.Set("X-Amz-Content-Sha256", payload)
	if len(x.body) > 0 {
		sum := md5.Sum(x.body)
		request.Header.Set("Content-Md5", base64.StdEncoding.EncodeToString(sum[:]))
		request.Header.Set("Content-Type", "application/xml")
	}
	if a.Options.Anonymous {
		return request, nil
	}
	if err := a.Sign(ctx, request, payload); err != nil {
		return nil, fmt.Errorf("%w: sign: %v", objstore.ErrUnavailable, err)
	}
	return request, nil
}

func refusalOf(response *http.Response, body []byte) *refusal {
	var said struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	r := &refusal{status: response.StatusCode, header: response.Header}
	if xml.Unmarshal(body, &said) == nil {
		r.code, r.message = said.Code, said.Message
	}
	r.class = ClassOfAnswer(r.code, r.message, r.status)
	if r.class == nil {
		r.class = objstore.ErrUnavailable
	}
	switch {
	case r.status == http.StatusNotImplemented, r.status == http.StatusMethodNotAllowed,
		r.code == "NotImplemented", r.code == "XNotImplemented", r.code == "UnsupportedOperation":
		r.class = objstore.ErrUnsupported
	}
	return r
}

// parse reads the answer to a question into what, whose XMLName says what its root must be. Some stores answer a question
// that they do not know as if it were another: with a listing of the bucket, or with nothing.
func parse(step string, a answer, what any) error {
	if err := xml.Unmarshal(a.body, what); err != nil {
		return fmt.Errorf("%s: %w: the store answered something else: %v", step, objstore.ErrUnsupported, err)
	}
	return nil
}

func render(root any) []byte {
	body, err := xml.Marshal(root)
	if err != nil {
		panic(err) // our own types, of strings and numbers
	}
	return body
}
