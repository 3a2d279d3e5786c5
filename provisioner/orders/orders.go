// Package orders turns what a recipe says into orders for the agents of a group, and
// judges what they answer. All back ends speak to agents through it; it knows nothing
// of how they make members.
package orders

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/store"
)

// StartBound is how long a member's servers may take until they serve.
const StartBound = 60 * time.Second

// Member is one that orders are written for.
type Member struct {
	provisioner.Member
	Definition provisioner.Definition
	Siblings   []provisioner.Member // all of the group
	HostIP     string               // where the group is published, as an address
	Hostname   string               // and as its credentials name it
}

// IsEgress says whether the member is the group's way out: an agent alone.
func IsEgress(m provisioner.Member) bool { return m.Role.EgressPort != 0 }

// Start is the order to begin a generation that is published at the endpoints.
func (m Member) Start(generation int, endpoints []store.Endpoint) (agent.StartRequest, error) {
	values := m.StartValues(endpoints)
	req := agent.StartRequest{Generation: generation, User: m.Role.User,
		Environment: m.Definition.Environment, TimeoutSeconds: int(StartBound / time.Second)}
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
		if *target, err = Program(*program, m.Role.User, values); err != nil {
			return req, err
		}
	}
	req.Ports = append(req.Ports, m.Role.Ports...)
	if m.Leader {
		for _, e := range m.Definition.Recipe.Endpoints {
			if e.Port != 0 {
				req.Ports = append(req.Ports, e.Port)
			}
		}
	}
	return req, nil
}

// StartValues are catalog.StartValues.
func (m Member) StartValues(endpoints []store.Endpoint) map[string]any {
	first, last := map[string]int{}, map[string]int{}
	for _, e := range endpoints {
		first[e.Name], last[e.Name] = e.Port, e.Port+max(e.Count, 1)-1
	}
	peers := map[string][]string{}
	for _, s := range m.Siblings {
		if !IsEgress(s) {
			peers[s.Role.Name] = append(peers[s.Role.Name], s.Name)
		}
	}
	env := m.Definition.Environment
	if env == nil {
		env = map[string]string{}
	}
	return map[string]any{
		"member": m.Name, "memory_mib": m.Size.Memory.MiB(), "disk_mib": m.Size.Disk.MiB(),
		"cpu": int(math.Ceil(m.Size.CPU)), "host": m.HostIP, "hostname": m.Hostname,
		"ports": first, "last_ports": last, "peers": peers, "environment": env,
	}
}

// Template is the role's Template program, nil where it has none.
func (m Member) Template() (*agent.Program, error) {
	if m.Role.Template == nil {
		return nil, nil
	}
	return Program(*m.Role.Template, m.Role.User, m.StartValues(nil))
}

// Program renders a recipe's program for the agent.
func Program(p catalog.Program, user string, values map[string]any) (*agent.Program, error) {
	p, err := catalog.RenderProgram(p, values)
	if err != nil {
		return nil, fmt.Errorf("program %q: %w", p.Command[0], err)
	}
	if p.User != "" {
		user = p.User
	}
	return &agent.Program{User: user, Command: p.Command, Env: p.Env, Stdin: p.Stdin, TimeoutSeconds: p.TimeoutSeconds}, nil
}

// ErrInterrupted: a program was ended from outside, or ran out of time.
var ErrInterrupted = errors.New("the program was ended before its end")

// Run runs a rendered program and fails when it does, with ErrInterrupted when it was killed. The error holds what the
// program said, for the operator's log only.
func Run(ctx context.Context, c *agent.Client, p *agent.Program) (stdout string, err error) {
	res, err := c.Run(ctx, *p)
	if err != nil {
		return "", err
	}
	if res.ExitCode < 0 {
		return "", fmt.Errorf("%w: %s", ErrInterrupted, tail(res.Stderr+res.Stdout, 500))
	}
	if res.ExitCode != 0 {
		return "", fmt.Errorf("it ended with %d: %s", res.ExitCode, tail(res.Stderr+res.Stdout, 500))
	}
	return res.Stdout, nil
}

// RunHook runs the recipe's program for an instance or a binding in the leader, as
// provisioner.Tenancy's Program.
func RunHook(ctx context.Context, c *agent.Client, leader Member, which string, values map[string]any) (map[string]string, error) {
	recipe := leader.Definition.Recipe
	p, err := recipe.Program(which)
	if err != nil || p == nil {
		return nil, err
	}
	rendered, err := Program(*p, leader.Role.User, values)
	if err != nil {
		return nil, err
	}
	stdout, err := Run(ctx, c, rendered)
	if err != nil {
		return nil, fmt.Errorf("program %q of recipe %q: %w", which, recipe.Name, err)
	}
	output, err := p.ReadOutput(stdout)
	if err != nil {
		return nil, fmt.Errorf("program %q of recipe %q: %w", which, recipe.Name, err)
	}
	return output, nil
}

func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// Doors lists the doors of one endpoint whose first published port is known: one to
// one where the recipe asks for a row of ports, else to its port.
func Doors(e catalog.Endpoint, first int) []agent.Door {
	if e.Count == 0 {
		return []agent.Door{{Name: e.Name, Port: first, Target: e.Port}}
	}
	var out []agent.Door
	for port := first; port < first+e.Count; port++ {
		out = append(out, agent.Door{Name: e.Name, Port: port, Target: port})
	}
	return out
}
