package metastore_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/memlog"
)

func TestClusterSecretIsMadeOnce(t *testing.T) {
	store := memlog.NewStore(memlog.Config{})
	t.Cleanup(func() { _ = store.Close() })
	secrets := make([][]byte, 8)
	var tasks sync.WaitGroup
	for i := range secrets {
		l := store.Open(string(rune('a' + i)))
		t.Cleanup(func() { _ = l.Close() })
		tasks.Go(func() {
			var err error
			if secrets[i], err = metastore.ClusterSecret(t.Context(), l); err != nil {
				t.Error(err)
			}
		})
	}
	tasks.Wait()
	for _, s := range secrets {
		if len(s) != 32 || !bytes.Equal(s, secrets[0]) || bytes.Equal(s, make([]byte, 32)) {
			t.Fatal("agents of one cluster have different secrets, or none")
		}
	}
}

func TestClusterSecretRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, c := range []struct {
		value string
		want  error
	}{
		{"", metastore.ErrCorrupt}, {"\x00" + strings.Repeat("x", 32), metastore.ErrCorrupt}, {"\x01hush", metastore.ErrCorrupt},
		{"\x02" + strings.Repeat("x", 64), metastore.ErrNewer},
	} {
		store := memlog.NewStore(memlog.Config{})
		l := store.Open("a")
		if _, err := l.Swap(t.Context(), "secret", 0, []byte(c.value), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := metastore.ClusterSecret(t.Context(), l); !errors.Is(err, c.want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v", c.value, err)
		}
		_ = l.Close()
		_ = store.Close()
	}
}

func TestClusterSecretWhereTheMetastoreDoesNotAnswer(t *testing.T) {
	store := memlog.NewStore(memlog.Config{})
	t.Cleanup(func() { _ = store.Close() })
	l := store.Open("a")
	t.Cleanup(func() { _ = l.Close() })
	l.SetFaults(memlog.Faults{Partitioned: true, PartitionRefuses: true})
	if _, err := metastore.ClusterSecret(t.Context(), l); !errors.Is(err, log.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}
