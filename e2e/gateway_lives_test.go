package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/backendtest"
)

// What becomes of gateways with time.

func TestGatewayLives(t *testing.T) {
	g := newGateway(t)
	g.instance("shop")
	app := g.net.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echoUpgrade(w, r)
			return
		}
		ok(w, r)
	})
	url := g.route("shop", "b", app, nil)
	c, _ := upgrade(t, url, app)
	echoed(t, c, "with a broker")
	works := func(what string) {
		t.Helper()
		through(t, url, "http://"+app+"/").want(t, what, 200)
	}
	g.kill()
	echoed(t, c, "without a broker")
	works("without a broker")
	g.start()
	echoed(t, c, "with the next broker")
	works("with the next broker")
	g.tell("another", "egress: {deny: [10.255.0.0/16, "+g.net.app+"/32]}")
	eventually(t, 10*time.Second, func() error {
		if r := through(t, url, "http://"+app+"/"); r.status != 403 {
			return fmt.Errorf("what the broker denies now: %d %s", r.status, r.body)
		}
		return nil
	})
	echoed(t, c, "of before")
	g.tell("the first", "egress: {deny: [10.255.0.0/16]}")
	eventually(t, 10*time.Second, func() error {
		if r := through(t, url, "http://"+app+"/"); r.status != 200 {
			return fmt.Errorf("what the broker allows again: %d %s", r.status, r.body)
		}
		return nil
	})

	group := g.groupOf("shop")
	for i, role := range []string{"server", "egress"} {
		if group.Members[i].Role != role {
			t.Fatalf("members %+v", group.Members)
		}
		backendtest.Kill(t, role, group.Members[i].PID)
		eventually(t, 20*time.Second, func() error {
			if r := through(t, url, "http://"+app+"/"); r.status != 200 {
				return fmt.Errorf("after the death of %s: %d %s", role, r.status, r.body)
			}
			return nil
		})
	}
	if err := tryEcho(c, "late"); err == nil {
		t.Error("a connection outlives the members that it went through")
	}
	// All is well again before the reset, which wants the same members after it.
	eventually(t, 20*time.Second, func() error {
		for _, m := range g.groupOf("shop").Members {
			if !m.Healthy {
				return fmt.Errorf("member %+v", m)
			}
		}
		return nil
	})
	time.Sleep(2 * time.Second) // a repair that was ordered while one was at work
	group = g.groupOf("shop")
	c, _ = upgrade(t, url, app)
	g.want("deprovision", g.deprovision("shop", g.plan), 200)
	if err := tryEcho(c, "late"); err == nil {
		t.Error("a connection outlives the instance")
	}
	if r := through(t, url, "http://"+app+"/"); r.status != 0 {
		t.Errorf("after the deprovision: %+v", r)
	}
	g.reused(group)
}

func TestGatewayChanges(t *testing.T) {
	g := newGateway(t)
	g.instance("shop")
	app := g.net.serve(ok)
	url := g.route("shop", "old", app, map[string]any{"allow": []string{"198.51.100.0/24"}})
	check := func(what, url string, inside int) {
		t.Helper()
		through(t, url, "http://"+app+"/", "X-Forwarded-For", "198.51.100.1").want(t, what, inside)
		if inside == 200 {
			through(t, url, "http://"+app+"/", "X-Forwarded-For", "203.0.113.1").want(t, what+", a client from elsewhere", 403)
		}
	}
	check("before", url, 200)
	group := g.groupOf("shop")
	medium := g.host.plan("gateway", "medium")
	g.want("change to medium", g.patch("shop", g.plan, map[string]any{"plan_id": medium.plan}), 200)
	check("after the change", url, 200)
	if now := g.groupOf("shop"); now.Members[0].PID != group.Members[0].PID || now.Members[1].PID != group.Members[1].PID {
		t.Errorf("members were %+v, are %+v", group.Members, now.Members)
	}
	a := g.call("PUT", bindingPath("shop", "new"), map[string]any{"predecessor_binding_id": "old"})
	g.want("rotation", a, 201)
	successor, _ := a.body["route_service_url"].(string)
	if successor == url {
		t.Error("the successor has its predecessor's URL")
	}
	check("the predecessor", url, 200)
	check("the successor", successor, 200)
	g.want("delete the predecessor", g.unbind("shop", "old", medium), 200)
	check("the predecessor when it is deleted", url, 404)
	check("the successor then", successor, 200)
	g.want("deprovision", g.deprovision("shop", medium), 200)
	g.reused(group)
}
