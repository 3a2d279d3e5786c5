package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// MakeOnce makes a file, which people call name, unless it is there. Others who need it too wait, also
// in other processes; it appears complete, by a rename, or not at all. fill
// writes and syncs it at the path that it is given.
func MakeOnce(ctx context.Context, file, name string, progressTo io.Writer, fill func(file string) error) error {
	if exists(file) {
		return nil
	}
	say := progress(progressTo)
	unlock, err := lock(ctx, filepath.Join(filepath.Dir(file), ".lock-"+filepath.Base(file)), func() { say("another broker is making %s; waiting for it", name) })
	if err != nil {
		return fmt.Errorf("wait for %s: %w", name, err)
	}
	defer unlock()
	if exists(file) {
		return nil
	}
	say("packing %s", name)
	if err := fill(file + ".new"); err != nil {
		_ = os.Remove(file + ".new")
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return os.Rename(file+".new", file)
}
