package file_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/file"
	"github.com/firnlog/firn/objstore/objstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, root string) *file.Bucket {
	t.Helper()
	b, err := file.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestContract(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Bucket { return open(t, t.TempDir()) })
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{64 << 10, 8 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			bucket := open(b, b.TempDir())
			body := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := bucket.Put(b.Context(), "bench/key", body, objstore.PutOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestOpenRemovesWhatACrashLeft(t *testing.T) {
	root := t.TempDir()
	for _, path := range []string{".tmp/put-123/7", ".tmp/put-123/deep/er", ".tmp/loose"} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("half an obj"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b := open(t, root)
	if keys := list(t, b); len(keys) != 0 {
		t.Errorf("temp files are visible: %q", keys)
	}
	if files := tempFiles(t, root); len(files) != 0 {
		t.Errorf("temp files left: %q", files)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, ".tmp"))
	if err != nil || len(entries) != 0 {
		t.Errorf("after close .tmp holds %v, %v", entries, err)
	}
}

func TestOpenRefusesARootThatCannotWork(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	readOnly := filepath.Join(dir, "read-only")
	if err := os.Mkdir(readOnly, 0o555); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		root string
		want error
		text string
	}{
		{plain, objstore.ErrInvalid, "not a directory"},
		{filepath.Join(plain, "below"), objstore.ErrInvalid, "not a directory"},
		{readOnly, objstore.ErrDenied, "not writable"},
		{filepath.Join(readOnly, "below"), objstore.ErrDenied, "permission denied"},
	} {
		if errors.Is(c.want, objstore.ErrDenied) && os.Geteuid() == 0 {
			t.Logf("%s: not tried, permissions do not bind root", c.root)
			continue
		}
		b, err := file.Open(c.root)
		if err == nil {
			_ = b.Close()
		}
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.root) || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("open %s: %v, want %v naming the directory and %q", c.root, err, c.want, c.text)
		}
	}
	for _, err := range []error{syscall.EACCES, syscall.EROFS, syscall.EPERM} {
		_, openErr := file.OpenOn(filepath.Join(dir, "new"), file.ScriptDisk(func(step, path string) error {
			if step == "mkdir" {
				return &fs.PathError{Op: step, Path: path, Err: err}
			}
			return nil
		}))
		if !errors.Is(openErr, objstore.ErrDenied) || !strings.Contains(fmt.Sprint(openErr), filepath.Join(dir, "new")) {
			t.Errorf("open where mkdir gives %v: %v, want ErrDenied naming the directory", err, openErr)
		}
	}
}

func TestKeysThatADirectoryCannotHold(t *testing.T) {
	b := open(t, t.TempDir())
	put(t, b, "file", []byte("x"), false)
	put(t, b, "dir/below", []byte("x"), false)
	for _, key := range []string{
		"file/below", "file/below/deep", "dir", ".tmp", ".tmp/x", strings.Repeat("e", 256), "a/" + strings.Repeat("e", 256) + "/b",
	} {
		for _, ifAbsent := range []bool{false, true} {
			err := b.Put(t.Context(), key, []byte("y"), objstore.PutOptions{IfAbsent: ifAbsent})
			if !errors.Is(err, objstore.ErrInvalid) {
				t.Errorf("put %.20s, if absent %v: %v, want ErrInvalid", key, ifAbsent, err)
			}
		}
	}
	if err := b.Delete(t.Context(), "dir", "file/below"); err != nil {
		t.Errorf("delete of what is no object: %v", err)
	}
	if got := list(t, b); !slices.Equal(got, []string{"dir/below", "file"}) {
		t.Errorf("list: %q", got)
	}
	put(t, b, "x/"+strings.Repeat("e", 255), []byte("z"), true)
}

func TestListSkipsWhatIsNoObject(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"lost+found/x", "a/empty"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "a/name with blanks"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "a/link")); err != nil {
		t.Fatal(err)
	}
	b := open(t, root)
	put(t, b, "a/object", nil, false)
	if got := list(t, b); !slices.Equal(got, []string{"a/object"}) {
		t.Errorf("list: %q", got)
	}
}
