package backendtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

// Memory is a back end that holds its groups in memory and runs nothing. It is
// for tests of the layers above, and for nothing else. It passes RunLife, the
// part of the conformance suite about the life of groups; it has no data, so
// the part about traces of tenants says nothing of it.
//
// Faults are injected with Fault; Break and Vanish do to groups what happens to
// real ones. It notes calls that the contract of provisioner.Backend forbids:
// see Violations.
type Memory struct {
	mu         sync.Mutex
	groups     map[string]*memoryGroup
	busy       map[string]string // group → method at work on it
	fault      func(ctx context.Context, method, id string) error
	calls      []Call
	violations []string
	pid, port  int
}

var (
	_ provisioner.Backend   = (*Memory)(nil)
	_ provisioner.Inspector = (*Memory)(nil)
)

// Call is one call of a method that concerns one group.
type Call struct {
	Method     string // "create", "reset", "repair", "close", "publish", "cutoff", "program"
	Group      string
	Generation int
	Program    string // "provision", "bind", "unbind"
	Values     map[string]any
}

type memoryGroup struct {
	o         provisioner.Observation
	published bool
}

// NewMemory returns an empty back end.
func NewMemory() *Memory {
	return &Memory{groups: map[string]*memoryGroup{}, busy: map[string]string{}, pid: 1000, port: 30000}
}

// Fault sets a function that is called before every method, with its name as in
// Call or "list" (id ""). An error of it is the method's, which then does
// nothing. It may wait, for ctx or for anything else.
func (m *Memory) Fault(f func(ctx context.Context, method, id string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// Break makes members of the group unwell; all, when none is named by its place.
func (m *Memory) Break(id string, members ...int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.groups[id]
	for i := range g.o.Members {
		if len(members) == 0 || slices.Contains(members, i) {
			g.o.Members[i].Healthy, g.o.Members[i].Reason, g.o.Members[i].PID = false, "broken by the test", 0
		}
	}
}

// Vanish makes the group disappear, as a restart of the host does.
func (m *Memory) Vanish(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.groups, id)
}

// Plant puts a group there that nobody has ordered.
func (m *Memory) Plant(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.groups[id] = &memoryGroup{o: provisioner.Observation{ID: id, Generation: 1}}
}

// Published says whether the group's endpoints are open.
func (m *Memory) Published(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.groups[id] != nil && m.groups[id].published
}

// Calls returns what was called until now, in order of beginning. method ""
// means all.
func (m *Memory) Calls(method string) []Call {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Call
	for _, c := range m.calls {
		if method == "" || c.Method == method {
			out = append(out, c)
		}
	}
	return out
}

// Violations returns how callers broke the contract: work on one group by two
// calls at a time.
func (m *Memory) Violations() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.violations)
}

// enter notes a call and runs the fault. exclusive calls get the group alone
// until leave.
func (m *Memory) enter(ctx context.Context, c Call, exclusive bool) (leave func(), err error) {
	m.mu.Lock()
	c.Values = maps.Clone(c.Values)
	m.calls = append(m.calls, c)
	if exclusive {
		if other := m.busy[c.Group]; other != "" {
			m.violations = append(m.violations, fmt.Sprintf("%s of group %q during its %s", c.Method, c.Group, other))
		}
		m.busy[c.Group] = c.Method
	}
	fault := m.fault
	m.mu.Unlock()
	leave = func() {
		if exclusive {
			m.mu.Lock()
			delete(m.busy, c.Group)
			m.mu.Unlock()
		}
	}
	if fault != nil {
		err = fault(ctx, c.Method, c.Group)
	}
	if err == nil {
		err = ctx.Err()
	}
	return leave, err
}

