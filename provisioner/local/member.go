package local

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/image"
	"github.com/remuda/remuda/store"
)

const (
	killBound  = 10 * time.Second // for SIGKILL to take effect
	agentBound = 10 * time.Second // for a new agent to answer
	startBound = 60 * time.Second // for a member's servers to serve
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
		rootfs: m.rootfs, hostname: m.Name, agent: m.b.agentPath, dir: m.dir, own: m.dir, cgroup: m.cgroup(),
		size: m.Size, caps: m.Role.Capabilities, egress: isEgress(m.Member), binds: binds,
	}
	var pid int
	var err error
	if m.rec.ownRoot(m.Name) {
		pid, err = m.runOwn(ctx, spec)
	} else {
		if m.Role.OwnRoot() { // sees folders of the host, so it has no more rights to files than others
			spec.caps = nil
		}
		if err := m.writeNames(); err != nil {
			return err
		}
		pid, err = m.b.runContainer(ctx, m.id(), spec)
	}
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
		if !isEgress(s) {
			out = append(out, s.Name)
		}
	}
	return out
}

// writeNames writes the files that names are looked up in.
func (m *member) writeNames() error {
	if err := writeHosts(m.dir, m.names()); err != nil || !isEgress(m.Member) {
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
	req, err := m.startRequest(generation, endpoints)
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

func (m *member) startRequest(generation int, endpoints []store.Endpoint) (agent.StartRequest, error) {
	values := m.startValues(endpoints)
	req := agent.StartRequest{Generation: generation, User: m.Role.User,
		Environment: m.rec.Definition.Environment, TimeoutSeconds: int(startBound / time.Second)}
	var err error
	if req.Files, err = catalog.RenderAll(m.Role.Files, values); err != nil {
		return req, fmt.Errorf("files of role %q: %w", m.Role.Name, err)
	}
	for _, p := range m.Role.Processes {
		command, err := catalog.RenderCommand(p.Command, values)
		if err != nil {
			return req, fmt.Errorf("process %q: %w", p.Name, err)
		}
		req.Processes = append(req.Processes, agent.Process{Name: p.Name, User: p.User, Command: command, Stop: p.Stop})
	}
	for program, target := range map[*catalog.Program]**agent.Program{m.Role.Prepare: &req.Prepare, m.Role.Ready: &req.Ready} {
		if program == nil {
			continue
		}
		if *target, err = agentProgram(*program, m.Role.User, values); err != nil {
			return req, err
		}
	}
	req.Ports = append(req.Ports, m.Role.Ports...)
	if m.Leader {
		for _, e := range m.rec.Definition.Recipe.Endpoints {
			if e.Port != 0 {
				req.Ports = append(req.Ports, e.Port)
			}
		}
	}
	return req, nil
}

// startValues are catalog.StartValues.
func (m *member) startValues(endpoints []store.Endpoint) map[string]any {
	ports, last := portMaps(endpoints)
	peers := map[string][]string{}
	for _, s := range m.siblings {
		if isEgress(s) {
			continue
		}
		peers[s.Role.Name] = append(peers[s.Role.Name], s.Name)
	}
	env := m.rec.Definition.Environment
	if env == nil {
		env = map[string]string{}
	}
	return map[string]any{
		"member": m.Name, "memory_mib": m.Size.Memory.MiB(), "disk_mib": m.Size.Disk.MiB(),
		"cpu": int(math.Ceil(m.Size.CPU)), "host": m.b.hostIP, "hostname": m.b.opts.Publish.Host,
		"ports": ports, "last_ports": last, "peers": peers, "environment": env,
	}
}

func portMaps(endpoints []store.Endpoint) (first, last map[string]int) {
	first, last = map[string]int{}, map[string]int{}
	for _, e := range endpoints {
		first[e.Name], last[e.Name] = e.Port, e.Port+max(e.Count, 1)-1
	}
	return first, last
}

func agentProgram(p catalog.Program, user string, values map[string]any) (*agent.Program, error) {
	p, err := catalog.RenderProgram(p, values)
	if err != nil {
		return nil, fmt.Errorf("program %q: %w", p.Command[0], err)
	}
	if p.User != "" {
		user = p.User
	}
	return &agent.Program{User: user, Command: p.Command, Env: p.Env, Stdin: p.Stdin, TimeoutSeconds: p.TimeoutSeconds}, nil
}

// runProgram runs a rendered program and fails when it does. The error holds
// what the program said, for the operator's log only.
func (m *member) runProgram(ctx context.Context, p *agent.Program) (stdout string, err error) {
	res, err := m.client.Run(ctx, *p)
	if err != nil {
		return "", err
	}
	if res.ExitCode != 0 {
		return "", fmt.Errorf("it ended with %d: %s", res.ExitCode, tail(res.Stderr+res.Stdout, 500))
	}
	return res.Stdout, nil
}

func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}
