package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/remuda/remuda/catalog"
)

const goHome = "/usr/local/go/bin" // where Go is by default, which services do not have in their PATH

// sortedPrograms orders programs by their names; two of one name must be the same.
func sortedPrograms(list []catalog.GoProgram) ([]catalog.GoProgram, error) {
	out := slices.Clone(list)
	slices.SortFunc(out, func(a, b catalog.GoProgram) int { return cmp.Compare(a.Name, b.Name) })
	out = slices.Compact(out)
	for i := 1; i < len(out); i++ {
		if out[i].Name == out[i-1].Name {
			return nil, fmt.Errorf("two recipes have different programs of the name %s", out[i].Name)
		}
	}
	return out, nil
}

// HasGo says whether Go programs can be built on this host.
func HasGo() bool {
	_, err := findGo("")
	return err == nil
}

// findGo finds the compiler that builds the program.
func findGo(program string) (string, error) {
	if found, err := exec.LookPath("go"); err == nil {
		return found, nil
	}
	if found, err := exec.LookPath(filepath.Join(goHome, "go")); err == nil {
		return found, nil
	}
	return "", fmt.Errorf("%w: %s is built from source, and Go is neither in PATH nor in %s; install Go, or leave the offering out", ErrPrerequisite, program, goHome)
}

// goProgram builds one program into bin. The module is what its sum says, and
// what it needs is what its own go.sum says.
func (b builder) goProgram(ctx context.Context, compiler, work, bin string, p catalog.GoProgram) error {
	b.say("building %s %s from source", p.Name, p.Version)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	// Go keeps its caches in the home folder, which services may not have.
	var env []string
	if os.Getenv("HOME") == "" {
		env = append(env, "HOME="+work)
		defer func() { _ = removeTree(filepath.Join(work, "go")); _ = removeTree(filepath.Join(work, ".cache")) }()
	}
	said, err := goRun(ctx, compiler, work, append(env, "GOFLAGS=-mod=mod"), "mod", "download", "-json", p.Module+"@"+p.Version)
	var got struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(said, &got); jsonErr == nil && got.Error != "" {
		return errors.New(got.Error)
	}
	if err != nil {
		return err
	}
	if got.Sum != p.Sum {
		return fmt.Errorf("the sum of %s %s is %s, but its recipe says %s", p.Module, p.Version, got.Sum, p.Sum)
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	out := filepath.Join(bin, p.Name)
	_, err = goRun(ctx, compiler, got.Dir, append(env, "GOFLAGS=-mod=readonly", "CGO_ENABLED=0"),
		"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, cmp.Or(p.Package, "."))
	if err != nil {
		return err
	}
	return os.Chmod(out, 0o755)
}

// goRun runs the compiler in a folder and returns what it prints.
func goRun(ctx context.Context, compiler, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, compiler, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(env, "GOWORK=off", "PATH="+filepath.Dir(compiler)+":"+os.Getenv("PATH"))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	var said, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complaints
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return said.Bytes(), context.Cause(ctx)
		}
		text := strings.TrimSpace(complaints.String())
		return said.Bytes(), fmt.Errorf("go %s: %w:\n%s", args[0], err, text[max(0, len(text)-2000):])
	}
	return said.Bytes(), nil
}
