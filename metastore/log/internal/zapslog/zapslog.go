// Package zapslog carries what etcd's client and server say through zap to a log/slog logger, so that firn has one log.
package zapslog

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a zap logger that writes to logger what is at or above floor; a nil logger silences it. Panics and fatal
// messages are written and then panic: a library does not exit the process, and etcd relies on Fatal not returning.
func New(logger *slog.Logger, floor zapcore.Level) *zap.Logger {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return zap.New(&core{handler: logger.Handler(), floor: floor}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

type core struct {
	handler slog.Handler
	floor   zapcore.Level
}

func (c *core) Enabled(l zapcore.Level) bool {
	// Above error zap must reach the hook that panics, whatever slog would print.
	return l >= c.floor && (l > zapcore.ErrorLevel || c.handler.Enabled(context.Background(), level(l)))
}

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{handler: c.handler.WithAttrs(attrs(fields)), floor: c.floor}
}

func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, level(e.Level), e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	return c.handler.Handle(context.Background(), r)
}

func (c *core) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	out := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		// A field may encode to more than one key (an error with a verbose form); the first is the message.
		if v, ok := enc.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l < zapcore.InfoLevel:
		return slog.LevelDebug
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}
