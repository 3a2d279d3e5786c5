//go:build kube

package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

// awaitProvisioned provisions, also where no group is warm.
func (i *installation) awaitProvisioned(id string, p plan) {
	i.t.Helper()
	a := i.provision(id, p)
	i.want("provision "+id, a, 201, 202)
	if a.status == 202 {
		eventually(i.t, 3*time.Minute, func() error {
			last := i.call("GET", instancePath(id)+"/last_operation"+p.query(), nil)
			if last.status != 200 || last.body["state"] != "succeeded" {
				return fmt.Errorf("last operation: %d %s", last.status, last.raw)
			}
			return nil
		})
	}
}

// awaitGone deprovisions and waits until that is done.
func (i *installation) awaitGone(id string, p plan) {
	i.t.Helper()
	eventually(i.t, time.Minute, func() error {
		if a := i.call("DELETE", instancePath(id)+p.query()+"&accepts_incomplete=true", nil); a.status != 200 && a.status != 410 {
			return fmt.Errorf("deprovision: %d %s", a.status, a.raw)
		}
		return nil
	})
}

// phase waits until a group is in the phase.
func (i *installation) phase(id string, bound time.Duration, phases ...v1alpha1.Phase) *v1alpha1.ContainerGroup {
	i.t.Helper()
	var cg *v1alpha1.ContainerGroup
	eventually(i.t, bound, func() error {
		if cg = i.resource(id); !slices.Contains(phases, cg.Status.Phase) || cg.Status.ObservedGeneration != cg.Generation {
			return fmt.Errorf("group %s is %s: %s", id, cg.Status.Phase, cg.Status.Reason)
		}
		return nil
	})
	return cg
}

// Every offering on pods: provision, two bindings, real use, and the same containers for the next tenant.
func TestClusterOfferings(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	for _, offering := range []string{"mysql", "postgresql", "redis", "ftp", "http"} {
		t.Run(offering, func(t *testing.T) {
			i.t = t
			p, id := i.plan(offering, "small"), "walk-"+offering
			i.awaitProvisioned(id, p)
			group := i.groupOf(id).ID
			before, was := i.containers(group), i.resource(group)
			a, res := i.bind(id, "a-"+offering, p)
			i.want("bind", res, 201)
			b, res := i.bind(id, "b-"+offering, p)
			i.want("second bind", res, 201)
			if err := use(offering, a, "hello"); err != nil {
				t.Fatalf("use of the first binding: %v", err)
			}
			i.want("unbind", i.unbind(id, "a-"+offering, p), 200)
			if err := use(offering, a, "again"); err == nil {
				t.Error("the login of a deleted binding still works")
			}
			if err := use(offering, b, "world"); err != nil {
				t.Errorf("use of the other binding after that: %v", err)
			}
			i.want("deprovision", i.deprovision(id, p), 200)
			if err := use(offering, b, "late"); err == nil {
				t.Error("the tenant still gets in after the deprovision")
			}
			now := i.phase(group, 30*time.Second, v1alpha1.PhaseWarm)
			if after := i.containers(group); after != before {
				t.Errorf("the containers were\n%s\nand are\n%s", before, after)
			}
			if now.Status.Generation != was.Status.Generation+1 || now.Status.Address == was.Status.Address {
				t.Errorf("generation %d at %s follows %d at %s", now.Status.Generation, now.Status.Address, was.Status.Generation, was.Status.Address)
			}
			if logs := i.kubectl("-n", kubetest.Namespace, "logs", was.Status.Leader); len(logs) > 4000 {
				t.Errorf("the pod's log has %d bytes: what servers say belongs to the agent", len(logs))
			}
		})
	}
	i.t = t
}

// replaceLeader deletes the pod of a group's leader at once, and waits for the one that comes in its place.
func (i *installation) replaceLeader(group string) {
	i.t.Helper()
	was := i.resource(group)
	i.kubectl("-n", kubetest.Namespace, "delete", "pod", was.Status.Leader, "--grace-period=0", "--force")
	eventually(i.t, time.Minute, func() error {
		if m := i.resource(group).Status.Members[0]; m.PodUID == was.Status.Members[0].PodUID || !m.Ready {
			return fmt.Errorf("member %+v", m)
		}
		return nil
	})
}

// A tenant's pod that is deleted comes back with its data, at its address; a warm one is replaced.
func TestClusterPodsDie(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	p := i.plan("mysql", "small")
	i.awaitProvisioned("dies", p)
	c, res := i.bind("dies", "dies-a", p)
	i.want("bind", res, 201)
	if err := use("mysql", c, "kept"); err != nil {
		t.Fatal(err)
	}
	group := i.groupOf("dies").ID
	was := i.resource(group)
	i.replaceLeader(group)
	eventually(t, time.Minute, func() error { return readBack(c, "kept") })
	if now := i.phase(group, 30*time.Second, v1alpha1.PhaseClaimed); now.Status.Address != was.Status.Address {
		t.Errorf("the address was %s and is %s", was.Status.Address, now.Status.Address)
	}
	i.want("unbind", i.unbind("dies", "dies-a", p), 200)
	i.awaitGone("dies", p)
	i.phase(group, 30*time.Second, v1alpha1.PhaseWarm)

	i.kubectl("-n", kubetest.Namespace, "delete", "pod", i.resource(group).Status.Leader)
	eventually(t, time.Minute, func() error {
		for _, cg := range i.resources() {
			if cg.Name == group {
				return fmt.Errorf("group %s that has lost its pod is still there, %s", group, cg.Status.Phase)
			}
		}
		return nil
	})
	eventually(t, time.Minute, func() error {
		for _, cg := range i.resources() {
			if cg.Spec.Recipe.Name == "mysql" && cg.Status.Phase == v1alpha1.PhaseWarm {
				return nil
			}
		}
		return fmt.Errorf("no other group takes its place")
	})
}

// A drained node, which is the only one: all comes back when it takes pods again.
func TestClusterDrain(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	p := i.plan("redis", "small")
	i.awaitProvisioned("drained", p)
	c, res := i.bind("drained", "drained-a", p)
	i.want("bind", res, 201)
	if err := use("redis", c, "kept"); err != nil {
		t.Fatal(err)
	}
	i.kubectl("drain", "node", "--pod-selector=remuda.dev/group", "--delete-emptydir-data", "--force", "--timeout=60s")
	i.kubectl("uncordon", "node")
	eventually(t, 90*time.Second, func() error { return use("redis", c, "again") })
	i.want("unbind", i.unbind("drained", "drained-a", p), 200)
	i.awaitGone("drained", p)
}

// readBack fails unless the value is still in the MySQL of the credentials.
func readBack(c map[string]any, value string) error {
	db, err := openMySQL(c)
	if err != nil {
		return err
	}
	defer db.Close()
	var n int
	if err := db.QueryRow("SELECT count(*) FROM used WHERE v = ?", value).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%q is not there any more", value)
	}
	return nil
}
