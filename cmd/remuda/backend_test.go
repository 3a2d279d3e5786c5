package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/kubernetes"
)

// What the back end cannot serve is not offered, and the log says why.
func TestAble(t *testing.T) {
	all, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	if got := (&home{}).able(all, log); len(got) != len(all) || text.Len() > 0 {
		t.Errorf("%d of %d recipes; %s", len(got), len(all), &text)
	}
	got := (&home{cannot: kubernetes.Restricted.Cannot}).able(all, log)
	if len(got) != len(all)-1 || !strings.Contains(text.String(), "offering=ftp") || !strings.Contains(text.String(), "SYS_CHROOT") {
		t.Errorf("%d of %d recipes; %s", len(got), len(all), &text)
	}
}
