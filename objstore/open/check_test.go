package open_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/open"
)

func TestCheckMakesNothing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"mem://", "file://" + dir, "file://" + dir + "/new/deep", "s3://snow?region=x"} {
		if err := open.Check(url, open.Options{}); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{"", "mem://x", "file://", "file://" + file, "file:///x?y=z", "file://" + file + "/x", "s3://", "s3://snow?region=x&zone=y"} {
		if err := open.Check(url, open.Options{}); !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
}
