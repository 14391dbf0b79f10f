package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/firnlog/firn/objstore"
)

// classify wraps an error of the SDK in the sentinel that says what to do next. Where ctx has ended the error wraps
// ctx.Err() alone. What has neither a code nor a status never got an answer: a connection, a timeout, credentials that
// cannot be fetched; all of them are ErrUnavailable.
func classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%w: %v", ended, err)
	}
	class := objstore.ErrUnavailable
	var api smithy.APIError
	var response *smithyhttp.ResponseError
	code, status := "", 0
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	if known := classOfCode(code, status); known != nil {
		class = known
	}
	// %v: the cause may be the deadline of one attempt, which must not look like the end of the caller's context.
	return fmt.Errorf("%w: %v", class, err)
}

// classOfCode knows the codes that mean something else than their status says, then the status. It returns nil for
// neither. Codes: "Error responses" of the S3 API reference, and what compatible stores add.
func classOfCode(code string, status int) error {
	switch code {
	case "NoSuchKey", "NoSuchVersion":
		return objstore.ErrNotFound
	case "NoSuchBucket", "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidToken",
		"TokenRefreshRequired", "AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch",
		"RequestTimeTooSkewed", "InvalidObjectState", "InvalidBucketName":
		return objstore.ErrDenied
	case "PreconditionFailed":
		return objstore.ErrExists
	case "InvalidRange":
		return objstore.ErrRange
	case "RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError", "Throttling", "ThrottlingException", "RequestLimitExceeded",
		"TooManyRequests", "ConditionalRequestConflict", "OperationAborted", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch",
		"XMinioServerNotInitialized":
		return objstore.ErrUnavailable
	}
	switch status {
	case http.StatusNotFound:
		// In whose words? The SDK makes "NotFound" of any page that is not the store's: no proof of absence.
		return objstore.ErrUnavailable
	case http.StatusPreconditionFailed:
		return objstore.ErrExists
	case http.StatusRequestedRangeNotSatisfiable:
		return objstore.ErrRange
	case http.StatusUnauthorized, http.StatusForbidden:
		return objstore.ErrDenied
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
