package inspect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/firnlog/firn/objstore"
)

// ErrUnreadable: the input is not what it was said to be, or cannot be read; the message says what it is.
var ErrUnreadable = errors.New("cannot inspect")

// Input is the bytes to look at. They may be far more than memory.
type Input struct {
	Name string // path, key, or "standard input"
	Size int64
	io.ReaderAt

	close func() error
}

// Close lets go of a file.
func (in *Input) Close() error {
	if in.close == nil {
		return nil
	}
	return in.close()
}

// OpenFile opens a local file for reading.
func OpenFile(path string) (*Input, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w %s: it is %s; name a file, or pipe it in and write -", ErrUnreadable, path, kindOf(st.Mode()))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Input{Name: path, Size: st.Size(), ReaderAt: f, close: f.Close}, nil
}

func kindOf(m os.FileMode) string {
	if m.IsDir() {
		return "a directory"
	}
	return "not a regular file"
}

// OpenStream copies r, of any length, to a temporary file, for every format but the entry needs to jump about.
func OpenStream(r io.Reader) (*Input, error) {
	f, err := os.CreateTemp("", "firn-inspect-*")
	if err != nil {
		return nil, err
	}
	in := &Input{Name: "standard input", ReaderAt: f, close: func() error { return errors.Join(f.Close(), os.Remove(f.Name())) }}
	if in.Size, err = io.Copy(f, r); err != nil {
		return nil, errors.Join(fmt.Errorf("read standard input: %w", err), in.Close())
	}
	return in, nil
}

// window is how much of an object is got at once.
const window = 8 << 20

// OpenObject opens an object of a bucket.
func OpenObject(ctx context.Context, bucket objstore.Bucket, key string) (*Input, error) {
	info, err := bucket.Head(ctx, key)
	if err != nil {
		return nil, err
	}
	return &Input{Name: key, Size: info.Size, ReaderAt: &object{ctx: ctx, bucket: bucket, key: key, size: info.Size}}, nil
}

// object reads an object through one window, which suits readers that go forward.
type object struct {
	ctx    context.Context //nolint:containedctx // io.ReaderAt has none; the object lives for one command
	bucket objstore.Bucket
	key    string
	size   int64
	at     int64
	buf    []byte
}

func (o *object) ReadAt(b []byte, position int64) (int, error) {
	n := 0
	for n < len(b) {
		at := position + int64(n)
		if at >= o.size {
			return n, io.EOF
		}
		if at < o.at || at >= o.at+int64(len(o.buf)) {
			size := min(window, o.size-at)
			buf, err := o.bucket.GetRange(o.ctx, o.key, at, size)
			if err != nil {
				return n, err
			}
			if len(buf) == 0 {
				return n, io.ErrUnexpectedEOF
			}
			o.at, o.buf = at, buf
		}
		n += copy(b[n:], o.buf[at-o.at:])
	}
	return n, nil
}

// whole reads all of an input that has to fit memory, at most limit bytes.
func (in *Input) whole(limit int64) ([]byte, error) {
	if in.Size > limit {
		return nil, fmt.Errorf("%w %s: %d bytes, at most %d are read", ErrUnreadable, in.Name, in.Size, limit)
	}
	b := make([]byte, in.Size)
	if err := in.fill(b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// fill reads all of b.
func (in *Input) fill(b []byte, position int64) error {
	n, err := in.ReadAt(b, position)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %s at position %d: %w", in.Name, position, err)
}

// sniff says which format the input is, by its first bytes: the hint for who took the wrong command.
func sniff(b []byte) string {
	for _, f := range []struct{ magic, command string }{
		{"FIRNSEG\n", "segment"}, {"firnwal\x00", "wal"}, {"FIRNSNAP", "snapshot"}, {"firn-arc", "archive"},
	} {
		if len(b) >= 8 && string(b[:8]) == f.magic {
			return f.command
		}
	}
	return ""
}

// wrong is the error for an input of another format than the command's.
func (in *Input) wrong(format string) error {
	b := make([]byte, min(8, in.Size))
	if err := in.fill(b, 0); err != nil {
		return err
	}
	if is := sniff(b); is != "" && is != format {
		return fmt.Errorf("%w %s: it is no %s but a %s; use firn inspect %s", ErrUnreadable, in.Name, format, is, is)
	}
	return fmt.Errorf("%w %s: it does not begin as a %s does (first bytes %x)", ErrUnreadable, in.Name, format, b)
}
