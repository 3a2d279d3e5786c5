package local

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/image"
	"github.com/remuda/remuda/provisioner/orders"
	"github.com/remuda/remuda/store"
)

const (
	killBound  = 10 * time.Second // for SIGKILL to take effect
	agentBound = 10 * time.Second // for a new agent to answer
	wipeBound  = 20 * time.Second
	haltBound  = 30 * time.Second // for servers to end by themselves
)

// member is everything needed to work on one container of a group.
type member struct {
	provisioner.Member
	b        *Backend
	r        *record
	rec      recordData
	dir      string
	rootfs   string
	places   []place
	client   *agent.Client
	siblings []provisioner.Member

	exchanged bool // its disk and other.img have changed their places
}

// members prepares the group's members for work, the leader first.
func (b *Backend) members(r *record) ([]*member, error) {
	return b.membersOf(r, r.snapshot().Definition)
}

// membersOf prepares them as another definition has them.
func (b *Backend) membersOf(r *record, d provisioner.Definition) ([]*member, error) {
	rec := r.snapshot()
	rec.Definition = d
	rootfs := image.Root(b.opts.ImageDir, rec.Definition.Image)
	users, err := b.usersOf(rootfs)
	if err != nil {
		return nil, err
	}
	list := rec.Definition.MemberList()
	var out []*member
	for _, m := range list {
		pl, err := places(m.Role, m.Size, users)
		if err != nil {
			return nil, fmt.Errorf("role %q: %w", m.Role.Name, err)
		}
		out = append(out, &member{Member: m, b: b, r: r, rec: rec, dir: b.memberDir(rec.ID, m.Name),
			rootfs: rootfs, places: pl, client: b.client(rec.ID, m.Name), siblings: list})
	}
	return out, nil
}

func (m *member) id() string           { return containerID(m.rec.ID, m.Name) }
func (m *member) cgroup() string       { return m.b.cgroup(m.rec.ID, m.Name) }
func (m *member) record() memberRecord { return m.r.snapshot().member(m.Name) }
func (m *member) disk(generation int) string {
	return filepath.Join(m.dir, fmt.Sprintf("disk-%d.img", generation))
}

// run starts the container with its agent, nothing else in it yet.
func (m *member) run(ctx context.Context, binds map[string]string) error {
	spec := containerSpec{
		rootfs: m.rootfs, hostname: m.Name, agent: m.b.agentPath, dir: m.dir, cgroup: m.cgroup(),
		size: m.Size, caps: m.Role.Capabilities, egress: orders.IsEgress(m.Member), binds: binds,
	}
	if err := m.writeNames(); err != nil {
		return err
	}
	pid, err := m.b.runContainer(ctx, m.id(), spec)
	if err != nil {
		return err
	}
	_, ticks, err := procStat(pid)
	if err != nil {
		return fmt.Errorf("container %s ended at once: %w", m.id(), err)
	}
	err = m.r.setMember(m.Name, func(r *memberRecord) { r.PID, r.StartTicks, r.BootID = pid, ticks, bootID() })
	if err != nil {
		return err
	}
	if err := prepareCPU(m.cgroup(), pid); err != nil {
		return err
	}
	if err := m.awaitAgent(ctx); err != nil {
		return err
	}
	return sealAgent(pid)
}

// names of all members of the group that have a network of their own.
func (m *member) names() []string {
	var out []string
	for _, s := range m.siblings {
		if !orders.IsEgress(s) {
			out = append(out, s.Name)
		}
	}
	return out
}

// writeNames writes the files that names are looked up in.
func (m *member) writeNames() error {
	if err := writeHosts(m.dir, m.names()); err != nil || !orders.IsEgress(m.Member) {
		return err
	}
	return copyHostNames(m.dir)
}

func (m *member) awaitAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, agentBound)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		_, err := m.client.State(ctx)
		if err == nil {
			return nil
		}
		if !m.record().alive() {
			return fmt.Errorf("the agent of %s has ended", m.id())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent of %s does not answer: %w", m.id(), err)
		case <-time.After(wait):
		}
	}
}

// start lets the agent start the generation's servers. The CPU limit holds
// from when they serve: starting is our time, not the tenant's.
func (m *member) start(ctx context.Context, generation int, endpoints []store.Endpoint) error {
	req, err := m.orders().Start(generation, endpoints)
	if err != nil {
		return err
	}
	if err := setCPU(m.cgroup(), 0); err != nil {
		return err
	}
	if err := m.client.Start(ctx, req); err != nil {
		return fmt.Errorf("start %s: %w", m.id(), err)
	}
	return setCPU(m.cgroup(), m.Size.CPU)
}

// orders are written for the member.
func (m *member) orders() orders.Member {
	return orders.Member{Member: m.Member, Definition: m.rec.Definition, Siblings: m.siblings,
		HostIP: m.b.hostIP, Hostname: m.b.opts.Publish.Host}
}
