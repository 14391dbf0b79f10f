package minio

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

// errorBytesMax bounds what is read of an answer that is no success.
const errorBytesMax = 64 << 10

// answer is what the store itself said to one attempt. The transport writes it, the attempt's owner reads it once the
// library has returned.
type answer struct {
	end context.CancelFunc // ends the attempt: nothing that the library would still do is wanted

	mu       sync.Mutex // guards the rest: a transport may still run after the library has returned
	requests int
	status   int    // of an answer that is no success; 0 for none
	code     string // in the store's words, "" where it has none
	message  string
	bodyless bool  // the answer to a HEAD
	err      error // there was no answer
}

// noTime stands for a time that the store did not tell; nothing is decided by it.
const noTime = "Thu, 01 Jan 1970 00:00:00 GMT"

type answerKey struct{}

// ownError is one that decides, whatever the store has said.
type ownError struct{ error }

// noting is a transport that writes down answers for the attempt in the request's context.
type noting struct{ inner http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (n noting) RoundTrip(request *http.Request) (*http.Response, error) {
	a, ours := request.Context().Value(answerKey{}).(*answer)
	if !ours {
		return n.inner.RoundTrip(request)
	}
	if err := a.count(); err != nil {
		a.end()
		return nil, err
	}
	response, err := n.inner.RoundTrip(request)
	switch {
	case err != nil:
		a.fail(err)
		a.end()
	case response.StatusCode/100 != 2:
		body, _ := io.ReadAll(io.LimitReader(response.Body, errorBytesMax)) // a broken body has no code in it
		_ = response.Body.Close()
		response.Body = io.NopCloser(bytes.NewReader(body))
		a.note(request.Method, response, body)
		a.end()
	case response.Header.Get("Last-Modified") == "":
		response.Header.Set("Last-Modified", noTime) // without one the library takes no object
	}
	return response, err
}

func (a *answer) count() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.requests++; a.requests > requestsMax {
		a.err = fmt.Errorf("%w: %d pages without one valid key", objstore.ErrInvalid, requestsMax)
		return a.err
	}
	return nil
}

func (a *answer) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

func (a *answer) note(method string, response *http.Response, body []byte) {
	var said struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status, a.bodyless = response.StatusCode, method == http.MethodHead
	if xml.Unmarshal(body, &said) == nil {
		a.code, a.message = said.Code, said.Message
	}
	if code := response.Header.Get("x-minio-error-code"); code != "" && a.code == "" {
		a.code, a.message = code, response.Header.Get("x-minio-error-desc")
	}
}

// classify wraps what the library returned in the sentinel that says what to do next, from what the store said where it said
// anything. Where ctx, the caller's, has ended the error wraps ctx.Err() alone.
func (a *answer) classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%w: %v", ended, err)
	}
	if own := (ownError{}); errors.As(err, &own) {
		return own.error
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.status != 0:
		class := s3compat.ClassOfAnswer(a.code, a.message, a.status)
		if class == nil {
			class = objstore.ErrUnavailable
		}
		if a.bodyless && a.status == http.StatusNotFound && a.code == "" {
			class = objstore.ErrNotFound // a HEAD's 404 has no body, so no NoSuchKey either
		}
		return fmt.Errorf("%w: status %d %s: %s", class, a.status, a.code, a.message)
	case a.err != nil:
		err = a.err // the library may have put the attempt's end in its place
	}
	for _, class := range []error{objstore.ErrInvalid, objstore.ErrRange, objstore.ErrDenied, objstore.ErrRetained, objstore.ErrUnavailable} {
		if is(err, class) {
			return err // our own words, about an answer that was read
		}
	}
	// %v: the cause may be the deadline of one attempt, which must not look like the end of the caller's context.
	return fmt.Errorf("%w: %v", objstore.ErrUnavailable, err)
}

// said is the store's code in an answer that was no success, "" for none.
func (a *answer) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.code
}
