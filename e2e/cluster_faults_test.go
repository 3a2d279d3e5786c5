//go:build kube

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

// While the API server is away tenants work, /readyz says so, and a provision that needs it is
// refused for now. Afterwards all goes on.
func TestClusterServerRestarts(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	p := i.plan("redis", "small")
	i.awaitProvisioned("server", p)
	c, res := i.bind("server", "server-a", p)
	i.want("bind", res, 201)
	brokers := i.brokers()
	if len(brokers) != 2 {
		t.Fatalf("%d brokers are ready, want 2", len(brokers))
	}
	if err := i.cluster.Kill("kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	if err := use("redis", c, "meanwhile"); err != nil {
		t.Errorf("a tenant without the API server: %v", err)
	}
	direct := i.at(brokers[0])
	eventually(t, 30*time.Second, func() error {
		res, err := http.Get("http://" + direct.listen + "/readyz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusServiceUnavailable {
			return fmt.Errorf("/readyz answers %d", res.StatusCode)
		}
		return nil
	})
	if a := direct.provision("server-2", p); a.status != 503 || a.retryAfter == "" {
		t.Errorf("provision without the API server answers %d, Retry-After %q: %s", a.status, a.retryAfter, a.raw)
	}
	_, a := direct.bind("server", "server-b", p) // needs the agent alone
	if a.status != 201 && a.status != 503 {
		t.Errorf("bind without the API server answers %d, Retry-After %q: %s", a.status, a.retryAfter, a.raw)
	}
	if err := i.cluster.StartComponent(t.Context(), "kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error {
		if n := len(i.brokers()); n != 2 {
			return fmt.Errorf("%d brokers are ready", n)
		}
		return nil
	})
	_, res = i.bind("server", "server-c", p)
	i.want("bind afterwards", res, 201)
	for _, b := range []string{"server-a", "server-c"} {
		i.want("unbind", i.unbind("server", b, p), 200)
	}
	i.unbind("server", "server-b", p)
	i.awaitGone("server", p)
}

// A broker that dies in the middle of a provision: the other one ends it.
func TestClusterBrokerDies(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	p := i.plan("postgresql", "medium") // none is warm
	for n, pod := range i.brokers() {
		id := fmt.Sprintf("orphan-%d", n)
		a := i.at(pod).provision(id, p)
		if a.status != 202 {
			t.Fatalf("provision answered %d %s, want 202", a.status, a.raw)
		}
		i.kubectl("-n", "remuda", "delete", "pod", pod.Name, "--grace-period=0", "--force")
		eventually(t, 2*time.Minute, func() error {
			last := i.call("GET", instancePath(id)+"/last_operation"+p.query(), nil)
			if last.status != 200 || last.body["state"] != "succeeded" {
				return fmt.Errorf("last operation: %d %s", last.status, last.raw)
			}
			return nil
		})
		c, res := i.bind(id, id+"-a", p)
		i.want("bind", res, 201)
		// The node may learn late of the group's address: its watches wait after the outages of other tests.
		eventually(t, time.Minute, func() error { return use("postgresql", c, "there") })
		i.want("unbind", i.unbind(id, id+"-a", p), 200)
		i.awaitGone(id, p)
		eventually(t, time.Minute, func() error {
			if n := len(i.brokers()); n != 2 {
				return fmt.Errorf("%d brokers are ready", n)
			}
			return nil
		})
	}
}

// PostgreSQL restarts while instances come and go: nothing answers 500, nothing that was answered is lost.
func TestClusterDatabaseRestarts(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	p := i.plan("redis", "small")
	var wg sync.WaitGroup
	var wrong atomic.Int64
	stop := make(chan struct{})
	for n := range 4 {
		wg.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("db-%d-%d", n, round)
				var a answer
				for a = i.provision(id, p); a.status == 503 || a.status == 0; a = i.provision(id, p) {
					time.Sleep(100 * time.Millisecond)
				}
				switch a.status {
				case 200, 201, 202, 422:
				default:
					wrong.Add(1)
					t.Errorf("provision %s answered %d %s", id, a.status, a.raw)
				}
				for range 600 {
					a = i.call("DELETE", instancePath(id)+p.query()+"&accepts_incomplete=true", nil)
					if a.status == 200 || a.status == 410 {
						break
					}
					if a.status == 500 {
						wrong.Add(1)
						t.Errorf("deprovision %s answered %d %s", id, a.status, a.raw)
					}
					time.Sleep(100 * time.Millisecond)
				}
			}
		})
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		time.Sleep(3 * time.Second)
		i.postgres.Stop(signal)
		time.Sleep(500 * time.Millisecond)
		if err := i.postgres.Start(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * time.Second)
	i.way.CutAll()
	time.Sleep(3 * time.Second)
	close(stop)
	wg.Wait()
	i.empty()
}

