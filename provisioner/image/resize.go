package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/remuda/remuda/catalog"
)

// ErrTooSmall: what is on the disk does not fit into the size.
var ErrTooSmall = errors.New("the disk would be too small")

// Resize gives a disk, which nothing has mounted, another size with all that is
// on it. After an error the disk is worth nothing: work on a clone.
func Resize(ctx context.Context, disk string, size catalog.Bytes) error {
	info, err := os.Stat(disk)
	if err != nil {
		return fmt.Errorf("resize disk: %w", err)
	}
	// resize2fs takes only what was checked just before; 1 means that something
	// harmless was put right.
	if err := e2fsprogs(ctx, 1, "e2fsck", "-f", "-p", disk); err != nil {
		return err
	}
	if info.Size() < int64(size) {
		if err := os.Truncate(disk, int64(size)); err != nil {
			return fmt.Errorf("resize disk: %w", err)
		}
	}
	if err := e2fsprogs(ctx, 0, "resize2fs", disk, fmt.Sprintf("%dK", int64(size)>>10)); err != nil {
		if info.Size() > int64(size) {
			return fmt.Errorf("%w: %w", ErrTooSmall, err)
		}
		return err
	}
	if err := os.Truncate(disk, int64(size)); err != nil {
		return fmt.Errorf("resize disk: %w", err)
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("resize disk: %w", err)
	}
	return errors.Join(f.Sync(), f.Close())
}

// e2fsprogs runs a program of that package; exit codes up to good are success.
func e2fsprogs(ctx context.Context, good int, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var ended *exec.ExitError
	switch {
	case err == nil, errors.As(err, &ended) && ended.ExitCode() > 0 && ended.ExitCode() <= good:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w: %s is missing; install it with: apt-get install e2fsprogs", ErrPrerequisite, name)
	}
	return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out.Bytes()))
}
