package memlog_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/log/logtest"
	"github.com/firnlog/firn/metastore/log/memlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLog(t *testing.T) {
	logtest.Run(t, func(t *testing.T) logtest.Opener {
		s := memlog.NewStore(memlog.Config{})
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return func(agent string) (log.Log, error) { return s.Open(agent), nil }
	})
}

func TestFounding(t *testing.T) {
	logtest.RunFounding(t, func(t *testing.T) logtest.Opener {
		s := memlog.NewStore(memlog.Config{Empty: true})
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return func(agent string) (log.Log, error) { return s.Open(agent), nil }
	})
}
