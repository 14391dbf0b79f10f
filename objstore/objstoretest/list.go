package objstoretest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/firnlog/firn/objstore"
)

func testList(t *testing.T, b objstore.Bucket) {
	wantList(t, b, "", "", 10)
	// '-' and '.' sort before '/', digits and letters after it: an order that a walk of directories gets wrong easily.
	keys := []string{
		"a-b", "a.b", "a/-", "a/b/c", "a/b/d", "a/b0", "a/bb/c", "a0", "a=", "b/c", "z",
	}
	for i := range keys {
		mustPut(t, b, keys[(i*7)%len(keys)], []byte("x"))
	}
	if !slices.IsSorted(keys) {
		t.Fatal("the table is not in order")
	}
	queries := []string{
		"", "a", "a-", "a-b", "a-bc", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/", "a/b/cc", "a/b/e", "a/bb", "a/bb/", "a/c", "a/z/y", "a0",
		"a1", "b", "b/", "b/c", "bb", "y", "z", "z0", "zz", "-", "0", "A",
	}
	for _, prefix := range queries {
		for _, after := range queries {
			for _, limit := range []int{1, 3, 1000} {
				wantList(t, b, prefix, after, limit, expected(keys, prefix, after, limit)...)
			}
		}
	}
}

func testListPages(t *testing.T, b objstore.Bucket) {
	const objects = objstore.ListLimitMax + 137
	keys := make([]string, objects)
	work := make(chan string, objects)
	for i := range keys {
		keys[i] = fmt.Sprintf("page/%02x/%04d", (i*31)%16, i)
		work <- keys[i]
	}
	close(work)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for key := range work {
				if err := b.Put(t.Context(), key, []byte(key), objstore.PutOptions{}); err != nil {
					t.Errorf("put %s: %v", key, err)
				}
			}
		})
	}
	group.Wait()
	mustPut(t, b, "other", nil)
	mustPut(t, b, "pagf", nil)
	slices.Sort(keys)
	for _, limit := range []int{97, objstore.ListLimitMax} {
		var got []string
		for after := ""; len(got) <= objects; {
			infos, err := b.List(t.Context(), "page/", after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(infos) > limit {
				t.Fatalf("list of at most %d gave %d", limit, len(infos))
			}
			if len(infos) == 0 {
				break
			}
			for _, info := range infos {
				if info.Size != int64(len(info.Key)) {
					t.Errorf("%s has size %d, want %d", info.Key, info.Size, len(info.Key))
				}
				got = append(got, info.Key)
			}
			after = got[len(got)-1]
		}
		if !slices.Equal(got, keys) {
			t.Errorf("pages of %d gave %d keys, want the %d put, in order", limit, len(got), len(keys))
		}
	}
}

func testListArguments(t *testing.T, b objstore.Bucket) {
	mustPut(t, b, "a", nil)
	for _, limit := range []int{0, -1, objstore.ListLimitMax + 1} {
		_, err := b.List(t.Context(), "", "", limit)
		wantError(t, fmt.Sprintf("list with limit %d", limit), err, objstore.ErrInvalid)
	}
	for _, bad := range []string{"/", "../", "a/../", "a//", "a b", "\x00"} {
		_, err := b.List(t.Context(), bad, "", 1)
		wantError(t, fmt.Sprintf("list with prefix %q", bad), err, objstore.ErrInvalid)
		_, err = b.List(t.Context(), "", bad, 1)
		wantError(t, fmt.Sprintf("list with after %q", bad), err, objstore.ErrInvalid)
	}
	wantList(t, b, "", "", objstore.ListLimitMax, "a")
}

// expected is the contract of List, read aloud. Requires: keys ascending.
func expected(keys []string, prefix, after string, limit int) []string {
	var want []string
	for _, key := range keys {
		if strings.HasPrefix(key, prefix) && key > after && len(want) < limit {
			want = append(want, key)
		}
	}
	return want
}

// listed returns up to limit keys after after, asking again where the store gave a short page.
func listed(t *testing.T, b objstore.Bucket, prefix, after string, limit int) []string {
	t.Helper()
	var got []string
	for len(got) < limit {
		infos, err := b.List(t.Context(), prefix, after, limit-len(got))
		if err != nil {
			t.Fatalf("list prefix %q after %q: %v", prefix, after, err)
		}
		if len(infos) == 0 {
			break
		}
		for _, info := range infos {
			got = append(got, info.Key)
		}
		after = got[len(got)-1]
	}
	return got
}

func wantList(t *testing.T, b objstore.Bucket, prefix, after string, limit int, want ...string) {
	t.Helper()
	if got := listed(t, b, prefix, after, limit); !slices.Equal(got, want) {
		t.Fatalf("list prefix %q after %q limit %d: %.200q, want %.200q", prefix, after, limit, got, want)
	}
}
