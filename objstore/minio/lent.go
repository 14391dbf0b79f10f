package minio

import (
	"bytes"
	"io"
	"sync"
)

// lent is a caller's buffer while an attempt may read it. The HTTP transport may go on reading a request's body after it has
// returned, and the buffer is the caller's again once Put has: what it writes there must not go out.
type lent struct {
	mu   sync.Mutex // guards left, over the copy
	left *bytes.Reader
}

func lend(body []byte) *lent { return &lent{left: bytes.NewReader(body)} }

// Read implements io.Reader.
func (l *lent) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == nil {
		return 0, io.ErrClosedPipe
	}
	return l.left.Read(b)
}

// takeBack ends the loan: no later Read sees the buffer.
func (l *lent) takeBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = nil
}
