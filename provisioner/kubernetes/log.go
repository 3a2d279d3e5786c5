package kubernetes

import (
	"context"
	"log/slog"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

var libraries sync.Once

// UseLogger makes the Kubernetes libraries write to log what they always say. What they say on
// request only is never written, at no level: it has the bodies of requests in it, secrets too. They have one
// logger in a process and do not expect it to change, so the first one stays.
func UseLogger(log *slog.Logger) logr.Logger {
	l := logr.FromSlogHandler(always{log.Handler()})
	libraries.Do(func() {
		ctrllog.SetLogger(l)
		klog.SetLogger(l)
	})
	return l
}

// always drops records of a verbosity above 0, which logr gives levels below slog's Info.
type always struct{ slog.Handler }

func (h always) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo && h.Handler.Enabled(ctx, l)
}

func (h always) WithAttrs(attrs []slog.Attr) slog.Handler { return always{h.Handler.WithAttrs(attrs)} }
func (h always) WithGroup(name string) slog.Handler       { return always{h.Handler.WithGroup(name)} }
