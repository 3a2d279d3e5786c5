package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/image"
	"github.com/remuda/remuda/provisioner/internal/cgroupfs"
	"github.com/remuda/remuda/provisioner/orders"
)

// change is a group on its way from one definition to another.
type change struct {
	b         *Backend
	r         *record
	group     provisioner.Group // with the new definition
	old, next []*member         // the same members by both definitions, in the same order
	began     provisioner.Definition
}

// Change implements provisioner.Tenancy. Everything that can be said beforehand
// is checked while the servers run. Then they are stopped kindly, and each disk
// is replaced by a resized copy of it. The containers stay, unless their root file
// system, their capabilities or their kind of network are other ones now.
func (b *Backend) Change(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	var none provisioner.Observation
	r, err := b.record(g.ID)
	if err != nil {
		return none, err
	}
	r.work.Lock()
	defer r.work.Unlock()
	c := &change{b: b, r: r, group: g, began: r.snapshot().Definition}
	if len(c.group.Endpoints) == 0 {
		c.group.Endpoints = r.snapshot().Endpoints
	}
	if o := b.observe(ctx, r); o.Healthy() && c.began.Fingerprint() == g.Definition.Fingerprint() {
		return o, b.Publish(ctx, c.group)
	}
	if err := c.check(ctx); err != nil {
		return none, err
	}
	if err := c.carryOut(ctx); err != nil {
		undoErr := c.undo(context.WithoutCancel(ctx))
		if undoErr == nil && ctx.Err() == nil && c.shrinks() {
			b.opts.Logger.Warn("servers do not start with smaller limits", "group", g.ID, "error", err)
			return none, &provisioner.Unfit{Message: "With the data that are there the servers do not start within the limits of that plan; all is as it was before."}
		}
		return none, errors.Join(err, undoErr)
	}
	for _, m := range c.next {
		if err := image.Discard(m.otherDisk()); err != nil {
			return none, err
		}
	}
	return b.observe(ctx, r), nil
}

// otherDisk is the copy that gets the new size, and, once they have changed their
// places, the disk as it was. It is never needed after a crash: the one in its
// place has all data at any time.
func (m *member) otherDisk() string { return filepath.Join(m.dir, "other.img") }