// Create implements provisioner.Backend.
func (m *Memory) Create(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	leave, err := m.enter(ctx, Call{Method: "create", Group: g.ID, Generation: g.Generation}, true)
	defer leave()
	if err != nil {
		return provisioner.Observation{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.groups[g.ID]; old != nil && old.o.Generation == g.Generation && old.o.Healthy() {
		return old.see(), nil
	}
	n := &memoryGroup{o: provisioner.Observation{ID: g.ID, Generation: g.Generation, Endpoints: m.endpoints(g)}}
	n.o.Members = m.members(g.Definition)
	m.groups[g.ID] = n
	return n.see(), nil
}

func (m *Memory) members(d provisioner.Definition) (out []provisioner.MemberObservation) {
	for _, want := range d.MemberList() {
		m.pid++
		out = append(out, provisioner.MemberObservation{ID: rand.Text(), Role: want.Role.Name, PID: m.pid, StartedAt: time.Now(), Healthy: true})
	}
	return out
}

func (m *Memory) endpoints(g provisioner.Group) (out []store.Endpoint) {
	for _, e := range g.Definition.Recipe.Endpoints {
		out = append(out, store.Endpoint{Name: e.Name, Host: "127.0.0.1", Port: m.port, Count: e.Count})
		m.port += max(e.Count, 1)
	}
	return out
}

// see is a copy.
func (g *memoryGroup) see() provisioner.Observation {
	o := g.o
	o.Endpoints, o.Members = slices.Clone(o.Endpoints), slices.Clone(o.Members)
	return o
}

// Reset implements provisioner.Backend.
func (m *Memory) Reset(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	leave, err := m.enter(ctx, Call{Method: "reset", Group: g.ID, Generation: g.Generation}, true)
	defer leave()
	if err != nil {
		return provisioner.Observation{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.groups[g.ID]
	if have == nil {
		return provisioner.Observation{}, provisioner.ErrNoGroup
	}
	if !have.o.Healthy() {
		return provisioner.Observation{}, provisioner.ErrUnclean
	}
	have.published = false
	have.o.Generation, have.o.Endpoints = g.Generation, m.endpoints(g)
	return have.see(), nil
}

// Repair implements provisioner.Backend.
func (m *Memory) Repair(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	leave, err := m.enter(ctx, Call{Method: "repair", Group: g.ID, Generation: g.Generation}, true)
	defer leave()
	if err != nil {
		return provisioner.Observation{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.groups[g.ID]
	if have == nil { // its data would be on disk
		have = &memoryGroup{o: provisioner.Observation{ID: g.ID, Generation: g.Generation, Members: m.members(g.Definition)}}
		m.groups[g.ID] = have
	}
	fresh := m.members(g.Definition)
	for i, member := range have.o.Members {
		if !member.Healthy {
			have.o.Members[i] = fresh[i]
		}
	}
	have.o.Endpoints, have.published = slices.Clone(g.Endpoints), true
	return have.see(), nil
}

// Close implements provisioner.Backend.
func (m *Memory) Close(ctx context.Context, id string) error {
	leave, err := m.enter(ctx, Call{Method: "close", Group: id}, true)
	defer leave()
	if err != nil {
		return err
	}
	m.Vanish(id)
	return nil
}

// List implements provisioner.Backend.
func (m *Memory) List(ctx context.Context) ([]provisioner.Observation, error) {
	m.mu.Lock()
	fault := m.fault
	m.mu.Unlock()
	if fault != nil {
		if err := fault(ctx, "list", ""); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []provisioner.Observation
	for _, id := range slices.Sorted(maps.Keys(m.groups)) {
		out = append(out, m.groups[id].see())
	}
	return out, nil
}

// Inspect implements provisioner.Inspector, with the same numbers always.
func (m *Memory) Inspect(ctx context.Context, id string) (provisioner.Inspection, error) {
	if err := ctx.Err(); err != nil {
		return provisioner.Inspection{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.groups[id]
	if g == nil {
		return provisioner.Inspection{}, provisioner.ErrNoGroup
	}
	var out provisioner.Inspection
	for i, member := range g.o.Members {
		name := fmt.Sprintf("%s-%d", member.Role, i)
		seen := provisioner.MemberInspection{MemberObservation: member, Name: name,
			Memory: provisioner.Usage{Used: 48 << 20, Limit: 64 << 20}, Disk: provisioner.Usage{Used: 10 << 20, Limit: 64 << 20},
			CPU: provisioner.Usage{Used: 250, Limit: 1000}, Log: "ready"}
		if !member.Healthy {
			seen.Memory.Used, seen.Disk.Used, seen.CPU.Used, seen.Log = -1, -1, -1, ""
		}
		out.Members = append(out.Members, seen)
	}
	return out, nil
}

// Publish implements provisioner.Backend.
func (m *Memory) Publish(ctx context.Context, g provisioner.Group) error {
	return m.tenancy(ctx, Call{Method: "publish", Group: g.ID, Generation: g.Generation}, func(have *memoryGroup) { have.published = true })
}

// Cutoff implements provisioner.Backend.
func (m *Memory) Cutoff(ctx context.Context, id string, next int) error {
	return m.tenancy(ctx, Call{Method: "cutoff", Group: id, Generation: next}, func(have *memoryGroup) { have.published = false })
}

// Change implements provisioner.Tenancy.
func (m *Memory) Change(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	leave, err := m.enter(ctx, Call{Method: "change", Group: g.ID, Generation: g.Generation}, true)
	defer leave()
	if err != nil {
		return provisioner.Observation{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.groups[g.ID]
	if have == nil {
		return provisioner.Observation{}, provisioner.ErrNoGroup
	}
	have.published = true
	return have.see(), nil
}

// Program implements provisioner.Backend. It only notes the call.
func (m *Memory) Program(ctx context.Context, g provisioner.Group, which string, values map[string]any) (map[string]string, error) {
	return nil, m.tenancy(ctx, Call{Method: "program", Group: g.ID, Generation: g.Generation, Program: which, Values: values}, func(*memoryGroup) {})
}

func (m *Memory) tenancy(ctx context.Context, c Call, do func(*memoryGroup)) error {
	leave, err := m.enter(ctx, c, false)
	defer leave()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.groups[c.Group]
	if have == nil {
		return provisioner.ErrNoGroup
	}
	do(have)
	return nil
}
