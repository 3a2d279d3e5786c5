package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/orders"
	"github.com/remuda/remuda/store"
)

// takeEndpoints binds fresh ports for every endpoint of the recipe.
func (b *Backend) takeEndpoints(leader *member) (doors []agent.Door, files []*os.File, endpoints []store.Endpoint, err error) {
	for _, e := range leader.rec.Definition.Recipe.Endpoints {
		first, fs, err := b.ports.take(max(e.Count, 1))
		if err != nil {
			closeAll(files)
			return nil, nil, nil, fmt.Errorf("address for endpoint %q: %w", e.Name, err)
		}
		files = append(files, fs...)
		endpoints = append(endpoints, store.Endpoint{Name: e.Name, Host: b.opts.Publish.Host, Port: first, Count: e.Count})
		doors = append(doors, orders.Doors(e, first)...)
	}
	return doors, files, endpoints, nil
}

func sendDoors(ctx context.Context, leader *member, doors []agent.Door, files []*os.File) error {
	if len(doors) == 0 {
		return nil
	}
	if err := leader.client.SendDoors(ctx, doors, files); err != nil {
		return fmt.Errorf("give %s its addresses: %w", leader.id(), err)
	}
	return nil
}

// Publish implements provisioner.Tenancy. Doors the agent does not have, as
// after its container was started anew, are bound again at the same ports.
func (b *Backend) Publish(ctx context.Context, g provisioner.Group) error {
	r, err := b.record(g.ID)
	if err != nil {
		return err
	}
	members, err := b.members(r)
	if err != nil {
		return err
	}
	leader, rec := members[0], r.snapshot()
	state, err := leader.client.State(ctx)
	if err != nil {
		return fmt.Errorf("ask %s for its doors: %w", leader.id(), err)
	}
	if len(state.Doors) == 0 {
		if err := b.bindAgain(ctx, leader, rec.Endpoints); err != nil {
			return err
		}
	}
	if err := b.openEgress(ctx, members); err != nil {
		return err
	}
	if len(rec.Endpoints) > 0 {
		if err := leader.openDoors(ctx); err != nil {
			return err
		}
	}
	b.prepareAhead(r, members)
	return nil
}

func (m *member) openDoors(ctx context.Context) error {
	free := freeThread(m.cgroup(), m.record().PID, agent.DoorThread)
	if free != nil {
		m.b.opts.Logger.Warn("the doors' work counts against the member's CPU limit", "member", m.id(), "error", free)
	}
	if err := m.client.OpenDoors(ctx, agent.OpenRequest{Poll: free == nil}); err != nil {
		return fmt.Errorf("open the doors of %s: %w", m.id(), err)
	}
	return nil
}

func (b *Backend) bindAgain(ctx context.Context, leader *member, endpoints []store.Endpoint) error {
	var doors []agent.Door
	var files []*os.File
	defer func() { closeAll(files) }()
	for i, e := range leader.rec.Definition.Recipe.Endpoints {
		if i >= len(endpoints) {
			return fmt.Errorf("group %q has no address for endpoint %q", leader.rec.ID, e.Name)
		}
		fs, err := b.ports.takeAt(endpoints[i].Port, max(e.Count, 1))
		if err != nil {
			return err
		}
		files = append(files, fs...)
		doors = append(doors, orders.Doors(e, endpoints[i].Port)...)
	}
	return sendDoors(ctx, leader, doors, files)
}

// Cutoff implements provisioner.Tenancy: what leads in, then what leads out.
func (b *Backend) Cutoff(ctx context.Context, id string, _ int) error {
	r, err := b.record(id)
	if err != nil {
		return err
	}
	rec := r.snapshot()
	list := rec.Definition.MemberList()
	var errs []error
	for i, m := range rec.Members {
		if i == 0 || i < len(list) && orders.IsEgress(list[i]) {
			errs = append(errs, b.closeDoors(ctx, id, m))
		}
	}
	return errors.Join(errs...)
}

// closeDoors closes those of one member. One whose agent does not do so is
// killed: its connections end with it.
func (b *Backend) closeDoors(ctx context.Context, id string, m memberRecord) error {
	if !m.alive() {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := b.client(id, m.Name).CloseDoors(bounded, agent.CloseRequest{})
	if err == nil {
		return nil
	}
	b.opts.Logger.Warn("agent does not close its doors, killing it", "group", id, "member", m.Name, "error", err)
	if kerr := killCgroup(b.cgroup(id, m.Name), killBound); kerr != nil {
		return errors.Join(err, kerr)
	}
	return nil
}

// Program implements provisioner.Tenancy.
func (b *Backend) Program(ctx context.Context, g provisioner.Group, which string, values map[string]any) (map[string]string, error) {
	r, err := b.record(g.ID)
	if err != nil {
		return nil, err
	}
	members, err := b.members(r)
	if err != nil {
		return nil, err
	}
	leader := members[0]
	output, err := orders.RunHook(ctx, leader.client, leader.orders(), which, values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", leader.id(), err)
	}
	return output, nil
}