// check refuses what cannot be, and changes nothing.
func (c *change) check(ctx context.Context) (err error) {
	if c.old, err = c.b.members(c.r); err != nil {
		return err
	}
	if c.next, err = c.b.membersOf(c.r, c.group.Definition); err != nil {
		return err
	}
	if len(c.old) != len(c.next) || !slices.Equal(endpointsOf(c.began), endpointsOf(c.group.Definition)) {
		return &provisioner.Unfit{Message: "The service instance cannot become like that: its members or its addresses would be other ones. Create a new service instance and move the data.", Final: true}
	}
	for i, m := range c.next {
		if m.Name != c.old[i].Name || !slices.Equal(diskFolders(m.places), diskFolders(c.old[i].places)) {
			return &provisioner.Unfit{Message: "The service instance cannot become like that: its data would lie in other places. Create a new service instance and move the data.", Final: true}
		}
		if err := c.old[i].fits(m.Size); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func endpointsOf(d provisioner.Definition) (list []string) {
	for _, e := range d.Recipe.Endpoints {
		list = append(list, fmt.Sprintf("%s %d", e.Name, e.Count))
	}
	return list
}

// diskFolders are the places on the disk, with their folders and owners.
func diskFolders(places []place) (list []string) {
	for _, p := range places {
		if p.folder != "" {
			list = append(list, fmt.Sprintf("%s %s %d:%d", p.folder, p.target, p.uid, p.gid))
		}
	}
	return list
}

// What must stay free: of the memory for the servers to start, of the disk for
// what the file system itself needs.
const (
	memoryShare = 0.9
	diskShare   = 0.95
)

// fits refuses sizes below what is in use.
func (m *member) fits(size catalog.Size) error {
	rec := m.record()
	if !rec.alive() {
		return nil // only its disk counts, and resizing that says so itself
	}
	if size.Memory < m.Size.Memory {
		used, err := memoryInUse(m.cgroup())
		if err != nil {
			return err
		}
		if float64(used) > memoryShare*float64(size.Memory) {
			return &provisioner.Unfit{Message: fmt.Sprintf("%d MiB of memory are in use, which is too much for a limit of %s. Free some memory and try again.", used>>20, size.Memory)}
		}
	}
	if size.Disk < m.Size.Disk {
		fs, err := diskStat(rec.PID)
		if err != nil {
			return fmt.Errorf("look at the disk of %s: %w", m.id(), err)
		}
		used := int64(fs.Blocks-fs.Bfree) * fs.Bsize
		if float64(used) > diskShare*float64(size.Disk) {
			return tooLarge(used, size.Disk)
		}
	}
	return nil
}

func tooLarge(used int64, size catalog.Bytes) error {
	return &provisioner.Unfit{Message: fmt.Sprintf("%d MiB of the disk are in use, which does not fit on a disk of %s. Delete some data and try again.", used>>20, size)}
}

// shrinks says whether a member gets less memory.
func (c *change) shrinks() bool {
	for i, m := range c.next {
		if m.Size.Memory < c.old[i].Size.Memory {
			return true
		}
	}
	return false
}

// carryOut does it. The record tells the new definition from when the disks fit
// it: a crash before leaves the old group to Repair, a crash after the new one.
func (c *change) carryOut(ctx context.Context) error {
	if err := each(ctx, c.old, func(ctx context.Context, m *member) error { return m.halt(ctx) }); err != nil {
		return err
	}
	err := each(ctx, c.next, func(ctx context.Context, m *member) error { return m.resizeDisk(ctx, c.group.Generation) })
	if err != nil {
		return err
	}
	if err := c.r.update(func(d *recordData) { d.Definition = c.group.Definition }); err != nil {
		return err
	}
	if c.replaces() {
		// Repair's way: new containers, which nothing can be compared with later.
		err := c.r.update(func(d *recordData) {
			for i := range d.Members {
				d.Members[i].Baseline = nil
			}
		})
		if err != nil {
			return err
		}
		return c.b.bringBack(ctx, c.r, c.next, c.group)
	}
	err = each(ctx, c.next, func(ctx context.Context, m *member) error { return m.resume(ctx, c.group) })
	if err != nil {
		return err
	}
	return c.b.Publish(ctx, c.group)
}

// replaces says whether the containers must be new ones.
func (c *change) replaces() bool {
	if c.began.Image != c.group.Definition.Image {
		return true
	}
	for i, m := range c.next {
		if !slices.Equal(m.Role.Capabilities, c.old[i].Role.Capabilities) || orders.IsEgress(m.Member) != orders.IsEgress(c.old[i].Member) || !m.record().alive() {
			return true
		}
	}
	return false
}

// halt stops the servers kindly and takes the disk away from the member.
func (m *member) halt(ctx context.Context) error {
	if !m.record().alive() {
		return awaitNoLoops(m.dir, killBound)
	}
	bounded, cancel := context.WithTimeout(ctx, haltBound)
	defer cancel()
	if _, err := m.client.Wipe(bounded, agent.WipeRequest{Kindly: true}); err != nil {
		return fmt.Errorf("stop %s: %w", m.id(), err)
	}
	if err := unmountGeneration(m.record().PID, m.places); err != nil {
		return err
	}
	return awaitNoLoops(m.dir, killBound)
}

// resizeDisk lets the tenant's disk and a copy of the size change their places in
// one step. The next generation's disk is made anew.
func (m *member) resizeDisk(ctx context.Context, generation int) error {
	if err := errors.Join(image.Discard(m.nextDisk()), image.Discard(m.otherDisk())); err != nil {
		return err
	}
	disk := m.disk(generation)
	if info, err := os.Stat(disk); err != nil || info.Size() == int64(m.Size.Disk) {
		return err
	}
	if err := image.Clone(disk, m.otherDisk()); err != nil {
		return err
	}
	if err := image.Resize(ctx, m.otherDisk(), m.Size.Disk); err != nil {
		if errors.Is(err, image.ErrTooSmall) {
			return &provisioner.Unfit{Message: fmt.Sprintf("What is on the disk does not fit on one of %s. Delete some data and try again.", m.Size.Disk)}
		}
		return err
	}
	if err := m.exchangeDisks(generation); err != nil {
		return err
	}
	m.exchanged = true
	return nil
}

func (m *member) exchangeDisks(generation int) error {
	if err := unix.Renameat2(unix.AT_FDCWD, m.otherDisk(), unix.AT_FDCWD, m.disk(generation), unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange the disks of %s: %w", m.id(), err)
	}
	return nil
}

// resume starts the servers in the same container with the new limits.
func (m *member) resume(ctx context.Context, g provisioner.Group) error {
	if err := setLimits(m.cgroup(), m.Size); err != nil {
		return err
	}
	if err := mountGeneration(m.record().PID, m.disk(g.Generation), m.places); err != nil {
		return err
	}
	if err := m.start(ctx, g.Generation, g.Endpoints); err != nil {
		return err
	}
	// How it looks but for its file systems, which are the broker's own doing, must
	// still be as it was before it had a tenant.
	now, err := m.client.Baseline(ctx)
	if err != nil {
		return err
	}
	return m.r.setMember(m.Name, func(rec *memberRecord) {
		if rec.Baseline != nil {
			base := *rec.Baseline
			base.Mounts = now.Mounts
			rec.Baseline = &base
		}
	})
}

// undo brings the group back as it was.
func (c *change) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, orders.StartBound)
	defer cancel()
	if err := c.r.update(func(d *recordData) { d.Definition = c.began }); err != nil {
		return err
	}
	err := each(ctx, c.next, func(ctx context.Context, m *member) error {
		if err := killCgroup(m.cgroup(), killBound); err != nil {
			return err
		}
		if err := awaitNoLoops(m.dir, killBound); err != nil {
			return err
		}
		if !m.exchanged {
			return nil
		}
		return m.exchangeDisks(c.group.Generation)
	})
	if err != nil {
		return err
	}
	g := c.group
	g.Definition = c.began
	return c.b.bringBack(ctx, c.r, c.old, g)
}

// memoryInUse is what the kernel cannot take back from a cgroup without ending
// processes, in bytes.
func memoryInUse(cgroup string) (int64, error) {
	file, fields := filepath.Join(cgroupRoot, "memory", cgroup, "memory.stat"), []string{"total_rss", "total_shmem"}
	if unified() {
		file, fields = filepath.Join(cgroupRoot, cgroup, "memory.stat"), []string{"anon", "shmem"}
	}
	var used int64
	for _, field := range fields {
		n, err := cgroupfs.Field(file, field)
		if err != nil {
			return 0, fmt.Errorf("read memory in use: %w", err)
		}
		used += n
	}
	return used, nil
}
