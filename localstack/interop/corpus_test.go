//go:build interop

package interop

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The corpus is real text: every line of every Go file of the toolchain's own source, keyed by the file's path.

// forEachLine calls fn with every line of every .go file below root, in a fixed order.
func forEachLine(root string, fn func(key string, line []byte) error) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(body) {
			if err := fn(rel, bytes.TrimSuffix(line, []byte("\n"))); err != nil {
				return err
			}
		}
		return nil
	})
}

func goSource(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src")
}

// digests sums up, per key, the values in order: two readers agree on every byte and on the order per key exactly where
// their digests are equal. It holds for any interleaving of keys.
type digests struct {
	records int
	byKey   map[string]hash.Hash
}

func newDigests() *digests { return &digests{byKey: make(map[string]hash.Hash)} }

func (d *digests) add(key string, value []byte) {
	h := d.byKey[key]
	if h == nil {
		h = sha256.New()
		d.byKey[key] = h
	}
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(value)))
	_, _ = h.Write(size[:])
	_, _ = h.Write(value)
	d.records++
}

func (d *digests) sums() map[string]string {
	sums := make(map[string]string, len(d.byKey))
	for k, h := range d.byKey {
		sums[k] = hex.EncodeToString(h.Sum(nil))
	}
	return sums
}

func compare(t *testing.T, reader string, want, got map[string]string, wantRecords, gotRecords int) {
	t.Helper()
	if wantRecords != gotRecords {
		t.Errorf("%s read %d records, %d were produced", reader, gotRecords, wantRecords)
	}
	bad := 0
	for k, sum := range want {
		if got[k] != sum {
			if bad++; bad <= 3 {
				t.Errorf("%s: key %q differs in bytes or order", reader, k)
			}
		}
	}
	if bad > 3 {
		t.Errorf("%s: %d keys differ", reader, bad)
	}
	if len(got) != len(want) {
		t.Errorf("%s read %d keys, %d were produced", reader, len(got), len(want))
	}
}

// parseKcat reads records that kcat printed with the format "%K %S %k%s": sizes first, so that any byte may be in them.
func parseKcat(r io.Reader, fn func(key string, value []byte)) error {
	br := bufio.NewReaderSize(r, 1<<20)
	for {
		var keySize, valueSize int
		head, err := br.ReadString(' ')
		if errors.Is(err, io.EOF) && head == "" {
			return nil
		}
		if err != nil {
			return err
		}
		second, err := br.ReadString(' ')
		if err != nil {
			return err
		}
		if _, err := fmt.Sscanf(head+second, "%d %d", &keySize, &valueSize); err != nil {
			return fmt.Errorf("kcat printed %q: %w", head+second, err)
		}
		buf := make([]byte, max(keySize, 0)+max(valueSize, 0))
		if _, err := io.ReadFull(br, buf); err != nil {
			return err
		}
		fn(string(buf[:max(keySize, 0)]), buf[max(keySize, 0):])
	}
}
