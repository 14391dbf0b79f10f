package objstoretest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/firnlog/firn/objstore"
)

// testRandomOperations compares the bucket with a map over seeded sequences. A failure prints the seed and every step.
func testRandomOperations(t *testing.T, b objstore.Bucket) {
	for seed := range uint64(4) {
		agreed := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			m := &model{bucket: b, objects: make(map[string][]byte), rng: rand.New(rand.NewPCG(seed, 0xf1c4))}
			for range 120 {
				if step, problem := m.step(t); problem != nil {
					for _, done := range m.steps {
						t.Log(done)
					}
					t.Fatalf("%s: %v", step, problem)
				}
				if t.Failed() {
					return
				}
			}
			keys := slices.Collect(maps.Keys(m.objects))
			mustDelete(t, b, keys...)
			wantList(t, b, "", "", 10)
		})
		if !agreed {
			return // the next sequence would start from a bucket that is not empty
		}
	}
}

// model is what the bucket should hold.
type model struct {
	bucket  objstore.Bucket
	objects map[string][]byte
	rng     *rand.Rand
	steps   []string
}

// step does one operation on both and returns its description and how the bucket differed, if it did.
func (m *model) step(t *testing.T) (string, error) {
	key := m.key()
	before, present := m.objects[key]
	var step string
	note := func(format string, args ...any) {
		step = fmt.Sprintf(format, args...)
		m.steps = append(m.steps, step)
	}
	switch m.rng.IntN(8) {
	case 0, 1:
		opts := objstore.PutOptions{IfAbsent: m.rng.IntN(2) == 0}
		body := noise(m.rng.Uint64(), m.rng.IntN(3000))
		note("put %s, %d bytes, if absent %v", key, len(body), opts.IfAbsent)
		err := m.bucket.Put(t.Context(), key, body, opts)
		if present && opts.IfAbsent {
			return step, differs(err, objstore.ErrExists)
		}
		m.objects[key] = body
		return step, differs(err, nil)
	case 2:
		keys := make([]string, m.rng.IntN(4))
		for i := range keys {
			keys[i] = m.key()
			delete(m.objects, keys[i])
		}
		note("delete %v", keys)
		return step, differs(m.bucket.Delete(t.Context(), keys...), nil)
	case 3:
		note("get %s", key)
		got, err := m.bucket.Get(t.Context(), key)
		if !present {
			return step, differs(err, objstore.ErrNotFound)
		}
		return step, errors.Join(differs(err, nil), sameBytes(got, before))
	case 4:
		position, size := int64(m.rng.IntN(3000)), int64(1+m.rng.IntN(1000))
		note("get range of %s, %d bytes from %d", key, size, position)
		got, err := m.bucket.GetRange(t.Context(), key, position, size)
		switch {
		case !present:
			return step, differs(err, objstore.ErrNotFound)
		case position+size > int64(len(before)):
			return step, differs(err, objstore.ErrRange)
		}
		return step, errors.Join(differs(err, nil), sameBytes(got, before[position:position+size]))
	case 5:
		note("head %s", key)
		info, err := m.bucket.Head(t.Context(), key)
		if !present {
			return step, differs(err, objstore.ErrNotFound)
		}
		if err == nil && info.Size != int64(len(before)) {
			return step, fmt.Errorf("size %d, want %d", info.Size, len(before))
		}
		return step, differs(err, nil)
	default:
		prefix, after, limit := "", "", 1+m.rng.IntN(10)
		if m.rng.IntN(2) == 0 {
			prefix = key[:m.rng.IntN(len(key)+1)]
		}
		if m.rng.IntN(2) == 0 {
			after = m.key()
		}
		note("list prefix %q after %q limit %d", prefix, after, limit)
		want := expected(slices.Sorted(maps.Keys(m.objects)), prefix, after, limit)
		if got := listed(t, m.bucket, prefix, after, limit); !slices.Equal(got, want) {
			return step, fmt.Errorf("got %q, want %q", got, want)
		}
		return step, nil
	}
}

// key draws from a small set, so that operations meet; no key in it is a directory of another.
func (m *model) key() string {
	parts := []string{"a", "a-b", "b.c", "b/", "c/d/", "c/d-e/"}
	part := parts[m.rng.IntN(len(parts))]
	if part[len(part)-1] == '/' {
		part += string("xyz-"[m.rng.IntN(4)])
	}
	return part
}

func differs(got, want error) error {
	if errors.Is(got, want) {
		return nil
	}
	return fmt.Errorf("error %v, want %v", got, want)
}

func sameBytes(got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	return fmt.Errorf("%d bytes that differ from the %d put", len(got), len(want))
}
