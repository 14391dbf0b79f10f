package minio

import (
	"errors"
	"io"
	"testing"
)

func TestABufferTakenBackIsNotRead(t *testing.T) {
	l := lend([]byte("whole body"))
	b := make([]byte, 5)
	if n, err := l.Read(b); n != 5 || err != nil || string(b) != "whole" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	l.takeBack()
	if n, err := l.Read(b); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
