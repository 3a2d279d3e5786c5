//go:build kube

package controller_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/controller"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

// restrictedNamespace of groups enforces Pod Security restricted.
const restrictedNamespace = "remuda-groups-restricted"

// TestRestricted is the suite for pods of one user without rights.
func TestRestricted(t *testing.T) {
	t.Run("Canaries", func(t *testing.T) { backendtest.RunCanaries(t, restrictedTarget) })
	t.Run("Members", func(t *testing.T) { backendtest.RunMembers(t, restrictedTarget) })
}

func restrictedTarget(t *testing.T) backendtest.Target {
	c := kubetest.Cluster(t)
	b := newBackend(t, c, controller.Options{Namespace: restrictedNamespace, StorageClass: cluster.DiskClass, PodSecurity: kubernetes.Restricted})
	return backendtest.Target{
		Backend: b, Image: kubetest.Image, Cannot: kubernetes.Restricted.Cannot,
		Kill: func(t testing.TB, m provisioner.MemberObservation) { killPod(t, c, restrictedNamespace, m.ID) },
		Lacks: map[string]string{
			backendtest.Walls:       "the cluster's network plugin (bridge) does not enforce NetworkPolicies",
			backendtest.NoExec:      "volumes of pods cannot be mounted noexec",
			backendtest.OtherUser:   "servers have the agent's user, who may write to /etc/hosts and the roots of the volumes; a reset makes them as they were",
			backendtest.OwnRoot:     "Pod Security restricted does not allow DAC_READ_SEARCH, and pods have no root file system of their own",
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
