package controller

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/remuda/remuda/catalog"
)

// A former tenant's address leads to no port at which the next one is let in.
func TestServicesOfTwoGenerations(t *testing.T) {
	all, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		w := workOn(t, r)
		now, next := w.newService(3).Spec.Ports, w.newService(4).Spec.Ports
		if len(r.Endpoints) > 0 && len(now) == 0 || len(now) != len(next) {
			t.Errorf("%s: %d and %d ports", r.Name, len(now), len(next))
		}
		for i, p := range now {
			if p.Port != next[i].Port {
				t.Errorf("%s: published at %d, and then at %d", r.Name, p.Port, next[i].Port)
			}
			if slices.ContainsFunc(next, func(n corev1.ServicePort) bool { return n.TargetPort == p.TargetPort }) {
				t.Errorf("%s: both lead to %v", r.Name, p.TargetPort)
			}
		}
	}
}
