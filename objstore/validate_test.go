package objstore_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/objstoretest"
)

func TestValidateKey(t *testing.T) {
	for _, key := range objstoretest.ValidKeys() {
		if err := objstore.ValidateKey(key); err != nil {
			t.Errorf("ValidateKey(%.40q) = %v, want nil", key, err)
		}
	}
	for _, key := range objstoretest.InvalidKeys() {
		if err := objstore.ValidateKey(key); !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("ValidateKey(%.40q) = %v, want ErrInvalid", key, err)
		}
	}
}

func TestValidateListTakesEveryStartOfAKey(t *testing.T) {
	for _, key := range objstoretest.ValidKeys() {
		for end := 0; end <= len(key); end += 1 + end/8 {
			if err := objstore.ValidateList(key[:end], key[:end], 1); err != nil {
				t.Errorf("start of a valid key refused: %v", err)
			}
		}
	}
	for _, prefix := range []string{"/", "../", "a//", "a/./", "a\x00", "ü", strings.Repeat("a", objstore.KeyBytesMax+1)} {
		if err := objstore.ValidateList(prefix, "", 1); !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("prefix %.40q: %v, want ErrInvalid", prefix, err)
		}
		if err := objstore.ValidateList("", prefix, 1); !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("after %.40q: %v, want ErrInvalid", prefix, err)
		}
	}
}

func TestValidateRange(t *testing.T) {
	for _, c := range []struct {
		position, size int64
		want           error
	}{
		{0, 1, nil},
		{math.MaxInt64 - 1, 1, nil},
		{-1, 1, objstore.ErrInvalid},
		{0, 0, objstore.ErrInvalid},
		{0, -1, objstore.ErrInvalid},
		{math.MaxInt64, 1, objstore.ErrRange},
	} {
		if err := objstore.ValidateRange(c.position, c.size); !errors.Is(err, c.want) {
			t.Errorf("ValidateRange(%d, %d) = %v, want %v", c.position, c.size, err, c.want)
		}
	}
}

func FuzzValidateKey(f *testing.F) {
	for _, key := range append(objstoretest.ValidKeys(), objstoretest.InvalidKeys()...) {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._=/-"
		valid := len(key) <= objstore.KeyBytesMax
		for i := range len(key) {
			valid = valid && strings.IndexByte(alphabet, key[i]) >= 0
		}
		for element := range strings.SplitSeq(key, "/") {
			valid = valid && element != "" && element != "." && element != ".."
		}
		err := objstore.ValidateKey(key)
		if (err == nil) != valid {
			t.Fatalf("ValidateKey(%q) = %v, the rule by rule check says valid=%v", key, err, valid)
		}
	})
}
