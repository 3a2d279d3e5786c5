package main

import (
	"context"
	"io"
	"log/slog"

	"code.cloudfoundry.org/lager/v3"
)

// newLogger writes structured lines through lager.
func newLogger(level string, w io.Writer) *slog.Logger {
	l, err := lager.LogLevelFromString(level)
	if err != nil {
		l = lager.INFO
	}
	logger := lager.NewLogger("remuda")
	logger.RegisterSink(lager.NewPrettySink(w, l))
	return slog.New(readable{lager.NewHandler(logger)})
}

// readable gives lager's handler, which writes data as JSON, errors and
// durations as text: an error has no JSON of its own.
type readable struct{ slog.Handler }

// Handle implements slog.Handler.
func (h readable) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(asText(a))
		return true
	})
	return h.Handler.Handle(ctx, out)
}

// WithAttrs implements slog.Handler.
func (h readable) WithAttrs(attrs []slog.Attr) slog.Handler {
	texts := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		texts[i] = asText(a)
	}
	return readable{h.Handler.WithAttrs(texts)}
}

// WithGroup implements slog.Handler.
func (h readable) WithGroup(name string) slog.Handler { return readable{h.Handler.WithGroup(name)} }

func asText(a slog.Attr) slog.Attr {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindDuration:
		return slog.String(a.Key, v.Duration().String())
	case slog.KindGroup:
		var members []slog.Attr
		for _, m := range v.Group() {
			members = append(members, asText(m))
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(members...)}
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			return slog.String(a.Key, err.Error())
		}
		return slog.Attr{Key: a.Key, Value: v}
	default: // resolved: lager's handler takes what is behind a value for that value
		return slog.Attr{Key: a.Key, Value: v}
	}
}
