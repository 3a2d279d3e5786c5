package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/provisioner/backendtest"
)

const onlySmall = `
pools:
  default: {floor: 1}
  mysql/medium: {floor: 0}
  postgresql/medium: {floor: 0}
  redis/medium: {floor: 0}
  ftp/medium: {floor: 0}
  http/medium: {floor: 0}
  gateway/small: {floor: 0}
  gateway/medium: {floor: 0}
  volume/small: {floor: 0}
  volume/medium: {floor: 0}
`

// Every offering: a warm hit, real use, bindings apart from each other, and the
// same containers for the next tenant.
func TestEveryOffering(t *testing.T) {
	h := newHost(t, backendtest.Binary(t), "offerings: [mysql, postgresql, redis, ftp, http]"+onlySmall)
	h.start()
	h.settled(3*time.Minute, 5)
	for _, offering := range []string{"mysql", "postgresql", "redis", "ftp", "http"} {
		t.Run(offering, func(t *testing.T) {
			h.t = t
			p := h.plan(offering, "small")
			id := "i-" + offering
			h.want("provision", h.provision(id, p), 201)
			first := h.groupOf(id)
			if first.Address == "" {
				t.Error("a claimed group has no address")
			}
			a, res := h.bind(id, "a-"+offering, p)
			h.want("bind", res, 201)
			b, res := h.bind(id, "b-"+offering, p)
			h.want("second bind", res, 201)
			if a["username"] == b["username"] || a["password"] == b["password"] {
				t.Error("two bindings share a login")
			}
			if err := use(offering, a, "hello"); err != nil {
				t.Fatalf("use of the first binding: %v", err)
			}
			h.want("unbind", h.unbind(id, "a-"+offering, p), 200)
			if err := use(offering, a, "again"); err == nil {
				t.Error("the login of a deleted binding still works")
			}
			if err := use(offering, b, "world"); err != nil {
				t.Errorf("use of the other binding after that: %v", err)
			}
			h.want("deprovision", h.deprovision(id, p), 200)
			if err := use(offering, b, "late"); err == nil {
				t.Error("the tenant still gets in after the deprovision")
			}
			h.reused(first)
		})
	}
	h.t = t
}

// reused waits until the group is warm again and checks that it is the same one.
func (h *host) reused(old osbapi.Group) {
	h.t.Helper()
	var now osbapi.Group
	eventually(h.t, 30*time.Second, func() error {
		for _, g := range h.groups() {
			if g.ID == old.ID && g.State == "warm" && len(g.Members) > 0 && g.Members[0].Healthy {
				now = g
				return nil
			}
		}
		return fmt.Errorf("group %s is not warm again", old.ID)
	})
	if now.Generation != old.Generation+1 {
		h.t.Errorf("generation is %d after %d", now.Generation, old.Generation)
	}
	for i, m := range now.Members {
		was := old.Members[i]
		if m.ID != was.ID || m.PID != was.PID || !m.StartedAt.Equal(*was.StartedAt) {
			h.t.Errorf("member was %+v, is %+v", was, m)
		}
	}
}

// A plan with floor 0 is always cold: 202, polls, then the same as ever.
func TestColdPath(t *testing.T) {
	h := newHost(t, backendtest.Binary(t), "offerings: [redis]\npools: {default: {floor: 0, keep: 0s}}")
	h.start()
	p := h.plan("redis", "small")
	h.want("provision of a platform that cannot wait", h.call("PUT", instancePath("cold"), p.body(nil)), 422)
	h.want("provision", h.provision("cold", p), 202)
	h.want("the same again", h.provision("cold", p), 202)
	h.provisioned("cold", p)
	c, res := h.bind("cold", "b", p)
	h.want("bind", res, 201)
	if err := use("redis", c, "x"); err != nil {
		t.Error(err)
	}
	h.want("deprovision", h.deprovision("cold", p), 200)
	h.want("deprovision again", h.deprovision("cold", p), 410)
}

// Two brokers side by side; closing all groups of one leaves the other alone.
func TestTwoBrokersOnOneHost(t *testing.T) {
	const config = "offerings: [redis]\npools: {redis/medium: {floor: 0}}"
	one, two := newHost(t, backendtest.Binary(t), config), newHost(t, backendtest.Binary(t), config)
	one.start()
	two.start()
	one.settled(time.Minute, 1)
	two.settled(time.Minute, 1)
	p := two.plan("redis", "small")
	two.want("provision", two.provision("i", p), 201)
	c, res := two.bind("i", "b", p)
	two.want("bind", res, 201)
	one.terminate()
	if out, err := one.run("groups", "close", "--all"); err != nil {
		t.Fatalf("close all: %v\n%s", err, out)
	}
	if err := use("redis", c, "still there"); err != nil {
		t.Errorf("the other broker's instance: %v", err)
	}
	two.terminate()
	if err := use("redis", c, "without a broker"); err != nil {
		t.Errorf("a claimed group does not outlive its broker: %v", err)
	}
}
