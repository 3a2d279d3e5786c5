package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// debootstrap lets mmdebstrap make the tree: the essential packages and those
// wanted, without what they only recommend, and without documentation.
func (b builder) debootstrap(ctx context.Context, work, root string, packages []string) error {
	tool, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return fmt.Errorf("%w: mmdebstrap is missing; install it with: apt-get install mmdebstrap", ErrPrerequisite)
	}
	sources, err := hostSources("/etc/apt", b.system.Codename)
	if err != nil {
		return err
	}
	args := []string{
		"--mode=root", "--format=directory", "--variant=essential",
		`--aptopt=APT::Install-Recommends "false"`,
		`--aptopt=Acquire::Retries "3"`,
		"--include=" + strings.Join(packages, ","),
		// the package would make a data directory that nobody uses
		`--essential-hook=mkdir -p "$1/etc/postgresql-common" && echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"`,
	}
	for _, option := range hostAptOptions(ctx) {
		args = append(args, "--aptopt="+option)
	}
	for _, glob := range []string{"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*"} {
		args = append(args, "--dpkgopt=path-exclude="+glob)
	}
	args = append(args, b.system.Codename, root)
	for i, s := range sources {
		file := filepath.Join(work, fmt.Sprintf("%02d%s", i, s.ext))
		if err := os.WriteFile(file, []byte(s.text), 0o644); err != nil {
			return fmt.Errorf("write package sources: %w", err)
		}
		defer func() { _ = os.Remove(file) }()
		args = append(args, file)
	}
	return b.run(ctx, work, tool, args)
}

// run runs mmdebstrap in a mount namespace of its own, so that nothing it
// mounts can be left behind, and repeats what it says.
func (b builder) run(ctx context.Context, work, tool string, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, args...)
	temp := filepath.Join(work, "tmp")
	if err := os.Mkdir(temp, 0o755); err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(temp) }()
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Unshareflags: syscall.CLONE_NEWNS}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	done := make(chan []string)
	go func() { done <- b.follow(reader) }()
	err := cmd.Run()
	_ = writer.Close()
	tail := <-done
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // helpers that outlived a cancelled build
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("make root file system: %w", context.Cause(ctx))
	}
	return fmt.Errorf("make root file system: %w", explain(err, tail))
}

// follow gives the important lines to the progress and keeps the last ones.
func (b builder) follow(r io.Reader) []string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(r)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
		_, _ = io.Copy(io.Discard, r) // a line too long must not block the writer
	}()
	const beat = 10 * time.Second
	begin, step := time.Now(), "starting"
	heart := time.NewTicker(beat)
	defer heart.Stop()
	var tail []string
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return tail
			}
			if tail = append(tail, line); len(tail) > 20 {
				tail = tail[1:]
			}
			if s, ok := strings.CutPrefix(line, "I: "); ok {
				step = strings.TrimSuffix(s, "...")
				b.say("  %s", step)
				heart.Reset(beat)
			}
		case <-heart.C:
			b.say("  still %s (%d s)", step, int(time.Since(begin).Seconds()))
		}
	}
}

// explain finds the usual reasons in what mmdebstrap said.
func explain(err error, tail []string) error {
	text := strings.Join(tail, "\n")
	for _, reason := range []struct{ sign, sentence string }{
		{"No space left on device", "the disk is full"},
		{"Temporary failure resolving", "the package archive cannot be reached: its name does not resolve"},
		{"Could not connect", "the package archive cannot be reached"},
		{"Unable to locate package", "the package archive does not know a package"},
		{"NO_PUBKEY", "a key of the package archive is missing on this host"},
	} {
		if strings.Contains(text, reason.sign) {
			return fmt.Errorf("%s (%w):\n%s", reason.sentence, err, text)
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("mmdebstrap failed (%w):\n%s", err, text)
	}
	return err
}
