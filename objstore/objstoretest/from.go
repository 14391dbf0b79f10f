package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/objstore"
)

// Putter is the Put of a bucket, such as a fake's own.
type Putter interface {
	Put(ctx context.Context, key string, body []byte, opts objstore.PutOptions) error
}

// PutFrom is a PutFrom by way of Put, for fakes that do something to puts.
func PutFrom(ctx context.Context, b Putter, key string, body io.ReaderAt, size int64, opts objstore.PutOptions) error {
	whole, err := io.ReadAll(objstore.NewBody(body, size))
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return b.Put(ctx, key, whole, opts)
}

func testPutFrom(t *testing.T, b objstore.Bucket) {
	for _, size := range []int{0, 1, 511, 65_537, 5<<20 + 3} {
		key := fmt.Sprintf("from/%d", size)
		body := noise(uint64(size), size)
		// Only the first size bytes are sent.
		longer := bytes.NewReader(append(bytes.Clone(body), "and what follows"...))
		if err := b.PutFrom(t.Context(), key, longer, int64(size), objstore.PutOptions{}); err != nil {
			t.Fatalf("put from %d bytes: %v", size, err)
		}
		wantBody(t, b, key, body)
		again := noise(uint64(size)+1, size+10)
		if err := b.PutFrom(t.Context(), key, bytes.NewReader(again), int64(len(again)), objstore.PutOptions{}); err != nil {
			t.Fatalf("put from over %d bytes: %v", size, err)
		}
		wantBody(t, b, key, again)
	}
	first, second := []byte("first"), []byte("second")
	absent := objstore.PutOptions{IfAbsent: true}
	if err := b.PutFrom(t.Context(), "a/b", bytes.NewReader(first), 5, absent); err != nil {
		t.Fatalf("put from if absent of a new key: %v", err)
	}
	err := b.PutFrom(t.Context(), "a/b", bytes.NewReader(second), 6, absent)
	wantError(t, "put from if absent of a taken key", err, objstore.ErrExists)
	wantBody(t, b, "a/b", first)
	for _, key := range InvalidKeys() {
		err := b.PutFrom(t.Context(), key, strings.NewReader("x"), 1, objstore.PutOptions{})
		wantError(t, fmt.Sprintf("put from %.40q", key), err, objstore.ErrInvalid)
	}
}

// brokenAt fails at a position, as a file on a bad disk does.
type brokenAt struct {
	io.ReaderAt
	position int64
	err      error
}

func (b brokenAt) ReadAt(p []byte, position int64) (int, error) {
	if position+int64(len(p)) > b.position {
		n, _ := b.ReaderAt.ReadAt(p[:max(0, b.position-position)], position)
		return n, b.err
	}
	return b.ReaderAt.ReadAt(p, position)
}

func testPutFromThatFails(t *testing.T, b objstore.Bucket) {
	old := []byte("old")
	mustPut(t, b, "old", old)
	broken := errors.New("input/output error")
	for _, size := range []int64{100, 3 << 20} {
		body := bytes.NewReader(noise(3, int(size)))
		for name, c := range map[string]struct {
			body io.ReaderAt
			size int64
			want error
		}{
			"short":          {body, size + 1, io.ErrUnexpectedEOF},
			"much too short": {body, 4 * size, io.ErrUnexpectedEOF},
			"broken":         {brokenAt{body, size / 2, broken}, size, broken},
			"negative size":  {body, -1, objstore.ErrInvalid},
		} {
			for _, key := range []string{"new", "old"} {
				err := b.PutFrom(t.Context(), key, c.body, c.size, objstore.PutOptions{})
				step := fmt.Sprintf("put from a body of %d that is %s, to %s", size, name, key)
				wantError(t, step, err, c.want)
				wantError(t, step, err, objstore.ErrInvalid)
			}
		}
	}
	_, err := b.Get(t.Context(), "new")
	wantError(t, "get of what was never put", err, objstore.ErrNotFound)
	wantBody(t, b, "old", old)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = b.PutFrom(ctx, "new", strings.NewReader("x"), 1, objstore.PutOptions{})
	wantError(t, "put from after the caller's end", err, context.Canceled)
	wantList(t, b, "", "", 10, "old")
}

func testPutOptionsThatCannotBe(t *testing.T, b objstore.Bucket) {
	many := make([]objstore.Tag, objstore.TagsMax+1)
	for i := range many {
		many[i].Key = fmt.Sprint(i)
	}
	tags := func(t ...objstore.Tag) objstore.PutOptions { return objstore.PutOptions{Tags: t} }
	for name, opts := range map[string]objstore.PutOptions{
		"too many tags":       tags(many...),
		"a tag without a key": tags(objstore.Tag{Value: "v"}),
		"a tag twice":         tags(objstore.Tag{Key: "k", Value: "1"}, objstore.Tag{Key: "k", Value: "2"}),
		"a long tag":          tags(objstore.Tag{Key: strings.Repeat("k", objstore.TagKeyBytesMax+1)}),
		"a long value":        tags(objstore.Tag{Key: "k", Value: strings.Repeat("v", objstore.TagValueBytesMax+1)}),
		"a strange tag":       tags(objstore.Tag{Key: "k", Value: "a&b"}),
		"an unknown lock":     {Lock: objstore.Lock{Mode: "ETERNAL", Until: time.Now().Add(time.Hour)}},
		"a lock without end":  {Lock: objstore.Lock{Mode: objstore.LockGovernance}},
		"an end without lock": {Lock: objstore.Lock{Until: time.Now().Add(time.Hour)}},
	} {
		wantError(t, "put with "+name, b.Put(t.Context(), "k", []byte("x"), opts), objstore.ErrInvalid)
		wantError(t, "put from with "+name, b.PutFrom(t.Context(), "k", strings.NewReader("x"), 1, opts), objstore.ErrInvalid)
	}
	wantList(t, b, "", "", 10)
	good := tags(objstore.Tag{Key: "firn-class", Value: "a B+c-1=._:/@"}, objstore.Tag{Key: "empty"})
	if err := b.Put(t.Context(), "k", []byte("x"), good); err != nil {
		t.Errorf("put with tags: %v", err)
	}
	if err := b.PutFrom(t.Context(), "l", strings.NewReader("x"), 1, good); err != nil {
		t.Errorf("put from with tags: %v", err)
	}
	wantBody(t, b, "k", []byte("x"))
	wantBody(t, b, "l", []byte("x"))
}
