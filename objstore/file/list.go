package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/firnlog/firn/objstore"
)

// List implements objstore.Bucket. It reads the directories that can hold an answer and no others; within one directory
// a page costs a read of all its names.
func (b *Bucket) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := objstore.ValidateList(prefix, after, limit); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	if err := b.enter(ctx, "list"); err != nil {
		return nil, err
	}
	defer b.calls.Done()
	w := walk{ctx: ctx, root: b.root, prefix: prefix, after: after, limit: limit}
	if err := w.directory(prefix[:strings.LastIndexByte(prefix, '/')+1]); err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, classify(err))
	}
	return w.found, nil
}

// walk visits directories depth first in key order. It lives for one List.
type walk struct {
	ctx           context.Context
	root          string
	prefix, after string
	limit         int
	found         []objstore.Info
}

// directory collects what lies below dir, a key prefix that is empty or ends in '/'.
func (w *walk) directory(dir string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	entries, err := w.entries(dir)
	if err != nil {
		return err
	}
	for _, key := range entries {
		if len(w.found) == w.limit {
			return nil
		}
		if strings.HasSuffix(key, "/") {
			if err := w.directory(key); err != nil {
				return err
			}
			continue
		}
		info, err := os.Lstat(w.root + "/" + key)
		if err != nil {
			if errors.Is(classifyRead(err), objstore.ErrNotFound) {
				continue // deleted since the directory was read
			}
			return err
		}
		w.found = append(w.found, objstore.Info{Key: key, Size: info.Size(), ModTime: info.ModTime()})
	}
	return nil
}

// entries returns the keys in dir that are wanted, directories with a '/' at their end, in byte order: with the '/' that
// is the order of all keys below them too.
func (w *walk) entries(dir string) ([]string, error) {
	f, err := os.Open(w.root + "/" + dir)
	if err != nil {
		if errors.Is(classifyRead(err), objstore.ErrNotFound) || errors.Is(err, syscall.ENAMETOOLONG) {
			return nil, nil
		}
		return nil, err
	}
	defer f.Close() // read only
	dirents, err := f.ReadDir(-1)
	if err != nil {
		if errors.Is(classifyRead(err), objstore.ErrNotFound) {
			return nil, nil
		}
		return nil, err
	}
	var keys []string
	for _, dirent := range dirents {
		key := dir + dirent.Name()
		switch {
		case validateKey(key) != nil: // .tmp, lost+found and the like
		case dirent.IsDir():
			if w.wantsDirectory(key + "/") {
				keys = append(keys, key+"/")
			}
		case dirent.Type().IsRegular():
			if strings.HasPrefix(key, w.prefix) && key > w.after {
				keys = append(keys, key)
			}
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// wantsDirectory reports whether a key below dir can have the prefix and be greater than after.
func (w *walk) wantsDirectory(dir string) bool {
	return (strings.HasPrefix(dir, w.prefix) || strings.HasPrefix(w.prefix, dir)) &&
		(dir > w.after || strings.HasPrefix(w.after, dir))
}
