package backendtest

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner"
)

// Subject is a back end to be checked, with a definition that it can serve.
type Subject struct {
	Backend    provisioner.Backend
	Definition provisioner.Definition
}

// RunLife checks the life of groups on an empty back end of the factory, which
// also cleans up after the test.
func RunLife(t *testing.T, factory func(t *testing.T) Subject) {
	for _, check := range []struct {
		name string
		run  func(*testing.T, Subject)
	}{
		{"nothing there", nothingThere},
		{"create is repeatable", createTwice},
		{"whole life", wholeLife},
		{"repair leaves what is well", repairHealthy},
		{"repair of what is gone keeps the address", repairGone},
		{"two groups do not meet", twoGroups},
		{"close is repeatable", closeTwice},
		{"cancelled create can be closed", cancelledCreate},
		{"inspection", inspection},
	} {
		t.Run(check.name, func(t *testing.T) { check.run(t, factory(t)) })
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func (s Subject) group(id string) provisioner.Group {
	return provisioner.Group{ID: id, Generation: 1, Definition: s.Definition}
}

func (s Subject) create(t *testing.T, id string) (provisioner.Group, provisioner.Observation) {
	t.Helper()
	g := s.group(id)
	o, err := s.Backend.Create(within(t), g)
	if err != nil {
		t.Fatalf("create %s: %v", id, err)
	}
	g.Endpoints = o.Endpoints
	return g, o
}

// find observes a group by List.
func (s Subject) find(t *testing.T, id string) (provisioner.Observation, bool) {
	t.Helper()
	all, err := s.Backend.List(within(t))
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	for _, o := range all {
		if o.ID == id {
			return o, true
		}
	}
	return provisioner.Observation{}, false
}

func ok(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// identity is what a reset must not change: the containers and their starts.
func identity(o provisioner.Observation) (out []provisioner.MemberObservation) {
	for _, m := range o.Members {
		out = append(out, provisioner.MemberObservation{ID: m.ID, Role: m.Role, PID: m.PID, StartedAt: m.StartedAt.UTC().Round(0)})
	}
	return out
}

func sameMembers(t *testing.T, when string, a, b provisioner.Observation) {
	t.Helper()
	if x, y := identity(a), identity(b); !reflect.DeepEqual(x, y) {
		t.Errorf("%s: members were\n%+v\nand are\n%+v", when, x, y)
	}
}

func complete(t *testing.T, s Subject, o provisioner.Observation, generation int) {
	t.Helper()
	want := s.Definition.MemberList()
	if !o.Healthy() || o.Generation != generation || len(o.Members) != len(want) || len(o.Endpoints) != len(s.Definition.Recipe.Endpoints) {
		t.Fatalf("group is not complete in generation %d: %+v", generation, o)
	}
	if o.Members[0].Role != want[0].Role.Name {
		t.Errorf("first member is a %q, not the leader", o.Members[0].Role)
	}
	ids := map[string]bool{}
	for _, m := range o.Members {
		if m.ID == "" || ids[m.ID] || m.StartedAt.IsZero() {
			t.Errorf("member is %+v", m)
		}
		ids[m.ID] = true
	}
	for i, e := range o.Endpoints {
		if e.Name != s.Definition.Recipe.Endpoints[i].Name || e.Host == "" || e.Port == 0 {
			t.Errorf("endpoint is %+v", e)
		}
	}
}

func nothingThere(t *testing.T, s Subject) {
	ctx := within(t)
	if all, err := s.Backend.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("list of nothing: %v, %v", all, err)
	}
	g := s.group("none")
	_, reset := s.Backend.Reset(ctx, g)
	for name, err := range map[string]error{
		"reset":   reset,
		"publish": s.Backend.Publish(ctx, g),
		"cutoff":  s.Backend.Cutoff(ctx, g.ID, 2),
		"program": errorOf(s.Backend.Program(ctx, g, "bind", nil)),
	} {
		if !errors.Is(err, provisioner.ErrNoGroup) {
			t.Errorf("%s of nothing: got %v, want ErrNoGroup", name, err)
		}
	}
	ok(t, "close of nothing", s.Backend.Close(ctx, "none"))
}

func createTwice(t *testing.T, s Subject) {
	g, first := s.create(t, "a1")
	complete(t, s, first, 1)
	g.Endpoints = nil
	second, err := s.Backend.Create(within(t), g)
	ok(t, "create again", err)
	complete(t, s, second, 1)
	seen, _ := s.find(t, "a1")
	sameMembers(t, "after the second create", second, seen)
}

func wholeLife(t *testing.T, s Subject) {
	ctx := within(t)
	g, first := s.create(t, "a1")
	for generation := 1; generation <= 3; generation++ {
		ok(t, "publish", s.Backend.Publish(ctx, g))
		ok(t, "publish again", s.Backend.Publish(ctx, g))
		next := generation + 1
		ok(t, "cutoff", s.Backend.Cutoff(ctx, g.ID, next*(generation%2))) // 0: without the next generation
		ok(t, "cutoff again", s.Backend.Cutoff(ctx, g.ID, next))
		g.Generation, g.Endpoints = next, nil
		o, err := s.Backend.Reset(ctx, g)
		ok(t, "reset", err)
		complete(t, s, o, next)
		sameMembers(t, "after reset", first, o)
		seen, there := s.find(t, g.ID)
		if !there || !reflect.DeepEqual(seen.Endpoints, o.Endpoints) || seen.Generation != next {
			t.Errorf("list shows %+v after a reset that gave %+v", seen, o)
		}
		g.Endpoints = o.Endpoints
	}
	again, err := s.Backend.Reset(ctx, g) // as after a crash
	ok(t, "reset of the same generation", err)
	complete(t, s, again, g.Generation)
	sameMembers(t, "after the repeated reset", first, again)
	ok(t, "close", s.Backend.Close(ctx, g.ID))
}

func repairHealthy(t *testing.T, s Subject) {
	ctx := within(t)
	g, first := s.create(t, "a1")
	ok(t, "publish", s.Backend.Publish(ctx, g))
	o, err := s.Backend.Repair(ctx, g)
	ok(t, "repair", err)
	complete(t, s, o, 1)
	sameMembers(t, "after repair of a healthy group", first, o)
	if !reflect.DeepEqual(o.Endpoints, g.Endpoints) {
		t.Errorf("endpoints were %+v and are %+v", g.Endpoints, o.Endpoints)
	}
}

func repairGone(t *testing.T, s Subject) {
	b, can := s.Backend.(interface{ Vanish(id string) })
	if !can {
		t.Skip("the back end cannot lose a group on demand; its own tests kill members")
	}
	g, _ := s.create(t, "a1")
	b.Vanish("a1")
	o, err := s.Backend.Repair(within(t), g)
	ok(t, "repair", err)
	complete(t, s, o, 1)
	if !reflect.DeepEqual(o.Endpoints, g.Endpoints) {
		t.Errorf("endpoints were %+v and are %+v", g.Endpoints, o.Endpoints)
	}
}

func twoGroups(t *testing.T, s Subject) {
	ctx := within(t)
	a, first := s.create(t, "a1")
	b, other := s.create(t, "b2")
	for _, m := range first.Members {
		for _, n := range other.Members {
			if m.ID == n.ID {
				t.Errorf("both have member %s", m.ID)
			}
		}
	}
	for _, e := range a.Endpoints {
		for _, f := range b.Endpoints {
			if e.Host == f.Host && e.Port == f.Port {
				t.Errorf("both have endpoint %+v", e)
			}
		}
	}
	ok(t, "close", s.Backend.Close(ctx, b.ID))
	seen, there := s.find(t, a.ID)
	if !there || !seen.Healthy() {
		t.Errorf("closing one group hurt the other: %+v", seen)
	}
	sameMembers(t, "after the other was closed", first, seen)
	if _, there := s.find(t, b.ID); there {
		t.Error("closed group is still listed")
	}
}

func closeTwice(t *testing.T, s Subject) {
	ctx := within(t)
	g, _ := s.create(t, "a1")
	ok(t, "publish", s.Backend.Publish(ctx, g))
	ok(t, "close", s.Backend.Close(ctx, g.ID))
	ok(t, "close again", s.Backend.Close(ctx, g.ID))
	if _, there := s.find(t, g.ID); there {
		t.Error("closed group is still listed")
	}
	if err := s.Backend.Publish(ctx, g); !errors.Is(err, provisioner.ErrNoGroup) {
		t.Errorf("publish of a closed group: %v", err)
	}
}

func cancelledCreate(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Backend.Create(ctx, s.group("a1")); err == nil {
		t.Error("create succeeded although it was cancelled")
	}
	ok(t, "close", s.Backend.Close(within(t), "a1"))
	if _, there := s.find(t, "a1"); there {
		t.Error("half-made group is still listed")
	}
	_, o := s.create(t, "a1")
	complete(t, s, o, 1)
}

// inspection is for back ends that can be looked into.
func inspection(t *testing.T, s Subject) {
	inspector, can := s.Backend.(provisioner.Inspector)
	if !can {
		t.Skip("the back end has no inspections")
	}
	ctx := within(t)
	if _, err := inspector.Inspect(ctx, "none"); !errors.Is(err, provisioner.ErrNoGroup) {
		t.Errorf("inspection of nothing: %v", err)
	}
	g, o := s.create(t, "a1")
	seen, err := inspector.Inspect(ctx, g.ID)
	ok(t, "inspect", err)
	if len(seen.Members) != len(o.Members) {
		t.Fatalf("%d members, want %d", len(seen.Members), len(o.Members))
	}
	names := map[string]bool{}
	for i, m := range seen.Members {
		if m.ID != o.Members[i].ID || m.Role != o.Members[i].Role || !m.Healthy || names[m.Name] || m.Name == "" || len(m.Log) > provisioner.MaxLogTail {
			t.Errorf("member %+v was created as %+v", m, o.Members[i])
		}
		names[m.Name] = true
		for what, u := range map[string]provisioner.Usage{"memory": m.Memory, "disk": m.Disk, "CPU": m.CPU} {
			if u.Used < 0 || u.Limit <= 0 {
				t.Errorf("%s of %s: %+v", what, m.Name, u)
			}
		}
	}
	again, there := s.find(t, g.ID)
	if !there {
		t.Fatal("the group is gone")
	}
	sameMembers(t, "after inspection", o, again)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := inspector.Inspect(cancelled, g.ID); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled inspection: %v", err)
	}
	ok(t, "close", s.Backend.Close(ctx, g.ID))
	if _, err := inspector.Inspect(ctx, g.ID); !errors.Is(err, provisioner.ErrNoGroup) {
		t.Errorf("inspection of a closed group: %v", err)
	}
}

func errorOf(_ map[string]string, err error) error { return err }