// empty waits until no group is claimed, and compares instances, groups, pods and Services.
func (i *installation) empty() {
	i.t.Helper()
	eventually(i.t, 2*time.Minute, func() error {
		groups := map[string]bool{}
		for _, cg := range i.resources() {
			groups[cg.Name] = true
			if cg.Status.Phase != v1alpha1.PhaseWarm {
				return fmt.Errorf("group %s is %s: %s", cg.Name, cg.Status.Phase, cg.Status.Reason)
			}
		}
		rows := i.groups()
		if len(rows) != len(groups) {
			return fmt.Errorf("%d groups in the store, %d in the cluster", len(rows), len(groups))
		}
		for _, g := range rows {
			if !groups[g.ID] || g.InstanceID != "" {
				return fmt.Errorf("the store has a group %+v", g)
			}
		}
		pods, err := i.cluster.Client().CoreV1().Pods(kubetest.Namespace).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		services, err := i.cluster.Client().CoreV1().Services(kubetest.Namespace).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		// All recipes here have one member; of Services each has this generation's and the next one's.
		if len(pods.Items) != len(groups) || len(services.Items) != 2*len(groups) {
			return fmt.Errorf("%d groups have %d pods and %d Services", len(groups), len(pods.Items), len(services.Items))
		}
		return nil
	})
	a := i.call("GET", "/admin/v1/instances", nil)
	if n := len(list(a.body["instances"])); n != 0 {
		i.t.Errorf("%d instances are left: %s", n, tail(a.raw, 2000))
	}
}

// 200 provisions at once at two brokers, of a pool of at most 12 groups: every one is served in the
// end, no group by two at a time, and each tenant finds an empty server.
func TestClusterParallel(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	p := i.plan("redis", "small")
	brokers := i.brokers()
	if len(brokers) != 2 {
		t.Fatalf("%d brokers are ready, want 2", len(brokers))
	}
	var mu sync.Mutex
	owner := map[string]string{} // group's address → instance
	var wg sync.WaitGroup
	began := time.Now()
	for n := range 200 {
		h := i.at(brokers[n%2])
		wg.Go(func() {
			id := fmt.Sprintf("parallel-%d", n)
			a := h.provision(id, p)
			for strings.Contains(a.raw, "are in use") && time.Since(began) < 5*time.Minute { // all groups that there may be
				time.Sleep(100 * time.Millisecond)
				a = h.provision(id, p)
			}
			for a.status == 202 || a.status == 503 {
				time.Sleep(200 * time.Millisecond)
				last := h.call("GET", instancePath(id)+"/last_operation"+p.query(), nil)
				if last.body["state"] == "succeeded" {
					break
				}
				if last.body["state"] == "failed" || time.Since(began) > 5*time.Minute {
					t.Errorf("%s: %d %s", id, last.status, last.raw)
					return
				}
			}
			c, res := h.bind(id, id+"-b", p)
			if res.status != 201 {
				t.Errorf("bind %s: %d %s", id, res.status, res.raw)
				return
			}
			where := address(c)
			mu.Lock()
			if other := owner[where]; other != "" {
				t.Errorf("%s and %s have the same group at %s", id, other, where)
			}
			owner[where] = id
			mu.Unlock()
			if err := use("redis", c, id); err != nil {
				t.Errorf("use %s: %v", id, err)
			}
			mu.Lock()
			delete(owner, where)
			mu.Unlock()
			if a := h.call("DELETE", instancePath(id)+p.query()+"&accepts_incomplete=true", nil); a.status != 200 {
				t.Errorf("deprovision %s: %d %s", id, a.status, a.raw)
			}
		})
	}
	wg.Wait()
	t.Logf("200 lives of instances took %s", time.Since(began).Round(time.Millisecond))
	i.empty()
}
