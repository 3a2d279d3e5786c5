package backendtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	mathrand "math/rand/v2"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

// RunCanaries leaves everything in a group that a tenant could, resets it and
// finds nothing: for each built-in recipe that the suite knows, by the finders
// that found it before, with the old credentials over the network, in open
// connections, and in all that the target can look at from outside.
func RunCanaries(t *testing.T, f Factory) {
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	target := f(t)
	for _, r := range recipes {
		kind, known := middlewares[r.Name]
		if !known {
			t.Logf("the suite has no canaries of its own for %s yet", r.Name)
		}
		t.Run(r.Name, func(t *testing.T) {
			if why := target.cannot(r); why != "" {
				t.Skip(why)
			}
			t.Parallel() // mostly waiting for its group's share of the processors
			d := provisioner.NewDefinition(withShell(r, ""), r.Offering.Plans[0], target.Image)
			c := canaries{tenant: create(t, target, "canary"+r.Name, d), kind: kind}
			t.Run("Reset", c.reset)
			t.Run("Interrupted", c.interrupted)
		})
	}
}

// canaries is one group that is soiled and reset again and again.
type canaries struct {
	*tenant
	kind middleware
}

func newMark() string { return "canary" + strings.ToLower(rand.Text()[:20]) }

// soil plants everything and makes sure that it is there.
func (c canaries) soil(t *testing.T) (mark string, old map[string]any, alive func() error) {
	t.Helper()
	mark = newMark()
	c.publish(t)
	old = c.tenant.bind(t)
	alive = func() error { return nil }
	if c.kind.session != nil {
		alive = c.kind.session(t, old, mark)
	}
	said := c.admin(t, plantScript(c.kind.admin, mark)) + c.shell(t, plantScript(c.members(), mark))
	if strings.Contains(said, "failed: ") {
		t.Logf("planting: %s", said)
	}
	if _, missing := c.look(t, mark); len(missing) > 0 {
		t.Fatalf("before the reset these canaries are not found, so their finders prove nothing: %q\n%s", missing, said)
	}
	if err := alive(); err != nil {
		t.Fatalf("before the reset the session does not live: %v", err)
	}
	return mark, old, alive
}

func (c canaries) members() []canary {
	return memberCanaries(c.group.Definition.MemberList()[0].Role)
}

// look runs all finders.
func (c canaries) look(t *testing.T, mark string) (found, missing []string) {
	t.Helper()
	member := c.members()
	for _, run := range []struct {
		list []canary
		said string
	}{{member, c.shell(t, findScript(member, mark))}, {c.kind.admin, c.admin(t, findScript(c.kind.admin, mark))}} {
		if !strings.Contains(run.said, "LOOKED") {
			t.Fatalf("the finders broke off: %s", run.said)
		}
		f, m := names(run.list, run.said)
		found, missing = append(found, f...), append(missing, m...)
	}
	return found, missing
}

// clean fails when anything of the mark is left, or the former addresses lead to the next tenant; the
// group is unpublished.
func (c canaries) clean(t *testing.T, mark string, old map[string]any, former []store.Endpoint) {
	t.Helper()
	refused(t, c.group.Endpoints)
	if c.target.Outside != nil {
		if where := c.target.Outside(t, c.group.ID, mark); len(where) > 0 {
			t.Errorf("after the reset the tenant's bytes are in %q", where)
		}
	}
	c.publish(t)
	refused(t, c.unused(t, former))
	if found, _ := c.look(t, mark); len(found) > 0 {
		t.Errorf("after the reset these are left: %q", found)
	}
	if c.kind.login != nil {
		fresh := c.fresh(t)
		for name, value := range old { // at the new addresses
			if _, is := value.(int); is {
				old[name] = fresh[name]
			}
		}
		if err := c.kind.login(t.Context(), old); err == nil {
			t.Error("after the reset the old credentials work")
		}
	}
}

// unused are those of the endpoints that no other group has got by now.
func (c canaries) unused(t *testing.T, list []store.Endpoint) []store.Endpoint {
	t.Helper()
	all, err := c.target.Backend.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Clone(list), func(old store.Endpoint) bool {
		return slices.ContainsFunc(all, func(o provisioner.Observation) bool {
			return slices.ContainsFunc(o.Endpoints, func(e store.Endpoint) bool {
				return e.Host == old.Host && e.Port < old.Port+max(old.Count, 1) && old.Port < e.Port+max(e.Count, 1)
			})
		})
	})
}

// fresh are the credentials of a new binding, to learn the new ports from.
func (c canaries) fresh(t *testing.T) map[string]any {
	t.Helper()
	ports := map[string]int{}
	for _, e := range c.group.Endpoints {
		ports[e.Name] = e.Port
	}
	values := map[string]any{"username": "", "password": "", "host": "", "ports": ports, "number": 0, "instance": "", "binding": "", "parameters": map[string]any{}, "output": map[string]string{"ca_certificate": ""}, "route": map[string]any{"host": "", "port": 0, "path": ""}}
	credentials, err := accessOf(c.group.Definition.Recipe, values)
	if err != nil {
		t.Fatal(err)
	}
	return credentials
}

func (c canaries) reset(t *testing.T) {
	mark, old, alive := c.soil(t)
	if c.target.Outside != nil {
		if where := c.target.Outside(t, c.group.ID, mark); len(where) < 2 {
			t.Fatalf("before the reset the tenant's bytes should be on the disk and in the log, but are in %q", where)
		}
	}
	before := c.group.Endpoints
	c.giveBack(t)
	if c.kind.session != nil && alive() == nil {
		t.Error("a session lives after the cutoff")
	}
	refused(t, before)
	c.tenant.reset(t)
	refused(t, before)
	c.clean(t, mark, old, before)
	if c.kind.use != nil {
		c.kind.use(t, c.tenant.bind(t))
	}
	c.cutoff(t)
}

// interrupted ends resets at any moment, and repeats them.
func (c canaries) interrupted(t *testing.T) {
	mark, old, _ := c.soil(t)
	c.giveBack(t)
	c.group.Generation++
	c.group.Endpoints = nil
	before, former := c.seen, c.seen.Endpoints
	for round, limit := 0, 400*time.Millisecond; round < 5; round++ {
		after := time.Duration(mathrand.Int64N(int64(limit)))
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := c.target.Backend.Reset(ctx, c.group)
		cancel()
		t.Logf("reset with a limit of %s: %v", after, fmt.Sprint(err))
		refused(t, c.seen.Endpoints)
		if err == nil { // it was faster
			c.group.Generation++
		}
	}
	o, err := c.target.Backend.Reset(t.Context(), c.group)
	if err != nil {
		t.Fatalf("reset after interrupted ones: %v", err)
	}
	c.note(t, o)
	sameContainers(t, before, o)
	c.clean(t, mark, old, former)
	c.cutoff(t)
}
