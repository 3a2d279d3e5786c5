package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/remuda/remuda/provisioner"
)

// Close implements provisioner.Backend.
func (b *Backend) Close(ctx context.Context, id string) error {
	r, err := b.record(id)
	if errors.Is(err, provisioner.ErrNoGroup) {
		return nil
	}
	if err != nil {
		return err
	}
	r.work.Lock()
	defer r.work.Unlock()
	rec := r.snapshot()
	var errs []error
	for _, m := range rec.Members {
		if err := b.deleteContainer(ctx, containerID(id, m.Name), b.cgroup(id, m.Name), r.dir); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close group %q: %w", id, err)
	}
	if err := awaitNoLoops(r.dir, killBound); err != nil {
		return fmt.Errorf("close group %q: %w", id, err)
	}
	for _, m := range rec.Members {
		if err := os.RemoveAll(filepath.Join(r.dir, m.Name)); err != nil {
			return fmt.Errorf("close group %q: %w", id, err)
		}
	}
	if err := os.RemoveAll(r.dir); err != nil {
		return fmt.Errorf("close group %q: %w", id, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.records, id)
	if len(b.records) == 0 {
		_ = removeCgroup("/" + b.cgroupParent()) // made again by the next group
	}
	return nil
}

// Purge removes what is left of this back end when every group is closed: its
// cgroup, runc's folder and the agent's. Members that are still in the cgroup are
// of groups whose folders somebody has deleted; they are ended.
func (b *Backend) Purge() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.records) > 0 {
		return fmt.Errorf("%d groups are still there", len(b.records))
	}
	errs := []error{b.endUnknown(), removeCgroup("/" + b.cgroupParent())}
	for _, dir := range []string{b.groupsDir(), b.runcDir(), filepath.Join(b.opts.StateDir, "agent")} {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// endUnknown ends every member in this back end's cgroup.
func (b *Backend) endUnknown() error {
	var errs []error
	seen := map[string]bool{}
	for _, dir := range within("/" + b.cgroupParent()) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if !e.IsDir() || seen[e.Name()] {
				continue
			}
			seen[e.Name()] = true
			cgroup := "/" + b.cgroupParent() + "/" + e.Name()
			b.opts.Logger.Warn("member of an unknown group is ended", "member", e.Name())
			errs = append(errs, killCgroup(cgroup, killBound), removeCgroup(cgroup))
		}
	}
	return errors.Join(errs...)
}
