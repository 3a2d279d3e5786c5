package local

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/orders"
)

// newRecord writes down that the group is about to exist.
func (b *Backend) newRecord(g provisioner.Group, hidden bool) (*record, error) {
	r := &record{dir: b.groupDir(g.ID), persisted: b.opts.Persisted}
	r.ID, r.Hidden = g.ID, hidden
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of group %q: %w", g.ID, err)
	}
	err := r.update(func(d *recordData) {
		d.Generation, d.Definition = g.Generation, g.Definition
		for _, m := range g.Definition.MemberList() {
			d.Members = append(d.Members, memberRecord{Name: m.Name, Role: m.Role.Name})
		}
	})
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records[g.ID] = r
	return r, nil
}

// Create implements provisioner.Backend.
func (b *Backend) Create(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	var none provisioner.Observation
	if _, err := b.record(g.ID); err == nil { // half there from before
		if err := b.Close(ctx, g.ID); err != nil {
			return none, err
		}
	}
	r, err := b.newRecord(g, false)
	if err != nil {
		return none, err
	}
	r.work.Lock()
	defer r.work.Unlock()
	members, err := b.members(r)
	if err != nil {
		return none, err
	}
	err = each(ctx, members, func(ctx context.Context, m *member) error {
		if err := m.prepareDisk(ctx); err != nil {
			return err
		}
		if err := m.takeDisk(g.Generation); err != nil {
			return err
		}
		return m.run(ctx, nil)
	})
	if err != nil {
		return none, err
	}
	if err := b.startGeneration(ctx, r, members, g.Generation); err != nil {
		return none, err
	}
	err = each(ctx, members, func(ctx context.Context, m *member) error {
		base, err := orders.SettledBaseline(ctx, m.client)
		if err != nil {
			return err
		}
		return r.setMember(m.Name, func(rec *memberRecord) { rec.Baseline = &base })
	})
	if err != nil {
		return none, err
	}
	return b.observe(ctx, r), nil
}

// startGeneration takes fresh addresses, mounts the generation's disks, links
// the members and starts their servers.
func (b *Backend) startGeneration(ctx context.Context, r *record, members []*member, generation int) error {
	doors, files, endpoints, err := b.takeEndpoints(members[0])
	if err != nil {
		return err
	}
	defer closeAll(files)
	if err := r.update(func(d *recordData) { d.Endpoints = endpoints }); err != nil {
		return err
	}
	err = each(ctx, members, func(_ context.Context, m *member) error {
		return mountGeneration(m.record().PID, m.disk(generation), m.places)
	})
	if err != nil {
		return err
	}
	if err := connectMembers(pids(withNetwork(members))); err != nil {
		return err
	}
	err = each(ctx, members, func(ctx context.Context, m *member) error { return m.start(ctx, generation, endpoints) })
	if err != nil {
		return err
	}
	return sendDoors(ctx, members[0], doors, files)
}

// Reset implements provisioner.Backend.
func (b *Backend) Reset(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	var none provisioner.Observation
	r, err := b.record(g.ID)
	if err != nil {
		return none, err
	}
	r.work.Lock()
	defer r.work.Unlock()
	if err := r.update(func(d *recordData) { d.Generation = g.Generation }); err != nil {
		return none, err
	}
	members, err := b.members(r)
	if err != nil {
		return none, err
	}
	err = each(ctx, members, func(ctx context.Context, m *member) error { return m.wipe(ctx, g.Generation) })
	if err != nil {
		return none, err
	}
	// Servers start while the kernel frees the blocks of the old disks.
	var old errgroup.Group
	old.Go(func() error {
		return each(ctx, members, func(_ context.Context, m *member) error { return m.discardOlder(g.Generation) })
	})
	err = b.startGeneration(ctx, r, members, g.Generation)
	if derr := old.Wait(); err == nil {
		err = derr
	}
	if err != nil {
		return none, err
	}
	err = each(ctx, members, func(ctx context.Context, m *member) error {
		return orders.CompareBaseline(ctx, m.client, m.id(), m.record().Baseline)
	})
	if err != nil {
		return none, err
	}
	return b.observe(ctx, r), nil
}

// wipe ends everything in the member but its agent, checks that from outside,
// and replaces its disk.
func (m *member) wipe(ctx context.Context, generation int) error {
	if !m.record().alive() {
		return fmt.Errorf("%w: member %s has ended", provisioner.ErrUnclean, m.id())
	}
	bounded, cancel := context.WithTimeout(ctx, wipeBound)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error { return m.prepareDisk(ctx) })
	if _, err := m.client.Wipe(bounded, agent.WipeRequest{}); err != nil {
		_ = g.Wait()
		return fmt.Errorf("wipe %s: %w", m.id(), err)
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := m.proveEmpty(); err != nil {
		return fmt.Errorf("%w: %w", provisioner.ErrUnclean, err)
	}
	if err := unmountGeneration(m.record().PID, m.places); err != nil {
		return fmt.Errorf("%w: %w", provisioner.ErrUnclean, err)
	}
	return m.takeDisk(generation)
}

// Repair implements provisioner.Backend.
func (b *Backend) Repair(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	var none provisioner.Observation
	r, err := b.record(g.ID)
	if err != nil {
		return none, err
	}
	r.work.Lock()
	defer r.work.Unlock()
	members, err := b.members(r)
	if err != nil {
		return none, err
	}
	if len(g.Endpoints) == 0 {
		g.Endpoints = r.snapshot().Endpoints
	}
	if err := b.bringBack(ctx, r, members, g); err != nil {
		return none, err
	}
	return b.observe(ctx, r), nil
}

// bringBack starts members that are dead or unwell in new containers with their
// data, and publishes the group.
func (b *Backend) bringBack(ctx context.Context, r *record, members []*member, g provisioner.Group) error {
	var sick []*member
	for i, mo := range b.observe(ctx, r).Members {
		if !mo.Healthy {
			sick = append(sick, members[i])
		}
	}
	err := each(ctx, sick, func(ctx context.Context, m *member) error {
		if _, err := os.Stat(m.disk(g.Generation)); err != nil {
			return fmt.Errorf("the data of %s: %w", m.id(), err)
		}
		if err := m.run(ctx, nil); err != nil {
			return err
		}
		if err := awaitNoLoops(m.dir, killBound); err != nil {
			return err
		}
		return mountGeneration(m.record().PID, m.disk(g.Generation), m.places)
	})
	if err != nil {
		return err
	}
	if err := connectMembers(pids(withNetwork(members))); err != nil {
		return err
	}
	err = each(ctx, sick, func(ctx context.Context, m *member) error { return m.start(ctx, g.Generation, g.Endpoints) })
	if err != nil {
		return err
	}
	return b.Publish(ctx, g)
}

// each runs fn on every member in parallel and returns the first error.
func each(ctx context.Context, members []*member, fn func(context.Context, *member) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range members {
		g.Go(func() error { return fn(ctx, m) })
	}
	return g.Wait()
}

func pids(members []*member) []int {
	var out []int
	for _, m := range members {
		out = append(out, m.record().PID)
	}
	return out
}
