package open

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"github.com/firnlog/firn/objstore"
)

// Check says what is wrong with a URL as Open would, and neither makes a directory nor sends a request.
func Check(rawURL string, options Options) error {
	if u, err := url.Parse(rawURL); err == nil && u.Scheme == "file" && u.User == nil && u.Opaque == "" && u.Fragment == "" {
		p := params{values: u.Query()}
		root, err := directory(u)
		if err = errors.Join(p.finish("file"), err); err != nil {
			return fmt.Errorf("bucket URL %s: %w", redacted(u), err)
		}
		if info, err := os.Stat(root); err == nil && !info.IsDir() {
			return fmt.Errorf("bucket URL %s: %w: %s is a file, not a directory", redacted(u), objstore.ErrInvalid, root)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("bucket URL %s: %w: %w", redacted(u), objstore.ErrInvalid, err)
		}
		return nil
	}
	b, err := Open(context.Background(), rawURL, options)
	if err != nil {
		return err
	}
	return b.Close()
}
