package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// reference is logged as a group, like the objects of Kubernetes.
type reference struct{}

func (reference) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", "g1"), slog.Any("cause", errors.New("gone")))
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log := newLogger("info", &out)
	log.With("group", reference{}).Info("closed", "also", reference{}, "took", 2*time.Second, "error", errors.New("broken"))
	for _, want := range []string{`"group":{"cause":"gone","name":"g1"}`, `"also":{"cause":"gone","name":"g1"}`, `"took":"2s"`, `"error":"broken"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not in %s", want, out.String())
		}
	}
}

// Levels below debug are where client libraries show bodies, with secrets.
func TestLevels(t *testing.T) {
	for level, want := range map[string]string{"debug": "debug info warn error", "info": "info warn error", "warn": "warn error", "error": "error"} {
		var out bytes.Buffer
		log := newLogger(level, &out)
		for _, l := range []slog.Level{-8, -5} {
			log.Log(t.Context(), l, "secret")
		}
		log.Debug("debug")
		log.Info("info")
		log.Warn("warn")
		log.Error("error")
		var said []string
		for line := range strings.Lines(out.String()) {
			_, rest, _ := strings.Cut(line, `"message":"remuda.`)
			word, _, _ := strings.Cut(rest, `"`)
			said = append(said, word)
		}
		if got := strings.Join(said, " "); got != want {
			t.Errorf("at %s: %q, want %q", level, got, want)
		}
	}
}
