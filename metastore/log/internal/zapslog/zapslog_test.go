package zapslog_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/firnlog/firn/metastore/log/internal/zapslog"
)

func TestLevelsAndFieldsReachSlog(t *testing.T) {
	var out bytes.Buffer
	l := zapslog.New(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), zapcore.WarnLevel)
	l.Info("below the floor")
	l.With(zap.String("member", "a")).Warn("slow", zap.Int("ms", 7), zap.Error(errors.New("boom")))
	got := out.String()
	if strings.Contains(got, "below") {
		t.Errorf("a message below the floor was written: %s", got)
	}
	for _, want := range []string{"level=WARN", "msg=slow", "member=a", "ms=7", "error=boom"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

func TestFatalPanicsInsteadOfExiting(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Fatal returned")
		}
	}()
	zapslog.New(nil, zapcore.FatalLevel).Fatal("disk gone")
}
