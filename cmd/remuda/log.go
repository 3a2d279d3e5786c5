package main

import (
	"context"
	"io"
	"log/slog"

	"code.cloudfoundry.org/lager/v3"
)

// newLogger writes structured lines through lager.
func newLogger(level string, w io.Writer) *slog.Logger {
	var least slog.Level
	if least.UnmarshalText([]byte(level)) != nil {
		least = slog.LevelInfo
	}
	logger := lager.NewLogger("remuda")
	logger.RegisterSink(lager.NewPrettySink(w, lager.DEBUG))
	return slog.New(readable{lager.NewHandler(logger), least})
}

// readable gives lager's handler, which writes data as JSON, errors and
// durations as text: an error has no JSON of its own. And it leaves out what is below
// the level, which lager's handler does not know: libraries say on levels below debug what
// they send and receive, secrets too.
type readable struct {
	slog.Handler
	least slog.Level
}

// Enabled implements slog.Handler.
func (h readable) Enabled(_ context.Context, level slog.Level) bool { return level >= h.least }

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
	return readable{h.Handler.WithAttrs(texts), h.least}
}

// WithGroup implements slog.Handler.
func (h readable) WithGroup(name string) slog.Handler {
	return readable{h.Handler.WithGroup(name), h.least}
}

// asText also resolves values, groups too: lager's handler panics at a group that is not resolved.
func asText(a slog.Attr) slog.Attr {
	a.Value = a.Value.Resolve()
	switch v := a.Value; v.Kind() {
	case slog.KindDuration:
		return slog.String(a.Key, v.Duration().String())
	case slog.KindGroup:
		var members []slog.Attr
		for _, m := range v.Group() {
			members = append(members, asText(m))
		}
		a.Value = slog.GroupValue(members...)
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			return slog.String(a.Key, err.Error())
		}
	}
	return a
}
