package file_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/file"
)

func TestEveryCrashPointLeavesTheOldObjectOrTheNewOne(t *testing.T) {
	oldBody, newBody := bytes.Repeat([]byte("old"), 5000), bytes.Repeat([]byte("newer"), 4000)
	for _, c := range []struct {
		name     string
		key      string
		ifAbsent bool
	}{
		{"overwrite", "dir/object", false},
		{"new directory", "some/new/dir/object", false},
		{"if absent", "some/new/dir/object", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "bucket")
			crashes := t.TempDir()
			var steps []string
			recording := false
			d := file.ScriptDisk(func(step, path string) error {
				if recording {
					// What a crash right before this step leaves: everything that was written, and of a temp file that
					// is not fsynced yet only the first half.
					image := filepath.Join(crashes, fmt.Sprint(len(steps)))
					copyTree(t, image, root, step == "fsync file")
					steps = append(steps, step)
				}
				return nil
			})
			b, err := file.OpenOn(root, d)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			put(t, b, "dir/object", oldBody, false)
			recording = true
			put(t, b, c.key, newBody, c.ifAbsent)
			recording = false
			if len(steps) < 5 {
				t.Fatalf("only the steps %q were seen", steps)
			}
			sawOld, sawNew := false, false
			for i, step := range steps {
				image := filepath.Join(crashes, fmt.Sprint(i))
				after := open(t, image)
				keys := list(t, after)
				got, err := after.Get(t.Context(), c.key)
				switch {
				case err == nil && bytes.Equal(got, newBody):
					sawNew = true
				case c.key == "dir/object" && err == nil && bytes.Equal(got, oldBody):
					sawOld = true
				case c.key != "dir/object" && errors.Is(err, objstore.ErrNotFound):
					sawOld = true
				default:
					t.Errorf("crash before %q: get gave %d bytes and %v", step, len(got), err)
				}
				for _, key := range keys {
					if key != "dir/object" && key != c.key {
						t.Errorf("crash before %q: %s is visible", step, key)
					}
				}
				if temps := tempFiles(t, image); len(temps) != 0 {
					t.Errorf("crash before %q: temp files left after open: %q", step, temps)
				}
				put(t, after, c.key, newBody, false)
			}
			if !sawOld || !sawNew {
				t.Errorf("no crash point before the effect, or none after it: %q", steps)
			}
		})
	}
}

