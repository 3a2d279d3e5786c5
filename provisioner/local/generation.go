package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/remuda/remuda/provisioner/image"
)

// aheadDelay keeps the preparation of the next generation's disks out of the
// way of the claim that asks for it.
const aheadDelay = 300 * time.Millisecond

// prepareAhead clones the disks of the next generation in the background, and
// writes them to the host's disk: mounting a disk makes the kernel do that, and
// a reset should not wait for it. A reset that comes earlier makes its own.
func (b *Backend) prepareAhead(r *record, members []*member) {
	if _, err := os.Stat(members[0].nextDisk()); err == nil || !r.ahead.CompareAndSwap(false, true) {
		return
	}
	time.AfterFunc(aheadDelay, func() {
		defer r.ahead.Store(false)
		if !b.cloneAhead(r, members) {
			return
		}
		for _, m := range members {
			if f, err := os.OpenFile(m.nextDisk(), os.O_RDWR, 0); err == nil {
				_ = f.Sync() // only for speed
				f.Close()
			}
		}
	})
}

// cloneAhead clones unless something else is at work on the group.
func (b *Backend) cloneAhead(r *record, members []*member) bool {
	if !r.work.TryLock() {
		return false
	}
	defer r.work.Unlock()
	if now, err := b.record(r.ID); err != nil || now != r {
		return false // closed
	}
	for _, m := range members {
		if err := m.prepareDisk(context.Background()); err != nil {
			b.opts.Logger.Warn("cannot prepare the next disk", "member", m.id(), "error", err)
			return false
		}
	}
	return true
}

// nextDisk is a pristine disk that no generation has used yet.
func (m *member) nextDisk() string { return filepath.Join(m.dir, "next.img") }

// prepareDisk clones the pristine disk for the next generation, unless that is
// done already.
func (m *member) prepareDisk(ctx context.Context) error {
	if _, err := os.Stat(m.nextDisk()); err == nil {
		return nil
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	template, err := m.b.template(ctx, m.rec.Definition, m.Member)
	if err != nil {
		return err
	}
	part := m.nextDisk() + ".part"
	if err := image.Discard(part); err != nil { // of a clone that a crash has cut short
		return err
	}
	if err := image.Clone(template, part); err != nil {
		return fmt.Errorf("clone disk of %s: %w", m.id(), err)
	}
	return os.Rename(part, m.nextDisk())
}

// takeDisk makes the next disk that of the generation.
func (m *member) takeDisk(generation int) error {
	if err := image.Discard(m.disk(generation)); err != nil { // of a try before
		return fmt.Errorf("discard disk of %s: %w", m.id(), err)
	}
	return os.Rename(m.nextDisk(), m.disk(generation))
}

// discardOlder frees the blocks of all disks but the generation's.
func (m *member) discardOlder(generation int) error {
	disks, err := filepath.Glob(filepath.Join(m.dir, "disk-*.img"))
	if err != nil {
		return err
	}
	for _, f := range append(disks, m.otherDisk()) {
		if f == m.disk(generation) {
			continue
		}
		if err := image.Discard(f); err != nil {
			return fmt.Errorf("discard old disk of %s: %w", m.id(), err)
		}
	}
	return nil
}
