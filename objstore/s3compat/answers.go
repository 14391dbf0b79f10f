package s3compat

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/firnlog/firn/objstore"
)

// ClassOf knows the codes that mean something else than their status says, then the status. It returns nil for neither.
// Codes: "Error responses" of the S3 API reference, and what compatible stores add.
func ClassOf(code string, status int) error {
	switch code {
	case "NoSuchKey", "NoSuchVersion":
		return objstore.ErrNotFound
	case "NoSuchBucket", "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidToken",
		"TokenRefreshRequired", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch",
		"RequestTimeTooSkewed", "InvalidObjectState", "InvalidBucketName":
		return objstore.ErrDenied
	case "AccessDenied":
		return ErrForbidden
	case "InvalidBucketState": // a 409, but of a bucket that will not change
		return objstore.ErrInvalid
	case "InvalidStorageClass":
		return objstore.ErrStorageClass
	case "PreconditionFailed":
		return objstore.ErrExists
	case "InvalidRange":
		return objstore.ErrRange
	case "RequestTimeout", "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "InternalError", "Throttling",
		"ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "ConditionalRequestConflict", "OperationAborted", "BadDigest",
		"IncompleteBody", "XAmzContentSHA256Mismatch", "XMinioServerNotInitialized":
		return objstore.ErrUnavailable
	}
	switch status {
	case http.StatusNotFound:
		// In whose words? A page that is not the store's, a proxy's for one, is no proof of absence.
		return objstore.ErrUnavailable
	case http.StatusPreconditionFailed:
		return objstore.ErrExists
	case http.StatusRequestedRangeNotSatisfiable:
		return objstore.ErrRange
	case http.StatusUnauthorized:
		return objstore.ErrDenied
	case http.StatusForbidden:
		return ErrForbidden
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return objstore.ErrUnavailable
	case http.StatusNotImplemented:
		return objstore.ErrInvalid
	}
	switch status / 100 {
	case 3:
		return objstore.ErrDenied // another region's bucket, or not an object store at all
	case 4:
		return objstore.ErrInvalid
	case 5:
		return objstore.ErrUnavailable
	}
	return nil
}

// ClassOfAnswer is ClassOf, and knows the words in which stores refuse to touch what an object lock keeps: they have no code
// for it, and use those of denials and of bad requests.
func ClassOfAnswer(code, message string, status int) error {
	said := strings.ToLower(message)
	for _, words := range []string{"protected by object lock", "forbidden by object lock", "worm protected", "retention policy and cannot be", "object is immutable"} {
		if strings.Contains(said, words) {
			return objstore.ErrRetained
		}
	}
	if code == "ObjectLocked" || code == "RetentionPolicyNotMet" {
		return objstore.ErrRetained
	}
	return ClassOf(code, status)
}

// PutError turns a store's "no such key" in answer to a put, which has nothing to miss, into objstore.ErrUnavailable: at
// least one store says so when its quorum is lost.
func PutError(err error) error {
	if errors.Is(err, objstore.ErrNotFound) {
		return fmt.Errorf("%w: the store answered a put with: %v", objstore.ErrUnavailable, err)
	}
	return err
}

// CheckRange holds the Content-Range of an answer against what was asked for. A store cuts a range at the end of the
// object without an error, and a proxy may ignore it and send everything. length is what was announced, below 0 for nothing.
func CheckRange(contentRange string, length, position, size int64) error {
	want := fmt.Sprintf("bytes %d-%d/", position, position+size-1)
	if !strings.HasPrefix(contentRange, want) {
		if start := fmt.Sprintf("bytes %d-", position); strings.HasPrefix(contentRange, start) {
			return fmt.Errorf("the store has only %q: %w", contentRange, objstore.ErrRange)
		}
		return fmt.Errorf("asked for %q the store answered %q: %w", want, contentRange, objstore.ErrUnavailable)
	}
	if length >= 0 && length != size {
		return fmt.Errorf("the store announced %d bytes: %w", length, objstore.ErrUnavailable)
	}
	return nil
}

// ReadBody reads exactly the announced size into one allocation. A size that was not announced (below 0), or is beyond
// sizeMax, is an error before anything is allocated. classify is applied to what reading the body fails with.
func ReadBody(body io.Reader, size, sizeMax int64, classify func(error) error) ([]byte, error) {
	if size < 0 {
		return nil, fmt.Errorf("the store did not announce the length of the object: %w", objstore.ErrUnavailable)
	}
	if size > sizeMax {
		return nil, fmt.Errorf("%d bytes, at most %d: %w", size, sizeMax, objstore.ErrInvalid)
	}
	whole := make([]byte, size)
	n, err := io.ReadFull(body, whole)
	if err == nil {
		// Reading up to the end lets the connection be reused, and lets a checksum be compared if there is one.
		_, err = io.Copy(io.Discard, body)
	}
	if err != nil {
		return nil, fmt.Errorf("body broke off after %d of %d bytes: %w", n, size, classify(err))
	}
	return whole, nil
}

// Listing turns a store's listing into a bucket's, and checks what callers rely on: prefix and order.
type Listing struct {
	own    string
	prefix string
	last   string
	infos  []objstore.Info
}

// NewListing starts a listing of prefix after a key, in a bucket whose keys stand behind own in the store.
func NewListing(own, prefix, after string) *Listing {
	return &Listing{own: own, prefix: prefix, last: after}
}

// Add takes the next object, under the name the store knows it by. Objects whose names are no keys, such as the folders
// that consoles make, are skipped.
func (l *Listing) Add(object objstore.Info) error {
	key, ours := strings.CutPrefix(object.Key, l.own)
	if !ours || !strings.HasPrefix(key, l.prefix) {
		return fmt.Errorf("the store listed %q, which lacks the prefix: %w", object.Key, objstore.ErrUnavailable)
	}
	isKey := objstore.ValidateKey(key) == nil
	switch {
	case !isKey:
	case key <= l.last && l.last != "":
		return fmt.Errorf("the store listed %q after %q: it does not list in key order, which firn needs: %w", key, l.last, objstore.ErrInvalid)
	default:
		object.Key, l.last = key, key
		l.infos = append(l.infos, object)
	}
	return nil
}

// Infos returns what was taken so far.
func (l *Listing) Infos() []objstore.Info { return l.infos }

// KeyError is a store's refusal to delete one key of several.
type KeyError struct{ Key, Code, Message string }

// KeyErrors turns the errors for single keys, which come inside a 200, into one error with the first of each class. A key
// that was not there is none.
func KeyErrors(failed []KeyError) error {
	var errs []error
	for _, f := range failed {
		class := ClassOfAnswer(f.Code, f.Message, 0)
		if class == nil {
			class = objstore.ErrUnavailable
		}
		if errors.Is(class, objstore.ErrNotFound) || errors.Is(errors.Join(errs...), class) {
			continue
		}
		errs = append(errs, fmt.Errorf("%s and perhaps more of %d: %w: %s: %s", f.Key, len(failed), class, f.Code, f.Message))
	}
	return errors.Join(errs...)
}
