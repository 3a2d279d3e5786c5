package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/kubernetes"
)

type reference struct{ namespace, name string }

func (r reference) LogValue() slog.Value {
	return slog.GroupValue(slog.String("namespace", r.namespace), slog.String("name", r.name))
}

// Values of every kind that libraries log are written.
func TestLogValues(t *testing.T) {
	var out bytes.Buffer
	log := newLogger("info", &out).With("with", reference{"a", "b"})
	log.Info("all kinds", "group", reference{"c", "d"}, "error", errors.New("an error"), "took", 3*time.Second,
		slog.Group("nested", "inner", reference{"e", "f"}, "why", errors.New("inner error")))
	for _, want := range []string{`"an error"`, `"3s"`, `"d"`, `"f"`, `"inner error"`, `"b"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the line has no %s: %s", want, out.String())
		}
	}
}

// The libraries' more talkative levels, which show bodies of requests, are never written.
func TestLibrariesAreNotTalkative(t *testing.T) {
	var out bytes.Buffer
	l := kubernetes.UseLogger(newLogger("debug", &out))
	l.V(1).Info("talkative")
	l.V(4).WithName("x").WithValues("a", "b").Info("talkative")
	l.V(8).Info("talkative")
	l.WithName("x").Info("plain")
	if s := out.String(); strings.Contains(s, "talkative") || !strings.Contains(s, "plain") {
		t.Errorf("written: %s", s)
	}
}
