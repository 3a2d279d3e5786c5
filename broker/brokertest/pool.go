// Package brokertest has what tests of the broker and of its HTTP face share: a
// real pool whose groups live in memory and become warm when the test wants it,
// a catalog, and a broker on both.
package brokertest

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
	"github.com/remuda/remuda/store"
)

// floor is how many groups the pool tries to have warm. It gets them only
// through Warm.
const floor = 6

// Pool is a provisioner.Pool whose groups become warm only when Warm says so.
// It may be used concurrently.
type Pool struct {
	*provisioner.Pool
	store   store.Store
	backend *backend
	demand  *demand
}

// NewSharedPool makes a pool among others on a store, whose plans may have up to
// ceiling groups each. It sees the same groups as like, if that is given.
func NewSharedPool(s Shared, ceiling int, like *Pool) (*Pool, error) {
	b := newBackend()
	if like != nil {
		b = like.backend
	}
	return newPool(s, s, b, ceiling)
}

// Shared is a store that several brokers use.
type Shared interface {
	store.Store
	store.Cluster
}

// newPool gives the plan of Small floor groups, and others none unless they are
// waited for.
func newPool(s store.Store, cluster store.Cluster, b *backend, ceiling int) (*Pool, error) {
	p := &Pool{store: s, backend: b, demand: &demand{}}
	limits, definitions := map[string]provisioner.Limits{}, []provisioner.Definition(nil)
	for _, r := range Catalog() {
		for _, plan := range r.Offering.Plans {
			definitions = append(definitions, provisioner.NewDefinition(r, plan, image))
			l := provisioner.DefaultLimits()
			l.Floor, l.Ceiling = 0, ceiling
			limits[r.Name+"/"+plan.Name] = l
		}
	}
	l := limits["box/small"]
	l.Floor = min(floor, ceiling)
	limits["box/small"] = l
	var err error
	p.Pool, err = provisioner.New(provisioner.Options{
		Store: s, Cluster: cluster, Backend: p.backend, Definitions: definitions, Limits: limits,
		Creates: 2 * ceiling, Resets: ceiling, Logger: slog.New(slog.DiscardHandler), Metrics: p.demand,
	})
	return p, err
}

// Warm lets n more groups of Small become warm, and returns their ids. Waiting
// instances take them first.
func (p *Pool) Warm(t testing.TB, n int) []string {
	t.Helper()
	before := p.made(t)
	for range n {
		p.backend.allow <- struct{}{}
	}
	var ids []string
	Eventually(t, "groups are warm", func() bool {
		ids = slices.DeleteFunc(p.made(t), func(id string) bool { return slices.Contains(before, id) })
		return len(ids) == n
	})
	return ids
}

// made returns the groups that are warm or were so once.
func (p *Pool) made(t testing.TB) (ids []string) {
	t.Helper()
	err := p.store.View(context.Background(), func(tx store.Tx) error {
		groups, err := tx.Groups().Of(Small)
		ids = nil
		for _, g := range groups {
			if g.State != store.GroupCreating {
				ids = append(ids, g.ID)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// Allow lets n more groups of any plan be created.
func (p *Pool) Allow(n int) {
	for range n {
		p.backend.allow <- struct{}{}
	}
}

// Break makes all members of the group unwell.
func (p *Pool) Break(group string) { p.backend.Break(group) }

// Calls returns the calls of a method of the back end.
func (p *Pool) Calls(method string) []backendtest.Call { return p.backend.Calls(method) }

// OnHook lets f decide what programs do; nil makes all succeed.
func (p *Pool) OnHook(f func(context.Context, Run) error) {
	p.backend.mu.Lock()
	defer p.backend.mu.Unlock()
	p.backend.hook = f
}

// FailClose makes cutting off and closing fail, as when the host hangs.
func (p *Pool) FailClose(err error) {
	p.backend.Fault(func(_ context.Context, method, _ string) error {
		if method == "cutoff" || method == "close" {
			return err
		}
		return nil
	})
}

// OnChange lets f decide what changes of groups do; nil makes all succeed.
func (p *Pool) OnChange(f func(context.Context) error) {
	p.backend.Fault(func(ctx context.Context, method, _ string) error {
		if method != "change" || f == nil {
			return nil
		}
		return f(ctx)
	})
}

// Changes counts changes of groups.
func (p *Pool) Changes() int { return len(p.backend.Calls("change")) }

// Runs returns the programs that were run.
func (p *Pool) Runs() []Run {
	p.backend.mu.Lock()
	defer p.backend.mu.Unlock()
	return slices.Clone(p.backend.runs)
}

// Logins returns the users of a group with their passwords.
func (p *Pool) Logins(group string) map[string]string {
	p.backend.mu.Lock()
	defer p.backend.mu.Unlock()
	return maps.Clone(p.backend.logins[group])
}

// Published says whether the group's address is open.
func (p *Pool) Published(group string) bool { return p.backend.Published(group) }

// Violations returns how the contract of back ends was broken.
func (p *Pool) Violations() []string { return p.backend.Violations() }

// Demands returns how many hits and misses were reported.
func (p *Pool) Demands() (hits, misses int) {
	p.demand.mu.Lock()
	defer p.demand.mu.Unlock()
	return p.demand.hits, p.demand.misses
}

// Run is one run of a recipe's program.
type Run struct {
	Group  string
	Which  string
	Values map[string]any
}

// backend is backendtest.Memory with leave to create, with hooks, and with
// logins as a database would have them.
type backend struct {
	*backendtest.Memory
	allow chan struct{} // one for each group that may be created

	mu     sync.Mutex
	hook   func(context.Context, Run) error
	runs   []Run
	logins map[string]map[string]string // group → username → password
}

func newBackend() *backend {
	return &backend{
		Memory: backendtest.NewMemory(), allow: make(chan struct{}, 1<<16), logins: map[string]map[string]string{},
	}
}

// Create waits for Pool.Warm.
func (b *backend) Create(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	select {
	case <-ctx.Done():
		return provisioner.Observation{}, ctx.Err()
	case <-b.allow:
		return b.Memory.Create(ctx, g)
	}
}

// Reset forgets the logins.
func (b *backend) Reset(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	b.mu.Lock()
	delete(b.logins, g.ID)
	b.mu.Unlock()
	return b.Memory.Reset(ctx, g)
}

// Program does what a recipe's hooks would do to logins.
func (b *backend) Program(ctx context.Context, g provisioner.Group, which string, values map[string]any) (map[string]string, error) {
	run := Run{Group: g.ID, Which: which, Values: maps.Clone(values)}
	b.mu.Lock()
	b.runs = append(b.runs, run)
	hook := b.hook
	b.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, run); err != nil {
			return nil, err
		}
	}
	if _, err := b.Memory.Program(ctx, g, which, values); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	users := b.logins[g.ID]
	if users == nil {
		users = map[string]string{}
		b.logins[g.ID] = users
	}
	name, _ := values["username"].(string)
	password, _ := values["password"].(string)
	switch _, known := users[name]; {
	case which == "bind", which == "unbind" && known:
		users[name] = password
	}
	return nil, nil
}

// demand counts what the broker reported.
type demand struct {
	noWork
	mu           sync.Mutex
	hits, misses int
}

// Demand counts.
func (d *demand) Demand(_, _ string, hit bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if hit {
		d.hits++
	} else {
		d.misses++
	}
}