func TestTheOrderOfStepsMakesAPutDurable(t *testing.T) {
	var steps []string
	root := t.TempDir()
	b, err := file.OpenOn(root, file.ScriptDisk(func(step, path string) error {
		rel, err := filepath.Rel(root, path)
		if err != nil || strings.HasPrefix(rel, "..") {
			return nil //nolint:nilerr // the root's own parents have no path below it
		}
		if strings.HasPrefix(rel, ".tmp") {
			rel = "TEMP"
		}
		steps = append(steps, step+" "+rel)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, c := range []struct {
		key      string
		ifAbsent bool
		want     string
	}{
		{"a/b/1", false, "mkdir a; fsync dir .; mkdir a/b; fsync dir a; create TEMP; write TEMP; fsync file TEMP; close TEMP; rename a/b/1; fsync dir a/b"},
		{"a/b/2", false, "create TEMP; write TEMP; fsync file TEMP; close TEMP; rename a/b/2; fsync dir a/b"},
		{"a/b/3", true, "create TEMP; write TEMP; fsync file TEMP; close TEMP; link a/b/3; remove TEMP; fsync dir a/b"},
		{"top", false, "create TEMP; write TEMP; fsync file TEMP; close TEMP; rename top; fsync dir ."},
	} {
		steps = nil
		put(t, b, c.key, []byte("x"), c.ifAbsent)
		if got := strings.Join(steps, "; "); got != c.want {
			t.Errorf("put %s:\n got %s\nwant %s", c.key, got, c.want)
		}
	}
	steps = nil
	err = b.Put(t.Context(), "a/b/3", []byte("y"), objstore.PutOptions{IfAbsent: true})
	if !errors.Is(err, objstore.ErrExists) {
		t.Errorf("second put if absent: %v", err)
	}
	if got := steps[len(steps)-1]; got != "fsync dir a/b" {
		t.Errorf("ErrExists came after %q, want an fsync of the directory", got)
	}
}

func TestErrorsOfTheDisk(t *testing.T) {
	for _, c := range []struct {
		step string
		err  error
		want error
	}{
		{"create", syscall.EMFILE, objstore.ErrUnavailable},
		{"create", syscall.EROFS, objstore.ErrDenied},
		{"write", syscall.ENOSPC, objstore.ErrUnavailable},
		{"write", syscall.EIO, objstore.ErrUnavailable},
		{"fsync file", syscall.EIO, objstore.ErrUnavailable},
		{"close", syscall.EIO, objstore.ErrUnavailable},
		{"mkdir", syscall.EACCES, objstore.ErrDenied},
		{"rename", syscall.EACCES, objstore.ErrDenied},
		{"rename", syscall.ENOSPC, objstore.ErrUnavailable},
		{"fsync dir", syscall.EIO, objstore.ErrUnavailable},
	} {
		t.Run(c.step+" "+c.err.Error(), func(t *testing.T) {
			armed, calls := false, 0
			root := t.TempDir()
			b, err := file.OpenOn(root, file.ScriptDisk(func(step, path string) error {
				if armed && step == c.step {
					calls++
					return &fs.PathError{Op: step, Path: path, Err: c.err}
				}
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			armed = true
			err = b.Put(t.Context(), "dir/key", []byte("body"), objstore.PutOptions{})
			if !errors.Is(err, c.want) || !errors.Is(err, c.err) {
				t.Fatalf("put: %v, want %v because of %v", err, c.want, c.err)
			}
			if calls != 1 {
				t.Errorf("%s was called %d times, want one", c.step, calls)
			}
			if temps := tempFiles(t, root); len(temps) != 0 {
				t.Errorf("temp files left: %q", temps)
			}
			armed = false
			err = b.Put(t.Context(), "dir/key", []byte("body"), objstore.PutOptions{})
			if c.step == "fsync dir" {
				// mkdir of dir was followed by the failed fsync of the root: nothing may be promised below it any more.
				if !errors.Is(err, objstore.ErrUnavailable) {
					t.Errorf("put into a directory whose fsync failed: %v, want ErrUnavailable", err)
				}
				return
			}
			if err != nil {
				t.Errorf("put after the fault has gone: %v", err)
			}
		})
	}
}

func TestAFailedFsyncOfADirectoryIsFinalForItAlone(t *testing.T) {
	fail := false
	b, err := file.OpenOn(t.TempDir(), file.ScriptDisk(func(step, path string) error {
		if fail && step == "fsync dir" {
			return syscall.EIO
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	put(t, b, "bad/1", []byte("x"), false)
	put(t, b, "good/1", []byte("x"), false)
	fail = true
	if err := b.Put(t.Context(), "bad/2", []byte("x"), objstore.PutOptions{}); !errors.Is(err, objstore.ErrUnavailable) {
		t.Fatalf("put whose last fsync failed: %v", err)
	}
	fail = false
	for _, key := range []string{"bad/2", "bad/3", "bad/new/4"} {
		for _, ifAbsent := range []bool{false, true} {
			err := b.Put(t.Context(), key, []byte("x"), objstore.PutOptions{IfAbsent: ifAbsent})
			if !errors.Is(err, objstore.ErrUnavailable) {
				t.Errorf("put %s, if absent %v, after the failed fsync: %v, want ErrUnavailable", key, ifAbsent, err)
			}
		}
	}
	put(t, b, "good/2", []byte("x"), false)
}

func TestOpenSparesTempFilesOfLivingProcesses(t *testing.T) {
	root := t.TempDir()
	var second *file.Bucket
	first, err := file.OpenOn(root, file.ScriptDisk(func(step, path string) error {
		if step == "rename" && second == nil {
			second = open(t, root) // while the first bucket's temp file waits for its rename
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	put(t, first, "k", []byte("body"), false)
	got, err := second.Get(t.Context(), "k")
	if err != nil || string(got) != "body" {
		t.Fatalf("get through the second bucket: %q, %v", got, err)
	}
}

func TestADirectoryRemovedBehindOurBackIsMadeAgain(t *testing.T) {
	root := t.TempDir()
	b := open(t, root)
	put(t, b, "a/b/c", []byte("x"), false)
	if err := os.RemoveAll(filepath.Join(root, "a")); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), "a/b/d", []byte("x"), objstore.PutOptions{}); !errors.Is(err, objstore.ErrUnavailable) {
		t.Fatalf("first put: %v, want ErrUnavailable", err)
	}
	put(t, b, "a/b/d", []byte("x"), false)
}

func put(t *testing.T, b *file.Bucket, key string, body []byte, ifAbsent bool) {
	t.Helper()
	if err := b.Put(t.Context(), key, body, objstore.PutOptions{IfAbsent: ifAbsent}); err != nil {
		t.Fatalf("put: %v", err)
	}
}

func list(t *testing.T, b *file.Bucket) []string {
	t.Helper()
	infos, err := b.List(t.Context(), "", "", objstore.ListLimitMax)
	if err != nil {
		t.Fatal(err)
	}
	keys := make([]string, len(infos))
	for i, info := range infos {
		keys[i] = info.Key
	}
	return keys
}

// copyTree copies root to image, with the files below .tmp cut in half where tear is set.
func copyTree(t *testing.T, image, root string, tear bool) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		to := filepath.Join(image, rel)
		if entry.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if tear && strings.HasPrefix(rel, ".tmp") {
			body = body[:len(body)/2]
		}
		return os.WriteFile(to, body, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tempFiles returns the files below .tmp; directories there are the locks of open buckets.
func tempFiles(t *testing.T, root string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Join(root, ".tmp"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
