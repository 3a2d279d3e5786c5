//go:build kube

package controller_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes/controller"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

// What reaches what, on a node that keeps to NetworkPolicies.
func TestPolicies(t *testing.T) {
	w := newWorld(t, controller.Options{})
	w.create("mine")
	other := w.create("other")
	if err := w.Publish(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	const open = "redis-server --port 7000 --bind 0.0.0.0 --protected-mode no"
	stranger := w.run("default", "stranger", "", open)
	broker := w.run(kubetest.System, "broker", "app.kubernetes.io/name=remuda", open)
	in := func(group string) origin { return origin{kubetest.Namespace, w.group(group).Status.Members[0].Pod} }
	agentOf := net.JoinHostPort(w.group("other").Status.Members[0].Address, fmt.Sprint(agent.Port))
	published := net.JoinHostPort(other.Endpoints[0].Host, fmt.Sprint(other.Endpoints[0].Port))
	for _, check := range []struct {
		what    string
		from    origin
		to      string
		reaches bool
	}{
		{"a pod, what a tenant has been lent", origin{"default", "stranger"}, published, true},
		{"another group, what a tenant has been lent", in("mine"), published, false}, // nothing leads out of a group
		{"a broker, an agent", origin{kubetest.System, "broker"}, agentOf, true},
		{"a pod, an agent", origin{"default", "stranger"}, agentOf, false},
		{"another group, an agent", in("mine"), agentOf, false},
		{"a broker, a pod", origin{kubetest.System, "broker"}, stranger + ":7000", true}, // so that the next one proves something
		{"a group, a pod", in("mine"), stranger + ":7000", false},
		{"a group, a broker", in("mine"), broker + ":7000", false},
	} {
		if err := w.reach(check.from, check.to); (err == nil) != check.reaches {
			t.Errorf("%s: want it to be reached %v, got %v", check.what, check.reaches, err)
		}
	}
	// The next generation's doors are elsewhere.
	if err := w.Cutoff(t.Context(), other.ID, other.Generation+1); err != nil {
		t.Fatal(err)
	}
	other.Generation++
	o, err := w.Reset(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	other.Endpoints = o.Endpoints
	if err := w.Publish(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	published = net.JoinHostPort(other.Endpoints[0].Host, fmt.Sprint(other.Endpoints[0].Port))
	if err := w.reach(origin{"default", "stranger"}, published); err != nil {
		t.Errorf("what was lent in the second generation: %v", err)
	}
}

// origin is a pod that dials.
type origin struct{ namespace, pod string }

// reach dials from a pod.
func (w *world) reach(f origin, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	said, err := w.c.Kubectl("-n", f.namespace, "exec", f.pod, "--", "/usr/bin/timeout", "3", "/bin/bash", "-c", "exec 3<>/dev/tcp/"+host+"/"+port+" && echo reached")
	if err == nil && !strings.Contains(said, "reached") {
		err = fmt.Errorf("it says %q", said)
	}
	return err
}

// run runs a pod of the members' image until the test ends, and returns its address.
func (w *world) run(namespace, name, labels, command string) string {
	w.t.Helper()
	overrides := `{"spec": {"terminationGracePeriodSeconds": 0, "dnsPolicy": "Default",
		"securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
		"containers": [{"name": "` + name + `", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}`
	args := []string{"-n", namespace, "run", name, "--image=" + kubetest.Image, "--image-pull-policy=Never", "--restart=Never",
		"--override-type=strategic", "--overrides=" + overrides}
	if labels != "" {
		args = append(args, "--labels="+labels)
	}
	if _, err := w.c.Kubectl(append(append(args, "--command", "--"), strings.Fields(command)...)...); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if _, err := w.c.Kubectl("-n", namespace, "delete", "pod", name, "--force"); err != nil {
			w.t.Error(err)
		}
	})
	address := ""
	w.eventually(name+" answers", 30*time.Second, func() (bool, string) {
		var err error
		address, err = w.c.Kubectl("-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.podIP}")
		if err != nil || address == "" {
			return false, fmt.Sprint(address, err)
		}
		conn, err := net.DialTimeout("tcp", address+":7000", time.Second)
		if err != nil {
			return false, err.Error()
		}
		return true, fmt.Sprint(conn.Close())
	})
	return address
}
