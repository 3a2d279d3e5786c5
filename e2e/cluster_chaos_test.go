//go:build kube

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

// While instances come and go, brokers, controllers and members are killed at random, the API server
// and PostgreSQL go away for a moment. No call answers 500, no tenant meets another, and in the end
// there is nothing too much and nothing too few.
func TestClusterRandomKills(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	p := i.plan("redis", "small")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var mu sync.Mutex
	lives := 0
	for n := range 6 {
		wg.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				i.chaoticLife(fmt.Sprintf("chaos-%d-%d", n, round), p)
				mu.Lock()
				lives++
				mu.Unlock()
			}
		})
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	// Whatever watches the API server, kube-proxy and the kubelet too, waits longer after each outage, up
	// to a minute (client-go), and forgets that only after two quiet ones: the tests that follow would wait.
	outages := 2
	for range 14 {
		time.Sleep(time.Duration(1+random.IntN(3)) * time.Second)
		switch random.IntN(8) {
		case 0, 1:
			i.killOne(random, "remuda", "app.kubernetes.io/component=broker")
		case 2:
			i.killOne(random, "remuda", "app.kubernetes.io/component=controller")
		case 3, 4, 5:
			i.killOne(random, kubetest.Namespace, "remuda.dev/group")
		case 6:
			i.way.CutAll()
		case 7:
			if outages == 0 {
				i.killOne(random, kubetest.Namespace, "remuda.dev/group")
				continue
			}
			outages--
			if err := i.cluster.Restart(t.Context(), "kube-apiserver"); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d lives", lives)
	eventually(t, 2*time.Minute, func() error {
		if n := len(i.brokers()); n != 2 {
			return fmt.Errorf("%d brokers are ready", n)
		}
		return nil
	})
	i.empty()
}

// killOne deletes one of the pods by force.
func (i *installation) killOne(random *rand.Rand, namespace, selector string) {
	list, err := i.cluster.Client().CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
	if err != nil || len(list.Items) == 0 {
		return // the API server is away, or there is none
	}
	zero := int64(0)
	name := list.Items[random.IntN(len(list.Items))].Name
	i.t.Logf("killing %s", name)
	_ = i.cluster.Client().CoreV1().Pods(namespace).Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &zero})
}

// chaoticLife is the life of an instance whose platform tries again what fails for now.
func (i *installation) chaoticLife(id string, p plan) {
	passing := func(a answer) bool { return a.status == 0 || a.status == 503 || a.status == 422 || a.status == 404 }
	served := false
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end) && !served; time.Sleep(200 * time.Millisecond) {
		a := i.provision(id, p)
		switch {
		case a.status == 200 || a.status == 201:
			served = true
		case a.status == 500:
			i.t.Errorf("provision %s: %d %s", id, a.status, a.raw)
		}
	}
	if served {
		for range 50 {
			c, a := i.bind(id, id+"-b", p)
			if a.status == 201 || a.status == 200 {
				_ = use("redis", c, id) // its member may just have been killed
				break
			}
			if !passing(a) && a.status != 409 && a.status != 202 {
				i.t.Errorf("bind %s: %d %s", id, a.status, a.raw)
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		a := i.call("DELETE", instancePath(id)+p.query()+"&accepts_incomplete=true", nil)
		if a.status == 200 || a.status == 410 {
			return
		}
		if a.status == 500 {
			i.t.Errorf("deprovision %s: %d %s", id, a.status, a.raw)
		}
	}
	i.t.Errorf("%s is not gone", id)
}
