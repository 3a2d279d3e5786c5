package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/remuda/remuda/catalog"
)

func TestSortedPrograms(t *testing.T) {
	a, b := catalog.GoProgram{Name: "a", Version: "v1.0.0"}, catalog.GoProgram{Name: "b"}
	got, err := sortedPrograms([]catalog.GoProgram{b, a, b})
	if err != nil || len(got) != 2 || got[0] != a || got[1] != b {
		t.Errorf("programs are %v %v", got, err)
	}
	other := a
	other.Version = "v1.0.1"
	if _, err := sortedPrograms([]catalog.GoProgram{a, other}); err == nil {
		t.Error("two programs of one name go together")
	}
}

// A compiler that only says what it is asked stands for Go: nothing is downloaded.
func TestGoProgram(t *testing.T) {
	dir := t.TempDir()
	compiler := filepath.Join(dir, "go")
	script := `#!/bin/sh
case $1 in
  mod) [ "$4" = example.com/p@v1.0.0 ] || { echo '{"Error": "no such module"}'; exit 1; }
    echo '{"Dir": "` + dir + `", "Sum": "h1:right"}' ;;
  build) while [ "$1" != -o ]; do shift; done; echo "$3" >"$2" ;;
esac
`
	if err := os.WriteFile(compiler, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	b := builder{say: progress(&said)}
	p := catalog.GoProgram{Module: "example.com/p", Version: "v1.0.0", Package: "./cmd/p", Name: "p", Sum: "h1:right"}
	bin := filepath.Join(dir, "bin")
	if err := b.goProgram(t.Context(), compiler, dir, bin, p); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(bin, "p")); err != nil || string(text) != "./cmd/p\n" {
		t.Errorf("built is %q %v", text, err)
	}
	if !strings.Contains(said.String(), "building p v1.0.0") {
		t.Errorf("the progress is %q", said.String())
	}
	p.Sum = "h1:wrong"
	if err := b.goProgram(t.Context(), compiler, dir, bin, p); err == nil || !strings.Contains(err.Error(), "h1:wrong") {
		t.Errorf("a wrong sum: %v", err)
	}
	p.Version = "v2.0.0"
	if err := b.goProgram(t.Context(), compiler, dir, bin, p); err == nil || !strings.Contains(err.Error(), "no such module") {
		t.Errorf("a module that is not there: %v", err)
	}
}

func TestNoGo(t *testing.T) {
	if _, err := os.Stat(filepath.Join(goHome, "go")); err == nil {
		t.Skip("this host has Go at its usual place")
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := findGo("p"); !errors.Is(err, ErrPrerequisite) {
		t.Errorf("without Go: %v", err)
	}
}
