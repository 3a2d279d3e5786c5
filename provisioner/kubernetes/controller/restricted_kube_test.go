//go:build kube

package controller_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/kubernetes/controller"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

// restrictedNamespace of groups enforces Pod Security restricted.
const restrictedNamespace = "remuda-groups-restricted"

// TestRestricted is the suite for pods of one user without rights.
func TestRestricted(t *testing.T) {
	t.Run("Canaries", func(t *testing.T) { backendtest.RunCanaries(t, restrictedTarget) })
	t.Run("Members", func(t *testing.T) { backendtest.RunMembers(t, restrictedTarget) })
	t.Run("Pod", testRestrictedPod)
	t.Run("Refuses", testRestrictedRefuses)
}

func restrictedTarget(t *testing.T) backendtest.Target {
	c := kubetest.Cluster(t)
	b := newBackend(t, c, controller.Options{Namespace: restrictedNamespace, StorageClass: cluster.DiskClass, PodSecurity: kubernetes.Restricted})
	return backendtest.Target{
		Backend: b, Image: kubetest.Image, Cannot: kubernetes.Restricted.Cannot,
		Kill: func(t testing.TB, m provisioner.MemberObservation) { killPod(t, c, restrictedNamespace, m.ID) },
		Lacks: map[string]string{
			backendtest.Walls:       "a pod reaches the ports of its own node, and has a default route; TestPolicies tries what NetworkPolicies can do",
			backendtest.NoExec:      "volumes of pods cannot be mounted noexec",
			backendtest.OtherUser:   "servers have the agent's user, who may write to /etc/hosts and the roots of the volumes; a reset makes them as they were",
			backendtest.DiskShrinks: "volumes of Kubernetes only grow",
		},
	}
}

func restrictedPod(t *testing.T, c *cluster.Cluster, name string) *corev1.Pod {
	t.Helper()
	pod, err := c.Client().CoreV1().Pods(restrictedNamespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// A new pod finds the data as its servers left them, with their modes.
func testRestrictedPod(t *testing.T) {
	c := kubetest.Cluster(t)
	b := newBackend(t, c, controller.Options{Namespace: restrictedNamespace, StorageClass: cluster.DiskClass, PodSecurity: kubernetes.Restricted})
	g := provisioner.Group{ID: "datakept", Generation: 1, Definition: definition(t, "postgresql")}
	if _, err := b.Create(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	values := map[string]any{"username": "u000000000000001", "password": "Secret0123456789012345678901234567", "parameters": map[string]any{}}
	if _, err := b.Program(t.Context(), g, "bind", values); err != nil {
		t.Fatal(err)
	}
	name := kubernetes.PodName(g.ID, "server-0")
	before := restrictedPod(t, c, name)
	if err := c.Client().CoreV1().Pods(restrictedNamespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		list, err := b.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(o provisioner.Observation) bool { return o.ID == g.ID })
		pod, err := c.Client().CoreV1().Pods(restrictedNamespace).Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && pod.UID != before.UID && i >= 0 && list[i].Members[0].Healthy {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after a minute: %+v", list)
		}
	}
	// The login is there, and so is all else.
	if out, err := b.Program(t.Context(), g, "unbind", values); err != nil {
		t.Errorf("unbind: %s %v", out, err)
	}
}

// What cannot live with one user is refused with a sentence.
func testRestrictedRefuses(t *testing.T) {
	w := newWorld(t, controller.Options{Namespace: restrictedNamespace, StorageClass: "none", PodSecurity: kubernetes.Restricted})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := w.Create(ctx, provisioner.Group{ID: "noftp", Generation: 1, Definition: definition(t, "ftp")})
	if err == nil || !strings.Contains(err.Error(), "needs SYS_CHROOT, which Pod Security restricted does not allow") {
		t.Errorf("create: %v", err)
	}
	var cg v1alpha1.ContainerGroup
	if err := w.client.Get(ctx, client.ObjectKey{Namespace: restrictedNamespace, Name: "noftp"}, &cg); err != nil {
		t.Fatal(err)
	}
	if len(cg.Status.Conditions) == 0 || cg.Status.Conditions[0].Reason != v1alpha1.ReasonRecipe || cg.Status.Conditions[0].Status != metav1.ConditionFalse {
		t.Errorf("status %+v", cg.Status)
	}
}

func definition(t *testing.T, name string) provisioner.Definition {
	t.Helper()
	all, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(r catalog.Recipe) bool { return r.Name == name })
	return provisioner.NewDefinition(all[i], all[i].Offering.Plans[0], kubetest.Image)
}
