package s3

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
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
	code, message, status := "", "", 0
	if errors.As(err, &api) {
		code, message = api.ErrorCode(), api.ErrorMessage()
	}
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	if known := s3compat.ClassOfAnswer(code, message, status); known != nil {
		class = known
	}
	// %v: the cause may be the deadline of one attempt, which must not look like the end of the caller's context.
	return fmt.Errorf("%w: %v", class, err)
}
